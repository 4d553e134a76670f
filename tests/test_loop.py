"""The training loop: exact resume from any batch, limits, guards, and what it writes."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_task import BATCHES, SETTINGS, SmallTask, StopAfter, train

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.settings import Settings
from roundhouse.training import Context, checkpoint, read_weights
from roundhouse.training.loop import Outcome, TrainingProgress


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def metrics_of(directory: Path) -> dict[str, Any]:
    """metrics.json without times and memory use."""
    metrics: dict[str, Any] = json.loads((directory / "metrics.json").read_text())
    assert metrics["used"].keys() == {"seconds", "peak_memory_mb"}
    del metrics["used"]
    for record in metrics["epochs"]:
        assert record.pop("seconds") >= 0
        assert record.pop("peak_memory_mb") > 0
    return metrics


def with_settings(**changes: Any) -> Settings:
    return dataclasses.replace(SETTINGS, **changes)


def train_until_finished(
    root: Path, calls: int, settings: Settings = SETTINGS, task: type[SmallTask] = SmallTask
) -> tuple[Outcome, Path]:
    """Run attempts until one finishes: the first stops after `calls` calls of `stop`, each next one a call later."""
    earlier: list[Path] = []
    while True:
        here = root / str(len(earlier) + 1)
        outcome = train(here, task(), settings, earlier, StopAfter(calls))
        if outcome.finished:
            return outcome, here
        earlier.append(here)
        calls += 1


def test_a_run_writes_its_checkpoint_metrics_best_weights_and_outputs(tmp_path: Path) -> None:
    outcome = train(tmp_path)
    assert (outcome.finished, outcome.reason, outcome.epochs_run, outcome.exact) == (True, "completed", 5, True)
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint.pth", "metrics.json", "autoencoder.pth", "best.pth", "outputs.npz",
    }  # fmt: skip
    metrics = metrics_of(tmp_path)
    assert [(record["stage"], record["epoch"]) for record in metrics["epochs"]] == [
        ("autoencoder", 1), ("autoencoder", 2), ("head", 3), ("head", 4), ("head", 5),
    ]  # fmt: skip
    assert metrics["final"] == outcome.metrics
    assert np.load(tmp_path / "outputs.npz")["head"].shape == (2, 4)
    assert outcome.artifacts == {
        name: digest(tmp_path / name) for name in ("autoencoder.pth", "best.pth", "outputs.npz")
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_stopped_at_any_batch_and_resumed_equals_one_never_stopped(tmp_path: Path, precision: str) -> None:
    settings = with_settings(precision=precision)
    straight = train(tmp_path / "straight", settings=settings)
    batches = (BATCHES + 1) * 5 + BATCHES + 1
    for calls in range(batches):
        root = tmp_path / str(calls)
        outcome, here = train_until_finished(root, calls, settings)
        assert outcome == straight
        assert metrics_of(here) == metrics_of(tmp_path / "straight")


def test_other_seeds_give_other_hashes(tmp_path: Path) -> None:
    hashes = {train(tmp_path / str(seed), settings=with_settings(seed=seed)).final_hash for seed in range(3)}
    assert len(hashes) == 3


def test_a_stopped_run_reports_the_reason_and_writes_no_outputs(tmp_path: Path) -> None:
    outcome = train(tmp_path, stop=StopAfter(8))
    assert outcome == Outcome(False, "preempted", 1, exact=True)
    assert not (tmp_path / "outputs.npz").exists()


def test_a_run_stopped_immediately_has_trained_no_epoch(tmp_path: Path) -> None:
    assert train(tmp_path, stop=lambda: "cancelled") == Outcome(False, "cancelled", 0, exact=True)


def test_earlier_checkpoints_are_deleted_after_the_first_own_epoch(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "123")
    train(first, stop=StopAfter(18))
    assert (first / "checkpoint.prev.pth").exists()
    train(second, earlier=[first], stop=StopAfter(0))
    assert (first / "checkpoint.pth").exists()
    train(third, earlier=[first, second], stop=StopAfter(6))
    assert {path.name for path in first.iterdir()} == {"metrics.json", "autoencoder.pth", "best.pth"}
    assert {path.name for path in second.iterdir()} == {"metrics.json", "autoencoder.pth", "best.pth"}
    assert (third / "checkpoint.prev.pth").exists()


def test_an_attempt_with_no_epoch_left_still_writes_all_files(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    stopped = train(first, stop=StopAfter(26))
    assert (stopped.finished, stopped.epochs_run) == (False, 5)
    outcome = train(second, earlier=[first])
    assert outcome == train(tmp_path / "straight")
    assert {"checkpoint.pth", "metrics.json", "best.pth", "outputs.npz"} <= {path.name for path in second.iterdir()}
    assert not (first / "checkpoint.pth").exists()


def test_running_a_finished_attempt_again_changes_nothing(tmp_path: Path) -> None:
    assert train(tmp_path) == train(tmp_path)


def test_metrics_newer_than_the_checkpoint_are_removed(tmp_path: Path) -> None:
    train(tmp_path, stop=StopAfter(18))
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
def test_a_corrupt_checkpoint_costs_epochs_but_does_not_change_the_result(
    tmp_path: Path, corrupt: list[str], resumed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "1"
    train(first, stop=StopAfter(18))
    for name in corrupt:
        (first / name).write_bytes((first / name).read_bytes()[:-1])
    outcome = train(tmp_path / "2", earlier=[first])
    warnings = capsys.readouterr().err
    assert outcome == train(tmp_path / "straight")
    for name in ("checkpoint.pth", "checkpoint.prev.pth"):
        assert (f"{first}/{name} is not used" in warnings) == (name in corrupt)
    assert resumed.format(first) in warnings


def test_progress_is_reported_at_the_start_and_after_each_epoch(tmp_path: Path) -> None:
    reports: list[TrainingProgress] = []
    train(tmp_path, reports=reports, stop=StopAfter(18))
    assert [(report.epoch, report.stage, report.epochs) for report in reports] == [
        (0, "autoencoder", 5), (1, "autoencoder", 5), (2, "autoencoder", 5), (3, "head", 5),
    ]  # fmt: skip
    assert reports[0].metrics == {}
    assert reports[0].seconds_per_epoch is None
    assert reports[1].seconds_per_epoch == reports[1].metrics["seconds"]
    assert reports[3].seconds_per_epoch == reports[3].metrics["seconds"], "of this stage only"
    assert reports[-1].best == reports[-1].metrics["distance"]
    train(tmp_path, reports=reports)
    assert [report.started_epoch for report in reports] == [0, 0, 0, 0, 3, 3, 3]


def test_the_best_weights_are_those_of_the_best_epoch_of_the_last_stage(tmp_path: Path) -> None:
    class Rising(SmallTask):
        values = iter([0.0, 0.0, 5.0, 3.0, 4.0])

        def evaluate(self, context: Context) -> dict[str, float]:
            self.shown = next(self.values)
            return {"distance": self.shown}

        def best_state(self) -> dict[str, Any]:
            return {**super().best_state(), "shown": self.shown}

        def outputs(self, best: dict[str, Any], context: Context) -> Any:
            return {}, {"shown": best["shown"]}

    outcome = train(tmp_path, Rising())
    assert metrics_of(tmp_path)["best"] == {"epoch": 4, "distance": 3.0}
    assert read_weights(tmp_path / "best.pth")["shown"] == outcome.metrics["shown"] == 3.0


def test_max_epochs_finishes_a_run_early(tmp_path: Path) -> None:
    outcome = train(tmp_path, settings=with_settings(max_epochs=4))
    assert (outcome.finished, outcome.reason, outcome.epochs_run) == (True, "max epochs", 4)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_ends_in_its_first_stage_has_outputs(tmp_path: Path, epochs: int) -> None:
    outcome = train(tmp_path / "1", settings=with_settings(max_epochs=epochs))
    assert (outcome.finished, outcome.epochs_run) == (True, epochs)
    assert outcome == train_until_finished(tmp_path / "resumed", 3, with_settings(max_epochs=epochs))[0]
    assert (tmp_path / "1" / "best.pth").exists()


class Wavering(SmallTask):
    """Improves until epoch 6, and not afterwards."""

    def __init__(self) -> None:
        super().__init__((2, 30))

    def evaluate(self, context: Context) -> dict[str, float]:
        return {"distance": float(abs(context.epoch - 3))}


def test_early_stopping_ends_a_run_that_no_longer_improves_and_resumes_exactly(tmp_path: Path) -> None:
    settings = with_settings(patience=5)
    straight = train(tmp_path / "straight", Wavering(), settings)
    assert (straight.finished, straight.reason, straight.epochs_run) == (True, "early stopping", 11)
    for calls in (7, 29, 44, 57):
        outcome, here = train_until_finished(tmp_path / str(calls), calls, settings, Wavering)
        assert outcome == straight
        assert metrics_of(here) == metrics_of(tmp_path / "straight")


class Clock:
    """A clock that a test advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class Slow(SmallTask):
    """Each epoch takes ten seconds."""

    def __init__(self, clock: Clock) -> None:
        super().__init__((2, 30))
        self.clock = clock

    def evaluate(self, context: Context) -> dict[str, float]:
        self.clock.now += 10
        return super().evaluate(context)


