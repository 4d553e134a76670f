"""Statistics for few seeds: paired tests with correction, intervals, power. No other module tests anything.

A run of a method and the run of its baseline with the same data set and seed are a pair; a comparison is the
differences of all pairs. Conclusions hold for these data sets only: if effects differ between data sets as much as
between seeds, and are 0 on average, the test on 4 x 3 pairs is below 0.05 in 17 % of cases.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtr, nctdtrinc, stdtr, stdtrit

from roundhouse.errors import RoundhouseError

Floats = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)
Name = TypeVar("Name", bound=Hashable)
Block = TypeVar("Block", bound=Hashable)

SHOWN_BELOW = 0.05
LEVEL = 0.95  # of all intervals
LEAST_VALUES = 3  # for an interval: of two values it would be 18 times their standard deviation wide
INTERVAL = f"{100 * LEVEL:g} % interval of the mean (Student's t, from {LEAST_VALUES} values on)"
POOLED = (
    "Pairs of several data sets count as independent values with one mean. Where data sets differ in the effect, the "
    "interval is wider than necessary for the mean over these data sets, and too narrow for other data sets."
)
POWER = 0.8  # of `pairs_needed` and `detectable`
MOST_PAIRS = 1000  # beyond, `pairs_needed` is infinite
LONGEST_EXACT = 16
# Records store accuracies in single precision, so differences of equal counts agree in about four digits only.
# Sums that differ by less than this share of the largest possible sum are ties. Too many ties only make p larger.
TIE = 1e-4


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`, in the unit of the values. Both are NaN if there are too few values."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences of `n` pairs: their mean, standard deviation (n - 1) and `mean_interval`.

    `p` is that of the sign-flip test, `p_holm` the same corrected for the family, `shown` whether that is below 0.05;
    the sign of `mean` gives the direction.
    """

    mean: float
    sd: float
    n: int
    p: float
    interval: Interval
    p_holm: float
    shown: bool

    @property
    def singles(self) -> tuple[float, ...]:
        """The differences themselves if they are too few for an interval; else none."""
        if self.n == 2:
            half = self.sd / 2**0.5
            return self.mean - half, self.mean + half
        return (self.mean,) if self.n == 1 else ()


# Tests


def sign_flip_test(differences: ArrayLike, *, draws: int = 20_000, seed: int = 0) -> float:
    """Two-sided p-value of the mean of paired differences (n,): how often random signs give one as far from 0.

    Valid if without an effect each difference is equally likely to have either sign, for any tails and unequal
    spreads. Exact over all 2^n signs up to n = 16; beyond, `draws` random ones, the observed ones counted once
    more (Phipson and Smyth 2010). Zeros stay in. NaN for no pairs, 1 if all are 0.
    """
    values = _finite(differences, "differences")
    if not values.any():
        return 1.0 if len(values) else float("nan")
    values = values / np.abs(values).max()
    as_far = abs(values.sum()) - TIE * np.abs(values).sum()
    if len(values) > LONGEST_EXACT:
        signs = 2 * np.random.default_rng(seed).integers(0, 2, (draws, len(values)), dtype=np.int8) - 1
        return float((1 + np.count_nonzero(np.abs(signs @ values) >= as_far)) / (1 + draws))
    sums = values[:1]  # with a fixed sign: the other half of the assignments is symmetric
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(np.abs(sums) >= as_far))


