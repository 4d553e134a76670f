"""Figures with alpha on the x axis: a line for each method, the undistilled student as a band, chance or floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import style
from analysis.comparison import Interval, mean_interval
from roundhouse.formatting import counted
from studies.distillation.analysis.effects import DISTILLED, SAME_ALPHA
from studies.distillation.analysis.figure_data import (
    FigureAndRows,
    FigureData,
    Rows,
    gains,
    mark_empty,
    page,
    shared_legend,
)
from studies.distillation.analysis.measures import MEASURES, Measure
from studies.distillation.analysis.runs import CONTROL, MethodSetting

ALPHA = "alpha, share of the distillation term"
Floors = Mapping[str, tuple[str, str]]  # from a measure to the column of its floor, and the floor's label


def _offsets(data: FigureData) -> dict[str, float]:
    """A small shift along alpha for each method, so that points do not overlap."""
    methods = data.runs.methods
    return {method: 0.022 * (number - (len(methods) - 1) / 2) for number, method in enumerate(methods)}


def _alpha_axis(axes: Axes, alphas: Sequence[float]) -> None:
    axes.set_xticks(list(alphas), [f"{alpha:g}" for alpha in alphas])
    margin = 0.09 if len(alphas) > 1 else 0.2
    axes.set_xlim(min(alphas) - margin, max(alphas) + margin)


def _bar(axes: Axes, x: float, interval: Interval, colour: str) -> None:
    """The interval of a mean; nothing if there are too few values for one."""
    if np.isfinite(interval.low):
        axes.vlines(x, interval.low, interval.high, color=colour, linewidth=0.8)


def _looks(data: FigureData) -> list[tuple[str, dict[str, Any], float]]:
    """For the control and each method: its name, its look, and its shift along alpha."""
    shifts = _offsets(data)
    looks = [(method, style.look(number), shifts[method]) for number, method in enumerate(data.runs.methods)]
    return [*looks, (CONTROL, {"color": style.BASELINE, "linestyle": ":", "marker": "x"}, 0.0)]


def _baseline(data: FigureData, axes: Axes, table: Rows, dataset: str, measure: Measure) -> list[float]:
    """The undistilled student: its mean, and the interval as a band; without an interval, a thin line for each seed."""
    own = data.values(data.undistilled, dataset, measure.column) * measure.factor
    if not len(own):
        return []
    table.append(_point(dataset, measure, data.undistilled, list(own)))
    interval = mean_interval(own)
    axes.axhline(own.mean(), color=style.BASELINE, linewidth=1, label=f"{data.baseline_label}: mean")
    if np.isfinite(interval.low):
        axes.axhspan(interval.low, interval.high, color=style.BASELINE, alpha=0.15, linewidth=0,
                     label=f"{data.baseline_label}: 95 % interval")  # fmt: skip
    else:
        for value in own:
            axes.axhline(value, color=style.BASELINE, linewidth=0.5, alpha=0.6, linestyle="--",
                         label=f"{data.baseline_label}: single seeds")  # fmt: skip
    return [own.mean()]


def _against_alpha(data: FigureData, axes: Axes, table: Rows, dataset: str, measure: Measure) -> list[float]:
    """A dot for each seed, their mean and its interval against alpha; the baseline as a band. Returns the means."""
    means = _baseline(data, axes, table, dataset, measure)
    for method, look, shift in _looks(data):
        points = []
        for alpha in data.runs.alphas:
            found = data.values(MethodSetting(method, alpha), dataset, measure.column) * measure.factor
            if len(found):
                x = alpha + shift
                points.append((x, found.mean()))
                axes.plot([x] * len(found), found, ".", color=look["color"], markersize=2, alpha=0.6)
                _bar(axes, x, mean_interval(found), look["color"])
                table.append(_point(dataset, measure, MethodSetting(method, alpha), list(found)))
        if points:
            axes.plot(*np.array(points).T, label=method, markersize=4, **look)
            means += [mean for _, mean in points]
    return means


def _cut_bars(axes: Axes, means: Sequence[float], unit: str = "") -> None:
    """Set the y range by the means. Long bars may be cut: of three seeds they are 2.5 deviations long."""
    if not means:
        mark_empty(axes)
        return
    low, high = axes.get_ylim()
    room = max(means) - min(means)
    if room > 0:
        low, high = max(low, min(means) - room), min(high, max(means) + room)
    if min(means) >= 0:  # no range below 0 for measures that are never negative, nor above 100 % for shares
        low = max(low, -0.02 * high)
    axes.set_ylim(low, min(high, 101.0) if unit == "%" else high)


def _point(dataset: str, measure: Measure, setting: MethodSetting, found: Sequence[float]) -> dict[str, Any]:
    interval = mean_interval(found)
    return {
        "dataset": dataset, "measure": measure.column, "unit": measure.unit, "method": setting.method,
        "alpha": setting.alpha, "seeds": len(found), "mean": np.mean(found), "low_95": interval.low,
        "high_95": interval.high,
    }  # fmt: skip


def _grid(
    data: FigureData, datasets: Sequence[str], measures: Sequence[str], *, floors: Floors | None = None,
    equal: Sequence[str] = (),
) -> FigureAndRows:  # fmt: skip
    """A panel for each data set and measure. The measures in `equal` have one y range on each data set."""
    table = Rows()
    shown = [MEASURES[column] for column in measures if data.frame[column].notna().any()]
    if not shown:
        return page(1)[0], table
    cells = [(dataset, measure) for dataset in datasets for measure in shown]
    columns = len(shown) if len(datasets) > 1 else 2 if len(cells) in (2, 4) else min(3, len(cells))
    figure, panels = page(columns, -(-len(cells) // columns), height=1.85 if len(datasets) > 1 else 2.2)
    for axes in panels[len(cells) :]:
        axes.remove()
    panels = panels[: len(cells)]
    for axes, (dataset, measure) in zip(panels, cells, strict=True):
        means = _against_alpha(data, axes, table, dataset, measure)
        means += _floor(data, axes, table, dataset, measure, floors or {})
        _cut_bars(axes, [one for one in means if np.isfinite(one)], measure.unit)
        axes.set_ylabel(fill(measure.axis, 22 if len(datasets) > 1 else 28))
        axes.set_title(dataset if len(datasets) > 1 else "")
        _alpha_axis(axes, data.runs.alphas)
    _equal_ranges(panels, cells, equal)
    for axes in panels[-columns:]:
        axes.set_xlabel(fill(ALPHA, 78 // columns))
    shared_legend(figure, panels)
    return figure, table


def _floor(data: FigureData, axes: Axes, table: Rows, dataset: str, measure: Measure, floors: Floors) -> list[float]:
    """A dotted line at the value that the measure would have without any effect, if it has one."""
    if measure.column not in floors:
        return []
    column, label = floors[measure.column]
    floor = data.frame[data.frame["dataset"] == dataset][column].mean() * measure.factor
    axes.axhline(floor, color="black", linewidth=0.8, linestyle=(0, (1, 1)), label=label)
    table.append({"dataset": dataset, "measure": column, "unit": measure.unit, "mean": floor})
    return [floor]


def _equal_ranges(panels: Sequence[Axes], cells: Sequence[tuple[str, Measure]], equal: Sequence[str]) -> None:
    chosen = [axes for axes, (_, measure) in zip(panels, cells, strict=True) if measure.column in equal]
    for axes in chosen:
        axes.set_ylim(min(one.get_ylim()[0] for one in chosen), max(one.get_ylim()[1] for one in chosen))


def accuracy_gain(data: FigureData) -> FigureAndRows:
    """Gain in accuracy over the undistilled student, pair by pair, and pooled over data sets."""
    return _gains(data, DISTILLED, lambda setting: data.undistilled)


def accuracy_beside_control(data: FigureData) -> FigureAndRows:
    """Gain over the control with the same alpha, which removes the effect of the smaller cross entropy."""
    return _gains(data, SAME_ALPHA, lambda setting: MethodSetting(CONTROL, setting.alpha))


def _gains(data: FigureData, question: str, against: Callable[[MethodSetting], MethodSetting]) -> FigureAndRows:
    runs, table = data.runs, Rows()
    columns = min(3, len(runs.datasets) + 1)
    rows = -(-(len(runs.datasets) + 1) // columns)
    figure, panels = page(columns, rows, height=2.3, share_y=True)
    for axes in panels[len(runs.datasets) + 1 :]:
        axes.remove()
    panels = panels[: len(runs.datasets) + 1]
    for axes, dataset in zip(panels, runs.datasets, strict=False):
        _gains_on(data, axes, table, dataset, against)
    _pooled_gains(data, panels[-1], question, table)
    short = "the control of the same alpha" if question == SAME_ALPHA else f"the {data.baseline_label}"
    for number, axes in enumerate(panels):
        axes.axhline(0, color=style.BASELINE, linewidth=1, label="no gain")
        _alpha_axis(axes, runs.alphas)
        if number % columns == 0:
            axes.set_ylabel(fill(f"gain in test accuracy over {short} (points)", 31))
    for axes in panels[-columns:]:
        axes.set_xlabel(fill(ALPHA, 78 // columns))
    shared_legend(figure, panels)
    return figure, table


def _gains_on(
    data: FigureData, axes: Axes, table: Rows, dataset: str, against: Callable[[MethodSetting], MethodSetting]
) -> None:
    """One data set: a small dot for each pair, their mean and its interval."""
    runs, shifts, most = data.runs, _offsets(data), 0
    for number, method in enumerate(runs.methods):
        points, look = [], style.look(number)
        for alpha in runs.alphas:
            setting = MethodSetting(method, alpha)
            found, x = gains(data, dataset, setting, against(setting)), alpha + shifts[method]
            if found:
                interval = mean_interval(found)
                axes.plot([x] * len(found), found, ".", color=look["color"], markersize=2.5, alpha=0.6)
                _bar(axes, x, interval, look["color"])
                points.append((x, np.mean(found)))
                table.append({"panel": dataset, "method": method, "alpha": alpha, "pairs": len(found),
                              "gain_points": np.mean(found), "low_95": interval.low,
                              "high_95": interval.high})  # fmt: skip
                most = max(most, len(found))
        if points:
            axes.plot(*np.array(points).T, label=method, markersize=4, **look)
    if not most:
        mark_empty(axes)
    axes.set_title(f"{dataset}, {counted(most, 'pair')}")


def _pooled_gains(data: FigureData, axes: Axes, question: str, table: Rows) -> None:
    """Over all data sets; a filled marker is a shown difference, an empty one is not."""
    shifts = _offsets(data)
    found = [one for one in data.families if one.question == question and one.measure.column == "accuracy"]
    results = found[0].results if found else {}
    for setting, result in results.items():
        look = style.look(data.runs.methods.index(setting.method))
        interval = Interval(result.interval.low * 100, result.interval.high * 100)
        x, mean = (setting.alpha or 0.0) + shifts[setting.method], result.mean * 100
        _bar(axes, x, interval, look["color"])
        singles = [100 * one for one in result.singles]
        axes.plot([x] * len(singles), singles, ".", color=look["color"], markersize=2.5, alpha=0.6)
        axes.plot(x, mean, marker=look["marker"], color=look["color"], linestyle="", markersize=5,
                  markerfacecolor=look["color"] if result.shown else "white")  # fmt: skip
        table.append({"panel": "pooled", "method": setting.method, "alpha": setting.alpha, "pairs": result.n,
                      "gain_points": mean, "low_95": interval.low, "high_95": interval.high, "p": result.p,
                      "p_holm": result.p_holm, "shown": result.shown})  # fmt: skip
    pairs = max((result.n for result in results.values()), default=0)
    if not pairs:
        mark_empty(axes)
    axes.set_title(f"all, {counted(pairs, 'pair')}; filled: shown")


def fidelity(data: FigureData) -> FigureAndRows:
    """Agreement with the teacher, and KL, against alpha."""
    return _grid(data, data.runs.datasets, ("agreement", "kl"))


def similarity(data: FigureData, dataset: str) -> FigureAndRows:
    """CKA with the teacher, and measures of what CKA may miss: Procrustes distance, neighbours, principal angles."""
    chance = {"knn": ("knn_chance", "k-NN overlap of unrelated features")}
    return _grid(data, [dataset], ("cka_pooled", "procrustes", "knn", "angle"), floors=chance)


def effective_rank(data: FigureData, dataset: str) -> FigureAndRows:
    """How many directions the features use, and how compact classes are."""
    measures = ("participation", "components_90", "components_95", "variance_ratio", "class_cosine")
    return _grid(data, [dataset], measures)


def calibration(data: FigureData, dataset: str) -> FigureAndRows:
    """Calibration errors before and after temperature scaling, with the floor of a perfectly calibrated student."""
    floor = ("ece_floor", "ECE if perfectly calibrated")
    errors = ("ece", "ece_scaled", "adaptive_ece")
    return _grid(data, [dataset], (*errors, "nll", "brier", "temperature"), floors={"ece": floor}, equal=errors)
