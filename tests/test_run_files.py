"""What a run keeps: values computed once, artefacts, whole checkpoints, several bests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_study import run_tiny

from roundhouse.errors import RoundhouseError
from roundhouse.training import Run, Value, read_weights
from roundhouse.training.keep import encoded


class StopAtStep:
    """Stops the run once the study has said that it is in this step."""

    def __init__(self, step: int) -> None:
        self.step, self.now = step, -1

    def __call__(self) -> str | None:
        return "signal TERM" if self.now >= self.step else None


def test_a_value_computed_once_is_not_computed_again_by_later_attempts(tmp_path: Path) -> None:
    computed: list[float] = []
    got: list[Any] = []
    stop = StopAtStep(3)

    def compute() -> dict[str, Any]:
        computed.append(float(len(computed)))
        return {"pairs": torch.full((2,), computed[-1]), "count": len(computed)}

    def study(run: Run) -> None:
        run.track(x=Value(0))
        for _ in run.steps(2, name="first"):
            pass
        got.append(run.once("pairs", compute))
        for step in run.steps(6, name="second"):
            stop.now = step.index

    assert not run_tiny(study, tmp_path / "1", stop=stop).finished
    outcome = run_tiny(study, tmp_path / "2", earlier=[tmp_path / "1"])
    assert computed == [0.0]
    assert [one["pairs"].tolist() for one in got] == [[0.0, 0.0]] * 2
    assert "kept/once/pairs.pth" in outcome.artifacts
    (tmp_path / "2" / "kept/once/pairs.pth").write_bytes(b"other")
    with pytest.raises(RoundhouseError, match="pairs.pth is corrupted"):
        run_tiny(study, tmp_path / "2")


def test_a_value_that_was_computed_survives_a_kill_right_after_it(tmp_path: Path) -> None:
    computed: list[int] = []

    def study(run: Run, dies: bool) -> None:
        run.track(x=Value(0))
        for _ in run.steps(2, name="first"):
            pass
        run.once("pairs", lambda: computed.append(1))
        if dies:
            raise KeyboardInterrupt
        for _ in run.steps(2, name="second"):
            pass

    with pytest.raises(KeyboardInterrupt):
        run_tiny(lambda run: study(run, True), tmp_path / "1")
    assert run_tiny(lambda run: study(run, False), tmp_path / "2", earlier=[tmp_path / "1"]).finished
    assert computed == [1]


@pytest.mark.parametrize(
    ("name", "data", "read"),
    [
        ("a.png", np.linspace(0, 1, 12).reshape(3, 4), None),
        ("a.png", torch.rand(3, 4, 5), None),
        ("a.png", np.zeros((4, 5, 3), np.uint8), None),
        ("a.npy", torch.arange(3), lambda path: np.load(path).tolist() == [0, 1, 2]),
        ("a.npz", {"x": [1.5], "y": torch.ones(2)}, lambda path: np.load(path)["y"].tolist() == [1, 1]),
        ("a.json", {"x": [1, None]}, lambda path: json.loads(path.read_text()) == {"x": [1, None]}),
        ("a.pth", {"x": torch.ones(2)}, lambda path: read_weights(path)["x"].tolist() == [1, 1]),
        ("notes/a.txt", "text", lambda path: path.read_text() == "text"),
        ("a.bin", b"\0\1", lambda path: path.read_bytes() == b"\0\1"),
    ],
)
def test_kept_artefacts_are_encoded_by_their_ending(
    name: str, data: Any, read: Callable[[Path], bool] | None, tmp_path: Path
) -> None:
    def study(run: Run) -> None:
        run.track(x=Value(0))
        for _ in run.steps(1):
            run.keep(name, data)

    assert f"kept/{name}" in run_tiny(study, tmp_path).artifacts
    path = tmp_path / "kept" / name
    if read is None:
        assert path.read_bytes().startswith(b"\x89PNG")
    else:
        assert read(path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", np.zeros((2, 2, 2, 2))),
        ("a.npz", [1, 2]),
        ("a.json", {1j: 2}),
        ("a.xyz", {"x": 1}),
        ("a.pth", {"x": {1}}),
    ],
)
def test_data_that_does_not_fit_the_ending_is_an_error(name: str, data: Any) -> None:
    with pytest.raises(RoundhouseError):
        encoded(name, data)


@pytest.mark.parametrize("name", ["../a", "/a", "a/../b", "", "a b", ".a", "a//b"])
def test_a_kept_file_cannot_leave_its_folder(name: str, tmp_path: Path) -> None:
    def study(run: Run) -> None:
        for _ in run.steps(1):
            run.keep(name, b"")

    with pytest.raises(RoundhouseError, match="cannot be the name of a kept file"):
        run_tiny(study, tmp_path)


def test_only_the_newest_whole_checkpoints_without_a_tag_are_kept(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        run.track(x=Value(0))
        for step in run.steps(10):
            if step.index == 2:
                run.keep_checkpoint("before")
            if step.every(2):
                run.keep_checkpoint(last=2)

    outcome = run_tiny(study, tmp_path)
    kept = sorted(path.name for path in (tmp_path / "snapshots").iterdir())
    assert kept == ["before.pth", "step_00000008.pth", "step_00000010.pth"]
    assert {f"snapshots/{name}" for name in kept} <= set(outcome.artifacts)
    content = torch.load(tmp_path / "snapshots" / "before.pth", weights_only=True)
    assert (content["step"], content["loops"]["train"]["done"]) == (3, 3), "after the step in which it was requested"


def test_a_checkpoint_that_is_dropped_is_deleted_once_the_checkpoint_of_the_run_does_not_name_it(
    tmp_path: Path,
) -> None:
    there: list[bool] = []

    def study(run: Run) -> None:
        run.track(x=Value(0))
        for step in run.steps(6, save_every=3):
            there.append((tmp_path / "snapshots/a.pth").exists())
            if step.index == 0:
                run.keep_checkpoint("a")
            if step.index == 4:
                run.drop_checkpoint("a")
                run.drop_checkpoint("never_kept")
        there.append((tmp_path / "snapshots/a.pth").exists())

    outcome = run_tiny(study, tmp_path)
    assert there == [False, True, True, True, True, True, False]
    assert "snapshots/a.pth" not in outcome.artifacts


@pytest.mark.parametrize("saved", [False, True], ids=["unsaved", "saved"])
def test_a_checkpoint_that_is_dropped_and_kept_again_is_the_new_one(saved: bool, tmp_path: Path) -> None:
    def study(run: Run, dies: bool) -> None:
        run.track(x=Value(0))
        for step in run.steps(6, save_every=2 if saved else 3):
            if step.index == 0:
                run.keep_checkpoint("a")
            if step.index == 3:
                run.drop_checkpoint("a")
                run.keep_checkpoint("a")
            if step.index == 4 and dies:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tiny(lambda run: study(run, True), tmp_path)
    outcome = run_tiny(lambda run: study(run, False), tmp_path)
    assert read_weights(tmp_path / "snapshots/a.pth")["step"] == 4
    assert "snapshots/a.pth" in outcome.artifacts


def test_a_checkpoint_that_was_kept_between_loops_and_dropped_is_not_kept_again_by_a_resume(tmp_path: Path) -> None:
    stop = StopAtStep(3)

    def study(run: Run) -> None:
        run.track(x=Value(0))
        for _ in run.steps(2, name="first"):
            pass
        run.keep_checkpoint("between")
        for step in run.steps(6, name="second"):
            stop.now = step.index
            if step.index == 1:
                run.drop_checkpoint("between")

    assert not run_tiny(study, tmp_path / "1", stop=stop).finished
    assert "snapshots/between.pth" not in run_tiny(study, tmp_path / "2", earlier=[tmp_path / "1"]).artifacts


def test_several_bests_have_their_own_metric_mode_and_file(tmp_path: Path) -> None:
    values = {"fid": [9.0, 3.0, 5.0], "accuracy": [0.1, 0.2, 0.4]}

    def study(run: Run) -> None:
        number = Value(0)
        run.track(number=number)
        run.best("fid", mode="min", weights={"number": number})
        run.best("accuracy", weights={"number": number}, file="most_accurate.pth")
        run.best(None, weights={"number": number}, file="last.pth")
        for step in run.steps(4):
            number.value = step.index
            if step.index:
                run.record(**{name: one[step.index - 1] for name, one in values.items()})
        run.load_best()
        run.finish(metrics={"loaded": number.value})

    outcome = run_tiny(study, tmp_path)
    found = {name: read_weights(tmp_path / name)["number"] for name in ("best.pth", "most_accurate.pth", "last.pth")}
    assert found == {"best.pth": 2, "most_accurate.pth": 3, "last.pth": 3}
    assert outcome.metrics == {"loaded": 2.0}
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["metric"], metrics["mode"], metrics["best"]["fid"]) == ("fid", "min", 3.0)


def test_a_run_needs_no_metric_and_no_best(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        run.track(x=Value(0))
        for epoch in run.epochs(2):
            for _ in epoch.batches(range(1)):
                pass

    outcome = run_tiny(study, tmp_path)
    assert outcome.finished
    assert "best.pth" not in outcome.artifacts
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["metric"], metrics["best"], len(metrics["epochs"])) == (None, None, 2)
