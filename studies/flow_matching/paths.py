"""The path from noise to data, z_t = alpha(t) x1 + sigma(t) x0, and what follows from a velocity on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class Coefficients(NamedTuple):
    """Those of x1 (the data) and of x0 (the noise), and their derivatives; each (B, 1)."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class Path(ABC):
    """x0 at t = 0, x1 at t = 1. Values are (B, Q), times (B,)."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients: ...

    def point(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """z_t."""
        c = self.coefficients(t)
        return c.alpha * x1 + c.sigma * x0

    def velocity(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """The derivative of z_t: what the network learns."""
        c = self.coefficients(t)
        return c.d_alpha * x1 + c.d_sigma * x0

    def ends(self, z: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, x1) that have this point and this velocity at t."""
        c = self.coefficients(t)
        determinant = c.alpha * c.d_sigma - c.d_alpha * c.sigma
        return (c.alpha * v - c.d_alpha * z) / determinant, (c.d_sigma * z - c.sigma * v) / determinant

    def data(self, z: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The estimate of x1: on the linear path z + (1 - t) v."""
        return self.ends(z, v, t)[1]

    def jump(self, z: Tensor, v: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """The point at time `end` if the velocity belongs to one pair (x0, x1): on the linear path z + (end - t) v."""
        return self.point(*self.ends(z, v, t), end)


class LinearPath(Path):
    """z_t = t x1 + (1 - t) x0 (Liu et al. 2022; Lipman et al. 2023)."""

    def coefficients(self, t: Tensor) -> Coefficients:
        t = t[:, None]
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)


def uniform_times(count: int, generator: torch.Generator) -> Tensor:
    """t ~ U(0, 1), (count,)."""
    return torch.rand(count, generator=generator)
