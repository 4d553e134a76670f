"""Distances between two sets of images, from features (N, D) of them: Frechet distance (FD) and kernel distance (KID).

Both are called FID and KID in the literature if the features are those of the standard Inception network; see
`extractors.py` for the name that a value must have. All computation is in float64, on the device of the features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from roundhouse.training import StudyError

_BLOCK = 256  # rows that are added at once
_DEGREE = 3  # of the kernel of KID
_NORMAL = 1.959964  # 97.5 % quantile of the normal distribution


class Statistics:
    """Mean and covariance of rows that come in batches. They do not depend on the sizes of the batches, bit for bit."""

    def __init__(self, dimension: int) -> None:
        self.dimension, self.count = dimension, 0
        self._moments = _Moments.none(dimension)
        self._rest = torch.empty(0, dimension).double()

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        one = cls(features.shape[1])
        one.update(features)
        return one

    def update(self, features: Tensor) -> None:
        """Add rows (N, D)."""
        self.count += len(features)
        rows = torch.cat([self._rest, features.detach().double()]) if len(self._rest) else features.detach().double()
        whole = len(rows) // _BLOCK * _BLOCK
        for first in range(0, whole, _BLOCK):
            self._moments = self._moments.joined(_Moments.of(rows[first : first + _BLOCK]))
        self._rest = rows[whole:].clone()

    @property
    def moments(self) -> _Moments:
        return self._moments.joined(_Moments.of(self._rest))

    @property
    def mean(self) -> Tensor:
        return self.moments.mean

    @property
    def covariance(self) -> Tensor:
        """With the denominator N - 1. StudyError: it is singular, because there are not more rows than dimensions."""
        return self.moments.covariance


@dataclass(frozen=True)
class _Moments:
    """The number of rows, their mean (D,), and the sum of the outer products of their deviations from it (D, D)."""

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def none(cls, dimension: int) -> _Moments:
        return cls(0, torch.zeros(dimension).double(), torch.zeros(dimension, dimension).double())

    @classmethod
    def of(cls, rows: Tensor) -> _Moments:
        if not len(rows):
            return cls.none(rows.shape[1])
        mean = rows.double().mean(0)
        centred = rows.double() - mean
        return cls(len(rows), mean, centred.T @ centred)

    def joined(self, other: _Moments) -> _Moments:
        """Of the rows of both."""
        if not self.count or not other.count:
            return other if not self.count else self
        count, shift = self.count + other.count, other.mean - self.mean
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        return _Moments(count, self.mean + shift * (other.count / count), self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        dimension = len(self.mean)
        if self.count <= dimension:
            raise StudyError(
                f"the Frechet distance of {dimension} features needs more than {dimension} images on each side, and "
                f"there are {self.count}: evaluate more images, or use an extractor with fewer features"
            )
        return self.scatter / (self.count - 1)


def frechet(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """The Frechet distance (squared 2-Wasserstein distance) of two Gaussians.

    |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1^1/2 C2 C1^1/2)^1/2. The matrix under the last root is symmetric, unlike
    C1 C2, which has the same eigenvalues: two symmetric eigendecompositions suffice, and no complex numbers appear.
    """
    mean1, cov1, mean2, cov2 = (one.double() for one in (mean1, cov1, mean2, cov2))
    root = _root(cov1)
    inner = root @ cov2 @ root
    common = _above_rounding(torch.linalg.eigvalsh((inner + inner.T) / 2)).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * common
    return max(0.0, float(distance))


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * _above_rounding(values).sqrt()) @ vectors.T
    return root


def _above_rounding(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues within the rounding error of 0 become 0: their roots would be far larger than they are."""
    least = eigenvalues.abs().max() * len(eigenvalues) * torch.finfo(torch.float64).eps
    return torch.where(eigenvalues > least, eigenvalues, 0.0)


def distance(one: Statistics, other: Statistics) -> float:
    """The Frechet distance of two sets of features. StudyError: one has not more rows than features."""
    return frechet(one.mean, one.covariance, other.mean, other.covariance)


@dataclass(frozen=True)
class Interval:
    """The Frechet distance of two sets of features, its standard error, and a 95 % interval."""

    value: float
    error: float

    @property
    def low(self) -> float:
        return max(0.0, self.value - _NORMAL * self.error)

    @property
    def high(self) -> float:
        return self.value + _NORMAL * self.error


def interval(x: Tensor, y: Tensor, groups: int, generator: torch.Generator) -> Interval:
    """The Frechet distance of two sets of features, with its sampling error by the delete-a-group jackknife.

    Each set is cut into random groups, and the distance is computed without each of them. The usual bootstrap is not
    used: it draws rows repeatedly, so its covariances have a lower rank, and all its distances are too large. The
    interval is that of the distance at this N, whose expectation is itself above the distance at infinite N.
    """
    parts = [_groups(one, groups, generator) for one in (x, y)]
    whole = [reduce(_Moments.joined, one) for one in parts]
    variance = 0.0
    for side, moments in enumerate(parts):
        values = [_between(_without(moments, k), whole[1 - side]) for k in range(groups)]
        middle = math.fsum(values) / groups
        variance += (groups - 1) / groups * math.fsum((value - middle) ** 2 for value in values)
    return Interval(_between(*whole), math.sqrt(variance))


def _groups(features: Tensor, groups: int, generator: torch.Generator) -> list[_Moments]:
    order = torch.randperm(len(features), generator=generator).to(features.device)
    return [_Moments.of(features[rows]) for rows in order.tensor_split(groups)]


def _without(moments: list[_Moments], left_out: int) -> _Moments:
    others: Iterable[_Moments] = (one for k, one in enumerate(moments) if k != left_out)
    return reduce(_Moments.joined, others)


def _between(one: _Moments, other: _Moments) -> float:
    return frechet(one.mean, one.covariance, other.mean, other.covariance)


def floor(real: Tensor, generator: torch.Generator) -> float:
    """The Frechet distance between two random halves of the features of real images: what a perfect model would score.

    Each half has N / 2 rows, so this is above the floor at N. StudyError: a half has not more rows than features.
    """
    return _between(*_groups(real, 2, generator))


def kid(x: Tensor, y: Tensor, subsets: int, size: int, generator: torch.Generator) -> tuple[float, float]:
    """Mean and standard deviation, over random subsets of `size` rows of each, of the kernel distance of features.

    The squared maximum mean discrepancy with the kernel (a . b / D + 1)^3, by the unbiased estimator: it can be below
    0, and its mean does not depend on N. StudyError: fewer rows than `size`.
    """
    most = min(len(x), len(y))
    if not 2 <= size <= most:
        raise StudyError(f"KID of subsets of {size} images: there are {len(x)} and {len(y)}; use 2 to {most}")
    values = torch.stack([_mmd(_subset(x, size, generator), _subset(y, size, generator)) for _ in range(subsets)])
    return float(values.mean()), float(values.std(correction=0))


def _subset(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return features[torch.randperm(len(features), generator=generator)[:size].to(features.device)].double()


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    size = len(x)
    within = sum((kernel.sum() - kernel.trace()) / (size * (size - 1)) for kernel in (_kernel(x, x), _kernel(y, y)))
    return within - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** _DEGREE
