"""The data of the study genegan: procedural faces, CelebA from a folder, batches of both, the check of a config."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from roundhouse.training import StudyError, feeds
from studies.genegan import faces
from studies.genegan.images import Batch, DeviceFeed, Feed, Images, WorkerFeed, load, make_feed
from studies.genegan.options import Options

CPU = torch.device("cpu")
NONE = torch.zeros(24, dtype=torch.bool)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# Procedural faces


@pytest.mark.parametrize("size", [32, 48])
def test_a_face_follows_from_its_split_and_its_number_alone(size: int) -> None:
    many = faces.draw("train", 24, size, NONE)
    assert torch.equal(faces.draw("train", 5, size, NONE[:5]), many[:5])
    assert not torch.equal(faces.draw("test", 5, size, NONE[:5]), many[:5])
    assert many.dtype == torch.uint8 and many.shape == (24, 3, size, size)
    assert len(many.flatten(1).unique(dim=0)) == 24


def test_only_the_mouth_differs_between_a_smiling_face_and_the_same_face() -> None:
    found = faces.pairs("test", 24, 32)
    apart = (found.with_attribute.int() - found.without_attribute.int()).abs().amax(1)
    for down, right in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)):
        assert apart.roll((down, right), (1, 2))[~found.differs].max() <= 8, "the region is wider by a pixel"
    assert (apart > 40).any(2).any(1).all(), "each smile can be seen"
    share = found.differs.float().mean((1, 2))
    assert share.min() > 0.01 and share.max() < 0.12
    assert not found.differs[:, :16].any(), "the mouth is in the lower half"
    assert torch.equal(found.with_attribute[3], faces.draw("test", 24, 32, torch.arange(24) == 3)[3])


def test_a_smile_has_its_corners_up_and_there_are_many_curves_in_each_class() -> None:
    """The reddest rows of a mouth's corners are above that of its middle, in one class only."""
    for smiling in (True, False):
        drawn = faces.draw("train", 24, 128, torch.full((24,), smiling)).float() / 255
        upright = faces.factors("train", 24)["tilt"].abs() < 0.05
        rises = []
        for index in upright.nonzero().flatten().tolist():
            factors = {name: value[index] for name, value in faces.factors("train", 24).items()}
            centre = 64 * (1 + factors["right"])
            reach = 0.8 * 64 * factors["head"] * factors["mouth"]
            lower = drawn[index, 0] - drawn[index, 1]
            top = int(64 * (1 + factors["down"] + factors["head"] * 0.3))
            chin = int(64 * (1 + factors["down"] + factors["head"] * 0.95))
            rows = [lower[top:chin, int(centre + side * reach)].argmax() for side in (-1, 0, 1)]
            rises.append(float(rows[1] - (rows[0] + rows[2]) / 2))
        assert len(set(rises)) > 2
        assert (min(rises) > 1.5) if smiling else (max(rises) < 1.5), rises


def test_a_larger_face_is_the_same_face_with_more_detail() -> None:
    small, large = (faces.draw("train", 8, size, NONE[:8]).float() for size in (32, 128))
    assert (F.avg_pool2d(large, 4) - small).abs().mean() < 2.0, "anti-aliased: a pixel is the mean of its area"
    up = F.interpolate(small, size=128, mode="bilinear")
    assert (large - up).abs().mean() > 3 * (F.avg_pool2d(large, 4) - small).abs().mean()


# Batches

SMALL: dict[str, Any] = {"sizes": (32, 48), "images": 24, "batch_size": 4, "workers": 2, "evaluation_images": 5}


def plan(step: int) -> Sequence[tuple[int, ...]]:
    """Some steps have more batches than others, and not all of them need all sizes."""
    return [(32, 48), (48,), (32,)] if step % 3 == 1 else [(32, 48)]


def feed_of(kind: str, seed: int = 0, **config: Any) -> Feed:
    options = Options(**{**SMALL, "feed": kind, **config})
    return make_feed(options, load(options, None, "train", CPU), plan, seed)


def same(one: Batch, other: Batch) -> bool:
    halves = ((one.with_attribute, other.with_attribute), (one.without_attribute, other.without_attribute))
    return all(
        found.keys() == twin.keys() and all(torch.equal(found[size], twin[size]) for size in found)
        for found, twin in halves
    )


def test_the_sets_with_and_without_the_attribute_have_different_faces() -> None:
    images = load(Options(**SMALL), None, "train", CPU)
    assert (images.count(True), images.count(False)) == (12, 12)
    everything = {
        value: images.batch(torch.arange(12), value, 32, torch.zeros(12, dtype=torch.bool)) for value in (True, False)
    }
    for index in range(12):
        smiling = torch.arange(24) == 2 * index
        assert torch.equal(everything[True][index] * 255, faces.draw("train", 24, 32, smiling)[2 * index].float())
        assert torch.equal(everything[False][index] * 255, faces.draw("train", 24, 32, NONE)[2 * index + 1].float())
    assert load(Options(**SMALL), None, "test", CPU).count(True) == 5


