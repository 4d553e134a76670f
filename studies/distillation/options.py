"""The config of a distillation run: keys, defaults, valid values. The runner imports it, so no torch here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import FEEDS, check_batch, choose

BLOCKS = {
    "ResNet8": 1,
    "ResNet14": 2,
    "ResNet20": 3,
    "ResNet32": 5,
    "ResNet44": 7,
    "ResNet56": 9,
    "ResNet110": 18,
    "ResNet112": 18,
}
"""Blocks per stage, n. `ResNet112` is a common name for n = 18, which has 6 * 18 + 2 = 110 layers: it is ResNet110."""

ALONE = ("pure", "control")
"""Ways to train without a teacher: cross entropy, and cross entropy times 1 - alpha."""

DISTILLING = ("logit", "fitnets", "attention_transfer", "factor_transfer", "rkd", "nst", "sp", "dkd")


_DECAY = 0.1  # of the learning rate at each milestone


@dataclass(frozen=True)
class Recipe:
    """Learning rate and weight decay of one stage."""

    lr: float
    weight_decay: float
    schedule: str  # cosine, steps or constant
    milestones: tuple[int, ...] = ()

    def rate(self, epoch: int, done: float) -> float:
        """The learning rate in epoch `epoch` of the stage, counted from 0; `done` goes from 0 to 1 over the stage."""
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        return float(self.lr * _DECAY ** sum(epoch >= milestone for milestone in self.milestones))


@dataclass(frozen=True)
class Options:
    """The config of a run. Keys that a method does not use are ignored, so that one `defaults` serves a whole round."""

    model: str
    dataset: str = "digits"
    method: str = "pure"
    teacher: str | None = None  # the teacher's model; its weights are an input
    alpha: float = 0.5  # share of the distillation term; not used by `pure`
    weight: float | None = None  # of the method's distance, instead of the published weight
    # The recipe
    epochs: int = 30
    batch_size: int = 128
    largest_batch: int | None = None  # batch_size is doubled as often as it fits into GPU memory, up to this
    scale_lr: bool = False  # the learning rates are multiplied by what the batch size is multiplied by
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"  # cosine: half a period, down to 0; steps: times 0.1 at each of `milestones`
    milestones: tuple[int, ...] = ()  # epochs
    label_smoothing: float = 0.0  # `pure` only: distillation uses unchanged labels
    validation_images: int | None = (
        None  # None: the data set's default; 0: none, and the last epoch's weights are the best
    )
    # The methods
    temperature: float = 4.0  # logit, dkd, and the second stage of fitnets
    hint_stage: int = 1  # fitnets: the student's stage, 1 or 2, that follows the teacher's stage 2
    hint_epochs: int = 0  # fitnets: epochs of a first stage, on the hint alone; 0: one stage
    paraphraser_epochs: int = 30  # factor_transfer: epochs of the paraphraser's own stage
    factor_rate: float = 0.5  # factor_transfer: the factor's channels, as a share of the teacher's
    factor: str = "whole"  # factor_transfer: whole: all of a factor; map: the mean over channels of its squares
    paraphraser_norm: bool = True  # factor_transfer: batch normalisation in the paraphraser
    reconstruction: str = "l1"  # factor_transfer: the loss of the paraphraser's reconstruction: l1 or mse
    preparation_lr: float | None = None  # of a stage before `train` (fitnets, factor_transfer); None: as in `train`
    preparation_weight_decay: float | None = None  # likewise
    preparation_schedule: str = "cosine"  # likewise: cosine or constant
    angle_weight: float = 2.0  # rkd: of the angle term, where the distance term has 1
    nst_stages: str = "last"  # nst: last: stage 3; all: the sum over the three stages
    target_weight: float = 1.0  # dkd: of the target's share
    others_weight: float = 8.0  # dkd: of the other classes'
    warm_up: int = 20  # dkd: epochs in which the distance's weight rises to its full size
    # Computation
    step: str = "auto"  # auto: graph on a GPU, eager on a CPU; eager; graph: a CUDA graph; compile: torch.compile
    feed: str = (
        "auto"  # where training images are augmented: device; workers: by a DataLoader; auto: device if they fit
    )
    workers: int = 4  # processes of the DataLoader
    accumulation: int | str = 1  # number of parts of a batch; auto: the fewest that fit into memory

    def __post_init__(self) -> None:
        choose("model", self.model, BLOCKS)
        choose("method", self.method, (*ALONE, *DISTILLING))
        if self.teacher is not None:
            choose("teacher", self.teacher, BLOCKS)
        choose("schedule", self.schedule, ("cosine", "steps"))
        choose("preparation_schedule", self.preparation_schedule, ("cosine", "constant"))
        choose("reconstruction", self.reconstruction, ("l1", "mse"))
        choose("factor", self.factor, ("whole", "map"))
        choose("nst_stages", self.nst_stages, ("last", "all"))
        choose("step", self.step, ("auto", "eager", "graph", "compile"))
        choose("feed", self.feed, FEEDS)
        self._check_ranges()
        check_batch(self.batch_size, self.accumulation, self.largest_batch)

    def recipe(self, stage: str) -> Recipe:
        """That of `train`, or of a method's stage before it."""
        if stage == "train":
            return Recipe(self.lr, self.weight_decay, self.schedule, self.milestones)
        lr, decay = self.preparation_lr, self.preparation_weight_decay
        return Recipe(
            self.lr if lr is None else lr, self.weight_decay if decay is None else decay, self.preparation_schedule
        )

    def _check_ranges(self) -> None:
        for names, fits, wanted in _RANGES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not isinstance(value, str) and not fits(value):
                    raise StudyError(f"config key {name!r} is {value}; it must {wanted}")
        if isinstance(self.accumulation, int) and self.batch_size % self.accumulation:
            raise StudyError(
                f"config key 'accumulation' is {self.accumulation}; batch_size {self.batch_size} cannot be cut into so "
                "many equal parts"
            )
        if self.largest_batch is not None and self.accumulation != "auto":
            raise StudyError(
                f"config key 'largest_batch' is {self.largest_batch}, and accumulation {self.accumulation}: set "
                "accumulation: auto, because the graph of a step needs more memory than what the size is found with"
            )
        if self.scale_lr and self.largest_batch is None:
            raise StudyError("config key 'scale_lr' needs 'largest_batch', by which the batch may become larger")
        if (self.schedule == "steps") != bool(self.milestones):
            raise StudyError("config keys 'schedule: steps' and 'milestones' must be set together, or neither of them")
        if self.nesterov and not self.momentum:
            raise StudyError("config key 'nesterov' needs a 'momentum' above 0")


_ABOVE_0 = (
    "temperature", "epochs", "batch_size", "lr", "preparation_lr", "paraphraser_epochs", "warm_up", "workers",
    "accumulation",
)  # fmt: skip
_FROM_0 = (
    "momentum", "weight_decay", "preparation_weight_decay", "weight", "hint_epochs", "angle_weight", "target_weight",
    "others_weight",
)  # fmt: skip
_RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (_ABOVE_0, lambda value: value > 0, "be above 0"),
    ((*_FROM_0, "validation_images"), lambda value: value >= 0, "not be below 0"),
    (("alpha",), lambda value: 0 <= value <= 1, "lie between 0 and 1"),
    (("label_smoothing",), lambda value: 0 <= value < 1, "lie between 0 and 1"),
    (("hint_stage",), lambda value: value in (1, 2), "be 1 or 2"),
    (("factor_rate",), lambda value: 0 < value <= 1, "be above 0, and 1 at most"),
)
