"""A matrix of coloured cells with numbers, in which missing cells are hatched."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, LogNorm, Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from analysis.curve_data import Floats
from analysis.group_data import shortened
from analysis.style import BASELINE, DIVERGING, logarithmic

SIZE = 6.5  # points of the numbers
LETTER = 0.62 * SIZE / 72  # inches
LINE = 0.11  # inches that a row of text needs
TILTED = 4  # characters; longer names of columns are turned where columns are narrow


def draw_matrix(
    axes: Axes, values: Floats, texts: Sequence[Sequence[str | None]], norm: Normalize, colours: str
) -> AxesImage:
    """Colour the cells (rows, columns), the first row above. A cell without a finite value is hatched.

    `texts`: what is written in the cells where there is room; a missing cell whose text is None stays empty.
    """
    axes.grid(visible=False)
    shown = np.ma.masked_invalid(values)
    image = axes.imshow(shown, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    width, height = _inches(axes)[0] / values.shape[1], _inches(axes)[1] / values.shape[0]
    for (row, column), value in np.ndenumerate(values):
        text = texts[row][column]
        missing = not np.isfinite(value)
        if missing and text is not None:
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="white", edgecolor="#bbbbbb",
                                     hatch="////", linewidth=0.4))  # fmt: skip
        if text and height > LINE and LETTER * len(text) < width:
            colour = BASELINE if missing else _readable_on(image.cmap(norm(value)))
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8} if missing else None
            axes.text(column, row, text, ha="center", va="center", fontsize=SIZE, color=colour, bbox=box)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def name_cells(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Write the names of rows and columns; long ones of narrow columns are turned."""
    width, height = _inches(axes)[0] / len(columns), _inches(axes)[1] / len(rows)
    turned = max(map(len, columns)) * LETTER * 1.15 > width and max(map(len, columns)) > TILTED
    every, each = (max(1, math.ceil(LINE / size)) for size in (width, height))  # of very narrow ones, some have a name
    axes.set_xticks(range(0, len(columns), every), [shortened(one) for one in columns[::every]])
    axes.tick_params(axis="x", labelrotation=90 if turned else 0, labelsize=7)
    axes.set_yticks(range(0, len(rows), each), [shortened(one) for one in rows[::each]])
    axes.tick_params(axis="y", labelsize=7)


def frame_diagonal(axes: Axes, size: int) -> None:
    """Draw steps along the diagonal of a square matrix, which divide it from the parts above and below it."""
    for place in range(size - 1):
        for x, y in (([place + 0.5] * 2, [place - 0.5, place + 0.5]), ([place + 0.5, place + 1.5], [place + 0.5] * 2)):
            axes.plot(x, y, color="black", linewidth=0.8)
            axes.plot(y, x, color="black", linewidth=0.8)


def norm_around(centre: float, values: Floats, logarithmic: bool = False) -> Normalize:
    """A scale with equal distances on both sides of the centre; if logarithmic, equal ratios."""
    finite = values[np.isfinite(values)]
    if logarithmic:
        ratio = float(np.exp(np.abs(np.log(finite / centre)).max(initial=0.0))) or 1.0
        return LogNorm(centre / max(ratio, 1.01), centre * max(ratio, 1.01))
    return CenteredNorm(centre, float(np.abs(finite - centre).max(initial=0.0)) or 1.0)


def norm_between(values: Floats, logarithmic: bool) -> Normalize:
    """A scale from the lowest to the highest value."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low == high:
        low, high = (low / 1.01, high * 1.01) if logarithmic else (low - 0.5, high + 0.5)
    return LogNorm(low, high) if logarithmic else Normalize(low, high)


def diverging_for(mode: str | None) -> str:
    """The map of colours around a value: blue is better, where it is known what is better; else blue is lower."""
    return DIVERGING.removesuffix("_r") if mode == "max" else DIVERGING


def colour_bar(axes: Axes, image: AxesImage, label: str, marks: Sequence[tuple[float, str]]) -> None:
    """A colour bar over the range of the values and the marks, with a line (value, line style) at each mark."""
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, label=label, fraction=0.08, pad=0.02)
    bar.ax.minorticks_off()
    shown = np.ma.masked_invalid(np.asarray(image.get_array())).compressed()
    given = np.array([*shown, *(value for value, _ in marks)])
    norm = image.norm
    assert isinstance(norm, Normalize)
    if isinstance(norm, LogNorm):
        logarithmic(bar.ax.yaxis, given.min(), given.max())
    low, high = norm(np.array([given.min(), given.max()]))
    if low < high:
        margin = 0.03 * (high - low)
        bar.ax.set_ylim(*norm.inverse(np.array([max(0.0, low - margin), min(1.0, high + margin)])))
    for value, style in marks:
        bar.ax.axhline(value, color="black", linewidth=1.4, linestyle=style)


def _inches(axes: Axes) -> tuple[float, float]:
    """Width and height of a panel in a figure that has not been laid out: about three quarters of its share."""
    figure = axes.get_figure()
    spec = axes.get_subplotspec()
    assert figure is not None and spec is not None
    grid = spec.get_gridspec()
    return (0.75 * float(figure.bbox.width) / figure.dpi / grid.ncols,
            0.75 * float(figure.bbox.height) / figure.dpi / grid.nrows)  # fmt: skip


def _readable_on(colour: Sequence[float]) -> str:
    red, green, blue = colour[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