def test_a_time_limit_finishes_a_run_before_an_epoch_that_would_exceed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    outcome = train(tmp_path, Slow(clock), with_settings(time_limit=45.0))
    assert (outcome.finished, outcome.reason, outcome.epochs_run) == (True, "time limit", 4)


def test_a_time_limit_counts_the_epochs_of_all_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    first = train(tmp_path / "1", Slow(clock), with_settings(time_limit=45.0), stop=StopAfter(12))
    assert first.epochs_run == 2
    outcome = train(tmp_path / "2", Slow(clock), with_settings(time_limit=45.0), earlier=[tmp_path / "1"])
    assert (outcome.reason, outcome.epochs_run) == ("time limit", 4)


def test_an_epoch_that_does_not_fit_into_the_walltime_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    outcome = train(tmp_path, Slow(clock), with_settings(deadline=1035.0))
    assert outcome == Outcome(False, "walltime", 3, exact=True)
    assert clock.now == 1030


def test_the_walltime_can_end_an_epoch_between_two_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    class SlowBatches(SmallTask):
        def loss(self, loss: torch.Tensor, context: Context) -> torch.Tensor:
            clock.now += 10
            return loss

    outcome = train(tmp_path, SlowBatches(), with_settings(deadline=1025.0))
    assert outcome == Outcome(False, "walltime", 0, exact=True)
    assert clock.now == 1030


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_fails_the_run_and_names_the_batch(tmp_path: Path, bad: float) -> None:
    class Spoiled(SmallTask):
        def loss(self, loss: torch.Tensor, context: Context) -> torch.Tensor:
            return loss * bad if (context.stage.name, context.epoch, context.batch) == ("head", 1, 3) else loss

    with pytest.raises(
        RoundhouseError, match=r"the loss became (nan|inf) in stage head, epoch 2, batch 3.*lower learning rate"
    ):
        train(tmp_path, Spoiled())
    assert len(metrics_of(tmp_path)["epochs"]) == 3


