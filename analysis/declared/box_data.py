"""The values of boxes: a metric of runs, or an array over the examples of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.curve_data import Floats
from analysis.declared import arrays
from analysis.declared.runs import FigureRuns, baseline_label
from analysis.rounds import RoundEntry
from roundhouse.errors import RoundhouseError

Values = Callable[[RoundEntry], Floats | None]  # of a run, finite or not, in the shown unit; None: it has none


@dataclass(frozen=True)
class Box:
    """The values of one box, sorted. `dropped`: how many were not finite; `runs`: how many runs they are from."""

    role: str
    values: Floats
    dropped: int
    runs: int

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def ends(self) -> list[float]:
        """The lowest and the highest value; empty without values."""
        return [self.at(0), self.at(1)] if self.n else []

    def at(self, share: float) -> float:
        """The value below which this share of all values is."""
        return float(np.quantile(self.values, share))

    def below(self, limit: float) -> float:
        """The share of values below a limit."""
        return float(np.mean(self.values < limit))


Boxes = Mapping[str, Box]


def boxes_of(runs: FigureRuns, name: str) -> dict[str, Boxes]:
    """The boxes of each data set, by label. RoundhouseError: no run has what they show."""
    values = _of_arrays(runs, name) if runs.figure.array else _of_metric(runs)
    return {data_set: _boxes(runs, own, values) for data_set, own in runs.data_sets.items()}


def _of_metric(runs: FigureRuns) -> Values:
    runs.require_metric()

    def values(entry: RoundEntry) -> Floats | None:
        one = runs.value(entry)
        return None if one is None else np.array([one])

    return values


def _of_arrays(runs: FigureRuns, name: str) -> Values:
    """The values of an array of each run. RoundhouseError: no run has it."""
    file, factor = runs.figure.file, runs.declared.of(name).factor
    present = [one for one in (*runs.own, *runs.baseline(runs.own))
               if one.completed and arrays.file_of(one, file)]  # fmt: skip
    lacking = {one.path: arrays.lacking(one, file, [name]) for one in present}
    if not any(not message for message in lacking.values()):
        raise RoundhouseError(next(iter(lacking.values()), f"no completed run has a file {file}"))

    def values(entry: RoundEntry) -> Floats | None:
        if lacking.get(entry.path, "no file"):
            return None
        array = arrays.read(entry, file, name)
        if array.ndim != 1:
            raise RoundhouseError(f"array: {name} of {entry.path} has the shape {array.shape}; it must have one value "
                                  "for each example, (N,)")  # fmt: skip
        return factor * array.astype(np.float64)

    return values


def _boxes(runs: FigureRuns, own: Sequence[RoundEntry], values: Values) -> dict[str, Box]:
    """The boxes of one data set by label; the last one is that of the baseline."""
    made = {label: _box("result", members, values) for label, members in runs.parts(own).items()}
    if baseline := runs.baseline(own):
        made[baseline_label(baseline)] = _box("baseline", baseline, values)
    return made


def _box(role: str, members: Sequence[RoundEntry], values: Values) -> Box:
    found = [one for member in members if (one := values(member)) is not None]
    every = np.concatenate(found) if found else np.array([])
    finite = np.sort(every[np.isfinite(every)])
    return Box(role, finite, len(every) - len(finite), len(found))


def best(found: Mapping[str, Boxes], most: int, sign: int) -> list[str]:
    """At most so many labels: the baselines, then those with the best median in any data set.

    `sign`: 1 if higher is better, -1 if lower is better; 0: it is unknown, and those that come first are chosen.
    """
    medians: dict[str, list[float]] = {}
    roles = {label: box.role for boxes in found.values() for label, box in boxes.items()}
    for boxes in found.values():
        for label, box in boxes.items():
            medians.setdefault(label, []).extend([box.at(0.5)] if box.n else [])
    worst = {label: min((-sign * one for one in ones), default=math.inf) for label, ones in medians.items()}
    return sorted(medians, key=lambda label: (roles[label] != "baseline", worst[label]))[:most]
