"""Evaluation of a model on held-out fields: validation during training, and the results on the test fields."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from roundhouse.training import Run
from studies.flow_matching.baselines import baselines
from studies.flow_matching.flow import FlowModel
from studies.flow_matching.held_out import (
    HeldOut,
    Sampler,
    reconstruct,
    reconstruct_in_blocks,
    scattered_blocks,
    square_blocks,
)
from studies.flow_matching.measures import all_measures, psnr
from studies.flow_matching.options import Options

FEW_STEPS = (1, 2, 4)
FEW_SAMPLES = 2
"""Samples of a field for the measures that only compare: few steps, blocks of points, the weights of the last epoch."""
SHOWN = 8
"""Fields whose reconstructions are kept."""


def validation_psnr(model: Sampler, held_out: HeldOut, run: Run, options: Options) -> float:
    """Of single samples, with the same noise in each epoch; dB, the mean over the fields."""
    x0 = held_out.noise(1, run.generator("validation noise"))
    return mean_psnr(sampled(model, held_out, x0, options), held_out)


def last_psnr(model: Sampler, test: HeldOut, run: Run, options: Options) -> dict[str, float]:
    """The test PSNR of single samples, for the weights of the last epoch."""
    x0 = test.noise(FEW_SAMPLES, run.generator("test noise"))
    return {"last_test_psnr": mean_psnr(sampled(model, test, x0, options), test)}


def test_results(
    model: Sampler, test: HeldOut, validation: HeldOut, run: Run, options: Options
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The arrays and final metrics of the run, with those of the baselines on the same fields.

    `test_psnr` and the other measures are those of single samples, averaged over all samples. `test_mean_psnr` is that
    of the mean of the samples.
    """
    x0 = test.noise(options.samples if isinstance(model, FlowModel) else 1, run.generator("test noise"))
    began = _now(run.device)
    samples = torch.cat([sampled(model, test, one[None], options) for one in run.pausable(x0)])
    seconds = (_now(run.device) - began) / (len(samples) * len(test.fields))
    mean = samples.mean(0)
    untrained = baselines(test.fields, test.seen, validation.fields, validation.seen)
    measured = [all_measures(one, test.fields) for one in samples]
    metrics = {name: float(torch.stack([one[name] for one in measured]).mean()) for name in measured[0]}
    metrics |= {"test_mean_psnr": mean_psnr(mean[None], test), "sample_seconds": seconds, **untrained.metrics}
    if isinstance(model, FlowModel):
        metrics |= _of_flow(model, test, x0[:FEW_SAMPLES], options, run.generator("blocks"))
        metrics["sample_spread"] = spread(samples, test)
    shown = {
        "observed": _observed(test),
        "truth": test.fields,
        "sample": samples[0],
        "sample_mean": mean,
        "error": mean - test.fields,
        "rbf": untrained.rbf,
    }
    arrays = {name: value[:SHOWN] for name, value in shown.items()}
    arrays["field_psnr"] = torch.stack([psnr(one, test.fields) for one in samples]).mean(0)
    arrays["field_mean_psnr"] = psnr(mean, test.fields)
    return arrays, metrics


def sampled(model: Sampler, held_out: HeldOut, x0: Tensor, options: Options) -> Tensor:
    """Samples (K, N, size, size) from noise (K, N, pixels)."""
    found = [reconstruct(model, held_out.task, one, options.sample_steps, options.sampler) for one in x0]
    return torch.stack(found).view(len(x0), *held_out.fields.shape)


def mean_psnr(samples: Tensor, held_out: HeldOut) -> float:
    """The mean over fields of the PSNR of each, of samples (K, N, size, size); dB."""
    return float(torch.stack([psnr(one, held_out.fields) for one in samples]).mean())


def spread(samples: Tensor, held_out: HeldOut) -> float:
    """The variance of samples (K, N, size, size), divided by the squared error of their mean; 1 for a perfect sampler.

    If the truth is one more draw from the same distribution, with variance s^2, the mean of K samples has the expected
    squared error s^2 (1 + 1/K). Below 1, the samples are more alike than their errors justify, which flatters the PSNR
    of single samples. 0 for one sample.
    """
    error = (samples.mean(0) - held_out.fields).square().mean() / (1 + 1 / len(samples))
    return float(samples.var(0, correction=min(1, len(samples) - 1)).mean() / error)


def _of_flow(model: FlowModel, test: HeldOut, x0: Tensor, options: Options, draw: torch.Generator) -> dict[str, float]:
    """What only a flow has: few steps, straightness, and sampling of points as they are asked for in training."""
    found = {}
    for steps in FEW_STEPS:
        quick = replace(options, sample_steps=steps, sampler="euler")
        found[f"euler{steps}_psnr"] = mean_psnr(sampled(model, test, x0, quick), test)
    rows = test.task.rows(slice(0, SHOWN))
    found["straightness"] = model.straightness(rows, x0[0, :SHOWN], options.sample_steps)
    blocks, steps = _blocks_as_in_training(model, options, draw), options.sample_steps
    parts = [reconstruct_in_blocks(model, test.task, one, steps, options.sampler, blocks) for one in x0]
    return {**found, "chunked_psnr": mean_psnr(torch.stack(parts).view(-1, *test.fields.shape), test)}


def _blocks_as_in_training(model: FlowModel, options: Options, draw: torch.Generator) -> list[Tensor]:
    """As many points, as far from each other: only then are the distances between tokens those of the training."""
    asked, side = model.design.queries(1, draw)
    if side is None:
        return scattered_blocks(options.size**2, asked.shape[1], draw)
    return square_blocks(options.size, side)


def _observed(held_out: HeldOut) -> Tensor:
    """The observed values (N, size, size), not a number elsewhere."""
    empty = torch.full_like(held_out.task.truth, torch.nan)
    return empty.scatter(1, held_out.seen, held_out.task.seen).view_as(held_out.fields)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
