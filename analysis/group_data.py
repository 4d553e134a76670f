"""The experiments of one group of a round with their metrics, and what all figures of a group have in common."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.curve_data import LearningCurve
from analysis.group_panels import FIGURES_AT_MOST, GroupPanels, Panel
from analysis.learning_curves import LETTERS, DrawnFigure, plain
from analysis.result_metric import ResultMetric, result_metric
from analysis.rounds import RoundEntry, WithBaseline, metrics_of
from analysis.style import legend_below
from roundhouse.formatting import counted
from roundhouse.metrics import Declarations
from roundhouse.model.attempt import EPOCH
from roundhouse.model.plan import State
from roundhouse.store.metrics import RunMetrics

LONGEST = 44  # characters of a setting's label


@dataclass(frozen=True)
class GroupData:
    """The experiments of a group and of its baseline, with their metrics."""

    shown: Sequence[WithBaseline]

    @cached_property
    def layout(self) -> GroupPanels:
        return GroupPanels(self.shown)

    @property
    def entries(self) -> list[RoundEntry]:
        return self.layout.entries

    @property
    def declared(self) -> Declarations:
        return self.layout.declared

    @cached_property
    def metrics(self) -> dict[str, RunMetrics]:
        return {one.path: metrics_of(one, []) for one in (*self.entries, *self.layout.baseline.values())}

    @cached_property
    def metric(self) -> ResultMetric | None:
        """The chosen metric and its result."""
        return result_metric([(one, self.metrics[one.path]) for one in self.entries], self.declared)

    @cached_property
    def curves(self) -> dict[str, LearningCurve]:
        return {path: LearningCurve.of(metrics, self.declared) for path, metrics in self.metrics.items()}

    @cached_property
    def unit(self) -> str:
        """What most of its runs count: epoch or step."""
        counted = Counter(self.curves[one.path].unit for one in self.entries if self.metrics[one.path].epochs)
        return counted.most_common(1)[0][0] if counted else EPOCH


@dataclass(frozen=True)
class GroupFigure:
    """One of the figures of a kind. `what` is shown: results or learning curves; `figures`: the panels of all."""

    group: GroupData
    what: str
    figures: Sequence[Sequence[Panel]]
    part: int

    @property
    def panels(self) -> Sequence[Panel]:
        return self.figures[self.part]

    @property
    def count(self) -> int:
        return min(len(self.figures), FIGURES_AT_MOST)

    @property
    def tabled(self) -> list[Panel]:
        """The panels of its table: of the last figure also those that are not drawn."""
        return [*self.panels, *(self.not_drawn if self.part == self.count - 1 else ())]

    @property
    def not_drawn(self) -> list[Panel]:
        return [panel for figure in self.figures[FIGURES_AT_MOST:] for panel in figure]

    def drawn(
        self, figure: Figure, axes: Sequence[Axes], table: list[dict[str, Any]], caption: str, grey: str
    ) -> DrawnFigure:
        """Add legend, title and caption to a figure. `grey`: which figures of the baseline are drawn in grey."""
        part = f" ({self.part + 1} of {self.count})" if self.count > 1 else ""
        legend_below(figure, axes, row=0.15)
        figure.suptitle(self._heading(f"{self.what}{part}", figure.get_figwidth()), fontsize=9)
        names = [one.group for one in self.group.layout.baseline.values()]
        baseline = f"Grey: the baseline, group {names[0]}, {grey}." if names else "No baseline to compare with."
        missing = sum(len(panel.settings) for panel in self.not_drawn)
        more = f" {counted(missing, 'further setting')} are in the table of the last figure." if missing else ""
        title = f"{self.group.entries[0].group or 'experiments'}: {self.what}{part}"
        return DrawnFigure(figure, table, title, f"{caption} {baseline}{more}")

    def _heading(self, what: str, inches: float) -> str:
        """The group, what is shown, and how many experiments are completed."""
        entries = self.group.entries
        one, states = entries[0].experiment, Counter(entry.state for entry in entries)
        completed = f"{states.pop(State.COMPLETED, 0)} of {len(entries)} experiments completed"
        rest = "".join(f", {count} {str(state).replace('_', ' ')}" for state, count in states.items())
        lines = [f"{one.round}, {one.group or 'experiments'}: {what}", f"{completed}{rest}"]
        return plain("\n".join(textwrap.fill(line, round(LETTERS * inches)) for line in lines))


def shortened(text: str, longest: int = LONGEST) -> str:
    """Text of at most this many characters: its end is kept, since settings often differ there only."""
    if len(text) > longest:
        text = f"{text[: longest * 2 // 3 - 1]}…{text[len(text) - longest // 3 :]}"
    return plain(text)
