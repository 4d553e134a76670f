"""Checks after each epoch: too many skipped optimiser steps, metrics that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

from roundhouse.errors import RoundhouseError
from roundhouse.training.task import Context

_FEW_STEPS = 50
_RESERVED = ("stage", "epoch", "seconds", "peak_memory_mb")  # the loop itself writes these into an epoch's entry


def check_steps(recent: list[bool], context: Context, limit: float) -> None:
    """RoundhouseError if gradient scaling skipped more than the share `limit` of the steps, or all steps of an epoch.

    It counts the epoch's steps, or the last 50 if the epoch has fewer, because the first steps are skipped until the
    scale is low enough. `recent` holds these steps (True: taken) from one epoch to the next, and is changed.
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
            "the loss in float32 outside autocast, look for a square root or a division at 0, or set precision: fp32 "
            "or bf16"
        )


def merge_metrics(trained: Mapping[str, float], evaluated: Mapping[str, float], context: Context) -> dict[str, float]:
    """The metrics of one epoch. RoundhouseError: one is not finite, or two have the same name."""
    twice = (trained.keys() & evaluated.keys()) | {name for name in _RESERVED if name in trained or name in evaluated}
    if twice:
        raise RoundhouseError(
            f"two metrics of stage {context.stage.name} have the same name: {', '.join(sorted(twice))}"
        )
    metrics = {name: float(value) for name, value in {**trained, **evaluated}.items()}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise RoundhouseError(
                f"metric {name} became {value} in stage {context.stage.name}, epoch {context.epoch + 1}: try a lower "
                "learning rate or precision: fp32"
            )
    return metrics
