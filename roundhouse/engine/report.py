"""What a pass found and did, or would do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from roundhouse.model.experiment import Experiment, Resources
from roundhouse.model.plan import Action, Clock
from roundhouse.model.status import ExperimentStatus


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A job that a pass would submit.

    `rows`: the experiment, the tasks of an array, or all that wait for a slot in such an allocation.
    """

    kind: Literal["array", "allocation", "single job"]
    rows: Sequence[ExperimentStatus]
    resources: Resources
    script: Callable[[], str]  # renders it
    at_once: int | None = None  # tasks of an array that may run


@dataclass
class PassReport:
    """A pass's outcome. `trouble`: the scheduler or the disk failed, so the picture may be incomplete."""

    rows: list[ExperimentStatus] = field(default_factory=list)
    done: list[tuple[Experiment, Action]] = field(default_factory=list)  # what was carried out
    foreseen: list[Foreseen] = field(default_factory=list)  # what would be submitted, by a pass that only tells
    trouble: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what a person should know besides, a line each
    clock: Clock = Clock(0.0, 0.0, 0.0)  # by which it was judged
    asking: float = 0.0  # seconds that the scheduler took to answer
    blind: bool = False  # it did not answer
