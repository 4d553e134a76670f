"""Measures of a reconstruction: each of N fields has one value, and a run reports their mean.

Predictions and truths are (N, size, size); the values are (N,), float64, and finite for finite fields. A denominator
has a floor of 1e-6 for each pixel, so constant fields are defined too.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST_MSE = 1e-12  # float32 fields do not differ reliably much below it; PSNR ends at 120 dB instead of infinity
_FLOOR = 1e-6  # root mean square of a field that counts as 0


def mse(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of each field (N,)."""
    return _rows(prediction - truth).square().mean(1)


def mae(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute error of each field (N,)."""
    return _rows(prediction - truth).abs().mean(1)


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """-10 log10(MSE) of each field, in dB at a maximum of 1 (N,); at most 120 dB."""
    return -10 * mse(prediction, truth).clamp(min=_LEAST_MSE).log10()


def relative_l2(prediction: Tensor, truth: Tensor) -> Tensor:
    """The norm of the difference divided by the norm of the truth, for each field (N,)."""
    return _relative(_rows(prediction - truth), _rows(truth))


def correlation(prediction: Tensor, truth: Tensor) -> Tensor:
    """Pearson's correlation of prediction and truth over the pixels of each field (N,); 0 if either is constant."""
    one, other = (rows - rows.mean(1, keepdim=True) for rows in (_rows(prediction), _rows(truth)))
    return (one * other).sum(1) / (_at_least_the_floor(one) * _at_least_the_floor(other))


def spectral_error(prediction: Tensor, truth: Tensor) -> Tensor:
    """The error of the amplitude spectrum: | |F p| - |F t| | / | |F t| |, norms over all frequencies but 0 (N,).

    It ignores phases: 0 if each frequency has the right amplitude, wherever its crests are. A constant prediction has
    1, and false detail can go beyond it.
    """
    one, other = (_amplitudes(field) for field in (prediction, truth))
    return _relative(one - other, other)


def all_measures(prediction: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """The means over all fields of all measures, by the names of the final metrics."""
    measures = {
        "test_psnr": psnr,
        "test_mse": mse,
        "test_mae": mae,
        "test_relative_l2": relative_l2,
        "test_correlation": correlation,
        "test_spectral_error": spectral_error,
    }
    return {name: measure(prediction, truth).mean() for name, measure in measures.items()}


def _rows(fields: Tensor) -> Tensor:
    return fields.double().flatten(1)


def _relative(difference: Tensor, reference: Tensor) -> Tensor:
    return difference.square().sum(1).sqrt() / _at_least_the_floor(reference)


def _at_least_the_floor(rows: Tensor) -> Tensor:
    """The norm of each row, for use as a denominator."""
    return rows.square().sum(1).sqrt().clamp(min=_FLOOR * rows.shape[1] ** 0.5)


def _amplitudes(fields: Tensor) -> Tensor:
    """Amplitudes of all frequencies but 0; their norm is that of the field without its mean (N, pixels)."""
    centred = fields.double() - fields.double().mean((1, 2), keepdim=True)
    return _rows(torch.fft.fft2(centred, norm="ortho").abs())
