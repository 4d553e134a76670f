"""Technique 6, self-conditioning: the network sees its previous estimate of the field.

Chen, Zhang and Hinton, Analog Bits, 2022 (arXiv:2208.04202), section 3.2: the tokens of the asked points have one more
channel. In half of the training steps it holds x1_hat (B, Q), estimated by a first pass with zeros there, without
gradient; in the other half, zeros. In sampling it holds the estimate of the previous evaluation, at first zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from studies.flow_matching.design import Design, Estimate
from studies.flow_matching.options import Options

CHANGES = ("estimate",)
SHARE = 0.5


def apply(design: Design, options: Options) -> Design:
    return replace(design, estimate=PreviousEstimate())


class PreviousEstimate(Estimate):
    channels = 1

    def in_training(self, first_pass: Callable[[Tensor], Tensor], like: Tensor, draw: torch.Generator) -> Tensor:
        zeros = torch.zeros_like(like)
        if float(torch.rand((), generator=draw)) >= SHARE:
            return zeros
        with torch.no_grad():
            return first_pass(zeros)

    def at_start(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like)

    def next(self, data: Tensor) -> Tensor:
        return data