def test_a_loss_that_is_not_finite_is_detected_within_the_epoch(tmp_path: Path) -> None:
    seen: list[int] = []

    class Long(SmallTask):
        def train_epoch(self, context: Context) -> dict[str, float]:
            for batch in context.batches(range(1000)):
                seen.append(batch)
                context.watch(torch.tensor(float("nan")))
            return {}

    with pytest.raises(RoundhouseError, match="epoch 1, batch 1,"):
        train(tmp_path, Long())
    assert len(seen) <= 100


def test_a_metric_that_is_not_finite_fails_the_run(tmp_path: Path) -> None:
    class Spoiled(SmallTask):
        def evaluate(self, context: Context) -> dict[str, float]:
            return {"distance": float("nan")}

    with pytest.raises(RoundhouseError, match="metric distance became nan in stage autoencoder, epoch 1"):
        train(tmp_path, Spoiled())


class Overflowing(SmallTask):
    """40 batches per epoch, some of which have a finite loss with an infinite gradient."""

    def __init__(self, epoch: int, batches: range) -> None:
        super().__init__((2, 1))
        self.bad = (epoch, batches)

    def train_epoch(self, context: Context) -> dict[str, float]:
        module, optimizer = self.parts[context.stage.name], self.parts[context.stage.name + " optimizer"]
        for batch in context.batches(range(40)):
            loss = module.weight.square().mean()
            if context.epoch == self.bad[0] and batch in self.bad[1]:
                loss = loss + torch.sqrt(loss * 0)
            context.step(loss, optimizer)
        return {}


