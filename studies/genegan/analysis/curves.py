"""Curves of an arm over its training: the mean over seeds with their range, by iteration or by seconds of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from studies.genegan.analysis.results import Arm, Run

ITERATIONS, SECONDS = "iterations", "seconds"
MOST_POINTS = 60
"""Rows of a curve; more are averaged, so that a noisy loss can be read."""


@dataclass(frozen=True)
class Point:
    """Mean, lowest and highest value of `n` seeds at a place of the x axis."""

    x: float
    mean: float
    low: float
    high: float
    n: int


def curve_of(arm: Arm, metric: str, over: str) -> list[Point]:
    """The curve over the range that all its runs have; between two values of a run, a straight line is taken.

    Completed runs only, if there are any. Seeds of a time box end at different iterations, so the range ends at the
    first end.
    """
    found = [one for one in (_series(run, metric, over) for run in arm.to_show()) if len(one)]
    if not found:
        return []
    start, end = max(one[0, 0] for one in found), min(one[-1, 0] for one in found)
    if start > end:
        return []
    places = np.unique([*found[0][(found[0][:, 0] >= start) & (found[0][:, 0] <= end), 0], start, end])
    values = np.array([np.interp(places, one[:, 0], one[:, 1]) for one in found])
    return [Point(float(x), float(column.mean()), float(column.min()), float(column.max()), len(found))
            for x, column in zip(places, values.T, strict=True)]  # fmt: skip


def _series(run: Run, metric: str, over: str) -> np.ndarray:
    """(points, 2): places and values, averaged in groups of neighbours if there are many."""
    series: Sequence[tuple[int, float]] = run.series(metric)
    scale = 1.0 if over == ITERATIONS else run.seconds_per_iteration
    if not series or not np.isfinite(scale):
        return np.empty((0, 2))
    groups = np.array_split(np.array(series, dtype=np.float64), min(len(series), MOST_POINTS))
    return np.array([group.mean(axis=0) for group in groups]) * [scale, 1.0]
