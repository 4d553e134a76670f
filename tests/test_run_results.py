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
from small_study import SETTINGS, SmallStudy, StopAfter, digest, metrics_of, train, with_settings

from roundhouse.errors import RoundhouseError
from roundhouse.training import Epoch, Run, Value, keep, read_weights, timing
from roundhouse.training.execute import Attempt, Hooks, Outcome, Start, execute
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


def test_the_means_so_far_are_reported_between_steps_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def study(run: Run) -> None:
        weight = torch.zeros(2, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=0.1)
        run.track(weight=weight, optimizer=optimizer)
        for epoch in run.epochs(2):
            for step, batch in epoch.batches([1.0, 2.0, 6.0]):
                step.optimise((weight - batch).square().sum(), optimizer)
                step.average(size=batch)

    means: list[dict[str, float]] = []
    hooks = Hooks(lambda _: None, lambda _: None, lambda: None, lambda found: means.append(dict(found)))
    hashes = []
    for seconds in (math.inf, 0.0):
        monkeypatch.setattr(timing, "MEANS_EVERY", seconds)
        assert not means
        (tmp_path / str(seconds)).mkdir()
        hashes.append(execute(study, with_settings(), Attempt(tmp_path / str(seconds)), hooks).final_hash)
    assert means == 2 * [{"size": 1.0}, {"size": 1.5}, {"size": 3.0}]
    assert hashes[0] == hashes[1] is not None
    reports: list[dict[str, Any]] = []
    train(tmp_path / "reported", study, reports=reports)
    assert [one["means"] for one in reports] == [{}, {"size": 3.0}, {"size": 3.0}], "of the last epoch"


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


# After a loop by steps


class Boxed:
    """Two loops by steps, measured after each third step and at the end of each loop; keeps the newest two checkpoints.

    `dies_at`: an exception that nothing catches, like a SIGKILL for the files, before this call of the library.
    """

    def __init__(self, steps: tuple[int, ...] = (8, 4), dies_at: int = -1) -> None:
        self.steps, self.calls = steps, dies_at
        self.measured: list[int] = []
        self.weight = torch.zeros(1, requires_grad=True)

    def call(self) -> None:
        self.calls -= 1
        if self.calls == -1:
            raise KeyboardInterrupt

    def __call__(self, run: Run) -> None:
        optimizer = torch.optim.SGD([self.weight], lr=0.1)
        run.track(weight=self.weight, optimizer=optimizer)
        run.best("distance", mode="min", weights={"weight": self.weight})
        for k, total in enumerate(self.steps):
            for step in run.steps(total, name=f"loop_{k}", save_every=2):
                loss = (self.weight - 1).square().sum()
                step.optimise(loss, optimizer)
                step.average(loss=loss)
                if step.every(3):
                    self.measure(run)
            self.measure(run)
        self.call()
        run.load_best()
        for _ in run.pausable(range(2)):
            self.call()
        run.finish({"weight": self.weight}, {"weight": self.weight.item()})
        self.call()

    def measure(self, run: Run) -> None:
        if run.recorded("distance"):
            return
        self.call()
        run.record(distance=abs(self.weight.item() - 0.6))  # it is passed before the end
        self.measured.append(run.history[-1]["step"])
        self.call()
        run.keep_checkpoint(f"at_{self.measured[-1]}")
        run.keep("latest", f"at_{self.measured[-1]}.pth")
        self.call()
        for row in [row for row in run.history if "distance" in row][:-2]:
            run.drop_checkpoint(f"at_{row['step']}")


def result_of(directory: Path, outcome: Outcome) -> dict[str, Any]:
    assert outcome.finished
    names = {name for name in outcome.artifacts if name.startswith("snapshots/")}
    assert {name for name in kept_in(directory) if name.startswith("snapshots/")} == names
    saved = read_weights(directory / "checkpoint.pth")
    assert saved["history"] == json.loads((directory / "metrics.json").read_text())["epochs"]
    assert saved["kept"] == {name: digest(directory / name) for name in saved["kept"]}
    assert {name for name in saved["kept"] if name.startswith("snapshots/")} == names
    latest = (directory / "kept/latest").read_text()
    assert read_weights(directory / "snapshots" / latest)["step"] == saved["step"]
    best = digest(directory / "best.pth")
    return {"hash": outcome.final_hash, "metrics": metrics_of(directory), "snapshots": names, "best": best}


def test_what_is_recorded_after_a_loop_by_steps_is_of_its_last_step(tmp_path: Path) -> None:
    result = result_of(tmp_path, train(tmp_path, Boxed()))
    rows = result["metrics"]["epochs"]
    assert [(row["stage"], row["step"]) for row in rows] == [
        ("loop_0", 3), ("loop_0", 6), ("loop_0", 8), ("loop_1", 11), ("loop_1", 12),
    ]  # fmt: skip
    losses = [0.64**k for k in range(12)]  # a step leaves 0.8 of the distance
    assert rows[2]["loss"] == pytest.approx(sum(losses[6:8]) / 2), "with the averages since the last entry"
    assert result["snapshots"] == {"snapshots/at_11.pth", "snapshots/at_12.pth"}


def test_weights_that_are_best_after_the_loop_are_the_best(tmp_path: Path) -> None:
    outcome = train(tmp_path, Boxed((4,)))
    assert metrics_of(tmp_path)["best"] == {"step": 4, "distance": pytest.approx(0.6 - (1 - 0.8**4), abs=1e-6)}
    assert outcome.metrics["weight"] == pytest.approx(1 - 0.8**4)
    assert read_weights(tmp_path / "best.pth")["weight"].item() == outcome.metrics["weight"]


