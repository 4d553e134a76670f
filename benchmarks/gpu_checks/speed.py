"""Part `speed`: ResNet112 -> ResNet56, the plain loop against ours; kernels and memory of each kind of step."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import train_step
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu_checks.distillation import Case, train_once
from gpu_checks.report import MEASURED, Context
from roundhouse.settings import Settings
from studies.distillation.options import DISTILLING

FIRST, STEPS = 3, 5  # the steps of the second epoch that are profiled
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")


def run(context: Context) -> None:
    """The most important methods, what explains their speed, and then the other methods while there is time."""
    some, others = ["pure", "logit"], [method for method in DISTILLING if method != "logit"]
    kinds = [("fp32", "eager")] if context.small else list(product(("bf16", "fp32", "fp16"), ("graph", "eager")))
    for method in some:
        _attempt(context, f"{method}, plain loop and ours", compare, method)
    for precision, kind in kinds:
        _attempt(context, f"logit, {precision} {kind}", observe, "logit", precision, kind)
    for method in [] if context.small else others:
        _attempt(context, f"{method}, plain loop and ours", compare, method)


def _attempt(context: Context, name: str, work: Callable[..., None], *arguments: str) -> None:
    context.attempt(name, partial(work, context, name, *arguments), needs=0 if context.small else 12)


def networks(context: Context) -> tuple[str, str, int]:
    """Teacher, student, batch size."""
    return ("ResNet8", "ResNet8", 4) if context.small else ("ResNet112", "ResNet56", 128)


def compare(context: Context, name: str, method: str) -> None:
    """Images a second of the plain loop in float32, and of the study with its defaults."""
    teacher, student, batch = networks(context)
    steps = 1 if context.small else 25
    options = argparse.Namespace(
        teacher=teacher, student=student, batch=batch, rounds=1 if context.small else 2, steps=steps
    )
    count = batch * (steps + train_step.UNTIMED)
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    plain, ours = train_step.measure(method, options, images, Settings(device=context.device))
    text = f"plain {plain:.0f} images/s, ours {ours:.0f} images/s, ratio {ours / plain:.2f}"
    context.row(name, MEASURED, text, plain=plain, ours=ours, ratio=ours / plain)


def observe(context: Context, name: str, method: str, precision: str, kind: str) -> None:
    """Images a second, kernels and launches of a step, and the largest memory, for one kind of step."""
    teacher, student, batch = networks(context)
    batches = FIRST + STEPS + 1 if context.small else 20
    feeds: list[ObservedFeed] = []

    def wrap(feed: Any) -> ObservedFeed:
        feeds.append(ObservedFeed(feed, torch.device(context.device)))
        return feeds[-1]

    if not context.small:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    case = Case(method, precision, student, teacher, batch, batches, pixels=8 if context.small else 32)
    train_once(case, context.device, wrap, step=kind)
    values: dict[str, float] = {
        "images_per_second": feeds[0].timer.steps * batch / feeds[0].timer.seconds, **feeds[0].counts,
    }  # fmt: skip
    if not context.small:
        values["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    text = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in values.items())
    context.row(name, MEASURED, text, **values)


class ObservedFeed:
    """A feed whose steps are timed in the first epoch of `train`, and profiled in the second one."""

    def __init__(self, feed: Any, device: torch.device) -> None:
        self.steps, self.close = feed.steps, feed.close
        self.timer = train_step.StepTimer(device)
        self.counts: dict[str, float] = {}
        self._feed, self._device = feed, device

    def batches(self, epoch: Any, first: int) -> Iterator[Any]:
        batches = self._feed.batches(epoch, first)
        if epoch.stage != "train" or epoch.index > 1:
            yield from batches
        elif epoch.index == 0:
            yield from self.timer.timed(batches)
        else:
            yield from self._profiled(batches)

    def _profiled(self, batches: Iterator[Any]) -> Iterator[Any]:
        cuda = [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
        seen = profile(activities=[ProfilerActivity.CPU, *cuda])
        for number, batch in enumerate(batches):
            if number == FIRST:
                self._wait()
                seen.start()
            if number == FIRST + STEPS:
                self._wait()
                seen.stop()
                self.counts = counts(seen, STEPS)
            yield batch

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def counts(seen: profile, steps: int) -> dict[str, float]:
    """Kernels and launches for each step; without a GPU, the calls of PyTorch's operators, which stand in for them."""
    events = seen.events() or []
    kernels = [one for one in events if is_kernel(one)]
    if not kernels:
        return {"operators_in_a_step": sum(one.name.startswith("aten::") for one in events) / steps}
    busy = sum(one.device_time for one in kernels) / 1000 / steps
    launches = sum(one.name in LAUNCHES for one in events) / steps
    return {"kernels_in_a_step": len(kernels) / steps, "launches_in_a_step": launches, "gpu_busy_ms": busy}


def is_kernel(event: Any) -> bool:
    """Not a copy, and not a range of the profiler that has a place on the GPU's timeline."""
    annotation = getattr(event, "is_user_annotation", False)
    return event.device_type == DeviceType.CUDA and not annotation and not event.name.startswith("Mem")
