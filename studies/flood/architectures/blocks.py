"""What the architectures share: inputs and last layer, Xavier initialisation, pooling, and the shape of a UNet.

Every layer has a deterministic backward on CUDA, and no layer normalises over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from roundhouse.errors import RoundhouseError as StudyError
from studies.flood.architectures.attentions import Attention
from studies.flood.architectures.downsamplers import CELLS, downsampler_of

LAST = ("linear", "leaky_relu", "tanh")
INPUTS = 3  # channels at 10 m: terrain, depth, boundary
UNIT = 0.1
"""m: the unit of depths and changes in the body. In metres, changes are so small that training begins very slowly."""
START = 0.1
"""Gain of the last convolution: training begins near persistence."""
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


class Surrogate(nn.Module):
    """Predicts the change of depth in metres from now to one lead later.

    The terrain is brought to 10 m, joined with depth and boundary to (B, 3, 32, 32), and goes through the `body`, which
    ends with one channel.

    `last` is what follows. `linear`: nothing, so a prediction can be any number. The originals' last layers exist to
    show their cost: `leaky_relu` multiplies falling water by the architecture's slope, 0.01 in most; `tanh` limits the
    change to 1 m.
    """

    slope: ClassVar[float] = 0.01  # of leaky ReLUs
    gain: ClassVar[float] = 2**0.5  # for the initial weights, by the activation: this one is that of ReLUs

    def __init__(self, body: nn.Module, downsampler: str, last: str) -> None:
        super().__init__()
        self.downsampler = downsampler_of(downsampler)
        self.body = body
        self.last = last_of(last, self.slope)

    def forward(self, terrain: Tensor, depth: Tensor, boundary: Tensor) -> Tensor:
        """All in metres. `terrain` (B, 1, 321, 321) at 1 m; `depth` now and `boundary`, the depth one lead later on a
        ring of 2 cells and 0 inside, both (B, 1, 32, 32) at 10 m -> (B, 1, 32, 32).
        """
        inputs = torch.cat([self.downsampler(terrain), depth / UNIT, boundary / UNIT], 1)
        return self.last(UNIT * self.body(inputs))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """(B, 3, 32, 32) -> (B, 1, 32, 32): blocks at sides 32, 16, 8, ..., one for each number of `channels`, and back.

    On the way back, `up` of the coarser map is joined with the finer map of the way down, and goes through a block.
    `block` makes a module from channels in and out, and `up` from these and the side, which it doubles. A 1x1
    convolution ends.
    """

    def __init__(
        self,
        channels: Sequence[int],
        block: Callable[[int, int], nn.Module],
        up: Callable[[int, int, int], nn.Module],
    ) -> None:
        super().__init__()
        steps = list(zip(channels, channels[1:], strict=False))
        self.down = nn.ModuleList([block(old, new) for old, new in [(INPUTS, channels[0]), *steps]])
        levels = reversed(list(enumerate(steps, 1)))
        self.up = nn.ModuleList([up(coarse, fine, CELLS >> level) for level, (fine, coarse) in levels])
        self.joined = nn.ModuleList([block(2 * fine, fine) for fine, _ in reversed(steps)])
        self.out = nn.Conv2d(channels[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        finer: list[Tensor] = []
        for block in self.down[:-1]:
            finer.append(block(x))
            x = max_pool(finer[-1])
        x = self.down[-1](x)
        for up, block in zip(self.up, self.joined, strict=True):
            x = block(torch.cat([up(x), finer.pop()], 1))
        return self.out(x)  # type: ignore[no-any-return]


def scaled(channels: int, width: float) -> int:
    """So many channels at width 1, times the width factor, rounded; at least 1."""
    return max(1, round(channels * width))


def max_pool(x: Tensor) -> Tensor:
    """Largest of each 2x2: (B, C, s, s) -> (B, C, s/2, s/2). `max_pool2d` may add up its gradient in any order."""
    count, channels, height, width = x.shape
    return x.reshape(count, channels, height // 2, 2, width // 2, 2).amax((3, 5))


def last_of(name: str, slope: float) -> nn.Module:
    """A last layer, one of `LAST`. StudyError: there is none of this name."""
    layers: dict[str, nn.Module] = {"linear": nn.Identity(), "leaky_relu": nn.LeakyReLU(slope), "tanh": nn.Tanh()}
    if name not in layers:
        raise StudyError(f"unknown last layer {name!r}: choose one of {', '.join(LAST)}")
    return layers[name]


def initialise(model: Surrogate) -> None:
    """Weights of all convolutions from U(-a, a), a = g sqrt(6 / (fan in + fan out)) (Glorot and Bengio 2010); biases 0.

    g is the gain of the activation in the body; 1 in downsampler and attentions, which have none; and START in the last
    convolution. Uses torch's global generator. Gamma of an attention stays 0.
    """
    attentions = {part for one in model.modules() if isinstance(one, Attention) for part in one.modules()}
    body = [part for part in model.body.modules() if isinstance(part, _CONVOLUTIONS) and part not in attentions]
    gains = dict.fromkeys(body, model.gain) | {body[-1]: START}
    for part in model.modules():
        if isinstance(part, _CONVOLUTIONS):
            nn.init.xavier_uniform_(part.weight, gains.get(part, 1.0))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
