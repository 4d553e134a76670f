"""The data: six families of random fields, each scaled to [0, 1] by exact bounds; splits, and masks for evaluation.

A field is a function of X and Y in [0, 2 pi], on a grid of `size` x `size` points that includes the edges: the columns
are linspace(0, 2 pi, size), and so are the rows. Coordinates are those points in [-1, 1], so one unit is pi, and a wave
number k has k / 2 cycles a unit. The Nyquist frequency of 32 points is 31 / 4 = 7.75 cycles a unit.

`U(a, b)` is drawn anew for each field and each component; phi is U(0, 2 pi); r and theta are polar coordinates about
the centre of the grid; k.x means kx X + ky Y. A formula f with |f| <= b becomes (f / b + 1) / 2. Each b is exact: no
parameters of the family go beyond it, and it is the supremum, so no smaller one is right for the whole family. All
fields of a formula have the same b, so a field keeps its amplitude.

simple            sin(k.x + phi), k ~ U(1, 3).
                  b = 1, attained: over the grid's plane, the phase passes through a whole turn.
multi_frequency   sum over i <= n of A_i sin(k_i.x + phi_i) / n; n is 2 or 3, A ~ U(.3, 1), k ~ U(.5, 5).
                  b = 1: n terms of at most A / n < 1 / n; approached as all A approach 1 with equal phases in a point.
radial            sin(k r + phi), k ~ U(2, 8).
                  b = 1, attained: r reaches 4.44, so k r passes through more than a turn.
interference      sin(k1.x + phi1) + sin((k1 + d).x + phi2), k1 ~ U(2, 6), d ~ U(-1, 1).
                  b = 2: two sines; attained, since some phi1 and phi2 make both phases pi / 2 in a point.
modulated         One half of the fields: [1 + m sin(km.x)] sin(kc.x), m ~ U(.5, 1), km ~ U(.5, 2), kc ~ U(3, 7).
                  b = 2: the bracket is at most 1 + m < 2; approached as m approaches 1. An example is (X, Y) =
                  (2 pi / 3, 0): if km has an X component of .75, and kc one of 3.75 or 5.25, f is 1 + m or -(1 + m).
                  The other half: sin(kc X + a sin(km X + km Y)), a ~ U(1, 3), with one km and one kc.
                  b = 1, attained: along X, the phase passes through more than a turn.
composite         .4 sin(k r) + .3 sin(n theta) + .3 sin(q.x), k ~ U(2, 8), n in 2..5, q ~ U(1, 3).
                  b = 1: the weights add up to 1; attained, for example with n = 2 in the point r = 1, theta = pi / 4
                  (or -pi / 4), where k and q can make the two other sines 1 (or -1) too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from roundhouse.training import choose, derive_seed

SPLITS = ("train", "validation", "test")
_AT_ONCE = 2048  # fields that are computed together: 16 MB for each array of 32 x 32 points


@dataclass(frozen=True)
class _Grid:
    """The points of the grid: X and Y, and polar coordinates about the centre; each (1, size, size), float64."""

    x: Tensor
    y: Tensor
    radius: Tensor
    angle: Tensor


def _grid(size: int) -> _Grid:
    line = torch.linspace(0, 2 * math.pi, size, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    across, down = x - math.pi, y - math.pi
    return _Grid(x[None], y[None], torch.hypot(across, down)[None], torch.atan2(down, across)[None])


def coordinates(size: int) -> Tensor:
    """The pixels' coordinates (x, y) in [-1, 1], in the order of a flattened field (size * size, 2); float32."""
    line = torch.linspace(-1, 1, size, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1).float()


class _Numbers:
    """Uniform numbers (fields, N) in [0, 1), handed out by column, so a field's parameters follow from its own row."""

    def __init__(self, numbers: Tensor) -> None:
        self._columns = iter(numbers.unbind(1))

    def uniform(self, low: float, high: float) -> Tensor:
        """One number in [low, high) for each field (fields, 1, 1)."""
        return (low + (high - low) * next(self._columns))[:, None, None]

    def phase(self) -> Tensor:
        return self.uniform(0, 2 * math.pi)

    def whole(self, low: int, high: int) -> Tensor:
        """One whole number from low to high, both included, for each field."""
        return self.uniform(low, high + 1).floor()

    def wave(self, low: float, high: float, grid: _Grid) -> Tensor:
        """k.x with both components of k in [low, high) (fields, size, size)."""
        return self.uniform(low, high) * grid.x + self.uniform(low, high) * grid.y


def _simple(draw: _Numbers, grid: _Grid) -> Tensor:
    return torch.sin(draw.wave(1, 3, grid) + draw.phase())


