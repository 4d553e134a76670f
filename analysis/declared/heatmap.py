"""A metric over two config keys: a cell for each pair of values, coloured around the baseline's value."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.curve_data import Floats
from analysis.declared.matrix import colour_bar, diverging_for, draw_matrix, name_cells, norm_around, norm_between
from analysis.declared.runs import FigureRuns
from analysis.declared.settings import SettingResult
from analysis.declared.values import as_number, in_order, text_of
from analysis.group_data import shortened
from analysis.learning_curves import DrawnFigure, is_logarithmic, plain
from analysis.rounding import alike
from analysis.rounds import RoundEntry
from analysis.style import PRINT_WIDTH, SEQUENTIAL, panels
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import counted

HIGHEST = 8.0
NUMBERED = 80  # cells; with more, none has its number in it
ROW, COLUMN = 0.3, 0.5  # inches of a cell, where there is room


@dataclass(frozen=True)
class Cells:
    """The cells of one data set by row and column, and what their values are compared with."""

    rows: Sequence[str]
    columns: Sequence[str]
    entries: Mapping[tuple[str, str], Sequence[RoundEntry]]
    results: Mapping[tuple[str, str], SettingResult]  # of cells with a value; label: how many settings
    baseline: SettingResult | None
    reference: float | None

    @property
    def values(self) -> Floats:
        return np.array([[self.results[row, column].mean if (row, column) in self.results else math.nan
                          for column in self.columns] for row in self.rows])  # fmt: skip


def draw(runs: FigureRuns) -> DrawnFigure:
    """A panel for each data set."""
    runs.require_metric()
    found = {name: _cells(runs, entries) for name, entries in runs.data_sets.items()}
    found = {name: cells for name, cells in found.items() if cells.results}
    if not found:
        raise RoundhouseError(f"keys: no run with {' and '.join(runs.figure.keys)} has a value of {runs.metric}")
    width = min(PRINT_WIDTH, max(2.2 + COLUMN * max(len(one.columns) for one in found.values()), PRINT_WIDTH / 2))
    columns = min(len(found), int(PRINT_WIDTH / width))
    height = min(HIGHEST, max(1.1 + ROW * max(len(one.rows) for one in found.values()), 1.8))
    figure, axes = panels(columns, math.ceil(len(found) / columns), width=width, height=height)
    for place, (data_set, cells) in zip(axes, found.items(), strict=False):
        _panel(place, runs, cells)
        place.set_title(shortened(data_set))
    for place in axes[len(found) :]:
        place.remove()
    table = [row for data_set, cells in found.items() for row in _rows(runs, data_set, cells)]
    title = f"{runs.declared.label(runs.metric)} over {' and '.join(map(runs.label_of, runs.figure.keys))}"
    return DrawnFigure(figure, table, title, _caption(runs, title, found), _alt(runs, found))


def _cells(runs: FigureRuns, entries: Sequence[RoundEntry]) -> Cells:
    """The runs of a data set by the values of the two keys; runs that lack one are left out."""
    down, across = runs.figure.keys
    given = [one for one in entries if down in one.config and across in one.config]
    members: dict[tuple[str, str], list[RoundEntry]] = {}
    for one in given:
        members.setdefault((text_of(one.config[down]), text_of(one.config[across])), []).append(one)
    rows, columns = in_order(one.config[down] for one in given), in_order(one.config[across] for one in given)
    if all(as_number(one.config[down]) is not None for one in given):
        rows = rows[::-1]  # numbers increase upwards
    results = {at: SettingResult(str(len({one.setting for one in ones})), tuple(ones), values)
               for at, ones in members.items() if (values := runs.values(ones))}  # fmt: skip
    compared = runs.baseline(entries)
    values = runs.values(compared)
    baseline = SettingResult(compared[0].group, tuple(compared), values) if values else None
    return Cells(rows, columns, members, results, baseline, runs.reference(entries))


def _panel(axes: Axes, runs: FigureRuns, cells: Cells) -> None:
    values = cells.values
    given = [*values[np.isfinite(values)], *([cells.baseline.mean] if cells.baseline else [])]
    low, high = min(given), max(given)
    logarithmic = is_logarithmic(runs.metric, runs.declared, low, high)
    written = alike(given)
    texts = [[_text(cells, (row, column), written) for column in cells.columns] for row in cells.rows]
    label = runs.axis()
    if cells.baseline:
        norm, colours = norm_around(cells.baseline.mean, values, logarithmic), diverging_for(runs.mode(runs.metric))
        label += plain(f"\nblack line: baseline {written(cells.baseline.mean)}")
    else:
        norm, colours = norm_between(values, logarithmic), SEQUENTIAL
    image = draw_matrix(axes, values, texts, norm, colours)
    name_cells(axes, cells.rows, cells.columns)
    axes.set_ylabel(runs.axis(runs.figure.keys[0]))
    axes.set_xlabel(runs.axis(runs.figure.keys[1]))
    marks = [(cells.baseline.mean, "-")] if cells.baseline else []
    if cells.reference is not None and low <= cells.reference <= high:
        marks.append((cells.reference, ":"))
    colour_bar(axes, image, label, marks)


def _text(cells: Cells, at: tuple[str, str], written: Callable[[float], str]) -> str:
    if at in cells.results:
        return written(cells.results[at].mean) if len(cells.rows) * len(cells.columns) <= NUMBERED else ""
    return "no value" if any(one.record.runs for one in cells.entries.get(at, ())) else "no run"


def _rows(runs: FigureRuns, data_set: str, cells: Cells) -> list[dict[str, Any]]:
    down, across = runs.figure.keys
    unit = runs.declared.of(runs.metric).shown_unit
    rows: list[dict[str, Any]] = []
    for at in ((row, column) for row in cells.rows for column in cells.columns):
        one = cells.results.get(at)
        rows.append({"data_set": data_set, "role": "result", down: at[0], across: at[1], "metric": runs.metric,
                     "unit": unit, "mean": one.mean if one else None,
                     "sd": one.sd if one and one.label == "1" else None, "n": one.n if one else 0,
                     "settings": one.label if one else 0})  # fmt: skip
    if cells.baseline:
        rows.append({"data_set": data_set, "role": "baseline", "metric": runs.metric, "unit": unit,
                     "mean": cells.baseline.mean, "sd": cells.baseline.sd, "n": cells.baseline.n})  # fmt: skip
    if cells.reference is not None:
        rows.append({"data_set": data_set, "role": str(runs.declared.reference_label(runs.metric)),
                     "metric": runs.metric, "unit": unit, "mean": cells.reference})  # fmt: skip
    return rows


def _caption(runs: FigureRuns, title: str, found: Mapping[str, Cells]) -> str:
    shown = {one.path for cells in found.values() for ones in cells.entries.values() for one in ones}
    others = sorted(runs.varying - {*runs.figure.keys})
    counts = [one.n for cells in found.values() for one in cells.results.values()]
    least, most = min(counts), max(counts)
    if any(one.label != "1" for cells in found.values() for one in cells.results.values()):
        over = f"seeds and what else varies ({', '.join(others) or 'group'})"
    else:
        over = "seeds"
    what = f"the mean over {over}, n {least}" + (f" to {most}" if most > least else "")
    sentences = [f"{title}; each cell is {what if most > 1 else 'one run, so the noise between seeds is unknown'}."]
    if left := len(runs.entries) - len(shown):
        sentences.append(f"{counted(left, 'run')} without these keys or without a value not shown.")
    if any(not math.isfinite(value) for cells in found.values() for value in cells.values.flat):
        sentences.append("Hatched: no run, or no value.")
    sentences += [noise] if (noise := runs.noise(runs.own)) else []
    sentences += _compared(runs, found)
    return " ".join(sentences)


def _compared(runs: FigureRuns, found: Mapping[str, Cells]) -> list[str]:
    """What the colours are compared with, and the value of the metric's declared baseline, such as chance."""
    sentences = []
    better = {"min": "Blue is better (lower) than", "max": "Blue is better (higher) than"}
    colours = better.get(str(runs.mode(runs.metric)), "Blue is lower than")
    for data_set, cells in found.items():
        where = f"{data_set}: " if data_set else ""
        if cells.baseline:
            one = cells.baseline
            value = f"{one.mean:.4g}" + (f" ± {one.sd:.2g}" if one.sd is not None else "")
            sentences.append(f"{where}{colours} the baseline, group {one.label}: {value}, n {one.n}.")
        if cells.reference is not None:
            label = runs.declared.reference_label(runs.metric)
            sentences.append(f"{where}{label} (dotted line in the colour bar): {cells.reference:.4g}.")
    return (
        sentences if any(cells.baseline for cells in found.values()) else [*sentences, "No baseline to compare with."]
    )


def _alt(runs: FigureRuns, found: Mapping[str, Cells]) -> str:
    """The text for readers who cannot see the figure: where the lowest and the highest value are."""
    down, across = runs.figure.keys
    sentences = []
    for data_set, cells in found.items():
        by_mean = sorted(cells.results, key=lambda at: cells.results[at].mean)
        ends = [f"{name} {cells.results[at].mean:.4g} at {down} {at[0]}, {across} {at[1]}"
                for name, at in (("lowest", by_mean[0]), ("highest", by_mean[-1]))]  # fmt: skip
        middle = statistics.median(one.mean for one in cells.results.values())
        where = f"{data_set}: " if data_set else ""
        sentences.append(f"{where}{'; '.join(ends)}; median {middle:.4g}; "
                         f"{counted(len(cells.rows) * len(cells.columns), 'cell')}")  # fmt: skip
    return f"{runs.axis()} over {down} (rows) and {across} (columns). {'. '.join(sentences)}."
