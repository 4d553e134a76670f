"""Submission of one job, or of an array: attempts are opened, submitted once, and the answer is recorded."""

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
from roundhouse.model.answers import Scope, SubmitAnswer, Submitted, Unclear, task_id
from roundhouse.model.attempt import Opened
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Resources
from roundhouse.model.halving import pause_at
from roundhouse.model.plan import Action, State, Verb
from roundhouse.model.retry import request
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import job_group, json_fields, record

_FASTER = Action(Verb.NOTHING, State.SUBMITTING, "another runner was faster")
_KNOWS_FILES = "roundhouse/jobs/carry.py"  # copies of the code from before this module use the old layout
_AT_ONCE = 16  # attempts of an array that are opened in parallel: each waits for the disk several times


@dataclass
class Submitter:
    """Submits jobs of one pass. `live`: the number of jobs of the user, including those of this pass."""

    context: PassContext
    snapshot: SchedulerSnapshot
    report: PassReport
    act: bool = True

    def __post_init__(self) -> None:
        self.live = len(self.snapshot.alive_by_id)
        self.refusals = Refusals(self.context.site.queue)

    def code(self, status: ExperimentStatus) -> str | None:
        """The copy of the code that it runs; it is made if it does not exist yet."""
        return self.context.copies.of(status.experiment, status.record, self.act)

    def one(
        self, status: ExperimentStatus, shared: Path | None = None, resources: Resources | None = None
    ) -> tuple[SubmitAnswer | None, list[Action]]:
        """Open the next attempt and submit it, once. If anything fails on the way, a later pass detects it.

        `shared`: the directory of the allocation in which it starts, instead of being submitted, and `resources`: what
        it has there.
        """
        experiment, directory, number = status.experiment, status.record.directory, status.record.next_number
        token, wanted = record.new_token(), resources or status.resources
        script = self.script([status], token, need=wanted)  # before anything is opened: the template may be wrong
        path = record.attempt_directory(directory, number) / record.SCRIPT
        try:
            if not self._open(status, token, wanted, shared):
                return None, [_FASTER]
            files.replace(path, files.as_bytes(script))
            answer = self.context.scheduler.submit(self.context.run, path, token, wanted)
            if isinstance(answer, Submitted) and shared is None:
                record.record_job_id(directory, number, answer.job_id)
            elif isinstance(answer, Unclear) and shared is None:
                record.record_answer(directory, number, answer.why)
            action = self._record(status, answer, 1)
        except OSError as error:
            self.report.trouble.append(f"{experiment.path}: attempt {number} was not submitted correctly: {error}")
            return None, [Action(Verb.NOTHING, State.SUBMITTING, f"to be looked up: {error}")]
        self.live += isinstance(answer, Submitted)
        self.report.done.append((experiment, action))
        return answer, [action]

    def script(
        self, batch: Sequence[ExperimentStatus], name: str, at_once: int | None = None, need: Resources | None = None
    ) -> str:
        """The job script of a single job, which requests `need` or what its status says, or of an array of several."""
        first, code = batch[0], self.code(batch[0])
        if len(batch) == 1:
            return self.context.script(first.experiment, first.record.next_number, name, need or first.resources, code)
        array = {"tasks": len(batch), "at_once": at_once}
        return self.context.shared_script(first.experiment.round, name, first.resources, code, array)

    def array(self, batch: Sequence[ExperimentStatus], at_once: int | None) -> tuple[SubmitAnswer | None, list[Action]]:
        """Open the next attempt of each as a task of one array, and submit that, once.

        A task whose attempt another runner has opened stays in the array and exits at once.
        """
        name = record.new_token()
        shared = job_group.directory_of(self.context.experiments / batch[0].experiment.round, name)
        script = self.script(batch, name, at_once)  # before anything is opened: the template may be wrong
        try:
            job_group.make(shared)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                tokens = list(pool.map(self._open_task, batch, range(len(batch)), repeat(shared)))
            if not any(tokens):
                return None, [_FASTER] * len(batch)
            files.replace(shared / job_group.MANIFEST, files.as_bytes(manifest(batch, tokens)))
            if at_once is not None:
                job_group.write_at_once(shared, at_once)
            answer = self.submit_shared(shared, script)
            if isinstance(answer, Unclear):
                job_group.write_answer(shared, answer.why)
            actions = [
                self._record(status, answer, len(batch), index) if tokens[index] else _FASTER
                for index, status in enumerate(batch)
            ]
        except OSError as error:
            self.report.trouble.append(f"array {name} of {len(batch)} tasks was not submitted correctly: {error}")
            return None, [Action(Verb.NOTHING, State.SUBMITTING, f"to be looked up: {error}")] * len(batch)
        self.live += len(batch) * isinstance(answer, Submitted)
        self.report.done += [(status.experiment, action) for status, action in zip(batch, actions, strict=True)]
        return answer, actions

    def submit_shared(self, shared: Path, script: str) -> SubmitAnswer:
        """Submit the job whose directory is `shared`, an array or an allocation, once, and write its ID."""
        path = shared / job_group.SCRIPT
        files.replace(path, files.as_bytes(script))
        answer = self.context.scheduler.submit(self.context.run, path, shared.name)
        if isinstance(answer, Submitted):
            job_group.write_id(shared, answer.job_id)
        return answer

    def _open_task(self, status: ExperimentStatus, index: int, shared: Path) -> str | None:
        """Open one attempt as a task and return its token; None if another runner was faster."""
        token = record.new_token()
        return token if self._open(status, token, status.resources, shared, index) else None

    def _open(
        self, status: ExperimentStatus, token: str, wanted: Resources, shared: Path | None, index: int | None = None
    ) -> bool:
        experiment, directory = status.experiment, status.record.directory
        assert self.snapshot.scheduler is not None and status.inputs.pinned is not None
        code = self.code(status)
        opened = Opened(
            token,
            self.snapshot.scheduler,
            experiment.config_hash(),
            status.inputs.pinned,
            shared=os.path.relpath(shared, directory) if shared else None,
            index=index,
            resources=request(wanted, experiment.resources),
            code=code,
            pause_at=pause_at(experiment, status.record),
            files=self._files(experiment, code),
            carry=experiment.carry.files,
        )
        round_directory = self.context.experiments / experiment.round
        if not record.open_attempt(directory, status.record.next_number, opened, round_directory):
            return False
        record.write_config(directory, experiment)
        return True

    def _files(self, experiment: Experiment, code: str | None) -> str:
        """The folder of the attempt's files: that of a command, unless it runs a copy of code that does not know it."""
        if experiment.command is None:
            return ""
        known = code is None or (self.context.copies.path(experiment.round, code) / _KNOWS_FILES).exists()
        return json_fields.FILES if known else ""

    def _record(self, status: ExperimentStatus, answer: SubmitAnswer, jobs: int, index: int | None = None) -> Action:
        """Record the scheduler's answer to the submission of an attempt, as one of so many jobs."""
        if isinstance(answer, Submitted):
            job_id = task_id(answer.job_id, index)
            return Action(Verb.SUBMIT, State.IN_PROGRESS, status.action.reason, job_id=job_id)
        if isinstance(answer, Unclear):
            return Action(
                Verb.SUBMIT,
                State.SUBMITTING,
                f"it is unclear whether the job was accepted; it is looked up by its name: {answer.why}",
            )
        cause, scope, rec = cause_of(answer), answer.scope, status.record
        most = self.live + jobs - 1 if answer.later and scope is Scope.ALL else None
        if jobs > 1 and answer.splits and scope is not Scope.ALL:
            scope = Scope.SIZE  # of so many tasks; fewer are tried at once
        else:
            self.refusals.add(status.resources, answer)
        record.void(rec.directory, rec.next_number, cause, answer.why, jobs=most, scope=scope)
        state = State.BLOCKED if cause is Cause.SITE else State.PENDING
        return Action(Verb.SUBMIT, state, reason_of(answer), cause)


def manifest(batch: Sequence[ExperimentStatus], tokens: Sequence[str | None]) -> str:
    """One line for each task of an array: number and token of the attempt, and the path of the experiment."""
    return "".join(
        f"{status.record.next_number} {token} {status.experiment.path}\n" if token else "\n"
        for status, token in zip(batch, tokens, strict=True)
    )
