"""How numbers, counts and times are formatted in all output."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence


def number(value: float | None) -> str:
    """A metric in a table: four significant digits."""
    return "" if value is None else f"{value + 0.0:.4g}"  # 0.0 is added so that -0.0 is shown as 0


def counted(number: int, what: str, form: str = "") -> str:
    """`1 run`, `1240 runs`; with the format `,` for the number, `1,240 runs`."""
    return f"{number:{form}} {what}{'s' * (number != 1)}"


def abbreviated(texts: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first `most` texts, and how many more there are: `a, b and 3 more`."""
    return separator.join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def byte_size(count: int) -> str:
    """Space on a disk: `52.1 GB`, `800 MB`; powers of 1000."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def date_and_time(seconds: float) -> str:
    """A time in UTC, to the minute: `2026-01-31 09:05`."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def walltime(seconds: int) -> str:
    """H:MM:SS, as schedulers take it."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def duration(seconds: float) -> str:
    """A time in its two largest units: `2 d 4 h`, `3 h 20 min`, `45 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def spread(values: Iterable[float]) -> str:
    """A metric's mean and standard deviation over seeds; that of a single seed, or with a NaN, is unknown."""
    listed = list(values)
    if len(listed) < 2 or not math.isfinite(sum(listed)):
        return f"{number(sum(listed) / len(listed))} ± ?" if listed else ""
    import statistics

    return f"{statistics.mean(listed):.4f} ± {statistics.stdev(listed):.4f}"
