"""Figures with alpha on the x axis: a line for each method, the undistilled student as a band, chance or floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from roundhouse.formatting import counted
from studies.distillation.analysis.effects import DISTILLED, SAME_ALPHA
from studies.distillation.analysis.figure_data import (
    FigureAndRows,
    FigureData,
    Rows,
    gains,
    half_width,
    mark_empty,
    shared_legend,
)
from studies.distillation.analysis.measures import MEASURES, Measure
from studies.distillation.analysis.runs import MethodSetting

ALPHA = "alpha, share of the distillation term"


def _offsets(data: FigureData) -> dict[str, float]:
    """A small shift along alpha for each method, so that points do not overlap."""
    methods = data.runs.methods
    return {method: 0.014 * (number - (len(methods) - 1) / 2) for number, method in enumerate(methods)}


def _alpha_axis(axes: Axes, alphas: Sequence[float]) -> None:
    axes.set_xticks(list(alphas), [f"{alpha:g}" for alpha in alphas])
    axes.set_xlabel(ALPHA if _is_lowest(axes) else "")
    margin = 0.08 if len(alphas) > 1 else 0.2
    axes.set_xlim(min(alphas) - margin, max(alphas) + margin)


def _is_first(axes: Axes) -> bool:
    position = axes.get_subplotspec()
    return position is None or position.is_first_row()


def _is_lowest(axes: Axes) -> bool:
    position = axes.get_subplotspec()
    return position is None or position.is_last_row()


def _against_alpha(data: FigureData, axes: Axes, table: Rows, dataset: str, measure: Measure) -> list[float]:
    """Mean over seeds and 95 % interval against alpha, a line for each method, the baseline as a band. The means."""
    own = data.values(data.undistilled, dataset, measure.column) * measure.factor
    means = [own.mean()] if len(own) else []
    if len(own):
        spread = own.std() if len(own) > 1 else 0.0
        axes.axhspan(own.mean() - spread, own.mean() + spread, color=style.BASELINE, alpha=0.15, linewidth=0)
        axes.axhline(own.mean(), color=style.BASELINE, linewidth=1, label=f"{data.baseline_label}, ± sd of seeds")
        table.append(_point(dataset, measure, data.undistilled, own))
    shifts = _offsets(data)
    lines = [*[(method, style.look(number), shifts[method]) for number, method in enumerate(data.runs.methods)],
             ("control", {"color": style.BASELINE, "linestyle": ":", "marker": "x"}, 0.0)]  # fmt: skip
    for method, look, shift in lines:
        points = []
        for alpha in data.runs.alphas:
            found = data.values(MethodSetting(method, alpha), dataset, measure.column) * measure.factor
            if len(found):
                points.append((alpha + shift, found.mean(), half_width(list(found))))
                table.append(_point(dataset, measure, MethodSetting(method, alpha), found))
        if points:
            x, y, error = np.array(points).T
            axes.errorbar(x, y, np.nan_to_num(error), elinewidth=0.8, label=method, **look)
            means += list(y)
    _alpha_axis(axes, data.runs.alphas)
    axes.set_title(dataset if _is_first(axes) else "")
    return means


def _cut_bars(axes: Axes, means: Sequence[float], unit: str = "") -> None:
    """Set the y range by the means. Long error bars may be cut: with two seeds, they can be 9 deviations long."""
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


def _point(dataset: str, measure: Measure, setting: MethodSetting, found: pd.Series[float]) -> dict[str, Any]:
    return {
        "dataset": dataset, "measure": measure.column, "unit": measure.unit, "method": setting.method,
        "alpha": setting.alpha, "seeds": len(found), "mean": found.mean(), "sd": found.std(),
        "half_width_95": half_width(list(found)),
    }  # fmt: skip


def _grid(
    data: FigureData, columns: Sequence[str], floors: Mapping[str, tuple[str, str]] | None = None
) -> FigureAndRows:
    """A row of panels for each measure, a panel for each data set. `floors`: a measure's floor: column and label."""
    datasets, table = data.runs.datasets, Rows()
    shown = [MEASURES[column] for column in columns if data.frame[column].notna().any()]
    if not shown:
        return style.panels(1)[0], table
    figure, panels = style.panels(len(datasets), len(shown), width=2.9 if len(datasets) > 1 else 5.5)
    for number, axes in enumerate(panels):
        measure, dataset = shown[number // len(datasets)], datasets[number % len(datasets)]
        means = _against_alpha(data, axes, table, dataset, measure)
        if floors and measure.column in floors:
            column, label = floors[measure.column]
            floor = data.frame[data.frame["dataset"] == dataset][column].mean() * measure.factor
            axes.axhline(floor, color="black", linewidth=0.8, linestyle=(0, (1, 1)), label=label)
            table.append({"dataset": dataset, "measure": column, "unit": measure.unit, "mean": floor})
            means.append(floor)
        _cut_bars(axes, [one for one in means if np.isfinite(one)], measure.unit)
        if number % len(datasets) == 0:
            axes.set_ylabel(fill(measure.axis, 30))
    shared_legend(figure, panels)
    return figure, table


def accuracy_gain(data: FigureData) -> FigureAndRows:
    """Gain in accuracy over the undistilled student, pair by pair, and pooled over data sets."""
    return _gains(data, DISTILLED, lambda setting: data.undistilled)


def accuracy_beside_control(data: FigureData) -> FigureAndRows:
    """Gain over the control with the same alpha, which removes the effect of the smaller cross entropy."""
    return _gains(data, SAME_ALPHA, lambda setting: MethodSetting("control", setting.alpha))


def _gains(data: FigureData, question: str, against: Callable[[MethodSetting], MethodSetting]) -> FigureAndRows:
    runs, table = data.runs, Rows()
    columns = min(3, len(runs.datasets) + 1)
    rows = -(-(len(runs.datasets) + 1) // columns)
    figure, panels = style.panels(columns, rows, width=3.2, share_y=len(runs.datasets) > 1)
    for axes in panels[len(runs.datasets) + 1 :]:
        axes.remove()
    panels = panels[: len(runs.datasets) + 1]
    for axes, dataset in zip(panels, runs.datasets, strict=False):
        _gains_on(data, axes, table, dataset, against)
    _pooled_gains(data, panels[-1], question, table)
    for number, axes in enumerate(panels):
        axes.axhline(0, color=style.BASELINE, linewidth=1)
        _alpha_axis(axes, runs.alphas)
        if number % columns == 0:
            axes.set_ylabel(fill(f"gain in test accuracy over {_short(data, question)} (points)", 31))
    for axes in panels[-columns:]:
        axes.set_xlabel(ALPHA)
    shared_legend(figure, panels)
    return figure, table


def _gains_on(
    data: FigureData, axes: Axes, table: Rows, dataset: str, against: Callable[[MethodSetting], MethodSetting]
) -> None:
    """One data set: a small dot for each seed, their mean and its 95 % interval."""
    runs, shifts, most = data.runs, _offsets(data), 0
    for number, method in enumerate(runs.methods):
        points = []
        for alpha in runs.alphas:
            setting = MethodSetting(method, alpha)
            found, x = gains(data, dataset, setting, against(setting)), alpha + shifts[method]
            axes.plot([x] * len(found), found, ".", color=style.look(number)["color"], markersize=2.5, alpha=0.6)
            if found:
                points.append((x, np.mean(found), half_width(found)))
                table.append({"panel": dataset, "method": method, "alpha": alpha, "pairs": len(found),
                              "gain_points": np.mean(found), "half_width_95": half_width(found)})  # fmt: skip
                most = max(most, len(found))
        if points:
            places, means, errors = np.array(points).T
            axes.errorbar(places, means, np.nan_to_num(errors), elinewidth=0.8, label=method, **style.look(number))
    spread = data.values(data.undistilled, dataset, "accuracy").std() * 100
    if np.isfinite(spread):
        label = f"{data.baseline_label}, ± sd of seeds"
        axes.axhspan(-spread, spread, color=style.BASELINE, alpha=0.15, linewidth=0, label=label)
    if not most:
        mark_empty(axes)
    axes.set_title(f"{dataset}, {counted(most, 'seed')}")


def _short(data: FigureData, question: str) -> str:
    return "the control of the same alpha" if question == SAME_ALPHA else f"the {data.baseline_label}"


def _pooled_gains(data: FigureData, axes: Axes, question: str, table: Rows) -> None:
    """Over all data sets; a filled marker is a shown difference, an empty one is not."""
    shifts = _offsets(data)
    found = [one for one in data.families if one.question == question and one.measure.column == "accuracy"]
    results = found[0].results if found else {}
    for setting, result in results.items():
        look = style.look(data.runs.methods.index(setting.method))
        interval = data.intervals.get(setting, result.interval) if question == DISTILLED else result.interval
        low, high = interval.low * 100, interval.high * 100
        x, mean = (setting.alpha or 0.0) + shifts[setting.method], result.mean * 100
        axes.vlines(x, low, high, color=look["color"], linewidth=1)
        axes.plot(x, mean, marker=look["marker"], color=look["color"], linestyle="",
                  markerfacecolor=look["color"] if result.shown else "white")  # fmt: skip
        table.append({"panel": "pooled", "method": setting.method, "alpha": setting.alpha, "pairs": result.n,
                      "gain_points": mean, "low_95": low, "high_95": high, "p": result.p, "p_holm": result.p_holm,
                      "shown": result.shown})  # fmt: skip
    pairs = max((result.n for result in results.values()), default=0)
    if not pairs:
        mark_empty(axes)
    axes.set_title(f"all data sets, {counted(pairs, 'pair')}; filled: shown")


def fidelity(data: FigureData) -> FigureAndRows:
    """Agreement with the teacher, and KL, against alpha."""
    return _grid(data, ("agreement", "kl"))


def similarity(data: FigureData) -> FigureAndRows:
    """CKA with the teacher, and measures of what CKA may miss: Procrustes distance, neighbours, principal angles."""
    chance = {"knn": ("knn_chance", "k-NN overlap of unrelated features")}
    return _grid(data, ("cka_pooled", "procrustes", "knn", "angle"), chance)


def effective_rank(data: FigureData) -> FigureAndRows:
    """How many directions the features use, and how compact classes are."""
    return _grid(data, ("participation", "components_90", "components_95", "variance_ratio", "class_cosine"))


def calibration(data: FigureData) -> FigureAndRows:
    """Calibration errors before and after temperature scaling, with the floor of a perfectly calibrated student."""
    floor = ("ece_floor", "ECE if perfectly calibrated")
    return _grid(data, ("ece", "ece_scaled", "adaptive_ece", "nll", "brier", "temperature"), {"ece": floor})
