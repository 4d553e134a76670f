"""Allocations for experiments that want a slot in one: as many as it takes, within the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from roundhouse import files
from roundhouse.engine import allocations
from roundhouse.engine.context import PassContext
from roundhouse.engine.refusals import blocked, cause_of, held_back, reason_of
from roundhouse.engine.report import Foreseen
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
    """One pass, as far as it sees to allocations."""

    submitter: Submitter
    clock: Clock

    def __post_init__(self) -> None:
        self.place, self.report = self.submitter.place, self.submitter.report

    def allocate(
        self, like: Resources, rows: Sequence[ExperimentStatus], room: int, full: str
    ) -> tuple[int, list[ExperimentStatus]]:
        """See to it that there are allocations for experiments that ask for the same; they wait for a slot in one.

        Returns the room that is left, and how these experiments stand.
        """
        folder = self.place.experiments / rows[0].experiment.round
        found = allocations.alive(folder, self.submitter.seen, self.clock.now, self.clock.settle)
        living = [(allocation, job) for allocation, job in found if allocation.resources == like]
        queues = allocations.queues(rows, living)
        waiting = [row.experiment.path for queue in queues if not queue.stuck for row in queue.rows]
        wanted = allocations.wanted(waiting, like, [allocation for allocation, _ in living])
        if not wanted:  # and yet something may have no allocation that takes it
            full = f"limit reached: max_running: {like.max_running}"
            full += ", and the allocations that live were submitted with --only"
        room, more, otherwise = self._submit_allocations(rows, like, wanted, room, full)
        self._tell_of_other_code(queues)
        stand = [row for queue in queues for row in queue.stand(more, otherwise)]
        if otherwise.cause is Cause.SITE and (refused := self.submitter.refusals.of(like)):
            stand = [blocked(row, refused) if row.action is otherwise else row for row in stand]
        return room, stand

    def _submit_allocations(
        self, rows: Sequence[ExperimentStatus], like: Resources, wanted: int, room: int, full: str
    ) -> tuple[int, list[str], Action]:
        """Submit some allocations for experiments that ask for the same.

        Returns the room that is left, what to call each of them, and how an experiment stands that no allocation takes.
        """
        made: list[str] = []
        for _ in range(min(wanted, room)):
            if refused := self.submitter.refusals.of(like):
                return room, made, held_back(rows[0], refused).action
            room -= 1
            if not self.submitter.act:
                made.append("an allocation that would be submitted")
                self.report.foreseen.append(
                    Foreseen("allocation", rows, like, lambda: self._allocation_script(rows[0], like))
                )
                continue
            try:
                answer = submit(self.place, self._allocation(rows[0], like))
            except OSError as error:
                name = rows[0].experiment.round
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
            self.report.done.append((rows[0].experiment, Action(Verb.SUBMIT, State.PENDING, made[-1])))
        return room, made, Action(Verb.NOTHING, State.PENDING, full, Cause.LIMIT)

    def _tell_of_other_code(self, queues: Sequence[allocations.Queue]) -> None:
        """Where the present code is asked for: which allocations that are there will start something with another."""
        if not self.place.current_code:
            return
        others = {
            job.id if job else allocation.name: None
            for queue in queues
            for allocation, job in queue.allocations
            if any(allocation.code_of(row) != self.submitter.code(row) for row in queue.rows)
        }
        if others:
            self.report.notes.append(
                f"Allocations that keep to the code they were submitted with, whatever they take: {', '.join(others)}. "
                "For the present code: delete these jobs, and then pass again with --code current"
            )

    def _allocation(self, row: ExperimentStatus, like: Resources) -> allocations.Allocation:
        """One more allocation. It runs the code that an experiment would which has never run."""
        assert isinstance(self.submitter.seen.identity, Identity)
        code = self.submitter.code(replace(row, record=Record(row.record.directory)))
        return self.place.allocation(row.experiment.round, like, self.submitter.seen.identity, code)

    def _allocation_script(self, row: ExperimentStatus, like: Resources) -> str:
        return self.place.allocation_script(self._allocation(row, like))


def submit(place: PassContext, allocation: allocations.Allocation) -> SubmitAnswer:
    """Submit an allocation, once. It writes nothing into records, so one that is lost loses nothing."""
    directory = job_group.directory_of(place.experiments / allocation.round, allocation.name)
    job_group.make(directory)
    allocations.write(directory, allocation)
    files.replace(directory / job_group.SCRIPT, place.allocation_script(allocation).encode())
    answer = place.scheduler.submit(place.run, directory / job_group.SCRIPT, allocation.name)
    if isinstance(answer, Submitted):
        job_group.write_id(directory, answer.job_id)
    elif isinstance(answer, Refused):
        job_group.remove(directory)
    return answer
