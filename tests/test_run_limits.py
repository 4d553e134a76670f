"""What ends a run early: limits on epochs, steps and time, early stopping, the walltime, and a study's own reasons."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_study import (
    BATCHES,
    SmallStudy,
    comparable,
    metrics_of,
    train,
    train_until_finished,
    with_settings,
)
from tiny_study import run_tiny

from roundhouse.settings import Settings
from roundhouse.training import Epoch, Run, Step, Value
from roundhouse.training.execute import Outcome


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_max_epochs_finishes_a_run_early(tmp_path: Path) -> None:
    outcome = train(tmp_path, settings=with_settings(max_epochs=4))
    assert (outcome.finished, outcome.reason, outcome.position) == (True, "max epochs", "epoch 4/4")
    assert metrics_of(tmp_path)["ended"] == "max epochs"


def test_max_steps_finishes_a_run_after_that_step_and_records_the_partial_epoch(tmp_path: Path) -> None:
    outcome = train(tmp_path, settings=with_settings(max_steps=14))
    assert (outcome.finished, outcome.reason, outcome.position) == (True, "max steps", "epoch 3/5, batch 2")
    last = metrics_of(tmp_path)["epochs"][-1]
    assert (last["epoch"], last["step"], last["partial"]) == (4, 14, True)
    assert "distance" in last, "it is evaluated"


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_ends_in_its_first_loop_has_outputs(tmp_path: Path, epochs: int) -> None:
    skipped: list[tuple[str, ...]] = []

    class Listening(SmallStudy):
        def __call__(self, run: Run) -> None:
            super().__call__(run)
            skipped.append(run.skipped)
            assert run.ended == "max epochs"

    settings = with_settings(max_epochs=epochs)
    outcome = train(tmp_path / "1", Listening(), settings)
    assert (outcome.finished, outcome.position) == (True, f"epoch {epochs}/{epochs}")
    assert skipped == [("head",)]
    assert comparable(outcome) == comparable(train_until_finished(tmp_path / "resumed", 3, settings)[0])
    assert (tmp_path / "1" / "best.pth").exists()


def test_a_pause_comes_between_two_epochs(tmp_path: Path) -> None:
    assert train(tmp_path, settings=with_settings(pause_at=3)) == Outcome(False, "rung", "epoch 3/5", exact=True)


def test_in_a_run_by_steps_a_pause_counts_steps(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        for _ in run.steps(9):
            pass

    settings = with_settings(pause_at=4)
    assert train(tmp_path, study, settings) == Outcome(False, "rung", "step 4/9", exact=True)
    assert train(tmp_path, study).finished


# Early stopping


class Wavering(SmallStudy):
    """Improves until epoch 6, and not afterwards."""

    def __init__(self) -> None:
        super().__init__((2, 30))

    def evaluate(self, epoch: Epoch) -> dict[str, float]:
        return {"distance": float(abs(epoch.index - 3))}


def test_early_stopping_ends_a_run_that_no_longer_improves_and_resumes_exactly(tmp_path: Path) -> None:
    settings = with_settings(patience=5)
    straight = train(tmp_path / "straight", Wavering(), settings)
    assert (straight.finished, straight.reason, straight.position) == (True, "early stopping", "epoch 11/32")
    assert metrics_of(tmp_path / "straight")["best"] == {"epoch": 6, "step": 24, "distance": 0.0}
    for calls in (7, 29, 44, 57, 90):
        outcome, here = train_until_finished(tmp_path / str(calls), calls, settings, Wavering)
        assert comparable(outcome) == comparable(straight)
        assert metrics_of(here) == metrics_of(tmp_path / "straight")


def test_an_improvement_below_min_delta_does_not_count_for_early_stopping(tmp_path: Path) -> None:
    class Creeping(SmallStudy):
        def evaluate(self, epoch: Epoch) -> dict[str, float]:
            return {"distance": 1.0 - 0.01 * epoch.index}

    for min_delta, position in ((0.0, "epoch 32/32"), (0.045, "epoch 32/32"), (0.055, "epoch 8/32")):
        settings = with_settings(patience=5, min_delta=min_delta)
        outcome = train(tmp_path / str(min_delta), Creeping((2, 30)), settings)
        assert outcome.position == position
    assert metrics_of(tmp_path / "0.055")["best"] == {"epoch": 8, "step": 32, "distance": 0.95}, "a small one is kept"


def test_patience_counts_the_recorded_values_of_a_sparse_metric(tmp_path: Path) -> None:
    class Sparse(SmallStudy):
        def evaluate(self, epoch: Epoch) -> dict[str, float]:
            return {"distance": 1.0} if epoch.index % 3 == 2 else {}

    outcome = train(tmp_path, Sparse((2, 30)), with_settings(patience=2))
    assert (outcome.reason, outcome.position) == ("early stopping", "epoch 11/32")


def test_a_study_can_end_its_training_and_states_why(tmp_path: Path) -> None:
    class Stopping(SmallStudy):
        def train_epoch(self, run: Run, epoch: Epoch, optimizer: torch.optim.Adam) -> None:
            super().train_epoch(run, epoch, optimizer)
            if epoch.stage == "head" and epoch.index == 1:
                run.stop("good enough")

    straight = train(tmp_path / "straight", Stopping())
    assert (straight.finished, straight.reason, straight.position) == (True, "good enough", "epoch 4/5")
    assert metrics_of(tmp_path / "straight")["ended"] == "good enough"
    train(tmp_path / "1", Stopping(), stop_at=14)
    assert comparable(train(tmp_path / "2", Stopping(), earlier=[tmp_path / "1"])) == comparable(straight)


def test_a_loop_without_a_length_ends_when_its_condition_says_so(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        total = torch.zeros(1)
        run.track(total=total)
        for _ in run.steps(None, until=lambda: bool(total >= 7)):  # noqa: B023  # it is changed in place
            total += 1
        run.finish({"total": total})

    outcome = train(tmp_path / "straight", study)
    assert (outcome.finished, outcome.reason, outcome.position) == (True, "completed", "step 7")
    assert train(tmp_path / "1", study, stop_at=3).position == "step 3"
    assert train(tmp_path / "2", study, earlier=[tmp_path / "1"]).final_hash == outcome.final_hash


# Time


class Clock:
    """A clock that a test advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Slow(SmallStudy):
    """Each step takes `step` seconds, and each evaluation `evaluation`."""

    def __init__(self, clock: Clock, step: float = 0.0, evaluation: float = 0.0) -> None:
        super().__init__((2, 30))
        self.clock, self.step, self.evaluation = clock, step, evaluation
        self.steps = 0

    def loss(self, loss: torch.Tensor, epoch: Epoch, step: Step) -> torch.Tensor:
        self.clock.now += self.step
        self.steps += 1
        return loss

    def evaluate(self, epoch: Epoch) -> dict[str, float]:
        self.clock.now += self.evaluation
        return super().evaluate(epoch)


