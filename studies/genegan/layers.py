"""Layers of the GeneGAN networks: norms for several sizes, block convolution, resizing by matrix products.

Every layer has a deterministic backward on CUDA: convolutions, matrix products, and indexing by slices only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roundhouse.errors import RoundhouseError as StudyError

DEVIATION = 0.02  # of the initial weights
MOMENTUM = 0.01  # of the statistics of batch norm: each is 0.99 of the old and 0.01 of the new
EPSILON = 1e-3  # of both norms, so that they differ in what they average over, and in nothing else
GROUPS = 32


class SwitchableBatchNorm(nn.Module):
    """Batch norm with statistics, scale and shift of its own for each size of images (Yu et al. 2019).

    The convolutions before it are shared by all sizes. A batch of one size uses and updates the entry of that size
    only.
    """

    def __init__(self, channels: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.of = nn.ModuleDict({str(size): nn.BatchNorm2d(channels, EPSILON, MOMENTUM) for size in sizes})

    def forward(self, x: Tensor, size: int) -> Tensor:
        """`x` (B, C, H, W), features of images of side `size` -> (B, C, H, W)."""
        return self.of[str(size)](x)  # type: ignore[no-any-return]


class SizedGroupNorm(nn.Module):
    """Group norm (Wu and He 2018): statistics of each sample, so scale and shift are shared by all sizes.

    min(32, C) groups if the number of channels C is a power of two; in general the greatest common divisor of 32 and C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(GROUPS, channels), channels, EPSILON)

    def forward(self, x: Tensor, size: int) -> Tensor:
        """`x` (B, C, H, W) -> (B, C, H, W); `size` changes nothing."""
        return self.norm(x)  # type: ignore[no-any-return]


Norm = Callable[[int], nn.Module]
"""Makes the norm of so many channels, a module that is called with features and the size of images."""


def norm_of(kind: str, sizes: Sequence[int]) -> Norm:
    """`switchable` (batch norm) or `group`."""
    if kind == "group":
        return SizedGroupNorm
    return lambda channels: SwitchableBatchNorm(channels, sizes)


class Stage(nn.Module):
    """A convolution (transposed or not), a norm, and a leaky ReLU of the given slope; 0 is a ReLU.

    Without a norm the convolution has a bias. Kernel 4, stride 2: halves or doubles the side. Kernel 3: keeps it.
    """

    def __init__(
        self, channels: tuple[int, int], kernel: int, norm: Norm | None, slope: float, up: bool = False
    ) -> None:
        super().__init__()
        layer = nn.ConvTranspose2d if up else nn.Conv2d
        stride = {4: 2, 3: 1}[kernel]
        self.convolution = layer(*channels, kernel, stride=stride, padding=1, bias=norm is None)
        self.norm = norm(channels[1]) if norm is not None else None
        self.slope = slope

    def forward(self, x: Tensor, size: int) -> Tensor:
        """`x` (B, C, H, W), features of images of side `size`."""
        x = self.convolution(x)
        if self.norm is not None:
            x = self.norm(x, size)
        return F.leaky_relu(x, self.slope)


class BlockConvolution(nn.Module):
    """x + y, where y is a 3x3 convolution with a kernel of its own in each block of the map.

    A map of side m is cut into n = (m / b)^2 blocks of side b that do not overlap; each is padded with zeros, convolved
    with its kernel, and put back. Kernels belong to m: images of different sizes with the same m share them. All blocks
    are convolved at once, as a batched matrix product of kernels (n, C, 9C) and patches (n, 9C, B b^2).
    """

    def __init__(self, channels: int, sides: Sequence[int], block: int) -> None:
        super().__init__()
        self.block = block
        counts = {str(side): (side // block) ** 2 for side in sides}
        self.kernels = nn.ParameterDict(
            {side: torch.empty(count, channels, channels, 3, 3) for side, count in counts.items()}
        )
        self.biases = nn.ParameterDict({side: torch.zeros(count, channels) for side, count in counts.items()})
        for kernel in self.kernels.values():
            nn.init.normal_(kernel, 0.0, DEVIATION)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, m, m) -> (B, C, m, m); blocks are numbered row by row."""
        count, channels, side, _ = x.shape
        block, across = self.block, side // self.block
        blocks = x.reshape(count, channels, across, block, across, block).permute(2, 4, 0, 1, 3, 5)
        patches = F.unfold(blocks.reshape(-1, channels, block, block), 3, padding=1)
        patches = patches.reshape(across**2, count, channels * 9, block**2).transpose(1, 2).flatten(2)
        kernel, bias = self.kernels[str(side)], self.biases[str(side)]
        changed = torch.bmm(kernel.flatten(2), patches) + bias[..., None]
        changed = changed.reshape(across, across, channels, count, block, block).permute(3, 2, 0, 4, 1, 5)
        return torch.add(x, changed.reshape(count, channels, side, side))


def initialise(module: nn.Module) -> None:
    """Weights of convolutions and linear layers from N(0, 0.02); biases 0."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(part.weight, 0.0, DEVIATION)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def check_size(x: Tensor, sizes: Sequence[int], of: str) -> int:
    """The side of square images (B, C, s, s), one of `sizes`; anything else is an error."""
    height, width = x.shape[-2:]
    if height != width or width not in sizes:
        known = ", ".join(map(str, sizes))
        raise StudyError(f"the {of} got images of {height}x{width} pixels; it was made for sides {known}")
    return int(width)


def resize(images: Tensor, size: int) -> Tensor:
    """Bilinear resizing with antialiasing (B, C, H, W) -> (B, C, size, size), in float32.

    y = R x C^T with fixed matrices for rows and columns: `interpolate` has a nondeterministic backward on CUDA.
    """
    return _both_ways(resizing_matrix, images, size)


def mean_pool(x: Tensor, side: int) -> Tensor:
    """Adaptive mean pooling (B, C, H, W) -> (B, C, side, side), by two matrix products for the same reason."""
    return _both_ways(pooling_matrix, x, side)


def resizing_matrix(old: int, new: int) -> Tensor:
    """(new, old): weight of each pixel in each new pixel, a triangle as wide as two pixels of the coarser grid."""
    scale = old / new
    centres = scale * (torch.arange(new, dtype=torch.float64) + 0.5)
    distances = torch.arange(old, dtype=torch.float64) + 0.5 - centres[:, None]
    weights = (1 - distances.abs() / max(scale, 1.0)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def pooling_matrix(old: int, new: int) -> Tensor:
    """(new, old): row i averages the pixels from floor(i old / new) to ceil((i + 1) old / new) - 1."""
    cell, pixel = torch.arange(new)[:, None], torch.arange(old)
    weights = ((pixel >= cell * old // new) & (pixel < -((cell + 1) * -old // new))).double()
    return weights / weights.sum(1, keepdim=True)


def _both_ways(make: Callable[[int, int], Tensor], x: Tensor, side: int) -> Tensor:
    height, width = x.shape[-2:]
    if height == width == side:
        return x
    with torch.autocast(x.device.type, enabled=False):  # half precision would show in images
        x = at_least_float32(x)
        rows, columns = (_on_device(make, old, side, x.device, x.dtype) for old in (height, width))
        return rows @ x @ columns.mT


def at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


@lru_cache(maxsize=64)
def _on_device(
    make: Callable[[int, int], Tensor], old: int, new: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training later
        return make(old, new).to(device, dtype)
