"""Lines that values are compared with in figures: which of them are drawn, and how they are named."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.rounding import significant


def is_near(value: float, values: Sequence[float]) -> bool:
    """Whether a line at `value` would leave the values about half of the axis, or more.

    The ranges are those of logarithms if all values are positive and not far apart.
    """
    low, high = min(values), max(values)
    if low > 0 and value > 0 and high / low < 10:
        span = max(high / low, 1.3)
        return low / span <= value <= high * span
    span = high - low or 0.1 * abs(high)
    return low - span <= value <= high + span


def labelled(label: str, value: float, near: bool) -> str:
    """`floor, added 1.50 (not on the axis)`."""
    return f"{label} {significant(value)}{'' if near else ' (not on the axis)'}"
