"""Runs that are stopped and resumed: exactly, from any point, in other directories, after a file is lost."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_study import (
    BATCHES,
    SmallStudy,
    StopAfter,
    comparable,
    digest,
    metrics_of,
    train,
    train_until_finished,
    with_settings,
)

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.training import Epoch, Run, Step, Value, checkpoint, keep
from roundhouse.training.execute import Outcome


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_stopped_at_any_point_and_resumed_equals_one_never_stopped(tmp_path: Path, precision: str) -> None:
    settings = with_settings(precision=precision)
    counting = StopAfter(1000)
    straight = train(tmp_path / "straight", settings=settings, stop=counting)
    points = 1000 - counting.left
    assert points > (BATCHES + 1) * 5
    for calls in range(points):
        outcome, here = train_until_finished(tmp_path / str(calls), calls, settings)
        assert comparable(outcome) == comparable(straight)
        assert metrics_of(here) == metrics_of(tmp_path / "straight")


def test_other_seeds_give_other_hashes(tmp_path: Path) -> None:
    hashes = {train(tmp_path / str(seed), settings=with_settings(seed=seed)).final_hash for seed in range(3)}
    assert len(hashes) == 3


def test_a_stopped_run_reports_its_reason_and_position_and_writes_no_outputs(tmp_path: Path) -> None:
    assert train(tmp_path, stop_at=6) == Outcome(False, "preempted", "epoch 1/5, batch 2", exact=True)
    assert not (tmp_path / "outputs.npz").exists()
    assert [record["epoch"] for record in metrics_of(tmp_path)["epochs"]] == [1]


def test_a_run_stopped_immediately_has_trained_nothing(tmp_path: Path) -> None:
    assert train(tmp_path, stop=lambda: "cancelled") == Outcome(False, "cancelled", "epoch 0/5", exact=True)


def test_a_stopped_run_continues_with_the_next_batch(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    class Listening(SmallStudy):
        def loss(self, loss: torch.Tensor, epoch: Epoch, step: Step) -> torch.Tensor:
            seen.append((epoch.stage, epoch.index, step.index))
            return loss

    train(tmp_path, Listening(), stop_at=10)
    assert seen[-1] == ("head", 0, 1)
    seen.clear()
    train(tmp_path, Listening())
    assert seen[:3] == [("head", 0, 2), ("head", 0, 3), ("head", 1, 0)]
    assert len(seen) == 10


def test_earlier_checkpoints_are_deleted_once_the_attempt_has_saved_its_own(tmp_path: Path) -> None:
    class Broken(SmallStudy):
        def loss(self, loss: torch.Tensor, epoch: Epoch, step: Step) -> torch.Tensor:
            raise ValueError("broken")

    first, second, third = (tmp_path / name for name in "123")
    train(first, stop_at=14)
    assert (first / "checkpoint.prev.pth").exists()
    with pytest.raises(ValueError, match="broken"):
        train(second, Broken(), earlier=[first])
    assert (first / "checkpoint.pth").exists(), "the attempt ended before it saved"
    train(third, earlier=[first, second], stop_at=18)
    assert names_in(first) == {"metrics.json", "best.pth", "kept"}
    assert names_in(second) == {"kept"}
    assert {"checkpoint.pth", "checkpoint.prev.pth"} <= names_in(third)


@pytest.mark.parametrize("position", ["before the last evaluation", "after the last epoch"])
def test_an_attempt_with_nothing_left_to_train_still_writes_all_files(tmp_path: Path, position: str) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    reports: list[dict[str, Any]] = []
    if position == "after the last epoch":
        stopped = train(
            first, reports=reports, stop=lambda: "preempted" if reports and reports[-1]["epoch"] == 5 else None
        )
        assert (stopped.finished, stopped.position) == (False, "epoch 5/5")
    else:
        stopped = train(first, stop_at=5 * BATCHES)
        assert (stopped.finished, stopped.position) == (False, "epoch 4/5, batch 4")
    outcome = train(second, earlier=[first])
    assert comparable(outcome) == comparable(train(tmp_path / "straight"))
    assert {"checkpoint.pth", "metrics.json", "best.pth", "outputs.npz"} <= names_in(second)
    assert not (first / "checkpoint.pth").exists()


def test_running_a_finished_attempt_again_changes_nothing(tmp_path: Path) -> None:
    assert train(tmp_path) == train(tmp_path)


def test_metrics_newer_than_the_checkpoint_are_removed(tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    train(tmp_path, reports=reports, stop=lambda: "preempted" if reports and reports[-1]["epoch"] == 3 else None)
    ahead = (tmp_path / "metrics.json").read_bytes()
    os.replace(tmp_path / "checkpoint.prev.pth", tmp_path / "checkpoint.pth")
    assert len(json.loads(ahead)["epochs"]) == 3
    train(tmp_path, stop=StopAfter(0))
    assert len(json.loads((tmp_path / "metrics.json").read_bytes())["epochs"]) == 2


@pytest.mark.parametrize(
    ("corrupt", "resumed"),
    [
        (["checkpoint.pth"], "resuming from {}/checkpoint.prev.pth"),
        (["checkpoint.pth", "checkpoint.prev.pth"], "no valid checkpoint is left: training starts from the beginning"),
    ],
)
def test_a_corrupt_checkpoint_costs_steps_but_does_not_change_the_result(
    tmp_path: Path, corrupt: list[str], resumed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "1"
    train(first, stop_at=14)
    for name in corrupt:
        (first / name).write_bytes((first / name).read_bytes()[:-1])
    outcome = train(tmp_path / "2", earlier=[first])
    warnings = capsys.readouterr().err
    assert comparable(outcome) == comparable(train(tmp_path / "straight"))
    for name in ("checkpoint.pth", "checkpoint.prev.pth"):
        assert (f"{first}/{name} is not used" in warnings) == (name in corrupt)
    assert resumed.format(first) in warnings


def test_a_resuming_attempt_has_the_kept_files_of_those_before_it(tmp_path: Path) -> None:
    train(tmp_path / "1", stop_at=10)
    assert json.loads((tmp_path / "1" / "metrics.json").read_text())["epochs"][-1]["stage"] == "autoencoder"
    outcome = train(tmp_path / "2", earlier=[tmp_path / "1"])
    assert digest(tmp_path / "2" / "kept/autoencoder.pth") == digest(tmp_path / "1" / "kept/autoencoder.pth")
    assert outcome.artifacts["kept/autoencoder.pth"] == digest(tmp_path / "2" / "kept/autoencoder.pth")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.unlink(), "which the run has kept, cannot be used: No such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is corrupted: its SHA-256 differs"),
    ],
)
def test_a_kept_file_that_is_lost_or_changed_is_reported(tmp_path: Path, damage: Any, complaint: str) -> None:
    train(tmp_path / "1", stop_at=10)
    damage(tmp_path / "1" / "kept/autoencoder.pth")
    with pytest.raises(RoundhouseError, match=f"kept/autoencoder.pth.*{complaint}"):
        train(tmp_path / "2", earlier=[tmp_path / "1"])


def test_kept_files_are_copied_where_hard_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    train(tmp_path / "1", stop_at=10)
    monkeypatch.setattr(keep.os, "link", refuse)
    outcome = train(tmp_path / "2", earlier=[tmp_path / "1"])
    assert outcome.artifacts["kept/autoencoder.pth"] == digest(tmp_path / "1" / "kept/autoencoder.pth")


# Exact, or reported as approximate


def test_a_resume_of_a_study_whose_kernels_may_differ_is_reported_as_approximate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Compiled(SmallStudy):
        def __call__(self, run: Run) -> None:
            run.approximate()
            super().__call__(run)

    assert not train(tmp_path / "1", Compiled(), stop_at=6).finished
    assert capsys.readouterr().err == ""
    assert not train(tmp_path / "2", Compiled(), earlier=[tmp_path / "1"]).exact
    assert "resume is approximate: its kernels may differ between processes" in capsys.readouterr().err
    assert metrics_of(tmp_path / "2")["exact"] is False
    assert train(tmp_path / "straight", Compiled()).exact


def test_a_run_resumed_with_another_number_of_threads_stays_approximate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / name for name in "123"]
    assert train(folders[0], stop_at=6).exact
    torch.set_num_threads(2)
    reports: list[dict[str, Any]] = []
    outcome = train(folders[1], earlier=folders[:1], stop_at=9, reports=reports)
    assert "resume is approximate: threads 1 -> 2" in capsys.readouterr().err
    assert not outcome.exact
    assert not reports[0]["exact"]
    outcome = train(folders[2], earlier=folders[:2])
    assert capsys.readouterr().err == ""
    assert (outcome.finished, outcome.exact) == (True, False)
    assert metrics_of(folders[2])["exact"] is False


def test_a_resume_without_deterministic_kernels_is_reported_as_approximate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = with_settings(deterministic=False)
    train(tmp_path, settings=settings, stop_at=6)
    assert not train(tmp_path, settings=settings).exact
    assert "resume is approximate: deterministic is off" in capsys.readouterr().err


def test_a_resume_with_smaller_parts_of_a_batch_is_approximate_and_keeps_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    class Listening(SmallStudy):
        def train_epoch(self, run: Run, epoch: Epoch, optimizer: torch.optim.Adam) -> None:
            seen.append(run.accumulate)
            super().train_epoch(run, epoch, optimizer)

    folders = [tmp_path / name for name in "123"]
    for number, accumulate in enumerate((1, 4, 1)):
        settings = with_settings(accumulate=accumulate)
        train(folders[number], Listening(), settings, folders[:number], stop_at=6 + 4 * number)
    assert seen == [1, 1, 4, 4, 4, 4]
    change = "batches are split into 4 times as many parts, because memory ran out"
    assert capsys.readouterr().err == f"roundhouse: resume is approximate: {change}\n"
    assert metrics_of(folders[2])["exact"] is False


def test_a_resume_with_another_config_that_the_user_has_allowed_is_approximate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "1"
    train(first, stop_at=14)
    outcome = train(tmp_path / "2", SmallStudy((2, 4)), earlier=[first], of_another_config=[first])
    assert "resume is approximate: it continues a run with another config" in capsys.readouterr().err
    assert (outcome.finished, outcome.exact, outcome.position) == (True, False, "epoch 6/6")


def test_another_config_with_fewer_epochs_than_the_checkpoint_is_refused(tmp_path: Path) -> None:
    first = tmp_path / "1"
    train(first, stop_at=18)
    with pytest.raises(RoundhouseError, match="has 2 epochs.*config only 1.*--retry without --keep-files"):
        train(tmp_path / "2", SmallStudy((2, 1)), earlier=[first], of_another_config=[first])


# Stop requests outside the loops


def test_a_stop_request_before_the_first_loop_is_obeyed_also_on_resume(tmp_path: Path) -> None:
    class Preparing(SmallStudy):
        def begin(self, run: Run, name: str) -> torch.optim.Adam:
            optimizer = super().begin(run, name)
            for _ in run.pausable(range(3)):
                pass
            return optimizer

    assert train(tmp_path, Preparing(), stop=StopAfter(1)) == Outcome(False, "preempted", "epoch 0/5", exact=True)
    assert train(tmp_path, Preparing(), stop_at=6).position == "epoch 1/5, batch 2"
    again = train(tmp_path, Preparing(), stop=StopAfter(1))
    assert again == Outcome(False, "preempted", "epoch 1/5, batch 2", exact=True)
    assert train(tmp_path, Preparing()).final_hash == train(tmp_path / "straight", Preparing()).final_hash


def test_a_stop_after_the_best_weights_were_loaded_saves_those_of_the_last_epoch(tmp_path: Path) -> None:
    class Evaluating(SmallStudy):
        """The first epoch of the head is its best."""

        interrupted = False

        def evaluate(self, epoch: Epoch) -> dict[str, float]:
            return {"distance": float(epoch.index)}

        def __call__(self, run: Run) -> None:
            if not self.interrupted:
                super().__call__(run)
                return
            pausable = run.pausable
            run.pausable = lambda items: pausable(self.keep_first(run, items))  # type: ignore[method-assign]
            super().__call__(run)

        def keep_first(self, run: Run, items: Iterable[Any]) -> Iterable[Any]:
            run.keep("note.txt", "the best weights are loaded")
            yield from items

    class Interrupted(Evaluating):
        interrupted = True

    straight = train(tmp_path / "straight", Evaluating())
    reports: list[dict[str, Any]] = []
    stopped = train(
        tmp_path / "1", Interrupted(), reports=reports,
        stop=lambda: "preempted" if (tmp_path / "1/kept/note.txt").exists() else None,
    )  # fmt: skip
    assert (stopped.finished, stopped.position) == (False, "epoch 5/5")
    resumed = train(tmp_path / "2", Evaluating(), earlier=[tmp_path / "1"])
    assert resumed.final_hash == straight.final_hash
    assert resumed.metrics == straight.metrics


# Code and files that do not fit


def test_a_checkpoint_of_another_model_is_an_error_that_names_the_cause(tmp_path: Path) -> None:
    train(tmp_path, stop_at=6)

    class Grown(SmallStudy):
        def begin(self, run: Run, name: str) -> torch.optim.Adam:
            module = torch.nn.Linear(5, 5)
            run.track(**{name: module})
            raise AssertionError("not reached")

    with pytest.raises(
        RoundhouseError,
        match=r"checkpoint.pth does not match this experiment \(autoencoder: .*size mismatch.*"
        "code of its study has changed",
    ):
        train(tmp_path, Grown())


@pytest.mark.parametrize(
    ("before", "now", "complaint"),
    [
        ({}, {"extra": Value()}, "the checkpoint has no state for extra"),
        ({"extra": Value()}, {}, "the checkpoint has parts that are not tracked: extra"),
    ],
)
def test_a_checkpoint_with_other_parts_is_an_error_that_names_them(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], complaint: str
) -> None:
    class Before(SmallStudy):
        tracked = before

    class Now(SmallStudy):
        tracked = now

    train(tmp_path, Before(), stop_at=6)
    with pytest.raises(RoundhouseError, match=complaint):
        train(tmp_path, Now())


def test_a_checkpoint_of_the_version_before_is_refused_with_its_name_and_left_unchanged(tmp_path: Path) -> None:
    old = {"format": 2, "epochs": 1, "history": [], "task": {}}
    checkpoint.write(tmp_path / "checkpoint.pth", old)
    before = digest(tmp_path / "checkpoint.pth")
    with pytest.raises(RoundhouseError, match="format 2, and this version reads 3: continue with Roundhouse 0.1"):
        train(tmp_path)
    assert digest(tmp_path / "checkpoint.pth") == before


def test_a_full_disk_during_training_is_reported_and_the_run_continues_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train(tmp_path / "straight")
    writes = 0
    real = files.write_draft

    def write_draft(directory: Path, data: bytes, durable: bool = True) -> Path:
        nonlocal writes
        writes += 1
        if writes == full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(directory, data, durable)

    for full in range(1, 16):
        writes = 0
        here = tmp_path / str(full)
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_draft", write_draft)
            with pytest.raises(RoundhouseError, match="No space left on device"):
                train(here)
        assert comparable(train(here)) == comparable(straight)


def test_the_checkpoint_opens_with_plain_torch(tmp_path: Path) -> None:
    train(tmp_path)
    content = torch.load(tmp_path / checkpoint.CHECKPOINT, weights_only=True)
    assert content["epoch"] == len(content["history"]) == 5
    assert content["step"] == 5 * BATCHES
