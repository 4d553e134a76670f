"""Whole runs of the GeneGAN study, tiny: results, kept files, exact resume in the middle, both objectives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_study import comparable, train, with_settings

from roundhouse.training.execute import Outcome
from studies.genegan.options import Options
from studies.genegan.train import train as train_genegan

TINY: dict[str, Any] = {
    "sizes": (32, 48), "width": 4, "images": 24, "batch_size": 4, "iterations": 6, "save_every": 3, "log_every": 2,
    "evaluation_images": 40, "feed": "device", "extractor": "small", "boost_every": 4, "boost_steps": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(
    directory: Path, data: Path, earlier: tuple[Path, ...] = (), stop_at: int | None = None, **config: Any
) -> Outcome:
    options = Options(**{**TINY, **config})
    outcome = train(
        directory, lambda run: train_genegan(run, options, {}, data), with_settings(seed=1), earlier, stop_at=stop_at
    )
    return comparable(outcome)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


ARMS: list[dict[str, Any]] = [
    {}, {"objective": "r1"}, {"resolution_mode": "random"}, {"outputs": "multiscale"}, {"block_conv": "both"},
]  # fmt: skip


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: "-".join(map(str, arm.values())) or "wgan")
def test_a_run_that_is_stopped_and_resumed_equals_one_never_stopped(
    tmp_path: Path, data: Path, arm: dict[str, Any]
) -> None:
    straight = run(tmp_path / "straight", data, **arm)
    assert straight.finished
    stopped = run(tmp_path / "1", data, stop_at=4, **arm)
    assert not stopped.finished and stopped.exact
    assert run(tmp_path / "2", data, (tmp_path / "1",), **arm) == straight
    assert {"test_add_fd", "test_remove_fd", "test_add_rate", "test_add_inside"} <= set(straight.metrics)
