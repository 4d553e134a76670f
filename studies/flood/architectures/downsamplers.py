"""Terrain at 1 m (B, 1, 321, 321) -> one channel at 10 m (B, 1, 32, 32).

Cell j of a row lies over the pixels 10 j .. 10 j + 10, so neighbours share one pixel. No downsampler pads.

| name        | parameters | a cell sees, pixels | what it computes                                           |
|-------------|-----------:|--------------------:|------------------------------------------------------------|
| alternating |        697 |             11 x 11 | three convolutions, 321 -> 160 -> 64 -> 32, nonlinear      |
| k11s10      |        122 |             11 x 11 | one convolution of kernel 11 and stride 10, linear         |
| bicubic     |          0 |             39 x 39 | a fixed weighted mean around the cell's centre, antialiased |
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roundhouse.errors import RoundhouseError as StudyError
from studies.flood.architectures.resizing import BothWays, cubic_matrix

DOWNSAMPLERS = ("alternating", "k11s10", "bicubic")
CELLS = 32  # of a patch, in each direction
PIXELS = 321
SPACING = 10  # pixels from cell to cell

_CHANNELS = 8  # within `alternating`; the document's number is not known
_SLOPE = 0.2  # of its leaky ReLUs: with 0.01 heights below 0 would nearly be lost


class Alternating(nn.Module):
    """Strides that alternate so that 321 becomes 32 exactly: (B, 1, 321, 321) -> (B, 1, 32, 32).

    Kernel 3, stride 2: 160. Kernel 3 at the positions 0, 2, 5, 7, 10, ..., that is with strides 2 and 3 in turn, so
    that each window of 5x5 gives 2x2 values: 64. Kernel 2, stride 2: 32. A leaky ReLU after each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, _CHANNELS, 3, stride=2)
        self.windows = nn.Conv2d(_CHANNELS, _CHANNELS, 3, stride=5)
        self.last = nn.Conv2d(_CHANNELS, 1, 2, stride=2)

    def forward(self, terrain: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(terrain), _SLOPE)
        x = F.leaky_relu(self._two_of_five(x), _SLOPE)
        return F.leaky_relu(self.last(x), _SLOPE)

    def _two_of_five(self, x: Tensor) -> Tensor:
        """(B, C, 5 n, 5 n) -> (B, C, 2 n, 2 n): the same kernel with stride 5 from each of four offsets."""
        offsets = (0, 2)
        rows = [torch.stack([self.windows(x[..., i:, j:]) for j in offsets], -1) for i in offsets]
        return torch.stack(rows, -3).flatten(-2).flatten(-3, -2)


class OneStride(nn.Conv2d):
    """A convolution of kernel 11 and stride 10 from one channel to one: (B, 1, 321, 321) -> (B, 1, 32, 32).

    It is computed as one matrix product: on a CPU, PyTorch's backward pass of such a convolution takes ten times as
    long as all that follows it.
    """

    def __init__(self) -> None:
        super().__init__(1, 1, SPACING + 1, stride=SPACING)

    def forward(self, terrain: Tensor) -> Tensor:
        windows = terrain[:, 0].unfold(1, SPACING + 1, SPACING).unfold(2, SPACING + 1, SPACING)
        return F.linear(windows.flatten(3), self.weight.flatten(1), self.bias).movedim(3, 1)


def downsampler_of(name: str) -> nn.Module:
    """A new downsampler. StudyError: there is none of this name."""
    if name == "alternating":
        return Alternating()
    if name == "k11s10":
        return OneStride()
    if name == "bicubic":
        centres = SPACING * torch.arange(CELLS, dtype=torch.float64) + SPACING / 2
        return BothWays(cubic_matrix(centres, SPACING, PIXELS))
    raise StudyError(f"unknown downsampler {name!r}: choose one of {', '.join(DOWNSAMPLERS)}")
