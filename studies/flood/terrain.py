"""Random terrain: a fractal bed with a valley, a channel and roads at 1 m and at 10 m, and Manning's n by land use.

x runs along the columns, from the inlet (0) to the outlet (L), and y along the rows, both in metres. The bed is

    z(x, y) = S (L - x) + C d + (1 - w) r(x, y) - D w + e(x, y)     shifted so that its lowest point is 0

S          slope of the valley to its outlet, U(.001, .003)
C          slope across the valley, U(.003, .012), of the distance d = |y - y0(x)| cos(a) from the channel's axis, whose
           angle to x is a: y0(x) = L (p + .06 sin(2 pi (x / l + phase))), p ~ U(.4, .6), l ~ U(.5, 1) L
w          1 in the channel, 0 outside, linear on banks of 4 m; its width is U(12, 20) m
D          depth of the channel, U(.3, .7) m: less than most floods need
r          relief: Gaussian, with the spectral density k^-(2 H + 2), H = .7, wave numbers k > 0 (spectral synthesis:
           Saupe in Peitgen and Saupe, The Science of Fractal Images, 1988, chapter 2). It has a standard deviation of
           .35 m on a square of 1 km that is periodic, and grows as the side^H
e          one to three straight roads, on embankments of U(.4, 1.2) m that are 10 m wide, with slopes of 5 m. They end
           25 m from the axis: there the road is a bridge, and water passes below it.

Land use: channel and road as drawn (the channel wins), wood where a second relief exceeds its quantile .75, else field.
Everything follows from the seed. With another number of cells, the same seed has the same S, C, D, width, p and roads
(as shares of the side), and another relief.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from roundhouse.training import StudyError, derive_seed

FINE = 10
"""Points of the fine bed in a cell, along each side; neighbouring cells share the points of their common edge."""
HURST = 0.7
"""H: the exponent of the relief. Its fractal dimension is 3 - H."""
LAND_USES = {"channel": 0.030, "road": 0.016, "field": 0.040, "wood": 0.100}
"""Manning's n in s/m^(1/3), after the tables of Chow, Open-Channel Hydraulics, 1959, chapter 5."""

_RELIEF = 0.35  # m: standard deviation on a periodic square of _RELIEF_SIDE
_RELIEF_SIDE = 1000.0  # m
_WOOD_ABOVE = 0.75  # quantile
_BANK = 4.0  # m
_ROAD_HALF_WIDTH, _ROAD_SLOPE, _BRIDGE = 5.0, 5.0, 25.0  # m
_MOST_ROADS = 3
_CONNECTED = 1.5  # cells: a band of at least sqrt(2) cells has no gap at a corner, whatever its direction


@dataclass(frozen=True, eq=False)
class Terrain:
    """The bed and its roughness. Row 0 is y = 0, column 0 is the upstream edge."""

    fine: Tensor
    """Bed in points 1 m apart, m: float32 (10 cells + 1, 10 cells + 1). Cell i has the points 10 i to 10 i + 10."""
    coarse: Tensor
    """Bed of the cells, m: float32 (cells, cells); `coarsen(fine)`."""
    roughness: Tensor
    """Manning's n of the cells, s/m^(1/3): float32 (cells, cells)."""
    land_use: Tensor
    """Of the cells: int64 (cells, cells), places in LAND_USES."""
    inlet: Tensor
    """Rows of the first column's cells through which water enters, int64 (N,): those of the channel."""
    outlet: Tensor
    """Rows of the last column's cells through which water leaves, int64 (cells,): all."""
    slope: float
    """Of the valley towards the outlet, for the condition of free outfall."""
    spacing: float
    """Side of a cell, m."""


@dataclass(frozen=True)
class _Shape:
    """The numbers of a terrain, as in the head of this file."""

    slope: float
    across: float
    position: float
    wavelength: float
    phase: float
    width: float
    depth: float
    roads: tuple[tuple[float, float, float], ...]
    """Place where it crosses y = L / 2 as a share of L, angle to the y axis, height in m."""


