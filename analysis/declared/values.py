"""Values as declared figures show them: order and text of config values, digits of results."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axis import XAxis, YAxis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from analysis.declared.runs import number

PLAIN = 1000.0  # ratio of the largest to the smallest number, below which a logarithmic axis has plain numbers
DIGITS = 3  # of the difference between the largest and the smallest number


def text_of(value: Any) -> str:
    """A config value as text; equal numbers have equal texts."""
    if isinstance(value, str):
        return value
    size = number(value)
    if size is not None:
        return f"{size:.12g}"
    return "not set" if value is None else json.dumps(value, default=str)


def in_order(values: Iterable[Any]) -> list[str]:
    """The text of each value once: numbers by size, then the others in the order in which they come."""
    sizes = {text_of(value): number(value) for value in values}
    numbers = sorted((size, text) for text, size in sizes.items() if size is not None)
    return [text for _, text in numbers] + [text for text, size in sizes.items() if size is None]


def listed(names: Sequence[str], most: int) -> str:
    """The first `most` names, which may contain commas, and how many more there are."""
    return "; ".join(names[:most]) + (f"; and {len(names) - most} more" if len(names) > most else "")


def scale(axis: XAxis | YAxis, logarithmic: bool, values: Sequence[float]) -> None:
    """Make an axis of a panel linear or logarithmic; over few decades, its numbers have no powers of 10."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log" if logarithmic else "linear"})
    ratio = max(values) / min(values) if logarithmic else 0
    if 0 < ratio < PLAIN:
        axis.set_major_locator(MaxNLocator(5) if ratio < 4 else LogLocator(subs=(1, 2, 5) if ratio < 50 else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def digits_for(values: Iterable[float], sign: str = "") -> Callable[[float], str]:
    """How to write these numbers: all with the same decimals, so many that they can be told apart.

    Very large, very small and widely ranging numbers have three significant digits. `sign`: `+` to write it always.
    """
    sizes = [abs(one) for one in values if one]
    given = [one for one in values if math.isfinite(one)]
    span = max(given, default=0.0) - min(given, default=0.0) or max(sizes, default=1.0)
    decimals = max(0, DIGITS - 1 - math.floor(math.log10(span)))
    if decimals > 4 or max(sizes, default=0.0) >= 1e5 or (given and min(given) > 0 and max(given) / min(given) > 1e3):
        return lambda value: f"{value:{sign}.{DIGITS}g}"
    return lambda value: f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"