def test_a_time_limit_finishes_a_run_after_the_step_that_reaches_it(tmp_path: Path, clock: Clock) -> None:
    outcome = train(tmp_path, Slow(clock, step=10), with_settings(time_limit=45.0))
    assert (outcome.finished, outcome.reason, outcome.position) == (True, "time limit", "epoch 1/32, batch 1")
    assert clock.now == 1050
    metrics = metrics_of(tmp_path)
    assert metrics["ended"] == "time limit"
    assert [one.get("partial") for one in metrics["epochs"]] == [None, True]


def test_a_time_limit_counts_the_steps_of_all_attempts(tmp_path: Path, clock: Clock) -> None:
    settings = with_settings(time_limit=45.0)
    assert train(tmp_path / "1", Slow(clock, step=10), settings, stop_at=2).position == "epoch 0/32, batch 2"
    clock.now += 1000
    outcome = train(tmp_path / "2", Slow(clock, step=10), settings, earlier=[tmp_path / "1"])
    assert (outcome.reason, outcome.position) == ("time limit", "epoch 1/32, batch 1")


def test_a_time_limit_does_not_count_evaluations(tmp_path: Path, clock: Clock) -> None:
    outcome = train(tmp_path, Slow(clock, step=1, evaluation=100), with_settings(time_limit=9.5))
    assert (outcome.reason, outcome.position) == ("time limit", "epoch 2/32, batch 2")


def test_a_time_limit_does_not_count_what_a_step_marks_as_untimed(tmp_path: Path, clock: Clock) -> None:
    def study(run: Run) -> None:
        for step in run.steps(100):
            clock.now += 1
            if step.every(2):
                with run.untimed():
                    clock.now += 100

    outcome = train(tmp_path, study, with_settings(time_limit=9.5))
    assert (outcome.reason, outcome.position) == ("time limit", "step 10/100")


