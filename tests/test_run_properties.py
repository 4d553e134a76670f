"""Promises of the training API, for a run by steps and one by epochs: exact resume from any step, whatever is saved."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_study import SETTINGS, Clock, Tiny, result_of, run_tiny

from roundhouse.settings import Settings
from roundhouse.training import session
from roundhouse.training.execute import Outcome, Start

KINDS = ("by_steps", "by_epochs")
TOTAL = {"by_steps": 18, "by_epochs": 30}  # steps of an uninterrupted run


class Killed(BaseException):
    """Ends an attempt as SIGKILL does: nothing more is saved."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def attempt(
    kind: str, here: Path, earlier: list[Path], study: Tiny, config: Settings, number: int, by_signal: bool
) -> Outcome | None:
    """One attempt, which is ended at its n-th step by a signal or by a kill; None if it was killed."""
    done: list[int] = []

    def on_step(index: int) -> None:
        done.append(index)
        if len(done) == number and not by_signal:
            raise Killed

    def stop() -> str | None:
        return "signal TERM" if len(done) >= number else None

    study.on_step = on_step
    try:
        return run_tiny(getattr(study, kind), here, config, earlier, stop)
    except Killed:
        return None


def attempt_until_finished(
    kind: str, root: Path, ends: list[tuple[int, bool]], make: Callable[[], Tiny], config: Settings
) -> tuple[dict[str, Any], int]:
    """Attempts in new directories until the run finishes. Returns the result, and the number of attempts."""
    earlier: list[Path] = []
    for number, by_signal in [*ends, (10**6, True)]:
        here = root / str(len(earlier) + 1)
        outcome = attempt(kind, here, list(earlier), make(), config, number, by_signal)
        earlier.append(here)
        if outcome is not None and outcome.finished:
            return result_of(here, outcome), len(earlier)
    raise AssertionError("the last attempt did not finish")


def straight(kind: str, root: Path, make: Callable[[], Tiny] = Tiny, config: Settings = SETTINGS) -> dict[str, Any]:
    return attempt_until_finished(kind, root, [], make, config)[0]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ends=st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=6),
    save_every=st.sampled_from([None, 1, 3, 7]),
    minutes=st.sampled_from([0.0, 10.0]),
    each_epoch=st.booleans(),
    patience=st.sampled_from([None, 1]),
)
def test_a_run_ended_after_any_steps_is_bit_identical_to_one_that_was_not(
    kind: str,
    ends: list[tuple[int, bool]],
    save_every: int | None,
    minutes: float,
    each_epoch: bool,
    patience: int | None,
) -> None:
    limited = dataclasses.replace(SETTINGS, patience=patience)
    config = dataclasses.replace(limited, save_minutes=minutes, save_each_epoch=each_epoch)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        whole = straight(kind, root / "straight", config=limited)
        ended, attempts = attempt_until_finished(
            kind, root / "ended", ends, lambda: Tiny(save_every=save_every), config
        )
    assert ended == whole
    assert whole["metrics"]["epochs"], "metrics were recorded"


def die_at(kind: str, here: Path, config: Settings, number: int) -> None:
    """In a forked process: an attempt that kills itself in its n-th step."""
    study, done = Tiny(), []

    def on_step(index: int) -> None:
        done.append(index)
        if len(done) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    study.on_step = on_step
    run_tiny(getattr(study, kind), here, config)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_by_sigkill_between_any_two_steps_is_bit_identical(kind: str, tmp_path: Path) -> None:
    whole = straight(kind, tmp_path / "straight")
    config = dataclasses.replace(SETTINGS, save_minutes=0.0)  # a checkpoint after each step
    for number in range(1, TOTAL[kind] + 1):
        here = tmp_path / str(number)
        child = os.fork()
        if child == 0:
            try:
                die_at(kind, here, config, number)
            finally:
                os._exit(3)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        study = Tiny()
        again: list[int] = []
        study.on_step = again.append
        outcome = run_tiny(getattr(study, kind), tmp_path / f"{number}b", config, [here])
        assert result_of(tmp_path / f"{number}b", outcome) == whole
        assert len(again) == TOTAL[kind] - (number - 1), "only the step that was killed runs again"


@pytest.mark.parametrize("same_folder", [True, False])
def test_without_saving_each_epoch_a_kill_repeats_what_came_since_the_last_loop(
    same_folder: bool, tmp_path: Path
) -> None:
    """Tiny by epochs has a loop of 10 steps and one of 20. It keeps files and whole checkpoints in its epochs."""
    whole = straight("by_epochs", tmp_path / "straight")
    config = dataclasses.replace(SETTINGS, save_each_epoch=False)
    for number in (3, 10, 14, 22, 28, 30):
        first = tmp_path / str(number)
        assert attempt("by_epochs", first, [], Tiny(), config, number, by_signal=False) is None
        again: list[int] = []
        study = Tiny(on_step=again.append)
        here = first if same_folder else tmp_path / f"{number}b"
        outcome = run_tiny(study.by_epochs, here, config, [] if same_folder else [first])
        assert result_of(here, outcome) == whole
        assert len(again) == (30 if number <= 10 else 20)


