"""The config of a GeneGAN run: keys, defaults, valid values. The runner imports it, so no torch here."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import FEEDS, choose

SIZES = (32, 48, 64, 96, 128)
"""Sides of images for which the networks are made."""


@dataclass(frozen=True)
class Options:
    """The config of a run. Keys that it does not use are ignored, so that one `defaults` serves a whole round."""

    method: str = "genegan"  # genegan; vqvae: the autoencoder alone, whose weights another run may start from
    # The data
    dataset: str = "faces"  # faces: procedural, with one factor; celeba: a folder of the user's own
    attribute: str = "Smiling"  # of CelebA's 40; procedural faces have Smiling only
    sizes: tuple[int, ...] = (64, 96, 128)  # ascending
    images: int | None = None  # training images of the procedural faces, or at most so many of CelebA; None: all
    feed: str = "auto"  # device: all images on the device; workers: read by processes; auto: device if they fit
    workers: int = 4
    # The networks
    width: int = 128  # channels after the first convolution; of the object part, too
    norm: str = "switchable"  # switchable: batch norm with statistics of its own for each size; group: GroupNorm
    block_conv: str = "none"  # none; object: a convolution for each block of the object part; both: and the background
    outputs: str = "each"  # each: an image of each size in and out; multiscale: the largest in, all sizes out
    # The objective
    objective: str = "wgan"  # wgan: clipped critics, RMSProp; r1: softplus losses with R1, Adam
    adversarial: str = "largest"  # multiscale: critics at the largest size only, or at `all`
    resolution_mode: str = "all"  # all: each step averages over the sizes; random: one size in each step
    scale_weights: str = "equal"  # equal; square: s^2; inverse: 1 / s^2; normalised over the sizes
    reconstruction: float = 1.0  # weight of the two reconstructions
    parallelogram: float = 2.55  # weight, for values in [0, 1]: 0.01 for values in [0, 255]
    l2: float = 2.5e-5  # weight of the mean squared weights of the generator, once for all sizes
    clip: float = 0.01  # wgan: largest absolute weight of the critics
    r1: float = 0.01  # r1: weight of the gradient penalty, for values in [0, 1] and the sum over all pixels
    # Training
    iterations: int = 300_000
    batch_size: int = 64
    lr: float | None = None  # None: 5e-5 (wgan) or 2e-4 (r1)
    critic_steps: int = 1
    boost_every: int = 500  # wgan: each so many iterations ...
    boost_steps: int = 100  # ... the critics make so many steps
    init: str | None = None  # weights to start from: a file, or the input of a group of VQVAE runs
    init_map: str | None = None  # JSON file: names in it -> names here; None: that of our own VQVAE
    # Output
    log_every: int = 100
    save_every: int = 20_000  # checkpoint, samples and evaluation
    keep: int = 2
    evaluation_images: int = 5_000
    evaluation_size: int | None = None  # one of the sizes that enter the networks; None: the largest
    extractor: str = "auto"  # features of the distances: inception (package torch-fidelity); small: trained from a seed

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            choose(name, getattr(self, name), known)
        for size in self.sizes:
            if size not in SIZES:
                raise StudyError(f"config key 'sizes' has {size}; known sizes are {', '.join(map(str, SIZES))}")
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)):
            raise StudyError(f"config key 'sizes' is {list(self.sizes)}; give at least one size, in ascending order")
        for names, fits, wanted in _RANGES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not fits(value):
                    raise StudyError(f"config key {name!r} is {value}; it must {wanted}")
        if self.evaluation_size not in (None, *self.input_sizes):
            raise StudyError(
                f"config key 'evaluation_size' is {self.evaluation_size}; the networks get images of "
                f"{', '.join(map(str, self.input_sizes))} pixels only"
            )
        if self.outputs == "multiscale" and self.resolution_mode == "random":
            raise StudyError(
                "config key 'resolution_mode' is 'random', and 'outputs' is 'multiscale', which always makes all sizes "
                "from the largest: use one of them"
            )
        if self.dataset == "faces" and self.attribute != "Smiling":
            raise StudyError(f"config key 'attribute' is {self.attribute!r}; procedural faces have Smiling only")
        if self.init_map is not None and self.init is None:
            raise StudyError("config key 'init_map' needs 'init', the weights whose names it maps")

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """Sizes of the images that enter the networks, in training and evaluation."""
        return self.sizes if self.outputs == "each" else self.sizes[-1:]

    @property
    def critic_sizes(self) -> tuple[int, ...]:
        """Sizes of the images that critics see."""
        everywhere = self.outputs == "each" or self.adversarial == "all"
        return self.sizes if everywhere else self.sizes[-1:]

    @property
    def shown_size(self) -> int:
        """Size of the images that are evaluated, and kept as samples."""
        return self.evaluation_size or self.sizes[-1]

    @property
    def rate(self) -> float:
        return self.lr if self.lr is not None else {"wgan": 5e-5, "r1": 2e-4}[self.objective]

    @property
    def weights_of_sizes(self) -> dict[int, float]:
        """The weight of each size in the losses; they add up to 1."""
        raw = {size: {"equal": 1.0, "square": size**2, "inverse": size**-2}[self.scale_weights] for size in self.sizes}
        return {size: value / sum(raw.values()) for size, value in raw.items()}


_CHOICES: dict[str, Collection[str]] = {
    "method": ("genegan", "vqvae"),
    "dataset": ("faces", "celeba"),
    "feed": FEEDS,
    "norm": ("switchable", "group"),
    "block_conv": ("none", "object", "both"),
    "outputs": ("each", "multiscale"),
    "objective": ("wgan", "r1"),
    "adversarial": ("largest", "all"),
    "resolution_mode": ("all", "random"),
    "scale_weights": ("equal", "square", "inverse"),
    "extractor": ("auto", "inception", "small"),
}
_FROM_1 = (
    "images", "workers", "width", "iterations", "batch_size", "critic_steps", "boost_every", "boost_steps", "log_every",
    "save_every", "keep",
)  # fmt: skip
_RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (_FROM_1, lambda value: value >= 1, "be at least 1"),
    (("evaluation_images",), lambda value: value >= 2, "be at least 2"),
    (("lr", "clip"), lambda value: value > 0, "be above 0"),
    (("reconstruction", "parallelogram", "l2", "r1"), lambda value: value >= 0, "not be below 0"),
)
