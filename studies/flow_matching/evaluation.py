"""Evaluation of a model on held-out fields: validation during training, and the results on the test fields."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from roundhouse.training import Run
from studies.flow_matching.baselines import baselines
from studies.flow_matching.flow import FlowModel
from studies.flow_matching.held_out import HeldOut, Sampler, reconstruct
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
        metrics |= _of_flow(model, test, x0[:FEW_SAMPLES], options)
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


def sampled(model: Sampler, held_out: HeldOut, x0: Tensor, options: Options, block: int | None = None) -> Tensor:
    """Samples (K, N, size, size) from noise (K, N, pixels). `block`: so many points of a field are sampled at once."""
    steps, sampler = options.sample_steps, options.sampler
    found = [reconstruct(model, held_out.task, one, steps, sampler, block) for one in x0]
    return torch.stack(found).view(len(x0), *held_out.fields.shape)


def mean_psnr(samples: Tensor, held_out: HeldOut) -> float:
    """The mean over fields of the PSNR of each, of samples (K, N, size, size); dB."""
    return float(torch.stack([psnr(one, held_out.fields) for one in samples]).mean())


def _of_flow(model: FlowModel, test: HeldOut, x0: Tensor, options: Options) -> dict[str, float]:
    """What only a flow has: few steps, straightness, and sampling of as many points at once as in training."""
    found = {}
    for steps in FEW_STEPS:
        quick = replace(options, sample_steps=steps, sampler="euler")
        found[f"euler{steps}_psnr"] = mean_psnr(sampled(model, test, x0, quick), test)
    rows = test.task.rows(slice(0, SHOWN))
    found["straightness"] = model.straightness(rows, x0[0, :SHOWN], options.sample_steps)
    return {**found, "chunked_psnr": mean_psnr(sampled(model, test, x0, options, options.queries), test)}


def _observed(held_out: HeldOut) -> Tensor:
    """The observed values (N, size, size), not a number elsewhere."""
    empty = torch.full_like(held_out.task.truth, torch.nan)
    return empty.scatter(1, held_out.seen, held_out.task.seen).view_as(held_out.fields)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