@pytest.mark.parametrize("kind", KINDS)
def test_saving_after_every_step_and_never_give_equal_results(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves: list[str] = []
    real = session.Session.save

    def save(self: session.Session) -> None:
        saves.append(self.loop)
        real(self)

    monkeypatch.setattr(session.Session, "save", save)
    always = straight(kind, tmp_path / "always", config=dataclasses.replace(SETTINGS, save_minutes=0.0))
    assert len(saves) >= TOTAL[kind]

    def save_only_at_the_end(self: session.Session) -> None:
        if self.loop and self.state.loops[self.loop].finished:
            real(self)

    monkeypatch.setattr(session.Session, "save", save_only_at_the_end)
    never = straight(kind, tmp_path / "never")
    assert always == never


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_loses_no_step(kind: str, tmp_path: Path) -> None:
    study, steps = Tiny(), []
    study.on_step = steps.append
    run_tiny(getattr(study, kind), tmp_path / "1", stop=lambda: "signal TERM" if len(steps) == 7 else None)
    run_tiny(getattr(study, kind), tmp_path / "2", earlier=[tmp_path / "1"])
    assert len(steps) == TOTAL[kind]


def with_a_clock(monkeypatch: pytest.MonkeyPatch, limit: float) -> tuple[Callable[[], Tiny], Settings]:
    """Studies whose steps take a second, and whose evaluation takes 100."""

    def make() -> Tiny:
        clock = Clock()
        monkeypatch.setattr(time, "monotonic", lambda: clock.now)
        return Tiny(clock=clock)

    return make, dataclasses.replace(SETTINGS, time_limit=limit)


@pytest.mark.parametrize(("kind", "steps"), [("by_steps", 11), ("by_epochs", 17), ("by_epochs", 20), ("by_epochs", 4)])
def test_a_time_limit_ends_after_the_step_that_reaches_it_without_counting_evaluation(
    kind: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, config = with_a_clock(monkeypatch, steps - 0.5)
    whole = straight(kind, tmp_path / "straight", make, config)
    assert whole["reason"] == whole["metrics"]["ended"] == "time limit"
    assert whole["metrics"]["epochs"][-1]["step"] <= steps
    checkpoint = torch.load(tmp_path / "straight" / "1" / "checkpoint.pth", weights_only=True)
    assert checkpoint["step"] == steps, "the whole state at the limit is saved"
    for number, by_signal in ((2, True), (3, False), (7, False), (steps - 1, True), (steps, True)):
        root = tmp_path / f"{number}{by_signal}"
        ended, attempts = attempt_until_finished(kind, root, [(number, by_signal)], make, config)
        assert ended == whole
        assert attempts == 2 or number > steps
    limited = dataclasses.replace(SETTINGS, max_steps=steps)
    assert straight(kind, tmp_path / "max_steps", config=limited)["hash"] == whole["hash"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_run_that_is_continued_equals_one_long_run(kind: str, tmp_path: Path) -> None:
    def longer() -> Tiny:
        return Tiny(steps=30, epochs=7)

    for name, config, make in (
        ("length", SETTINGS, Tiny),
        ("limit", dataclasses.replace(SETTINGS, max_steps=17), longer),
    ):
        first = tmp_path / name / "first"
        assert run_tiny(getattr(make(), kind), first, config).finished
        there = tmp_path / name / "continued"
        outcome = run_tiny(getattr(longer(), kind), there, start=Start(first / "checkpoint.pth", keeps_position=True))
        assert result_of(there, outcome) == straight(kind, tmp_path / name / "straight", longer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_checkpoint_can_be_continued_and_branched_from(kind: str, tmp_path: Path) -> None:
    whole = straight(kind, tmp_path / "straight")
    kept = [name for name in whole["names"] if name.startswith("snapshots/")]
    assert len(kept) == (2 if kind == "by_steps" else 1)
    snapshot = tmp_path / "straight" / "1" / kept[0]
    there = tmp_path / "continued"
    outcome = run_tiny(getattr(Tiny(), kind), there, start=Start(snapshot, keeps_position=True))
    assert result_of(there, outcome)["hash"] == whole["hash"]
    study, steps = Tiny(), []
    study.on_step = steps.append
    branch = run_tiny(getattr(study, kind), tmp_path / "branch", start=Start(snapshot, keeps_position=False))
    assert len(steps) == TOTAL[kind], "counting starts at 0"
    assert branch.final_hash != whole["hash"]
    assert study.grown.value == 2, "it began with the network that had grown once"


def test_the_outcome_says_what_was_written(tmp_path: Path) -> None:
    outcome: Outcome = run_tiny(Tiny().by_steps, tmp_path)
    assert set(outcome.artifacts) == {
        "best.pth", "best_ema.pth", "outputs.npz", "checkpoint.pth", "kept/once/offset.pth",
        "kept/samples_3.npy", "kept/samples_7.npy", "kept/samples_11.npy", "kept/samples_15.npy",
        "snapshots/step_00000012.pth", "snapshots/step_00000018.pth",
    }  # fmt: skip
    for name in outcome.artifacts:
        assert (tmp_path / name).exists()
    assert not (tmp_path / "snapshots" / "step_00000006.pth").exists()
