"""Odd but reasonable studies: each is exact after a resume, or gets one clear error."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from roundhouse.errors import RoundhouseError
from roundhouse.settings import Settings
from roundhouse.training import Epoch, Run, Step, read_weights
from roundhouse.training.execute import Attempt, Hooks, Outcome, execute

Study = Callable[[Run], None]


class Killed(BaseException):
    """Ends an attempt as SIGKILL does: nothing more is saved."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def attempt(
    study: Study,
    here: Path,
    earlier: list[Path] | None = None,
    stop: Callable[[], str | None] = lambda: None,
    **settings: Any,
) -> Outcome:
    here.mkdir(parents=True, exist_ok=True)
    hooks = Hooks(lambda session: None, lambda session: None, stop)
    return execute(study, Settings(device="cpu", **settings), Attempt(here, earlier or []), hooks)


def metrics_of(here: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((here / "metrics.json").read_text())
    return content


class Learner:
    """A tiny network with its optimiser. It is killed in the step number `dies_at`, counted from 1 over the attempt."""

    def __init__(self, run: Run, dies_at: int | None = None) -> None:
        self.net = nn.Linear(2, 1)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=0.1)
        self.steps = 0
        self._dies_at = dies_at
        run.track(net=self.net, optimiser=self.optimiser)

    def learn(self, step: Step, inputs: torch.Tensor | None = None) -> torch.Tensor:
        inputs = torch.randn(4, 2, generator=step.generator("inputs")) if inputs is None else inputs
        loss = (self.net(inputs) - 1).square().mean()
        step.optimise(loss, self.optimiser)
        self.steps += 1
        if self.steps == self._dies_at:
            raise Killed
        return loss.detach()


def assert_exact(study: Callable[[Run, int | None], None], root: Path, deaths: range, **settings: Any) -> None:
    """The study, killed in any of these steps and resumed, ends as one that was not."""
    whole = attempt(lambda run: study(run, None), root / "whole", **settings)
    expected = (whole.final_hash, whole.metrics, {name: whole.artifacts[name] for name in kept(whole)})
    for number in deaths:
        first, second = root / f"{number}a", root / f"{number}b"
        with pytest.raises(Killed):
            attempt(lambda run: study(run, number), first, **settings)  # noqa: B023
        ended = attempt(lambda run: study(run, None), second, [first], **settings)
        assert (ended.final_hash, ended.metrics, {name: ended.artifacts[name] for name in kept(ended)}) == expected


def kept(outcome: Outcome) -> list[str]:
    return [name for name in outcome.artifacts if name.startswith(("kept/", "best"))]


# ------------------------------------------------------------------------------------------- code between loops


def test_code_between_loops_may_change_weights(tmp_path: Path) -> None:
    def study(run: Run, dies_at: int | None) -> None:
        learner = Learner(run, dies_at)
        run.best("loss", mode="min", weights={"net": learner.net})
        for step in run.steps(3, name="first"):
            run.record(loss=learner.learn(step))
        run.load_best()
        with torch.no_grad():
            learner.net.weight.mul_(2)
        for step in run.steps(3, name="second", save_every=1):
            learner.learn(step)

    assert_exact(study, tmp_path, range(1, 7))


def test_a_value_computed_once_may_follow_and_precede_changes_of_weights(tmp_path: Path) -> None:
    def study(run: Run, dies_at: int | None) -> None:
        learner = Learner(run, dies_at)
        with torch.no_grad():
            learner.net.weight.mul_(2)
        scale = run.once("scale", lambda: learner.net.weight.abs().sum().item())
        for step in run.steps(2, name="first"):
            learner.learn(step)
        with torch.no_grad():
            learner.net.weight.mul_(2)
        mask = run.once("mask", lambda: torch.rand(1, 2) + learner.net.weight.detach() + scale)
        with torch.no_grad():
            learner.net.weight.mul_(mask)
        for step in run.steps(2, name="second", save_every=1):
            learner.learn(step)

    assert_exact(study, tmp_path, range(1, 5))


