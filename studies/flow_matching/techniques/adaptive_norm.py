"""Technique 5, adaptive layer norm: the time scales, shifts and gates each branch (adaLN-Zero).

Peebles and Xie, Scalable Diffusion Models with Transformers, 2023 (arXiv:2212.09748), section 3.2: with c the embedding
of t (B, width), each branch has (b, s, g) = Linear(SiLU(c)), and

    x += g1 Attention((1 + s1) LN(x) + b1),   x += g2 MLP((1 + s2) LN(x) + b2).

LN has no learned scale of its own, and eps = 1e-6. The Linear starts at 0, so that each block is the identity at first.
The normalisation before the output is scaled and shifted too.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from studies.flow_matching.blocks import Norm
from studies.flow_matching.design import Design
from studies.flow_matching.options import Options

CHANGES = ("norm",)


def apply(design: Design, options: Options) -> Design:
    return replace(design, norm=AdaptiveNorm)


class AdaptiveNorm(Norm):
    def __init__(self, width: int) -> None:
        nn.Module.__init__(self)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor | float]:
        shift, scale, gate = self.modulation(F.silu(condition))[:, None].chunk(3, dim=-1)
        return (1 + scale) * self.norm(x) + shift, gate
