"""Results by setting: their mean and spread over seeds, and the noise that follows from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.rounds import RoundEntry


@dataclass(frozen=True)
class SettingResult:
    """Runs that differ in their seed alone, and their finite results in the unit that is shown."""

    label: str
    entries: tuple[RoundEntry, ...]
    values: tuple[float, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.entries[0].config

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds (n - 1); None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Noise:
    """The standard deviation over seeds, pooled over settings, and its degrees of freedom."""

    deviation: float
    freedom: int


def pooled_noise(settings: Iterable[SettingResult]) -> Noise | None:
    """The noise between the seeds of these settings; None if each has one value."""
    pairs = [(one.n - 1, one.sd**2) for one in settings if one.sd is not None]
    freedom = sum(weight for weight, _ in pairs)
    if not freedom:
        return None
    return Noise(math.sqrt(sum(weight * square for weight, square in pairs) / freedom), freedom)


def mean_of(counts: Collection[int], what: str = "mean and standard deviation over seeds") -> str:
    """What points with these numbers of runs show, for a caption."""
    least, most = min(counts), max(counts)
    if most == 1:
        return "one run each, so the noise between seeds is unknown"
    return f"{what}, n {least}" + (f" to {most}" if most > least else "")
