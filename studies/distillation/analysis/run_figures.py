"""Figures of runs: fidelity, layers, similarity of students, calibration, gradients, performance profiles, time."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from analysis import style
from analysis.comparison import performance_profile
from studies.distillation.analysis.figure_data import FigureAndRows, FigureData, Rows, gains, mark_empty, shared_legend
from studies.distillation.analysis.measures import MEASURES
from studies.distillation.analysis.runs import LAYERS, MethodSetting


def accuracy_fidelity(data: FigureData) -> FigureAndRows:
    """Accuracy against agreement: are students that follow the teacher more closely more accurate? A point is a run."""
    runs, table = data.runs, Rows()
    figure, panels = style.panels(len(runs.datasets), width=3.2)
    sizes = {alpha: 3.0 + 2.0 * number for number, alpha in enumerate(runs.alphas)}
    for axes, dataset in zip(panels, runs.datasets, strict=True):
        for setting in runs.students:
            x, y = (data.values(setting, dataset, column) * 100 for column in ("agreement", "accuracy"))
            if setting.method in runs.methods:
                look = {
                    **style.look(runs.methods.index(setting.method)),
                    "markersize": sizes.get(setting.alpha or 0.0, 4),
                }
            else:
                look = {"color": style.BASELINE, "marker": "+" if setting.method == "plain" else "x"}
            seeds = [seed for seed in x.index if seed in y.index]
            axes.plot(x[seeds], y[seeds], **{**look, "linestyle": ""}, alpha=0.75, label=setting.method)
            table += [{"dataset": dataset, "method": setting.method, "alpha": setting.alpha, "seed": seed,
                       "agreement_percent": x[seed], "accuracy_percent": y[seed]} for seed in seeds]  # fmt: skip
        if not any(row["dataset"] == dataset for row in table):
            mark_empty(axes)
        axes.set_title(dataset)
        axes.set_xlabel("agreement with the teacher (%)")
    panels[0].set_ylabel("test accuracy (%)\nlarger marker: larger alpha")
    shared_legend(figure, panels)
    return figure, table


def layers(data: FigureData) -> FigureAndRows:
    """CKA(student, teacher) minus CKA(undistilled student, teacher), layer by alpha."""
    runs, table = data.runs, Rows()
    figure, panels = style.panels(len(runs.methods), len(runs.datasets), width=1.75, height=1.75)
    cells = [(dataset, method) for dataset in runs.datasets for method in runs.methods]
    grids = [_layer_differences(data, dataset, method, table) for dataset, method in cells]
    limit = max(0.05, np.nanmax(np.abs([differences for differences, _ in grids]), initial=0.0))
    for axes, (dataset, method), (differences, noisy) in zip(panels, cells, grids, strict=True):
        image = axes.imshow(differences, cmap=style.DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
        _write_cells(axes, differences, noisy, limit)
        if np.isnan(differences).all():
            mark_empty(axes)
        axes.set_xticks(range(len(runs.alphas)), [f"{alpha:g}" for alpha in runs.alphas])
        first = method == runs.methods[0]
        axes.set_yticks(range(len(LAYERS)), LAYERS if first else [""] * len(LAYERS))
        axes.set_title(method if dataset == runs.datasets[0] else "")
        axes.set_xlabel("alpha" if dataset == runs.datasets[-1] else "")
        axes.set_ylabel(dataset if first else "")
        axes.grid(False)
    label = fill(f"CKA with the teacher, less that of the {data.baseline_label}", 22 if len(runs.datasets) == 1 else 40)
    figure.colorbar(image, ax=panels, label=label)
    return figure, table


def _layer_differences(
    data: FigureData, dataset: str, method: str, table: Rows
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Differences in CKA (layers, alphas), NaN if unknown; and which are within twice their standard error."""
    shape = (len(LAYERS), len(data.runs.alphas))
    differences, noisy = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    for row, layer in enumerate(LAYERS):
        own = data.values(data.undistilled, dataset, f"cka_{layer}")
        for column, alpha in enumerate(data.runs.alphas):
            found = data.values(MethodSetting(method, alpha), dataset, f"cka_{layer}")
            if not len(found) or not len(own):
                continue
            difference, error = found.mean() - own.mean(), np.sqrt(found.var() / len(found) + own.var() / len(own))
            differences[row, column], noisy[row, column] = difference, not abs(difference) > 2 * error
            table.append({"dataset": dataset, "method": method, "alpha": alpha, "layer": layer,
                          "cka": found.mean(), "cka_undistilled": own.mean(), "sd_undistilled": own.std(),
                          "difference": difference, "standard_error": error, "seeds": len(found)})  # fmt: skip
    return differences, noisy


