"""Whole runs of the flow matching study, tiny: phases, validation, results, and how a run can end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import metrics_of, train, with_settings
from test_flow_exact_resume import TINY

from roundhouse.errors import RoundhouseError
from roundhouse.training.execute import Outcome
from studies.flow_matching import train as study
from studies.flow_matching.metrics import ARRAYS, METRICS
from studies.flow_matching.options import Options

RECORDED = {"loss", "val_psnr", "flow_val_psnr", "consistency_loss", "spectral_loss"}
OF_PARTS = {"accumulation"}  # only if a batch is computed in parts
ONLY_OF_FLOWS = {"chunked_psnr", "straightness", "sample_spread", "euler1_psnr", "euler2_psnr", "euler4_psnr"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(directory: Path, limits: dict[str, Any] | None = None, **config: Any) -> Outcome:
    options = Options(**{**TINY, **config})
    return train(directory, lambda run: study.train(run, options, {}, None), with_settings(seed=1, **(limits or {})))


def epochs(directory: Path, metric: str) -> list[int]:
    """The epochs, over all phases, in which this metric was recorded."""
    return [row["epoch"] for row in metrics_of(directory)["epochs"] if metric in row]


@pytest.mark.parametrize("method", ["flow", "regression"])
def test_the_results_are_those_that_the_study_declares(tmp_path: Path, method: str) -> None:
    outcome = run(tmp_path / "run", method=method)
    assert outcome.reason == "completed"
    absent = RECORDED | OF_PARTS | (ONLY_OF_FLOWS if method == "regression" else set())
    assert set(outcome.metrics) == set(METRICS) - absent
    assert outcome.metrics["train_steps"] == 2
    with np.load(tmp_path / "run/outputs.npz") as arrays:
        assert set(arrays) == set(ARRAYS)
        assert np.isnan(arrays["observed"]).sum() == 2 * (36 - 6)
        assert np.allclose(arrays["error"], arrays["sample_mean"] - arrays["truth"])
        mean_error = np.square(arrays["error"]).mean((1, 2))
        assert np.allclose(arrays["field_mean_psnr"], -10 * np.log10(mean_error), atol=1e-4)
    assert (outcome.metrics["test_psnr"] == outcome.metrics["test_mean_psnr"]) == (method == "regression")


def test_test_results_are_those_of_the_best_validation(tmp_path: Path) -> None:
    """With a rate that destroys the weights, the first epoch is the best, and the last one is another."""
    outcome = run(tmp_path / "run", epochs=2, lr=0.3)
    metrics = metrics_of(tmp_path / "run")
    values = [row["val_psnr"] for row in metrics["epochs"]]
    assert metrics["best"]["val_psnr"] == values[0] > values[1]
    assert outcome.metrics["test_psnr"] != outcome.metrics["last_test_psnr"]
    same = run(tmp_path / "other", epochs=1, lr=0.3).metrics
    assert outcome.metrics["test_psnr"] == same["test_psnr"]


@pytest.mark.parametrize("techniques", ["1", "1+7"])
def test_reflow_begins_with_the_evaluated_weights_of_the_first_phase(
    tmp_path: Path, techniques: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopted = []
    original = study.adopt

    def adopt(network: torch.nn.Module, weights: torch.nn.Module) -> None:
        before = [one.clone() for one in network.parameters()]
        original(network, weights)  # type: ignore[arg-type]
        adopted.append(any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)))

    monkeypatch.setattr(study, "adopt", adopt)
    outcome = run(tmp_path / "run", techniques=techniques, epochs=3, validate_every=2)
    assert adopted == [techniques == "1+7"], "only an average differs from the trained weights"
    assert epochs(tmp_path / "run", "flow_val_psnr") == [2, 3]
    assert epochs(tmp_path / "run", "val_psnr") == [5], "choices are made in the second phase"
    assert outcome.metrics["train_steps"] == 5


def test_technique_1_is_the_base_before_its_second_phase(tmp_path: Path) -> None:
    run(tmp_path / "base")
    run(tmp_path / "reflow", techniques="1")
    base, reflow = (metrics_of(tmp_path / name)["epochs"] for name in ("base", "reflow"))
    assert [row["loss"] for row in reflow[:2]] == [row["loss"] for row in base]
    assert [row["flow_val_psnr"] for row in reflow[:2]] == [row["val_psnr"] for row in base]
    assert [row["stage"] for row in reflow] == ["train", "train", "reflow", "reflow"]


def test_a_run_that_a_limit_ends_inside_an_epoch_is_validated_there(tmp_path: Path) -> None:
    outcome = run(tmp_path / "run", {"max_steps": 3}, epochs=4, fields=16, validate_every=4)
    assert outcome.finished and outcome.reason == "max steps"
    assert epochs(tmp_path / "run", "val_psnr") == [2], "the second epoch was cut after one of its two steps"
    assert outcome.metrics["train_steps"] == 3


def test_a_limit_before_reflow_is_an_error_that_says_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(RoundhouseError, match="'reflow'.*'max_epochs'"):
        run(tmp_path / "run", {"max_epochs": 1}, techniques="1")


def test_a_version_that_diverges_is_a_result(tmp_path: Path) -> None:
    outcome = run(tmp_path / "run", lr=1e30)
    assert outcome.diverged and "became nan" in outcome.reason
    assert "diverged" in metrics_of(tmp_path / "run")
