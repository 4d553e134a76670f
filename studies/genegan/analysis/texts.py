"""How the values of an arm, and a comparison, are written: with the spread over seeds, its interval, and n."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from analysis.rounding import alike, fixed, significant, with_interval, with_spread
from studies.genegan.analysis.comparisons import Compared

UNKNOWN = "--"


def over_seeds(values: Sequence[float], *, percent: bool = False) -> str:
    """`16.2 ± 0.4 (n 3)`: mean and standard deviation over seeds; a single value stands alone."""
    known = [one * (100 if percent else 1) for one in values if math.isfinite(one)]
    if not known:
        return UNKNOWN
    unit = " %" if percent else ""
    if len(known) == 1:
        return f"{significant(known[0], 4)}{unit} (n 1)"
    return f"{with_spread(statistics.fmean(known), statistics.stdev(known))}{unit} (n {len(known)})"


def difference(one: Compared) -> str:
    """`-1.2 (-2.0 to -0.4), n 3`, or `x 2.9 (2.8 to 3.0), n 3`; for fewer than three pairs, each difference."""
    n = len(one.own)
    if not n:
        return UNKNOWN
    scale, unit = (100.0, " points") if one.measure.percent else (1.0, f" {one.measure.unit}".rstrip())
    if one.measure.factor:
        return f"{_factor(one)}, n {n}"
    if one.singles:
        written = alike([value * scale for value in one.singles], sign=True)
        return f"{' and '.join(written(value * scale) for value in one.singles)}{unit}, n {n}"
    return f"{with_interval(one.value * scale, one.low * scale, one.high * scale)}{unit}, n {n}"


def _factor(one: Compared) -> str:
    if one.singles:
        return " and ".join(f"x {fixed(value, 2)}" for value in one.singles)
    return f"x {fixed(one.value, 2)} ({fixed(one.low, 2)} to {fixed(one.high, 2)})"
