"""The four sides of the domain: closed, fixed stage, inflow hydrograph, free outfall, for each cell of an edge.

closed          q = 0; every cell for which nothing else is said
fixed stage     the level outside is given (a lake, the sea): water flows in or out by the scheme's own momentum
inflow          q = share Q / dx into the domain, Q (m3/s) being the flood's hydrograph
free outfall    q = h^(5/3) sqrt(S0) / n out of the domain: flow at normal depth (Manning), at most critical
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from roundhouse.errors import RoundhouseError as StudyError
from studies.flood.solver import ACROSS, DOWN, critical_flux, ends


@dataclass(frozen=True)
class Side:
    """One side, cell by cell, from left to right or from top to bottom; each tensor is (B, L). Zeros: closed.

    `stage` is the level outside in m, NaN where it is not given; `share` the part of the flood's inflow that comes
    through the face of the cell; `slope` S0 of the free outfall.
    """

    stage: Tensor
    share: Tensor
    slope: Tensor

    def __post_init__(self) -> None:
        kinds = (~self.stage.isnan()).int() + (self.share != 0).int() + (self.slope != 0).int()
        if (kinds > 1).any():
            raise StudyError("a cell of the edge is more than one of fixed stage, inflow and free outfall; choose one")
        if (self.share < 0).any() or (self.slope < 0).any():
            raise StudyError("the share of the inflow and the slope of a free outfall must be >= 0")

    # Which kinds a side has is asked in each step, and never changes.
    @cached_property
    def has_stage(self) -> bool:
        return not bool(self.stage.isnan().all())

    @cached_property
    def has_share(self) -> bool:
        return bool(self.share.any())

    @cached_property
    def has_slope(self) -> bool:
        return bool(self.slope.any())

    @property
    def is_closed(self) -> bool:
        return not (self.has_stage or self.has_share or self.has_slope)


def closed_side(like: Tensor) -> Side:
    """`like` (B, L) gives shape, dtype and device."""
    return Side(torch.full_like(like, torch.nan), torch.zeros_like(like), torch.zeros_like(like))


def fixed_stage(level: Tensor) -> Side:
    """Levels (B, L) in m; NaN where the side is closed."""
    return Side(level, torch.zeros_like(level), torch.zeros_like(level))


def inflow(weights: Tensor) -> Side:
    """All of the flood's inflow comes through this side, in proportion to `weights` (B, L) >= 0."""
    total = weights.sum(1, keepdim=True)
    if not (total > 0).all():
        raise StudyError("the weights of an inflow must have a positive sum in each flood")
    return Side(torch.full_like(weights, torch.nan), weights / total, torch.zeros_like(weights))


def free_outfall(slope: Tensor) -> Side:
    """Slopes S0 (B, L); 0 where the side is closed."""
    return Side(torch.full_like(slope, torch.nan), torch.zeros_like(slope), slope)


@dataclass(frozen=True)
class Boundaries:
    """`left` and `right` are (B, H), `top` and `bottom` (B, W)."""

    left: Side
    right: Side
    top: Side
    bottom: Side

    def along(self, dim: int) -> tuple[Side, Side]:
        """The sides that the flux along this dimension passes."""
        return (self.left, self.right) if dim == ACROSS else (self.top, self.bottom)

    def with_outside(self, level: Tensor, bed: Tensor, dim: int) -> Tensor:
        """Levels with a cell outside at both ends: the given stage, not below the bed; else the level inside."""
        outside = []
        for side, inner, floor in zip(self.along(dim), ends(level, dim), ends(bed, dim), strict=True):
            if side.has_stage:
                stage = side.stage.unsqueeze(dim)
                inner = torch.where(stage.isnan(), inner, torch.maximum(stage, floor))  # noqa: PLW2901
            outside.append(inner)
        return torch.cat([outside[0], level, outside[1]], dim)

    def impose(self, q: Tensor, depth: Tensor, roughness: Tensor, inflow: Tensor, dim: int) -> Tensor:
        """Fluxes whose first and last faces follow the boundaries; `inflow` (B, 1, 1) is Q / dx in m2/s."""
        edges = []
        for side, sign, free, h, n in zip(
            self.along(dim), (1, -1), ends(q, dim), ends(depth, dim), ends(roughness, dim), strict=True
        ):
            given = torch.zeros_like(h)
            if side.has_share:
                given = given + side.share.unsqueeze(dim) * inflow
            if side.has_slope:
                given = given - torch.minimum(h ** (5 / 3) * side.slope.unsqueeze(dim).sqrt() / n, critical_flux(h))
            given = sign * given
            edges.append(torch.where(side.stage.unsqueeze(dim).isnan(), given, free) if side.has_stage else given)
        return torch.cat([edges[0], q.narrow(dim, 1, q.shape[dim] - 2), edges[1]], dim)

    def through(self, qx: Tensor, qy: Tensor) -> tuple[Tensor, Tensor]:
        """Sums (B,) in m2/s, float64, of the fluxes into the domain and of those out of it."""
        edges = zip(
            (self.left, self.right, self.top, self.bottom),
            (1, -1, 1, -1),
            (*ends(qx, ACROSS), *ends(qy, DOWN)),
            strict=True,
        )
        inward = [sign * q.flatten(1) for side, sign, q in edges if not side.is_closed]
        if not inward:
            none = qx.new_zeros(len(qx), dtype=torch.float64)
            return none, none
        fluxes = torch.cat(inward, 1).double()
        return fluxes.clamp(min=0).sum(1), -fluxes.clamp(max=0).sum(1)

    def deepest(self, bed: Tensor) -> Tensor:
        """The greatest depth (B,) in m outside, by the given stages; 0 where there are none."""
        depths = []
        for dim in (ACROSS, DOWN):
            for side, floor in zip(self.along(dim), ends(bed, dim), strict=True):
                depths.append((side.stage - floor.squeeze(dim)).nan_to_num(0.0).amax(1))
        return torch.stack(depths).amax(0).clamp(min=0)

    def greatest_share(self) -> Tensor:
        """A bound (B,) of the share of the inflow that comes into one cell, which may have up to four faces outside."""
        sides = (self.left, self.right, self.top, self.bottom)
        return torch.stack([side.share.amax(1) for side in sides]).sum(0)


def closed(bed: Tensor) -> Boundaries:
    """All four sides closed, for a bed (B, H, W); other sides go in with `dataclasses.replace`."""
    vertical, horizontal = closed_side(bed[:, :, 0]), closed_side(bed[:, 0])
    return Boundaries(vertical, vertical, horizontal, horizontal)
