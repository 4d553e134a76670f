"""The local-inertial shallow-water scheme: one step of a batch of floods on square cells, and how long it may be.

Bates, Horritt and Fewtrell (2010), with the averaged momentum of de Almeida et al. (2012): shallow water without the
advection of momentum. Depth h, bed z and level h + z belong to the cells; the flux per width q (m2/s, positive to the
right or down) to the faces between them. At a face between cells L and R

    hf = max(level_L, level_R) - max(z_L, z_R),             q' = 0 where hf <= 1e-5 m, else
    S  = (level_R - level_L) / dx
    q' = [theta q + (1 - theta) / 2 (q_before + q_after) - g hf dt S] / [1 + g dt n^2 |q| / hf^(7/3)]
    |q'| <= hf sqrt(g hf)                                   (Froude number at most 1)
    h' = h + dt / dx (sum of the fluxes into the cell) + dt R          (rain R in m/s)

theta = 1 is the scheme of 2010. `q_before` and `q_after` are on the next faces in the direction of the flux.

Shapes: fields (B, H, W), fluxes qx (B, H, W + 1) and qy (B, H + 1, W), one number for each flood (B,). Fields follow
the dtype of the depth, so float64 is there on request. Every flood of a batch has its own length of step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from roundhouse.errors import RoundhouseError as StudyError

if TYPE_CHECKING:
    from studies.flood.boundaries import Boundaries

Array = npt.NDArray[np.float64]
"""Numbers of the floods (B,) that decide about a step: on the CPU, where NumPy is faster than torch on so few."""

GRAVITY = 9.81  # m/s2
DRY = 1e-5  # m: less than this at a face does not flow
ACROSS, DOWN = -1, -2  # the dimensions of a field along which qx and qy flow


@dataclass(frozen=True)
class Scheme:
    """`theta` as above; `courant`: share of the longest stable step; `longest` step in s; `drained`: the largest share
    of a cell's water that leaves it in a step."""

    theta: float = 0.8
    courant: float = 0.7
    longest: float = 60.0
    drained: float = 0.8


@dataclass(frozen=True)
class Faces:
    """Faces of one direction: the higher of both beds in m, and g n^2 with the mean of both roughnesses.

    On the edge of the domain, the cell outside is a copy of the one inside.
    """

    bed: Tensor
    friction: Tensor


@dataclass(frozen=True)
class Ground:
    """Bed (m) and Manning's roughness n (s m^(-1/3)) of cells that are `spacing` metres wide; and their faces."""

    bed: Tensor
    roughness: Tensor
    spacing: float
    across: Faces
    down: Faces


@dataclass(frozen=True)
class Water:
    """Depth in m and fluxes qx and qy in m2/s: all that a step changes."""

    depth: Tensor
    qx: Tensor
    qy: Tensor


def make_ground(bed: Tensor, roughness: Tensor, spacing: float) -> Ground:
    """From `bed` and `roughness` (B, H, W) of one dtype. StudyError: other shapes, or values that make no sense."""
    if bed.ndim != 3 or bed.shape != roughness.shape or bed.dtype != roughness.dtype:
        shapes = f"{tuple(bed.shape)} {bed.dtype} and {tuple(roughness.shape)} {roughness.dtype}"
        raise StudyError(f"bed and roughness must be (B, H, W) of one dtype (got {shapes})")
    if not bed.isfinite().all() or not roughness.isfinite().all() or not (roughness > 0).all() or not spacing > 0:
        raise StudyError("the bed must be finite, and the roughness and the spacing of cells must be > 0")

    def faces(dim: int) -> Faces:
        before, after = pair(extended(bed, dim), dim)
        rough_before, rough_after = pair(extended(roughness, dim), dim)
        return Faces(torch.maximum(before, after), GRAVITY * ((rough_before + rough_after) / 2) ** 2)

    return Ground(bed, roughness, spacing, faces(ACROSS), faces(DOWN))


def still(depth: Tensor) -> Water:
    """Water of this depth at rest."""
    count, height, width = depth.shape
    return Water(depth, depth.new_zeros(count, height, width + 1), depth.new_zeros(count, height + 1, width))


def step(
    ground: Ground,
    boundaries: Boundaries,
    scheme: Scheme,
    water: Water,
    seconds: Tensor,
    inflow: Tensor,
    rain: Tensor,
) -> tuple[Water, Tensor, Tensor]:
    """One step of `seconds`, with an inflow in m3/s and rain in m/s that are constant in it; each (B,).

    Also the volumes (B,) in m3, float64, that came and left through the edges. A step of 0 s changes nothing at all.
    """
    depth = water.depth
    seconds, inflow, rain = (each.to(depth)[:, None, None] for each in (seconds, inflow, rain))
    level, ratio = depth + ground.bed, seconds / ground.spacing

    def flux(q: Tensor, faces: Faces, dim: int) -> Tensor:
        outer = boundaries.with_outside(level, ground.bed, dim)
        new = momentum(outer, q, faces, ground.spacing, seconds, scheme.theta, dim)
        return boundaries.impose(new, depth, ground.roughness, inflow / ground.spacing, dim)

    qx, qy = flux(water.qx, ground.across, ACROSS), flux(water.qy, ground.down, DOWN)
    qx, qy = limited(depth, qx, qy, ratio, scheme.drained)
    gain = (qx[..., :-1] - qx[..., 1:]) + (qy[..., :-1, :] - qy[..., 1:, :])
    new_depth = depth + (ratio * gain + seconds * rain)
    entering, leaving = boundaries.through(qx, qy)
    volume = seconds.flatten().double() * ground.spacing
    moving = seconds > 0
    after = Water(new_depth, torch.where(moving, qx, water.qx), torch.where(moving, qy, water.qy))
    return after, entering * volume, leaving * volume


