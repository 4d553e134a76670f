"""How numbers over seeds are written: the mean with its interval and n, or the values themselves if they are few."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from analysis.comparison import Comparison, mean_interval
from analysis.rounding import decimals, fixed, places, significant

UNKNOWN = "--"


def over_seeds(values: Sequence[float], *, percent: bool = False) -> str:
    """`0.41 (0.38 to 0.44), n 3`; two values: `0.38 and 0.44, n 2`."""
    known = [one * (100 if percent else 1) for one in values if math.isfinite(one)]
    unit = " %" if percent else ""
    if not known:
        return UNKNOWN
    if len(known) == 1:
        return f"{significant(known[0])}{unit}, n 1"
    interval = mean_interval(known)
    if not math.isfinite(interval.low):
        return f"{' and '.join(map(significant, known))}{unit}, n {len(known)}"
    mean = statistics.fmean(known)
    digits = decimals((interval.high - interval.low) / 2, mean)
    low, high = fixed(interval.low, digits), fixed(interval.high, digits)
    return f"{fixed(mean, digits)}{unit} ({low} to {high}), n {len(known)}"


def ranged(values: Sequence[float]) -> str:
    """`0.41 (0.38 to 0.44)`: the mean with the range, of any number of values; equal values stand alone."""
    known = [one for one in values if math.isfinite(one)]
    if not known:
        return UNKNOWN
    mean, low, high = map(significant, (statistics.fmean(known), min(known), max(known)))
    return mean if low == high else f"{mean} ({low} to {high})"


def difference(one: Comparison) -> str:
    """`-0.021 (-0.030 to -0.012), n 3`; fewer than three pairs: each difference."""
    if not one.n:
        return UNKNOWN
    if one.singles:
        written = (fixed(value, places(value, 3), sign=True) for value in one.singles)
        return f"{' and '.join(written)}, n {one.n}"
    digits = decimals((one.interval.high - one.interval.low) / 2, one.mean)
    mean, low, high = (fixed(value, digits, sign=True) for value in (one.mean, one.interval.low, one.interval.high))
    return f"{mean} ({low} to {high}), n {one.n}"


def factor(one: Comparison) -> str:
    """Of differences of logarithms: `x 0.93 (0.90 to 0.96), n 3`."""
    if not one.n:
        return UNKNOWN
    if one.singles:
        return f"{' and '.join(f'x {fixed(math.exp(value), 2)}' for value in one.singles)}, n {one.n}"
    mean, low, high = (fixed(math.exp(value), 2) for value in (one.mean, one.interval.low, one.interval.high))
    return f"x {mean} ({low} to {high}), n {one.n}"


def better(one: Comparison) -> str:
    """Of differences of a loss: `better`, `worse`, or `open` if the interval contains 0 or there is none."""
    return "better" if one.interval.high < 0 else "worse" if one.interval.low > 0 else "open"
