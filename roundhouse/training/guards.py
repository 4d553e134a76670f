"""What an epoch must not do: learn nothing without a word, or report numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Mapping

from roundhouse.errors import RoundhouseError
from roundhouse.training.task import Context

_FEW_STEPS = 50
_OURS = ("stage", "epoch", "seconds", "peak_memory_mb")  # what the loop itself writes into an epoch's record


def check_steps(recent: list[bool], context: Context, limit: float) -> None:
    """RoundhouseError if gradient scaling skips more than the share `limit` of the steps, or all of an epoch.

    Looked at are the epoch's steps, or the last 50 if it has fewer, because the scale must first find its level;
    `recent` holds them from one epoch to the next.
    """
    taken = context.steps
    if not taken:
        return
    recent.extend(taken)
    del recent[: -max(len(taken), _FEW_STEPS)]
    skipped, steps = recent.count(False), len(recent)
    if not any(taken) or (steps >= _FEW_STEPS and skipped > limit * steps):
        raise RoundhouseError(
            f"{skipped} of the last {steps} optimiser steps were skipped, up to stage {context.stage.name}, "
            f"epoch {context.epoch + 1}, because gradients overflowed at precision {context.precision.name}: compute "
            "the loss in float32 outside autocast, look for a square root or a division at 0, or take fp32 or bf16"
        )


def merge_metrics(trained: Mapping[str, float], evaluated: Mapping[str, float], context: Context) -> dict[str, float]:
    """One epoch's metrics, all finite. RoundhouseError: one is not, or two have one name."""
    twice = (trained.keys() & evaluated.keys()) | {name for name in _OURS if name in trained or name in evaluated}
    if twice:
        raise RoundhouseError(f"two metrics of stage {context.stage.name} have one name: {', '.join(sorted(twice))}")
    metrics = {name: float(value) for name, value in {**trained, **evaluated}.items()}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise RoundhouseError(
                f"metric {name} became {value} in stage {context.stage.name}, epoch {context.epoch + 1}: try a lower "
                "learning rate or precision fp32"
            )
    return metrics
