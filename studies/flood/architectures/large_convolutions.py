"""Architecture 09: encoder and decoder of large kernels, without skips."""

from __future__ import annotations

from torch import nn

from studies.flood.architectures.blocks import INPUTS, Surrogate, scaled

CHANNELS = (32, 64, 256)
KERNELS = ((6, 1), (6, 1), (11, 11))  # kernel, stride


class LargeConvolutions(Surrogate):
    """Convolutions without padding: kernel 6 (32 -> 27 cells), kernel 6 (22), kernel 11 with stride 11 (2), with 32,
    64, 256 channels; transposed ones of the same kernels back. Leaky ReLUs of slope 0.01, none after the last.
    `attention` changes nothing.

    Parameters of the body at width 1: 4,117,441. The centre sees 32 x 32 cells, the whole patch; a corner sees 21 x 21.
    """

    def __init__(self, width: float, attention: str, downsampler: str, last: str = "linear") -> None:
        channels = [INPUTS, *(scaled(one, width) for one in CHANNELS)]
        parts: list[nn.Module] = []
        for (kernel, stride), old, new in zip(KERNELS, channels, channels[1:], strict=False):
            parts += [nn.Conv2d(old, new, kernel, stride), nn.LeakyReLU(self.slope)]
        channels[0] = 1
        for (kernel, stride), new, old in reversed(list(zip(KERNELS, channels, channels[1:], strict=False))):
            parts += [nn.ConvTranspose2d(old, new, kernel, stride), nn.LeakyReLU(self.slope)]
        super().__init__(nn.Sequential(*parts[:-1]), downsampler, last)
