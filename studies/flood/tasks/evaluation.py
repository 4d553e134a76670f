"""The task `evaluation`: a trained surrogate on all sets, over several leads, and its time beside the solver's."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from roundhouse.training import Run
from studies.flood.coarse_solver import REPEATS, seconds_for_patch
from studies.flood.floods import Flood, draw
from studies.flood.options import Options
from studies.flood.predictions import Autocast, depth_metrics, predict, relative_metrics, rollout, shown
from studies.flood.samples import Samples
from studies.flood.surrogates import read_surrogate
from studies.flood.tasks.inputs import Inputs, all_samples, check_lead, check_whole, weights_of

TIMED_BATCH = 64


def evaluate(run: Run, options: Options, inputs: Inputs) -> None:
    """Nothing is learned: a step of the run is a split of a set, and all metrics are final ones.

    Those named `test` are of the test split of the config's set, as are rollouts and times.
    """
    network = read_surrogate(weights_of(inputs)).to(run.device)
    sets = all_samples(options, inputs)
    parts = [(name, split) for name, found in sets.items() for split in found.splits]
    arrays: dict[str, Tensor] = {}
    metrics: dict[str, float] = {}
    check_lead(options, sets[options.set].splits["test"])
    run.track(arrays=arrays, metrics=metrics)
    for step in run.steps(len(parts)):
        name, split = parts[step.index]
        samples = sets[name].splits[split].to(run.device)
        predicted = predict(network, samples, run.autocast)
        arrays[f"{name}_{split}_rae"] = predicted.errors()
        metrics |= relative_metrics(predicted, f"{name}_{split}")
        if (name, split) == (options.set, "test"):
            arrays |= shown(predicted, samples)
            metrics |= relative_metrics(predicted, "test") | depth_metrics(predicted, samples.spacing)
            metrics |= rollout(network, samples, options.leads, run.autocast)
    check_whole(run)
    tested = sets[options.set].splits["test"].to(run.device)
    parameters = sum(one.numel() for one in network.parameters())
    run.finish(arrays, {**metrics, **times(network, tested, options, run.autocast), "network_parameters": parameters})


def times(network: nn.Module, samples: Samples, options: Options, autocast: Autocast) -> dict[str, float]:
    """Computing times for one sample and one lead on this host, s: of the surrogate, of the solver; and their ratio."""
    surrogate, solver = surrogate_seconds(network, samples, autocast), solver_seconds(samples, options)
    return {"predict_seconds": surrogate, "solver_seconds": solver, "time_ratio": surrogate / solver}


@torch.no_grad()
def surrogate_seconds(network: nn.Module, samples: Samples, autocast: Autocast) -> float:
    """The fastest of several batches, after one that is not counted; the inputs are on the device."""
    batch = samples.batch(samples.upright()[:TIMED_BATCH])
    found = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        with autocast():
            network(batch.terrain, batch.depth, batch.boundary).sum().item()  # which waits for a GPU
        found.append(time.perf_counter() - began)
    return min(found[1:]) / len(batch.depth)


def solver_seconds(samples: Samples, options: Options) -> float:
    """Of the simulator, for the first flood of these samples, on the CPU."""
    ground, table = draw(options.set, samples.simulations[0], samples.depths.shape[-1], options.hours)
    depths = samples.depths[0].cpu()
    instants = 60.0 * options.snapshot_minutes * torch.arange(len(depths), dtype=torch.float64)
    nothing = torch.zeros(len(depths))
    flood = Flood(options.set, samples.simulations[0], ground, table, instants, depths, nothing, nothing)
    return seconds_for_patch(flood, options.lead, 1)
