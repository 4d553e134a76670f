"""Bicubic resizing as two fixed matrix products, y = R x R^T.

`torch.nn.functional.interpolate` has no deterministic backward on CUDA; matrix products have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_A = -0.5  # of the cubic kernel: it reproduces polynomials up to degree 2


class BothWays(nn.Module):
    """Multiplies rows and columns by one fixed matrix (new, old): (B, C, old, old) -> (B, C, new, new).

    The matrix is no parameter, and no part of the saved weights.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix @ x @ self.matrix.mT


def resizing_matrix(old: int, new: int) -> Tensor:
    """(new, old): bicubic resizing, with antialiasing if it reduces; pixels are squares that fill the same side."""
    scale = old / new
    return cubic_matrix(scale * (torch.arange(new, dtype=torch.float64) + 0.5) - 0.5, max(scale, 1.0), old)


def cubic_matrix(centres: Tensor, scale: float, old: int) -> Tensor:
    """(len(centres), old) float64: the cubic kernel `scale` times as wide, around each centre in pixels.

    Weights beyond the edge are left out, and each row is divided by its sum.
    """
    distances = (torch.arange(old, dtype=torch.float64) - centres.double()[:, None]) / scale
    weights = cubic(distances)
    return weights / weights.sum(1, keepdim=True)


def cubic(x: Tensor) -> Tensor:
    """The kernel of Keys (1981) with a = -1/2: 1 at 0; 0 at 1, at 2, and beyond."""
    x = x.abs()
    near = ((_A + 2) * x - (_A + 3)) * x**2 + 1
    far = _A * (((x - 5) * x + 8) * x - 4)
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
