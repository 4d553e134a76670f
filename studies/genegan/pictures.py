"""Grids of images, as one picture."""

from __future__ import annotations

from torch import Tensor


def grid(rows: Tensor) -> Tensor:
    """One image (3, height, width) of rows of images (R, C, 3, S, S)."""
    count, columns, channels, size, _ = rows.shape
    return rows.permute(2, 0, 3, 1, 4).reshape(channels, count * size, columns * size)