def draw(seed: int, cells: int, spacing: float = 10.0) -> Terrain:
    """The terrain of a seed, on cells x cells cells. StudyError: fewer than 8 cells, or a spacing that is not > 0."""
    if cells < 8 or spacing <= 0:
        raise StudyError(f"a terrain needs cells >= 8 and spacing > 0 (got {cells} and {spacing})")
    shape = _shape(seed)
    side = cells * spacing
    bed = _bed(shape, _line(FINE * cells + 1, side), relief(_seed(seed, "relief"), FINE * cells + 1, spacing / FINE))
    fine = (bed - bed.min()).float()
    land_use = _land_use(shape, cells, spacing, relief(_seed(seed, "wood"), cells, spacing))
    return Terrain(
        fine=fine,
        coarse=coarsen(fine),
        roughness=torch.tensor(list(LAND_USES.values()))[land_use],
        land_use=land_use,
        inlet=(land_use[:, 0] == _place("channel")).nonzero().flatten(),
        outlet=torch.arange(cells),
        slope=shape.slope,
        spacing=spacing,
    )


def coarsen(fine: Tensor) -> Tensor:
    """The bed of the cells (..., cells, cells) from the points (..., 10 cells + 1, 10 cells + 1).

    The mean of the 10 x 10 squares of a cell, each with the mean of its four corners. So a turned bed has turned means,
    which the mean of 10 x 10 points would not have: a cell has 11 x 11.
    """
    squares = F.avg_pool2d(fine.double().reshape(-1, 1, *fine.shape[-2:]), 2, stride=1)
    means = F.avg_pool2d(squares, FINE)
    return means.reshape(*fine.shape[:-2], *means.shape[-2:]).to(fine.dtype)


def relief(seed: int, points: int, step: float) -> Tensor:
    """The fractal r (points, points) in m, on points `step` m apart: float64.

    Gaussian white noise times k^-(H + 1), by FFT. It is drawn on a periodic square of twice the side and cut, so that
    opposite edges differ; the scale follows from the spectrum alone, not from the noise.
    """
    period = 2 * (points - 1)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.fft.rfft2(torch.randn(period, period, dtype=torch.float64, generator=generator))
    down = torch.fft.fftfreq(period, dtype=torch.float64)
    across = torch.fft.rfftfreq(period, dtype=torch.float64)
    gain = torch.hypot(down[:, None], across[None])
    gain[0, 0] = math.inf  # no mean
    gain = gain ** -(HURST + 1)
    twice = torch.full_like(across, 2)  # all columns but the first and the last stand for two wave numbers
    twice[0] = twice[-1] = 1
    deviation = ((gain.square() * twice).sum() / period**2).sqrt()
    scale = _RELIEF * (period * step / _RELIEF_SIDE) ** HURST / deviation
    whole: Tensor = torch.fft.irfft2(noise * gain * scale, s=(period, period))
    return whole[:points, :points]


