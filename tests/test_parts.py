"""The number of parts of a batch is found with everything that an epoch computes, and is kept by a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_study import SETTINGS, run_tiny

from roundhouse.training import Run, read_weights
from studies.distillation import parts, train
from studies.distillation.objective import Objective
from studies.distillation.options import Options


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    options = Options(model="ResNet8", epochs=1, batch_size=64)
    run_tiny(lambda run: train.train(run, options, {}, None), tmp_path / "teacher")
    return tmp_path / "teacher"


def distil(options: Options, teacher: Path, directory: Path, stop: Any = lambda: None, **more: Any) -> Any:
    def study(run: Run) -> None:
        train.train(run, options, {"teacher": [teacher]}, None)

    return run_tiny(study, directory, SETTINGS, stop=stop, **more)


def parts_of(directory: Path) -> int:
    found: int = torch.load(directory / "checkpoint.pth", weights_only=True)["parts"]["accumulation"]
    return found


@pytest.mark.parametrize("where", ["training", "gradient_norms"])
def test_the_probe_computes_the_gradients_and_their_norms(
    where: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roundhouse.training.parts.PROBED", ("cuda", "cpu"))
    real = getattr(Objective, where)

    def limited(self: Objective, images: torch.Tensor, *rest: Any) -> Any:
        if len(images) > 16:
            raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB")
        return real(self, images, *rest)

    monkeypatch.setattr(Objective, where, limited)
    options = Options(model="ResNet8", method="logit", epochs=1, batch_size=64, accumulation="auto")
    assert distil(options, teacher, tmp_path / "1").finished
    assert parts_of(tmp_path / "1") == 4


def test_the_number_that_was_found_is_not_searched_again(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []
    monkeypatch.setattr(parts, "fewest_parts", lambda sizes, attempt: searched.append(1) or 2)
    options = Options(model="ResNet8", method="logit", epochs=3, batch_size=64, accumulation="auto")
    calls = iter(range(10**6))
    first = distil(options, teacher, tmp_path / "1", stop=lambda: "signal TERM" if next(calls) == 30 else None)
    assert not first.finished
    assert distil(options, teacher, tmp_path / "2", earlier=[tmp_path / "1"]).finished
    assert searched == [1]
    assert parts_of(tmp_path / "2") == 2
    assert read_weights(tmp_path / "2" / "best.pth")["model"] == "ResNet8"
