"""Technique 10, stochastic depth: in training, branches are left out at random.

Huang et al., Deep Networks with Stochastic Depth, 2016 (arXiv:1603.09382): what a branch of block l = 0 .. L-1 adds
(B, N, width) is left out for a whole example with probability p_l = p l / (L - 1), and else divided by 1 - p_l. In
evaluation nothing is left out.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from studies.flow_matching.design import Design
from studies.flow_matching.options import Options

CHANGES = ("drop",)


def apply(design: Design, options: Options) -> Design:
    return replace(design, drop=lambda layer, layers: DropPath(options.drop_path * layer / max(1, layers - 1)))


class DropPath(nn.Module):
    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, added: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return added
        kept = torch.rand(len(added), 1, 1, device=added.device) >= self.probability
        return added * kept / (1 - self.probability)
