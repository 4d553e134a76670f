"""The results of one group of a round: the final metrics of each setting, with seeds, baseline and chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.group_data import ACROSS, LONGEST, GroupData, Panel, shortened, value_of
from analysis.learning_curves import DrawnFigure, plain
from analysis.rounds import RoundEntry, WithBaseline
from analysis.style import BASELINE, COLOURS, MARKERS, panels
from roundhouse.store.metrics import RunMetrics

METRICS_AT_MOST = 3  # in one figure
MANY = 24  # a panel with more settings is split


@dataclass(frozen=True)
class ResultMetric:
    """A number that is shown as the result of an experiment. `declared_as`: the metric that it is a value of."""

    name: str
    text: str
    declared_as: str
    of: Callable[[RunMetrics], float | None]


def results(shown: Sequence[WithBaseline]) -> DrawnFigure:
    """The final metrics of each setting of a group: a dot for each seed, their mean and standard deviation."""
    group = GroupData(shown)
    result_metrics = _result_metrics(group)
    found = group.panels(group.split(MANY))
    columns = len(result_metrics) if len(found) == 1 else min(len(found), ACROSS)
    blocks = [found[start : start + columns] for start in range(0, len(found), columns)]
    cells = [
        (panel, metric)
        for block in blocks
        for metric in result_metrics
        for panel in _padded(block, columns, len(found))
    ]
    most = max(len(panel.settings) for panel in found)
    letters = max(min(len(name), LONGEST) for panel in found for name in panel.settings)
    rows = math.ceil(len(cells) / columns)
    height = min(0.19 * most + 1.15 + 0.8 / rows, 200 / rows)  # inches; image files have a maximum size
    figure, axes = panels(columns, rows, width=2.5 + 0.062 * letters / columns, height=height)
    for number, (place, (panel, metric)) in enumerate(zip(axes, cells, strict=True)):
        if panel is None:
            place.remove()
        else:
            _results_panel(place, panel, metric, group, names=number % columns == 0)
    caption = (
        f"{', '.join(metric.name for metric in result_metrics)} of each setting: a dot for each experiment, and, from "
        "two on, mean and standard deviation; n experiments each."
    )
    table = _results_table(group, found, result_metrics)
    return group.drawn("results", figure, axes, table, caption, "its mean and standard deviation")


def _padded(block: Sequence[Panel], columns: int, count: int) -> list[Panel | None]:
    """A row of panels, padded with None. A single panel is not padded: its metrics are shown side by side."""
    return [*block, *([None] * (columns - len(block)))] if count > 1 else list(block)


def _result_metrics(group: GroupData) -> list[ResultMetric]:
    """The test metrics if there are any; else the best value so far; else the first numbers that a command wrote."""
    metrics, declared = [group.metrics[one.path] for one in group.entries], group.declared
    finals = dict.fromkeys(key for one in metrics for key in one.final)
    keys = declared.results_in(finals)
    best = next((one.metric for one in metrics if one.best is not None and one.metric), None)
    if best and not keys:
        return [ResultMetric(f"best {best}", f"best {plain(declared.axis(best))}", best, lambda metrics: metrics.best)]
    shown = keys or sorted(
        (key for key in finals if key not in declared.references), key=lambda key: key != declared.main
    )
    return [ResultMetric(key, plain(declared.axis(key)), key, _final(key)) for key in shown[:METRICS_AT_MOST]]


def _final(key: str) -> Callable[[RunMetrics], float | None]:
    return lambda metrics: metrics.final.get(key)


def _values(entries: Iterable[RoundEntry], metric: ResultMetric, group: GroupData) -> list[float]:
    found = (metric.of(group.metrics[one.path]) for one in entries)
    return [float(one) for one in found if one is not None and math.isfinite(one)]


def _results_panel(axes: Axes, panel: Panel, metric: ResultMetric, group: GroupData, *, names: bool) -> None:
    every = {name: _values(entries, metric, group) for name, entries in panel.settings.items()}
    reference = _values(panel.baseline, metric, group)
    factor = group.declared.of(metric.declared_as).factor
    for row, (name, values) in enumerate(every.items()):
        number = _colour(panel.settings[name][0], group)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        scaled = [factor * value for value in values]
        axes.plot(scaled, [row - 0.15 * (len(values) > 1)] * len(values), marker, color=colour, markersize=3, alpha=0.6)
        if len(values) > 1:
            axes.errorbar(statistics.mean(scaled), row + 0.18, xerr=statistics.stdev(scaled), fmt="|", color=colour,
                          capsize=2, markersize=6, elinewidth=1)  # fmt: skip
        axes.text(1.02, row, str(len(values)), transform=axes.get_yaxis_transform(), fontsize=7, va="center")
    axes.plot([], [], "o", color="black", markersize=3, alpha=0.6, label="an experiment")
    if any(len(values) > 1 for values in every.values()):
        axes.errorbar([], [], xerr=[], fmt="|", color="black", capsize=2, markersize=6, elinewidth=1,
                      label="mean and standard deviation")  # fmt: skip
    axes.text(1.02, 1.0, "n", transform=axes.transAxes, fontsize=7, va="bottom", style="italic")
    if not any(every.values()):
        axes.text(0.5, 0.5, "no result yet", transform=axes.transAxes, ha="center", va="center", color=BASELINE)
        axes.set_xticks([])
    note = [metric.text]
    if reference:
        text = _draw_baseline(axes, [factor * one for one in reference], panel.baseline[0].group)
        note.append(f"{text}{' %' * (factor == 100)} (n {len(reference)})")
    note += _reference(axes, panel, metric, group)
    axes.set_xlabel("\n".join(note))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(len(every) - 0.4, -0.6)
    axes.set_yticks(range(len(every)), [shortened(name) for name in every] if names else [""] * len(every))
    axes.set_title(shortened(panel.title))


def _colour(entry: RoundEntry, group: GroupData) -> int:
    """The index of its value of the first key that varies within panels; it selects the colour."""
    key = next((key for key in group.keys if key not in group.apart), None)
    if key is None:
        return 0
    return list(dict.fromkeys(value_of(one, key) for one in group.entries)).index(value_of(entry, key))


def _draw_baseline(axes: Axes, values: Sequence[float], name: str) -> str:
    mean, spread = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    axes.axvline(mean, color=BASELINE, linewidth=1, zorder=1.9, label=plain(f"{name}: mean"))
    if spread:
        axes.axvspan(mean - spread, mean + spread, color=BASELINE, alpha=0.2, linewidth=0, zorder=0,
                     label=plain(f"{name}: standard deviation"))  # fmt: skip
    return plain(f"{name}: {mean:.4g}")


def _reference(axes: Axes, panel: Panel, metric: ResultMetric, group: GroupData) -> list[str]:
    """The text about the declared baseline, such as chance, for the axis label; a line is drawn if it is in range."""
    declared, name = group.declared, metric.declared_as
    entries = [*panel.baseline, *(one for entries in panel.settings.values() for one in entries)]
    found = {declared.reference(name, group.metrics[one.path].final) for one in entries}
    known = sorted(declared.of(name).factor * one for one in found if one is not None)
    if not known:
        return []
    low, high = axes.get_xlim()
    for one in known:
        if low <= one <= high:
            axes.axvline(one, color=BASELINE, linestyle=":")
    values = f"{known[0]:.3g}" + (f" to {known[-1]:.3g}" if len(known) > 1 else "")
    return [plain(f"{declared.reference_label(name)}: {values}{' %' * declared.of(name).percent}")]


def _results_table(
    group: GroupData, found: Sequence[Panel], result_metrics: Sequence[ResultMetric]
) -> list[dict[str, Any]]:
    rows = []
    for panel in found:
        members = [("result", name, one) for name, entries in panel.settings.items() for one in entries]
        members += [("baseline", one.group, one) for one in panel.baseline]
        for role, name, one in members:
            head = {"panel": panel.title, "role": role, "setting": name, "path": one.path, "state": str(one.state),
                    "seed": one.config.get("seed")}  # fmt: skip
            rows.append({**head, **{metric.name: metric.of(group.metrics[one.path]) for metric in result_metrics}})
    return rows
