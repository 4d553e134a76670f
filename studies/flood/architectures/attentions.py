"""Attention between all cells of a map: x + gamma y, gamma a learned number that starts at 0.

Both compute, for cells i and j of a map with N = H W cells,

    y_i = sum_j softmax_j(q_i . k_j / sqrt(D)) v_j

with q, k, v 1x1 convolutions of x. They differ in D and in what follows:

- `self`: q, k and v have D = C channels, as x has.
- `projection`: they have D = max(1, C // 8) channels, and a 1x1 convolution leads y back to C (Zhang et al. 2019,
  "Self-attention generative adversarial networks"; the division by sqrt(D) is from Vaswani et al. 2017).

While gamma is 0, only gamma itself has a gradient. Keys have no bias: it would add the same number to all scores of a
cell, and softmax does not see that. Of PyTorch's kernels, only those are used that have a deterministic backward on
CUDA: flash attention in half precision, else plain matrix products, whose scores take 4 B N^2 bytes there, 4 MiB for
each sample of 32x32 cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from roundhouse.errors import RoundhouseError as StudyError

ATTENTIONS = ("self", "projection")
_REDUCTION = 8


class Attention(nn.Module):
    """(B, C, H, W) -> (B, C, H, W). `inner`: channels of queries, keys and values, with a way back if not C."""

    def __init__(self, channels: int, inner: int, back: bool) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, inner, 1)
        self.back = nn.Conv2d(inner, channels, 1) if back else nn.Identity()
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part(x).flatten(2) for part in (self.query, self.key, self.value))  # (B, D, N)
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            mixed = F.scaled_dot_product_attention(*(part.mT.contiguous()[:, None] for part in (query, key, value)))[
                :, 0
            ].mT
        return x + self.gamma * self.back(mixed.reshape(*mixed.shape[:2], *x.shape[2:]))  # type: ignore[no-any-return]


def attention_of(name: str, channels: int) -> nn.Module:
    """A new attention for maps of so many channels. StudyError: there is none of this name."""
    if name == "self":
        return Attention(channels, channels, back=False)
    if name == "projection":
        return Attention(channels, max(1, channels // _REDUCTION), back=True)
    raise StudyError(f"unknown attention {name!r}: choose one of {', '.join(ATTENTIONS)}")
