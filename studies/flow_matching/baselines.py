"""Baselines without training: mean, nearest observation, thin-plate RBF and Gaussian RBF, of the same observed pixels.

Each reconstructs fields (N, size, size) from the values (N, M) of pixels (N, M), the indices of a flattened field. All
is computed in float64 on the CPU. The RBFs interpolate what is left after the mean of the observations is subtracted,
so the Gaussian one becomes that mean far from them, and both do if there is only one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from studies.flow_matching.measures import psnr

_RIDGE = 1e-8
"""Added to the diagonal of the kernel matrices, since a wide Gaussian makes its matrix singular in float64. As its
diagonal is 1, the ridge keeps the condition below M / 1e-8, about 5e9 of the 1e16 that float64 allows. At the
chosen widths it moves observations by about 1e-6, and any ridge from 1e-12 to 1e-6 gives the same PSNR to 0.01 dB."""
_RATIO = 2**0.25  # of neighbouring widths


def mean_field(values: Tensor, pixels: Tensor, size: int) -> Tensor:
    """The mean of each field's observations, everywhere."""
    return values.double().mean(1)[:, None, None].expand(-1, size, size).clone()


def nearest_field(values: Tensor, pixels: Tensor, size: int) -> Tensor:
    """The value of the nearest observation; of several at the same distance, the one that stands first in `pixels`."""
    every = torch.arange(size * size)
    rows = every.div(size, rounding_mode="floor")[:, None] - pixels.div(size, rounding_mode="floor")[:, None]
    columns = every.remainder(size)[:, None] - pixels.remainder(size)[:, None]
    nearest = (rows.square() + columns.square()).argmin(2)  # whole numbers: equal distances are equal
    return values.double().gather(1, nearest).reshape(-1, size, size)


def thin_plate_field(values: Tensor, pixels: Tensor, size: int) -> Tensor:
    """sum of c_m |x - x_m|^2 log |x - x_m| plus an affine part, with least bending energy; coordinates in [-1, 1].

    The ridge, negative in the affine block, gives a solution for collinear observations and for fewer than three too.
    """
    points, everywhere = _points(pixels, size), _points(torch.arange(size * size)[None], size)
    number, count = values.shape
    affine = _affine(points)
    ridge = _RIDGE * torch.eye(count, dtype=torch.float64)
    upper = torch.cat([_thin_plate(points, points) + ridge, affine], dim=2)
    corner = (-_RIDGE * torch.eye(3, dtype=torch.float64)).expand(number, 3, 3)
    system = torch.cat([upper, torch.cat([affine.mT, corner], dim=2)], dim=1)
    mean, rest = _centred(values)
    right = torch.cat([rest, torch.zeros(number, 3, dtype=torch.float64)], dim=1)
    weights = torch.linalg.solve(system, right)
    basis = torch.cat([_thin_plate(everywhere, points), _affine(everywhere).expand(number, -1, -1)], dim=2)
    fields: Tensor = basis @ weights[:, :, None] + mean[:, :, None]
    return fields.reshape(-1, size, size)


def gaussian_field(values: Tensor, pixels: Tensor, size: int, width: float) -> Tensor:
    """sum of c_m exp(-|x - x_m|^2 / (2 width^2)); coordinates in [-1, 1].

    The kernel is a product over the two axes, so a field is (size, M) x diag(c) x (M, size): no kernel of all pixels.
    """
    line = torch.linspace(-1, 1, size, dtype=torch.float64)
    axis = torch.exp(-(line[:, None] - line).square() / (2 * width**2))
    rows, columns = pixels.div(size, rounding_mode="floor"), pixels.remainder(size)
    by_row, by_column = axis[rows], axis[columns]  # (N, M, size)
    kernel = _of_pairs(by_row, rows) * _of_pairs(by_column, columns)
    factor = torch.linalg.cholesky(kernel + _RIDGE * torch.eye(pixels.shape[1], dtype=torch.float64))
    mean, rest = _centred(values)
    weights = torch.cholesky_solve(rest[:, :, None], factor)
    return by_row.mT @ (weights * by_column) + mean[:, :, None]


