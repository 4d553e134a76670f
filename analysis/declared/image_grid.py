"""A page of small maps and pictures in rows and columns, with a colour scale for each row."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.learning_curves import plain
from analysis.saved_arrays import Array
from analysis.style import DIVERGING, PRINT_WIDTH, SEQUENTIAL

PAGE = (PRINT_WIDTH, 9.0)  # inches
WIDTHS = (1.6, 1.4, 1.2, 1.0, 0.85, 0.7, 0.6)  # inches: of a picture, the widest that fits is taken
TALLEST = 2.4  # inches: of a picture
GAP, BAR = 0.07, 0.52  # inches: between pictures; a colour bar with its numbers
POINTS, LINE, LETTER = 6.5, 0.115, 0.054  # of text: its size; inches of a line and of a letter


@dataclass(frozen=True)
class GridRow:
    """A row of maps (height, width) or colours (height, width, 3), with None where there is none.

    `diverging` (for each cell): whether 0 is in the middle of its colours.
    """

    label: str
    cells: Sequence[Array | None]
    diverging: Sequence[bool]


Block = tuple[str, Sequence[GridRow]]  # rows below a heading, which may be empty


@dataclass(frozen=True)
class Layout:
    """What fits on the page: width and height of a picture (`cell`, inches), and how many columns, rows and blocks."""

    cell: tuple[float, float]
    columns: int
    rows: int  # of a block
    blocks: int


@dataclass(frozen=True)
class Wanted:
    """What is to be shown: numbers of columns, rows of a block and blocks, of which `least` are wanted at any size.

    `aspect`: height / width of the pictures; `side`: inches left of them; `bars`: colour bars beside a row.
    """

    columns: int
    rows: int
    blocks: int
    least: int
    aspect: float
    side: float
    bars: int
    headings: Sequence[str]  # of the blocks
    row_labels: Sequence[str]
    column_labels: Sequence[str]

    def layout(self) -> Layout:
        """With the widest pictures at which everything fits; else with the narrowest, and less of everything."""
        return next((one for one in map(self._at, WIDTHS) if self._is_enough(one)), self._at(WIDTHS[-1]))

    def _is_enough(self, one: Layout) -> bool:
        return (one.columns, one.rows) == (self.columns, self.rows) and one.blocks >= self.least

    def _at(self, width: float) -> Layout:
        height = min(width * self.aspect, TALLEST)
        cell = (height / self.aspect, height)
        columns = min(self.columns, max(1, int((PAGE[0] - self.side - self.bars * BAR) / (cell[0] + GAP))))
        free = PAGE[1] - self.head(cell[0]) - 0.1
        rows = min(self.rows, max(1, int((free - self.heading(cell[0], columns)) / self.pitch(height))))
        block = self.heading(cell[0], columns) + rows * self.pitch(height)
        return Layout(cell, columns, rows, min(self.blocks, max(1, int(free / block))))

    def pitch(self, height: float) -> float:
        """From a row to the next."""
        return max(height, LINE * _lines(self.row_labels, self.side)) + GAP

    def head(self, width: float) -> float:
        """Of the labels of the columns."""
        return LINE * _lines(self.column_labels, width + GAP) + 0.08

    def heading(self, width: float, columns: int) -> float:
        """Of the heading of a block."""
        lines = _lines(self.headings, self.width(width, columns))
        return LINE * lines + 0.1 if lines else 0.0

    def width(self, width: float, columns: int) -> float:
        """Of the figure."""
        return max(2.5, self.side + columns * (width + GAP) + self.bars * BAR)


def wrapped(text: str, inches: float) -> str:
    """Text in lines that are not wider than this."""
    letters = max(4, int(inches / LETTER))
    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, letters) or [""])


def _lines(labels: Sequence[str], inches: float) -> int:
    return max((wrapped(one, inches).count("\n") + 1 for one in labels if one), default=0)


def draw(blocks: Sequence[Block], wanted: Wanted, layout: Layout) -> Figure:
    """The figure of these blocks, each with at most as many rows and columns as the layout has."""
    (width, height), pitch = layout.cell, wanted.pitch(layout.cell[1])
    head, heading = wanted.head(width), wanted.heading(width, layout.columns)
    size = (wanted.width(width, layout.columns), head + sum(heading + len(rows) * pitch for _, rows in blocks) + 0.1)
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)

    def place(left: float, top: float, across: float) -> Axes:
        return figure.add_axes((left / size[0], 1 - (top + height) / size[1], across / size[0], height / size[1]))

    for number, label in enumerate(wanted.column_labels[: layout.columns]):
        middle = wanted.side + number * (width + GAP) + width / 2
        _write(figure, middle, head - 0.04, label, width + GAP, ha="center", va="bottom")
    top = head
    for title, rows in blocks:
        _write(figure, 0.05, top + heading - 0.04, title, size[0], ha="left", va="bottom")
        top += heading
        for row in rows:
            axes = [place(wanted.side + number * (width + GAP), top, width) for number in range(layout.columns)]
            _write(figure, 0.05, top + height / 2, row.label, wanted.side, ha="left", va="center")
            bars = wanted.side + layout.columns * (width + GAP)
            for number, image in enumerate(_draw_row(axes, row)):
                _draw_bar(place(bars + number * BAR, top, 0.09), image)
            top += pitch
    return figure


def _write(figure: Figure, x: float, y: float, text: str, inches: float, *, ha: str, va: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(x / width, 1 - y / height, plain(wrapped(text, inches)), ha=ha, va=va, fontsize=POINTS,
                linespacing=1.15)  # fmt: skip


def scale_of(maps: Sequence[Array], *, diverging: bool) -> tuple[float, float]:
    """The lowest and the highest value of a colour scale for these maps; NaN counts for nothing."""
    values = np.concatenate([one[np.isfinite(one)] for one in maps]) if maps else np.array([])
    if not len(values):
        return (-1.0, 1.0) if diverging else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if diverging:
        most = max(abs(low), abs(high)) or 1.0
        return -most, most
    return low, high


def _draw_row(axes: Sequence[Axes], row: GridRow) -> list[AxesImage]:
    """Draw the cells of a row. Returns an image for each of its colour scales, the ordinary one first."""
    found: dict[bool, AxesImage] = {}
    cells = list(zip(axes, row.cells, row.diverging, strict=False))
    for diverging in (False, True):
        maps = [(place, one) for place, one, own in cells if one is not None and one.ndim == 2 and own == diverging]
        low, high = scale_of([one for _, one in maps], diverging=diverging)
        for place, one in maps:
            found[diverging] = place.imshow(one, cmap=DIVERGING if diverging else SEQUENTIAL, norm=Normalize(low, high))
    for place, picture, _ in cells:
        if picture is not None and picture.ndim == 3:
            place.imshow(np.dstack([np.nan_to_num(picture), np.isfinite(picture).all(axis=-1)]))
        _frame(place, exists=picture is not None)
    return list(found.values())


def _frame(axes: Axes, *, exists: bool) -> None:
    """No ticks. Hatched where the picture has no value, because no colour of the maps looks so."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for one in axes.spines.values():
        one.set(visible=exists, linewidth=0.4, color="#888888")
    axes.patch.set(facecolor="white", edgecolor="#999999", hatch="//////" if exists else "", linewidth=0)
    if not exists:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", fontsize=POINTS)


def _draw_bar(axes: Axes, image: AxesImage) -> None:
    assert axes.figure
    bar = axes.figure.colorbar(image, cax=axes)
    bar.ax.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    bar.ax.tick_params(labelsize=6, length=2, pad=1.5)
    bar.ax.grid(visible=False)
    bar.outline.set_linewidth(0.4)
