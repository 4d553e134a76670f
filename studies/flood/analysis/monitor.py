"""Convergence and overfitting of a training, from its losses by epoch: pure functions of two rows of numbers.

The *window* is a fifth of the epochs, at least 4 and at most 30. The *level* of a loss at an epoch is its mean over the
window around it, and that at the end is the mean over the last window. The *gap* is validation minus training loss. The
*trend* is the slope of the validation loss over the last window by least squares, relative to its level there, per
epoch; its error is the standard error of the slope.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONVERGED, FALLING, OVERFITTING, DIVERGED = "converged", "still falling", "overfitting", "diverged"
TOO_SHORT = "too few epochs"
SHARE, LEAST, MOST = 0.2, 4, 30  # of the window: of the epochs, and in epochs
FALLS = 0.01  # relative, over one window
RISES = 0.05  # relative, from the best epoch to the end
ERRORS = 3.0  # standard errors by which a slope must be below 0
RULES = (
    f"Verdicts, the first that holds: {DIVERGED}: a loss is not finite; {TOO_SHORT}: fewer than {LEAST + 1} epochs; "
    f"{DIVERGED} or {OVERFITTING}: from the best epoch to the end, the level of the validation loss rises by more than "
    f"{100 * RISES:g} %, and that of the training loss does so too, or does not; {FALLING}: the trend is below 0 by "
    f"more than {ERRORS:g} standard errors, and is {100 * FALLS:g} % or more in one window; else {CONVERGED}. The "
    f"window is a fifth of the epochs, from {LEAST} to {MOST}; a level is a mean over it."
)


@dataclass(frozen=True)
class Convergence:
    """How a training went. Gaps in m, `relative_gap` as a share of the validation loss at the best epoch.

    `trend`, `trend_error`: relative, per epoch. `rise`, `training_rise`: relative, from the level at the best epoch to
    that at the end.
    """

    epochs: int
    best_epoch: int  # by the validation loss; 0 without any
    best: float
    gap_at_best: float
    gap_at_end: float
    relative_gap: float
    window: int
    trend: float
    trend_error: float
    rise: float
    training_rise: float
    verdict: str


def window_of(epochs: int) -> int:
    """The epochs of the window of a training; never more than it has."""
    return min(epochs, max(LEAST, min(MOST, round(SHARE * epochs))))


def level(values: Floats, place: int, window: int) -> float:
    """The mean of values (n,) over a window around a place; near an end, over the first or last window.

    So all levels are of equally many epochs, and a curve that falls to its end has its best level there.
    """
    first = min(max(0, place - window // 2), max(0, len(values) - window))
    return float(values[first : first + window].mean())


def trend(values: Floats) -> tuple[float, float]:
    """The slope of values (n,) by least squares relative to their mean, and its standard error; NaN for n below 3."""
    n = len(values)
    if n < 3 or not np.isfinite(values).all() or values.mean() == 0:
        return math.nan, math.nan
    places = np.arange(n) - (n - 1) / 2
    spread = float((places**2).sum())
    slope = float((places * values).sum()) / spread
    rest = values - values.mean() - slope * places
    error = math.sqrt(float((rest**2).sum()) / (n - 2) / spread)
    return slope / float(values.mean()), error / abs(float(values.mean()))


def monitor(training: Sequence[float], validation: Sequence[float], *, diverged: bool = False) -> Convergence:
    """The convergence of a training from its losses of each epoch; `diverged`: it was ended because of that."""
    train, valid = np.asarray(training, dtype=np.float64), np.asarray(validation, dtype=np.float64)
    n = min(len(train), len(valid))
    train, valid = train[:n], valid[:n]
    finite = np.isfinite(valid)
    if not finite.any():
        lost = DIVERGED if n or diverged else TOO_SHORT
        return Convergence(n, 0, *(math.nan,) * 4, window_of(n), *(math.nan,) * 4, lost)
    best, window = int(np.nanargmin(np.where(finite, valid, np.nan))), window_of(n)
    gaps = valid - train
    slope, error = trend(valid[-window:])
    rises = [level(one, n - 1, window) / level(one, best, window) - 1 for one in (valid, train)]
    bad = diverged or not np.isfinite(gaps).all()
    return Convergence(
        n, best + 1, float(valid[best]), float(gaps[best]), float(gaps[-1]), float(gaps[best] / valid[best]),
        window, slope, error, rises[0], rises[1], DIVERGED if bad else _verdict(n, rises, slope, error),
    )  # fmt: skip


def _verdict(epochs: int, rises: Sequence[float], slope: float, error: float) -> str:
    """See `RULES`."""
    if epochs <= LEAST:
        return TOO_SHORT
    if rises[0] > RISES:
        return DIVERGED if rises[1] > RISES else OVERFITTING
    if slope < -ERRORS * error and -slope * window_of(epochs) >= FALLS:
        return FALLING
    return CONVERGED
