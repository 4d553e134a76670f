"""The style of all figures: colours for colour-blind readers, markers that can be distinguished in greyscale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

# Okabe and Ito (2008), "Color Universal Design", without its yellow, which is too pale for thin lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (7, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)))
BASELINE = "#555555"  # for references: baselines, chance, the noise between seeds
DIVERGING, SEQUENTIAL = "RdBu_r", "cividis"  # maps of values around 0, and from low to high
WIDTH = 3.4  # inches of one panel
HEIGHT = 2.6
PRINT_WIDTH = 7.0  # inches of a page: a wider figure would be scaled down, and its text with it
STEPS = [1, 2, 5, 10]  # between the labels of an axis
PLAIN_FROM, PLAIN_TO = 1e-4, 1e5  # numbers that are written without powers of 10 on logarithmic axes
FEW = 30  # a line with at most this many points has a marker at each
ROW_OF_LEGEND = 0.16  # inches
HEADING = 0.4  # inches above the panels
LEGEND_SHARE = 0.3  # of the height of a figure that a legend may have

_RULES: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 130,
    "savefig.bbox": "tight",  # so that a label longer than its panel is not cut off
    "svg.hashsalt": "roundhouse",  # equal data give equal files
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


@contextmanager
def rules() -> Iterator[None]:
    """A context in which figures are drawn and saved in this style, whatever the user's matplotlibrc says."""
    with matplotlib.style.context("default"), matplotlib.rc_context(_RULES):
        yield


def panels(
    columns: int, rows: int = 1, *, width: float = WIDTH, height: float = HEIGHT, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns panels, each `width` x `height` inches, and the panels in reading order.

    It is never too narrow for the legend below it.
    """
    figure = Figure(figsize=(max(columns * width, 4.8), rows * height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    return figure, [one for row in axes for one in row]


def grid(columns: int, heights: Sequence[float], *, width: float, between: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure `width` inches wide, with a row of panels for each of these heights, and `between` inches for the axes
    and titles of each row. Returns the panels of each row.
    """
    height = HEADING + sum(heights) + between * len(heights)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    return figure, [list(row) for row in axes]


def line_look(number: int, points: int) -> dict[str, Any]:
    """Colour, line style and markers of the line with this number in its panel, which has this many points.

    Seven lines differ in each of the three, so that they can be distinguished in greyscale.
    """
    every = None if points <= FEW else (number * points // 50, max(1, points // 7))
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 3,
        "markevery": every,
    }


def logarithmic(axis: Axis, low: float, high: float) -> None:
    """Labels of a logarithmic axis with values from `low` to `high`, such as 0.001: at 1, 2 and 5 if there are few.

    Far from 1, labels are powers of 10.
    """
    ratio = high / low if low > 0 else math.inf
    if ratio < 5:
        axis.set_major_locator(MaxNLocator(4, steps=STEPS))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 100 else (1.0,), numticks=7))
    if low >= PLAIN_FROM and high < PLAIN_TO:
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def position_axis(axes: Axes) -> None:
    """An x axis of epochs or steps: whole numbers, in thousands (20k) where they are large."""
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}")


def look(number: int) -> dict[str, Any]:
    """Colour, marker and line style of the series with this number; 56 combinations are distinct."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[(number // len(COLOURS)) % len(LINES)],
    }


def legend_below(figure: Figure, panels: Sequence[Axes], *, row: float = 0.0) -> None:
    """One shared legend of all panels, below them, so that it covers no data.

    `row`: inches by which the figure grows for each row of the legend, so that panels keep their size. A legend that
    would be higher than a share of the figure is cut, and its last entry says how many are missing.
    """
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        height = figure.get_figheight()
        columns = max(1, min(len(found), int(figure.get_figwidth() / (0.5 + 0.065 * max(map(len, found))))))
        most = columns * max(1, int(LEGEND_SHARE * height / (row or ROW_OF_LEGEND)))
        if len(found) > most:
            missing = len(found) - most + 1
            rest = {f"and {missing} more, see the table": Line2D([], [], linestyle="")}
            found = {**dict(list(found.items())[: most - 1]), **rest}
        figure.set_figheight(height + row * -(-len(found) // columns))
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns)
