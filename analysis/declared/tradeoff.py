"""A metric against what it costs: a point for each setting, and the front of those that no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from analysis.declared.labels import place_labels
from analysis.declared.runs import COSTS, FigureRuns, baseline_label
from analysis.declared.settings import SettingResult, mean_of
from analysis.declared.values import as_number, in_order, scale, swept_geometrically, text_of
from analysis.group_data import shortened
from analysis.learning_curves import DrawnFigure, is_logarithmic, plain
from analysis.rounds import RoundEntry, value_label
from analysis.style import BASELINE, legend_below, look, panels
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import abbreviated, counted
from roundhouse.names import nearest

LOOKS = 14  # colours and markers in one legend; with more values, all points look the same
LABELLED = 8  # points of the front that are labelled; with more, none is
TICKS_AT_MOST = 6  # at the values of a config key; with more, matplotlib chooses
NAMED = 6  # settings in a caption

CostOf = Callable[[RoundEntry], float | None]


@dataclass(frozen=True)
class Point:
    """A setting: its costs and its results, of the same runs. `look`: the value that colour and marker stand for."""

    label: str
    look: str
    cost: SettingResult
    result: SettingResult
    is_baseline: bool

    @property
    def at(self) -> tuple[float, float]:
        return self.cost.mean, self.result.mean


def draw(runs: FigureRuns) -> DrawnFigure:
    """A panel for each data set."""
    runs.require_metric()
    over, cost_of = runs.figure.over, _costs(runs)
    found = {name: _points(runs, entries, cost_of) for name, entries in runs.data_sets.items()}
    found = {name: points for name, points in found.items() if points}
    if not found:
        raise RoundhouseError(f"over: no run has a number as {over} and a value of {runs.metric}")
    every = [one for points in found.values() for one in points]
    looks = in_order(_colour(runs, one.result.entries[0]) for one in every if not one.is_baseline)
    numbers = {name: place for place, name in enumerate(looks)} if len(looks) <= LOOKS else {}
    modes = runs.mode(over) or "min", runs.mode(runs.metric)
    columns = min(len(found), 2)
    figure, axes = panels(columns, math.ceil(len(found) / columns), width=3.4 if columns > 1 else 4.8, height=2.6)
    fronts = {name: pareto_front([one.at for one in points], modes[0], modes[1]) if modes[1] else []
              for name, points in found.items()}  # fmt: skip
    table: list[dict[str, Any]] = []
    for place, (data_set, points) in zip(axes, found.items(), strict=False):
        _panel(place, runs, points, numbers)
        _front(place, [points[index].at for index in fronts[data_set]], modes[0])
        place.set_title(shortened(data_set))
        table += [_row(runs, data_set, one, index in fronts[data_set] if modes[1] else None)
                  for index, one in enumerate(points)]  # fmt: skip
    for place in axes[len(found) :]:
        place.remove()
    _scale_axes(axes[: len(found)], runs, every)
    legend_below(figure, axes[: len(found)], row=0.17)
    figure.draw_without_rendering()  # so that the labels find their places in the final layout
    for place, (data_set, points) in zip(axes, found.items(), strict=False):
        front = [points[index] for index in fronts[data_set]]
        labels = {one.at: shortened(one.label) for one in front if len(front) <= LABELLED}
        place_labels(place, labels, [one.at for one in points])
    title = f"{runs.declared.label(runs.metric)} against {runs.label_of(over)}"
    return DrawnFigure(figure, table, title, _caption(runs, title, every, found, fronts, numbers, len(looks)),
                       _alt(runs, found, fronts))  # fmt: skip


def _costs(runs: FigureRuns) -> CostOf:
    """What the x axis shows of a run: a cost, a config key, or a metric, in this order."""
    over = runs.figure.over
    if over not in COSTS and over in runs.config_keys:
        return lambda entry: as_number(entry.config.get(over))
    if over not in COSTS and over not in runs.known:
        known = [*COSTS, *runs.known, *sorted(runs.config_keys)]
        raise RoundhouseError(f"over: {over!r} is no cost, final metric or config key: {nearest(over, known)}")
    return lambda entry: runs.value(entry, over)


def _points(
    runs: FigureRuns, entries: Sequence[RoundEntry], cost_of: Callable[[RoundEntry], float | None]
) -> list[Point]:
    """The settings of a data set and of its baseline, of runs that have both values."""
    baseline = runs.baseline(entries)
    every, paths = [*entries, *baseline], {one.path for one in baseline}
    costs = {one.path: cost for one in every if runs.value(one) is not None and (cost := cost_of(one)) is not None}
    others = runs.varying - {runs.figure.by, runs.figure.over}
    made = []
    for one in runs.settings([entry for entry in every if entry.path in costs]):
        first = one.entries[0]
        label = runs.label(first, runs.varying - others) if others else one.label
        x = SettingResult(one.label, one.entries, tuple(costs[entry.path] for entry in one.entries))
        made.append(Point(label, text_of(_colour(runs, first)), x, one, first.path in paths))
    return made


def _colour(runs: FigureRuns, entry: RoundEntry) -> Any:
    """The value that colour and marker stand for."""
    return entry.config.get(runs.figure.by) if runs.figure.by else runs.label(entry)


def pareto_front(points: Sequence[tuple[float, float]], x_mode: str, y_mode: str) -> list[int]:
    """The points (indices, by increasing x) for which no other is as good in both coordinates and better in one."""
    signs = (1 if x_mode == "min" else -1), (1 if y_mode == "min" else -1)
    costs = [(signs[0] * x, signs[1] * y) for x, y in points]
    kept: list[int] = []
    for index in sorted(range(len(costs)), key=lambda one: costs[one]):
        if not kept or costs[index][1] < costs[kept[-1]][1] or costs[index] == costs[kept[-1]]:
            kept.append(index)
    return kept if x_mode == "min" else kept[::-1]


# ---------------------------------------------------------------------------------------------- drawing


def _panel(axes: Axes, runs: FigureRuns, points: Sequence[Point], numbers: Mapping[str, int]) -> None:
    groups: dict[str, list[Point]] = {}
    for one in points:
        groups.setdefault("" if one.is_baseline else one.look if numbers else "settings", []).append(one)
    for name in sorted(groups, key=lambda name: numbers.get(name, -1)):
        members = groups[name]
        style = {**look(numbers.get(name, 0)), "zorder": 3} if name else {"color": BASELINE, "marker": "x", "zorder": 4}
        label = value_label(runs.figure.by, name) if name in numbers and runs.figure.by else name
        if not name:
            label = baseline_label(members[0].result.entries)
        axes.errorbar([one.cost.mean for one in members], [one.result.mean for one in members],
                      [one.result.sd or 0.0 for one in members], [one.cost.sd or 0.0 for one in members],
                      label=shortened(label), elinewidth=0.7, **{**style, "linestyle": "none"})  # fmt: skip
    reference = runs.reference([entry for one in points for entry in one.result.entries])
    if reference is not None:
        axes.axhline(
            reference, color=BASELINE, linestyle=":", label=plain(str(runs.declared.reference_label(runs.metric)))
        )
    axes.set_xlabel(runs.axis(runs.figure.over))
    axes.set_ylabel(runs.axis())


def _front(axes: Axes, front: Sequence[tuple[float, float]], x_mode: str) -> None:
    """The best result for each limit of the cost; at a front of one point there is no line."""
    pairs = list(zip(front, front[1:], strict=False))
    corners = [(high[0], low[1]) if x_mode == "min" else (low[0], high[1]) for low, high in pairs]
    line = [one for pair in zip(front, corners, strict=False) for one in pair] + list(front[-1:])
    if corners:
        axes.plot(*zip(*line, strict=True), color="black", linewidth=0.9, zorder=2, label="Pareto front")


def _scale_axes(axes: Sequence[Axes], runs: FigureRuns, points: Sequence[Point]) -> None:
    """Equal axes for all panels, logarithmic where the values were swept so or range widely."""
    over, xs, ys = runs.figure.over, [one.cost.mean for one in points], [one.result.mean for one in points]
    wide = is_logarithmic(over, runs.declared, min(xs), max(xs))
    is_key = over in runs.config_keys and over not in COSTS
    swept = is_key and swept_geometrically(xs)
    tall = is_logarithmic(runs.metric, runs.declared, min(ys), max(ys))
    for one in axes:
        scale(one.xaxis, wide or swept, xs)
        if is_key and len(set(xs)) <= TICKS_AT_MOST:
            one.set_xticks(sorted(set(xs)), [f"{x:g}" for x in sorted(set(xs))])
            one.xaxis.set_minor_locator(NullLocator())
        scale(one.yaxis, tall, ys)
    for name in ("x", "y"):
        limits = [getattr(one, f"get_{name}lim")() for one in axes]
        for one in axes:
            getattr(one, f"set_{name}lim")(min(low for low, _ in limits), max(high for _, high in limits))


# ---------------------------------------------------------------------------------------------- words


def _row(runs: FigureRuns, data_set: str, one: Point, on_front: bool | None) -> dict[str, Any]:
    over, by = runs.figure.over, runs.figure.by
    return {"data_set": data_set, "role": "baseline" if one.is_baseline else "result",
            "group": one.result.entries[0].group, "setting": one.result.label,
            **({by: one.result.config.get(by)} if by else {}), over: one.cost.mean, f"{over}_sd": one.cost.sd,
            "metric": runs.metric, "unit": runs.declared.of(runs.metric).shown_unit, "mean": one.result.mean,
            "sd": one.result.sd, "n": one.result.n,
            "front": "" if on_front is None else "yes" if on_front else "no"}  # fmt: skip


def _caption(
    runs: FigureRuns,
    title: str,
    every: Sequence[Point],
    found: Mapping[str, Sequence[Point]],
    fronts: Mapping[str, Sequence[int]],
    numbers: Mapping[str, int],
    looks: int,
) -> str:
    sentences = [f"{title}, a point for each setting: {mean_of([one.result.n for one in every])}."]
    best = {"min": "lowest", "max": "highest"}
    mode, x_mode = runs.mode(runs.metric), runs.mode(runs.figure.over) or "min"
    if mode is None:
        sentences.append(f"No Pareto front: nothing declares whether the lowest or the highest {runs.metric} is best.")
    else:
        what = f"{best[x_mode]} {runs.label_of(runs.figure.over)}, {best[mode]} {runs.declared.label(runs.metric)}"
        sentences.append(f"Pareto front, by the means: the settings that no other beats in both ({what}).")
        sentences += _on_front(found, fronts)
    if not numbers:
        sentences.append(f"Points look the same: {looks} values are too many for colours. The table names each.")
    names = list(dict.fromkeys(one.result.entries[0].group for one in every if one.is_baseline))
    sentences.append(f"Grey cross: the baseline, group {names[0]}." if names else "No baseline to compare with.")
    return " ".join(sentences)


def _on_front(found: Mapping[str, Sequence[Point]], fronts: Mapping[str, Sequence[int]]) -> list[str]:
    sentences = []
    for data_set, points in found.items():
        names = [points[index].result.label for index in fronts[data_set]]
        where = f"{data_set}: " if data_set else ""
        sentences.append(
            f"{where}{counted(len(names), 'setting')} of {len(points)}: {abbreviated(names, NAMED, '; ')}."
        )
    return sentences


def _alt(runs: FigureRuns, found: Mapping[str, Sequence[Point]], fronts: Mapping[str, Sequence[int]]) -> str:
    """The text for readers who cannot see the figure: the front, or without one where all points lie."""
    sentences = []
    for data_set, points in found.items():
        chosen = [points[index] for index in fronts[data_set]] or sorted(points, key=lambda one: one.at)
        what = "front" if fronts[data_set] else "points"
        lines = [f"{one.result.label} {one.at[1]:.4g} at {one.at[0]:.4g}" for one in chosen]
        sentences.append(f"{f'{data_set}, ' if data_set else ''}{what}: {abbreviated(lines, 12, '; ')}")
    return f"{runs.axis()} against {runs.axis(runs.figure.over)}. {'; '.join(sentences)}."
