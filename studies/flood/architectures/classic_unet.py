"""Architecture 05: the UNet of Ronneberger et al. (2015), with padding and without batch norm."""

from __future__ import annotations

from torch import nn

from studies.flood.architectures.blocks import Surrogate, UNet, scaled

CHANNELS = (64, 128, 256, 512, 1024)


class ClassicUNet(Surrogate):
    """Two convolutions 3x3 with ReLUs at each of the sides 32, 16, 8, 4, 2, with 64, 128, 256, 512, 1024 channels;
    2x2 max pooling down, transposed convolutions of kernel and stride 2 up. `attention` changes nothing.

    Parameters of the body at width 1: 31,031,745. The centre sees 32 x 32 cells, the whole patch.
    """

    def __init__(self, width: float, attention: str, downsampler: str, last: str = "linear") -> None:
        body = UNet([scaled(one, width) for one in CHANNELS], two_convolutions, transposed)
        super().__init__(body, downsampler, last)


def two_convolutions(old: int, new: int) -> nn.Module:
    """(B, old, s, s) -> (B, new, s, s)."""
    return nn.Sequential(nn.Conv2d(old, new, 3, padding=1), nn.ReLU(), nn.Conv2d(new, new, 3, padding=1), nn.ReLU())


def transposed(old: int, new: int, side: int) -> nn.Module:
    """(B, old, side, side) -> (B, new, 2 side, 2 side)."""
    return nn.ConvTranspose2d(old, new, 2, stride=2)
