"""Every version of the flow matching study trains, samples, saves and resumes exactly."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import comparable, train, with_settings
from test_exact_resume import kill_and_resume, trainer

from roundhouse.training.execute import Outcome
from studies.flow_matching.options import Options
from studies.flow_matching.train import train as train_flow

__all__ = ["trainer"]  # a fixture
TINY: dict[str, Any] = {
    "size": 6, "observations": 6, "queries": 9, "fields": 8, "validation_fields": 2, "test_fields": 2, "epochs": 2,
    "batch_size": 8, "validate_every": 1, "d_model": 8, "heads": 2, "num_layers": 2, "sample_steps": 2, "samples": 2,
    "reflow_epochs": 2, "reflow_pairs": 1,
}  # fmt: skip
ALL = range(1, 11)
SETS = [
    (), *((number,) for number in ALL), *combinations(ALL, 2), *combinations(range(1, 6), 3),
    *((1, 6, x) for x in (2, 3, 4, 5, 7, 8, 9, 10)), *((1, x, 7) for x in (2, 3, 4, 5, 8, 9, 10)),
    *((2, 6, x) for x in (3, 4, 5, 7, 8, 9, 10)), *((2, x, 7) for x in (3, 4, 5)), *combinations(range(1, 6), 4),
    (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 7), *(tuple(x for x in ALL if x != left) for left in (10, 9, 8)), tuple(ALL),
]  # fmt: skip
"""The base, the hundred versions, and all ten."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(directory: Path, earlier: tuple[Path, ...] = (), stop_at: int | None = None, **config: Any) -> Outcome:
    options = Options(**{**TINY, **config})
    settings = with_settings(seed=1)
    outcome = train(directory, lambda run: train_flow(run, options, {}, None), settings, earlier, stop_at=stop_at)
    metrics = {name: value for name, value in outcome.metrics.items() if name != "sample_seconds"}
    return comparable(dataclasses.replace(outcome, metrics=metrics))


def test_the_sets_are_those_of_102_versions() -> None:
    assert len(SETS) == len({frozenset(one) for one in SETS}) == 102


@pytest.mark.parametrize("numbers", SETS, ids=lambda numbers: "+".join(map(str, numbers)) or "base")
def test_a_version_that_is_stopped_after_each_step_equals_one_never_stopped(
    tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    techniques = "+".join(map(str, numbers))
    straight = run(tmp_path / "straight", techniques=techniques)
    steps = 4 if 1 in numbers else 2
    folders: list[Path] = []
    for step in range(1, steps):
        here = tmp_path / str(step)
        stopped = run(here, tuple(folders), step, techniques=techniques)
        assert not stopped.finished and stopped.exact
        folders.append(here)
    resumed = run(tmp_path / "last", tuple(folders), techniques=techniques)
    assert straight.finished and resumed == straight
    with np.load(tmp_path / "last/outputs.npz") as arrays:
        assert np.isfinite(arrays["sample"]).all() and arrays["sample"].std() > 0


@pytest.mark.parametrize("kind", ["flow", "flow 1+3+7", "flow 4+5+6+9+10", "flow 1+2+3+4+5+6+7+8+9+10"])
def test_a_version_that_is_killed_at_random_moments_equals_one_never_killed(
    trainer: Any, kind: str, tmp_path: Path
) -> None:
    kill_and_resume(trainer, kind, 3, tmp_path)


def test_a_regression_resumes_exactly(tmp_path: Path) -> None:
    straight = run(tmp_path / "straight", method="regression")
    assert not run(tmp_path / "1", stop_at=1, method="regression").finished
    assert run(tmp_path / "2", (tmp_path / "1",), method="regression") == straight
