"""What the document says about its experiments: purposes, questions, sizes, and the figures that it reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BASE = "EXP00"
CONTROL = "EXP06a"
"""The control of EXP06: without the weights of a VQVAE, it is the baseline with the same seed."""

PURPOSES: Mapping[str, tuple[str, str]] = {
    "EXP00": (
        "baseline: images of all sizes in and out",
        "One network for all sizes, with batch norm statistics for each; the arms `all` of EXP03, `switchable` of "
        "EXP04, `equal` of EXP05 and EXP06a have the same config, so they are these runs.",
    ),
    "EXP01_object": (
        "block convolution on the object part",
        "Whether kernels of its own for each block of the map help the part that holds the attribute.",
    ),
    "EXP01_both": (
        "block convolution on object part and background",
        "Whether block convolution helps more if the background has it, too.",
    ),
    "EXP02_largest": (
        "largest size in, all sizes out, critics at the largest",
        "Whether reconstruction and parallelogram losses at several sizes help a network that sees the largest only.",
    ),
    "EXP02_all": (
        "largest size in, all sizes out, critics at each size",
        "Whether critics at the smaller sizes add to the losses of EXP02_largest.",
    ),
    "EXP03_random": (
        "one random size in each iteration",
        "Whether training is as stable with one size in each iteration, which is cheaper, as with all.",
    ),
    "EXP04_group": (
        "group norm instead of switchable batch norm",
        "Whether the sizes can share a norm that needs no running statistics.",
    ),
    "EXP05_square": (
        "losses of the sizes weighted by s²",
        "Whether more weight on large images balances the difficulty of the sizes better.",
    ),
    "EXP05_inverse": (
        "losses of the sizes weighted by 1/s²",
        "Whether more weight on small images balances the difficulty of the sizes better.",
    ),
    "vqvae": (
        "the autoencoder that EXP06b starts from",
        "Its encoder and decoder are the start of splitter and joiner in EXP06b.",
    ),
    "EXP06b": (
        "start from the weights of a VQVAE",
        "Whether training is more stable and faster from the weights of a VQVAE than from random ones (EXP06a).",
    ),
    "EXP07_r1": (
        "softplus losses with R1, and Adam",
        "How far a modern objective gets beside clipped critics, with the networks of EXP04_group.",
    ),
    "EXP00_twice": (
        "a second time box for the baseline",
        "What the baseline gains if it goes on for as long again.",
    ),
    "r1": ("softplus losses with R1, and Adam", "Whether the modern objective transfers the attribute in this budget."),
    "wgan": ("clipped critics and RMSProp", "What the document's objective reaches with the same budget."),
    "wgan_ten": (
        "clipped critics and RMSProp, ten times the iterations",
        "What the document's objective reaches with ten times the budget.",
    ),
}
"""By group: its title, and its purpose."""

PAIRS = (("EXP07_r1", "EXP04_group"), ("r1", "wgan"), ("r1", "wgan_ten"))
"""Groups that a question compares, whatever the round file declares as their baseline."""

SIZE: Mapping[str, object] = {
    "dataset": "celeba", "sizes": [64, 96, 128], "width": 128, "batch_size": 64, "time_limit": 10800,
    "evaluation_images": 5000,
}  # fmt: skip
"""Config of the document's runs."""


@dataclass(frozen=True)
class Reported:
    """Frechet distances that the document reports for its baseline."""

    iteration: int
    added: float
    removed: float


REPORTED = (Reported(20_000, 34.68, 33.74), Reported(31_318, 16.22, 13.87))
WHY_NOT_COMPARABLE = (
    "Its figures are not comparable with any here: they were computed with torchvision's Inception-v3 of ImageNet, "
    "which is not the standard FID network, and their real side was training data; here the extractor is named, and "
    "the real images are of the validation or test split."
)


FLOOR = (
    "The floor is the distance of two halves of the real images, so of half as many images: its bias is larger, and a "
    "good generator can be below it."
)


@dataclass(frozen=True)
class Question:
    """A question about a group beside another one; `measures`: each answers it, see `measures.MEASURES`."""

    text: str
    group: str
    against: str
    measures: tuple[str, ...]


STABLE = ("generator_variance", "critic_variance")
HELPS = ("test_distance", "test_add_rate", "test_remove_rate")
QUESTIONS = (
    Question("EXP03: is one random size in each iteration as stable as all sizes?", "EXP03_random", BASE, STABLE),
    Question("EXP03: is it faster?", "EXP03_random", BASE, ("iterations_per_second", "distance_at_equal_seconds")),
    Question("EXP06: is a start from a VQVAE more stable?", "EXP06b", BASE, STABLE),
    Question("EXP06: is it faster?", "EXP06b", BASE, ("distance_at_equal_seconds",)),
    Question("EXP01: does block convolution on the object part help?", "EXP01_object", BASE, HELPS),
    Question("EXP01: does it help on both parts?", "EXP01_both", BASE, HELPS),
    Question("EXP02: do losses at several sizes help, critics at the largest?", "EXP02_largest", BASE, HELPS),
    Question("EXP02: do they help with critics at each size?", "EXP02_all", BASE, HELPS),
    Question("EXP03: does one random size in each iteration help?", "EXP03_random", BASE, HELPS),
    Question("EXP04: does group norm help?", "EXP04_group", BASE, HELPS),
    Question("EXP05: do weights s² help?", "EXP05_square", BASE, HELPS),
    Question("EXP05: do weights 1/s² help?", "EXP05_inverse", BASE, HELPS),
    Question("EXP06: does a start from a VQVAE help?", "EXP06b", BASE, HELPS),
    Question("EXP07: does the modern objective help?", "EXP07_r1", "EXP04_group", HELPS),
    Question("EXP00: does a second time box help?", "EXP00_twice", BASE, HELPS),
    Question("Does the modern objective help, with equal iterations?", "r1", "wgan", HELPS),
    Question("Does it help beside ten times the iterations?", "r1", "wgan_ten", HELPS),
)
