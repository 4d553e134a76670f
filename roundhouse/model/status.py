"""How one experiment stands after a look at it."""

from __future__ import annotations

from dataclasses import dataclass

from roundhouse.model.attempt import Attempt, Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Resources
from roundhouse.model.plan import Action, Inputs, State
from roundhouse.model.retry import RetryPolicy, next_resources


@dataclass(frozen=True, slots=True)
class ExperimentStatus:
    """One experiment after a pass: what is known of it, and what was done or is waited for."""

    experiment: Experiment
    record: Record
    action: Action
    inputs: Inputs
    job_state: str | None = None
    refusal: str = ""  # why it cannot start: what its study's check says, or what the scheduler says of every job
    retry: RetryPolicy = RetryPolicy()

    @property
    def resources(self) -> Resources:
        """What its next job asks for: what the round file says, or more, by how its attempts ended."""
        return next_resources(self.experiment.resources, self.record.attempts, self.retry)

    @property
    def shown(self) -> Attempt | None:
        """The attempt to speak of: the completed one, else the newest that is more than a mark."""
        runs = [one for one in self.record.runs if one.cause not in (Cause.LIMIT, Cause.SITE)]
        return self.record.completed or (runs[-1] if runs else None)


def goes_on(row: ExperimentStatus) -> bool:
    """Whether it goes on by itself: not what is over, nor what waits for something that failed for good."""
    if row.action.state is State.PENDING:
        return not row.inputs.hopeless
    return row.action.state in (State.SUBMITTING, State.IN_PROGRESS)
