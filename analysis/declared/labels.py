"""Where the labels of points stand, so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

SIZE = 6.5  # points
NEAR = 12  # points; to a label that is farther away, a line leads
# Offset from the point in points of print, and alignment: the places that are tried, the preferred ones first.
_PLACES = [(dx * far, dy * far, across, upright)
           for far in (5, 10, 16, 24, 34)
           for dx, dy, across, upright in ((-1, 1, "right", "bottom"), (1, 1, "left", "bottom"), (1, -1, "left", "top"),
                                           (-1, -1, "right", "top"), (0, 1.2, "center", "bottom"),
                                           (0, -1.2, "center", "top"),
                                           (1.4, 0, "left", "center"), (-1.4, 0, "right", "center"))]  # fmt: skip


def place_labels(axes: Axes, labels: Mapping[tuple[float, float], str], points: Sequence[tuple[float, float]]) -> None:
    """Write the labels of points, each where it covers least. The figure must have been laid out.

    Lines in the panel are horizontal or vertical.
    """
    figure = axes.get_figure()
    assert figure is not None
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    radius, inside = 4 * figure.dpi / 72, axes.get_window_extent(renderer)
    centres = [axes.transData.transform(point) for point in points]
    taken = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in centres]
    for line in axes.lines:
        if line.get_linestyle() != "None":
            ends = np.asarray(line.get_transform().transform_path(line.get_path()).vertices)
            taken += [_around(low, high) for low, high in zip(ends[:-1], ends[1:], strict=True)]
    for point, label in labels.items():
        best: tuple[float, int] | None = None
        made = []
        for number, (dx, dy, across, upright) in enumerate(_PLACES):
            far = max(abs(dx), abs(dy)) > NEAR
            leader = {"arrowstyle": "-", "linewidth": 0.4, "color": "#999999"} if far else None
            text = axes.annotate(label, point, (dx, dy), textcoords="offset points", fontsize=SIZE, ha=across,
                                 va=upright, zorder=5, arrowprops=leader)  # fmt: skip
            text.set_in_layout(False)
            made.append(text)
            box = _box(text, renderer)
            covered = sum(_overlap(box, one) for one in taken) + 2 * (box.width * box.height - _overlap(box, inside))
            if best is None or covered < best[0]:
                best = covered, number
            if covered == 0:
                break
        assert best is not None
        for number, text in enumerate(made):
            if number != best[1]:
                text.remove()
        taken.append(_box(made[best[1]], renderer))


def _box(text: Annotation, renderer: Any) -> Bbox:
    """Where the text stands, without the line that leads to it."""
    text.update_positions(renderer)
    return Text.get_window_extent(text, renderer)


def _around(low: Any, high: Any) -> Bbox:
    """The box around a horizontal or vertical piece of a line, in pixels."""
    x, y = sorted((low[0], high[0])), sorted((low[1], high[1]))
    return Bbox.from_extents(x[0] - 3, y[0] - 3, x[1] + 3, y[1] + 3)


def _overlap(one: Bbox, other: Bbox) -> float:
    """The area that two boxes have in common."""
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else float(common.width * common.height)
