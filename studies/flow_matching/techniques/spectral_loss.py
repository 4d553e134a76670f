"""Technique 4, perceptual loss: for fields without a pretrained network, the difference of spectra.

In place of the features of Johnson et al., Perceptual Losses for Real-Time Style Transfer, 2016 (arXiv:1603.08155), the
features are logarithms of the amplitude spectrum of a square patch: with x1_hat the estimate of the data at time t,

    L = mean_b t_b mean_k (log A_k(x1_hat) - log A_k(x1))^2,   A_k = sqrt(|FFT_k|^2 + eps^2),

over the frequencies k of a real FFT, weighted by t, because the estimate is vague near the noise. The spectrum of
scattered points has no meaning, so this technique asks for patches (B, side * side), row by row.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from roundhouse.training import StudyError
from studies.flow_matching.design import Design, Term, patch_queries
from studies.flow_matching.flow import FlowModel, Moment
from studies.flow_matching.options import Options

CHANGES = ("queries", "terms")
EPSILON = 1e-2
"""Added to amplitudes: those of a patch of n pixels are up to n, and below this they count as absent."""


def apply(design: Design, options: Options) -> Design:
    def term(model: FlowModel) -> Term:
        return SpectralTerm(model, options.spectral_weight)

    return replace(design, queries=lambda count, draw: patch_queries(options, count, draw), terms=(*design.terms, term))


class SpectralTerm(Term):
    name = "spectral"

    def __init__(self, model: FlowModel, weight: float) -> None:
        self.path, self.weight = model.path, weight

    def loss(self, moment: Moment) -> Tensor:
        data = self.path.data(moment.z, moment.velocity, moment.t)
        return spectral_loss(data, moment.task.truth, moment.t, moment.task.side)


def spectral_loss(estimate: Tensor, truth: Tensor, t: Tensor, side: int | None) -> Tensor:
    """A scalar >= 0, of values (B, side * side) and times (B,). StudyError: the points are no square patch."""
    if side is None or side**2 != truth.shape[1]:
        raise StudyError(
            f"the spectral loss needs a square patch of asked points, and got {truth.shape[1]} points that form none: "
            "use query_pattern patch"
        )
    found, wanted = (_log_spectrum(values.reshape(-1, side, side)) for values in (estimate, truth))
    return (t * (found - wanted).square().mean(dim=(1, 2))).mean()


def _log_spectrum(patch: Tensor) -> Tensor:
    """(B, side, side) -> log A: smooth where the amplitude is 0."""
    spectrum = torch.view_as_real(torch.fft.rfft2(patch))
    return (spectrum.square().sum(-1) + EPSILON**2).log() / 2