def _multi_frequency(draw: _Numbers, grid: _Grid) -> Tensor:
    terms = [draw.uniform(0.3, 1) * torch.sin(draw.wave(0.5, 5, grid) + draw.phase()) for _ in range(3)]
    two = draw.whole(2, 3) == 2
    first = terms[0] + terms[1]
    return torch.where(two, first / 2, (first + terms[2]) / 3)


def _radial(draw: _Numbers, grid: _Grid) -> Tensor:
    return torch.sin(draw.uniform(2, 8) * grid.radius + draw.phase())


def _interference(draw: _Numbers, grid: _Grid) -> Tensor:
    first = draw.wave(2, 6, grid)
    second = first + draw.wave(-1, 1, grid)
    return (torch.sin(first + draw.phase()) + torch.sin(second + draw.phase())) / 2


def _modulated(draw: _Numbers, grid: _Grid) -> Tensor:
    amplitude = 1 + draw.uniform(0.5, 1) * torch.sin(draw.wave(0.5, 2, grid))
    by_amplitude = amplitude * torch.sin(draw.wave(3, 7, grid)) / 2
    swing = draw.uniform(1, 3) * torch.sin(draw.uniform(0.5, 2) * (grid.x + grid.y))
    by_phase = torch.sin(draw.uniform(3, 7) * grid.x + swing)
    return torch.where(draw.uniform(0, 1) < 0.5, by_amplitude, by_phase)


def _composite(draw: _Numbers, grid: _Grid) -> Tensor:
    rings = torch.sin(draw.uniform(2, 8) * grid.radius)
    spokes = torch.sin(draw.whole(2, 5) * grid.angle)
    return 0.4 * rings + 0.3 * spokes + 0.3 * torch.sin(draw.wave(1, 3, grid))


_FAMILIES: dict[str, tuple[int, Callable[[_Numbers, _Grid], Tensor]]] = {
    "simple": (3, _simple),
    "multi_frequency": (13, _multi_frequency),
    "radial": (2, _radial),
    "interference": (6, _interference),
    "modulated": (9, _modulated),
    "composite": (4, _composite),
}
"""Of each family: how many numbers are drawn for a field, and the formula divided by its bound b."""


def draw_fields(complexity: str, count: int, size: int, generator: torch.Generator) -> Tensor:
    """`count` fields of a family (count, size, size): float32 in [0, 1], computed in float64 on the CPU.

    With the same state of the generator (of the CPU), a larger `count` begins with the same fields, and another `size`
    shows the same fields on another grid. StudyError: no such family.
    """
    width, formula = _FAMILIES[choose("complexity", complexity, _FAMILIES)]
    numbers = torch.rand(count, width, dtype=torch.float64, generator=generator)
    grid = _grid(size)
    fields = torch.empty(count, size, size)
    for part, into in zip(torch.split(numbers, _AT_ONCE), torch.split(fields, _AT_ONCE), strict=True):
        into.copy_((formula(_Numbers(part), grid) + 1) / 2)
    return fields


def dataset(complexity: str, split: str, count: int, size: int) -> Tensor:
    """The first `count` fields of a split, train, validation or test (count, size, size); the same in every run."""
    return draw_fields(complexity, count, size, _generator("fields", complexity, split))


def evaluation_masks(complexity: str, split: str, count: int, size: int, observations: int) -> Tensor:
    """The pixels that are observed of the first `count` fields of a split (count, observations); the same in every run.

    More observations of a field begin with those of fewer.
    """
    return draw_pixels(count, size * size, observations, _generator("masks", complexity, split))


def _generator(purpose: str, complexity: str, split: str) -> torch.Generator:
    seed = derive_seed("flow_matching", purpose, complexity, choose("split", split, SPLITS))
    return torch.Generator().manual_seed(seed)


def draw_pixels(fields: int, pixels: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` different ones of `pixels` pixels for each field, in random order (fields, count); int64."""
    keys = torch.rand(fields, pixels, dtype=torch.float64, generator=generator, device=generator.device)
    return keys.argsort(dim=1)[:, :count]


def draw_patches(fields: int, size: int, side: int, generator: torch.Generator) -> Tensor:
    """The pixels of a random square of `side` x `side` for each field, row by row (fields, side * side); int64."""
    places = size - side + 1
    corner = torch.randint(places, (fields, 2, 1, 1), generator=generator, device=generator.device)
    steps = torch.arange(side, device=generator.device)
    rows, columns = corner[:, 0] + steps[:, None], corner[:, 1] + steps
    return (rows * size + columns).flatten(1)