def test_an_entry_after_a_loop_is_recorded_once_wherever_the_run_is_killed(tmp_path: Path) -> None:
    straight = result_of(tmp_path / "straight", train(tmp_path / "straight", Boxed()))
    counting = Boxed(dies_at=1000)
    train(tmp_path / "counting", counting)
    points = 1000 - counting.calls
    assert points == 5 * 3 + 4
    for k in range(points):
        first, second = tmp_path / f"{k}a", tmp_path / f"{k}b"
        with pytest.raises(KeyboardInterrupt):
            train(first, Boxed(dies_at=k))
        assert result_of(second, train(second, Boxed(), earlier=[first])) == straight, k


def test_an_entry_after_a_loop_is_recorded_once_wherever_the_run_is_stopped(tmp_path: Path) -> None:
    straight = result_of(tmp_path / "straight", train(tmp_path / "straight", Boxed()))
    counting = StopAfter(1000)
    train(tmp_path / "counting", Boxed(), stop=counting)
    for calls in range(1000 - counting.left):
        first, second = tmp_path / f"{calls}a", tmp_path / f"{calls}b"
        stopped, resumed = Boxed(), Boxed()
        assert not train(first, stopped, stop=StopAfter(calls)).finished
        assert result_of(second, train(second, resumed, earlier=[first])) == straight, calls
        assert stopped.measured + resumed.measured == [3, 6, 8, 11, 12], "none is measured twice"


def test_a_finished_run_that_is_executed_again_measures_nothing_again(tmp_path: Path) -> None:
    before = result_of(tmp_path, train(tmp_path, Boxed()))
    again = Boxed()
    assert result_of(tmp_path, train(tmp_path, again)) == before
    assert again.measured == []


def continued(first: Path, there: Path, study: Boxed) -> dict[str, Any]:
    there.mkdir()
    attempt = Attempt(there, start=Start(first / "checkpoint.pth", keeps_position=True))
    hooks = Hooks(lambda session: None, lambda session: None, lambda: None)
    return result_of(there, execute(study, SETTINGS, attempt, hooks))


@pytest.mark.parametrize("limit", [2, 7, 8])
def test_a_finished_run_with_an_entry_after_its_loop_continues_with_more_steps(tmp_path: Path, limit: int) -> None:
    train(tmp_path / "first", Boxed((20,)), with_settings(max_steps=limit))
    study = Boxed((20,))
    result = continued(tmp_path / "first", tmp_path / "second", study)
    steps = [row["step"] for row in result["metrics"]["epochs"]]
    assert steps == sorted([3, 6, limit, 9, 12, 15, 18, 20])
    assert study.measured == [step for step in steps if step > limit]
    assert result["hash"] == train(tmp_path / "straight", Boxed((20,))).final_hash
    assert result["snapshots"] == {"snapshots/at_18.pth", "snapshots/at_20.pth"}
    expected = {"at_2.pth"} if limit == 2 else {"at_6.pth", f"at_{limit}.pth"}
    assert expected == {path.name for path in (tmp_path / "first/snapshots").iterdir()}


def test_the_best_weights_of_an_entry_after_the_loop_stay_the_best_in_a_continued_run(tmp_path: Path) -> None:
    train(tmp_path / "first", Boxed((20,)), with_settings(max_steps=4))
    result = continued(tmp_path / "first", tmp_path / "second", Boxed((20,)))
    assert result["metrics"]["best"]["step"] == 4, "no later value is nearer to 0.6"
    assert result["best"] == digest(tmp_path / "first/best.pth")


def test_a_metric_after_the_loop_that_is_not_finite_ends_the_run_as_diverged(tmp_path: Path) -> None:
    measured: list[float] = []

    def study(run: Run, again: float = math.nan) -> None:
        run.track(x=Value(0))
        for _ in run.steps(3):
            pass
        measured.append(0.0)
        run.record(distance=math.nan if len(measured) == 1 else again)

    outcome = train(tmp_path / "1", study)
    assert outcome.diverged and "metric distance became nan in the code between the loops" in outcome.reason
    assert len(measured) == 2, "it is confirmed"
    assert metrics_of(tmp_path / "1")["diverged"]["step"] == 3
    measured.clear()
    with pytest.raises(RoundhouseError, match="not reproducible"):
        train(tmp_path / "2", lambda run: study(run, 1.0))


def test_an_entry_without_metrics_closes_the_averages_once(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        run.track(x=Value(0))
        for step in run.steps(5):
            step.average(loss=float(step.index))
            if step.every(2):
                run.record()
            assert run.recorded() == step.every(2)
        assert not run.recorded()
        run.record()
        run.record()
        assert run.recorded("loss") and not run.recorded("loss", "other")

    train(tmp_path, study)
    assert [(row["step"], row["loss"]) for row in metrics_of(tmp_path)["epochs"]] == [(2, 0.5), (4, 2.5), (5, 4.0)]


def test_after_a_loop_that_was_left_with_break_the_entry_is_of_the_step_that_left_it(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        run.track(x=Value(0))
        for step in run.steps(9):
            if step.index == 4:
                break
        assert not run.recorded("distance")
        run.record(distance=1.0)
        assert run.recorded("distance")

    train(tmp_path, study)
    assert [(row["step"], row["distance"]) for row in metrics_of(tmp_path)["epochs"]] == [(5, 1.0)]