def momentum(level: Tensor, q: Tensor, faces: Faces, spacing: float, seconds: Tensor, theta: float, dim: int) -> Tensor:
    """q' on all faces of one direction; along `dim`, `level` has one cell more at both ends than the domain."""
    before, after = pair(level, dim)
    flowing = torch.maximum(before, after) - faces.bed
    hf = flowing.clamp(min=DRY)
    count, beside = q.shape[dim], extended(q, dim)
    mean = theta * q + (1 - theta) / 2 * (beside.narrow(dim, 0, count) + beside.narrow(dim, 2, count))
    push = (GRAVITY / spacing) * seconds * hf * (after - before)
    new = (mean - push) / (1 + seconds * faces.friction * q.abs() / hf ** (7 / 3))
    fastest = critical_flux(hf)
    return torch.where(flowing > DRY, torch.clamp(new, -fastest, fastest), 0)


def critical_flux(depth: Tensor) -> Tensor:
    """h sqrt(g h) in m2/s: the flux at a Froude number of 1."""
    return depth * (GRAVITY * depth).sqrt()


def limited(depth: Tensor, qx: Tensor, qy: Tensor, ratio: Tensor, drained: float) -> tuple[Tensor, Tensor]:
    """The fluxes out of a cell, scaled so that together they take at most the share `drained` of its water.

    So no depth falls below 0. `ratio` is dt / dx. Allowing each face a quarter of it, |q| <= .8 (h / 4) dx / dt, has
    the same effect, but water that leaves through one face, as in a channel, could then be no faster than
    .2 dx / dt, which with steps of .7 dx / sqrt(g h) is a Froude number of .29.
    """
    leaving = (qx[..., 1:].clamp(min=0) - qx[..., :-1].clamp(max=0)) + (
        qy[..., 1:, :].clamp(min=0) - qy[..., :-1, :].clamp(max=0)
    )
    wanted, there = ratio * leaving, drained * depth
    share = torch.where(wanted > there, there / wanted, 1)

    def scaled(q: Tensor, dim: int) -> Tensor:
        outside = torch.ones_like(share.narrow(dim, 0, 1))  # nothing limits what comes from outside
        before, after = pair(torch.cat([outside, share, outside], dim), dim)
        return q * torch.where(q > 0, before, after)

    return scaled(qx, ACROSS), scaled(qy, DOWN)


def by_depth(depth: Array, spacing: float, scheme: Scheme) -> Array:
    """a dx / sqrt(g h): the longest step (B,) in s where no depth rises above `depth` (B,) in m."""
    with np.errstate(divide="ignore"):
        return np.minimum(scheme.courant * spacing / np.sqrt(GRAVITY * depth), scheme.longest)


def longest_step(depth: Array, rise: Array, spacing: float, scheme: Scheme) -> Array:
    """The longest step (B,) in s with dt <= a dx / sqrt(g (h + r dt)), h + r dt being the depth expected at its end.

    `depth` (B,) of the deepest cell in m, `rise` (B,) of the fastest rising one by rain and inflow in m/s, float64.
    From the present depth alone, the first step on a dry bed would be far too long. The step is the root of
    g r dt^3 + g h dt^2 - (a dx)^2, which is increasing and convex, so Newton's method descends to it from both bounds.
    """
    target = (scheme.courant * spacing) ** 2
    cubic, square = GRAVITY * rise, GRAVITY * depth
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        seconds = np.minimum(by_depth(depth, spacing, scheme), np.cbrt(target / cubic))
        for _ in range(4):  # from at most 1.33 times the root, so the relative error is then below 1e-8
            excess = (cubic * seconds + square) * seconds**2 - target
            slope = (3 * cubic * seconds + 2 * square) * seconds
            seconds = np.where(excess > 0, seconds - excess / slope, seconds)
    return seconds


def pair(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """What is before and what is after each face inside: all but the last, and all but the first along `dim`."""
    count = x.shape[dim] - 1
    return x.narrow(dim, 0, count), x.narrow(dim, 1, count)


def extended(x: Tensor, dim: int) -> Tensor:
    """`x` with its first and last values along `dim` repeated outside."""
    first, last = ends(x, dim)
    return torch.cat([first, x, last], dim)


def ends(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The first and the last values along `dim`, which keeps size 1."""
    return x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
