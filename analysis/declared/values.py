"""Values as declared figures show them: order and text of config values, scales of axes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axis import XAxis, YAxis

from analysis.declared.runs import as_number
from analysis.style import logarithmic


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
