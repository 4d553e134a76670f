"""Technique 8, noise schedule: another path from noise to data, or another density of t on the same path.

`cosine_path` (the form that the versions use; after Nichol and Dhariwal, Improved DDPM, 2021, arXiv:2102.09672, and
Albergo and Vanden-Eijnden 2023, arXiv:2209.15571): z_t = sin(pi t / 2) x1 + cos(pi t / 2) x0 (B, Q). The target is its
derivative, and sampling follows it: both come from the path, not from this module.

`logit_normal` (Esser et al., Scaling Rectified Flow Transformers, 2024, arXiv:2403.03206, equation 19): t = sigmoid(u),
u ~ N(0, 1), (B,). Training sees more of the middle; path, target and sampler are those of the base.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from studies.flow_matching.design import Design
from studies.flow_matching.options import Options
from studies.flow_matching.paths import Coefficients, Path

CHANGES = ("path", "times")


def apply(design: Design, options: Options) -> Design:
    if options.noise_schedule == "logit_normal":
        return replace(design, times=logit_normal_times)
    return replace(design, path=CosinePath())


class CosinePath(Path):
    def coefficients(self, t: Tensor) -> Coefficients:
        angle = math.pi / 2 * t[:, None]
        alpha, sigma = angle.sin(), angle.cos()
        return Coefficients(alpha, sigma, math.pi / 2 * sigma, -math.pi / 2 * alpha)


def logit_normal_times(count: int, draw: torch.Generator) -> Tensor:
    """(count,), in (0, 1)."""
    return torch.randn(count, generator=draw).sigmoid()
