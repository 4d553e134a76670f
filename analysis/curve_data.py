"""Learning curves as arrays: the measurements of one run, and their mean and range over several runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.rounds import measured_keys
from roundhouse.metrics import Declarations
from roundhouse.model.attempt import EPOCH, STEP
from roundhouse.store.metrics import RunMetrics, finite

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class LearningCurve:
    """A training run, one element for each entry of metrics.json (n,).

    `positions`: epochs or steps (`unit`), counted over all stages; `stages`: name, and the positions before its first
    and of its last entry; `values` (n,): NaN where there is no finite number; `recorded` (n,): whether an entry has the
    key; `partial` (n,): epochs that a time limit ended early.
    """

    positions: Floats
    unit: str
    stages: tuple[tuple[str, float, float], ...]
    values: Mapping[str, Floats]
    recorded: Mapping[str, Flags]
    partial: Flags

    @classmethod
    def of(cls, metrics: RunMetrics, declared: Declarations) -> LearningCurve:
        """The measurements of a run, without those that are declared as no curve."""
        rows = metrics.epochs
        unit = STEP if any(STEP in row for row in rows) and not any(EPOCH in row for row in rows) else EPOCH
        positions = np.array([finite(row.get(unit, index)) for index, row in enumerate(rows, 1)])
        positions = np.where(np.isnan(positions), np.arange(1.0, len(rows) + 1), positions)
        stages: list[tuple[str, float, float]] = []
        for row, position in zip(rows, positions.tolist(), strict=True):
            name = str(row.get("stage") or "")
            if stages and stages[-1][0] == name:
                stages[-1] = (name, stages[-1][1], position)
            else:
                before = position - 1 if unit == EPOCH else stages[-1][2] if stages else 0.0
                stages.append((name, before, position))
        keys = measured_keys(rows, declared)
        return cls(
            positions,
            unit,
            tuple(stages),
            {key: np.array([finite(row.get(key)) for row in rows]) for key in keys},
            {key: np.array([key in row for row in rows]) for key in keys},
            np.array([row.get("partial") is True for row in rows], dtype=bool),
        )

    @property
    def before(self) -> float:
        """The last position before the last stage; 0 if there is one stage only."""
        return self.stages[-1][1] if self.stages else 0.0

    @property
    def half(self) -> float:
        """Half the gap between two epochs, at which a line between them is drawn; 0 for steps."""
        return 0.5 if self.unit == EPOCH else 0.0

    @property
    def done(self) -> int:
        """The whole epochs, or the newest step with an entry."""
        if self.unit == EPOCH:
            return int(np.count_nonzero(~self.partial))
        return int(self.positions.max(initial=0))

    def points(self, key: str) -> tuple[Floats, Floats]:
        """The positions of the entries that have a key, and its values. A line between them skips the other entries."""
        return self.positions[self.recorded[key]], self.values[key][self.recorded[key]]

    def last_stage(self, key: str) -> dict[int, float]:
        """The finite values by position in the last stage, counted from 1, so that runs can be compared.

        A partial epoch is left out: its value is not that of the whole epoch of other runs.
        """
        if key not in self.values:
            return {}
        rows = zip(self.positions - self.before, self.values[key], self.partial, strict=True)
        return {round(at): float(value) for at, value, partial in rows
                if at > 0 and not math.isnan(value) and not partial}  # fmt: skip


@dataclass(frozen=True)
class Band:
    """One key of several runs: `mean`, `low`, `high`, `count` (n,), at `positions` (n,) in the last stage."""

    positions: Floats
    mean: Floats
    low: Floats
    high: Floats
    count: NDArray[np.int64]

    @classmethod
    def of(cls, curves: Iterable[LearningCurve], key: str, unit: str) -> Band:
        """Mean, minimum and maximum over the runs that count in this unit and have a value at a position."""
        found: dict[int, list[float]] = {}
        for curve in curves:
            for position, value in curve.last_stage(key).items() if curve.unit == unit else ():
                found.setdefault(position, []).append(value)
        columns = [(position, np.mean(of), min(of), max(of), len(of)) for position, of in sorted(found.items())]
        positions, mean, low, high, count = np.array(columns, dtype=float).reshape(-1, 5).T
        return cls(positions, mean, low, high, count.astype(np.int64))

    def minus(self, other: Band) -> Band:
        """The difference to another band's mean, at the positions that both have."""
        positions, own, theirs = np.intersect1d(self.positions, other.positions, return_indices=True)
        mean = other.mean[theirs]
        return Band(positions, self.mean[own] - mean, self.low[own] - mean, self.high[own] - mean, self.count[own])

    def after(self, position: float) -> Floats:
        """All its values after a position (k,)."""
        late = self.positions > position
        return np.concatenate([self.low[late], self.high[late]])
