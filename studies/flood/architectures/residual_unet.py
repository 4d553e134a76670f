"""Architecture 08: a UNet of residual blocks with SELUs and bicubic upsampling."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from studies.flood.architectures.blocks import Surrogate, UNet, scaled
from studies.flood.architectures.resizing import BothWays, resizing_matrix

CHANNELS = (15, 30, 60, 120)


class ResidualUNet(Surrogate):
    """A residual block at each of the sides 32, 16, 8, 4, with 15, 30, 60, 120 channels; 2x2 max pooling down, a 1x1
    convolution and bicubic resizing up. `attention` changes nothing.

    Parameters of the body at width 1: 414,661. The centre sees 32 x 32 cells, the whole patch.
    """

    gain: ClassVar[float] = 0.75  # of SELUs (torch.nn.init.calculate_gain)

    def __init__(self, width: float, attention: str, downsampler: str, last: str = "linear") -> None:
        super().__init__(UNet([scaled(one, width) for one in CHANNELS], Residual, bicubic), downsampler, last)


class Residual(nn.Module):
    """selu(s(x) + c2(selu(c1(x)))): c1, c2 convolutions 3x3, s the identity, or 1x1 if the channels change."""

    def __init__(self, old: int, new: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(old, new, 3, padding=1)
        self.second = nn.Conv2d(new, new, 3, padding=1)
        self.short = nn.Conv2d(old, new, 1) if old != new else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.selu(self.short(x) + self.second(F.selu(self.first(x))))


def bicubic(old: int, new: int, side: int) -> nn.Module:
    """(B, old, side, side) -> (B, new, 2 side, 2 side). The convolution comes first, where the map is smaller."""
    return nn.Sequential(nn.Conv2d(old, new, 1), BothWays(resizing_matrix(side, 2 * side)))
