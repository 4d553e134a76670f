"""Curves of a setting over its epochs: the mean over seeds with their range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from studies.flood.analysis.results import Run, Setting


@dataclass(frozen=True)
class Point:
    """Mean, lowest and highest value of `n` seeds at an epoch."""

    epoch: int
    mean: float
    low: float
    high: float
    n: int


def curve_of(setting: Setting, metric: str) -> list[Point]:
    """The curve over the epochs that all its seeds have; those of completed runs only, if there are any."""
    found = [one for one in (finite_series(run, metric) for run in setting.to_show()) if one]
    if not found:
        return []
    shared = sorted(set.intersection(*(set(one) for one in found)))
    values = {epoch: [one[epoch] for one in found] for epoch in shared}
    return [Point(epoch, math.fsum(ones) / len(ones), min(ones), max(ones), len(ones))
            for epoch, ones in values.items()]  # fmt: skip


def finite_series(run: Run, metric: str) -> dict[int, float]:
    """By epoch, where the metric is finite."""
    return {epoch: value for epoch, value in run.series(metric) if math.isfinite(value)}


def alike(curves: Sequence[tuple[str, Sequence[Point]]]) -> list[tuple[list[str], Sequence[Point]]]:
    """Equal curves together, with the labels of all that have them; curves may end at different epochs.

    Of curves that agree as far as both go, the longest stands for all.
    """
    made: list[tuple[list[str], Sequence[Point]]] = []
    for label, points in sorted(curves, key=lambda one: -len(one[1])):
        for labels, longer in made:
            shared = {one.epoch: one for one in longer}
            if all(one.epoch in shared and math.isclose(one.mean, shared[one.epoch].mean, rel_tol=1e-9)
                   and math.isclose(one.high, one.low) for one in points):  # fmt: skip
                labels.append(label)
                break
        else:
            made.append(([label], points))
    return [(sorted(labels), points) for labels, points in made]
