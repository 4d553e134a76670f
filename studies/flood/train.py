"""One run: a flood is simulated, samples are cut, a surrogate is trained or evaluated, or the coarse solver is."""

from __future__ import annotations

from pathlib import Path

from roundhouse.training import Run
from studies.flood.options import Options
from studies.flood.tasks.coarse import run_coarse
from studies.flood.tasks.evaluation import evaluate
from studies.flood.tasks.inputs import Inputs
from studies.flood.tasks.samples import make_samples
from studies.flood.tasks.simulation import simulate
from studies.flood.tasks.training import fit

_TASKS = {
    "simulation": simulate,
    "samples": make_samples,
    "training": fit,
    "evaluation": evaluate,
    "coarse": run_coarse,
}


def train(run: Run, options: Options, inputs: Inputs, data: Path | None) -> None:
    """What the config key `task` says. All data are computed, so `data` is not used."""
    _TASKS[options.task](run, options, inputs)
