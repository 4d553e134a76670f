"""How the settings of a group are divided into panels and figures; it follows from configs, before metrics are read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, combinations

from analysis.rounds import RoundEntry, WithBaseline, label_of, value_label, varying_keys
from roundhouse.metrics import Declarations

FACETS = 8  # panels are split by a key with at most this many values
LINES_AT_MOST = 7  # in one panel of learning curves: as many as there are colours
PANELS_AT_MOST = 9  # in one figure of learning curves
WITH_LEGENDS = 6  # the same if each panel has a legend of its own
ROWS_AT_MOST = 48  # in one panel of results
ROWS_OF_PAGE = 60  # in one figure of results
ROWS_BETWEEN = 6  # the height of a panel's axis and title, in rows
EACH_KEY = 0.8  # a split by one more key is preferred, unless it needs more panels by this factor
FIGURES_AT_MOST = 6  # of each kind; further settings are in the table only


@dataclass(frozen=True)
class Panel:
    """Settings that are comparable with each other, and their common baseline. `data`: the values of the keys that are
    kept apart; panels with the same are comparable too, and have equal axes.
    """

    title: str
    data: tuple[str, ...]
    settings: Mapping[str, Sequence[RoundEntry]]  # by their labels
    baseline: tuple[RoundEntry, ...]

    @property
    def entries(self) -> list[RoundEntry]:
        return [one for entries in self.settings.values() for one in entries]


@dataclass(frozen=True)
class GroupPanels:
    """The experiments of a group, each with its baseline, and their division into panels."""

    shown: Sequence[WithBaseline]

    @cached_property
    def entries(self) -> list[RoundEntry]:
        return [entry for entry, _ in self.shown]

    @cached_property
    def baseline(self) -> dict[str, RoundEntry]:
        return {one.path: one for _, baseline in self.shown for one in baseline}

    @cached_property
    def declared(self) -> Declarations:
        """What the study of the group declares; its baseline is of the same study."""
        return self.entries[0].declared

    @cached_property
    def values(self) -> dict[str, dict[str, str]]:
        """The value of each varying key by the path of an experiment, as JSON; keys in the order of the round file."""
        varying = varying_keys(self.entries)
        keys = [key for key in dict.fromkeys(key for one in self.entries for key in one.config) if key in varying]
        return {one.path: {key: json.dumps(one.config.get(key), default=str) for key in keys} for one in self.entries}

    @cached_property
    def keys(self) -> dict[str, int]:
        """The config keys that vary, each with its number of values."""
        values = list(self.values.values())
        return {key: len({one[key] for one in values}) for key in values[0]}

    @cached_property
    def apart(self) -> tuple[str, ...]:
        """The keys whose values are never in one panel: those kept apart, and keys that vary within the baseline."""
        chosen = {*self.declared.apart} | varying_keys(list(self.baseline.values()))
        return tuple(key for key in self.keys if key in chosen)

    def panels(self, split: Sequence[str]) -> list[Panel]:
        """A panel for each combination of values of the keys kept apart and of these; those with equal data together"""
        split = (*self.apart, *split)
        found: dict[tuple[str, ...], list[WithBaseline]] = {}
        for one in self.shown:
            found.setdefault(tuple(self.values[one[0].path][key] for key in split), []).append(one)
        named = {*self.keys} - {*split}
        names = {entry.setting: label_of(entry.config, named) or entry.group for entry in self.entries}
        made: dict[tuple[str, ...], list[Panel]] = {}
        for values, shown in found.items():
            settings: dict[str, list[RoundEntry]] = {}
            for entry, _ in shown:
                settings.setdefault(names[entry.setting], []).append(entry)
            title = ", ".join(value_label(key, shown[0][0].config.get(key)) for key in split)
            data, baseline = values[: len(self.apart)], next((baseline for _, baseline in shown if baseline), ())
            made.setdefault(data, []).append(Panel(title, data, settings, baseline))
        return list(chain.from_iterable(made.values()))

    # ------------------------------------------------------------------------------------------ figures

    @cached_property
    def results(self) -> list[list[Panel]]:
        """The panels of each figure of results."""
        panels = [part for panel in self.panels(()) for part in _parts(panel, ROWS_AT_MOST)]
        return list(_figures(panels, [len(panel.settings) + ROWS_BETWEEN for panel in panels], ROWS_OF_PAGE))

    @cached_property
    def learning(self) -> list[list[Panel]]:
        """The panels of each figure of learning curves: split by keys that give few panels."""
        free = [key for key, values in self.keys.items() if key not in self.apart and values <= FACETS]
        splits: list[tuple[str, ...]] = [(), *((key,) for key in free), *combinations(free, 2)]
        chosen = min(splits, key=self._price)
        panels = [part for panel in self.panels(chosen) for part in _parts(panel, LINES_AT_MOST)]
        most = WITH_LEGENDS if len(names_of(panels)) > LINES_AT_MOST else PANELS_AT_MOST
        return list(_figures(panels, [1] * len(panels), most))

    def _price(self, split: Sequence[str]) -> float:
        """The number of panels of learning curves; twice as many if some are cut, as the parts mean nothing."""
        settings = {one.setting: self.values[one.path] for one in self.entries}.values()
        sizes = Counter(tuple(one[key] for key in (*self.apart, *split)) for one in settings)
        parts = [math.ceil(size / LINES_AT_MOST) for size in sizes.values()]
        return float(sum(parts) * (2 if max(parts) > 1 else 1) * EACH_KEY ** len(split))


def names_of(panels: Sequence[Panel]) -> list[str]:
    """The labels of all settings of these panels."""
    return list(dict.fromkeys(name for panel in panels for name in panel.settings))


def _parts(panel: Panel, most: int) -> Iterator[Panel]:
    """The panel, cut into parts of about the same size if it has more than `most` settings."""
    names, count = list(panel.settings), math.ceil(len(panel.settings) / most)
    for part in range(count):
        first, last = (len(names) * one // count for one in (part, part + 1))
        title = f"settings {first + 1} to {last} of {len(names)}"
        yield replace(
            panel,
            title=panel.title if count == 1 else f"{panel.title}: {title}" if panel.title else title,
            settings={name: panel.settings[name] for name in names[first:last]},
        )


def _figures(panels: Sequence[Panel], sizes: Sequence[int], most: int) -> Iterator[list[Panel]]:
    """Divide panels among figures of this size. The panels of a data set stay together if they fit into a figure."""
    of_data: dict[tuple[str, ...], int] = {}
    for panel, size in zip(panels, sizes, strict=True):
        of_data[panel.data] = of_data.get(panel.data, 0) + size
    figure: list[Panel] = []
    used = 0
    for panel, size in zip(panels, sizes, strict=True):
        begins = not figure or figure[-1].data != panel.data
        needed = of_data[panel.data] if begins and of_data[panel.data] <= most else size
        if figure and used + needed > most:
            yield figure
            figure, used = [], 0
        figure.append(panel)
        used += size
    yield figure