FP16 = with_settings(precision="fp16")


def test_some_steps_may_be_skipped_until_the_scale_is_low_enough(tmp_path: Path) -> None:
    assert train(tmp_path, Overflowing(0, range(10)), FP16).finished


def test_a_run_fails_if_gradient_scaling_skips_more_than_a_fifth_of_the_steps(tmp_path: Path) -> None:
    with pytest.raises(
        RoundhouseError, match=r"11 of the last 50 optimiser steps were skipped, up to stage autoencoder, epoch 2"
    ):
        train(tmp_path, Overflowing(1, range(11)), FP16)


def test_a_run_fails_if_gradient_scaling_skips_every_step_of_an_epoch(tmp_path: Path) -> None:
    with pytest.raises(RoundhouseError, match=r"40 of the last 40 optimiser steps were skipped, up to .* epoch 1"):
        train(tmp_path, Overflowing(0, range(40)), FP16)


def test_the_share_of_steps_that_may_be_skipped_is_a_setting(tmp_path: Path) -> None:
    settings = dataclasses.replace(FP16, max_skipped=0.3)
    assert train(tmp_path, Overflowing(1, range(11)), settings).finished


def test_a_resume_of_a_task_whose_kernels_may_differ_is_reported_as_approximate(tmp_path: Path) -> None:
    class Compiled(SmallTask):
        exact = False

    assert not train(tmp_path / "1", Compiled(), stop=StopAfter(12)).finished
    assert not train(tmp_path / "2", Compiled(), earlier=[tmp_path / "1"]).exact
    assert train(tmp_path / "straight", Compiled()).exact


def test_a_resuming_attempt_writes_the_weights_of_finished_stages_again(tmp_path: Path) -> None:
    train(tmp_path / "1", stop=StopAfter(18))
    assert json.loads((tmp_path / "1" / "metrics.json").read_text())["epochs"][-1]["stage"] == "head"
    outcome = train(tmp_path / "2", earlier=[tmp_path / "1"])
    assert digest(tmp_path / "2" / "autoencoder.pth") == digest(tmp_path / "1" / "autoencoder.pth")
    assert outcome.artifacts["autoencoder.pth"] == digest(tmp_path / "2" / "autoencoder.pth")


def test_a_run_resumed_with_another_number_of_threads_stays_approximate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / name for name in "123"]
    assert train(folders[0], stop=StopAfter(8)).exact
    torch.set_num_threads(2)
    reports: list[TrainingProgress] = []
    outcome = train(folders[1], earlier=folders[:1], stop=StopAfter(8), reports=reports)
    assert "resume is approximate: threads 1 -> 2" in capsys.readouterr().err
    assert not outcome.exact
    assert not reports[0].exact
    outcome = train(folders[2], earlier=folders[:2])
    assert capsys.readouterr().err == ""
    assert (outcome.finished, outcome.exact) == (True, False)
    assert metrics_of(folders[2])["exact"] is False


def test_a_resume_without_deterministic_kernels_is_reported_as_approximate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = with_settings(deterministic=False)
    train(tmp_path, settings=settings, stop=StopAfter(8))
    assert not train(tmp_path, settings=settings).exact
    assert "resume is approximate: deterministic is off" in capsys.readouterr().err


