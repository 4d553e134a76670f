"""Architecture 02: convolutions 3x3 at the full 32x32 cells."""

from __future__ import annotations

from torch import nn

from studies.flood.architectures.blocks import INPUTS, Surrogate, scaled

LAYERS = 12
CHANNELS = 32


class PlainConvolutions(Surrogate):
    """12 convolutions 3x3 of 32 channels, padded with zeros, a leaky ReLU of slope 0.01 between them; the last has one
    channel. `attention` changes nothing.

    Parameters of the body at width 1: 93,665. The centre sees 25 x 25 cells: what lies more than 120 m away, in a
    row or a column, does not enter a prediction.
    """

    def __init__(self, width: float, attention: str, downsampler: str, last: str = "linear") -> None:
        super().__init__(nn.Sequential(*chain(scaled(CHANNELS, width), self.slope)), downsampler, last)


def chain(channels: int, slope: float) -> list[nn.Module]:
    """The 12 convolutions; each but the last with its leaky ReLU."""
    widths = [INPUTS, *[channels] * (LAYERS - 1), 1]
    convolutions = [nn.Conv2d(old, new, 3, padding=1) for old, new in zip(widths, widths[1:], strict=False)]
    return [*(nn.Sequential(one, nn.LeakyReLU(slope)) for one in convolutions[:-1]), convolutions[-1]]
