"""Figures of runs: accuracy against fidelity, reliability, gradients, performance profiles, time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis import style
from analysis.comparison import performance_profile
from studies.distillation.analysis.figure_data import (
    FigureAndRows,
    FigureData,
    Rows,
    gains,
    mark_empty,
    page,
    shared_legend,
)
from studies.distillation.analysis.measures import MEASURES
from studies.distillation.analysis.runs import CONTROL, PLAIN, TEACHER, MethodSetting

LEAST_IN_BIN = 20  # images; the accuracy of fewer has a standard error of up to 11 points
_ROLES = {PLAIN: "<", CONTROL: "x", TEACHER: "h"}  # markers that no method has


def _for_each_data_set(data: FigureData, *, height: float = 2.3, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A panel for each data set, two in a row."""
    columns = min(2, len(data.runs.datasets))
    rows = -(-len(data.runs.datasets) // columns)
    figure, panels = page(columns, rows, height=height, share_y=share_y)
    for axes in panels[len(data.runs.datasets) :]:
        axes.remove()
    panels = panels[: len(data.runs.datasets)]
    for axes, dataset in zip(panels, data.runs.datasets, strict=True):
        axes.set_title(dataset)
    return figure, panels


def _look(data: FigureData, method: str) -> dict[str, Any]:
    """Colour, marker and line style of a method, or of a role: grey, with a marker that no method has."""
    if method in _ROLES:
        return {"color": style.BASELINE, "marker": _ROLES[method], "linestyle": "-"}
    return style.look(data.runs.methods.index(method))


def accuracy_fidelity(data: FigureData) -> FigureAndRows:
    """Accuracy against agreement: are students that follow the teacher more closely more accurate? A point is a run."""
    runs, table = data.runs, Rows()
    figure, panels = _for_each_data_set(data)
    sizes = {alpha: 3.0 + 1.5 * number for number, alpha in enumerate(runs.alphas)}
    for axes, dataset in zip(panels, runs.datasets, strict=True):
        for setting in runs.students:
            x, y = (data.values(setting, dataset, column) * 100 for column in ("agreement", "accuracy"))
            size = sizes.get(setting.alpha or 0.0, 4) if setting.method in runs.methods else 4
            seeds = [seed for seed in x.index if seed in y.index]
            look = {**_look(data, setting.method), "linestyle": "", "markersize": size}
            axes.plot(x[seeds], y[seeds], alpha=0.75, label=setting.method, **look)
            table += [{"dataset": dataset, "method": setting.method, "alpha": setting.alpha, "seed": seed,
                       "agreement_percent": x[seed], "accuracy_percent": y[seed]} for seed in seeds]  # fmt: skip
        if not any(row["dataset"] == dataset for row in table):
            mark_empty(axes)
        axes.set_xlabel("agreement with the teacher (%)")
        axes.set_ylabel("test accuracy (%)")
    shared_legend(figure, panels)
    return figure, table


def gradient_ratio(data: FigureData) -> FigureAndRows:
    """Gradient norm of the distance over that of the cross entropy, by epoch: a check of the effect of alpha."""
    runs, table = data.runs, Rows()
    figure, panels = _for_each_data_set(data, share_y=True)
    dashes = {alpha: style.LINES[number % len(style.LINES)] for number, alpha in enumerate(runs.alphas)}
    for axes, dataset in zip(panels, runs.datasets, strict=True):
        chosen = data.epochs[data.epochs["dataset"] == dataset]
        for (method, alpha), found in chosen.groupby(["method", "alpha"], sort=False):
            curve = found.groupby("epoch")["gradient_ratio"].mean()
            look = {**_look(data, method), "linestyle": dashes.get(alpha, "-"), "linewidth": 1, "markersize": 3.5}
            step = max(1, len(curve) // 6)
            first = runs.methods.index(method) * step // len(runs.methods)  # markers of methods at other epochs
            axes.plot(curve.index, curve, markevery=(first, step), label=method, **look)
            table += [{"dataset": dataset, "method": method, "alpha": alpha, "epoch": epoch, "gradient_ratio": value}
                      for epoch, value in curve.items()]  # fmt: skip
        axes.axhline(1, color=style.BASELINE, linewidth=1, label="equal gradients")
        if chosen.empty:
            mark_empty(axes)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("gradient norm of distance /\nof cross entropy" if axes in panels[::2] else "")
    for alpha, dash in dashes.items():
        panels[0].plot([], [], color="black", linestyle=dash, linewidth=1, label=f"alpha {alpha:g}")
    shared_legend(figure, panels)
    return figure, table


def reliability(data: FigureData, dataset: str) -> FigureAndRows:
    """Accuracy against confidence, all seeds together: a calibrated network is on the diagonal. Below, the counts."""
    runs, table = data.runs, Rows()
    methods = [data.undistilled.method, *runs.methods]
    alphas = list(dict.fromkeys(setting.alpha for setting in runs.students))
    columns = min(4, len(methods))
    rows = -(-len(methods) // columns)
    figure = style.panels(1, width=style.PRINT_WIDTH, height=2.5 * rows)[0]
    figure.clear()
    grid = figure.subplots(2 * rows, columns, squeeze=False, sharex=True, height_ratios=[3, 1] * rows)
    for axes in grid.flat:
        axes.set_visible(False)
    for number, method in enumerate(methods):
        row, column = divmod(number, columns)
        curves, counts = grid[2 * row, column], grid[2 * row + 1, column]
        curves.plot([0, 1], [0, 1], color=style.BASELINE, linewidth=0.8, label="perfectly calibrated")
        for setting in (one for one in runs.students if one.method == method):
            look = style.look(alphas.index(setting.alpha))
            table += _reliability_of(curves, counts, data.at(data.bins, setting, dataset), setting, look)
        _reliability_axes(curves, counts, method, is_first=column == 0, is_last=number + columns >= len(methods))
    for counts in grid[1::2].flat:  # how many images a bin has is compared between methods
        counts.set_ylim(0.7, max(axes.get_ylim()[1] for axes in grid[1::2].flat))
    shared_legend(figure, list(grid[::2].flat))
    return figure, [{"dataset": dataset, **row} for row in table]


def _reliability_of(
    curves: Axes, counts: Axes, bins: pd.DataFrame, setting: MethodSetting, look: dict[str, Any]
) -> Rows:
    """Draw the bins of a setting; those with few images are counted, and their accuracy is not drawn."""
    seen = bins[bins["count"] > 0]
    if seen.empty:
        return []
    sums = seen[["confidence", "accuracy"]].mul(seen["count"], axis=0).groupby(seen["lower"]).sum()
    number = seen.groupby("lower")["count"].sum()
    parts = sums.div(number, axis=0)
    drawn = parts[number >= LEAST_IN_BIN]
    label = setting.method if setting.alpha is None else f"alpha {setting.alpha:g}"
    curves.plot(drawn["confidence"], drawn["accuracy"], label=label, **{**look, "markersize": 3, "linewidth": 1})
    every = bins.groupby(["lower", "upper"])["count"].sum().reset_index()
    edges = [*every["lower"], every["upper"].iloc[-1]]
    counts.stairs(every["count"], edges, color=look["color"], linestyle=look["linestyle"], linewidth=1)
    return [{"method": setting.method, "alpha": setting.alpha, "bin_lower": lower, "images": int(number[lower]),
             "drawn": bool(number[lower] >= LEAST_IN_BIN), **part}
            for lower, part in parts.to_dict("index").items()]  # fmt: skip


def _reliability_axes(curves: Axes, counts: Axes, method: str, *, is_first: bool, is_last: bool) -> None:
    for axes in (curves, counts):
        axes.set_visible(True)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    if len(curves.lines) == 1:
        mark_empty(curves)
    curves.set_ylim(-0.03, 1.03)
    curves.set_title(method)
    counts.set_yscale("log")
    counts.axhline(LEAST_IN_BIN, color=style.BASELINE, linewidth=0.8, linestyle=":")
    counts.set_xlabel("confidence" if is_last else "")
    counts.tick_params(labelbottom=is_last)
    curves.set_ylabel("accuracy" if is_first else "")
    counts.set_ylabel("images" if is_first else "")
    for axes in (curves, counts):
        axes.tick_params(labelleft=is_first)


def profiles(data: FigureData) -> FigureAndRows:
    """Performance profiles: the share of each method's runs whose gain over their pair is at least a threshold."""
    runs, table = data.runs, Rows()
    known = {
        method: [gain for dataset in runs.datasets for alpha in runs.alphas
                 for gain in gains(data, dataset, MethodSetting(method, alpha), data.undistilled)]
        for method in runs.methods
    }  # fmt: skip
    every = [0.0, *(gain for found in known.values() for gain in found)]
    thresholds = np.linspace(min(every) - 0.1, max(every) + 0.1, 200)
    figure, (axes,) = page(1, height=3.2)
    for number, (method, found) in enumerate(known.items()):
        if found:
            share = performance_profile(np.array(found), thresholds)
            axes.plot(thresholds, share, label=f"{method} ({len(found)} runs)", markevery=(4 * number, 25),
                      **style.look(number))  # fmt: skip
            table += [{"method": method, "gain_points": gain, "share": part}
                      for gain, part in zip(thresholds, share, strict=True)]  # fmt: skip
    axes.axvline(0, color=style.BASELINE, linewidth=1, label="no gain")
    axes.set_xlabel(f"gain in test accuracy over the {data.baseline_label} (points)")
    axes.set_ylabel("share of runs with at least this gain")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    shared_legend(figure, [axes])
    return figure, table


def cost(data: FigureData) -> FigureAndRows:
    """Time of a run by method; a marker is a run."""
    runs, table = data.runs, Rows()
    order = [*runs.methods, CONTROL, PLAIN, TEACHER]
    measure = MEASURES["gpu_hours" if data.frame["gpu_hours"].sum() > 0 else "seconds"]
    figure, panels = _for_each_data_set(data, height=2.1)
    for axes, dataset in zip(panels, runs.datasets, strict=True):
        chosen = data.frame[data.frame["dataset"] == dataset]
        for place, method in enumerate(order):
            found = chosen[chosen["method"] == method][measure.column].dropna()
            look = {**_look(data, method), "linestyle": "", "markerfacecolor": "none", "markersize": 5}
            axes.plot(found, [place] * len(found), **look)
            axes.plot(found.median(), place, "|", color="black", markersize=11)
            table.append({"dataset": dataset, "method": method, "runs": len(found), "unit": measure.unit,
                          "median": found.median(), "sum": found.sum()})  # fmt: skip
        axes.set_yticks(range(len(order)), order if axes in panels[::2] else [""] * len(order))
        axes.invert_yaxis()
        longest = chosen[measure.column].max()
        axes.set_xlim(0, 1.05 * longest if longest > 0 else 1)
        axes.set_xlabel(f"{measure.label} of a run ({measure.unit})")
    return figure, table
