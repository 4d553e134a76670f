"""Where the panels of one experiment's learning curves are: at fixed places, since an automatic layout is slow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.style import PRINT_WIDTH

LEFT, RIGHT, BELOW, ABOVE, HEADING, LEGEND_ROW = 0.68, 0.13, 0.45, 0.14, 0.5, 0.165  # inches
NARROW = 4.2  # inches of the width of a figure with one panel


@dataclass(frozen=True)
class CurveLayout:
    """The places of this many panels in a figure that fits a page."""

    count: int

    @property
    def columns(self) -> int:
        return 1 if self.count == 1 else 2 if self.count <= 8 else 3

    @property
    def legend_columns(self) -> int:
        return 2 if self.columns < 3 else 1

    @property
    def height(self) -> float:
        """Inches of the height of a panel, without margins."""
        return 1.65 if self.count <= 6 else 1.3

    def figure(self) -> tuple[Figure, list[Axes]]:
        """A figure and its panels, which `place` puts at their places once they have their legends."""
        figure = Figure(figsize=(NARROW if self.count == 1 else PRINT_WIDTH, self.height))
        FigureCanvasAgg(figure)
        rows = math.ceil(self.count / self.columns)
        return figure, [figure.add_subplot(rows, self.columns, 1 + index) for index in range(self.count)]

    def place(self, figure: Figure, axes: Sequence[Axes]) -> None:
        """Put the panels below their legends, and give the figure the height that this takes."""
        width = figure.get_figwidth()
        rows = [axes[first : first + self.columns] for first in range(0, len(axes), self.columns)]
        above = [ABOVE + LEGEND_ROW * max(map(self._legend_rows, row)) for row in rows]
        total = HEADING + sum(space + self.height + BELOW for space in above)
        figure.set_figheight(total)
        top = total - HEADING
        for row, space in zip(rows, above, strict=True):
            top -= space + self.height
            for column, place in enumerate(row):
                x = (column * width / self.columns + LEFT) / width
                size = (1 / self.columns - (LEFT + RIGHT) / width, self.height / total)
                place.set_position((x, top / total, *size))
            top -= BELOW

    def _legend_rows(self, axes: Axes) -> int:
        legend = axes.get_legend()
        return math.ceil(len(legend.get_texts()) / self.legend_columns) if legend else 0
