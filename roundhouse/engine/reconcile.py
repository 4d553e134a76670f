"""The steps of the record protocol that an evaluation requires, and the files that are derived from a record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from roundhouse.engine.context import PassContext
from roundhouse.engine.reason_details import details
from roundhouse.engine.report import PassReport
from roundhouse.engine.scheduler_snapshot import SchedulerSnapshot, answer_for
from roundhouse.engine.study_check import StudyChecks, gpu_refusal, path_refusal, start_refusal
from roundhouse.model.attempt import Record
from roundhouse.model.causes import Cause
from roundhouse.model.evaluate import Evidence
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import Action, Answer, Clock, State, Verb
from roundhouse.model.status import ExperimentStatus
from roundhouse.schedulers.local import Local
from roundhouse.store import carried, history, metrics, record
from roundhouse.store.accepted import accepted
from roundhouse.store.input_files import InputFiles
from roundhouse.store.markers import mark
from roundhouse.views import status_json

MOST_STEPS = 3  # for one experiment in one pass


@dataclass
class Reconciler:
    """Gathers the evidence for an evaluation, and brings the records in line with its result.

    `records`: by path, as they were read before the scheduler was queried.
    """

    context: PassContext
    snapshot: SchedulerSnapshot
    clock: Clock
    report: PassReport
    records: dict[str, Record]

    def __post_init__(self) -> None:
        self.jobs_to_delete: list[str] = []  # IDs of jobs whose experiments are cancelled
        self._finished: set[str] = set()  # paths for which no further step is carried out
        self._before = {path: rec.newest for path, rec in self.records.items()}
        for path, newest in self._before.items():
            if newest is not None and not newest.closed:  # a record must not be older than the scheduler's answer
                self.records[path] = record.read(self.records[path].directory)
        self._checks = StudyChecks(self.context.repository, self.context.site)
        self.evidence = Evidence(
            self.records,
            metrics,
            self.clock,
            answer=self._answer,
            scheduler=self.snapshot.scheduler,
            query_error=self.snapshot.error,
            files=InputFiles(self.context.repository),
            refusal=self._refusal,
            details=details,
            accepted=accepted,
        )

    def _answer(self, experiment: Experiment, rec: Record) -> Answer:
        return answer_for(rec.newest, self._before.get(experiment.path, rec.newest), self.snapshot)

    def _refusal(self, experiment: Experiment, rec: Record) -> str:
        scheduler = self.context.scheduler
        without_gpus = type(scheduler) is Local and not scheduler.pool.layout.gpus  # not a slot of an allocation
        return (
            self._checks.refusal(experiment)
            or (gpu_refusal(experiment) if without_gpus else "")
            or self.context.copies.refusal(experiment, rec)
            or path_refusal(self.context.experiments.absolute(), experiment)
            or start_refusal(self.context.repository, experiment)
        )

    def carry_out(self, statuses: Iterable[ExperimentStatus]) -> list[str]:
        """Carry out the step that each status requires, if any. Returns the paths whose records were read again."""
        changed = []
        for status in statuses:
            path, action = status.experiment.path, status.action
            if action.verb in (Verb.NOTHING, Verb.SUBMIT) or path in self._finished:
                continue
            try:
                if self._step(status.experiment, status.record, action):
                    self.report.done.append((status.experiment, action))
            except OSError as error:
                self.report.trouble.append(f"{path}: could not {action.verb.value}: {error}")
                self._finished.add(path)
                continue
            if action.verb is Verb.KILL:
                self._finished.add(path)
            else:
                self.records[path] = record.read(status.record.directory)
                changed.append(path)
        return changed

    def _step(self, experiment: Experiment, rec: Record, action: Action) -> bool:
        """One step of the protocol. If another runner was faster, the record shows so when it is read again."""
        if action.verb is Verb.PRUNE:
            return mark(rec, experiment, Cause.PRUNED, action.reason)
        assert rec.newest is not None
        directory, number = rec.directory, rec.newest.number
        cause = action.cause or Cause.UNKNOWN
        if action.verb is Verb.ADOPT and action.job_id:
            record.record_job_id(directory, number, action.job_id)
        elif action.verb is Verb.VOID:
            record.void(directory, number, cause, action.reason)
        elif action.verb is Verb.CLOSE:
            record.close(directory, number, cause, action.reason)
        elif action.verb is Verb.VERDICT:
            record.write_verdict(directory, number, cause, action.reason)
        elif action.verb is Verb.MARK_GONE:
            record.mark_gone(directory, number)
        elif action.verb is Verb.UNMARK_GONE:
            record.unmark_gone(directory, number)
        elif action.verb is Verb.KILL and action.job_id:
            self.jobs_to_delete.append(action.job_id)
        return True

    def refresh(self, status: ExperimentStatus) -> None:
        """Update what is derived from the record: links to the outputs, the compacted history, status.json."""
        rec = status.record
        try:
            if (
                rec.compacted
                and status.action.state is State.COMPLETED
                and record.status_says(rec.directory, "completed")
            ):
                return  # nothing changes any more, and there may be very many of them
            if status.experiment.carry.keep and not rec.compacted and not rec.damage:
                carried.delete_copied_files(rec, status.experiment.carry.keep)
            if rec.completed and not rec.compacted and not rec.damage:
                carried.link_outputs(rec)
                history.compact(rec)
            if rec.attempts or (rec.damage and rec.readable):
                record.write_status(rec.directory, status_json.file_content(status))
        except OSError as error:
            self.report.trouble.append(f"{status.experiment.path}: its files could not be updated: {error}")