def _of_pairs(by_place: Tensor, places: Tensor) -> Tensor:
    """The kernel of each pair of observations (N, M, M), from that of each with each place (N, M, size)."""
    return by_place.gather(2, places[:, None, :].expand(-1, places.shape[1], -1))


def _centred(values: Tensor) -> tuple[Tensor, Tensor]:
    mean = values.double().mean(1, keepdim=True)
    return mean, values.double() - mean


def _points(pixels: Tensor, size: int) -> Tensor:
    """Coordinates (row, column) of pixels, in [-1, 1] (N, M, 2)."""
    line = torch.linspace(-1, 1, size, dtype=torch.float64)
    return torch.stack([line[pixels.div(size, rounding_mode="floor")], line[pixels.remainder(size)]], dim=-1)


def _thin_plate(points: Tensor, others: Tensor) -> Tensor:
    squared = (points[:, :, None] - others[:, None]).square().sum(-1)
    return torch.xlogy(squared, squared) / 2  # r^2 log r; 0 at r = 0


def _affine(points: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(points[..., :1]), points], dim=-1)


@dataclass(frozen=True)
class Width:
    """The width of the Gaussian kernel with the best mean PSNR, and whether no limit kept a better one away."""

    width: float
    psnr: float
    inside: bool


def choose_width(fields: Tensor, pixels: Tensor) -> Width:
    """The best width for these fields, on a grid by factors of 2^(1/4) that grows at an end while that is the best.

    The limits are a fourth of the distance of two pixels, where the kernel does not reach the next one, so the field is
    the mean with the observations put in; and 16, eight times the side. A best width at a limit is not `inside`.
    """
    size = fields.shape[1]
    spacing = 2 / (size - 1)
    values = fields.flatten(1).gather(1, pixels)

    def quality(exponent: int) -> float:
        return float(psnr(gaussian_field(values, pixels, size, spacing * _RATIO**exponent), fields).mean())

    found = {exponent: quality(exponent) for exponent in range(0, 17, 2)}
    least, most = -8, int(4 * math.log2(16 / spacing))
    while True:
        best = max(found, key=found.__getitem__)
        around = [near for near in (best - 1, best + 1) if least <= near <= most and near not in found]
        if not around:
            return Width(spacing * _RATIO**best, found[best], least < best < most)
        found |= {near: quality(near) for near in around}


@dataclass(frozen=True)
class Baselines:
    """PSNR of each baseline on the test fields, by the names of the final metrics; the Gaussian RBF's fields, width."""

    metrics: dict[str, float]
    rbf: Tensor
    width: Width


def baselines(test: Tensor, test_pixels: Tensor, validation: Tensor, validation_pixels: Tensor) -> Baselines:
    """All baselines of the test fields (N, size, size), seen at pixels (N, M). Validation fields choose the width.

    `rbf_oracle_psnr` has the single width that is best for the test fields: no choice of a width could do better.
    """
    test, test_pixels, validation, validation_pixels = (
        each.cpu() for each in (test, test_pixels, validation, validation_pixels)
    )
    size = test.shape[1]
    values = test.flatten(1).gather(1, test_pixels)
    width = choose_width(validation, validation_pixels)
    rbf = gaussian_field(values, test_pixels, size, width.width)
    methods: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
        "mean_psnr": mean_field,
        "nearest_psnr": nearest_field,
        "thin_plate_psnr": thin_plate_field,
    }
    metrics = {name: float(psnr(method(values, test_pixels, size), test).mean()) for name, method in methods.items()}
    metrics["rbf_psnr"] = float(psnr(rbf, test).mean())
    metrics["rbf_oracle_psnr"] = choose_width(test, test_pixels).psnr
    return Baselines(metrics, rbf.float(), width)
