"""How good a prediction is: measures of the change of depth, of the depth after it, and of the wet/dry front.

Fields are tensors (N, H, W) or (N, 1, H, W), in metres; all sums are in float64. Which samples are left out depends on
what is true alone, so a prediction that is not finite makes the measures of its set NaN.

A cell is wet if its depth is at least 1 cm (or another threshold). The front is the set of faces between two cells of
which one is wet and one is dry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STILL = 1e-6  # m: a sample in which no cell changes by more has not changed; float32 rounds depths of metres to this
WET = 0.01  # m
NEAR = 2  # cells: the front's neighbourhood
THRESHOLDS = (0.05, 0.3, 1.0)  # m, of the critical success index: wet streets, cars that float, danger to life


@dataclass(frozen=True)
class RelativeErrors:
    """Relative absolute errors of a set of samples. All NaN if no sample is left."""

    median: float
    lower: float  # quartile
    upper: float
    below: float  # share of samples with an error below 1, that is, better than persistence
    samples: int  # that the numbers above are of
    dropped: int  # because nothing changes in them


@dataclass(frozen=True)
class DepthErrors:
    """Errors of the depth at the end of the lead, over a set of samples. NaN: not defined on this set."""

    rmse: float  # m
    csi: tuple[float, ...]  # critical success index for each threshold
    mass: float  # (predicted - true) / true volume of the whole set
    absolute_mass: float  # mean absolute value of the same of each sample with water
    front: float  # m, mean of `front_offsets` of samples with a true front
    front_states: float  # mean of `front_differences` of samples with a true or predicted front


def relative_errors(predicted: Tensor, true: Tensor) -> Tensor:
    """(N,): sum |y - p| / sum |y| with y the true and p the predicted change. NaN where y is 0 everywhere.

    Persistence, p = 0, has exactly 1.
    """
    p, y = _flat(predicted), _flat(true)
    return (y - p).abs().sum(1) / _nan_for_0(y.abs().sum(1))


def changes(true: Tensor, still: float = STILL) -> Tensor:
    """(N,) bool: whether some cell changes by more than `still`, in metres."""
    return _flat(true).abs().amax(1) > still


def summarise(predicted: Tensor, true: Tensor, still: float = STILL) -> RelativeErrors:
    """Of predicted and true changes, without the samples in which nothing changes.

    The mean is left out: a sample that hardly changes can have an error of thousands.
    """
    kept = changes(true, still)
    errors = relative_errors(predicted[kept], true[kept])
    count, dropped = len(errors), int((~kept).sum())
    if not count:
        return RelativeErrors(math.nan, math.nan, math.nan, math.nan, 0, dropped)
    lower, median, upper = quantiles(errors, (0.25, 0.5, 0.75))
    return RelativeErrors(median, lower, upper, float((errors < 1).double().mean()), count, dropped)


def quantiles(values: Tensor, at: Sequence[float]) -> list[float]:
    """Of values (N,), with linear interpolation between neighbours; all NaN if one value is."""
    if values.isnan().any():
        return [math.nan] * len(at)
    ordered = values.double().sort().values.tolist()
    return [_between(ordered, share * (len(ordered) - 1)) for share in at]


def dummy_loss(true: Tensor) -> float:
    """L1 loss of persistence, in metres: the mean absolute change."""
    return float(true.double().abs().mean())


def depth_after(depth: Tensor, change: Tensor) -> Tensor:
    """Depth one lead later, at least 0: a prediction may take away more water than there is."""
    return (depth + change).clamp(min=0)


def root_mean_square_error(predicted: Tensor, true: Tensor) -> float:
    """Over all cells of all samples, in metres."""
    return float((predicted.double() - true.double()).square().mean().sqrt())


def critical_success_index(predicted: Tensor, true: Tensor, threshold: float) -> float:
    """hits / (hits + misses + false alarms) over all cells, of depths at or above the threshold; 1 is perfect.

    NaN: there are no such depths, or a prediction is not finite.
    """
    p, t = predicted >= threshold, true >= threshold
    either = int((p | t).sum())
    return int((p & t).sum()) / either if either and predicted.isfinite().all() else math.nan


def mass_errors(predicted: Tensor, true: Tensor) -> Tensor:
    """(N,): (predicted - true) / true volume of water of each sample, from depths. NaN where there is none."""
    p, t = _flat(predicted).sum(1), _flat(true).sum(1)
    return (p - t) / _nan_for_0(t)


def front_offsets(predicted: Tensor, true: Tensor, spacing: float, wet: float = WET) -> Tensor:
    """(N,) in metres: area of the cells that are wet in one and dry in the other / length of the true front.

    For a straight front along rows or columns, this is how far it is from its place. The length of the front is that of
    its faces, so a diagonal front counts as sqrt(2) times longer than it is. NaN where there is no true front, or the
    prediction is not finite.
    """
    p, t = _grid(predicted) >= wet, _grid(true) >= wet
    faces = (t[:, 1:] ^ t[:, :-1]).sum((1, 2)) + (t[:, :, 1:] ^ t[:, :, :-1]).sum((1, 2))
    return _nan_unless_finite((p ^ t).sum((1, 2)) * spacing / _nan_for_0(faces), predicted)


def front_differences(predicted: Tensor, true: Tensor, wet: float = WET, near: int = NEAR) -> Tensor:
    """(N,): of the cells near a front, the share that is wet in one and dry in the other.

    Near: a cell at the front of the prediction or of the truth, or at most `near` rows and columns away from one. So a
    front that is missing counts, as does one where there is none. NaN where neither has a front, or the prediction is
    not finite.
    """
    p, t = _grid(predicted) >= wet, _grid(true) >= wet
    around = _within(_at_front(p) | _at_front(t), near)
    return _nan_unless_finite(((p ^ t) & around).sum((1, 2)) / _nan_for_0(around.sum((1, 2))), predicted)


def depth_errors(
    predicted: Tensor, true: Tensor, spacing: float, thresholds: Sequence[float] = THRESHOLDS
) -> DepthErrors:
    """Of predicted and true depths on cells of `spacing` metres."""
    if not predicted.isfinite().all():
        return DepthErrors(math.nan, (math.nan,) * len(thresholds), *[math.nan] * 4)
    return DepthErrors(
        rmse=root_mean_square_error(predicted, true),
        csi=tuple(critical_success_index(predicted, true, one) for one in thresholds),
        mass=float(mass_errors(predicted.flatten()[None], true.flatten()[None])),
        absolute_mass=float(mass_errors(predicted, true).abs().nanmean()),
        front=float(front_offsets(predicted, true, spacing).nanmean()),
        front_states=float(front_differences(predicted, true).nanmean()),
    )


def _flat(fields: Tensor) -> Tensor:
    """(N, cells), float64."""
    return fields.double().flatten(1)


def _grid(fields: Tensor) -> Tensor:
    """(N, H, W) of either shape."""
    return fields.reshape(len(fields), *fields.shape[-2:])


def _nan_for_0(values: Tensor) -> Tensor:
    values = values.double()
    return torch.where(values == 0, math.nan, values)


def _nan_unless_finite(values: Tensor, predicted: Tensor) -> Tensor:
    return torch.where(predicted.flatten(1).isfinite().all(1), values, math.nan)


def _between(ordered: Sequence[float], place: float) -> float:
    """The value at a place that need not be whole."""
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (place - math.floor(place)) * (high - low)


def _at_front(wet: Tensor) -> Tensor:
    """(N, H, W) bool: cells with a neighbour of the other state, in their row or column."""
    rows, columns = wet[:, 1:] ^ wet[:, :-1], wet[:, :, 1:] ^ wet[:, :, :-1]
    return F.pad(rows, (0, 0, 0, 1)) | F.pad(rows, (0, 0, 1, 0)) | F.pad(columns, (0, 1)) | F.pad(columns, (1, 0))


def _within(cells: Tensor, near: int) -> Tensor:
    """(N, H, W) bool: cells at most `near` rows and columns from one that is true."""
    return F.max_pool2d(cells.float(), 2 * near + 1, stride=1, padding=near) > 0
