"""Several metrics by epoch or step in one panel: mean and range over seeds, with events as vertical marks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.curve_data import Band
from analysis.declared.epochs_data import ACROSS, EpochsData, Panel
from analysis.declared.runs import FigureRuns
from analysis.declared.settings import mean_of
from analysis.group_data import shortened
from analysis.learning_curves import DrawnFigure, axis_of, is_logarithmic, panel_of, plain
from analysis.style import BASELINE, COLOURS, FEW, LINES, MARKERS, PRINT_WIDTH, legend_below, logarithmic, panels
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import abbreviated, counted
from roundhouse.metrics import with_unit

EVENTS_AT_MOST = 30  # marks in one panel
EVENT_MARKS = ("v", "d", "x", "P", "s", "*")
STYLES: tuple[Any, ...] = (*LINES, (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))  # one for each of the metrics
MARKED = 6  # markers of a line with many points


def draw(runs: FigureRuns) -> DrawnFigure:
    """A panel for each data set; with many lines, several. Metrics with other units have an axis each."""
    data = EpochsData(runs)
    data.require()
    found, left_out = data.panels()
    if not found:
        raise RoundhouseError(f"no run has a value of {', '.join(runs.figure.metrics)}")
    places = places_of(found)
    figure, axes = _grid(places, len(data.axes))
    for panel, own in zip(found, axes, strict=True):
        _draw_panel(own, panel, data, found)
    _label_axes(axes, places, found, data)
    _legend(axes[0][0], found, data)
    legend_below(figure, [axes[0][0]], row=0.17)
    table = [row for panel in found for row in _table(panel, data)]
    title = f"{', '.join(runs.declared.label(one) for one in runs.figure.metrics)} by {data.unit}"
    return DrawnFigure(figure, table, title, _caption(data, found, left_out, title), _alt(data, found))


def places_of(found: Sequence[Panel]) -> list[tuple[int, int]]:
    """Row and column of each panel; a data set begins a new row."""
    made: list[tuple[int, int]] = []
    for panel, before in zip(found, [None, *found[:-1]], strict=True):
        row, column = made[-1] if made else (0, -1)
        is_new = before is not None and before.data_set != panel.data_set
        made.append((row + 1, 0) if is_new or column + 1 == ACROSS else (row, column + 1))
    return made


def _grid(places: Sequence[tuple[int, int]], kinds: int) -> tuple[Figure, list[list[Axes]]]:
    """The axes of each panel: one for each kind of metric. Two are left and right; more are above each other."""
    rows, columns = (1 + max(of) for of in zip(*places, strict=True))
    stacked = 1 if kinds <= 2 else kinds
    height = 1.35 if stacked > 1 else 2.6 if rows == 1 else 1.9
    figure, axes = panels(columns, rows * stacked, width=PRINT_WIDTH / columns if columns > 1 else 5.0, height=height)
    made = []
    for row, column in places:
        own = [axes[(row * stacked + number) * columns + column] for number in range(stacked)]
        made.append([own[0], own[0].twinx()] if kinds == 2 else own)
    used = {id(one) for own in made for one in own}
    for one in axes:
        if id(one) not in used:
            one.remove()
    return figure, made


def _look(metric: int, label: int, *, single: bool) -> dict[str, Any]:
    """How a line looks. Where a panel has one line for each metric, colours are for metrics; else for labels."""
    number = metric if single else label
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)],
            "linestyle": STYLES[metric], "markersize": 3}  # fmt: skip


def _is_single(found: Sequence[Panel]) -> bool:
    return all(len(panel.lines) == 1 for panel in found)


def _names(found: Sequence[Panel]) -> list[str]:
    return list(dict.fromkeys(label for panel in found for label in panel.lines))


# ------------------------------------------------------------------------------------------------------ one panel


def _draw_panel(axes: Sequence[Axes], panel: Panel, data: EpochsData, found: Sequence[Panel]) -> None:
    names, of_data_set = _names(found), [one for one in found if one.data_set == panel.data_set]
    for place, metrics in zip(axes, data.axes, strict=True):
        for metric in metrics:
            number, factor = data.runs.figure.metrics.index(metric), data.runs.declared.of(metric).factor
            if metric in panel.baseline:
                look = {"color": BASELINE, "linestyle": STYLES[number], "linewidth": 0.9, "zorder": 1.9}
                _line(place, panel.baseline[metric], factor, 0, look)
            for label, bands in panel.lines.items():
                if metric in bands:
                    look = _look(number, names.index(label), single=_is_single(found))
                    _line(place, bands[metric], factor, names.index(label), look)
        _limit(place, metrics, [band for one in of_data_set for band in one.bands(metrics)], data)
    for place in axes if len(axes) > 2 else axes[:1]:
        _mark_events(place, panel)
    last = max(int(band.positions[-1]) for one in found for band in one.bands(data.runs.figure.metrics))
    first = min(int(band.positions[0]) for one in found for band in one.bands(data.runs.figure.metrics))
    margin = max(0.02 * (last - first), 0.5)
    for place in axes:
        place.set_xlim(first - margin, last + margin)
        place.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))


def _line(axes: Axes, band: Band, factor: float, number: int, look: dict[str, Any]) -> None:
    """Mean and range. The markers of lines with many points are at different places."""
    every = max(1, len(band.positions) // MARKED) if len(band.positions) > FEW else 1
    if band.count.max() > 1:
        axes.fill_between(band.positions, factor * band.low, factor * band.high, facecolor=look["color"], alpha=0.15,
                          edgecolor=look["color"], linewidth=0.5)  # fmt: skip
    axes.plot(band.positions, factor * band.mean, markevery=(number % every, every), **look)


def marks_of(panel: Panel) -> list[tuple[int, str]]:
    """The events of a panel, by position, each with its metric."""
    return sorted((at, name) for name, places in panel.events.items() for at in places)


def _mark_events(axes: Axes, panel: Panel) -> None:
    names = list(panel.events)
    for at, name in marks_of(panel)[:EVENTS_AT_MOST]:
        axes.axvline(at, color="black", linewidth=0.5, linestyle=":", alpha=0.6, zorder=0.8)
        axes.plot([at], [1.0], EVENT_MARKS[names.index(name) % len(EVENT_MARKS)], color="black", markersize=3.5,
                  transform=axes.get_xaxis_transform(), clip_on=False)  # fmt: skip


def _limit(axes: Axes, metrics: Sequence[str], bands: Sequence[Band], data: EpochsData) -> None:
    """Equal limits for all panels of a data set, logarithmic if that is declared or the range is wide."""
    if not bands:
        return
    factor = data.runs.declared.of(metrics[0]).factor
    low, high = (factor * float(one) for one in (min(of.low.min() for of in bands), max(of.high.max() for of in bands)))
    if is_logarithmic(metrics[0], data.runs.declared, low, high):
        axes.set_yscale("log")
        margin = 1.03 * (high / low) ** 0.05
        axes.set_ylim(low / margin, high * margin)
        logarithmic(axes.yaxis, low, high)
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)


# --------------------------------------------------------------------------------------------- around the panels


def _label_axes(
    axes: Sequence[Sequence[Axes]], places: Sequence[tuple[int, int]], found: Sequence[Panel], data: EpochsData
) -> None:
    """Titles, and labels at the outer sides of the rows of panels, whose panels have equal axes."""
    several = any(curve.before for curve in data.curves.values())
    letters = {1: 44, 2: 40}.get(1 + max(column for _, column in places), 26)  # of a line of a title
    for own, panel, (row, column) in zip(axes, found, places, strict=True):
        is_last = (row, column + 1) not in places
        title = textwrap.fill(shortened(_title(panel, single=_is_single(found))), letters)
        own[0].set_title(title, pad=8 if panel.events else 5)
        own[-1 if len(own) > 2 else 0].set_xlabel(f"{data.unit} of the last stage" if several else data.unit)
        for place in own[:-1] if len(own) > 2 else ():
            place.tick_params(labelbottom=False)
        for number, (place, metrics) in enumerate(zip(own, data.axes, strict=True)):
            is_right = len(own) == 2 and number == 1
            if is_right:
                place.spines["right"].set_visible(True)
                place.grid(visible=False)
            if is_last if is_right else column == 0:
                place.set_ylabel(_axis_label(metrics, data))
            else:
                place.tick_params(which="both", labelleft=False, labelright=False, left=not is_right, right=False)


def _title(panel: Panel, *, single: bool) -> str:
    return ", ".join(one for one in (panel.data_set, *(panel.lines if single else ())) if one)


def _axis_label(metrics: Sequence[str], data: EpochsData) -> str:
    declared = data.runs.declared
    if len({panel_of(one, declared) for one in metrics}) == 1:
        text = axis_of(metrics, declared)
    else:
        text = with_unit(", ".join(declared.label(one) for one in metrics), declared.of(metrics[0]).shown_unit)
    return textwrap.fill(plain(text), 28 if len(data.axes) <= 2 else 16)


def _legend(axes: Axes, found: Sequence[Panel], data: EpochsData) -> None:
    """Entries of the legend: labels by colour and marker, metrics by line style, the baseline, and events."""
    single, metrics = _is_single(found), data.runs.figure.metrics
    sides = {data.axes[0][0]: " (left)", data.axes[1][0]: " (right)"} if len(data.axes) == 2 else {}
    for number, label in enumerate(_names(found) if not single else ()):
        axes.plot([], [], label=shortened(label), **{**_look(0, number, single=False), "linestyle": "-"})
    for number, metric in enumerate(metrics if len(metrics) > 1 or single else ()):
        side = next((text for one, text in sides.items() if metric in data.axes[0 if text == " (left)" else 1]), "")
        look = _look(number, 0, single=True) if single else {"color": "black", "linestyle": STYLES[number]}
        axes.plot([], [], label=plain(f"{data.runs.declared.label(metric)}{side}"), **look)
    for name in dict.fromkeys(panel.baseline_name for panel in found if panel.baseline):
        axes.plot([], [], color=BASELINE, linewidth=0.9, label=plain(name))
    for number, name in enumerate(data.runs.figure.events):
        if any(panel.events[name] for panel in found):
            axes.plot([], [], EVENT_MARKS[number % len(EVENT_MARKS)], color="black", markersize=3.5, linestyle=":",
                      linewidth=0.5, label=plain(data.runs.declared.label(name)))  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- words


def _table(panel: Panel, data: EpochsData) -> Iterator[dict[str, Any]]:
    by, declared = data.runs.figure.by or "setting", data.runs.declared
    lines = [("result", label, bands) for label, bands in panel.lines.items()]
    for role, label, bands in [*lines, ("baseline", panel.baseline_name, panel.baseline)]:
        for metric, band in bands.items():
            factor = declared.of(metric).factor
            columns = (band.positions, band.mean, band.low, band.high, band.count)
            for at, mean, low, high, count in zip(*columns, strict=True):
                yield {"data_set": panel.data_set, "role": role, by: label, "metric": metric,
                       "unit": declared.of(metric).shown_unit, data.unit: int(at), "mean": factor * float(mean),
                       "min": factor * float(low), "max": factor * float(high), "n": int(count)}  # fmt: skip
    for name, places in panel.events.items():
        for at, count in places.items():
            yield {"data_set": panel.data_set, "role": "event", by: ", ".join(panel.lines), "metric": name,
                   data.unit: at, "n": count}  # fmt: skip


def _caption(data: EpochsData, found: Sequence[Panel], left_out: int, title: str) -> str:
    runs = data.runs
    counts = [int(band.count.max()) for panel in found for of in panel.lines.values() for band in of.values()]
    pooled = runs.pooled([one for of in data.sets.values() for one in runs.parts(of).values()])
    shown = mean_of(counts, f"mean and range over {'runs' if pooled else 'seeds'}")
    sentences = [f"{title}: {shown}.", pooled]
    sentences += _of_events(found, data)
    sentences += _missing(data, found, left_out)
    sentences += [runs.reference_sentence(one) for one in runs.figure.metrics]
    names = list(dict.fromkeys(panel.baseline_name for panel in found if panel.baseline))
    grey = ", ".join(names).replace(" (baseline)", "")
    none = "The baseline has no such curve." if runs.baseline(runs.own) else "No baseline to compare with."
    sentences.append(f"Grey: {grey}, the baseline, drawn in the same way." if names else none)
    return " ".join(one for one in sentences if one)


def _of_events(found: Sequence[Panel], data: EpochsData) -> list[str]:
    if not data.runs.figure.events:
        return []
    names = ", ".join(data.runs.declared.label(one) for one in data.runs.figure.events)
    cut = sum(max(0, len(marks_of(panel)) - EVENTS_AT_MOST) for panel in found)
    rest = f"; the first {EVENTS_AT_MOST} of each panel, {cut} further ones are in the table" if cut else ""
    return [f"Vertical marks: {names} not 0 in any of the runs{rest}."]


def _missing(data: EpochsData, found: Sequence[Panel], left_out: int) -> list[str]:
    made, own = [], data.runs.own
    if left_out:
        verb = "has" if left_out == 1 else "have"
        ranked = data.runs.mode(data.runs.metric) is not None
        which = (
            f"shown are the best by mean {data.runs.declared.label(data.runs.metric)}" if ranked else "the last ones"
        )
        made.append(f"{counted(left_out, 'further line')} {verb} no place; {which}.")
    for metric in data.runs.figure.metrics:
        without = [label for panel in found for label, bands in panel.lines.items() if metric not in bands]
        if without:
            made.append(f"No {data.runs.declared.label(metric)}: {abbreviated(list(dict.fromkeys(without)), 4)}.")
    if others := len([one for one in own if one.path in data.curves]) - len(data.measured):
        made.append(f"{counted(others, 'run')} that {'counts' if others == 1 else 'count'} another unit are left out.")
    return made


def _alt(data: EpochsData, found: Sequence[Panel]) -> str:
    """The text for readers who cannot see the figure: where each line begins and ends."""
    sentences = []
    for panel in found:
        for label, bands in panel.lines.items():
            for metric, band in bands.items():
                factor = data.runs.declared.of(metric).factor
                where = ", ".join(one for one in (panel.data_set, label, data.runs.declared.label(metric)) if one)
                ends = [f"{factor * float(band.mean[at]):.4g} at {band.positions[at]:g}" for at in (0, -1)]
                sentences.append(f"{where}: from {ends[0]} to {ends[1]}")
    return f"By {data.unit}. {abbreviated(sentences, 12, '; ')}."
