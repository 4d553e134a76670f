"""Which rows a round's tables have: a setting on all data sets, its rivals, and whether a difference holds up."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from analysis.comparison import SHOWN_BELOW, holds_up, smallest_p
from analysis.rounds import Entry, Metrics, RoundRecords, metrics_of, varying_keys
from roundhouse.formatting import counted

LARGEST = 1e100  # beyond it no mean can be trusted, nor any square be taken
Block = tuple[str, str]  # data set and seed


@dataclass(frozen=True)
class Measure:
    """The number that the table is of. `sign`: 1 if more of it is better, -1 if less is, 0 if nobody says."""

    name: str
    sign: int


@dataclass(frozen=True)
class Line:
    """A row: a setting on all data sets. `baselines`: the keys of the rows that it is shown beside."""

    key: str
    group: str
    name: str
    config: Mapping[str, Any]
    values: Mapping[Block, float]
    baselines: frozenset[str]

    def on(self, data_set: str) -> list[float]:
        """Its results on a data set, one for each seed that has one."""
        return [value for block, value in self.values.items() if block[0] == data_set]

    def mean(self, data_sets: Iterable[str]) -> float | None:
        """The mean of the data sets' means; None unless it has results on all of them."""
        found = [self.on(one) for one in data_sets]
        return statistics.fmean(map(statistics.fmean, found)) if found and all(found) else None


@dataclass(frozen=True)
class Results:
    """A round's experiments with their metrics, read once, and what could not be read."""

    found: RoundRecords
    metrics: Sequence[Metrics]
    problems: list[str]

    @classmethod
    def of(cls, found: RoundRecords) -> Results:
        problems = list(found.problems)
        return cls(found, [metrics_of(entry, problems) for entry in found.entries], problems)

    @cached_property
    def completed(self) -> list[tuple[Entry, Metrics]]:
        pairs = zip(self.found.entries, self.metrics, strict=True)
        return [(entry, metrics) for entry, metrics in pairs if entry.row.record.completed]

    @cached_property
    def measure(self) -> Measure:
        """The accuracy on test data; else what the study chose its weights by; else a command's first number."""
        finals = dict.fromkeys(name for _, metrics in self.completed for name in metrics.final)
        judged = Counter((one.metric, one.mode) for _, one in self.completed if one.metric and one.best is not None)
        if "test_accuracy" in finals or not (judged or finals):
            return Measure("test_accuracy", 1)
        if judged:
            (name, mode), _ = judged.most_common(1)[0]
            return Measure(str(name), -1 if mode == "min" else 1)
        return Measure(next(iter(finals)), 0)

    @cached_property
    def data_sets(self) -> list[str]:
        return list(dict.fromkeys(entry.data_set for entry in self.found.entries))

    @cached_property
    def lines(self) -> list[Line]:
        """The rows, in the order of the round file."""
        values: dict[str, dict[Block, float]] = {}
        for entry, metrics in self.completed:
            value = metrics.final.get(self.measure.name)
            if value is None and self.measure.name == metrics.metric:
                value = metrics.best
            block = (entry.data_set, json.dumps(entry.config.get("seed"), default=str))
            if value is not None and abs(value) < LARGEST:
                values.setdefault(key_of(entry), {})[block] = float(value)
            elif value is not None:
                self.problems.append(f"{entry.path}: {self.measure.name} is {value}: in no mean")
        return [line_of(self.found, members, values) for members in settings_of(self.found)]

    @cached_property
    def chance(self) -> dict[str, float]:
        """By data set, the test accuracy of always saying the most frequent class."""
        told: dict[str, list[float]] = {}
        for entry, metrics in self.completed:
            value = metrics.final.get("chance_accuracy", math.nan)
            if self.measure.name == "test_accuracy" and abs(value) < LARGEST:
                told.setdefault(entry.data_set, []).append(value)
        return {data_set: statistics.fmean(values) for data_set, values in told.items()}


def key_of(entry: Entry) -> str:
    """What an experiment shares with all others of its row."""
    return entry.row.experiment.setting("dataset")


def settings_of(found: RoundRecords) -> list[list[Entry]]:
    """The experiments by row, rows of one group together."""
    made: dict[str, list[Entry]] = {}
    for entries in found.groups.values():
        for entry in entries:
            made.setdefault(key_of(entry), []).append(entry)
    return list(made.values())


def line_of(found: RoundRecords, members: Sequence[Entry], values: Mapping[str, Mapping[Block, float]]) -> Line:
    first = members[0]
    key, beside = key_of(first), varying_keys(found.groups[first.group]) - {"dataset"}
    told = {name: value for name, value in first.config.items() if name in beside}
    name = ", ".join(value if isinstance(value, str) else f"{key} {value}" for key, value in told.items())
    baselines = {key_of(one) for entry in members for one in found.baseline_of(entry)} - {key}
    return Line(key, first.group, name or first.group, first.config, values.get(key, {}), frozenset(baselines))


# ---------------------------------------------------------------------------------------------- what holds up


def contests(results: Results) -> list[list[Line]]:
    """The rows that are each other's rivals: those of a group that have the same baseline, and that baseline."""
    found, lines = results.found, results.lines
    serving = {*found.baselines.values(), *(one for e in found.entries for one in e.row.experiment.after)}
    made: dict[tuple[str, frozenset[str]], list[Line]] = {}
    for line in lines:
        if line.group in found.baselines or line.group not in serving:
            made.setdefault((line.group, line.baselines), []).append(line)
    return [[*rows, *(one for one in lines if one.key in keys)] for (_, keys), rows in made.items()]


def winners(rivals: Sequence[Sequence[Line]], sign: int, data_sets: Sequence[str]) -> set[str]:
    """The keys of the rows that beat all rivals on these data sets, pooled, in each contest that they are in.

    A row without any result there is no rival. One with a few is: then the difference must hold up on these few.
    """
    won, lost = set(), set()
    for contest in rivals:
        signed = {
            line.key: {block: sign * value for block, value in line.values.items() if block[0] in data_sets}
            for line in contest
        }
        asked = {block[0] for values in signed.values() for block in values}
        means = {line.key: mean for line in contest if (mean := line.mean(asked)) is not None}
        best = max(means, key=lambda key: sign * means[key], default="")
        others = {key: values for key, values in signed.items() if values and key != best}
        shown = {best} if best and holds_up(signed[best], others) else set()
        won |= shown
        lost |= signed.keys() - shown
    return won - lost


def verdict(results: Results, marked: bool) -> str:
    """What the marks of the table mean, or why there are none."""
    if marked:
        return (
            "Bold: better than every rival in its group and their baseline by an exact sign-flip test of the paired "
            f"differences, Holm-corrected, p < {SHOWN_BELOW}."
        )
    if not results.measure.sign:
        return "Nothing is bold: whether more or less is better is not known."
    sizes = [sorted(len(line.values) for line in contest if line.values) for contest in contests(results)]
    sizes = [found for found in sizes if len(found) > 1]
    if not sizes:
        return "Nothing is bold: there is nothing to compare."
    # The last but one of a contest's sizes is the most pairs that two of its rows can have.
    if all((len(found) - 1) * smallest_p(found[-2]) >= SHOWN_BELOW for found in sizes):
        pairs = max(found[-2] for found in sizes)
        return f"Nothing is bold: no difference can be shown with {counted(pairs, 'pair')} (data set and seed)."
    return f"Nothing is bold: no row beats all its rivals by a difference that holds up (p < {SHOWN_BELOW})."
