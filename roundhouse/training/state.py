"""The state of a run: what a checkpoint contains besides the tracked parts, and what follows from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from roundhouse.settings import Settings

EPOCH, STEP = "epoch", "step"


@dataclass
class LoopState:
    """How far one loop is. `done`: complete epochs, or steps; `batch`: batches of the epoch that is not complete."""

    done: int = 0
    batch: int = 0
    total: int | None = None  # planned; None: not known
    ended: str = ""  # why it ended before its planned end: until, break
    open: bool = False  # whether an epoch has begun and is not complete
    left: bool = False  # whether the study has left the batches of that epoch with `break`
    steps: int = 0  # of the optimiser, in all epochs
    seconds: float = 0.0  # of all its epochs or steps, with evaluation

    @property
    def finished(self) -> bool:
        """Whether nothing is left of it, whatever limits the run has."""
        return not self.open and (bool(self.ended) or (self.total is not None and self.done >= self.total))


@dataclass
class Row:
    """What is recorded of the epoch that is not complete, or since the last `run.record`."""

    metrics: dict[str, float] = field(default_factory=dict)
    sums: dict[str, Any] = field(default_factory=dict)  # 0-dimensional tensors
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class State:
    """The state of a run, apart from the parts that the study tracks. Plain values and tensors."""

    unit: str = ""  # what its loops count: epoch or step; empty before the first
    step: int = 0  # complete steps, over all loops
    epoch: int = 0  # complete epochs, over all loops
    seconds: float = 0.0  # of all steps, without evaluation
    loops: dict[str, LoopState] = field(default_factory=dict)
    row: Row = field(default_factory=Row)
    history: list[dict[str, Any]] = field(default_factory=list)
    bests: dict[str, dict[str, Any]] = field(default_factory=dict)  # file name -> epoch, step, value, state
    reference: float | None = None  # the value of the main metric that early stopping compares with
    stale: int = 0  # values of the main metric since then
    kept: dict[str, str] = field(default_factory=dict)  # file below the attempt's directory -> SHA-256
    stopped: str = ""  # why the study ended the training
    planned: int | None = None  # units over all loops, as the study says
    exact: bool = True
    accumulate: int = 1  # factor on the number of parts of a batch; it never decreases
    recent: list[bool] = field(default_factory=list)  # see `Optimisation.recent`
    unchecked: int = 0
    globals: dict[str, Any] | None = None  # states of the global generators, inside an epoch

    @property
    def units(self) -> int:
        """Complete epochs or steps, whichever the run counts."""
        return self.step if self.unit == STEP else self.epoch

    def content(self) -> dict[str, Any]:
        """As plain values, for a checkpoint. Not a copy: pack it at once."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {**values, "loops": {name: vars(loop) for name, loop in self.loops.items()}, "row": vars(self.row)}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> State:
        """From the result of `content`."""
        values = {one.name: content[one.name] for one in dataclasses.fields(cls)}
        values["loops"] = {name: LoopState(**loop) for name, loop in values["loops"].items()}
        values["row"] = Row(**values["row"])
        return cls(**values)

    def continued(self) -> None:
        """Forget why the training ended, so that it continues with larger limits."""
        self.stopped, self.stale = "", 0
        if self.loops:
            last = next(reversed(self.loops.values()))
            last.ended = ""


def ended(state: State, settings: Settings) -> str:
    """Why training has ended before its planned end; empty if it has not."""
    if state.stopped:
        return state.stopped
    if settings.max_epochs is not None and state.unit == EPOCH and state.epoch >= settings.max_epochs:
        return "max epochs"
    if settings.max_steps is not None and state.step >= settings.max_steps:
        return "max steps"
    if settings.time_limit is not None and state.seconds >= settings.time_limit:
        return "time limit"
    return ""


def early_stop(state: State, settings: Settings) -> str:
    """Whether the main metric has not improved for long enough: the reason, or empty."""
    return "early stopping" if settings.patience is not None and state.stale >= settings.patience else ""


def better(value: float, than: float | None, mode: str, by: float = 0.0) -> bool:
    """Whether a value improves on another one by more than `by`."""
    return than is None or not math.isfinite(than) or (value > than + by if mode == "max" else value < than - by)
