"""The data of several metrics by epoch or step: which lines are in which panel, which metrics share an axis, events."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from analysis.curve_data import Band, LearningCurve
from analysis.declared.runs import FigureRuns, baseline_label, by_data_set
from analysis.learning_curves import WIDE
from analysis.rounds import RoundEntry
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import EPOCH
from roundhouse.names import nearest
from roundhouse.store.metrics import finite

LINES_AT_MOST = 4  # for each metric in one panel
LABELS_AT_MOST = 12  # of a data set: a legend with more cannot be read
ROWS_AT_MOST, ACROSS, AXES_AT_MOST = 4, 3, 6  # rows of panels, panels side by side, axes above each other

Bands = Mapping[str, Band]  # by metric
Events = Mapping[int, int]  # the number of runs in which an event happened at a position


@dataclass(frozen=True)
class Panel:
    """The lines of one panel, by label, and what they are compared with. `events`: by metric."""

    data_set: str
    lines: Mapping[str, Bands]
    baseline: Bands
    baseline_name: str
    events: Mapping[str, Events]

    def bands(self, metrics: Iterable[str]) -> list[Band]:
        """All that is drawn of these metrics."""
        return [one[metric] for one in (*self.lines.values(), self.baseline) for metric in metrics if metric in one]


@dataclass(frozen=True)
class EpochsData:
    """The learning curves of the runs of a figure, and of their baseline."""

    runs: FigureRuns

    @cached_property
    def curves(self) -> dict[str, LearningCurve]:
        declared = self.runs.declared
        return {path: LearningCurve.of(one, declared) for path, one in self.runs.metrics.items() if one.epochs}

    @cached_property
    def unit(self) -> str:
        """What most of the runs count, epoch or step."""
        units = Counter(self.curves[one.path].unit for one in self.runs.own if one.path in self.curves)
        return units.most_common(1)[0][0] if units else EPOCH

    @cached_property
    def measured(self) -> list[RoundEntry]:
        """The shown runs that have measured something and count this unit; others are not mixed with them."""
        return [one for one in self.runs.own if one.path in self.curves and self.curves[one.path].unit == self.unit]

    def require(self) -> None:
        """RoundhouseError: no run has measured one of the metrics, or recorded one of the events."""
        measured = dict.fromkeys(key for one in self.curves.values() for key in one.values)
        recorded = dict.fromkeys(key for one in self.runs.metrics.values() for row in one.epochs for key in row)
        figure = self.runs.figure
        for where, names, known in (("metrics", figure.metrics, measured), ("events", figure.events, recorded)):
            for name in names:
                if name not in known:
                    raise RoundhouseError(f"{where}: no run has measured {name!r}: {nearest(name, known)}")

    def bands(self, entries: Iterable[RoundEntry]) -> dict[str, Band]:
        """Mean and range of each metric over these runs, of those that have values."""
        curves = [self.curves[one.path] for one in entries if one.path in self.curves]
        made = {metric: Band.of(curves, metric, self.unit) for metric in self.runs.figure.metrics}
        return {metric: band for metric, band in made.items() if len(band.positions)}

    def events(self, entries: Iterable[RoundEntry]) -> dict[str, Events]:
        """Where, in the last stage, each of the events happened: where its metric is not 0."""
        found: dict[str, Counter[int]] = {name: Counter() for name in self.runs.figure.events}
        for one in entries:
            curve = self.curves[one.path]
            rows = zip((curve.positions - curve.before).tolist(), self.runs.metrics[one.path].epochs, strict=True)
            for position, row in rows:
                for name, places in found.items():
                    value = finite(row.get(name))
                    places[round(position)] += position > 0 and value != 0 and not math.isnan(value)
        return {name: {at: count for at, count in sorted(places.items()) if count} for name, places in found.items()}

    # ---------------------------------------------------------------------------------------------- panels

    @cached_property
    def axes(self) -> list[list[str]]:
        """The metrics by axis: those with the same unit and scale, whose values have a similar size, share one."""
        made: list[list[str]] = []
        largest = {name: self._largest(name) for name in self.runs.figure.metrics}
        for name in self.runs.figure.metrics:
            own = next((of for of in made if all(self._fit(name, one, largest) for one in of)), None)
            if own is None:
                made.append([name])
            else:
                own.append(name)
        return made

    def _largest(self, metric: str) -> float:
        values = [abs(curve.values[metric]) for curve in self.curves.values() if metric in curve.values]
        return max((float(one) for of in values for one in of if math.isfinite(one)), default=0.0)

    def _fit(self, one: str, other: str, largest: Mapping[str, float]) -> bool:
        first, second = self.runs.declared.of(one), self.runs.declared.of(other)
        low, high = sorted((largest[one], largest[other]))
        return (first.shown_unit, first.scale) == (second.shown_unit, second.scale) and high <= WIDE * low

    @cached_property
    def sets(self) -> dict[str, list[RoundEntry]]:
        return by_data_set(self.measured)

    def panels(self) -> tuple[list[Panel], int]:
        """The panels, and how many lines have no place in them."""
        rows = ROWS_AT_MOST if len(self.axes) <= 2 else max(1, AXES_AT_MOST // len(self.axes))
        of_each = ACROSS * max(1, rows // max(1, len(self.sets)))
        made, left_out = [], 0
        for data_set, entries in self.sets.items():
            lines = {label: one for label, one in self.runs.parts(entries).items() if self.bands(one)}
            chosen = self._best(lines, max(LABELS_AT_MOST, of_each))
            for labels in shares(chosen, of_each):
                made.append(self._panel(data_set, {label: lines[label] for label in labels}))
            left_out += len(lines) - len(chosen)
        return made, left_out

    def _best(self, lines: Mapping[str, Sequence[RoundEntry]], most: int) -> list[str]:
        """The labels in their order, without those with the worst results if there are too many.

        If nothing declares which value is best, without the last ones.
        """
        sign = self.runs.sign(self.runs.metric)
        values = {label: self.runs.values(entries) for label, entries in lines.items()}
        means = {label: -sign * statistics.fmean(of) if of else math.inf for label, of in values.items()}
        chosen = set(sorted(lines, key=lambda label: means[label])[:most])
        return [label for label in lines if label in chosen]

    def _panel(self, data_set: str, lines: Mapping[str, Sequence[RoundEntry]]) -> Panel:
        members = [one for of in lines.values() for one in of]
        baseline = self.runs.baseline(members)
        bands = {label: self.bands(of) for label, of in lines.items()}
        return Panel(data_set, bands, self.bands(baseline), baseline_label(baseline), self.events(members))


def shares(labels: Sequence[str], panels: int) -> list[Sequence[str]]:
    """The labels of each panel: all if they are few; else one each if there are panels enough; else several."""
    few = len(labels) <= LINES_AT_MOST or len(labels) > panels
    each = math.ceil(len(labels) / max(1, math.ceil(len(labels) / LINES_AT_MOST))) if few else 1
    return [labels[start : start + each] for start in range(0, len(labels), max(1, each))]
