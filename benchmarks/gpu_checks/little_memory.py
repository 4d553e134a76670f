"""Part `memory`: `accumulation: auto` in little GPU memory. The parts that it finds must carry the whole run."""

from __future__ import annotations

import gc
from functools import partial

import torch

from gpu_checks.distillation import TINY, Case, train_once
from gpu_checks.report import FAILED, OK, Context
from roundhouse.settings import Settings
from roundhouse.training.execute import prepare

GIGABYTES = (1.7, 2.8)


def run(context: Context) -> None:
    prepare(Settings(device=context.device))
    for method in ("logit", "rkd"):
        for gigabytes in GIGABYTES[:1] if context.small else GIGABYTES:
            name = f"{method} in {gigabytes:g} GB"
            context.attempt(name, partial(check, context, name, method, gigabytes), needs=5)


def check(context: Context, name: str, method: str, gigabytes: float) -> None:
    """A run with `auto`, and one with the number of parts that it has found: they must end with the same bits."""
    large = {"student": "ResNet56", "teacher": "ResNet112", "batch": 512, "batches": 2}
    case = Case(method, "fp32" if context.small else "bf16", **(TINY if context.small else large))
    limit_memory(context.device, gigabytes)
    found = train_once(case, context.device, accumulation="auto")
    limit_memory(context.device, gigabytes)
    parts = int(found.epochs[-1]["accumulation"])
    given = train_once(case, context.device, accumulation=parts)
    same = found.final_hash == given.final_hash
    text = f"{parts} parts, {found.seconds:.1f} s" + ("" if same else "; differs from a run with this number")
    context.row(name, OK if same else FAILED, text, parts=parts, seconds=found.seconds)


def limit_memory(device: str, gigabytes: float) -> None:
    """PyTorch must not allocate more on this device. What earlier runs have left is freed."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        index = torch.device(device).index or 0
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 1e9 / total), index)
