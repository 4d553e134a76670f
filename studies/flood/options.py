"""The config of a run of this study: keys, defaults, valid values. The runner imports it, so no torch here."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import check_batch, choose

TASKS = ("simulation", "samples", "training", "evaluation", "coarse")
SETS = ("small", "big")
ARCHITECTURES = ("02", "03", "04", "05", "07", "08", "09")
ATTENTIONS = ("self", "projection")
DOWNSAMPLERS = ("alternating", "k11s10", "bicubic")
LAST = ("linear", "leaky_relu", "tanh")
SCHEDULES = ("constant", "plateau")
PATCH = 32  # cells along a side of a sample


@dataclass(frozen=True)
class Options:
    """The config of a run. Keys that its task does not use are ignored, so one `defaults` serves a whole round.

    The defaults of the training are the document's.
    """

    task: str = "training"  # simulation: one flood; samples: a set; training; evaluation; coarse: the coarse solver
    set: str = "small"  # the set that the run makes or uses
    # A simulation. The config key `seed` is its number in the set, from 0.
    cells: int = 128  # along each side, of 10 m
    hours: float = 4.0
    snapshot_minutes: int = 60
    double: bool = False  # float64
    # The samples of a set: numbers of simulations, of which the first to the last are drawn for the splits.
    train: int = 5
    validation: int = 1
    test: int = 1
    lead_minutes: int = 60  # from input to target
    stride: int = 16  # cells between the corners of neighbouring patches
    # A surrogate
    architecture: str = "04"
    width: float = 1.0  # factor of all channels
    attention: str = "self"
    downsampler: str = "k11s10"
    last: str = "linear"  # last layer; leaky_relu and tanh are the originals'
    # Its training. Early stopping: the config keys `patience` and `min_delta`.
    epochs: int = 300
    batch_size: int = 300
    accumulation: int | str = 1  # number of parts of a batch; auto: the fewest that fit into GPU memory
    largest_batch: int | None = None  # batch_size is doubled as often as it fits into GPU memory, up to this
    lr: float = 1e-4
    schedule: str = "constant"  # plateau: the rate falls when the validation loss does not
    plateau_patience: int = 10  # epochs
    plateau_factor: float = 0.5
    samples: str | None = None  # a file of samples, or the experiment that made it; None: the dependency's
    # Its evaluation
    leads: int = 3  # of a rollout
    # The coarse solver
    factor: int = 2  # side of its cells, in cells of the simulation

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            choose(name, getattr(self, name), known)
        for names, fits, wanted in _RANGES:
            for name in names:
                if not fits(getattr(self, name)):
                    raise StudyError(f"config key {name!r} is {getattr(self, name)}; it must {wanted}")
        check_batch(self.batch_size, self.accumulation, self.largest_batch)
        if self.lead_minutes % self.snapshot_minutes:
            raise StudyError(
                f"config key 'lead_minutes' is {self.lead_minutes}; it must be a multiple of 'snapshot_minutes', which "
                f"is {self.snapshot_minutes}"
            )
        if self.snapshots <= self.lead:
            raise StudyError(
                f"config key 'hours' is {self.hours:g}, less than 'lead_minutes', which is {self.lead_minutes}: no "
                "sample would fit into a simulation"
            )
        if self.task == "evaluation" and self.snapshots <= self.leads * self.lead:
            raise StudyError(
                f"config key 'leads' is {self.leads}, but a simulation of 'hours' {self.hours:g} has only "
                f"{(self.snapshots - 1) // self.lead} leads: lower 'leads'"
            )
        if self.task == "coarse" and self.cells % self.factor:
            raise StudyError(f"config key 'factor' is {self.factor}; it must divide 'cells', which is {self.cells}")

    @property
    def lead(self) -> int:
        """Snapshots from input to target."""
        return self.lead_minutes // self.snapshot_minutes

    @property
    def snapshots(self) -> int:
        """Of a simulation, with that of its start."""
        return int(round(60 * self.hours, 6)) // self.snapshot_minutes + 1  # 60 * 2.05 is 122.99999999999999


_CHOICES: dict[str, Collection[str]] = {
    "task": TASKS,
    "set": SETS,
    "architecture": ARCHITECTURES,
    "attention": ATTENTIONS,
    "downsampler": DOWNSAMPLERS,
    "last": LAST,
    "schedule": SCHEDULES,
}
_FROM_1 = (
    "snapshot_minutes", "lead_minutes", "train", "stride", "epochs", "batch_size", "plateau_patience", "leads",
)  # fmt: skip
_RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (("cells",), lambda value: value >= PATCH, f"be at least {PATCH}, the side of a sample"),
    (_FROM_1, lambda value: value >= 1, "be at least 1"),
    (("validation", "test"), lambda value: value >= 1, "be at least 1: a result needs held-out simulations"),
    (("hours", "width", "lr"), lambda value: value > 0, "be above 0"),
    (("plateau_factor",), lambda value: 0 < value < 1, "lie between 0 and 1"),
    (("factor",), lambda value: value >= 2, "be at least 2"),
)
