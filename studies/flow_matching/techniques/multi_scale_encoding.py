"""Technique 2, multi-scale position encoding: bands of frequencies instead of one scale.

Tancik et al., Fourier Features Let Networks Learn High Frequency Functions, 2020 (arXiv:2006.10739). The features are
those of the base, cos and sin of 2 pi B^T x, but the 16 columns of B (2, 16) are four bands of four, each drawn from
N(0, s^2) with s = 0.5, 1, 2, 4 cycles a unit. A frequency above the grid's Nyquist frequency, (size - 1) / 4 cycles a
unit (7.75 at 32 pixels), would look on the grid like a lower one (an alias), so components are drawn again until they
are below it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from studies.flow_matching.design import Design
from studies.flow_matching.options import Options

CHANGES = ("frequencies",)
SCALES = (0.5, 1.0, 2.0, 4.0)
IN_A_BAND = 4


def apply(design: Design, options: Options) -> Design:
    return replace(design, frequencies=lambda: banded_frequencies(nyquist(options.size)))


def nyquist(size: int) -> float:
    """Of a grid of `size` points from -1 to 1, in cycles a unit."""
    return (size - 1) / 4


def banded_frequencies(limit: float) -> Tensor:
    """(2, 16), every component in absolute value at most `limit`."""
    return torch.cat([_truncated_normal(scale, limit) for scale in SCALES], dim=1)


def _truncated_normal(scale: float, limit: float) -> Tensor:
    return torch.nn.init.trunc_normal_(torch.empty(2, IN_A_BAND), std=scale, a=-limit, b=limit)
