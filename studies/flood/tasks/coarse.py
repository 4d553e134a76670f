"""The task `coarse`: how well, and how fast, the solver on a coarser grid predicts the test samples of a set."""

from __future__ import annotations

import torch
from torch import Tensor

from roundhouse.training import Run
from studies.flood.coarse_solver import coarse_changes, patches, seconds_for_patch
from studies.flood.floods import Flood
from studies.flood.options import Options
from studies.flood.predictions import BATCH, Predicted, depth_metrics, relative_metrics
from studies.flood.samples import Samples
from studies.flood.tasks.inputs import Inputs, all_samples, check_lead, check_whole, floods_of


def run_coarse(run: Run, options: Options, inputs: Inputs) -> None:
    """Nothing is learned: a step of the run is a test flood, and all metrics are final ones."""
    samples = all_samples(options, inputs)[options.set].splits["test"]
    by_number = {flood.number: flood for flood in floods_of(options, inputs, samples.simulations)}
    floods = [by_number[number] for number in samples.simulations]
    check_lead(options, samples)
    changes: list[Tensor] = []
    run.track(changes=changes)
    for step in run.steps(len(floods)):
        changes.append(coarse_changes(floods[step.index], options.lead, options.factor))
    check_whole(run)
    predicted = predicted_by(changes, samples)
    metrics = depth_metrics(predicted, samples.spacing) | relative_metrics(predicted, "test")
    run.finish({f"{options.set}_test_rae": predicted.errors()}, metrics | times(floods[0], options))


def predicted_by(changes: list[Tensor], samples: Samples) -> Predicted:
    """The changes of each flood (S - lead, H, W) as predictions for the samples."""
    batches = [samples.batch(some) for some in torch.split(samples.upright(), BATCH)]
    depth, true = (torch.cat([getattr(one, name)[:, 0] for one in batches]) for name in ("depth", "target"))
    return Predicted(depth, true, patches(changes, samples))


def times(flood: Flood, options: Options) -> dict[str, float]:
    """Computing times for one sample and one lead on this host, s; and their ratio."""
    coarse, fine = (seconds_for_patch(flood, options.lead, factor) for factor in (options.factor, 1))
    return {"predict_seconds": coarse, "solver_seconds": fine, "time_ratio": coarse / fine}
