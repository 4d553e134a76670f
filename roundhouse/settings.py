"""The settings of a run that all studies share: seed, device, limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundhouse.errors import RoundhouseError
from roundhouse.options import choose, read_options

SET_BY_SWEEPS = {"draw", "focus", "rank"}  # they identify experiments, and are not passed to a study
SET_BY_JOB = {"pause_at", "deadline", "accumulate", "ngpus"}  # settings that no config can set
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Start:
    """A whole checkpoint of another run to start from. `keeps_position`: continue it, else use only its parts."""

    path: Path
    keeps_position: bool


@dataclass(frozen=True)
class Settings:
    """The options of the training loop. A config can set all except `SET_BY_JOB`."""

    seed: int = 0
    precision: str = "auto"  # auto, fp32, bf16, fp16
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    processes: int | str = "auto"  # that train together; auto: as many as the job requested GPUs, 1 without
    deterministic: bool = True
    max_epochs: int | None = None  # end the training after this many epochs, over all loops
    max_steps: int | None = None  # end it after this many optimiser steps, over all loops
    time_limit: float | None = None  # seconds of training, without evaluation: end it after the step that reaches them
    patience: int | None = None  # end it when this many values of the main metric in a row have not improved
    min_delta: float = 0.0  # for `patience`: a smaller improvement does not count
    save_minutes: float = 10.0  # the longest time between two checkpoints
    save_each_epoch: bool = True  # else only by time, when the run must stop or pause, and at the end of each loop
    max_skipped: float = 0.2  # fraction of an epoch's steps that gradient scaling may skip
    pause_at: int | None = None  # pause after this many epochs, or steps, to be resumed later
    deadline: float | None = None  # time.time() by which the job must have stopped, to be resumed later
    accumulate: int = 1  # after memory ran out: a batch is computed in this many times as many parts
    ngpus: int = 0  # GPUs that the job requested for this run; in an allocation, those of its slot

    def __post_init__(self) -> None:
        choose("precision", self.precision, PRECISIONS)
        for name in ("max_epochs", "max_steps", "time_limit", "patience"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise RoundhouseError(f"config key {name!r} is {value}; it must be > 0, or null for no limit")
        for name in ("min_delta", "save_minutes"):
            if getattr(self, name) < 0:
                raise RoundhouseError(f"config key {name!r} is {getattr(self, name)}; it must be >= 0")
        if not 0 <= self.max_skipped <= 1:
            raise RoundhouseError(f"config key 'max_skipped' is {self.max_skipped}; it must be between 0 and 1")
        if self.processes != "auto" and (not isinstance(self.processes, int) or self.processes < 1):
            raise RoundhouseError(f"config key 'processes' is {self.processes!r}; write auto, or a number >= 1")
        if self.device.startswith("cuda:") and self.count_processes > 1:
            raise RoundhouseError(
                f"config key 'device' is {self.device!r}, one GPU, but processes is {self.processes}: each process has "
                "a GPU of its own; write device: auto"
            )

    @property
    def count_processes(self) -> int:
        """How many processes train together."""
        if isinstance(self.processes, int):
            return self.processes
        return max(1, self.ngpus) if self.device in ("auto", "cuda") else 1


def split_config(
    config: Mapping[str, Any], deadline: float | None = None, accumulate: int = 1
) -> tuple[Settings, dict[str, Any]]:
    """Separate the loop's keys, and those that sweeps set, from a config: (settings, the study's own keys)."""
    keys = {field.name for field in dataclasses.fields(Settings)} - SET_BY_JOB
    settings = read_options(Settings, {key: value for key, value in config.items() if key in keys})
    rest = {key: value for key, value in config.items() if key not in keys | SET_BY_SWEEPS}
    return dataclasses.replace(settings, deadline=deadline, accumulate=accumulate), rest
