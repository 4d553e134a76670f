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
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

# Okabe and Ito (2008), "Color Universal Design", without its yellow, which is too pale for thin lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
BASELINE = "#555555"  # for references: baselines, chance, the noise between seeds
DIVERGING, SEQUENTIAL = "RdBu_r", "cividis"  # maps of values around 0, and from low to high
WIDTH = 3.4  # inches of one panel
HEIGHT = 2.6

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


def look(number: int) -> dict[str, Any]:
    """Colour, marker and line style of the series with this number; 56 combinations are distinct."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[(number // len(COLOURS)) % len(LINES)],
    }


def legend_below(figure: Figure, panels: Sequence[Axes], *, row: float = 0.0) -> None:
    """One shared legend of all panels, below them, so that it covers no data.

    `row`: inches by which the figure grows for each row of the legend, so that panels keep their size.
    """
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        columns = max(1, min(len(found), int(figure.get_figwidth() / (0.5 + 0.065 * max(map(len, found))))))
        figure.set_figheight(figure.get_figheight() + row * -(-len(found) // columns))
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns)


def logarithmic(axis: Axis, low: float, high: float) -> None:
    """Ticks of a logarithmic axis with values from `low` to `high`: at 1, 2 and 5 too if there are few powers of 10."""
    decades = math.log10(high / low) if low > 0 else math.inf
    axis.set_minor_formatter(NullFormatter())
    if decades < 2:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades > 0.5 else tuple(range(1, 10)), numticks=8))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
