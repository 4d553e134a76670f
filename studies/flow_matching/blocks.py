"""The parts of the transformer: attention with a distance term, normalisation, and a block of both."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention over N tokens at points of the plane.

    With `distance`, exp(s_h) times the squared distance of the two points is subtracted inside the softmax of head h,
    with s_h learned and started between log 2 and log 128, so that heads see different neighbourhoods. The term is
    computed as further channels of queries and keys: the part that depends on the query alone cancels in the softmax.
    It is in float32 whatever the precision, because it is a small difference of large numbers.
    """

    def __init__(self, width: int, heads: int, distance: bool) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        starts = torch.linspace(math.log(2), math.log(128), heads) if distance else None
        self.sharpness = None if starts is None else nn.Parameter(starts)

    def forward(self, x: Tensor, at: Tensor) -> Tensor:
        """`x` (B, N, width), `at` (B, N, 2) -> (B, N, width)."""
        count, tokens, width = x.shape
        query, key, value = self.inward(x).view(count, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        if self.sharpness is None:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            with torch.autocast(x.device.type, enabled=False):
                mixed = self._near(query.float(), key.float(), value.float(), at, self.sharpness)
        return self.outward(mixed.transpose(1, 2).reshape(count, tokens, width).to(x.dtype))  # type: ignore[no-any-return]

    def _near(self, query: Tensor, key: Tensor, value: Tensor, at: Tensor, sharpness: Tensor) -> Tensor:
        """Attention with the distance term: -e |a - b|^2 = 2 e a.b - e |b|^2 + what is equal for all keys b."""
        count, heads, tokens, size = query.shape
        steep = sharpness.exp().view(1, heads, 1, 1)
        a = at[:, None].expand(count, heads, tokens, 2)
        padding = (-(size + 3)) % 8  # kernels want equal and even sizes
        query = torch.cat([query * size**-0.5, 2 * steep * a, (-steep).expand(count, heads, tokens, 1)], dim=-1)
        key = torch.cat([key, a, a.square().sum(-1, keepdim=True)], dim=-1)
        query, key = F.pad(query, (0, padding)), F.pad(key, (0, padding))
        value = F.pad(value, (0, 3 + padding))
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :size]


class Norm(nn.Module):
    """Layer normalisation before a branch, which does not depend on the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor | float]:
        """`x` (B, N, width), `condition` (B, width) -> the normalised tokens, and the gate of the branch's output."""
        return self.norm(x), 1.0


class Block(nn.Module):
    """x += gate * Attention(norm(x)); x += gate * MLP(norm(x)). `drop` acts on what is added."""

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float, distance: bool, norm: type[Norm], drop: nn.Module
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList([norm(width), norm(width)])
        self.attention = Attention(width, heads, distance)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.dropout, self.drop = nn.Dropout(dropout), drop

    def forward(self, x: Tensor, at: Tensor, condition: Tensor) -> Tensor:
        tokens, gate = self.norms[0](x, condition)
        x = x + self.drop(gate * self.dropout(self.attention(tokens, at)))
        tokens, gate = self.norms[1](x, condition)
        added: Tensor = self.drop(gate * self.dropout(self.mlp(tokens)))
        return x + added