@pytest.mark.parametrize("kind", ["plateau", "cycle", "chain"])
def test_schedulers_of_pytorch_resume_exactly(kind: str, tmp_path: Path) -> None:
    schedulers = torch.optim.lr_scheduler

    def study(run: Run, dies_at: int | None) -> None:
        learner = Learner(run, dies_at)
        optimiser = learner.optimiser
        scheduler: Any = {
            "plateau": lambda: schedulers.ReduceLROnPlateau(optimiser, patience=0),
            "cycle": lambda: schedulers.OneCycleLR(optimiser, 0.5, total_steps=20),
            "chain": lambda: schedulers.SequentialLR(
                optimiser,
                [schedulers.LinearLR(optimiser, total_iters=2), schedulers.CosineAnnealingLR(optimiser, 4)],
                [2],
            ),
        }[kind]()
        run.track(scheduler=scheduler)
        for epoch in run.epochs(4):
            for step, _ in epoch.batches(range(2)):
                loss = learner.learn(step)
            scheduler.step(*([loss.item()] if kind == "plateau" else []))

    assert_exact(study, tmp_path, range(1, 9), save_minutes=0.0)


class Widening(nn.Module):
    """A layer that gains outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def rebuild(self, state: dict[str, torch.Tensor]) -> None:
        self.layer = nn.Linear(2, len(state["layer.weight"]))

    def widen(self) -> None:
        before = self.layer.weight.detach()
        self.layer = nn.Linear(2, len(before) + 1)
        with torch.no_grad():
            self.layer.weight[:-1] = before


@pytest.mark.parametrize("once", [True, False])
def test_a_network_grows_between_loops_in_once(once: bool, tmp_path: Path) -> None:
    def study(run: Run, dies_at: int | None) -> None:
        net, steps = Widening(), 0
        run.track(net=net)
        for size in (1, 2, 3):
            if size > 1:
                run.once(f"widen_{size}", net.widen) if once else net.widen()
            optimiser = torch.optim.Adam(net.parameters(), lr=0.1)
            run.track(**{f"optimiser_{size}": optimiser})
            for step in run.steps(2, name=f"size_{size}", save_every=1):
                step.optimise(net.layer(torch.randn(4, 2, generator=step.generator("x"))).square().mean(), optimiser)
                steps += 1
                if steps == dies_at:
                    raise Killed
            run.release(f"optimiser_{size}")

    if once:
        assert_exact(study, tmp_path, range(1, 7))
    else:
        with pytest.raises(RoundhouseError, match="the shapes of the tracked part 'net' have changed outside a loop"):
            attempt(lambda run: study(run, None), tmp_path)


def test_an_evaluation_after_the_last_loop_that_is_stopped_sees_the_last_weights_again(tmp_path: Path) -> None:
    evaluations = 0

    def study(run: Run) -> None:
        nonlocal evaluations
        learner = Learner(run)
        run.best("loss", mode="max", weights={"net": learner.net})
        for step in run.steps(5):
            run.record(loss=learner.learn(step))
        last = learner.net.weight.sum().item()
        run.load_best()
        run.keep("note.json", last)
        for _ in run.pausable(range(3)):
            evaluations += 1
        run.finish(metrics={"last": last})

    whole = attempt(study, tmp_path / "whole")
    evaluations = 0
    stopped = attempt(study, tmp_path / "1", stop=lambda: "signal TERM" if evaluations == 1 else None)
    assert not stopped.finished
    ended = attempt(study, tmp_path / "2", [tmp_path / "1"])
    assert (ended.final_hash, ended.metrics) == (whole.final_hash, whole.metrics)


# ------------------------------------------------------------------------------------------- kept files


def test_a_kept_file_may_be_replaced_between_two_checkpoints(tmp_path: Path) -> None:
    def study(run: Run, dies_at: int | None) -> None:
        learner = Learner(run, dies_at)
        for step in run.steps(9, save_every=3):
            run.keep("samples/newest.json", step.index)
            run.keep_checkpoint("newest")
            learner.learn(step)
        run.keep("samples/newest.json", learner.net.weight.sum().item())

    assert_exact(study, tmp_path, range(1, 10))
    whole = json.loads((tmp_path / "whole" / "kept" / "samples" / "newest.json").read_text())
    assert json.loads((tmp_path / "9b" / "kept" / "samples" / "newest.json").read_text()) == whole
    assert not list((tmp_path / "whole").rglob(".*")), "no draft is left"


def test_a_kept_file_is_replaced_although_the_loss_is_computed_again(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        learner = Learner(run)
        for step in run.steps(9, save_every=3):
            run.keep("newest.json", step.index)
            learner.learn(step, torch.full((4, 2), float("inf") if step.index == 7 else 1.0))

    outcome = attempt(study, tmp_path)
    assert outcome.diverged
    assert metrics_of(tmp_path)["diverged"]["step"] == 7


def test_a_kept_file_that_was_changed_is_reported(tmp_path: Path) -> None:
    def study(run: Run, dies_at: int | None) -> None:
        learner = Learner(run, dies_at)
        for step in run.steps(4, save_every=1):
            if step.index == 0:
                run.keep("note.txt", "one")
            learner.learn(step)

    with pytest.raises(Killed):
        attempt(lambda run: study(run, 3), tmp_path / "1")
    (tmp_path / "1" / "kept" / "note.txt").write_text("two")
    with pytest.raises(RoundhouseError, match="note.txt is corrupted: its SHA-256 differs"):
        attempt(lambda run: study(run, None), tmp_path / "2", [tmp_path / "1"])
    (tmp_path / "1" / "kept" / "note.txt").unlink()
    with pytest.raises(RoundhouseError, match="note.txt, which the run has kept, is missing"):
        attempt(lambda run: study(run, None), tmp_path / "2", [tmp_path / "1"])


# ------------------------------------------------------------------------------------------- names of tracked parts


def track_another(run: Run) -> None:
    Learner(run)
    Learner(run)


def track_in_a_loop(run: Run) -> None:
    for _ in run.steps(2):
        run.track(late=torch.zeros(1))


def release_in_a_loop(run: Run) -> None:
    learner = Learner(run)
    for step in run.steps(2):
        learner.learn(step)
        run.release("net")


def track_a_released_name(run: Run) -> None:
    run.track(part=torch.zeros(1))
    run.release("part")
    run.track(part=torch.zeros(1))


MISTAKES: list[tuple[Study, str]] = [
    (track_another, "another part of this name is tracked already: use another name"),
    (track_in_a_loop, r"run.track\(late=...\) inside the loop 'train': track it before the loop"),
    (release_in_a_loop, r"run.release\('net'\) inside the loop 'train': call it after the loop"),
    (track_a_released_name, "a part of this name was released: use another name"),
]


@pytest.mark.parametrize(("study", "message"), MISTAKES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_mistake_gets_one_clear_error_in_the_first_attempt(study: Study, message: str, tmp_path: Path) -> None:
    with pytest.raises(RoundhouseError, match=message):
        attempt(study, tmp_path)


# ------------------------------------------------------------------------------------------- ways to write a loop


class Bar:
    """Wraps an iterable as a progress bar does."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        yield from self.items


