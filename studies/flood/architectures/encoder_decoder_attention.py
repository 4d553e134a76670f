"""Architecture 07: encoder and decoder with attention, without skips."""

from __future__ import annotations

from torch import nn

from studies.flood.architectures.attentions import attention_of
from studies.flood.architectures.blocks import INPUTS, Surrogate, scaled

CHANNELS = (32, 48, 64, 96, 128)
STRIDES = (1, 2, 1, 2, 1)  # sides 32, 16, 16, 8, 8
ATTENDED = (2, 4)  # steps of the encoder


class EncoderDecoderAttention(Surrogate):
    """5 convolutions with 32, 48, 64, 96, 128 channels, the second and the fourth halving the side to 8; attention
    after the third (16x16 cells) and the fifth (8x8); 5 transposed convolutions back. Kernel 3, and 4 where the side
    changes. Leaky ReLUs of slope 0.01, none after the last.

    Parameters of the body at width 1: 585,827 with `self`, 534,483 with `projection`. The centre sees 32 x 32 cells,
    the whole patch; so do the corners, but only through the attention: 22 x 22 while gamma is 0.
    """

    def __init__(self, width: float, attention: str, downsampler: str, last: str = "linear") -> None:
        channels = [INPUTS, *(scaled(one, width) for one in CHANNELS)]
        parts: list[nn.Module] = []
        for step, stride in enumerate(STRIDES):
            old, new = channels[step : step + 2]
            parts += [nn.Conv2d(old, new, kernel(stride), stride, padding=1), nn.LeakyReLU(self.slope)]
            if step in ATTENDED:
                parts.append(attention_of(attention, new))
        channels[0] = 1
        for step, stride in reversed(list(enumerate(STRIDES))):
            new, old = channels[step : step + 2]
            parts += [nn.ConvTranspose2d(old, new, kernel(stride), stride, padding=1), nn.LeakyReLU(self.slope)]
        super().__init__(nn.Sequential(*parts[:-1]), downsampler, last)


def kernel(stride: int) -> int:
    """With padding 1, stride 1 keeps the side and stride 2 halves or doubles it."""
    return stride + 2
