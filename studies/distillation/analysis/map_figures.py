"""Figures that are maps of CKA: student and teacher by layer and alpha; students with each other."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis import style
from analysis.comparison import mean_interval
from analysis.rounding import fixed
from studies.distillation.analysis.figure_data import FigureAndRows, FigureData, Rows, mark_empty, page
from studies.distillation.analysis.runs import LAYERS, MethodSetting

Grid = NDArray[np.float64]


def layers(data: FigureData, dataset: str) -> FigureAndRows:
    """CKA(student, teacher) minus CKA(undistilled student, teacher), layer by alpha; one scale for all data sets."""
    runs, table = data.runs, Rows()
    columns = min(3, len(runs.methods))
    rows = -(-len(runs.methods) // columns)
    figure, panels = page(columns, rows, height=1.9)
    for axes in panels[len(runs.methods) :]:
        axes.remove()
    panels = panels[: len(runs.methods)]
    every = [_layer_differences(data, one, method, Rows())[0] for one in runs.datasets for method in runs.methods]
    limit = max(0.05, np.nanmax(np.abs(every), initial=0.0))
    for number, (axes, method) in enumerate(zip(panels, runs.methods, strict=True)):
        differences, uncertain = _layer_differences(data, dataset, method, table)
        image = axes.imshow(differences, cmap=style.DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
        _write_cells(axes, differences, uncertain, limit)
        if np.isnan(differences).all():
            mark_empty(axes)
        axes.set_xticks(range(len(runs.alphas)), [f"{alpha:g}" for alpha in runs.alphas])
        axes.set_yticks(range(len(LAYERS)), LAYERS if number % columns == 0 else [""] * len(LAYERS))
        axes.set_title(method)
        axes.set_xlabel("alpha" if number + columns >= len(panels) else "")
        axes.grid(False)
    label = f"CKA with the teacher, less that of the {data.baseline_label}"
    figure.colorbar(image, ax=panels, label=fill(label, 36 if rows > 1 else 20))
    return figure, table


def _layer_differences(data: FigureData, dataset: str, method: str, table: Rows) -> tuple[Grid, NDArray[np.bool_]]:
    """Differences in CKA (layers, alphas), NaN if unknown; and whether their interval contains 0, or is unknown."""
    shape = (len(LAYERS), len(data.runs.alphas))
    differences, uncertain = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    for row, layer in enumerate(LAYERS):
        own = data.values(data.undistilled, dataset, f"cka_{layer}")
        for column, alpha in enumerate(data.runs.alphas):
            found = data.values(MethodSetting(method, alpha), dataset, f"cka_{layer}")
            pairs = (found - own).dropna()
            if not len(pairs):
                continue
            interval = mean_interval(pairs)
            differences[row, column] = pairs.mean()
            uncertain[row, column] = not (interval.low > 0 or interval.high < 0)
            table.append({"dataset": dataset, "method": method, "alpha": alpha, "layer": layer, "pairs": len(pairs),
                          "cka": found.mean(), "cka_undistilled": own.mean(), "difference": pairs.mean(),
                          "low_95": interval.low, "high_95": interval.high})  # fmt: skip
    return differences, uncertain


def _write_cells(axes: Axes, grid: Grid, uncertain: Any, limit: float) -> None:
    """Write the values into cells; in brackets if their interval contains 0 or is unknown."""
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.6 * limit else "black"
            text = fixed(value, 2, sign=True)
            axes.text(column, row, f"({text})" if uncertain[row, column] else text, ha="center", va="center",
                      fontsize=6.5, color=colour)  # fmt: skip


def students(data: FigureData, dataset: str) -> FigureAndRows:
    """CKA between students at equal seeds; on the diagonal between seeds of one setting, which is the noise floor."""
    table, names = Rows(), [str(one) for one in data.runs.students]
    figure, (axes,) = page(1, height=min(style.PRINT_WIDTH - 1, max(3.6, 0.2 * len(names) + 1.2)))
    grid = np.full((len(names), len(names)), np.nan)
    chosen = data.similarities[data.similarities["dataset"] == dataset]
    for (first, second), found in chosen.groupby(["first", "second"])["cka"]:
        row, column = names.index(first), names.index(second)
        grid[row, column] = grid[column, row] = found.mean()
        table.append({"dataset": dataset, "first": first, "second": second, "pairs": len(found),
                      "cka": found.mean(), "sd": found.std(), "noise_floor": first == second})  # fmt: skip
    means = data.similarities.groupby(["dataset", "first", "second"])["cka"].mean()
    image = axes.imshow(grid, cmap=style.SEQUENTIAL, vmin=means.min(), vmax=means.max())
    figure.colorbar(image, ax=axes, shrink=0.7, label="CKA")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6.5)
    axes.set_yticks(range(len(names)), names, fontsize=6.5)
    floors = np.diag(grid)[np.isfinite(np.diag(grid))]
    axes.set_title(f"between seeds of one setting (diagonal): {fixed(floors.mean(), 2)}" if len(floors) else
                   "no noise floor: one seed")  # fmt: skip
    axes.grid(False)
    return figure, table