def test_a_batch_has_values_in_the_unit_range_the_same_images_at_all_sizes_and_some_mirrored() -> None:
    images = load(Options(**SMALL), None, "train", CPU)
    batches = list(islice(DeviceFeed(_drawn(images), plan).batches(0), 20))
    mirrored = 0
    for batch in batches:
        for found, value in ((batch.with_attribute, True), (batch.without_attribute, False)):
            for size, values in found.items():
                assert values.dtype == torch.float32 and values.shape == (4, 3, size, size)
                known = images.batch(torch.arange(12), value, size)
                straight, turned = ((values[:, None] == one[None]).flatten(2).all(2) for one in (known, known.flip(3)))
                assert (straight | turned).sum(1).eq(1).all(), "each is one of the set"
                mirrored += int(turned.sum())
            if len(found) == 2:
                assert (F.interpolate(found[48], size=32, mode="area") - found[32]).abs().mean() < 0.05
    assert 60 < mirrored < 170, "of 240"


def _drawn(images: Images) -> Any:
    feed = make_feed(Options(**{**SMALL, "feed": "device"}), images, plan, 0)
    assert isinstance(feed, DeviceFeed)
    return feed._drawn


@settings(max_examples=6, deadline=None)
@given(first=st.integers(0, 5), workers=st.integers(1, 3), seed=st.integers(0, 2**62))
def test_workers_make_the_same_batches_as_the_device_from_any_step_on(first: int, workers: int, seed: int) -> None:
    before = [batch for _, batch in zip(range(12), feed_of("device", seed).batches(0), strict=False)]
    skipped = sum(len(plan(step)) for step in range(first))
    expected = before[skipped:]
    feed = feed_of("workers", seed, workers=workers)
    assert isinstance(feed, WorkerFeed)
    try:
        assert all(same(*both) for both in zip(expected, feed.batches(first), strict=False))
    finally:
        feed.close()


def test_another_seed_gives_other_batches_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    one, other = (next(iter(feed_of("device", seed).batches(0))) for seed in (0, 1))
    assert not same(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_all_batches_of_a_step_and_of_its_neighbours_are_different() -> None:
    images = load(Options(**SMALL), None, "train", CPU)
    found = [
        batch.with_attribute[32] for batch in islice(make_feed(Options(**SMALL), images, plan, 0).batches(0), 6)
        if 32 in batch.with_attribute
    ]  # fmt: skip
    assert len(found) == 5
    assert not any(torch.equal(one, other) for index, one in enumerate(found) for other in found[:index])


@pytest.fixture
def by_workers() -> Iterator[tuple[Iterator[Batch], Feed, set[psutil.Process]]]:
    before = set(psutil.Process().children())
    feed = feed_of("workers")
    batches = feed.batches(0)
    next(batches)
    yield batches, feed, set(psutil.Process().children()) - before
    feed.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_the_signals_of_a_scheduler_do_not_end_the_workers(by_workers: Any, number: signal.Signals) -> None:
    batches, _, processes = by_workers
    for one in processes:
        one.send_signal(number)
    expected = list(islice(feed_of("device").batches(0), 1, 12))
    assert len(processes) == 2
    assert all(same(*both) for both in zip(expected, batches, strict=False))


def test_samples_need_no_workers_and_closing_the_feed_ends_them(by_workers: Any) -> None:
    _, feed, processes = by_workers
    feed.close()
    feed.close()
    assert not any(one.is_running() for one in processes)
    feed._drawn.images.batch(torch.arange(3), True, 48)
    feed._drawn.images.batch(torch.arange(3), True, 64)


def test_a_worker_that_dies_is_one_error(by_workers: Any) -> None:
    batches, _, processes = by_workers
    for one in processes:
        one.kill()
    with pytest.raises(StudyError, match="a worker process that prepares batches died"):
        list(islice(batches, 60))


def test_auto_holds_the_images_on_the_device_only_if_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 24 * 3 * (32**2 + 48**2)
    for free, kind in ((4 * needed + 1, DeviceFeed), (4 * needed, WorkerFeed)):
        monkeypatch.setattr(feeds, "free_memory", lambda device, free=free: free)
        assert type(feed_of("auto")) is kind


def test_networks_with_several_outputs_take_the_largest_images_only() -> None:
    assert Options(outputs="multiscale").input_sizes == (128,)
    assert Options().input_sizes == (64, 96, 128)
