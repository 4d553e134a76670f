"""How numbers are rounded for text, tables and labels: their digits follow their spread, and no zero has a sign."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

UNKNOWN = "?"
WIDE = 1000.0  # ratio of the largest to the smallest of several numbers above which each has its own decimals
DIGITS = 3  # of the difference between the largest and the smallest of several numbers


def decimals(spread: float, value: float = 0.0) -> int:
    """The decimals of numbers with this spread: two digits of it if it begins with 1 or 2, else one.

    So rounding adds little to the spread. Without a spread (0, NaN or infinite), four digits of the value.
    """
    if not math.isfinite(spread) or spread == 0:
        return places(value, 4)
    return places(spread, 2 if f"{abs(spread):e}"[0] in "12" else 1)


def places(value: float, digits: int) -> int:
    """The decimals at which a number has this many significant digits; never below 0."""
    if not math.isfinite(value) or value == 0:
        return digits - 1
    return max(0, digits - 1 - int(f"{abs(value):e}".split("e")[1]))


def fixed(value: float, decimals: int, *, sign: bool = False) -> str:
    """A number with this many decimals, with a plus sign on request; `0.00` and never `-0.00`."""
    if not math.isfinite(value):
        return UNKNOWN if math.isnan(value) else f"{value:+}" if sign else f"{value}"
    return f"{round(value, decimals) + 0.0:{'+' if sign else ''}.{decimals}f}"


def significant(value: float, digits: int = 3) -> str:
    """A number with at least this many significant digits: `0.109`, `65.5`, `1240`."""
    return fixed(value, places(value, digits))


def with_spread(mean: float, spread: float, *, sign: bool = False) -> str:
    """A mean, with a plus sign on request, and its spread, `19.94 ± 0.03`; a NaN is unknown: `19.94 ± ?`."""
    known = decimals(spread, mean)
    return f"{fixed(mean, known, sign=sign)} ± {fixed(abs(spread), known)}"


def with_interval(mean: float, low: float, high: float, spread: float | None = None) -> str:
    """A difference with its sign and its interval, `+2.0 (+1.1 to +2.9)`; an unknown interval is left out.

    The digits are those of `spread`; by default it is half of the interval.
    """
    known = decimals((high - low) / 2 if spread is None else spread, mean)
    text, *ends = (fixed(one, known, sign=True) for one in (mean, low, high))
    return f"{text} ({ends[0]} to {ends[1]})" if math.isfinite(low + high) else text


def alike(values: Iterable[float], *, sign: bool = False) -> Callable[[float], str]:
    """How to write numbers beside each other: all with the same decimals, so many that they differ.

    Never more than one digit beyond `DIGITS`; very large, small and widely ranging numbers have that many each.
    """
    given = [one for one in values if math.isfinite(one)]
    largest, least = max(map(abs, given), default=0.0) or 1.0, min(given, default=0.0)
    span = max(given, default=0.0) - least or largest
    known = min(places(span, DIGITS), places(largest, DIGITS + 1))
    if known > 4 or largest >= 1e5 or (least > 0 and largest / least > WIDE):
        return lambda value: f"{float(f'{value:.{DIGITS}g}') + 0.0:{'+' if sign else ''}g}"
    return lambda value: fixed(value, known, sign=sign)
