"""The batches of an epoch: shifted and flipped as drawn, the same bits from each feed, and no process left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY, wait_for
from small_study import single_epoch, train

from roundhouse.training import Run, StudyError, feeds
from roundhouse.training.feeds import DeviceFeed, EpochFeed, WorkerFeed, make_feed
from studies.distillation.augmentation import TrainingImages
from studies.distillation.data import Dataset, Split

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def images_of(count: int, shape: tuple[int, int, int] = (3, 6, 5)) -> Split:
    """Training images whose labels are their places."""
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Split(images, torch.arange(count))


def letters(
    count: int = 30, shape: tuple[int, int, int] = (3, 6, 5), shift: int = 2, flip: bool = True
) -> TrainingImages:
    """The training images of a data set with these properties."""
    whole = images_of(count, shape)
    return TrainingImages.of(Dataset("letters", whole, whole, whole, classes=count, shift=shift, flip=flip))


@contextmanager
def worker_feed(source: TrainingImages, batch_size: int, workers: int = 2) -> Iterator[WorkerFeed]:
    made = WorkerFeed(source, batch_size, CPU, workers)
    try:
        yield made
    finally:
        made.close()


Batches = list[tuple[torch.Tensor, ...]]


def batches(feed: EpochFeed, epoch: int = 0, seed: int = 0, first: int = 0) -> Batches:
    return list(feed.batches(single_epoch(epoch, seed), first))


def same(some: Batches, others: Batches) -> bool:
    return len(some) == len(others) and all(
        torch.equal(one, other)
        for pair, twin in zip(some, others, strict=True)
        for one, other in zip(pair, twin, strict=True)
    )


def slow_augment(image: torch.Tensor, down: int, right: int, flip: int, shift: int) -> torch.Tensor:
    """One image, pixel by pixel: where in the image, moved and then mirrored, does each come from?"""
    channels, height, width = image.shape
    found = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            seen = width - 1 - column if flip else column
            y, x = row + down - shift, seen + right - shift
            if 0 <= y < height and 0 <= x < width:
                for channel in range(channels):
                    found[channel, row, column] = image[channel, y, x]
    return found


# Augmentation

shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=60, deadline=None)
@given(shape=shapes, shift=st.integers(0, 4), flip=st.booleans(), seed=st.integers(0, 2**32))
def test_images_are_shifted_and_flipped_as_a_plain_loop_does_it(
    shape: tuple[int, int, int], shift: int, flip: bool, seed: int
) -> None:
    source, originals = letters(5, shape, shift, flip), images_of(5, shape).images
    draws = source.draw(single_epoch(seed=seed))
    images, labels = source.batch(draws)
    assert images.dtype == torch.uint8
    assert labels.tolist() == draws[0].tolist()
    for image, (which, down, right, mirrored) in zip(images, draws.T.tolist(), strict=True):
        assert torch.equal(image, slow_augment(originals[which], down, right, mirrored, shift))


def test_without_shift_and_flip_images_stay_as_they_are() -> None:
    source = letters(shift=0, flip=False)
    images, labels = source.batch(source.draw(single_epoch()))
    assert torch.equal(images, images_of(30).images[labels])


def test_every_shift_and_both_flips_come_about() -> None:
    draws = letters(2000, (1, 1, 1)).draw(single_epoch())
    for drawn in draws[1:3]:
        assert drawn.unique().tolist() == [0, 1, 2, 3, 4]
        assert drawn.bincount().min() > 300
    assert draws[3].unique().tolist() == [0, 1]
    assert 900 < draws[3].sum() < 1100
    assert letters(2000, (1, 1, 1), flip=False).draw(single_epoch())[3].sum() == 0


# Both feeds


@pytest.mark.parametrize("kind", ["device", "workers"])
def test_each_training_image_comes_once_and_only_the_rest_is_left_out(kind: str) -> None:
    feed = make_feed(kind, letters(30), 7, 2, CPU)
    found = batches(feed)
    feed.close()
    assert feed.steps == len(found) == 4
    assert all(images.shape == (7, 3, 6, 5) and labels.shape == (7,) for images, labels in found)
    seen = torch.cat([labels for _, labels in found]).tolist()
    assert len(set(seen)) == 28
    assert set(seen) | set(letters(30).draw(single_epoch())[0, 28:].tolist()) == set(range(30))


@settings(max_examples=8, deadline=None)
@given(
    shape=shapes,
    count=st.integers(1, 40),
    size=st.integers(1, 40),
    shift=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 4),
    workers=st.integers(1, 3),
)
def test_both_feeds_give_the_same_batches_to_the_last_bit(
    shape: tuple[int, int, int],
    count: int,
    size: int,
    shift: int,
    flip: bool,
    seed: int,
    epoch: int,
    workers: int,
) -> None:
    source, size = letters(count, shape, shift, flip), min(size, count)
    with worker_feed(source, size, workers) as by_workers:
        assert same(batches(by_workers, epoch, seed), batches(DeviceFeed(source, size, CPU), epoch, seed))


@pytest.mark.parametrize("kind", ["device", "workers"])
def test_an_epoch_that_begins_in_its_middle_has_the_batches_that_are_left(kind: str) -> None:
    feed = make_feed(kind, letters(), 4, 2, CPU)
    whole = batches(feed)
    for first in range(len(whole) + 1):
        assert same(batches(feed, first=first), whole[first:])
    feed.close()


@pytest.mark.parametrize("kind", ["device", "workers"])
def test_an_epoch_that_begins_in_its_middle_loads_nothing_of_what_comes_before(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TrainingImages.batch

    def batch(self: TrainingImages, draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with (tmp_path / "loaded").open("a") as file:  # workers are other processes
            print(*draws[0].tolist(), sep="\n", file=file)
        return real(self, draws)

    monkeypatch.setattr(TrainingImages, "batch", batch)
    monkeypatch.setattr(feeds, "_CHUNK", 1)
    feed = make_feed(kind, letters(28), 4, 2, CPU)
    assert len(batches(feed, first=5)) == 2
    feed.close()
    loaded = [int(line) for line in (tmp_path / "loaded").read_text().split()]
    assert sorted(loaded) == sorted(letters(28).draw(single_epoch())[0, 20:].tolist())


def test_the_number_of_images_augmented_together_does_not_change_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = batches(DeviceFeed(letters(), 4, CPU))
    for size in (1, 4 * 90, 9 * 90):  # less than a batch, one batch, two
        monkeypatch.setattr(feeds, "_CHUNK", size)
        assert same(batches(DeviceFeed(letters(), 4, CPU)), whole)


def test_epochs_seeds_and_stages_differ_and_each_can_be_repeated() -> None:
    feed = DeviceFeed(letters(), 10, CPU)
    first = batches(feed)
    assert same(batches(feed), first)
    assert not same(batches(feed, epoch=1), first)
    assert not same(batches(feed, seed=1), first)
    assert not same(list(feed.batches(single_epoch(stage="hint"), 0)), first)


def test_order_and_augmentation_each_come_from_their_own_stream_of_the_epoch() -> None:
    here, there = single_epoch(), single_epoch(1)
    assert not torch.equal(letters().draw(here)[0], letters().draw(there)[0])
    assert not torch.equal(letters().draw(here)[1], letters().draw(there)[1])
    assert torch.equal(letters().draw(here)[0], letters(shift=0, flip=False).draw(here)[0])


def test_workers_keep_no_state_between_epochs() -> None:
    """A run that is resumed in epoch 2 gets the same batches as one that was never stopped."""
    with worker_feed(letters(), 4) as resumed, worker_feed(letters(), 4) as straight:
        for epoch in range(2):
            batches(straight, epoch)
        assert same(batches(resumed, 2), batches(straight, 2))


def test_feeds_do_not_use_the_global_generator() -> None:
    before = torch.get_rng_state()
    with worker_feed(letters(), 4) as source:
        batches(source)
        batches(source, 1)
    batches(DeviceFeed(letters(), 4, CPU))
    assert torch.equal(torch.get_rng_state(), before)


def test_images_of_the_data_set_are_not_changed() -> None:
    split = images_of(30)
    for images, labels in DeviceFeed(TrainingImages(split, 0, False), 4, CPU).batches(single_epoch(), 0):
        images.zero_()
        labels.zero_()
    assert torch.equal(split.images, images_of(30).images)
    assert torch.equal(split.labels, images_of(30).labels)


# Which feed


def test_auto_takes_the_device_only_if_twice_the_images_fit_into_half_of_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = letters()
    for free, kind in ((4 * source.nbytes + 1, DeviceFeed), (4 * source.nbytes, WorkerFeed)):
        monkeypatch.setattr(feeds, "free_memory", lambda device, free=free: free)
        feed = make_feed("auto", source, 4, 2, CPU)
        assert type(feed) is kind
        feed.close()


def test_the_error_for_an_unknown_feed_suggests_a_similar_name() -> None:
    with pytest.raises(StudyError, match="unknown feed 'worker': did you mean 'workers'"):
        make_feed("worker", letters(), 4, 2, CPU)


@pytest.mark.parametrize("kind", ["device", "workers"])
def test_a_batch_larger_than_the_data_set_is_an_error(kind: str) -> None:
    with pytest.raises(StudyError, match="'batch_size' is 31; there are 30 training samples"):
        make_feed(kind, letters(30), 31, 2, CPU)


# Processes


def processes() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_workers_live_for_all_epochs_and_end_when_the_feed_is_closed() -> None:
    before = set(processes())
    with worker_feed(letters(), 4) as source:
        batches(source)
        workers = set(processes()) - before
        assert len(workers) == 2
        batches(source, 1)
        assert set(processes()) - before == workers
    assert not any(one.is_running() for one in workers)
    source.close()  # again does no harm


def test_an_epoch_that_is_stopped_does_not_change_later_ones(tmp_path: Path) -> None:
    source = letters(40)
    expected = batches(DeviceFeed(source, 4, CPU), epoch=1)
    seen: list[tuple[torch.Tensor, ...]] = []
    with worker_feed(source, 4) as feed:

        def study(run: Run) -> None:
            for epoch in run.epochs(1):
                for _, batch in epoch.batches(feed):
                    seen.append(batch)

        assert train(tmp_path, study, stop_at=2).position == "epoch 0/1, batch 2"
        assert same(batches(feed, 1), expected)
        assert train(tmp_path, study).finished
    assert same(seen, batches(DeviceFeed(source, 4, CPU), seed=3))


def test_closing_during_an_epoch_ends_the_workers() -> None:
    before = set(processes())
    source = WorkerFeed(letters(), 4, CPU, 2)
    epoch = source.batches(single_epoch(), 0)
    next(epoch)
    workers = set(processes()) - before
    source.close()
    assert len(workers) == 2
    assert not any(one.is_running() for one in workers)


def test_a_feed_that_is_let_go_takes_its_workers_along() -> None:
    before = set(processes())
    source = WorkerFeed(letters(), 4, CPU, 1)
    batches(source)
    assert set(processes()) - before
    del source
    wait_for(lambda: not set(processes()) - before, "the worker ends")


def test_workers_leave_the_signals_of_a_scheduler_to_the_trainer() -> None:
    before = set(processes())
    with worker_feed(letters(), 4) as source:
        batches(source)
        for one in set(processes()) - before:
            one.terminate()
            one.send_signal(2)
        assert same(batches(source, 1), batches(DeviceFeed(letters(), 4, CPU), 1))


TRAINER = """
import sys, time, torch
from test_feed import CPU, StudyError, WorkerFeed, letters, single_epoch
source = WorkerFeed(letters(), 4, CPU, 2)
epoch = source.batches(single_epoch(), 0)
next(epoch)
print("training", flush=True)
held = [source._batches]
{then}
"""


def trainer(then: str) -> subprocess.Popen[str]:
    code = f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(REPOSITORY)!r}]\n" + TRAINER.format(
        then=then
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("then", "code"), [("sys.exit(3)", 3), ("raise ValueError('an error')", 1)])
def test_a_trainer_that_ends_without_closing_waits_for_no_worker(then: str, code: int) -> None:
    process = trainer(then)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors


def test_workers_end_when_the_trainer_is_killed() -> None:
    process = trainer("time.sleep(600)")
    assert process.stdout is not None and process.stdout.readline() == "training\n"
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert len(workers) == 2
    wait_for(lambda: not any(alive(one) for one in workers), "workers of a trainer that was killed end")


KILLS_ITS_WORKERS = """
import os, psutil
for one in psutil.Process().children():
    os.kill(one.pid, 9)
    os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