def preview(terrain: Terrain, path: Path, depth: Tensor | None = None) -> None:
    """Write a picture of the fine bed and the land use; with `depth` (cells, cells) in m, the water over the bed."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    side = terrain.spacing * len(terrain.coarse)
    extent = (0.0, side, side, 0.0)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    bed, use = figure.subplots(1, 2)
    image = bed.imshow(terrain.fine.numpy(), extent=extent, cmap="terrain")
    figure.colorbar(image, ax=bed, label="bed (m)")
    if depth is not None:
        wet = bed.imshow(depth.where(depth > 0.01, math.nan).numpy(), extent=extent, cmap="Blues", vmin=0)
        figure.colorbar(wet, ax=bed, label="water depth (m)")
    colours = ListedColormap(["tab:blue", "black", "khaki", "darkgreen"])
    shown = use.imshow(terrain.land_use.numpy(), extent=extent, cmap=colours, vmin=-0.5, vmax=len(LAND_USES) - 0.5)
    bar = figure.colorbar(shown, ax=use, ticks=range(len(LAND_USES)))
    bar.ax.set_yticklabels([f"{name}, n = {value:.3f}" for name, value in LAND_USES.items()])
    use.plot([0] * len(terrain.inlet), (terrain.inlet + 0.5) * terrain.spacing, "r>", clip_on=False)
    for axes, title in ((bed, "bed at 1 m"), (use, "land use; the inlet is red")):
        axes.set(title=title, xlabel="x (m), to the outlet", ylabel="y (m)")
    figure.savefig(path)


def _seed(seed: int, purpose: str) -> int:
    return derive_seed("flood", "terrain", purpose, seed)


def _shape(seed: int) -> _Shape:
    """All numbers are drawn, also of roads that are not built, so each has its own place in the stream."""
    generator = torch.Generator().manual_seed(_seed(seed, "shape"))
    numbers = iter(torch.rand(8 + 3 * _MOST_ROADS, dtype=torch.float64, generator=generator).tolist())

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(next(numbers))

    return _Shape(
        slope=uniform(0.001, 0.003),
        across=uniform(0.003, 0.012),
        position=uniform(0.4, 0.6),
        wavelength=uniform(0.5, 1),
        phase=uniform(0, 1),
        width=uniform(12, 20),
        depth=uniform(0.3, 0.7),
        roads=tuple(
            (uniform(0.15, 0.85), uniform(-math.pi / 3, math.pi / 3), uniform(0.4, 1.2))
            for _ in range(1 + int(uniform(0, _MOST_ROADS)))
        ),
    )


def _line(points: int, side: float) -> Tensor:
    return torch.linspace(0, side, points, dtype=torch.float64)


def _from_axis(shape: _Shape, x: Tensor, y: Tensor, side: float) -> Tensor:
    """Distance d of points from the channel's axis, m; exact where the axis is straight."""
    turn = 2 * math.pi / (shape.wavelength * side)
    angle = turn * x + 2 * math.pi * shape.phase
    axis = side * (shape.position + 0.06 * angle.sin())
    return (y - axis).abs() / (1 + (0.06 * side * turn * angle.cos()).square()).sqrt()


def _from_road(road: tuple[float, float, float], x: Tensor, y: Tensor, side: float) -> Tensor:
    """Distance of points from the middle of a road, m."""
    place, angle, _ = road
    return ((x - place * side) * math.cos(angle) + (y - side / 2) * math.sin(angle)).abs()


def _bed(shape: _Shape, line: Tensor, fractal: Tensor) -> Tensor:
    """z on the points of a square (points, points), before the shift."""
    x, y, side = line[None], line[:, None], float(line[-1])
    distance = _from_axis(shape, x, y, side)
    channel = ((shape.width / 2 + _BANK - distance) / _BANK).clamp(0, 1)
    bed = shape.slope * (side - x) + shape.across * distance + (1 - channel) * fractal - shape.depth * channel
    embankment = torch.zeros_like(bed)
    for road in shape.roads:
        top = ((_ROAD_HALF_WIDTH + _ROAD_SLOPE - _from_road(road, x, y, side)) / _ROAD_SLOPE).clamp(0, 1)
        embankment = torch.maximum(embankment, road[2] * top)
    return bed + embankment * (distance > _BRIDGE)


def _land_use(shape: _Shape, cells: int, spacing: float, fractal: Tensor) -> Tensor:
    """Places in LAND_USES (cells, cells), from the centres of the cells."""
    side = cells * spacing
    centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * spacing
    x, y = centres[None], centres[:, None]
    use = torch.full((cells, cells), _place("field"))
    use[fractal > fractal.quantile(_WOOD_ABOVE)] = _place("wood")
    for road in shape.roads:
        use[_from_road(road, x, y, side) <= _ROAD_HALF_WIDTH] = _place("road")
    use[_from_axis(shape, x, y, side) <= max(shape.width, _CONNECTED * spacing) / 2] = _place("channel")
    return use


def _place(land_use: str) -> int:
    return list(LAND_USES).index(land_use)
