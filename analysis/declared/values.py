"""Values as declared figures show them: order and text of config values, digits of results."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axis import XAxis, YAxis

from analysis.declared.runs import number
from analysis.style import logarithmic

PLAIN = 1000.0  # ratio of the largest to the smallest number above which numbers have significant digits, not decimals
DIGITS = 3  # of the difference between the largest and the smallest number


def text_of(value: Any) -> str:
    """A config value as text; equal numbers have equal texts."""
    if isinstance(value, str):
        return value
    size = number(value)
    if size is not None:
        return f"{size + 0.0:.12g}"  # without the minus of -0.0
    return "not set" if value is None else json.dumps(value, default=str)


def in_order(values: Iterable[Any]) -> list[str]:
    """The text of each value once: numbers by size, then the others in the order in which they come."""
    sizes = {text_of(value): number(value) for value in values}
    numbers = sorted((size, text) for text, size in sizes.items() if size is not None)
    return [text for _, text in numbers] + [text for text, size in sizes.items() if size is None]


def listed(names: Sequence[str], most: int) -> str:
    """The first `most` names, which may contain commas, and how many more there are."""
    return "; ".join(names[:most]) + (f"; and {len(names) - most} more" if len(names) > most else "")


def scale(axis: XAxis | YAxis, is_log: bool, values: Sequence[float]) -> None:
    """Make an axis of a panel linear or logarithmic."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log" if is_log else "linear"})
    if is_log:
        logarithmic(axis, min(values), max(values))


def digits_for(values: Iterable[float], sign: str = "") -> Callable[[float], str]:
    """How to write these numbers: all with the same decimals, so many that they can be told apart.

    Never more than one digit beyond `DIGITS`; very large, small and widely ranging numbers have that many each. `sign`:
    `+` to write it always. Zero has no minus.
    """
    given = [one for one in values if math.isfinite(one)]
    largest, least = max(map(abs, given), default=0.0) or 1.0, min(given, default=0.0)
    span = max(given, default=0.0) - least or largest
    decimals = max(0, min(DIGITS - 1 - _power(span), DIGITS - _power(largest)))
    if decimals > 4 or largest >= 1e5 or (least > 0 and largest / least > PLAIN):
        return lambda value: _significant(value, sign)
    return lambda value: f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"


def _power(size: float) -> int:
    return math.floor(math.log10(size))


def _significant(value: float, sign: str) -> str:
    """`7680` and `2.3e+07`: no exponent where it is not needed."""
    return f"{float(f'{value:.{DIGITS}g}') + 0.0:{sign}g}"
