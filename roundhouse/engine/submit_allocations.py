"""Submission of allocations: as many as the waiting experiments need, within the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from roundhouse import files
from roundhouse.engine import allocations
from roundhouse.engine.context import PassContext
from roundhouse.engine.refusals import blocked, cause_of, held_back, reason_of
from roundhouse.engine.report import PlannedJob
from roundhouse.engine.submit_job import Submitter
from roundhouse.model.answers import Identity, Refused, Scope, SubmitAnswer, Submitted
from roundhouse.model.attempt import Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Resources
from roundhouse.model.plan import Action, Clock, State, Verb
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import job_group


@dataclass
class Allocating:
    """The part of one pass that submits allocations."""

    submitter: Submitter
    clock: Clock

    def __post_init__(self) -> None:
        self.context, self.report = self.submitter.context, self.submitter.report

    def allocate(
        self, like: Resources, statuses: Sequence[ExperimentStatus], room: int, full: str
    ) -> tuple[int, list[ExperimentStatus]]:
        """Submit the allocations that experiments of the same resource request still need.

        Returns the room that is left, and the statuses of these experiments.
        """
        folder = self.context.experiments / statuses[0].experiment.round
        found = allocations.alive(folder, self.submitter.snapshot, self.clock.now, self.clock.submission_delay)
        living = [(allocation, job) for allocation, job in found if allocation.resources == like]
        queues = allocations.queues(statuses, living)
        waiting = [status.experiment.path for queue in queues if not queue.stuck for status in queue.statuses]
        wanted = allocations.wanted(waiting, like, [allocation for allocation, _ in living])
        if not wanted:  # though no allocation may take some of them
            full = f"limit reached: max_running: {like.max_running}"
            full += ", and the existing allocations were submitted with --only"
        room, more, otherwise = self._submit_allocations(statuses, like, wanted, room, full)
        self._note_other_code(queues)
        changed = [status for queue in queues for status in queue.waiting(more, otherwise)]
        if otherwise.cause is Cause.SITE and (refused := self.submitter.refusals.of(like)):
            changed = [blocked(status, refused) if status.action is otherwise else status for status in changed]
        return room, changed

    def _submit_allocations(
        self, statuses: Sequence[ExperimentStatus], like: Resources, wanted: int, room: int, full: str
    ) -> tuple[int, list[str], Action]:
        """Submit allocations for experiments of the same resource request.

        Returns the room that is left, a name for each allocation, and the action of an experiment that none takes.
        """
        made: list[str] = []
        for _ in range(min(wanted, room)):
            if refused := self.submitter.refusals.of(like):
                return room, made, held_back(statuses[0], refused).action
            room -= 1
            if not self.submitter.act:
                made.append("an allocation that would be submitted")
                self.report.planned.append(
                    PlannedJob("allocation", statuses, like, lambda: self._allocation_script(statuses[0], like))
                )
                continue
            try:
                answer = submit(self.context, self._allocation(statuses[0], like))
            except OSError as error:
                name = statuses[0].experiment.round
                self.report.trouble.append(f"an allocation of round {name} was not submitted in order: {error}")
                break
            if isinstance(answer, Refused):
                self.submitter.refusals.add(like, answer)
                if answer.later and answer.scope is Scope.ALL:
                    room, full = 0, reason_of(answer)
                    break
                state = State.PENDING if answer.later else State.BLOCKED
                why = f"its allocation was refused: {reason_of(answer)}"
                return room + 1, made, Action(Verb.NOTHING, state, why, cause_of(answer))
            self.submitter.live += isinstance(answer, Submitted)
            made.append(
                f"allocation {answer.job_id}" if isinstance(answer, Submitted) else f"to be looked up: {answer.why}"
            )
            self.report.done.append((statuses[0].experiment, Action(Verb.SUBMIT, State.PENDING, made[-1])))
        return room, made, Action(Verb.NOTHING, State.PENDING, full, Cause.LIMIT)

    def _note_other_code(self, queues: Sequence[allocations.Queue]) -> None:
        """With --code current: note which existing allocations start experiments with other code."""
        if not self.context.current_code:
            return
        others = {
            job.id if job else allocation.name: None
            for queue in queues
            for allocation, job in queue.allocations
            if any(allocation.code_of(status) != self.submitter.code(status) for status in queue.statuses)
        }
        if others:
            self.report.notes.append(
                f"Allocations that keep the code they were submitted with: {', '.join(others)}. "
                "To run the present code: delete these jobs, then run a pass with --code current"
            )

    def _allocation(self, status: ExperimentStatus, like: Resources) -> allocations.Allocation:
        """A new allocation. It runs the code of an experiment that has never run."""
        assert isinstance(self.submitter.snapshot.identity, Identity)
        code = self.submitter.code(replace(status, record=Record(status.record.directory)))
        return self.context.allocation(status.experiment.round, like, self.submitter.snapshot.identity, code)

    def _allocation_script(self, status: ExperimentStatus, like: Resources) -> str:
        return self.context.allocation_script(self._allocation(status, like))


def submit(context: PassContext, allocation: allocations.Allocation) -> SubmitAnswer:
    """Submit an allocation, once. Nothing is written into records, so a lost submission loses nothing."""
    directory = job_group.directory_of(context.experiments / allocation.round, allocation.name)
    script = context.allocation_script(allocation)  # before anything is written: the template may be wrong
    job_group.make(directory)
    allocations.write(directory, allocation)
    files.replace(directory / job_group.SCRIPT, script.encode())
    answer = context.scheduler.submit(context.run, directory / job_group.SCRIPT, allocation.name)
    if isinstance(answer, Submitted):
        job_group.write_id(directory, answer.job_id)
    elif isinstance(answer, Refused):
        job_group.remove(directory)
    return answer