def test_a_resume_with_smaller_parts_of_a_batch_is_approximate_and_keeps_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    class Listening(SmallTask):
        def train_epoch(self, context: Context) -> dict[str, float]:
            seen.append(context.accumulate)
            return super().train_epoch(context)

    folders = [tmp_path / name for name in "123"]
    for number, accumulate in enumerate((1, 4, 1)):
        settings = with_settings(accumulate=accumulate)
        train(folders[number], Listening(), settings, folders[:number], StopAfter(8))
    assert seen == [1, 1, 4, 4, 4, 4]
    change = "batches are split into 4 times as many parts, because memory ran out"
    assert capsys.readouterr().err == f"roundhouse: resume is approximate: {change}\n"
    assert metrics_of(folders[2])["exact"] is False


def test_a_stop_request_during_begin_stage_is_obeyed_also_on_resume(tmp_path: Path) -> None:
    class Preparing(SmallTask):
        def begin_stage(self, context: Context) -> None:
            super().begin_stage(context)
            for _ in context.batches(range(3)):
                pass

    assert not train(tmp_path, Preparing(), stop=StopAfter(12)).finished
    assert train(tmp_path, Preparing(), stop=StopAfter(1)) == Outcome(False, "preempted", 1, exact=True)


def test_a_checkpoint_of_changed_code_is_an_error_that_names_the_cause(tmp_path: Path) -> None:
    train(tmp_path, stop=StopAfter(8))

    class Grown(SmallTask):
        def load_state(self, state: dict[str, Any]) -> None:
            super().load_state({**state, "autoencoder": {}})

    with pytest.raises(
        RoundhouseError, match="checkpoint.pth does not match this experiment.*code of its study has changed"
    ):
        train(tmp_path, Grown())


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
        assert train(here) == straight


class WrongTask(SmallTask):
    wrong: dict[str, Any] = {}

    def __init__(self) -> None:
        super().__init__()
        vars(self).update(self.wrong)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"mode": "maximum"}, "unknown mode 'maximum'"),
        ({"stages": ()}, "at least one epoch"),
        ({"stages": SmallTask().stages[:1] * 2}, "stages with different names"),
        ({"metric": "distanc"}, "unknown main metric 'distanc': did you mean 'distance'"),
        ({"evaluate": lambda context: {"loss": 1.0}}, "two metrics of stage autoencoder have the same name: loss"),
        ({"evaluate": lambda context: {"epoch": 1.0}}, "two metrics of stage autoencoder have the same name: epoch"),
    ],
)
def test_a_study_that_violates_the_task_interface_gets_a_clear_error(
    tmp_path: Path, wrong: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WrongTask, "wrong", wrong)
    with pytest.raises(RoundhouseError, match=re.escape(complaint)):
        train(tmp_path, WrongTask())


def test_a_larger_value_is_better_if_the_mode_is_max(tmp_path: Path) -> None:
    class Rising(SmallTask):
        mode = "max"

        def evaluate(self, context: Context) -> dict[str, float]:
            return {"distance": [1.0, 3.0, 2.0][context.epoch]}

    train(tmp_path, Rising())
    assert metrics_of(tmp_path)["best"] == {"epoch": 4, "distance": 3.0}


def test_the_checkpoint_opens_with_plain_torch(tmp_path: Path) -> None:
    train(tmp_path)
    content = torch.load(tmp_path / checkpoint.CHECKPOINT, weights_only=True)
    assert content["epochs"] == len(content["history"]) == 5


def test_the_study_in_the_docs_learns_and_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs" / "adding_a_study.md").read_text()
    (tmp_path / "spirals.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    monkeypatch.syspath_prepend(tmp_path)
    study = importlib.import_module("spirals")
    straight = train(tmp_path / "straight", study.build({}, {}, torch.device("cpu"), None))
    assert straight.metrics["test_accuracy"] > 0.9
    train(tmp_path / "1", study.build({}, {}, torch.device("cpu"), None), stop=StopAfter(100))
    resumed = train(tmp_path / "2", study.build({}, {}, torch.device("cpu"), None), earlier=[tmp_path / "1"])
    assert resumed == straight
    with pytest.raises(RoundhouseError, match="unknown key 'config.widht': did you mean 'width'"):
        study.build({"widht": 8}, {}, torch.device("cpu"), None)
