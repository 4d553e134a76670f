"""The learning curves of one group of a round: mean and range over seeds of each setting, with the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.curve_data import Band, Floats
from analysis.group_data import GroupData, GroupFigure, shortened
from analysis.group_panels import LINES_AT_MOST, Panel, names_of
from analysis.learning_curves import DrawnFigure, is_logarithmic, plain
from analysis.rounds import WithBaseline
from analysis.style import BASELINE, FEW, PRINT_WIDTH, grid, line_look, logarithmic, position_axis
from roundhouse.formatting import counted
from roundhouse.model.attempt import STEP

SETTLED = 0.25  # after this share of the epochs or steps, a panel's axis covers the full range
CLOSE = 0.1  # of the range of a panel: curves that are closer to the baseline are hard to distinguish from it
LEGEND_ROW = 0.13  # inches
Bands = Mapping[str, Band]  # by setting; that of the baseline has the empty name


def learning(shown: Sequence[WithBaseline], part: int = 0) -> DrawnFigure:
    """The mean learning curve of each setting of a group, with the range between its seeds. `part`: which figure."""
    group = GroupData(shown)
    figures = group.layout.learning
    every = [panel for panels in figures for panel in panels]
    metric, names = _drawn_metric(group), names_of(every)
    bands = {id(panel): _bands(panel, group, metric) for panel in every}
    minus = _coincide(list(bands.values()))
    drawn = {key: _minus_baseline(of) for key, of in bands.items()} if minus else bands
    made = GroupFigure(group, f"learning curves{' minus the baseline' * minus}", figures, part)
    shared = len(names) <= LINES_AT_MOST
    columns = _columns(made.panels, shared)
    figure, places = _grid(made.panels, columns, shared)
    for number, (place, panel) in enumerate(zip(places, made.panels, strict=False)):
        _learning_panel(place, panel, drawn[id(panel)], group, metric, names if shared else list(panel.settings))
        same = [band for other in every if other.data == panel.data for band in drawn[id(other)].values()]
        _limits(place, same, group, metric, minus)
        if shared:
            place.set_title(shortened(panel.title))
        else:
            _legend_above(place, panel)
        if number % columns == 0:
            place.set_ylabel(plain(_axis_label(panel, group, metric, minus)))
        if number + columns >= len(made.panels):
            several = any(one.before for one in group.curves.values())
            place.set_xlabel(f"{group.unit} of the last stage" if several else group.unit)
    for place in places[len(made.panels) :]:
        place.remove()
    legend = places[: len(made.panels)] if shared else ()
    table = _learning_table(made.tabled, bands, group.unit, metric)
    return made.drawn(figure, legend, table, _caption(made, bands, metric, minus), "drawn in the same way")


def _caption(made: GroupFigure, bands: Mapping[int, Bands], metric: str, minus: bool) -> str:
    unit = made.group.unit
    reached = "a step" if unit == STEP else "an epoch"
    sentences = [f"{metric} of each setting: mean of its experiments that have reached {reached}, and their range."]
    if max((band.positions[-1] for of in bands.values() for band in of.values()), default=0) > FEW:
        sentences.append(f"Axes show the range after the first quarter of the {unit}s.")
    if minus:
        sentences.append("Most curves would coincide with the baseline: the difference to its mean is drawn.")
        sentences.append("The table has the curves themselves.")
    if silent := sum(name not in bands[id(panel)] for panel in made.panels for name in panel.settings):
        sentences.append(f"{counted(silent, 'setting')} without values yet.")
    return " ".join(sentences)


def _columns(panels: Sequence[Panel], shared: bool) -> int:
    """Panels of a data set share a row if they can; panels with legends of their own are wide."""
    count, data_sets = len(panels), len({panel.data for panel in panels})
    of_data, rest = divmod(count, data_sets)
    widest = 3 if shared else 2
    columns = of_data if data_sets > 1 and not rest and 1 < of_data <= widest else 2 if count == 4 else widest
    return min(columns, count)


def _grid(panels: Sequence[Panel], columns: int, shared: bool) -> tuple[Figure, list[Axes]]:
    """Panels that fit a page; their rows are further apart if each has a legend of its own."""
    width = PRINT_WIDTH if columns > 1 else 5.0
    height = {1: 2.6, 2: 1.8, 3: 1.6}[columns]
    legend = 0.0 if shared else LEGEND_ROW * (max(len(panel.settings) for panel in panels) + 3) / columns
    figure, axes = grid(columns, [height] * math.ceil(len(panels) / columns), width=width, between=0.6 + legend)
    return figure, [place for row in axes for place in row]


def _drawn_metric(group: GroupData) -> str:
    """The chosen metric; if it was not measured during the training, what is declared or was measured first."""
    measured = dict.fromkeys(key for one in group.entries for key in group.curves[one.path].values)
    wanted = [group.metric.chosen] if group.metric else []
    return next(key for key in (*wanted, *group.declared.metrics, *measured) if key in measured)


def _bands(panel: Panel, group: GroupData, metric: str) -> dict[str, Band]:
    """A band for each setting that has values, and for the baseline."""
    members = {"": panel.baseline, **panel.settings}
    made = {name: Band.of([group.curves[one.path] for one in of], metric, group.unit) for name, of in members.items()}
    return {name: band for name, band in made.items() if len(band.positions)}


def _coincide(panels: Sequence[Bands]) -> bool:
    """Whether most curves end so close to their baseline that they cannot be distinguished from it."""
    gaps = []
    for bands in panels:
        values = _settled(list(bands.values()))
        for band in (band for name, band in bands.items() if name):
            ends = band.minus(bands[""]).mean[-1:] if "" in bands else ()
            gaps += [abs(float(one)) / (float(np.ptp(values)) or 1.0) for one in ends] or [math.inf]
    return bool(gaps) and float(np.median(gaps)) < CLOSE


def _minus_baseline(bands: Bands) -> Bands:
    found = {name: band.minus(bands[""]) for name, band in bands.items() if "" in bands}
    return {name: band for name, band in found.items() if len(band.positions)}


def _axis_label(panel: Panel, group: GroupData, metric: str, minus: bool) -> str:
    if not minus:
        return group.declared.axis(metric)
    name, declared = panel.baseline[0].group if panel.baseline else "baseline", group.declared.of(metric)
    unit = "percentage points" if declared.percent else declared.shown_unit
    return f"{group.declared.label(metric)}\nminus {name}" + (f"\n({unit})" if unit else "")


def _settled(bands: Sequence[Band]) -> Floats:
    """The values of these bands that an axis covers: those after the first part of a long training."""
    last = max((float(band.positions[-1]) for band in bands), default=0.0)
    return np.concatenate([band.after(SETTLED * last if last > FEW else 0) for band in bands] or [np.array([])])


def _learning_panel(
    axes: Axes, panel: Panel, bands: Bands, group: GroupData, metric: str, names: Sequence[str]
) -> None:
    factor = group.declared.of(metric).factor
    for name, band in bands.items():
        if name:
            look, text = line_look(names.index(name), len(band.positions)), shortened(name)
        else:
            look, text = {"color": BASELINE, "linewidth": 0.9}, plain(f"{panel.baseline[0].group} (baseline)")
        axes.fill_between(band.positions, factor * band.low, factor * band.high, color=look["color"], alpha=0.2,
                          linewidth=0)  # fmt: skip
        axes.plot(band.positions, factor * band.mean, label=text, **look)
    if not bands:
        axes.text(0.5, 0.5, f"no {group.unit}s yet", transform=axes.transAxes, ha="center", va="center", color=BASELINE)
    position_axis(axes)


def _legend_above(axes: Axes, panel: Panel) -> None:
    """The title of a panel, and below it its legend, both above the data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 2 if max(map(len, labels)) < 22 else 1
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns, title=shortened(panel.title),
                    alignment="left", fontsize=6.5, title_fontsize=8, borderaxespad=0, borderpad=0.1,
                    labelspacing=0.2, columnspacing=1.0)  # fmt: skip
    else:
        axes.set_title(shortened(panel.title), fontsize=8, loc="left")


