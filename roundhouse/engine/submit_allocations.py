"""Submission of allocations: as many as the waiting experiments need, within the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from roundhouse.engine import allocations
from roundhouse.engine.refusals import blocked, cause_of, held_back, reason_of
from roundhouse.engine.report import PlannedJob
from roundhouse.engine.submit_job import Submitter
from roundhouse.model.answers import Identity, Refused, Scope, SubmitAnswer, Submitted
from roundhouse.model.attempt import Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Resources
from roundhouse.model.plan import Action, Clock, State, Verb
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import job_group, record

MOST_START_FAILURES = 2  # as many as attempts that end with an error, by default


@dataclass
class Allocating:
    """The part of one pass that submits allocations. `room`: how many more jobs may be submitted; `full`: why no more.

    Nothing is written into records, so a lost submission has no effect on them.
    """

    submitter: Submitter
    clock: Clock
    room: int
    full: str

    def __post_init__(self) -> None:
        self.context, self.report = self.submitter.context, self.submitter.report

    def allocate(self, like: Resources, statuses: Sequence[ExperimentStatus]) -> list[ExperimentStatus]:
        """Submit the allocations that experiments of the same resource request still need. Returns their statuses."""
        folder = self.context.experiments / statuses[0].experiment.round
        found = allocations.alive(folder, self.submitter.snapshot, self.clock.now, self.clock.submission_delay)
        living = [(allocation, job) for allocation, job in found if allocation.resources == like]
        queues = allocations.queues(statuses, living)
        waiting = [status.experiment.path for queue in queues if not queue.stuck for status in queue.statuses]
        wanted = allocations.wanted(waiting, like, [allocation for allocation, _ in living])
        more: list[str] = []
        failures = allocations.start_failures(folder, like, self.context.setup_hash)
        if len(failures) >= MOST_START_FAILURES:
            otherwise = _start_failed(failures)
        else:
            more, otherwise = self._submit(statuses, like, wanted)
            if not wanted:  # though no allocation may take some of them
                full = f"limit reached: max_running: {like.max_running}"
                full += ", and the existing allocations were submitted with --only"
                otherwise = replace(otherwise, reason=full)
        self._note_other_code(queues)
        changed = [status for queue in queues for status in queue.waiting(more, otherwise)]
        if otherwise.cause is Cause.SITE and (refused := self.submitter.refusals.of(like)):
            changed = [blocked(status, refused) if status.action is otherwise else status for status in changed]
        return changed

    def _submit(self, statuses: Sequence[ExperimentStatus], like: Resources, wanted: int) -> tuple[list[str], Action]:
        """Submit allocations. Returns a name for each, and the action of an experiment that none takes."""
        made: list[str] = []
        for _ in range(min(wanted, self.room)):
            if refused := self.submitter.refusals.of(like):
                return made, held_back(statuses[0], refused).action
            self.room -= 1
            if not self.submitter.act:
                made.append("an allocation that would be submitted")
                self.report.planned.append(
                    PlannedJob("allocation", statuses, like, lambda: self._script(self._allocation(statuses[0], like)))
                )
                continue
            try:
                answer = self._submit_one(self._allocation(statuses[0], like))
            except OSError as error:
                name = statuses[0].experiment.round
                self.report.trouble.append(f"an allocation of round {name} was not submitted correctly: {error}")
                break
            if isinstance(answer, Refused):
                self.submitter.refusals.add(like, answer)
                if answer.later and answer.scope is Scope.ALL:
                    self.room, self.full = 0, reason_of(answer)
                    break
                self.room += 1
                state = State.PENDING if answer.later else State.BLOCKED
                why = f"its allocation was refused: {reason_of(answer)}"
                return made, Action(Verb.NOTHING, state, why, cause_of(answer))
            if isinstance(answer, Submitted):
                self.submitter.live += 1
                made.append(f"allocation {answer.job_id}")
            else:
                made.append(f"to be looked up: {answer.why}")
            self.report.done.append((statuses[0].experiment, Action(Verb.SUBMIT, State.PENDING, made[-1])))
        return made, Action(Verb.NOTHING, State.PENDING, self.full, Cause.LIMIT)

    def _submit_one(self, allocation: allocations.Allocation) -> SubmitAnswer:
        directory = job_group.directory_of(self.context.experiments / allocation.round, allocation.name)
        script = self._script(allocation)  # before anything is written: the template may be wrong
        job_group.make(directory)
        allocations.write(directory, allocation)
        answer = self.submitter.submit_shared(directory, script)
        if isinstance(answer, Refused):
            job_group.remove(directory)
        return answer

    def _script(self, allocation: allocations.Allocation) -> str:
        return self.context.shared_script(allocation.round, allocation.name, allocation.resources, allocation.code)

    def _allocation(self, status: ExperimentStatus, like: Resources) -> allocations.Allocation:
        """A new allocation. It runs the code of an experiment that has never run."""
        context, identity = self.context, self.submitter.snapshot.identity
        assert isinstance(identity, Identity)
        return allocations.Allocation(
            record.new_token(),
            status.experiment.round,
            like,
            identity,
            rounds=str(context.rounds or context.repository / "rounds"),
            analysis=str(context.analysis or context.repository / "analysis"),
            setup=context.setup_hash,
            site=context.site.name if context.site.name != "default" else None,
            code=self.submitter.code(replace(status, record=Record(status.record.directory))),
            current_code=context.current_code,
            only=context.only,
        )

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


def _start_failed(failures: Sequence[tuple[Path, str]]) -> Action:
    """The action of experiments whose allocations end before any experiment starts."""
    directory, why = failures[-1]
    reason = (
        f"{len(failures)} allocations did not start ({why}): correct the site file. "
        f"To submit again without a change, remove {directory / job_group.FAILURE}"
    )
    return Action(Verb.NOTHING, State.BLOCKED, reason)
