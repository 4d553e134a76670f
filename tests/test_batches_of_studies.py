"""The studies compute batches in parts, and enlarge them, so that a resume gives the same bits; memory is emulated."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import test_flow_exact_resume as flow
import torch
from flood_tiny import Sets
from flood_tiny import run as run_flood
from small_study import metrics_of
from tiny_study import SETTINGS, run_tiny
from torch import Tensor

from roundhouse.training import Run, StudyError
from roundhouse.training.execute import Outcome
from studies.distillation import train as distillation
from studies.distillation.data import Dataset, load
from studies.distillation.objective import Objective
from studies.distillation.options import Options
from studies.flood.samples import read
from studies.flood.tasks import training as flood
from studies.flow_matching.flow import FlowModel

PARTS = {"techniques": "1+2+3+4+6+7+9", "dropout": 0.0}  # with all losses, and nothing drawn by the network
NO_ROOM = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU is treated like a GPU: a lack of memory is an error there."""
    monkeypatch.setattr("roundhouse.training.parts.PROBED", ("cuda", "cpu"))
    torch.set_num_threads(1)


# Flood


def limit_flood(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    real = flood.loss_of

    def limited(run: Run, network: torch.nn.Module, batch: Any) -> Tensor:
        if len(batch.depth) > room:
            raise torch.OutOfMemoryError(NO_ROOM)
        return real(run, network, batch)

    monkeypatch.setattr(flood, "loss_of", limited)


@pytest.mark.usefixtures("probed")
def test_a_filled_batch_of_flood_resumes_exactly_and_in_more_parts_with_less_memory(
    tmp_path: Path, flood_sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: dict[str, Any] = {"batch_size": 10, "accumulation": "auto", "largest_batch": 70, "epochs": 2}
    with monkeypatch.context() as patch:
        limit_flood(patch, 30)
        straight = run_flood(tmp_path / "straight", "training", flood_sets.small, **config)
        rows = metrics_of(tmp_path / "straight")["epochs"]
        assert [(one["effective_batch"], one["accumulation"]) for one in rows] == [(20, 1), (20, 1)]
        assert straight.metrics["effective_batch"] == 20
        asked = run_flood(tmp_path / "asked", "training", flood_sets.small, batch_size=20, epochs=2)
        assert asked.metrics["test_loss"] == straight.metrics["test_loss"]
        first = run_flood(tmp_path / "1", "training", flood_sets.small, stop_at=2, **config)
        assert not first.finished
        copytree(tmp_path / "1", tmp_path / "copy")  # a resume deletes the checkpoint that it has replaced
        assert run_flood(tmp_path / "2", "training", flood_sets.small, [tmp_path / "1"], **config) == straight
    limit_flood(monkeypatch, 7)
    smaller = run_flood(tmp_path / "3", "training", flood_sets.small, [tmp_path / "copy"], **config)
    assert (smaller.metrics["effective_batch"], smaller.metrics["accumulation"]) == (20, 4)
    assert not smaller.exact
    assert smaller.metrics["test_loss"] == pytest.approx(straight.metrics["test_loss"], rel=1e-2)


def test_a_larger_batch_of_flood_is_at_most_the_training_set(
    tmp_path: Path, flood_sets: Sets, monkeypatch: pytest.MonkeyPatch, probed: None
) -> None:
    limit_flood(monkeypatch, 1000)
    config: dict[str, Any] = {"batch_size": 16, "largest_batch": 10**6, "epochs": 1}
    found = run_flood(tmp_path, "training", flood_sets.small, **config)
    samples = len(read(flood_sets.samples("small") / "kept/samples.pth").splits["train"])
    assert samples / 2 < found.metrics["effective_batch"] <= samples


# Flow matching


@pytest.mark.parametrize("config", [PARTS, {"method": "regression", "dropout": 0.0}], ids=["flow", "regression"])
def test_parts_of_a_batch_of_flow_matching_have_its_random_numbers_and_its_gradient(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    """In three unequal parts."""
    entries = []
    for parts in (1, 3):
        place = tmp_path / str(parts)
        found = flow.run(place, accumulation=parts, **config)
        entries.append(metrics_of(place)["epochs"])
        assert found.metrics.get("accumulation", 1) == parts
    assert len(entries[0]) == len(entries[1])
    for whole, cut in zip(*entries, strict=True):
        names = {name for name in whole if name.endswith(("loss", "psnr"))}
        assert "loss" in names
        for name in names:
            assert cut[name] == pytest.approx(whole[name], rel=1e-4), name


@pytest.mark.parametrize("accumulation", [3, "auto"])
def test_parts_of_a_batch_of_flow_matching_resume_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probed: None, accumulation: int | str
) -> None:
    """With dropout; stopped in both phases."""
    real = FlowModel.loss

    def limited(self: FlowModel, task: Any, x0: Tensor, draw: Any, terms: Any = (), rows: slice = slice(None)) -> Any:
        if len(x0[rows]) > 3:
            raise torch.OutOfMemoryError(NO_ROOM)
        return real(self, task, x0, draw, terms, rows)

    monkeypatch.setattr(FlowModel, "loss", limited)
    config: dict[str, Any] = {"techniques": "1+6+10", "fields": 16, "accumulation": accumulation}
    straight = flow.run(tmp_path / "straight", **config)
    assert straight.finished and straight.metrics["accumulation"] == {3: 3, "auto": 4}[accumulation]
    folders: list[Path] = []
    for stop_at in (1, 5):
        here = tmp_path / str(stop_at)
        assert not flow.run(here, tuple(folders), stop_at, **config).finished
        folders.append(here)
    assert flow.run(tmp_path / "last", tuple(folders), **config) == straight


# Distillation


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    whole = load("digits", None)
    monkeypatch.setattr(distillation, "load", lambda name, folder, validation: whole)
    return whole


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    distil(tmp_path / "teacher", method="pure", epochs=1, batch_size=256)
    return tmp_path / "teacher"


def distil(
    directory: Path,
    teacher: Path | None = None,
    earlier: tuple[Path, ...] = (),
    calls: int = 10**6,
    **config: Any,
) -> Outcome:
    options = Options(**{"model": "ResNet8", "epochs": 2, **config})
    inputs = {"teacher": [teacher]} if teacher else {}
    left = iter(range(calls))
    stop = lambda: None if next(left, None) is not None else "preempted"  # noqa: E731
    study = lambda run: distillation.train(run, options, inputs, None)  # noqa: E731
    return run_tiny(study, directory, SETTINGS, stop=stop, earlier=earlier)


def limit_distillation(monkeypatch: pytest.MonkeyPatch, room: int, where: str = "training") -> None:
    real = getattr(Objective, where)

    def limited(self: Objective, images: Tensor, *rest: Any) -> Any:
        if len(images) > room:
            raise torch.OutOfMemoryError(NO_ROOM)
        return real(self, images, *rest)

    monkeypatch.setattr(Objective, where, limited)


@pytest.mark.usefixtures("probed", "digits")
def test_a_filled_batch_of_distillation_resumes_exactly_and_in_more_parts_with_less_memory(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: dict[str, Any] = {"method": "logit", "batch_size": 100, "accumulation": "auto", "largest_batch": 400}
    with monkeypatch.context() as patch:
        limit_distillation(patch, 300)
        straight = distil(tmp_path / "straight", teacher, **config)
        assert straight.metrics["effective_batch"] == 200
        assert not distil(tmp_path / "1", teacher, calls=4, **config).finished
        copytree(tmp_path / "1", tmp_path / "copy")
        assert distil(tmp_path / "2", teacher, (tmp_path / "1",), **config).final_hash == straight.final_hash
    limit_distillation(monkeypatch, 90)
    smaller = distil(tmp_path / "3", teacher, (tmp_path / "copy",), **config)
    assert smaller.metrics["effective_batch"] == 200 and not smaller.exact
    assert metrics_of(tmp_path / "3")["epochs"][-1]["accumulation"] == 4  # 2 are too few, and 3 do not divide 200


@pytest.mark.usefixtures("probed", "digits")
def test_a_filled_batch_equals_one_that_was_asked_for_and_learning_rates_scale_only_if_told_so(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_distillation(monkeypatch, 300)
    config: dict[str, Any] = {"method": "fitnets", "hint_epochs": 1, "epochs": 1, "accumulation": "auto"}
    filled = {**config, "batch_size": 64, "largest_batch": 1000}
    runs: list[dict[str, Any]] = [
        filled, {**config, "batch_size": 256},
        {**filled, "scale_lr": True, "preparation_lr": 0.02},
        {**config, "batch_size": 256, "lr": 0.4, "preparation_lr": 0.08},
    ]  # fmt: skip
    plain, asked, scaled, stated = (
        distil(tmp_path / str(index), teacher, **one).final_hash for index, one in enumerate(runs)
    )
    assert plain != scaled
    assert parts_of(tmp_path / "0") == parts_of(tmp_path / "1") and asked is not None
    assert parts_of(tmp_path / "2") == parts_of(tmp_path / "3") and stated is not None


def parts_of(directory: Path) -> str:
    """The state of what is tracked, apart from the batch that was found."""
    parts = torch.load(directory / "checkpoint.pth", weights_only=True)["parts"]
    return repr({name: value for name, value in parts.items() if name != "effective_batch"})


@pytest.mark.usefixtures("probed", "digits")
def test_what_a_stage_before_the_training_needs_limits_the_batch(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_distillation(monkeypatch, 150, where="preparation")
    config: dict[str, Any] = {
        "method": "factor_transfer", "paraphraser_epochs": 1, "epochs": 1, "accumulation": "auto"
    }  # fmt: skip
    found = distil(tmp_path / "1", teacher, batch_size=64, largest_batch=1000, **config)
    assert found.metrics["effective_batch"] == 128


def test_learning_rates_scale_only_with_a_batch_that_may_grow() -> None:
    with pytest.raises(StudyError, match="'scale_lr' needs 'largest_batch'"):
        Options(model="ResNet8", scale_lr=True)


def test_a_batch_grows_only_if_the_graph_of_a_step_is_tried_too() -> None:
    with pytest.raises(StudyError, match="'largest_batch' is 1000, and accumulation 1: set accumulation: auto"):
        Options(model="ResNet8", largest_batch=1000)
