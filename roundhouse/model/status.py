"""The status of one experiment."""

from __future__ import annotations

from dataclasses import dataclass

from roundhouse.model.attempt import Attempt, Record
from roundhouse.model.experiment import Experiment, Resources
from roundhouse.model.plan import Action, Inputs, State
from roundhouse.model.retry import next_resources


@dataclass(frozen=True, slots=True)
class ExperimentStatus:
    """One experiment in a pass: its record, what was decided, and what it waits for."""

    experiment: Experiment
    record: Record
    action: Action
    inputs: Inputs
    job_state: str | None = None
    refusal: str = ""  # why it cannot start: from its study's check, or from the scheduler for every job
    changed: Experiment | None = None  # as the round file has it, if `experiment` is what ran and was accepted for it

    @property
    def resources(self) -> Resources:
        """The resource request of its next job: that of the round file, or more, after attempts ran short of it."""
        return next_resources(self.experiment.resources, self.record.attempts, self.experiment.retry)

    @property
    def shown(self) -> Attempt | None:
        """The attempt to report: the completed one, else the newest run, since the last rerun."""
        runs = [one for one in self.record.current.runs if not (one.cause and one.cause.not_submitted)]
        return self.record.completed or (runs[-1] if runs else None)


def goes_on(status: ExperimentStatus) -> bool:
    """Whether it continues automatically: it has not ended, and its inputs can still be made."""
    if status.action.state is State.PENDING:
        return not status.inputs.hopeless
    return status.action.state.active
