"""Every task of the study flood, and every architecture, continues bit for bit after a stop or a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flood_tiny import WIDTHS, Inputs, Sets, few, run
from small_study import digest
from test_exact_resume import kill_and_resume, trainer

from roundhouse.training.execute import Outcome
from studies.flood.tasks import simulation

__all__ = ["trainer"]  # a fixture


def stopped_and_resumed(
    root: Path, stops: tuple[int, ...], task: str, inputs: Inputs | None = None, **config: Any
) -> Outcome:
    """A run that is stopped after each of these numbers of steps, always in a new folder; the last one is `last`."""
    earlier: list[Path] = []
    for stop_at in stops:
        here = root / str(stop_at)
        found = run(here, task, inputs, earlier, stop_at, **config)
        assert not found.finished and found.exact
        earlier.append(here)
    return run(root / "last", task, inputs, earlier, **config)


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_a_simulation_that_is_stopped_between_and_at_snapshots_gives_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, double: bool
) -> None:
    config = {"double": double, "hours": 0.1}
    straight = run(tmp_path / "straight", "simulation", **config)
    monkeypatch.setattr(simulation, "SOLVER_STEPS", 10)  # instead of all that there are until the next snapshot
    assert straight.finished
    found = stopped_and_resumed(tmp_path, (1, 3, 5, 8), "simulation", **config)
    assert found.metrics == straight.metrics
    files = [tmp_path / name / "kept/simulation.pth" for name in ("straight", "last")]
    assert digest(files[0]) == digest(files[1]) == straight.artifacts["kept/simulation.pth"]
    assert found.artifacts["outputs.npz"] == straight.artifacts["outputs.npz"]


@pytest.mark.parametrize("architecture", WIDTHS)
def test_a_training_of_every_architecture_resumes_exactly(tmp_path: Path, flood_sets: Sets, architecture: str) -> None:
    config = {
        "architecture": architecture, "width": WIDTHS[architecture], "batch_size": 8, "epochs": 2,
        "schedule": "plateau", "plateau_patience": 1,
    }  # fmt: skip
    inputs = few(flood_sets, tmp_path)
    straight = run(tmp_path / "straight", "training", inputs, **config)
    assert straight.finished
    assert stopped_and_resumed(tmp_path, (1, 3), "training", inputs, **config) == straight


@pytest.mark.parametrize("task", ["samples", "evaluation", "coarse"])
def test_the_other_tasks_resume_exactly(tmp_path: Path, flood_sets: Sets, flood_trained: Path, task: str) -> None:
    inputs: dict[str, Inputs] = {
        "samples": {"simulations_big": flood_sets.simulations("big")},
        "evaluation": flood_sets.of_evaluation(flood_trained),
        "coarse": flood_sets.of_coarse,
    }
    straight = run(tmp_path / "straight", task, inputs[task], set="big")
    assert straight.finished
    stops = {"samples": (1,), "evaluation": (1, 3, 5, 6), "coarse": (1,)}[task]
    assert stopped_and_resumed(tmp_path, stops, task, inputs[task], set="big") == straight


@pytest.mark.parametrize("kind", ["flood simulation", "flood training", "flood filled", "flood evaluation"])
def test_a_run_that_is_killed_at_random_moments_equals_one_never_killed(
    trainer: Any, tmp_path: Path, kind: str
) -> None:
    kill_and_resume(trainer, kind, 3, tmp_path)
