"""Config values as declared figures show them: numbers, order and text, and the scales of axes."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axis import XAxis, YAxis

from analysis.style import logarithmic
from roundhouse.store.metrics import finite


def text_of(value: Any) -> str:
    """A config value as text; equal numbers have equal texts."""
    if isinstance(value, str):
        return value
    size = as_number(value)
    if size is not None:
        return f"{size + 0.0:.12g}"  # without the minus of -0.0
    return "not set" if value is None else json.dumps(value, default=str)


def in_order(values: Iterable[Any]) -> list[str]:
    """The text of each value once: numbers by size, then the others in the order in which they come."""
    sizes = {text_of(value): as_number(value) for value in values}
    numbers = sorted((size, text) for text, size in sizes.items() if size is not None)
    return [text for _, text in numbers] + [text for text, size in sizes.items() if size is None]


def scale(axis: XAxis | YAxis, is_log: bool, values: Sequence[float]) -> None:
    """Make an axis of a panel linear or logarithmic."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log" if is_log else "linear"})
    if is_log:
        logarithmic(axis, min(values), max(values))


def as_number(value: Any) -> float | None:
    """A config value as a finite number; None for anything else, true and false included."""
    found = finite(value)
    return None if math.isnan(found) else found


def swept_geometrically(values: Iterable[float]) -> bool:
    """Whether a logarithmic axis suits these values: all positive, and their ratios more even than their differences.

    Three values at least; of two, a factor of 10 at least.
    """
    given = sorted(set(values))
    if len(given) < 2 or given[0] <= 0:
        return False
    if len(given) == 2:
        return given[1] / given[0] >= 10
    pairs = list(zip(given, given[1:], strict=False))
    ratios, differences = [math.log(high / low) for low, high in pairs], [high - low for low, high in pairs]
    return _unevenness(ratios) < _unevenness(differences)


def _unevenness(steps: Sequence[float]) -> float:
    return statistics.pstdev(steps) / statistics.fmean(steps)
