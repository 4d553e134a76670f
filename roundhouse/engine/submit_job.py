"""One job for one experiment, or an array for many: opened, submitted once, the scheduler's answer written down."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from roundhouse import files
from roundhouse.engine.context import PassContext
from roundhouse.engine.refusals import Refusals, cause_of, reason_of
from roundhouse.engine.report import PassReport
from roundhouse.engine.scheduler_snapshot import SchedulerSnapshot
from roundhouse.model.answers import Refused, Scope, SubmitAnswer, Submitted, Unclear, task_id
from roundhouse.model.attempt import Opened
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Resources
from roundhouse.model.halving import pause_at
from roundhouse.model.plan import Action, State, Verb
from roundhouse.model.retry import request
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import job_group, record

_FASTER = Action(Verb.NOTHING, State.SUBMITTING, "another runner was faster")
_AT_ONCE = 16  # attempts of an array that are opened side by side: each waits for the disk several times


@dataclass
class Submitter:
    """What one pass submits goes through here. `live`: jobs of the user, those of this pass included."""

    place: PassContext
    seen: SchedulerSnapshot
    report: PassReport
    act: bool = True

    def __post_init__(self) -> None:
        self.live = self.seen.live
        self.refusals = Refusals(self.place.site.queue)

    def code(self, row: ExperimentStatus) -> str | None:
        """The copy of the code that it is to run; it is made, if it is not there yet."""
        return self.place.copies.of(row.experiment, row.record, self.act)

    def one(
        self, row: ExperimentStatus, shared: Path | None = None, resources: Resources | None = None
    ) -> tuple[SubmitAnswer | None, list[Action]]:
        """Open the next attempt and submit it, once. Whatever goes wrong on the way, a later pass finds out.

        `shared`: the directory of the allocation in which it is started, instead of being submitted, and `resources`
        what it has there.
        """
        experiment, directory, number = row.experiment, row.record.directory, row.record.next_number
        token = record.new_token()
        asked = resources or row.resources
        script = self.script(row, token, asked)
        try:
            if not self._open(row, token, asked, os.path.relpath(shared, directory) if shared else None):
                return None, [_FASTER]
            path = record.attempt_directory(directory, number) / record.SCRIPT
            files.replace(path, script.encode())
            answer = self.place.scheduler.submit(self.place.run, path, token, asked)
            if isinstance(answer, Submitted) and shared is None:
                record.record_job_id(directory, number, answer.job_id)
            elif isinstance(answer, Unclear) and shared is None:
                record.record_answer(directory, number, answer.why)
            action = self._record(row, number, answer, 1)
        except OSError as error:
            self.report.trouble.append(f"{experiment.path}: attempt {number} was not submitted in order: {error}")
            return None, [Action(Verb.NOTHING, State.SUBMITTING, f"to be looked up: {error}")]
        self.live += isinstance(answer, Submitted)
        self.report.done.append((experiment, action))
        return answer, [action]

    def script(self, row: ExperimentStatus, token: str, asked: Resources) -> str:
        return self.place.script(row.experiment, row.record.next_number, token, asked, self.code(row))

    def _open(
        self, row: ExperimentStatus, token: str, asked: Resources, shared: str | None = None, index: int | None = None
    ) -> bool:
        experiment, directory, number = row.experiment, row.record.directory, row.record.next_number
        assert self.seen.here is not None and row.inputs.pinned is not None
        opened = Opened(
            token,
            self.seen.here,
            experiment.config_hash(),
            row.inputs.pinned,
            shared=shared,
            index=index,
            resources=request(asked, experiment.resources),
            code=self.code(row),
            pause_at=pause_at(experiment, row.record),
        )
        if not record.open_attempt(directory, number, opened, self.place.experiments / experiment.round):
            return False
        record.write_config(directory, experiment)
        return True

    def _record(
        self, row: ExperimentStatus, number: int, answer: SubmitAnswer, jobs: int, index: int | None = None
    ) -> Action:
        """Write down what the scheduler said to the submission of an attempt, as one of so many jobs."""
        if isinstance(answer, Submitted):
            job_id = task_id(answer.job_id, index)
            return Action(Verb.SUBMIT, State.IN_PROGRESS, row.action.reason, job_id=job_id)
        if isinstance(answer, Refused):
            cause, scope = cause_of(answer), answer.scope
            most = self.live + jobs - 1 if answer.later and scope is Scope.ALL else None
            if jobs > 1 and answer.splits and scope is not Scope.ALL:
                scope = Scope.SIZE  # of so many tasks; fewer are tried at once
            else:
                self.refusals.add(row.resources, answer)
            record.void(row.record.directory, number, cause, answer.why, jobs=most, scope=scope)
            state = State.BLOCKED if cause is Cause.SITE else State.PENDING
            return Action(Verb.SUBMIT, state, reason_of(answer), cause)
        return Action(Verb.SUBMIT, State.SUBMITTING, f"no clear answer, to be looked up: {answer.why}")

    def array(self, batch: Sequence[ExperimentStatus], at_once: int | None) -> tuple[SubmitAnswer | None, list[Action]]:
        """Open the next attempt of each as a task of one array, and submit that, once.

        A task whose attempt another runner has opened stays in the array, with nothing to do.
        """
        name = record.new_token()
        shared = job_group.directory_of(self.place.experiments / batch[0].experiment.round, name)
        try:
            job_group.make(shared)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                tokens = list(pool.map(self._open_task, batch, range(len(batch)), repeat(shared)))
            if not any(tokens):
                return None, [_FASTER] * len(batch)
            files.replace(shared / job_group.MANIFEST, manifest(batch, tokens).encode())
            if at_once is not None:
                job_group.write_at_once(shared, at_once)
            files.replace(shared / job_group.SCRIPT, self.array_script(batch, name, at_once).encode())
            answer = self.place.scheduler.submit(self.place.run, shared / job_group.SCRIPT, name)
            if isinstance(answer, Submitted):
                job_group.write_id(shared, answer.job_id)
            elif isinstance(answer, Unclear):
                job_group.write_answer(shared, answer.why)
            actions = [
                self._record(row, row.record.next_number, answer, len(batch), index) if tokens[index] else _FASTER
                for index, row in enumerate(batch)
            ]
        except OSError as error:
            self.report.trouble.append(f"array {name} of {len(batch)} tasks was not submitted in order: {error}")
            return None, [Action(Verb.NOTHING, State.SUBMITTING, f"to be looked up: {error}")] * len(batch)
        self.live += len(batch) * isinstance(answer, Submitted)
        self.report.done += [(row.experiment, action) for row, action in zip(batch, actions, strict=True)]
        return answer, actions

    def array_script(self, batch: Sequence[ExperimentStatus], name: str, at_once: int | None) -> str:
        round_name, like, code = batch[0].experiment.round, batch[0].resources, self.code(batch[0])
        return self.place.array_script(round_name, like, code, name, len(batch), at_once)

    def _open_task(self, row: ExperimentStatus, index: int, shared: Path) -> str | None:
        """Open one attempt as a task: its token; None if it is not to run, since another runner was faster."""
        token = record.new_token()
        place = os.path.relpath(shared, row.record.directory)
        return token if self._open(row, token, row.resources, place, index) else None


def manifest(batch: Sequence[ExperimentStatus], tokens: Sequence[str | None]) -> str:
    """What each task of an array runs, a line each: number and token of the attempt, and the experiment's path."""
    return "".join(
        f"{row.record.next_number} {token} {row.experiment.path}\n" if token else "\n"
        for row, token in zip(batch, tokens, strict=True)
    )
