"""The results of one group of a round: the final metrics of each setting, with seeds, baseline and chance."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.group_data import LONGEST, GroupData, GroupFigure, shortened
from analysis.group_panels import ROWS_BETWEEN, Panel, names_of
from analysis.learning_curves import DrawnFigure, is_logarithmic, plain
from analysis.rounds import RoundEntry, WithBaseline
from analysis.style import BASELINE, COLOURS, MARKERS, PRINT_WIDTH, STEPS, grid, logarithmic
from roundhouse.formatting import number
from roundhouse.store.metrics import RunMetrics

METRICS_AT_MOST = 3  # in one figure
ROW, DENSE_ROW, DENSE = 0.19, 0.135, 24  # inches of a row; of one in a figure with more rows than this
PANEL, NARROWEST = 2.6, 4.8  # inches of a panel's width; of the figure's
LETTERS = 15  # of an axis label, per inch


@dataclass(frozen=True)
class ShownMetric:
    """A number that is shown as the result of an experiment. `declared_as`: the metric that it is a value of."""

    name: str
    text: str
    declared_as: str
    of: Callable[[RunMetrics], float | None]


def results(shown: Sequence[WithBaseline], part: int = 0) -> DrawnFigure:
    """The final metrics of each setting of a group: a dot for each seed, their mean and standard deviation.

    A row of panels for each data set, a column for each metric. `part`: which of the figures.
    """
    group = GroupData(shown)
    made = GroupFigure(group, "results", group.layout.results, part)
    metrics = _shown_metrics(group)
    names = names_of(made.panels)
    row = ROW if len(names) <= DENSE else DENSE_ROW
    labels = 0.3 + 0.055 * max(min(len(name), LONGEST) for name in names)
    width = min(PRINT_WIDTH, max(NARROWEST, labels + PANEL * len(metrics)))
    letters = round(LETTERS * (width - labels) / len(metrics))
    heights = [row * (len(panel.settings) + 0.6) for panel in made.panels]
    figure, axes = grid(len(metrics), heights, width=width, between=row * ROWS_BETWEEN)
    for panel, places in zip(made.panels, axes, strict=True):
        for column, (place, metric) in enumerate(zip(places, metrics, strict=True)):
            notes = _results_panel(place, panel, metric, group)
            place.set_xlabel("\n".join(textwrap.fill(note, letters) for note in notes), fontsize=7.5)
            texts = [shortened(name) for name in panel.settings] if column == 0 else [""] * len(panel.settings)
            place.set_yticks(range(len(texts)), texts, fontsize=7 if row == ROW else 6.5)
            place.set_title(shortened(panel.title) if column == 0 else "", loc="left")
    coloured = _coloured_by(group)
    caption = (
        f"{', '.join(metric.name for metric in metrics)} of each setting: a dot for each experiment, open if it is not "
        "completed; from two completed experiments on, their mean and standard deviation; n completed experiments each."
        f"{f' Colours and markers: {coloured}.' * bool(coloured)}"
    )
    grey = "its mean and standard deviation"
    places = [place for row_of_axes in axes for place in row_of_axes]
    return made.drawn(figure, places, _results_table(group, made.tabled, metrics), caption, grey)


def _shown_metrics(group: GroupData) -> list[ShownMetric]:
    """The result; then further final metrics: those on test data, else, if there is no best value, any."""
    metrics, declared = [group.metrics[one.path] for one in group.entries], group.declared
    finals = dict.fromkeys(key for one in metrics for key in one.final)
    shown = group.metric
    if shown is None:
        return [ShownMetric("result", "result", "result", lambda _: None)]
    best = "best " if shown.result not in finals and any(one.metric == shown.result for one in metrics) else ""
    further = declared.results_in(finals)
    if not further and not best:
        further = [key for key in finals if key not in declared.references]
    names = [shown.result, *(key for key in further if key != shown.result)][:METRICS_AT_MOST]
    prefixes = [best, *[""] * len(names)]
    return [
        ShownMetric(f"{prefix}{key}", f"{prefix}{plain(declared.axis(key))}", key, _value(key))
        for key, prefix in zip(names, prefixes, strict=False)
    ]


def _value(key: str) -> Callable[[RunMetrics], float | None]:
    return lambda metrics: metrics.value(key)


def _values(entries: Iterable[RoundEntry], metric: ShownMetric, group: GroupData) -> list[float]:
    """The finite values, as they are shown."""
    factor = group.declared.of(metric.declared_as).factor
    found = (metric.of(group.metrics[one.path]) for one in entries)
    return [factor * float(one) for one in found if one is not None and math.isfinite(one)]


def _completed(entries: Iterable[RoundEntry]) -> list[RoundEntry]:
    return [one for one in entries if one.completed]


def _results_panel(axes: Axes, panel: Panel, metric: ShownMetric, group: GroupData) -> list[str]:
    """Draw a panel. Returns the lines of its axis label."""
    for row, (_, entries) in enumerate(panel.settings.items()):
        values = _values(_completed(entries), metric, group)
        others = _values([one for one in entries if not one.completed], metric, group)
        look = _look(entries[0], group)
        several = len(values) > 1
        dots = {"linestyle": "", "markersize": 3, "alpha": 0.7, **look}
        axes.plot(values, [row - 0.15 * several] * len(values), **dots)
        axes.plot(others, [row - 0.15 * several] * len(others), markerfacecolor="white", **dots)
        if several:
            _mean_and_deviation(axes, values, row + 0.18, look["color"])
        axes.text(1.02, row, str(len(values)), transform=axes.get_yaxis_transform(), fontsize=6.5, va="center")
    _legend(axes, panel, metric, group)
    axes.text(1.02, 1.0, "n", transform=axes.transAxes, fontsize=7, va="bottom", style="italic")
    low, high = _range(panel, metric, group)
    if math.isfinite(low):
        _axis(axes, metric, group, low, high)
    else:
        axes.text(0.5, 0.5, "no result yet", transform=axes.transAxes, ha="center", va="center", color=BASELINE)
        axes.set_xticks([])
    axes.set_ylim(len(panel.settings) - 0.4, -0.6)
    return [metric.text, *_draw_baseline(axes, panel, metric, group), *_reference(axes, panel, metric, group)]


def _mean_and_deviation(axes: Axes, values: Sequence[float], row: float, colour: str) -> None:
    axes.errorbar(statistics.mean(values), row, xerr=statistics.stdev(values), fmt="|", color=colour, capsize=2,
                  markersize=6, elinewidth=1)  # fmt: skip


def _legend(axes: Axes, panel: Panel, metric: ShownMetric, group: GroupData) -> None:
    """Entries of the legend for what is drawn in black there, whatever the colour of a setting."""
    axes.plot([], [], "o", color="black", markersize=3, alpha=0.7, label="an experiment")
    if any(_values([one], metric, group) for one in panel.entries if not one.completed):
        axes.plot([], [], "o", color="black", markersize=3, alpha=0.7, markerfacecolor="white", label="not completed")
    if any(len(_values(_completed(entries), metric, group)) > 1 for entries in panel.settings.values()):
        axes.errorbar([], [], xerr=[], fmt="|", color="black", capsize=2, markersize=6, elinewidth=1,
                      label="mean and standard deviation")  # fmt: skip


def _range(panel: Panel, metric: ShownMetric, group: GroupData) -> tuple[float, float]:
    """The lowest and highest value or end of a bar of all panels with the same data; NaN if there is none.

    On a logarithmic axis, ends below 0 do not count: such a bar reaches the edge of the panel.
    """
    ends: list[float] = []
    values: list[float] = []
    for other in group.layout.panels(()):
        if other.data == panel.data:
            for entries in (*other.settings.values(), other.baseline):
                completed = _values(_completed(entries), metric, group)
                spread = statistics.stdev(completed) if len(completed) > 1 else 0.0
                values += _values(entries, metric, group)
                ends += [statistics.mean(completed) + sign * spread for sign in (-1, 1) if completed]
    if not values:
        return math.nan, math.nan
    wide = is_logarithmic(metric.declared_as, group.declared, min(values), max(values))
    ends = [*values, *(one for one in ends if one > 0 or not wide)]
    return min(ends), max(ends)


def _axis(axes: Axes, metric: ShownMetric, group: GroupData, low: float, high: float) -> None:
    if is_logarithmic(metric.declared_as, group.declared, low, high):
        axes.set_xscale("log")
        logarithmic(axes.xaxis, low, high)
        margin = (high / low) ** 0.04 if high > low else 1.1
        axes.set_xlim(low / margin, high * margin)
    else:
        margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=STEPS))


def _coloured_by(group: GroupData) -> str | None:
    """The key that colours and markers distinguish: the first that varies within panels, if it has few values."""
    inside = [key for key in group.layout.keys if key not in group.layout.apart]
    few = bool(inside) and group.layout.keys[inside[0]] <= len(COLOURS)
    return inside[0] if few and len(inside) > 1 else None


def _look(entry: RoundEntry, group: GroupData) -> dict[str, Any]:
    key, values = _coloured_by(group), group.layout.values
    index = list(dict.fromkeys(one[key] for one in values.values())).index(values[entry.path][key]) if key else 0
    return {"color": COLOURS[index], "marker": MARKERS[index]}


def _draw_baseline(axes: Axes, panel: Panel, metric: ShownMetric, group: GroupData) -> list[str]:
    """Its mean, and its standard deviation as the bars show it. Returns the text for the axis label."""
    values = _values(_completed(panel.baseline), metric, group)
    if not values:
        return []
    name, mean = panel.baseline[0].group, statistics.mean(values)
    axes.axvline(mean, color=BASELINE, linewidth=1, zorder=1.9, label=plain(f"{name}: mean"))
    if len(values) > 1 and (spread := statistics.stdev(values)):
        axes.axvspan(mean - spread, mean + spread, color=BASELINE, alpha=0.2, linewidth=0, zorder=0,
                     label=plain(f"{name}: standard deviation"))  # fmt: skip
    unit = group.declared.of(metric.declared_as).shown_unit
    return [plain(f"{name}: {f'{number(mean)} {unit}'.rstrip()} (n {len(values)})")]


def _reference(axes: Axes, panel: Panel, metric: ShownMetric, group: GroupData) -> list[str]:
    """The text about the declared baseline, such as chance, for the axis label; a line is drawn if it is in range."""
    declared, name = group.declared, metric.declared_as
    found = {declared.reference(name, group.metrics[one.path].final) for one in (*panel.baseline, *panel.entries)}
    known = sorted(declared.of(name).factor * one for one in found if one is not None)
    if not known:
        return []
    low, high = axes.get_xlim()
    for one in known:
        if low <= one <= high:
            axes.axvline(one, color=BASELINE, linestyle=":")
    values = number(known[0]) + (f" to {number(known[-1])}" if len(known) > 1 else "")
    return [plain(f"{declared.reference_label(name)}: {values} {declared.of(name).shown_unit}".rstrip())]


def _results_table(group: GroupData, panels: Sequence[Panel], metrics: Sequence[ShownMetric]) -> list[dict[str, Any]]:
    rows = []
    for panel in panels:
        members = [("result", name, one) for name, entries in panel.settings.items() for one in entries]
        members += [("baseline", one.group, one) for one in panel.baseline]
        for role, name, one in members:
            head = {"panel": panel.title, "role": role, "setting": name, "path": one.path, "state": str(one.state),
                    "seed": one.config.get("seed")}  # fmt: skip
            rows.append({**head, **{metric.name: metric.of(group.metrics[one.path]) for metric in metrics}})
    return rows
