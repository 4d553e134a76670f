"""The report of a pass: what it found and did, or would do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from roundhouse.model.experiment import Experiment, Resources
from roundhouse.model.plan import Action, Clock
from roundhouse.model.removed import RemovedExperiment
from roundhouse.model.status import ExperimentStatus


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job that a pass would submit.

    `statuses`: of the experiment, the tasks of an array, or all experiments that wait for a slot in the allocation.
    """

    kind: Literal["array", "allocation", "single job"]
    statuses: Sequence[ExperimentStatus]
    resources: Resources
    script: Callable[[], str]  # renders it
    at_once: int | None = None  # tasks of an array that may run


@dataclass
class PassReport:
    """The outcome of a pass. `trouble`: the scheduler or the disk failed, so the report may be incomplete."""

    statuses: list[ExperimentStatus] = field(default_factory=list)
    removed: list[RemovedExperiment] = field(default_factory=list)  # those no longer in the round file
    done: list[tuple[Experiment, Action]] = field(default_factory=list)  # what was carried out
    planned: list[PlannedJob] = field(default_factory=list)  # what would be submitted, by a pass that changes nothing
    trouble: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # additional information for the user, a line each
    clock: Clock = Clock(0.0, 0.0, 0.0)  # the times used for the evaluation
    query_time: float = 0.0  # seconds that the scheduler took to answer
    blind: bool = False  # it did not answer