def test_a_step_that_does_not_fit_into_the_walltime_is_not_started(tmp_path: Path, clock: Clock) -> None:
    outcome = train(tmp_path, Slow(clock, step=10), with_settings(deadline=1035.0))
    assert outcome == Outcome(False, "walltime", "epoch 0/32, batch 3", exact=True)
    assert clock.now == 1030


def test_the_walltime_can_end_an_epoch_after_its_first_batch(tmp_path: Path, clock: Clock) -> None:
    outcome = train(tmp_path, Slow(clock, step=10), with_settings(deadline=1005.0))
    assert outcome == Outcome(False, "walltime", "epoch 0/32, batch 1", exact=True)
    assert clock.now == 1010


def test_an_evaluation_that_does_not_fit_into_the_walltime_is_left_to_the_next_attempt(
    tmp_path: Path, clock: Clock
) -> None:
    outcome = train(tmp_path / "1", Slow(clock, evaluation=10), with_settings(deadline=1025.0))
    assert outcome == Outcome(False, "walltime", "epoch 2/32, batch 4", exact=True)
    assert clock.now == 1020
    again = Slow(clock)
    train(tmp_path / "2", again, with_settings(max_epochs=3), [tmp_path / "1"])
    assert again.steps == 0, "only the evaluation was left"


def test_epochs_longer_than_the_walltime_make_progress_in_each_attempt_and_complete(
    tmp_path: Path, clock: Clock
) -> None:
    settings = with_settings(max_epochs=4)
    straight = train(tmp_path / "straight", Slow(clock, step=15), settings)
    folders: list[Path] = []
    reports: list[dict[str, Any]] = []
    outcome = None
    while outcome is None or not outcome.finished:
        folders.append(tmp_path / str(len(folders) + 1))
        limited = dataclasses.replace(settings, deadline=clock.now + 20)
        outcome = train(folders[-1], Slow(clock, step=15), limited, folders[:-1], reports=reports)
        assert reports[-1]["step"] > reports[-1]["started_step"] or outcome.finished
    assert len(folders) > 4 * BATCHES / 2
    assert comparable(outcome) == comparable(straight)


def saves_of(study: Callable[[Run], None], directory: Path, settings: Settings) -> list[int]:
    """The steps after which a run is saved."""
    reports: list[dict[str, Any]] = []
    train(directory, study, settings, reports=reports)
    return [one["step"] for one in reports[1:]]


def test_a_run_is_saved_at_least_every_so_many_minutes(tmp_path: Path, clock: Clock) -> None:
    settings = with_settings(max_epochs=2, save_minutes=0.5)
    assert saves_of(Slow(clock, step=10), tmp_path / "often", settings) == [3, 4, 7, 8]
    settings = with_settings(max_epochs=2)
    assert saves_of(Slow(clock, step=10), tmp_path / "default", settings) == [4, 8]


def test_short_epochs_can_be_saved_by_time_and_at_the_end_of_each_loop(tmp_path: Path, clock: Clock) -> None:
    """The first loop has 2 epochs of 4 steps."""
    settings = with_settings(save_each_epoch=False, max_epochs=7)
    assert saves_of(Slow(clock, step=10), tmp_path / "loops", settings) == [8, 28]
    by_time = dataclasses.replace(settings, save_minutes=1.5)
    assert saves_of(Slow(clock, step=10), tmp_path / "time", by_time) == [8, 17, 26, 28]


def test_a_run_that_is_not_saved_each_epoch_is_saved_when_it_pauses(tmp_path: Path) -> None:
    settings = with_settings(save_each_epoch=False)
    straight = train(tmp_path / "straight")
    for epochs in (1, 2, 3, 4):
        reports: list[dict[str, Any]] = []
        here = tmp_path / str(epochs)
        paused = train(here, settings=dataclasses.replace(settings, pause_at=epochs), reports=reports)
        assert (paused.reason, paused.position) == ("rung", f"epoch {epochs}/5")
        assert reports[-1]["epoch"] == len(metrics_of(here)["epochs"]) == epochs, "what the comparison reads is saved"
        assert comparable(train(here, settings=settings)) == comparable(straight)


def test_a_loop_without_a_number_of_steps_can_end_by_a_limit_of_the_config(tmp_path: Path) -> None:
    done: list[int] = []

    def study(run: Run) -> None:
        run.track(x=Value(0))
        done.extend(step.index for step in run.steps(None))

    outcome = run_tiny(study, tmp_path, with_settings(max_steps=7))
    assert (outcome.reason, len(done)) == ("max steps", 7)