def by_break(run: Run, learner: Learner) -> None:
    for epoch in run.epochs(3):
        for step, _ in epoch.batches(range(5)):
            learner.learn(step)
            if step.index == 2:
                break
        run.record(one=1.0)


def by_a_bar_in_a_variable(run: Run, learner: Learner) -> None:
    for epoch in Bar(run.epochs(3)):
        bar = Bar(epoch.batches(range(5)))
        for step, _ in bar:
            learner.learn(step)
            if step.index == 2:
                break
        run.record(one=1.0)


def by_iterators_in_variables(run: Run, learner: Learner) -> None:
    for epoch in run.epochs(3):
        batches = epoch.batches(range(5))
        while (pair := next(batches, None)) is not None:
            learner.learn(pair[0])
            if pair[0].index == 2:
                break
        run.record(one=1.0)


def by_zip_and_enumerate(run: Run, learner: Learner) -> None:
    for epoch, _ in zip(run.epochs(3), itertools.repeat(0), strict=False):
        for index, (step, _) in enumerate(epoch.batches(range(3))):
            assert index + 3 > step.index
            learner.learn(step)
        run.record(one=1.0)


def by_a_function(run: Run, learner: Learner) -> None:
    def train_epoch(epoch: Epoch) -> float:
        for step, _ in epoch.batches(range(5)):
            loss = learner.learn(step)
            if step.index == 2:
                return float(loss)
        raise AssertionError

    assert all(train_epoch(epoch) >= 0 for epoch in run.epochs(3))


