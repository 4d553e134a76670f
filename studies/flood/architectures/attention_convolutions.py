"""Architecture 04: architecture 02 with two attentions."""

from __future__ import annotations

from torch import nn

from studies.flood.architectures.attentions import attention_of
from studies.flood.architectures.blocks import Surrogate, scaled
from studies.flood.architectures.plain_convolutions import CHANNELS, LAYERS, chain

ATTENDED = 2


class AttentionConvolutions(Surrogate):
    """12 convolutions 3x3 of 32 channels as in 02, with an attention over all cells after the 4th and after the 8th.

    Parameters of the body at width 1: 99,939 with `self`, 94,771 with `projection`. The centre sees 32 x 32 cells,
    the whole patch; 25 x 25 while gamma is 0.
    """

    def __init__(self, width: float, attention: str, downsampler: str, last: str = "linear") -> None:
        channels = scaled(CHANNELS, width)
        parts = chain(channels, self.slope)
        apart = LAYERS // (ATTENDED + 1)
        for place in (2 * apart, apart):  # from the end, so that places before it stay
            parts.insert(place, attention_of(attention, channels))
        super().__init__(nn.Sequential(*parts), downsampler, last)
