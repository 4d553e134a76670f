"""Pictures of a flood: its depth over time as panels (PNG) or as an animation (GIF), over a shaded bed."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from studies.flood.samples import DRY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

KINDS = (".png", ".gif")
MOST_PANELS = 12

_STEEPER = 20.0  # times: slopes of a valley are too gentle for a shadow
_LIGHT = (315.0, 45.0)  # azimuth and altitude of the sun in degrees
_FRAME_MS = 400
_HOLD_MS = 2000  # of the last frame


@dataclass(frozen=True, eq=False)
class Shown:
    """What is drawn: the depth of the cells at times of a flood."""

    times: Tensor
    """s (S,)."""
    depths: Tensor
    """m (S, H, W)."""
    bed: Tensor
    """m (H, W)."""
    spacing: float
    """Side of a cell, m."""


def drawn(shown: Shown, kind: str) -> bytes:
    """The file of a picture; `kind` is one of KINDS."""
    return animation(shown) if kind == ".gif" else panels(shown)


def panels(shown: Shown) -> bytes:
    """PNG with a panel for each snapshot; of more than MOST_PANELS, for so many at equal distances in their order."""
    from matplotlib.figure import Figure

    chosen = evenly(len(shown.times), MOST_PANELS)
    columns = math.ceil(math.sqrt(len(chosen)))
    rows = math.ceil(len(chosen) / columns)
    figure = Figure(figsize=(3 * columns + 1, 2.9 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    images = [_draw(axes, shown, index) for axes, index in zip(grid.flat, chosen, strict=False)]
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    figure.supxlabel("x (m), to the outlet")
    figure.supylabel("y (m)")
    _add_scale(figure, images[0], list(grid.flat))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def animation(shown: Shown) -> bytes:
    """GIF with a frame for each snapshot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlabel="x (m), to the outlet", ylabel="y (m)")
    water = _draw(axes, shown, 0)
    _add_scale(figure, water, [axes])
    canvas.draw()  # places everything
    figure.set_layout_engine("none")  # the same places in all frames
    frames = []
    for time, depth in zip(shown.times.tolist(), shown.depths, strict=True):
        water.set_data(_wet(depth))
        axes.set_title(clock(time))
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize())
    durations = [_FRAME_MS] * (len(frames) - 1) + [_HOLD_MS]
    buffer = io.BytesIO()
    frames[0].save(buffer, "gif", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return buffer.getvalue()


def evenly(count: int, most: int) -> list[int]:
    """The indices of at most `most` of `count` things, at equal distances; the first and the last are among them."""
    kept = min(count, most)
    return [round(place * (count - 1) / max(kept - 1, 1)) for place in range(kept)]


def clock(seconds: float) -> str:
    """1:05 h."""
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _draw(axes: Axes, shown: Shown, index: int) -> AxesImage:
    """A snapshot; returns its water."""
    from matplotlib.colors import LightSource

    height, width = shown.bed.shape
    place: dict[str, Any] = {"extent": (0, width * shown.spacing, height * shown.spacing, 0)}
    light = LightSource(*_LIGHT)
    shade = light.hillshade(shown.bed.numpy(), vert_exag=_STEEPER, dx=shown.spacing, dy=shown.spacing)
    axes.imshow(0.4 + 0.6 * shade, cmap="gray", vmin=0, vmax=1, **place)
    axes.set_title(clock(float(shown.times[index])))
    greatest = max(float(shown.depths.max()), DRY)
    return axes.imshow(_wet(shown.depths[index]), cmap="viridis_r", vmin=0, vmax=greatest, **place)


def _wet(depth: Tensor) -> np.ndarray:
    """Depths, with NaN where the cell is dry."""
    return depth.where(depth >= DRY, torch.nan).numpy()


def _add_scale(figure: Figure, water: AxesImage, axes: list[Axes]) -> None:
    figure.colorbar(water, ax=axes, label=f"water depth (m), if {100 * DRY:g} cm or more", shrink=0.8)