print("nothing is raised while they die", flush=True)
try:
    for batch in epoch:
        pass
except StudyError as error:
    print(error)
"""


def test_a_worker_that_is_killed_is_reported_where_the_next_batch_is_requested() -> None:
    reported, errors = trainer(KILLS_ITS_WORKERS).communicate(timeout=60)
    lines = reported.splitlines()
    assert lines[:2] == ["training", "nothing is raised while they die"], errors
    assert lines[2].startswith("a worker process that prepares batches died (")
    assert lines[2].endswith("or `feed: device`, which needs none")


LATE = """
import os
from roundhouse.training import workers
begin_work = workers._begin_work
def late(trainer, worker):
    while os.getppid() == trainer:
        time.sleep(0.01)
    begin_work(trainer, worker)
workers._begin_work = late
next(WorkerFeed(letters(), 4, CPU, 2).batches(single_epoch(), 0))
"""


def test_workers_that_were_just_starting_when_the_trainer_was_killed_end_too() -> None:
    process = trainer(LATE)
    started = psutil.Process(process.pid)
    wait_for(lambda: len(started.children()) == 4, "two feeds have two workers each")
    workers = started.children()
    process.kill()
    process.wait()
    try:
        wait_for(lambda: not any(alive(one) for one in workers), "workers of a trainer that was killed end")
    finally:
        for one in filter(alive, workers):
            one.kill()


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_the_same_batches_as_the_cpu() -> None:
    device = torch.device("cuda")
    expected = batches(DeviceFeed(letters(), 4, CPU))
    for kind in ("device", "workers"):
        source = make_feed(kind, letters(), 4, 2, device)
        found = batches(source)
        source.close()
        assert {one.device.type for pair in found for one in pair} == {"cuda"}
        assert same([(images.cpu(), labels.cpu()) for images, labels in found], expected)
