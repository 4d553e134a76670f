"""The experiments of one group of a round, with its baseline, divided into the panels of a figure."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.curve_data import LearningCurve
from analysis.learning_curves import LETTERS, DrawnFigure, plain
from analysis.rounds import RoundEntry, WithBaseline, metrics_of, setting_labels, varying_keys
from analysis.style import legend_below
from roundhouse.metrics import Declarations
from roundhouse.model.attempt import EPOCH
from roundhouse.model.plan import State
from roundhouse.store.metrics import RunMetrics

FACETS = 8  # panels are split by a key with at most this many values
ACROSS = 4  # panels in a row
LONGEST = 44  # characters of a setting's label


@dataclass(frozen=True)
class Panel:
    """Settings that are comparable with each other, and their common baseline."""

    title: str
    settings: Mapping[str, Sequence[RoundEntry]]  # by their labels
    baseline: tuple[RoundEntry, ...]


@dataclass(frozen=True)
class GroupData:
    """The experiments of a group and of its baseline, with their metrics."""

    shown: Sequence[WithBaseline]

    @cached_property
    def entries(self) -> list[RoundEntry]:
        return [entry for entry, _ in self.shown]

    @cached_property
    def baseline(self) -> dict[str, RoundEntry]:
        return {one.path: one for _, baseline in self.shown for one in baseline}

    @cached_property
    def metrics(self) -> dict[str, RunMetrics]:
        return {one.path: metrics_of(one, []) for one in (*self.entries, *self.baseline.values())}

    @cached_property
    def declared(self) -> Declarations:
        """What the study of the group declares; its baseline is of the same study."""
        return self.entries[0].declared

    @cached_property
    def curves(self) -> dict[str, LearningCurve]:
        return {path: LearningCurve.of(metrics, self.declared) for path, metrics in self.metrics.items()}

    @cached_property
    def unit(self) -> str:
        """What most of its runs count: epoch or step."""
        counted = Counter(self.curves[one.path].unit for one in self.entries if self.metrics[one.path].epochs)
        return counted.most_common(1)[0][0] if counted else EPOCH

    @cached_property
    def keys(self) -> dict[str, int]:
        """The config keys that vary, in the order of the round file, each with its number of values."""
        varying = varying_keys(self.entries)
        keys = [key for key in dict.fromkeys(key for one in self.entries for key in one.config) if key in varying]
        return {key: len({value_of(one, key) for one in self.entries}) for key in keys}

    @cached_property
    def apart(self) -> list[str]:
        """The keys whose values are never in one panel: those kept apart, and keys that vary within the baseline."""
        chosen = {*self.declared.apart} | varying_keys(list(self.baseline.values()))
        return [key for key in self.keys if key in chosen]

    def split(self, most: int) -> list[str]:
        """The keys to split panels by; one key more if a panel would have more than `most` settings."""
        largest = max(len(panel.settings) for panel in self.panels(self.apart))
        others = [key for key, values in self.keys.items() if key not in self.apart and values <= FACETS]
        return self.apart + (others[:1] if largest > most else [])

    def panels(self, split: Sequence[str]) -> list[Panel]:
        """A panel for each combination of values of these keys."""
        found: dict[tuple[str, ...], list[WithBaseline]] = {}
        for one in self.shown:
            found.setdefault(tuple(value_of(one[0], key) for key in split), []).append(one)
        names = setting_labels(self.entries, without=split)
        made = []
        for shown in found.values():
            settings: dict[str, list[RoundEntry]] = {}
            for entry, _ in shown:
                settings.setdefault(names[entry.setting], []).append(entry)
            title = ", ".join(_label(key, shown[0][0]) for key in split)
            made.append(Panel(title, settings, next((baseline for _, baseline in shown if baseline), ())))
        return made

    def heading(self, what: str, inches: float) -> str:
        """The title of a figure `inches` wide: the group, what is shown, and how many experiments are completed."""
        one = self.entries[0].experiment
        states = Counter(entry.state for entry in self.entries)
        completed = f"{states.pop(State.COMPLETED, 0)} of {len(self.entries)} experiments completed"
        rest = "".join(f", {count} {str(state).replace('_', ' ')}" for state, count in states.items())
        lines = [f"{one.round}, {one.group or 'experiments'}: {what}", f"{completed}{rest}"]
        return plain("\n".join(textwrap.fill(line, round(LETTERS * inches)) for line in lines))

    def drawn(
        self, what: str, figure: Figure, axes: Sequence[Axes], table: list[dict[str, Any]], caption: str, grey: str
    ) -> DrawnFigure:
        """Add legend, title and caption to a figure. `grey`: which figures of the baseline are drawn in grey."""
        legend_below(figure, axes)
        figure.suptitle(self.heading(what, figure.get_figwidth()), fontsize=9)
        names = [one.group for one in self.baseline.values()]
        baseline = f"Grey: the baseline, group {names[0]}, {grey}." if names else "No baseline to compare with."
        return DrawnFigure(figure, table, f"{self.entries[0].group or 'experiments'}: {what}", f"{caption} {baseline}")


def value_of(entry: RoundEntry, key: str) -> str:
    return json.dumps(entry.config.get(key), default=str)


def _label(key: str, entry: RoundEntry) -> str:
    value = entry.config.get(key)
    return value if isinstance(value, str) else f"{key} {value}"


def shortened(text: str) -> str:
    return plain(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")