def _limits(axes: Axes, bands: Sequence[Band], group: GroupData, metric: str, minus: bool) -> None:
    """Equal axes for all panels with the same data, whose `bands` these are, in any figure."""
    if not bands:
        return
    factor, last = group.declared.of(metric).factor, max(band.positions[-1] for band in bands)
    first = min(band.positions[0] for band in bands)
    margin = 0.03 * (last - first) or 0.5
    axes.set_xlim(first - margin, last + margin)
    values = _settled(bands)
    low, high = factor * float(values.min()), factor * float(values.max())
    if not minus and is_logarithmic(metric, group.declared, low, high):
        axes.set_yscale("log")
        logarithmic(axes.yaxis, low, high)
        axes.set_ylim(low / 1.1, high * 1.1)
    elif high > low:
        axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))


def _learning_table(
    panels: Sequence[Panel], bands: Mapping[int, Bands], unit: str, metric: str
) -> list[dict[str, Any]]:
    rows = []
    for panel in panels:
        for name, band in bands[id(panel)].items():
            head = {"panel": panel.title, "role": "result" if name else "baseline",
                    "setting": name or panel.baseline[0].group}  # fmt: skip
            for position, mean, low, high, count in zip(
                band.positions, band.mean, band.low, band.high, band.count, strict=True
            ):
                figures = {"mean": float(mean), "min": float(low), "max": float(high)}
                named = {f"{metric}_{what}": one for what, one in figures.items()}
                rows.append({**head, unit: int(position), **named, "n": int(count)})
    return rows
