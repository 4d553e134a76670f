"""The networks of GeneGAN (Zhou et al. 2017) for images of several sizes: splitter, joiner, heads, critics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from roundhouse.errors import RoundhouseError as StudyError
from studies.genegan.layers import (
    BlockConvolution,
    Norm,
    Stage,
    at_least_float32,
    check_size,
    initialise,
    mean_pool,
    norm_of,
    resize,
)
from studies.genegan.options import Options

LARGEST_BASE = 64
POOLED = 4  # side of the map before the critics' output
SLOPE = 0.2  # of leaky ReLUs, in splitter and critics
WITH, WITHOUT = "with", "without"  # the attribute


@dataclass(frozen=True)
class Geometry:
    """Sides of maps and blocks, which follow from one number: the base, min(64, the smallest size).

    The splitter halves images of the base's size twice, and larger ones three times:

    - sizes 64, 96, 128: base 64, maps of side 16, 12, 16
    - sizes 32, 48, 64: base 32, maps of side 8, 6, 8

    Blocks of block convolution have side 4 for base 64, and 2 below. So both have 4x4, 3x3 and 4x4 blocks.
    """

    base: int

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Geometry:
        return cls(min(LARGEST_BASE, *sizes))

    def halvings(self, size: int) -> int:
        return 2 if size <= self.base else 3

    def side(self, size: int) -> int:
        """Side of the splitter's map for images of this size."""
        return int(size >> self.halvings(size))

    def larger(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Those of the sizes that are halved three times."""
        return tuple(size for size in sizes if self.halvings(size) == 3)

    @property
    def block(self) -> int:
        return 4 if self.base == LARGEST_BASE else 2


class Splitter(nn.Module):
    """Images (B, 3, s, s) -> features (B, 4w, m, m), with m the geometry's side for s and w the width.

    Convolutions of kernel 4 and stride 2 to w and 2w channels, one of kernel 3 to 4w, and for sizes above the base one
    more of kernel 4 and stride 2. Norms from the second on.
    """

    def __init__(self, width: int, sizes: Sequence[int], geometry: Geometry, norm: str) -> None:
        super().__init__()
        self.geometry = geometry
        of_all, of_larger = norm_of(norm, sizes), norm_of(norm, larger := geometry.larger(sizes))
        self.stages = nn.ModuleList(
            [
                Stage((3, width), 4, None, SLOPE),
                Stage((width, 2 * width), 4, of_all, SLOPE),
                Stage((2 * width, 4 * width), 3, of_all, SLOPE),
            ]
        )
        self.third = Stage((4 * width, 4 * width), 4, of_larger, SLOPE) if larger else None

    def forward(self, images: Tensor, size: int) -> Tensor:
        x = 2 * images - 1
        for stage in self.stages:
            x = stage(x, size)
        if self.third is not None and self.geometry.halvings(size) == 3:
            x = self.third(x, size)
        return x


class Joiner(nn.Module):
    """Features (B, 4w, m, m) -> colours (B, 3, s, s), before they are mapped to [0, 1].

    Transposed convolutions of kernel 4 and stride 2 to 4w and 2w channels, for sizes above the base a third one, and a
    convolution of kernel 3 to the colours.
    """

    def __init__(self, width: int, sizes: Sequence[int], geometry: Geometry, norm: str) -> None:
        super().__init__()
        self.geometry = geometry
        of_all, of_larger = norm_of(norm, sizes), norm_of(norm, larger := geometry.larger(sizes))
        self.stages = nn.ModuleList(
            [
                Stage((4 * width, 4 * width), 4, of_all, 0.0, up=True),
                Stage((4 * width, 2 * width), 4, of_all, 0.0, up=True),
            ]
        )
        self.third = Stage((2 * width, 2 * width), 4, of_larger, 0.0, up=True) if larger else None
        self.colours = nn.Conv2d(2 * width, 3, 3, padding=1)

    def forward(self, x: Tensor, size: int) -> Tensor:
        for stage in self.stages:
            x = stage(x, size)
        if self.third is not None and self.geometry.halvings(size) == 3:
            x = self.third(x, size)
        return self.colours(x)  # type: ignore[no-any-return]


class Generator(nn.Module):
    """Splits images into a background part A and an object part u (the attribute), and joins any two to an image.

    `outputs: each`: an image of each size in and out. `multiscale`: images of the largest size in; out at the largest
    size, and out_s = head_s(resize(out, s)) at the others, where a head is a 1x1 convolution of the three colours.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.sizes = options.input_sizes
        self.output_sizes = tuple(options.sizes)
        self.width = width = options.width
        self.geometry = geometry = Geometry.of(options.sizes)
        self.splitter = Splitter(width, self.sizes, geometry, options.norm)
        self.joiner = Joiner(width, self.sizes, geometry, options.norm)
        sides = sorted({geometry.side(size) for size in self.sizes})

        def blocks(channels: int) -> BlockConvolution:
            return BlockConvolution(channels, sides, geometry.block)

        self.object_blocks = blocks(width) if options.block_conv != "none" else None
        self.background_blocks = blocks(3 * width) if options.block_conv == "both" else None
        initialise(self)
        smaller = [size for size in self.output_sizes if size not in self.sizes]
        self.heads = nn.ModuleDict({str(size): _identity_head() for size in smaller})

    def split(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, s, s) in [0, 1] -> A (B, 3w, m, m) and u (B, w, m, m)."""
        size = check_size(images, self.sizes, "splitter")
        features = self.splitter(images, size)
        background, object_part = features[:, : -self.width], features[:, -self.width :]
        if self.background_blocks is not None:
            background = self.background_blocks(background)
        if self.object_blocks is not None:
            object_part = self.object_blocks(object_part)
        return background, object_part

    def join(self, background: Tensor, object_part: Tensor | None, size: int) -> Tensor:
        """A and u, or None for an object part of zeros -> images (B, 3, size, size) in [0, 1].

        The size must be given: sizes 64 and 128 have maps of the same side.
        """
        if size not in self.output_sizes:
            known = ", ".join(map(str, self.output_sizes))
            raise StudyError(f"the joiner was asked for images of side {size}; it was made for sides {known}")
        taken = size if size in self.sizes else self.sizes[-1]
        if background.shape[-1] != self.geometry.side(taken):
            raise StudyError(f"features of side {background.shape[-1]} do not make images of side {size}")
        return self._at(self._colours(background, object_part, taken), size)

    def join_all(self, background: Tensor, object_part: Tensor | None, size: int) -> dict[int, Tensor]:
        """Images at all sizes that are made from features of images of side `size`; each: at this size only."""
        colours = self._colours(background, object_part, size)
        made = (*map(int, self.heads), size)
        return {one: self._at(colours, one) for one in made}

    def _colours(self, background: Tensor, object_part: Tensor | None, size: int) -> Tensor:
        if object_part is None:
            object_part = torch.zeros_like(background[:, : self.width])
        return at_least_float32(self.joiner(torch.cat([background, object_part], dim=1), size))

    def _at(self, colours: Tensor, size: int) -> Tensor:
        if str(size) in self.heads:
            colours = at_least_float32(self.heads[str(size)](resize(colours, size)))
        return to_range(colours)


def to_range(colours: Tensor) -> Tensor:
    """(tanh x + 1) / 2: to [0, 1]."""
    return (torch.tanh(colours) + 1) / 2


def _identity_head() -> nn.Conv2d:
    """Starts as the identity: with weights from N(0, 0.02) its images would be grey for thousands of iterations."""
    head = nn.Conv2d(3, 3, 1)
    nn.init.dirac_(head.weight)
    nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    return head


class Critic(nn.Module):
    """Images (B, 3, s, s) in [0, 1] -> scores (B,), with no sigmoid (Arjovsky et al. 2017).

    Convolutions of kernel 4 and stride 2 to w, 2w, 4w and 4w channels, norms from the second on; mean pooling to 4x4; a
    linear layer. All sizes share all weights, except those of switchable norms.
    """

    def __init__(self, width: int, sizes: Sequence[int], norm: Norm) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        channels = [3, width, 2 * width, 4 * width, 4 * width]
        self.stages = nn.ModuleList(
            Stage((before, after), 4, norm if index else None, SLOPE)
            for index, (before, after) in enumerate(zip(channels[:-1], channels[1:], strict=True))
        )
        self.score = nn.Linear(4 * width * POOLED**2, 1)

    def forward(self, images: Tensor) -> Tensor:
        size = check_size(images, self.sizes, "critic")
        x = 2 * images - 1
        for stage in self.stages:
            x = stage(x, size)
        return at_least_float32(self.score(mean_pool(x, POOLED).flatten(1))[:, 0])


class Critics(nn.Module):
    """Two critics, of images with and without the attribute.

    `outputs: each`: one pair for all sizes. `multiscale`: one pair for the largest size (`adversarial: largest`), or a
    pair of its own for each size (`all`). With `objective: r1` they have group norm whatever `norm` is: the penalty is
    on the gradient of each sample's score, and batch norm makes a score depend on the other samples.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.sizes = options.critic_sizes
        apart = options.outputs == "multiscale"
        groups = [(size,) for size in self.sizes] if apart else [self.sizes]
        kind = "group" if options.objective == "r1" else options.norm
        self.pairs = nn.ModuleList(
            nn.ModuleDict({which: Critic(options.width, sizes, norm_of(kind, sizes)) for which in (WITH, WITHOUT)})
            for sizes in groups
        )
        self._pair_of = {size: index for index, sizes in enumerate(groups) for size in sizes}
        initialise(self)

    def forward(self, images: Tensor, which: str) -> Tensor:
        """(B, 3, s, s) in [0, 1], `which` "with" or "without" -> (B,)."""
        size = check_size(images, self.sizes, "critic")
        return self.pairs[self._pair_of[size]][which](images)  # type: ignore[index, no-any-return]


@dataclass(frozen=True)
class CriticInputs:
    """What critics see of a step at one size, all (B, 3, s, s) (Zhou et al. 2017); in brackets the names of the paper.

    (A, u) = split(Au), (B, e) = split(B0).
    """

    real_with: Tensor  # Au
    real_without: Tensor  # B0
    added: Tensor  # Bu = join(B, u): the attribute of the one image, added to the other
    removed: Tensor  # A0 = join(A, 0)


@dataclass(frozen=True)
class Exchange(CriticInputs):
    """What a step of the generator needs."""

    rebuilt_with: Tensor  # Au' = join(A, u)
    rebuilt_without: Tensor  # B0' = join(B, 0)
    left_over: Tensor  # e (B, w, m, m): what the splitter takes for the attribute where there is none


def critic_inputs(generator: Generator, real_with: Tensor, real_without: Tensor) -> dict[int, CriticInputs]:
    """As `exchange`, without the reconstructions, which critics do not see: half of the joiner's work."""
    (a, b), (u, _) = _parts(generator, real_with, real_without)
    made = generator.join_all(torch.cat([b, a]), torch.cat([u, torch.zeros_like(u)]), real_with.shape[-1])
    return {
        size: CriticInputs(resize(real_with, size), resize(real_without, size), *images.chunk(2))
        for size, images in made.items()
    }


def exchange(generator: Generator, real_with: Tensor, real_without: Tensor) -> dict[int, Exchange]:
    """From images with and without the attribute (B, 3, s, s), as many of each: an exchange for each size made.

    One pass of all images through each network, so that batch norm sees in training the mixture of images that its
    running statistics describe: images with an object part and without one have different features.
    """
    (a, b), (u, e) = _parts(generator, real_with, real_without)
    nothing = torch.zeros_like(u)
    size = real_with.shape[-1]
    made = generator.join_all(torch.cat([b, a, a, b]), torch.cat([u, nothing, u, nothing]), size)
    result = {}
    for one, images in made.items():
        added, removed, rebuilt_with, rebuilt_without = images.chunk(4)
        real = resize(real_with, one), resize(real_without, one)
        result[one] = Exchange(*real, added, removed, rebuilt_with, rebuilt_without, e)
    return result


def _parts(
    generator: Generator, real_with: Tensor, real_without: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The background parts of both, and their object parts."""
    if real_with.shape != real_without.shape:
        shapes = f"{tuple(real_with.shape)} and {tuple(real_without.shape)}"
        raise StudyError(f"images with and without the attribute have the shapes {shapes}; they must be equal")
    background, object_part = generator.split(torch.cat([real_with, real_without]))
    (a, b), (u, e) = background.chunk(2), object_part.chunk(2)
    return (a, b), (u, e)
