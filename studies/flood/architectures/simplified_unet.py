"""Architecture 03: a UNet of one strided convolution for each halving."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from studies.flood.architectures.blocks import INPUTS, Surrogate, scaled

CHANNELS = (32, 64, 128, 256, 256)


class SimplifiedUNet(Surrogate):
    """5 convolutions of kernel 4 and stride 2 with 32, 64, 128, 256, 256 channels lead to one cell, 5 transposed ones
    back, each but the first with the map of the same side joined to its input. Leaky ReLUs of slope 0.2; none after the
    last. `attention` changes nothing.

    Parameters of the body at width 1: 4,165,313. The centre sees 32 x 32 cells, the whole patch.
    """

    slope: ClassVar[float] = 0.2

    def __init__(self, width: float, attention: str, downsampler: str, last: str = "linear") -> None:
        super().__init__(_Body([scaled(one, width) for one in CHANNELS], self.slope), downsampler, last)


class _Body(nn.Module):
    """(B, 3, 32, 32) -> (B, 1, 32, 32)."""

    def __init__(self, channels: list[int], slope: float) -> None:
        super().__init__()
        olds, outs = [INPUTS, *channels[:-1]], [1, *channels[:-1]]
        joined = [*(2 * one for one in channels[:-1]), channels[-1]]
        self.down = nn.ModuleList(
            [nn.Conv2d(old, new, 4, stride=2, padding=1) for old, new in zip(olds, channels, strict=True)]
        )
        self.up = nn.ModuleList(
            [
                nn.ConvTranspose2d(old, new, 4, stride=2, padding=1)
                for old, new in zip(reversed(joined), reversed(outs), strict=True)
            ]
        )
        self.activation = nn.LeakyReLU(slope)

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for convolution in self.down:
            x = self.activation(convolution(x))
            maps.append(x)
        x = self.activation(self.up[0](maps.pop()))
        for convolution in self.up[1:-1]:
            x = self.activation(convolution(torch.cat([x, maps.pop()], 1)))
        return self.up[-1](torch.cat([x, maps.pop()], 1))  # type: ignore[no-any-return]
