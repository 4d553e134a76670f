"""Evaluation of a model on held-out fields: validation during training, and the results on the test fields."""

from __future__ import annotations

import time
from collections.abc import Mapping

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
SHOWN = 8
"""Fields whose reconstructions are kept."""


def validation_psnr(model: Sampler, held_out: HeldOut, run: Run, options: Options) -> float:
    """Of single samples, with the same noise in each epoch; dB, the mean over the fields."""
    x0 = held_out.noise(1, run.generator("validation noise"))[0]
    return float(psnr(_fields(model, held_out, x0, options), held_out.fields).mean())


def test_results(
    model: Sampler, test: HeldOut, validation: HeldOut, run: Run, options: Options
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The arrays and final metrics of the run, with those of the baselines on the same fields."""
    flow = isinstance(model, FlowModel)
    x0 = test.noise(options.samples if flow else 1, run.generator("test noise"))
    began = _now(run.device)
    samples = torch.stack([_fields(model, test, one, options) for one in run.pausable(x0)])
    seconds = (_now(run.device) - began) / (samples.shape[0] * samples.shape[1])
    single, mean = samples[0], samples.mean(0)
    untrained = baselines(test.fields, test.seen, validation.fields, validation.seen)
    metrics = {name: float(value) for name, value in all_measures(single, test.fields).items()}
    metrics |= {"test_mean_psnr": float(psnr(mean, test.fields).mean()), "sample_seconds": seconds, **untrained.metrics}
    if isinstance(model, FlowModel):
        metrics |= _of_flow(model, test, x0[0], options, run.generator("blocks"))
    arrays = {
        "observed": _observed(test),
        "truth": test.fields,
        "sample": single,
        "sample_mean": mean,
        "error": mean - test.fields,
        "rbf": untrained.rbf,
    }
    shown: Mapping[str, Tensor] = {name: value[:SHOWN] for name, value in arrays.items()}
    return {**shown, "field_psnr": psnr(single, test.fields), "field_mean_psnr": psnr(mean, test.fields)}, metrics


def last_psnr(model: Sampler, test: HeldOut, run: Run, options: Options) -> dict[str, float]:
    """The test PSNR of single samples, for the weights of the last epoch."""
    x0 = test.noise(1, run.generator("test noise"))[0]
    return {"last_test_psnr": float(psnr(_fields(model, test, x0, options), test.fields).mean())}


def _of_flow(model: FlowModel, test: HeldOut, x0: Tensor, options: Options, draw: torch.Generator) -> dict[str, float]:
    """What only a flow has: few steps, straightness, and sampling of points as they are asked for in training."""
    found = {}
    for steps in FEW_STEPS:
        quick = reconstruct(model, test.task, x0, steps, "euler").view_as(test.fields)
        found[f"euler{steps}_psnr"] = float(psnr(quick, test.fields).mean())
    rows = test.task.rows(slice(0, SHOWN))
    found["straightness"] = model.straightness(rows, x0[:SHOWN], options.sample_steps)
    blocks = _blocks_as_in_training(model, options, draw)
    whole = reconstruct_in_blocks(model, test.task, x0, options.sample_steps, options.sampler, blocks)
    return {**found, "chunked_psnr": float(psnr(whole.view_as(test.fields), test.fields).mean())}


def _blocks_as_in_training(model: FlowModel, options: Options, draw: torch.Generator) -> list[Tensor]:
    """As many points, as far from each other: only then are the distances between tokens those of the training."""
    asked, side = model.design.queries(1, draw)
    if side is None:
        return scattered_blocks(options.size**2, asked.shape[1], draw)
    return square_blocks(options.size, side)


def _fields(model: Sampler, held_out: HeldOut, x0: Tensor, options: Options) -> Tensor:
    return reconstruct(model, held_out.task, x0, options.sample_steps, options.sampler).view_as(held_out.fields)


def _observed(held_out: HeldOut) -> Tensor:
    """The observed values (N, size, size), not a number elsewhere."""
    empty = torch.full_like(held_out.task.truth, torch.nan)
    return empty.scatter(1, held_out.seen, held_out.task.seen).view_as(held_out.fields)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