def _write_cells(axes: Axes, grid: Any, noisy: Any, limit: float) -> None:
    """Write the values into cells; in brackets if within twice their standard error over seeds."""
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.6 * limit else "black"
            text = f"({value:+.2f})" if noisy[row, column] else f"{value:+.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)


def students(data: FigureData) -> FigureAndRows:
    """CKA between students at equal seeds; on the diagonal between seeds of one setting, which is the noise floor."""
    runs, table = data.runs, Rows()
    names = [str(one) for one in runs.students]
    columns = min(2, len(runs.datasets))
    rows = -(-len(runs.datasets) // columns)
    side = max(3.6, 0.2 * len(names) + 1.4)
    figure, panels = style.panels(columns, rows, width=side + 0.8, height=side)
    for axes, dataset in zip(panels, runs.datasets, strict=False):
        grid = np.full((len(names), len(names)), np.nan)
        chosen = data.similarities[data.similarities["dataset"] == dataset]
        for (first, second), found in chosen.groupby(["first", "second"])["cka"]:
            row, column = names.index(first), names.index(second)
            grid[row, column] = grid[column, row] = found.mean()
            table.append({"dataset": dataset, "first": first, "second": second, "pairs": len(found),
                          "cka": found.mean(), "sd": found.std(), "noise_floor": first == second})  # fmt: skip
        image = axes.imshow(grid, cmap=style.SEQUENTIAL)
        figure.colorbar(image, ax=axes, shrink=0.7, label="CKA")
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), names, fontsize=6)
        floors = np.diag(grid)[np.isfinite(np.diag(grid))]
        axes.set_title(f"{dataset}: between seeds of one setting (diagonal) {floors.mean():.2f}" if len(floors) else
                       f"{dataset}: no noise floor, one seed")  # fmt: skip
        axes.grid(False)
    for axes in panels[len(runs.datasets) :]:
        axes.remove()
    return figure, table


def gradient_ratio(data: FigureData) -> FigureAndRows:
    """Gradient norm of the distance over that of the cross entropy, by epoch: a check of the effect of alpha."""
    runs, table = data.runs, Rows()
    figure, panels = style.panels(len(runs.datasets), width=3.2)
    dashes = {alpha: style.LINES[number % len(style.LINES)] for number, alpha in enumerate(runs.alphas)}
    for axes, dataset in zip(panels, runs.datasets, strict=True):
        chosen = data.epochs[data.epochs["dataset"] == dataset]
        for (method, alpha), found in chosen.groupby(["method", "alpha"], sort=False):
            curve = found.groupby("epoch")["gradient_ratio"].mean()
            look = style.look(runs.methods.index(method))
            axes.plot(curve.index, curve, color=look["color"], linestyle=dashes.get(alpha, "-"), linewidth=1,
                      label=method)  # fmt: skip
            table += [{"dataset": dataset, "method": method, "alpha": alpha, "epoch": epoch, "gradient_ratio": value}
                      for epoch, value in curve.items()]  # fmt: skip
        axes.axhline(1, color=style.BASELINE, linewidth=1, label="equal gradients")
        if chosen.empty:
            mark_empty(axes)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(dataset)
        axes.set_xlabel("epoch")
    for alpha, dash in dashes.items():
        panels[0].plot([], [], color="black", linestyle=dash, linewidth=1, label=f"alpha {alpha:g}")
    panels[0].set_ylabel("gradient norm of the distance /\nof the cross entropy")
    shared_legend(figure, panels)
    return figure, table


