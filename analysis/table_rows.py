"""The rows of a round's tables: a setting on all data sets, its rivals, and whether it is shown to beat them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from analysis.comparison import SHOWN_BELOW, beats_all, smallest_p
from analysis.result_metric import ResultMetric, result_metric
from analysis.rounds import RoundEntry, RoundRecords, label_of, metrics_of, varying_keys
from roundhouse.formatting import counted
from roundhouse.store.metrics import RunMetrics

LARGEST = 1e100  # larger values would make means inexact and squares overflow
BlockKey = tuple[str, str]  # data set and seed
Values = Mapping[BlockKey, float]


@dataclass(frozen=True)
class TableRow:
    """A row: a setting on all data sets. `baselines`: the keys of the rows of its baseline."""

    key: str
    group: str
    name: str
    config: Mapping[str, Any]
    values: Values
    baselines: frozenset[str]

    def on(self, data_set: str) -> list[float]:
        """Its results on a data set, one for each seed that has one."""
        return [value for block, value in self.values.items() if block[0] == data_set]

    def mean(self, data_sets: Iterable[str]) -> float | None:
        """The mean of the data sets' means; None unless it has results on all of them."""
        found = [self.on(one) for one in data_sets]
        return statistics.fmean(map(statistics.fmean, found)) if found and all(found) else None


@dataclass(frozen=True)
class RoundResults:
    """The experiments of a round with their metrics, read once, and the problems of reading."""

    found: RoundRecords
    metrics: Sequence[RunMetrics]
    problems: list[str]

    @classmethod
    def of(cls, found: RoundRecords) -> RoundResults:
        problems = list(found.problems)
        return cls(found, [metrics_of(entry, problems) for entry in found.entries], problems)

    @cached_property
    def completed(self) -> list[tuple[RoundEntry, RunMetrics]]:
        pairs = zip(self.found.entries, self.metrics, strict=True)
        return [(entry, metrics) for entry, metrics in pairs if entry.completed]

    @cached_property
    def metric(self) -> ResultMetric:
        """The metric of the table; without any, it is called `result`."""
        members, declared = self.completed, self.found.declared
        return result_metric(members, declared, self.found) or ResultMetric("result", "result", None)

    @cached_property
    def data_sets(self) -> list[str]:
        return list(dict.fromkeys(entry.data_set for entry in self.found.entries))

    @cached_property
    def rows(self) -> list[TableRow]:
        """The rows, in the order of the round file."""
        values: dict[str, dict[BlockKey, float]] = {}
        for entry, metrics in self.completed:
            value = metrics.value(self.metric.result)
            block = (entry.data_set, json.dumps(entry.config.get("seed"), default=str))
            if value is not None and abs(value) < LARGEST:
                values.setdefault(key_of(entry), {})[block] = float(value)
            elif value is not None:
                self.problems.append(f"{entry.path}: {self.metric.result} is {value}: left out of all means")
        return [row_of(self.found, members, values) for members in settings_of(self.found)]

    @cached_property
    def reference_label(self) -> str:
        """What the declared baseline of the metric is called, such as chance; empty if there is none."""
        return self.found.declared.reference_label(self.metric.result) or ""

    @cached_property
    def references(self) -> dict[str, float]:
        """By data set, the declared baseline of the metric, such as the accuracy of a guess."""
        by_data_set: dict[str, list[float]] = {}
        for entry, metrics in self.completed:
            value = entry.declared.reference(self.metric.result, metrics.final)
            if value is not None and abs(value) < LARGEST:
                by_data_set.setdefault(entry.data_set, []).append(value)
        return {data_set: statistics.fmean(values) for data_set, values in by_data_set.items()}


def key_of(entry: RoundEntry) -> str:
    """Equal for all experiments of a row: they differ in seed and data set alone."""
    return entry.experiment.setting(*entry.declared.apart)


def settings_of(found: RoundRecords) -> list[list[RoundEntry]]:
    """The experiments of each row, ordered by group."""
    made: dict[str, list[RoundEntry]] = {}
    for entries in found.groups.values():
        for entry in entries:
            made.setdefault(key_of(entry), []).append(entry)
    return list(made.values())


def row_of(
    found: RoundRecords, members: Sequence[RoundEntry], values: Mapping[str, Mapping[BlockKey, float]]
) -> TableRow:
    first = members[0]
    key, name = key_of(first), label_of(first.config, varying_keys(found.groups[first.group]) - {*first.declared.apart})
    baselines = {key_of(one) for entry in members for one in found.baseline_of(entry)} - {key}
    return TableRow(key, first.group, name or first.group, first.config, values.get(key, {}), frozenset(baselines))


# ---------------------------------------------------------------------------------------------- comparisons


def comparison_groups(results: RoundResults) -> list[list[TableRow]]:
    """The rows that are compared with each other: rows of a group with the same baseline, and that baseline."""
    found = results.found
    serving = {*found.baselines.values(), *(one for e in found.entries for one in e.experiment.after)}
    made: dict[tuple[str, frozenset[str]], list[TableRow]] = {}
    for row in results.rows:
        if row.group in found.baselines or row.group not in serving:
            made.setdefault((row.group, row.baselines), []).append(row)
    return [[*rows, *(one for one in results.rows if one.key in keys)] for (_, keys), rows in made.items()]


def winners(groups: Sequence[Sequence[TableRow]], sign: int, data_sets: Sequence[str]) -> set[str]:
    """The keys of the rows that beat all rivals on these data sets, pooled, in each group that they are in.

    A row without results there is not compared. A row with few results is compared on those few.
    """
    won, lost = set(), set()
    for group in groups:
        signed = {
            row.key: {block: sign * value for block, value in row.values.items() if block[0] in data_sets}
            for row in group
        }
        present = {block[0] for values in signed.values() for block in values}
        means = {row.key: mean for row in group if (mean := row.mean(present)) is not None}
        best = max(means, key=lambda key: sign * means[key], default="")
        others = {key: values for key, values in signed.items() if values and key != best}
        shown = {best} if best and beats_all(signed[best], others) else set()
        won |= shown
        lost |= signed.keys() - shown
    return won - lost


def bold_note(results: RoundResults, marked: bool) -> str:
    """The note below the table: what bold means, or why nothing is bold."""
    if marked:
        return (
            "Bold: better than every rival in its group and their baseline by an exact sign-flip test of the paired "
            f"differences, Holm-corrected, p < {SHOWN_BELOW}."
        )
    sizes = [sorted(len(row.values) for row in group if row.values) for group in comparison_groups(results)]
    sizes = [found for found in sizes if len(found) > 1]
    if not sizes:
        return "Nothing is bold: there is nothing to compare."
    if not results.metric.sign:
        return "Nothing is bold: it is unknown whether higher or lower is better."
    # Two rows of a group can have at most as many pairs as the second largest row has values.
    if all((len(found) - 1) * smallest_p(found[-2]) >= SHOWN_BELOW for found in sizes):
        pairs = max(found[-2] for found in sizes)
        return f"Nothing is bold: no difference can be shown with {counted(pairs, 'pair')} (data set and seed)."
    return f"Nothing is bold: no row is shown to beat all its rivals (p < {SHOWN_BELOW})."
