"""One pass over a round: look, decide, act, report. Decisions are `plan`'s, files are `record`'s; this carries out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from roundhouse import files
from roundhouse.engine import allocations
from roundhouse.engine.context import PassContext
from roundhouse.engine.report import PassReport
from roundhouse.engine.scheduler_snapshot import NOT_ASKED, SchedulerSnapshot, answer_for, look, stale_jobs
from roundhouse.engine.study_check import Readiness
from roundhouse.engine.submit import Submissions
from roundhouse.engine.submit_job import Submitter
from roundhouse.errors import RoundhouseError
from roundhouse.model import halving
from roundhouse.model.answers import Job
from roundhouse.model.attempt import Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import Action, Clock, Inputs, State, Verb, decide
from roundhouse.model.retry import policy_of
from roundhouse.model.selection import Selections
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import record
from roundhouse.store.archive import Archive, make_directory
from roundhouse.store.logs import last_words
from roundhouse.store.markers import mark
from roundhouse.views import status_json

_HOPELESS = (State.FAILED, State.CANCELLED, State.BLOCKED, State.PRUNED)


def run_pass(
    place: PassContext,
    experiments: Sequence[Experiment],
    *,
    act: bool = True,
    limit: int | None = None,
    only: Callable[[Experiment], bool] = lambda experiment: True,
) -> PassReport:
    """Look at all experiments, act on those chosen by `only`, submit at most `limit` jobs. Without `act`, only tell."""
    records = [record.read(place.directory(experiment)) for experiment in experiments]
    if all(rec.folded for rec in records):
        seen, clock = NOT_ASKED, Clock(0.0, 0.0, 0.0)
    else:
        if act:
            place.experiments.mkdir(parents=True, exist_ok=True)
        for name in {experiment.round for experiment in experiments} if act else ():
            make_directory(Archive.of(name, place.experiments, place.analysis or place.repository / "analysis"))
        seen = look(place.scheduler, place.run, records)
        now = files.server_time(place.experiments) if act or place.experiments.exists() else time.time()
        clock = Clock(now, place.scheduler.grace, place.settle, place.backoff)
    report = PassReport(clock=clock, asking=seen.took)
    if seen.trouble and seen is not NOT_ASKED:
        report.blind = True
        report.trouble.append(f"the scheduler cannot be asked, so nothing is judged or submitted: {seen.trouble}")
    desk = Desk(place, seen, clock, report, act)
    rows: dict[str, ExperimentStatus] = {}
    selections = Selections(rows)
    for experiment, rec in inputs_first(experiments, records):
        experiment = selections.resolve(experiment)
        rows[experiment.path] = desk.settle(experiment, rec, rows, act and only(experiment))
    verdicts = halving.judged(rows)
    for path, row in verdicts.items():
        rows[path] = desk.prune(row) if act and only(row.experiment) and row.action.verb is Verb.PRUNE else row
    desk.settle_again(verdicts, experiments, rows)
    if act:
        stale = stale_jobs(records, (row.record for row in rows.values()), seen)
        for name in {experiment.round for experiment in experiments}:
            stale += allocations.useless(place.experiments / name, rows.values(), seen)
        if (stale or desk.to_delete) and not seen.trouble:
            report.trouble += place.scheduler.cancel(place.run, [*stale, *desk.to_delete])
    chosen = [experiment.path for experiment in experiments if only(experiment)]
    submissions = Submissions(Submitter(place, seen, report, act), clock, rows.values())
    refused = []
    for row in submissions.submit([rows[path] for path in chosen], limit):
        rows[row.experiment.path] = row
        refused += [row.experiment.path] if row.action.cause is Cause.SITE else []
    desk.settle_again(refused, experiments, rows)
    if act:
        for path in chosen:
            desk.refresh(rows[path])
    report.rows = [rows[path] for path in chosen]
    report.trouble += [f"{row.experiment.path}: {row.record.damage}" for row in report.rows if not row.record.readable]
    return report


def inputs_first(experiments: Sequence[Experiment], records: Sequence[Record]) -> Iterator[tuple[Experiment, Record]]:
    """The experiments in an order in which each comes after all that it waits for."""
    if not any(experiment.after for experiment in experiments):
        yield from zip(experiments, records, strict=True)
        return
    from graphlib import TopologicalSorter

    pairs = {experiment.path: (experiment, rec) for experiment, rec in zip(experiments, records, strict=True)}
    waits = {one.path: [path for paths in one.after.values() for path in paths] for one in experiments}
    for path in TopologicalSorter(waits).static_order():
        yield pairs[path]


def waiting_for(
    paths: Iterable[str], experiments: Sequence[Experiment], rows: Mapping[str, ExperimentStatus]
) -> Iterator[Experiment]:
    """What is pending and waits for one of these, directly or not, in an order in which inputs come first.

    Verdicts at rungs are made when all is settled, so what waits for those that paused is to be looked at once more.
    """
    changed = set(paths)
    if not changed:
        return
    for experiment, _ in inputs_first(experiments, [rows[one.path].record for one in experiments]):
        pending = rows[experiment.path].action.state is State.PENDING and experiment.path not in changed
        if pending and any(path in changed for named in experiment.after.values() for path in named):
            changed.add(experiment.path)
            yield experiment


def inputs_of(experiment: Experiment, rows: Mapping[str, ExperimentStatus]) -> Inputs:
    """What the experiment waits for, as the rows of the experiments named in its `after` tell it."""
    if experiment.undecided and experiment.selection:
        choice = experiment.selection
        return Inputs(None, choice.waiting, choice.hopeless, choice.blocked)
    pinned: dict[str, Any] = {}
    for group, paths in experiment.after.items():
        for path in paths:
            state, reason, done = rows[path].action.state, rows[path].action.reason, rows[path].record.completed
            if done is None or state is not State.COMPLETED:
                hopeless = state in _HOPELESS or rows[path].inputs.hopeless
                told = f": {reason}" if reason and hopeless else ""
                return Inputs(None, f"waits for {path}, which is {state}{told}", hopeless)
            best = done.progress.artifacts.get("best.pth") if done.progress else None
            identity = {"sha256": best} if best else {"token": done.opened.token}
            pinned.setdefault(group, []).append({"path": path, **identity})
    return Inputs(pinned)


def hash_to_expect(experiment: Experiment, rec: Record) -> str:
    """The config hash that a record must have. While a choice is still to be made, what has run stands."""
    return rec.runs[0].opened.config_hash if experiment.undecided and rec.runs else experiment.config_hash()


@dataclass
class Desk:
    """One pass at work."""

    place: PassContext
    seen: SchedulerSnapshot
    clock: Clock
    report: PassReport
    act: bool

    def __post_init__(self) -> None:
        self.readiness = Readiness(self.place.repository, self.place.site)
        self.retry = self.place.site.retry.written()
        self.to_delete: list[str] = []  # IDs of jobs whose experiments are to be cancelled

    def settle(
        self, experiment: Experiment, rec: Record, rows: Mapping[str, ExperimentStatus], act: bool
    ) -> ExperimentStatus:
        """Decide and act, as long as one action leads on to another; a submission is left for later."""
        before = rec.newest
        if before is not None and not before.closed:
            rec = record.read(rec.directory)  # what is judged must not be older than the scheduler's answer
        inputs, retry = inputs_of(experiment, rows), policy_of(self.retry, experiment.retry)
        expected = hash_to_expect(experiment, rec)
        for _ in range(3):
            answer = answer_for(rec.newest, before, self.seen)
            action = decide(rec, answer, inputs, self.clock, expected, self.seen.here, retry)
            if not act or action.verb in (Verb.NOTHING, Verb.SUBMIT) or not self._carry_out(experiment, rec, action):
                break
            self.report.done.append((experiment, action))
            rec = record.read(rec.directory)
            if action.verb is Verb.KILL:
                break
        # What waits is asked about too: its mistake is told today, not once all that it waits for is completed.
        to_come = action.state is State.PENDING and action.verb in (Verb.NOTHING, Verb.SUBMIT)
        refusal = self.readiness.refusal(experiment) or self.place.copies.refusal(experiment, rec) if to_come else ""
        if refusal:
            action = Action(Verb.NOTHING, State.BLOCKED, f"cannot start: {refusal}")
        elif action.verb is Verb.SUBMIT and self.seen.trouble:
            action = Action(Verb.NOTHING, State.PENDING, "the scheduler cannot be asked")
        if action.state is State.BLOCKED and rec.runs and rec.runs[0].opened.config_hash != expected:
            action = replace(action, reason=action.reason + _difference(rec.directory, experiment))
        if action.state is State.FAILED and rec.runs:
            action = replace(action, reason=action.reason + last_words(rec))
        job = answer if isinstance(answer, Job) else None
        return ExperimentStatus(experiment, rec, action, inputs, job.state.value if job else None, refusal, retry)

    def settle_again(
        self, paths: Iterable[str], experiments: Sequence[Experiment], rows: dict[str, ExperimentStatus]
    ) -> None:
        """Decide anew about what waits for these, whose state has changed since."""
        selections = Selections(rows)
        for experiment in waiting_for(paths, experiments, rows):
            again = selections.resolve(experiment)
            rows[experiment.path] = self.settle(again, rows[experiment.path].record, rows, act=False)

    def _carry_out(self, experiment: Experiment, rec: Record, action: Action) -> bool:
        """One step of the protocol. That another was faster is fine: the record, read again, tells."""
        assert rec.newest is not None
        directory, number = rec.directory, rec.newest.number
        cause = action.cause or Cause.UNKNOWN
        try:
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
                self.to_delete.append(action.job_id)
        except OSError as error:
            self.report.trouble.append(f"{experiment.path}: could not {action.verb.value}: {error}")
            return False
        return True

    def prune(self, row: ExperimentStatus) -> ExperimentStatus:
        """Leave an experiment behind, by a mark. That another runner was faster is fine: the next pass tells."""
        try:
            if not mark(row.record, row.experiment, Cause.PRUNED, row.action.reason):
                return replace(row, action=Action(Verb.NOTHING, State.PENDING, "another runner was faster"))
        except OSError as error:
            self.report.trouble.append(f"{row.experiment.path}: could not be pruned: {error}")
            return replace(row, action=Action(Verb.NOTHING, State.PENDING, "could not be pruned yet"))
        self.report.done.append((row.experiment, row.action))
        pruned = Action(Verb.NOTHING, State.PRUNED, row.action.reason, Cause.PRUNED)
        return replace(row, action=pruned, record=record.read(row.record.directory))

    def refresh(self, row: ExperimentStatus) -> None:
        """Bring up to date what is derived: links to the outputs, the folded history, status.json."""
        rec = row.record
        try:
            if rec.folded and row.action.state is State.COMPLETED and record.status_says(rec.directory, "completed"):
                return  # final; and there may be very many of them
            if rec.completed and not rec.folded and not rec.damage:
                record.link_outputs(rec)
                record.fold(rec)
            if rec.attempts or (rec.damage and rec.readable):
                record.write_status(rec.directory, status_json.file_content(row))
        except OSError as error:
            self.report.trouble.append(f"{row.experiment.path}: its files could not be brought up to date: {error}")


def _difference(directory: Path, experiment: Experiment) -> str:
    """Which keys of the round file differ from what has run."""
    try:
        then = record.read_config(directory)
    except RoundhouseError:
        return ""
    now = experiment.identity()
    parts = {"study": (then.get("study"), now["study"]), "command": (then.get("command"), now["command"])}
    parts |= {
        f"after.{key}": (then["after"].get(key), now["after"].get(key)) for key in {**then["after"], **now["after"]}
    }
    parts |= {key: (then["config"].get(key), now["config"].get(key)) for key in {**then["config"], **now["config"]}}
    told = ", ".join(f"{key} was {old!r}, is now {new!r}" for key, (old, new) in parts.items() if old != new)
    if told and experiment.selection:
        told += (
            f". It selects from group {experiment.selection.group}, whose results now say {experiment.selection.choice}"
        )
    return f": {told}. Restore it in the round file, or give the new experiment a path of its own" if told else ""
