"""Tiny runs of the study flood, for tests: floods of 12 minutes on 40x40 cells, and networks of few channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from small_study import comparable, train, with_settings

from roundhouse.training.execute import Outcome
from roundhouse.training.keep import encoded
from studies.flood import samples
from studies.flood.options import Options
from studies.flood.samples import SampleSet
from studies.flood.train import train as train_flood

# Water moves from the start, 5 pairs of snapshots and 4 patches; 30 steps of the solver from one to the next.
TINY: dict[str, Any] = {
    "cells": 40, "hours": 0.2, "snapshot_minutes": 2, "lead_minutes": 4, "stride": 8, "train": 1, "validation": 1,
    "test": 1, "architecture": "02", "width": 0.125, "epochs": 2, "batch_size": 40, "lr": 1e-3, "leads": 2,
}  # fmt: skip
WIDTHS = {"02": 0.125, "03": 0.0625, "04": 0.125, "05": 0.03125, "07": 0.125, "08": 0.2, "09": 0.0625}
"""Of tiny networks."""
SETS = {"small": 2, "big": 1}
"""Simulations for training of each set; one more is for validation, and one for tests."""
TIMES = ("predict_seconds", "solver_seconds", "time_ratio")
"""Metrics that differ from run to run."""
Inputs = Mapping[str, Sequence[Path]]


def run(
    directory: Path,
    task: str,
    inputs: Inputs | None = None,
    earlier: Sequence[Path] = (),
    stop_at: int | None = None,
    stop: Callable[[], str | None] = lambda: None,
    settings: Mapping[str, Any] | None = None,
    **config: Any,
) -> Outcome:
    """One attempt of a tiny run; its outcome without what depends on the speed of the host."""
    torch.set_num_threads(1)
    options = Options(task=task, **{**TINY, **config})
    study = lambda run: train_flood(run, options, inputs or {}, None)  # noqa: E731
    found = train(
        directory, study, with_settings(**{"seed": 0, **(settings or {})}), earlier, stop=stop, stop_at=stop_at
    )
    return comparable(replace(found, metrics={key: value for key, value in found.metrics.items() if key not in TIMES}))


@dataclass(frozen=True)
class Sets:
    """Where the simulations and the samples of both sets are."""

    folder: Path

    def simulations(self, name: str) -> list[Path]:
        return [self.folder / name / str(number) for number in range(SETS[name] + 2)]

    def samples(self, name: str) -> Path:
        return self.folder / name / "samples"

    @property
    def small(self) -> Inputs:
        """Inputs of a training."""
        return {"samples_small": [self.samples("small")]}

    def of_evaluation(self, trained: Path) -> Inputs:
        return {"C": [trained], **{f"samples_{name}": [self.samples(name)] for name in SETS}}

    @property
    def of_coarse(self) -> Inputs:
        return {"simulations_big": self.simulations("big"), "samples_big": [self.samples("big")]}


def make_sets(folder: Path, names: Sequence[str] = tuple(SETS)) -> Sets:
    """Simulate the floods of these sets, and cut their samples: about two seconds for both on a free core."""
    made = Sets(folder)
    for name in names:
        for number, place in enumerate(made.simulations(name)):
            run(place, "simulation", set=name, settings={"seed": number})
        inputs = {f"simulations_{name}": made.simulations(name)}
        run(made.samples(name), "samples", inputs, set=name, train=SETS[name])
    return made


def few(made: Sets, place: Path) -> Inputs:
    """Inputs of a training with every 10th sample of the small set, at `place`: 32 for training."""
    found = samples.read(made.samples("small") / "kept/samples.pth")
    some = {name: replace(one, places=one.places[::10]) for name, one in found.splits.items()}
    (place / "kept").mkdir(parents=True, exist_ok=True)
    content = samples.content(SampleSet(found.name, some))
    (place / "kept/samples.pth").write_bytes(encoded("samples.pth", content))
    return {"samples_small": [place]}