def reliability(data: FigureData) -> FigureAndRows:
    """Accuracy against confidence, all seeds together: a calibrated network is on the diagonal."""
    runs, table = data.runs, Rows()
    figure, panels = style.panels(len(runs.methods) + 1, len(runs.datasets), width=2.0, height=2.0)
    columns = [data.undistilled.method, *runs.methods]
    alphas = list(dict.fromkeys(setting.alpha for setting in runs.students))
    for number, axes in enumerate(panels):
        dataset, method = runs.datasets[number // len(columns)], columns[number % len(columns)]
        axes.plot([0, 1], [0, 1], color=style.BASELINE, linewidth=0.8, label="perfectly calibrated")
        for setting in (one for one in runs.students if one.method == method):
            found = data.at(data.bins, setting, dataset)
            seen = found[found["count"] > 0]
            if len(seen):
                weighted = seen[["confidence", "accuracy"]].mul(seen["count"], axis=0)
                parts = weighted.groupby(seen["lower"]).sum().div(seen.groupby("lower")["count"].sum(), axis=0)
                alpha = "" if setting.alpha is None else f"alpha {setting.alpha:g}"
                axes.plot(
                    parts["confidence"],
                    parts["accuracy"],
                    label=alpha,
                    **{**style.look(alphas.index(setting.alpha)), "markersize": 2.5},
                )
                table += [{"dataset": dataset, "method": method, "alpha": setting.alpha, "bin_lower": lower,
                           "examples": int(seen[seen["lower"] == lower]["count"].sum()), **part}
                          for lower, part in parts.to_dict("index").items()]  # fmt: skip
        if len(axes.lines) == 1:
            mark_empty(axes)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_title(method if dataset == runs.datasets[0] else "")
        axes.set_xlabel("confidence" if dataset == runs.datasets[-1] else "")
        axes.set_ylabel(f"{dataset}\naccuracy" if number % len(columns) == 0 else "")
    shared_legend(figure, panels)
    return figure, table


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
    figure, (axes,) = style.panels(1, width=5, height=3.2)
    for number, (method, found) in enumerate(known.items()):
        if found:
            share = performance_profile(np.array(found), thresholds)
            look = {**style.look(number), "marker": None}
            axes.plot(thresholds, share, label=f"{method} ({len(found)} runs)", **look)
            table += [{"method": method, "gain_points": gain, "share": part}
                      for gain, part in zip(thresholds, share, strict=True)]  # fmt: skip
    axes.axvline(0, color=style.BASELINE, linewidth=1, label="no gain")
    axes.set_xlabel(f"gain in test accuracy over the {data.baseline_label} (points)")
    axes.set_ylabel("share of runs with at least this gain")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    shared_legend(figure, [axes])
    return figure, table


def cost(data: FigureData) -> FigureAndRows:
    """Time of a run by method; a dot is a run."""
    runs, table = data.runs, Rows()
    order = [*runs.methods, "control", "plain", "teacher"]
    column = "gpu_hours" if data.frame["gpu_hours"].sum() > 0 else "seconds"
    measure = MEASURES[column]
    figure, panels = style.panels(len(runs.datasets), width=3.0)
    for axes, dataset in zip(panels, runs.datasets, strict=True):
        chosen = data.frame[data.frame["dataset"] == dataset]
        for place, method in enumerate(order):
            found = chosen[chosen["method"] == method][column].dropna()
            colour = style.BASELINE if method in order[-3:] else style.COLOURS[place % len(style.COLOURS)]
            axes.plot(found, [place] * len(found), ".", color=colour, alpha=0.6)
            axes.plot(found.median(), place, "|", color="black", markersize=10)
            table.append({"dataset": dataset, "method": method, "runs": len(found), "unit": measure.unit,
                          "median": found.median(), "sum": found.sum()})  # fmt: skip
        axes.set_yticks(range(len(order)), order if dataset == runs.datasets[0] else [""] * len(order))
        axes.invert_yaxis()
        longest = chosen[column].max()
        axes.set_xlim(0, 1.05 * longest if longest > 0 else 1)
        axes.set_title(dataset)
        axes.set_xlabel(f"{measure.label} of a run, | median")
    return figure, table