def smallest_p(n: int) -> float:
    """The smallest p-value that `sign_flip_test` can find in `n` pairs: 0.25 in 3, 0.0005 in 12. NaN for none."""
    return 2.0 ** (1 - n) if n else float("nan")


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order (Holm 1979), which bound the probability of any false claim in the family.

    NaN is not a member of the family, and stays NaN. RoundhouseError: a value that is not a probability.
    """
    given = np.asarray(p_values, dtype=np.float64)
    if wrong := [one for one in given if one < 0 or one > 1]:
        raise RoundhouseError(f"holm: p-values must be numbers from 0 to 1, or NaN (got {wrong[0]})")
    members = np.flatnonzero(~np.isnan(given))
    order = members[np.argsort(given[members], kind="stable")]
    adjusted = given.copy()
    stepped = given[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(one) for one in adjusted]


def student_p(value: float, error: float, freedom: int) -> float:
    """Two-sided p-value of a normal value with this standard error, estimated with so many degrees of freedom.

    For effects that are estimated from many settings together, which have no pairs whose signs could be flipped.
    """
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(value) / error))


# Comparisons


def compare(differences: ArrayLike, *, seed: int = 0) -> Comparison:
    """One comparison that is a family of its own. Comparisons that are reported together belong into one `family`."""
    values = _finite(differences, "differences")
    n = len(values)
    p = sign_flip_test(values, seed=seed)
    return Comparison(
        mean=float(values.mean()) if n else float("nan"),
        sd=float(values.std(ddof=1)) if n > 1 else float("nan"),
        n=n,
        p=p,
        interval=mean_interval(values),
        p_holm=p,
        shown=p < SHOWN_BELOW,
    )


def family(comparisons: Mapping[Key, ArrayLike], *, seed: int = 0) -> dict[Key, Comparison]:
    """All comparisons of one question, from their differences by name, corrected by `holm`.

    Comparisons without pairs have NaN, are not shown, and do not count. m comparisons of n pairs can show a difference
    only if m * smallest_p(n) is below 0.05.
    """
    found = {key: compare(_finite(values, f"differences of {key}"), seed=seed) for key, values in comparisons.items()}
    adjusted = holm([one.p for one in found.values()])
    return {
        key: replace(one, p_holm=p, shown=p < SHOWN_BELOW)
        for (key, one), p in zip(found.items(), adjusted, strict=True)
    }


def beats_all(best: Mapping[Block, float], others: Mapping[Name, Mapping[Block, float]]) -> bool:
    """Whether `best` is shown to be higher than every other row, on the blocks (data set and seed) that they share.

    Holm-corrected over the rows. False if there is no other row, or if a row shares no block.
    """
    differences = {name: [best[block] - row[block] for block in best if block in row] for name, row in others.items()}
    found = family(differences).values()
    return bool(found) and all(one.shown and one.mean > 0 for one in found)


# Intervals


def mean_interval(values: ArrayLike) -> Interval:
    """The interval of the mean of `values` (n,), which are paired differences or one value a seed; see `INTERVAL`.

    Simulated, it contains the mean in 95 % of cases for normal values, in 96 % for heavy tails (Student's t with 3
    degrees of freedom), and in 88 to 90 % for a strong skew (exponential), for n of 3 to 12.
    """
    given = _finite(values, "values")
    if len(given) < LEAST_VALUES:
        return Interval(float("nan"), float("nan"))
    half = half_width(float(given.std(ddof=1) / np.sqrt(len(given))), len(given) - 1)
    return Interval(float(given.mean()) - half, float(given.mean()) + half)


def half_width(error: float, freedom: int, comparisons: int = 1) -> float:
    """Half of the interval of a value with this standard error, estimated with so many degrees of freedom.

    With several `comparisons`, the intervals of all contain their values together in 95 % of cases (Bonferroni).
    """
    return float(stdtrit(freedom, 1 - (1 - LEVEL) / 2 / comparisons)) * error


# Power. Estimates: differences are taken as normal, and as tested by Student's t at Holm's first step.


def least_pairs(comparisons: int) -> int:
    """The fewest pairs that can show anything in a family of this many comparisons: 6 for one, 10 for 18."""
    n = 1
    while smallest_p(n) * comparisons >= SHOWN_BELOW:
        n += 1
    return n


def pairs_needed(one: Comparison, comparisons: int) -> float:
    """With how many pairs a difference of this mean and spread is shown in 80 % of cases, in a family of this size.

    Infinite for more than `MOST_PAIRS`; NaN if there are too few pairs to estimate the spread.
    """
    if one.n < LEAST_VALUES:
        return float("nan")
    counts = range(least_pairs(comparisons), MOST_PAIRS + 1)
    if one.sd == 0:
        return float(counts[0]) if one.mean else float("inf")

    def power(n: int) -> float:
        found = 1 - float(nctdtr(n - 1, abs(one.mean) / one.sd * np.sqrt(n), _critical(n, comparisons)))
        return 1.0 if np.isnan(found) else found  # scipy has no value where it is practically 1

    place = bisect_left(counts, POWER, key=power)
    return float(counts[place]) if place < len(counts) else float("inf")


def detectable(one: Comparison, comparisons: int) -> float:
    """The smallest mean that `one.n` pairs of this spread show in 80 % of cases; NaN if they cannot show any."""
    if one.n < max(LEAST_VALUES, least_pairs(comparisons)):
        return float("nan")
    shift = nctdtrinc(one.n - 1, 1 - POWER, _critical(one.n, comparisons))
    return float(shift * one.sd / np.sqrt(one.n))


def _critical(n: int, comparisons: int) -> float:
    """The value of Student's t beyond which the first step of `holm` shows a difference of `n` pairs."""
    return float(stdtrit(n - 1, 1 - SHOWN_BELOW / comparisons / 2))


# Summaries of many runs


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Share of `scores` (runs,) that are at least each of `thresholds` (m,), as (m,); NaN without runs.

    As in Agarwal et al. 2021: a curve that is above another everywhere is better.
    """
    reached, at = _finite(scores, "scores"), _finite(thresholds, "thresholds")
    if not len(reached):
        return np.full(len(at), np.nan)
    shares: Floats = np.mean(reached[:, None] >= at, axis=0)
    return shares


def _finite(values: ArrayLike, what: str) -> Floats:
    """An array (n,) of finite numbers."""
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1:
        raise RoundhouseError(f"{what}: must be one row of numbers (got shape {given.shape})")
    if len(wrong := np.flatnonzero(~np.isfinite(given))):
        raise RoundhouseError(f"{what}: number {wrong[0]} is {given[wrong[0]]}: leave unknown values out")
    return given
