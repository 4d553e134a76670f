"""How much an attempt used its GPUs: means and maxima of what nvidia-smi reported while it ran."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

QUANTITIES = ("utilization", "memory_mb", "power_w")
MOST_GPUS = 16  # in one record


@dataclass(frozen=True, slots=True)
class GpuFigures:
    """Mean and maximum for one GPU: per cent of the time, MB, watts. None: the driver does not report it."""

    utilization: float | None = None
    utilization_max: float | None = None
    memory_mb: float | None = None
    memory_mb_max: float | None = None
    power_w: float | None = None
    power_w_max: float | None = None


@dataclass(frozen=True, slots=True)
class GpuUse:
    """The GPUs of an attempt, by the names that its job has for them. `samples`: how many were taken of each.

    `shared`: figures are of whole GPUs, which other jobs used as well.
    """

    samples: int
    gpus: Mapping[str, GpuFigures]
    shared: bool = False

    @property
    def utilization(self) -> float | None:
        """Per cent of the time in which the GPU was busy, the mean over GPUs."""
        return _mean([one.utilization for one in self.gpus.values()])

    @property
    def memory_mb(self) -> float | None:
        """The most memory in use on any of the GPUs."""
        return max(_known(one.memory_mb_max for one in self.gpus.values()), default=None)

    @property
    def power_w(self) -> float | None:
        """The mean power of all GPUs together."""
        known = _known(one.power_w for one in self.gpus.values())
        return sum(known) if known else None

    @property
    def text(self) -> str:
        """`GPU: utilization 23 %, memory up to 10.2 GB, power 212 W (40 samples)`."""
        figures = [
            f"utilization {self.utilization:.0f} %" if self.utilization is not None else "",
            f"memory up to {self.memory_mb / 1000:.1f} GB" if self.memory_mb is not None else "",
            f"power {self.power_w:.0f} W" if self.power_w is not None else "",
        ]
        gpus = f"{len(self.gpus)} GPUs" if len(self.gpus) > 1 else "GPU"
        shared = ", shared with other jobs" * self.shared
        return f"{gpus}: {', '.join(filter(None, figures))} ({self.samples} sample{'s' * (self.samples > 1)}{shared})"


class Totals:
    """Adds samples up; its size does not depend on their number."""

    def __init__(self) -> None:
        self.samples = 0
        self._sums: dict[str, dict[str, tuple[float, float, int]]] = {}  # by GPU and quantity: sum, maximum, number

    def add(self, sample: Mapping[str, Sequence[float | None]]) -> None:
        """Add a sample: for each GPU, the values of `QUANTITIES`. An empty one does not count."""
        self.samples += bool(sample)
        for gpu, values in sample.items():
            if gpu not in self._sums and len(self._sums) == MOST_GPUS:
                continue
            sums = self._sums.setdefault(gpu, {})
            for name, value in zip(QUANTITIES, values, strict=True):
                if value is not None and math.isfinite(value):
                    total, most, number = sums.get(name, (0.0, value, 0))
                    sums[name] = total + value, max(most, value), number + 1

    def summary(self, shared: bool) -> dict[str, Any] | None:
        """The content of `gpu_use` in progress.json; None without any value."""
        gpus = {
            gpu: {
                key: round(value, 1)
                for name, (total, most, number) in sums.items()
                for key, value in ((name, total / number), (f"{name}_max", most))
            }
            for gpu, sums in self._sums.items()
            if sums
        }
        return {"samples": self.samples, **({"shared": True} if shared else {}), "gpus": gpus} if gpus else None


def combined(uses: Iterable[GpuUse | None]) -> GpuUse | None:
    """The use of several attempts of an experiment, each weighted by its samples; None if there is none.

    Their GPUs are compared by position, because each attempt may have had others.
    """
    found = [one for one in uses if one is not None]
    if not found:
        return None
    width = max(len(one.gpus) for one in found)
    gpus = {str(place): _merged([_at(one, place) for one in found]) for place in range(width)}
    return GpuUse(sum(one.samples for one in found), gpus, any(one.shared for one in found))


def _at(use: GpuUse, place: int) -> tuple[GpuFigures, int]:
    listed = list(use.gpus.values())
    return (listed[place], use.samples) if place < len(listed) else (GpuFigures(), 0)


def _merged(weighted: Sequence[tuple[GpuFigures, int]]) -> GpuFigures:
    made: dict[str, float | None] = {}
    for name in (field.name for field in fields(GpuFigures)):
        values = [(getattr(one, name), weight) for one, weight in weighted if getattr(one, name) is not None]
        if name.endswith("_max"):
            made[name] = max((value for value, _ in values), default=None)
        else:
            made[name] = _mean([value for value, _ in values], [weight for _, weight in values])
    return GpuFigures(**made)


def _mean(values: Sequence[float | None], weights: Sequence[float] | None = None) -> float | None:
    pairs = [
        (value, weight)
        for value, weight in zip(values, weights or [1.0] * len(values), strict=True)
        if value is not None
    ]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
