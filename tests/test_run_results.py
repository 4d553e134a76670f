"""What a run writes and reports: metrics, best weights, outputs, kept files, whole checkpoints, progress."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_study import SmallStudy, digest, metrics_of, train, with_settings

from roundhouse.training import Epoch, Run, Value, keep, read_weights
from roundhouse.training.execute import Attempt, Hooks, execute
from roundhouse.training.progress import line_of


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def kept_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_a_run_writes_its_checkpoint_metrics_best_weights_outputs_and_kept_files(tmp_path: Path) -> None:
    outcome = train(tmp_path)
    assert (outcome.finished, outcome.reason, outcome.position) == (True, "completed", "epoch 5/5")
    assert outcome.exact
    files = {"checkpoint.pth", "best.pth", "outputs.npz", "kept/autoencoder.pth"}
    assert kept_in(tmp_path) == files | {"metrics.json"}
    metrics = metrics_of(tmp_path)
    assert [(record["stage"], record["epoch"], record["step"]) for record in metrics["epochs"]] == [
        ("autoencoder", 1, 4), ("autoencoder", 2, 8), ("head", 3, 12), ("head", 4, 16), ("head", 5, 20),
    ]  # fmt: skip
    assert metrics["final"] == outcome.metrics
    assert np.load(tmp_path / "outputs.npz")["head"].shape == (2, 4)
    assert outcome.artifacts == {name: digest(tmp_path / name) for name in files}


def test_progress_is_reported_at_the_start_and_after_each_save(tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    train(tmp_path, reports=reports, stop_at=14)
    assert [(one["unit"], one["epoch"], one["step"], one["stage"]) for one in reports] == [
        (None, 0, 0, None), ("epoch", 1, 4, "autoencoder"), ("epoch", 2, 8, "autoencoder"), ("epoch", 3, 12, "head"),
        ("epoch", 3, 14, "head"),
    ]  # fmt: skip
    assert [one["epochs"] for one in reports] == [None, 5, 5, 5, 5], "the study says it when it begins"
    assert [one["steps"] for one in reports] == [None, 20, 20, 20, 20]
    assert (reports[0]["metric"], reports[0]["seconds_per_epoch"], reports[0]["seconds_per_step"]) == (None,) * 3
    seconds = [record["seconds"] for record in json.loads((tmp_path / "metrics.json").read_text())["epochs"]]
    assert reports[1]["seconds_per_epoch"] == seconds[0]
    assert reports[3]["seconds_per_epoch"] == seconds[2], "of this stage only"
    assert reports[3]["seconds_per_step"] > 0
    assert (reports[3]["metric_name"], reports[3]["mode"]) == ("distance", "min")
    assert reports[3]["best"] == reports[3]["metric"] == metrics_of(tmp_path)["epochs"][2]["distance"]
    started = len(reports)
    train(tmp_path, reports=reports)
    assert [(one["started_epoch"], one["started_step"]) for one in reports[started:]] == [(3, 14)] * 3
    assert [one["epoch"] for one in reports[started:]] == [3, 4, 5]


def test_a_run_by_steps_reports_steps_only(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        weight = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=0.1)
        run.track(weight=weight, optimizer=optimizer)
        run.best("loss", mode="min", weights={"weight": weight})
        for step in run.steps(6, save_every=2):
            loss = (weight - 1).square().sum()
            step.optimise(loss, optimizer)
            step.average(mean=loss)
            if step.every(3):
                run.record(loss=loss.item())
        run.finish({"weight": weight})

    reports: list[dict[str, Any]] = []
    lines: list[str] = []
    hooks = Hooks(lambda session: None, lambda session: lines.append(line_of(session)), lambda: None)
    outcome = train(tmp_path / "1", study, reports=reports)
    assert outcome.position == "step 6/6"
    assert [(one["unit"], one["step"], one["steps"]) for one in reports[1:]] == [("step", n, 6) for n in (2, 4, 6)]
    assert not any({"epoch", "epochs", "seconds_per_epoch"} & one.keys() for one in reports[1:])
    metrics = metrics_of(tmp_path / "1")
    assert [list(one) for one in metrics["epochs"]] == [["stage", "step", "mean", "loss"]] * 2
    assert [one["step"] for one in metrics["epochs"]] == [3, 6], "the steps whose weights were measured"
    assert metrics["best"] == {"step": 6, "loss": metrics["epochs"][-1]["loss"]}
    (tmp_path / "2").mkdir()
    execute(study, with_settings(), Attempt(tmp_path / "2"), hooks)
    assert len(lines) == 2
    assert all("/6 (train): mean " in line for line in lines)


class Rising(SmallStudy):
    """Its best epoch is the second of the head, by the smallest distance."""

    values = (0.0, 0.0, 5.0, 3.0, 4.0)

    def begin(self, run: Run, name: str) -> torch.optim.Adam:
        optimizer = super().begin(run, name)
        if name == "head":
            self.shown = Value()
            run.best("distance", mode=self.mode, weights={"shown": self.shown, **self.modules})
        return optimizer

    def evaluate(self, epoch: Epoch) -> dict[str, float]:
        value = self.values[epoch.index + (2 if epoch.stage == "head" else 0)]
        if epoch.stage == "head":
            self.shown.value = value
        return {"distance": value}


def test_the_best_weights_are_those_of_the_best_epoch_of_the_last_loop(tmp_path: Path) -> None:
    seen: list[float] = []

    class Listening(Rising):
        def __call__(self, run: Run) -> None:
            super().__call__(run)
            seen.append(self.shown.value)

    train(tmp_path, Listening())
    assert metrics_of(tmp_path)["best"] == {"epoch": 4, "step": 16, "distance": 3.0}
    assert read_weights(tmp_path / "best.pth")["shown"] == seen[0] == 3.0, "as run.load_best loads it"


def test_a_larger_value_is_better_if_the_mode_is_max(tmp_path: Path) -> None:
    class Largest(Rising):
        mode = "max"
        values = (9.0, 9.0, 1.0, 3.0, 2.0)

    train(tmp_path, Largest())
    assert metrics_of(tmp_path)["best"] == {"epoch": 4, "step": 16, "distance": 3.0}


def test_without_a_metric_the_last_weights_are_the_best(tmp_path: Path) -> None:
    class WithoutMetric(SmallStudy):
        def begin(self, run: Run, name: str) -> torch.optim.Adam:
            optimizer = super().begin(run, name)
            run._session.rules.clear()
            run.best(None, weights=dict(self.modules))
            return optimizer

    outcome = train(tmp_path, WithoutMetric())
    metrics = metrics_of(tmp_path)
    assert (metrics["metric"], metrics["mode"], metrics["best"]) == (None, None, None)
    state = read_weights(tmp_path / "checkpoint.pth")["parts"]["head"]
    assert torch.equal(read_weights(tmp_path / "best.pth")["head"]["weight"], state["weight"])
    assert outcome.artifacts["best.pth"] == digest(tmp_path / "best.pth")


# Kept files


class Keeping(SmallStudy):
    """Keeps a whole checkpoint after each epoch, of which the last two stay, and files in the last."""

    def train_epoch(self, run: Run, epoch: Epoch, optimizer: torch.optim.Adam) -> None:
        super().train_epoch(run, epoch, optimizer)
        run.keep_checkpoint(last=2)
        if epoch.stage == "autoencoder" and epoch.index == 1:
            run.keep_checkpoint("between")
        run.keep("latest/weight.npy", self.modules[epoch.stage].weight)


def test_whole_checkpoints_are_kept_and_pruned_with_those_that_are_named(tmp_path: Path) -> None:
    outcome = train(tmp_path, Keeping())
    snapshots = {"snapshots/between.pth", "snapshots/epoch_00000004.pth", "snapshots/epoch_00000005.pth"}
    assert {name for name in kept_in(tmp_path) if name.startswith("snapshots/")} == snapshots
    assert snapshots <= outcome.artifacts.keys()
    content = read_weights(tmp_path / "snapshots/between.pth")
    assert (content["epoch"], content["step"]) == (2, 8)
    head = read_weights(tmp_path / "snapshots/epoch_00000005.pth")["parts"]["head"]
    assert torch.equal(head["weight"], read_weights(tmp_path / "checkpoint.pth")["parts"]["head"]["weight"])
    assert np.array_equal(np.load(tmp_path / "kept/latest/weight.npy"), head["weight"].numpy())


@pytest.mark.parametrize("stop_at", [5, 8, 9, 13, 17, 20])
def test_kept_files_and_checkpoints_are_those_of_a_run_that_was_never_stopped(tmp_path: Path, stop_at: int) -> None:
    straight = train(tmp_path / "straight", Keeping())
    assert not train(tmp_path / "1", Keeping(), stop_at=stop_at).finished
    resumed = train(tmp_path / "2", Keeping(), earlier=[tmp_path / "1"])
    assert resumed.final_hash == straight.final_hash
    assert resumed.artifacts.keys() == straight.artifacts.keys()
    assert kept_in(tmp_path / "2") == kept_in(tmp_path / "straight")
    for name in ("kept/latest/weight.npy", "kept/autoencoder.pth", "best.pth", "outputs.npz"):
        assert resumed.artifacts[name] == straight.artifacts[name]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3)])
def test_a_kept_image_has_the_pixels_that_were_given(shape: tuple[int, ...]) -> None:
    given = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape) * 9
    with Image.open(io.BytesIO(keep.encoded("a.png", given))) as image:
        assert np.array_equal(np.asarray(image), given)