def by_an_exception(run: Run, learner: Learner) -> None:
    for epoch in run.epochs(3):
        try:
            for step, _ in epoch.batches(range(5)):
                learner.learn(step)
                if step.index == 2:
                    raise ValueError("enough")
        except ValueError:
            run.record(one=1.0)


WAYS = [
    by_break,
    by_a_bar_in_a_variable,
    by_iterators_in_variables,
    by_zip_and_enumerate,
    by_a_function,
    by_an_exception,
]


@pytest.mark.parametrize("way", WAYS)
def test_batches_that_are_left_early_count_and_resume_exactly(
    way: Callable[[Run, Learner], None], tmp_path: Path
) -> None:
    assert_exact(lambda run, dies_at: way(run, Learner(run, dies_at)), tmp_path, range(1, 10), save_minutes=0.0)
    assert [(entry["epoch"], entry["step"]) for entry in metrics_of(tmp_path / "whole")["epochs"]] == [
        (1, 3),
        (2, 6),
        (3, 9),
    ]


def test_an_epoch_without_batches_in_which_the_loop_is_left_does_not_count(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        learner = Learner(run)
        for epoch, _ in zip(run.epochs(10), range(2), strict=False):
            for step, _ in epoch.batches(range(3)):
                learner.learn(step)

    assert attempt(study, tmp_path).position == "epoch 2/10"
    assert [entry["epoch"] for entry in metrics_of(tmp_path)["epochs"]] == [1, 2]


def test_an_evaluation_after_batches_that_were_left_early_may_be_stopped(tmp_path: Path) -> None:
    seen: list[int] = []
    evaluations = 0

    def study(run: Run) -> None:
        nonlocal evaluations
        learner = Learner(run)
        for epoch in run.epochs(2):
            for step, _ in epoch.batches(range(5)):
                learner.learn(step)
                seen.append(step.index)
                if step.index == 2:
                    break
            noise = torch.rand(1).item()  # of the global generator
            run.record(before=1.0)
            for _ in run.pausable(range(3)):
                evaluations += 1
            run.record(noise=noise)

    whole = attempt(study, tmp_path / "whole")
    seen.clear()
    evaluations = 0
    stopped = attempt(study, tmp_path / "1", stop=lambda: "signal TERM" if evaluations == 1 else None)
    assert stopped.position == "epoch 0/2, batch 3"
    ended = attempt(study, tmp_path / "2", [tmp_path / "1"])
    assert ended.final_hash == whole.final_hash
    assert seen == [0, 1, 2, 0, 1, 2]
    entries = [metrics_of(tmp_path / name)["epochs"] for name in ("whole", "2")]
    assert [one["noise"] for one in entries[0]] == [one["noise"] for one in entries[1]]


class Noisy(torch.utils.data.Dataset[torch.Tensor]):
    """Augments with the global generator."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((2,), float(index)) + torch.randn(2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_that_draws_from_the_global_generator_resumes_exactly(workers: int, tmp_path: Path) -> None:
    def study(run: Run, dies_at: int | None) -> None:
        learner = Learner(run, dies_at)
        loader = torch.utils.data.DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=workers)
        for epoch in run.epochs(2):
            for step, inputs in epoch.batches(loader):
                learner.learn(step, inputs + torch.rand(1))

    assert_exact(study, tmp_path, range(2, 6), save_minutes=0.0)


SIGNALLED = """
import signal, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_odd_studies import *
requested = []
signal.signal(signal.SIGTERM, lambda *_: requested.append(1))

def study(run):
    learner = Learner(run)
    loader = torch.utils.data.DataLoader(Noisy(), batch_size=1, num_workers=2)
    for epoch in run.epochs(100):
        for step, inputs in epoch.batches(loader):
            learner.learn(step, inputs)
            if step.index == 3:
                print("ready", flush=True)
                for _ in range(1 if requested else 20):
                    time.sleep(0.1)  # a worker that died would be noticed here

print(attempt(study, Path(tempfile.mkdtemp()), stop=lambda: "signal TERM" if requested else None).position, flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["", "raise SystemExit(7)"])
def test_a_signal_to_all_processes_of_a_job_does_not_end_the_workers_of_a_data_loader(end: str) -> None:
    words = [sys.executable, "-c", SIGNALLED.format(tests=str(Path(__file__).parent), end=end)]
    with subprocess.Popen(
        words, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.communicate(timeout=60)[0] == "epoch 0/100, batch 4\n"
    assert process.returncode == (7 if end else 0)


def test_streams_of_run_epochs_and_steps_never_coincide(tmp_path: Path) -> None:
    seeds: list[int] = []

    def study(run: Run) -> None:
        seeds.extend(run.seed("noise", k) for k in range(3))
        for epoch in run.epochs(3):
            seeds.extend([epoch.seed("noise"), *(epoch.seed("noise", k) for k in range(3))])
            for step, _ in epoch.batches(range(3)):
                seeds.extend([step.seed("noise"), *(step.seed("noise", k) for k in range(3))])

    attempt(study, tmp_path)
    assert len(set(seeds)) == len(seeds) == 3 + 3 * 4 + 9 * 4


def test_a_stop_that_the_study_catches_is_still_a_stop(tmp_path: Path) -> None:
    def catches(run: Run) -> None:
        learner = Learner(run)
        try:
            for step in run.steps(5):
                learner.learn(step)
        except:  # noqa: E722
            pass
        run.finish()

    def finishes(run: Run) -> None:
        learner = Learner(run)
        try:
            for step in run.steps(5):
                learner.learn(step)
        finally:
            run.finish()

    for number, study in enumerate((catches, finishes)):
        assert attempt(study, tmp_path / str(number), stop=lambda: "signal TERM").reason == "signal TERM"
        assert attempt(study, tmp_path / str(number)).finished


def use_up_an_iterator(run: Run) -> None:
    learner, items = Learner(run), iter(range(3))
    for epoch in run.epochs(2):
        for step, _ in epoch.batches(items):
            learner.learn(step)


def train_on_nothing(run: Run) -> None:
    loader = torch.utils.data.DataLoader(Noisy(), batch_size=20, drop_last=True)
    for epoch in run.epochs(2):
        for _ in epoch.batches(loader):
            raise AssertionError


def forget_the_batches(run: Run) -> None:
    for _ in run.epochs(2):
        pass


def collect_steps(run: Run) -> None:
    learner = Learner(run)
    for step in list(run.steps(3)):
        learner.learn(step)


def prefetch_batches(run: Run) -> None:
    learner = Learner(run)
    for epoch in run.epochs(2):
        for (step, _), _ in itertools.pairwise(epoch.batches(range(4))):
            learner.learn(step)


def take_one_epoch(run: Run) -> None:
    epoch = next(run.epochs(1))
    for _ in epoch.batches(range(3)):
        raise AssertionError


def hold_the_iterator(run: Run) -> None:
    learner = Learner(run)
    steps = run.steps(5)
    for step in steps:
        learner.learn(step)
        break
    run.finish()


HELD: list[Any] = []


def return_while_the_iterator_is_held(run: Run) -> None:
    learner = Learner(run)
    HELD.append(run.steps(5))
    for step in HELD[-1]:
        learner.learn(step)
        return


def two_passes_over_an_epoch(run: Run) -> None:
    for epoch in run.epochs(1):
        for _ in range(2):
            for _ in epoch.batches(range(2)):
                pass


def nest_loops(run: Run) -> None:
    for _ in run.epochs(2):
        for _ in run.steps(2, name="inner"):
            raise AssertionError


def mix_units(run: Run) -> None:
    for _ in run.steps(2, name="first"):
        pass
    for _ in run.epochs(2):
        raise AssertionError


def repeat_a_name(run: Run) -> None:
    for _ in range(2):
        for _ in run.steps(2):
            pass


def have_no_loop(run: Run) -> None:
    run.steps(5)
    run.finish()


MISTAKES_IN_LOOPS: list[tuple[Study, str]] = [
    (use_up_an_iterator, "epoch 2 of stage train has no batch: .* its iterator is used up"),
    (train_on_nothing, "epoch 1 of stage train has no batch: the data set is empty or smaller than a batch"),
    (forget_the_batches, r"epoch 1 of stage train: the study has not iterated over epoch.batches\(...\)"),
    (collect_steps, "step 1 is used after its end"),
    (prefetch_batches, "step 1 is used after its end"),
    (take_one_epoch, "epoch 1 of stage train is used after its end"),
    (hold_the_iterator, r"run.finish\(\) is called inside the loop 'train'.* delete the variable, or use run.stop"),
    (return_while_the_iterator_is_held, "the study ends inside the loop 'train'"),
    (two_passes_over_an_epoch, r"epoch.batches\(\) was called twice in one epoch of stage train"),
    (nest_loops, "the loop 'inner' begins inside the loop 'train': loops follow one another"),
    (mix_units, "the loop 'train' counts epochs, but those before it steps: use one of them"),
    (repeat_a_name, "two loops of this run are called 'train': give each its own name"),
    (have_no_loop, "the study has no loop: it must use run.steps or run.epochs"),
]


@pytest.mark.parametrize(("study", "message"), MISTAKES_IN_LOOPS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_mistake_in_a_loop_gets_one_clear_error(study: Study, message: str, tmp_path: Path) -> None:
    with pytest.raises(RoundhouseError, match=message):
        attempt(study, tmp_path)


# ------------------------------------------------------------------------------------------- metrics and results


def steps_of(run: Run, count: int = 4) -> Iterator[Step]:
    learner = Learner(run)
    for step in run.steps(count):
        learner.learn(step)
        yield step


def test_a_metric_is_recorded_with_the_number_of_its_step(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        learner = Learner(run)
        run.best("index", weights={"net": learner.net})
        for step in run.steps(4):
            learner.learn(step)
            if step.every(2):
                run.record(index=step.index)
                run.keep_checkpoint()

    attempt(study, tmp_path)
    content = metrics_of(tmp_path)
    assert [(entry["step"], entry["index"]) for entry in content["epochs"]] == [(2, 1), (4, 3)]
    assert content["best"] == {"step": 4, "index": 3}
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == [
        "step_00000002.pth",
        "step_00000004.pth",
    ]


def test_averages_of_small_and_whole_numbers_are_precise(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        for step in run.steps(1000):
            step.average(low=torch.tensor(1.01, dtype=torch.bfloat16), correct=torch.tensor([step.index % 2]),
                         truth=torch.tensor(step.index % 4 == 0), plain=step.index)  # fmt: skip
            if step.every(1000):
                run.record()

    attempt(study, tmp_path)
    (entry,) = metrics_of(tmp_path)["epochs"]
    assert entry["low"] == pytest.approx(float(torch.tensor(1.01, dtype=torch.bfloat16)))
    assert (entry["correct"], entry["truth"], entry["plain"]) == (0.5, 0.25, 499.5)


def test_a_metric_that_was_never_recorded_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def study(run: Run) -> None:
        learner = Learner(run)
        run.best("val_acc", weights={"net": learner.net})
        for step in run.steps(2):
            learner.learn(step)
            run.record(val_accuracy=0.5)

    outcome = attempt(study, tmp_path)
    message = "metric 'val_acc' was never recorded (did you mean 'val_accuracy'?): best.pth has the last weights"
    assert message in capsys.readouterr().err
    assert outcome.finished
    assert metrics_of(tmp_path)["best"] is None


def test_patience_without_a_main_metric_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempt(lambda run: list(steps_of(run)) and None, tmp_path, patience=2)
    assert "config key 'patience' has no effect: the study has no main metric (run.best)" in capsys.readouterr().err


def test_the_last_weights_are_kept_although_others_are_loaded_after_the_loop(tmp_path: Path) -> None:
    last: list[torch.Tensor] = []

    def study(run: Run) -> None:
        learner = Learner(run)
        run.best("index", mode="min", weights={"net": learner.net})
        run.best(None, weights={"net": learner.net}, file="last.pth")
        for step in run.steps(3):
            learner.learn(step)
            run.record(index=step.index)
        last.append(learner.net.weight.detach().clone())
        run.load_best()

    attempt(study, tmp_path)
    assert torch.equal(read_weights(tmp_path / "last.pth")["net"]["weight"], last[0])
    assert not torch.equal(read_weights(tmp_path / "best.pth")["net"]["weight"], last[0])


def test_a_file_kept_in_a_loop_may_be_replaced_after_it_in_a_later_attempt(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        learner = Learner(run)
        for step in run.steps(3):
            learner.learn(step)
            run.keep("note.txt", "in the loop")
        if not HELD:
            HELD.append(None)
            raise Killed
        run.keep("note.txt", "after it")

    HELD.clear()
    with pytest.raises(Killed):
        attempt(study, tmp_path / "1")
    attempt(study, tmp_path / "2", [tmp_path / "1"])
    assert (tmp_path / "2" / "kept" / "note.txt").read_text() == "after it"


def test_outputs_may_be_bfloat16(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        list(steps_of(run))
        run.finish({"low": torch.tensor([1.5], dtype=torch.bfloat16)})

    attempt(study, tmp_path)
    assert np.load(tmp_path / "outputs.npz")["low"].tolist() == [1.5]


def in_a_loop(action: Callable[[Run, Step], object]) -> Study:
    def study(run: Run) -> None:
        for step in steps_of(run):
            action(run, step)

    return study


def after_a_loop(action: Callable[[Run], object]) -> Study:
    def study(run: Run) -> None:
        list(steps_of(run))
        action(run)

    return study


def twice(action: Callable[[], object]) -> None:
    action()
    action()


def best_of(run: Run, metric: Any = "loss", **more: Any) -> None:
    run.best(metric, **{"weights": {"tensor": torch.zeros(1)}, **more})


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (
            in_a_loop(lambda run, step: twice(lambda: run.record(a=1))),
            "two metrics of stage train, step 1 have the same",
        ),
        (in_a_loop(lambda run, step: run.record(step=1)), "have the same name: step"),
        (in_a_loop(lambda run, step: step.average(seconds=1)), "have the same name: seconds"),
        (in_a_loop(lambda run, step: step.average(a=torch.zeros(2))), r"step.average\(a=...\) has the shape \(2,\)"),
        (in_a_loop(lambda run, step: run.record(a="high")), "metric 'a' must be a number, not 'high'"),
        (in_a_loop(lambda run, step: run.record(a=torch.zeros(2))), r"must be a number, not a tensor of shape \(2,\)"),
        (in_a_loop(lambda run, step: run.record(a=None)), "metric 'a' must be a number, not None"),
        (
            in_a_loop(lambda run, step: run.finish()),
            r"run.finish\(\) is called inside the loop 'train'",
        ),
        (in_a_loop(lambda run, step: run.once("a", int)), r"run.once\('a'\) is called inside the loop 'train'"),
        (in_a_loop(lambda run, step: best_of(run)), r"run.best\('loss'\) inside the loop 'train': call it before"),
        (in_a_loop(lambda run, step: step.every(0)), r"step.every\(0\): the number of steps must be >= 1"),
        (in_a_loop(lambda run, step: run.keep("../a.txt", "")), "cannot be the name of a kept file"),
        (in_a_loop(lambda run, step: run.keep("/a.txt", "")), "cannot be the name of a kept file"),
        (in_a_loop(lambda run, step: run.keep("", "")), "cannot be the name of a kept file"),
        (in_a_loop(lambda run, step: run.keep("once/a.pth", {})), "the folder once/ is that of run.once"),
        (in_a_loop(lambda run, step: run.keep("a.npy", [object()])), "it is not an array of numbers, text or truth"),
        (in_a_loop(lambda run, step: run.keep("a.csv", [1])), "pass bytes or text, or let the name end in .png"),
        (in_a_loop(lambda run, step: run.keep_checkpoint("a/b")), "a tag has no '/'"),
        (in_a_loop(lambda run, step: run.keep_checkpoint("step_00000001")), "is not like step_"),
        (in_a_loop(lambda run, step: run.keep_checkpoint(last=0)), "at least the newest one must be kept"),
        (in_a_loop(lambda run, step: run.stop("")), r"run.stop\(why\): say why"),
        (lambda run: run.record(a=1), r"run.record\(\) outside a loop"),
        (after_a_loop(lambda run: twice(run.finish)), r"run.finish\(\) is called twice"),
        (after_a_loop(lambda run: run.finish({"a": [[1], [1, 2]]})), "it is not an array of numbers, text or truth"),
        (after_a_loop(lambda run: run.finish(metrics={"a": "b"})), "metric 'a' must be a number, not 'b'"),
        (after_a_loop(lambda run: run.load_best("ema.pth")), r"run.load_best\('ema.pth'\): no run.best with this file"),
        (after_a_loop(lambda run: [run.finish(), *run.steps(1, name="more")]), r"'more' begins after run.finish\(\)"),
        (lambda run: list(run.steps(1e5)) and None, r"run.steps\(100000.0, name='train'\): give a whole number >= 0"),
        (lambda run: list(run.epochs(-1)) and None, r"run.epochs\(-1, name='train'\): give a whole number >= 0"),
        (lambda run: list(run.steps(1, name="")) and None, "and a name"),
        (lambda run: list(run.steps(1, save_every=0)) and None, "save_every must be >= 1"),
        (lambda run: list(run.steps(None)) and None, "it needs `until`, a function that says when to end"),
        (
            lambda run: [best_of(run, name) for name in ("loss", "ema")][0],
            "'best.pth' is that of 'loss' already: pass file=",
        ),
        (lambda run: best_of(run, file="checkpoint.pth"), "the name must be like best_ema.pth, without a folder"),
        (lambda run: best_of(run, file="kept/a.pth"), "the name must be like best_ema.pth, without a folder"),
        (lambda run: best_of(run, file="metrics.json"), "the name must be like best_ema.pth, without a folder"),
        (lambda run: best_of(run, mode="low"), "unknown mode 'low'"),
        (lambda run: best_of(run, weights=nn.Linear(1, 1)), "weights must be a mapping of names, not Linear"),
        (lambda run: run.track(lr=0.1), "a float cannot be restored in place"),
    ],
)
def test_a_wrong_argument_gets_one_clear_error(study: Study, message: str, tmp_path: Path) -> None:
    with pytest.raises(RoundhouseError, match=message):
        attempt(study, tmp_path)
