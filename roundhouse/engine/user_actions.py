"""User actions: cancel, retry, archive. Each sets a marker in the record, which is opened as any attempt is."""

from __future__ import annotations

from collections.abc import Iterable

from roundhouse.engine.context import PassContext
from roundhouse.model.attempt import Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import record
from roundhouse.store.markers import mark

_FASTER = "refused, another runner has just opened an attempt"


def cancel(context: PassContext, statuses: Iterable[ExperimentStatus]) -> tuple[list[str], list[str]]:
    """Cancel experiments that have not ended: no further job starts, and running ones are stopped.

    Returns a line for each experiment that was changed, and a line for each failure.
    """
    lines, failed, jobs = [], [], []
    for status in statuses:
        if status.action.state.final:
            continue
        try:
            if done := _cancel(status):
                lines.append(f"{status.experiment.path}: {done}")
        except OSError as error:
            failed.append(f"{status.experiment.path}: could not be cancelled: {error}")
            continue
        newest = status.record.newest
        # An allocation runs other experiments too. Without a state, the job is not known to this scheduler.
        if newest and not newest.opened.packed and newest.job_id and status.job_state:
            jobs.append(newest.job_id)
    if jobs:
        failed += context.scheduler.cancel(context.run, jobs)
    return lines, failed


def _cancel(status: ExperimentStatus) -> str:
    """What was done; empty if the experiment had ended already."""
    rec = record.read(status.record.directory)
    if not rec.readable:
        raise OSError(rec.damage)
    if rec.newest is None or rec.newest.closed:
        if mark(rec, status.experiment, Cause.CANCELLED, "by the user"):
            return f"cancelled before its {'next' if rec.runs else 'first'} attempt"
        rec = record.read(rec.directory)  # a runner has opened an attempt just now
    newest = rec.newest
    if newest is None or newest.closed:
        return ""
    if record.void(rec.directory, newest.number, Cause.CANCELLED, "by the user"):
        return f"attempt {newest.number} cancelled before it started"
    record.request_cancel(rec.directory, newest.number)
    if status.job_state:
        return f"stopping attempt {newest.number}"
    # The job belongs to another scheduler, or this one could not be queried.
    why = f"; {status.action.reason}" if status.action.reason else ""
    what = f"attempt {newest.number} marked to stop, but its job was not signalled"
    return f"{what}: if it uses these files, it sees the marker within a minute{why}"


def retry(statuses: Iterable[ExperimentStatus], named: bool = False) -> list[str]:
    """Retry failed and cancelled experiments: set a marker after which the retry limits start again.

    Pruned and diverged ones only if they are `named`: the round is done with them, and there may be many.
    Returns a line for each experiment that was failed, cancelled or unreadable, or whose attempt is open.
    """
    again = (State.FAILED, State.CANCELLED, *([State.PRUNED, State.DIVERGED] if named else []))
    lines = []
    for status in statuses:
        path, state = status.experiment.path, status.action.state
        rec = record.read(status.record.directory)
        if rec.compacted and rec.damage:
            why = f"it was completed, and its {rec.damage}: restore it, or remove {rec.directory}"
            lines.append(f"{path}: refused, {why}")
        if rec.compacted or state is State.COMPLETED:
            continue
        if not rec.readable:
            lines.append(f"{path}: refused, {rec.damage}")
        elif rec.damage:
            lines.append(f"{path}: {_retry_unreadable(rec, status.experiment)}")
        elif rec.newest is not None and not rec.newest.closed:
            lines.append(f"{path}: refused, attempt {rec.newest.number} is open: wait for it, or --cancel it first")
        elif state in again or _elsewhere(status):
            done = mark(rec, status.experiment, Cause.RETRY, "by the user")
            lines.append(f"{path}: {'will be retried' if done else _FASTER}")
    return lines


def _elsewhere(status: ExperimentStatus) -> bool:
    """Closed, and blocked only because it has run through another scheduler."""
    runs = status.record.runs
    if status.action.state is not State.BLOCKED or status.refusal or status.inputs.blocked:
        return False
    return bool(runs) and runs[0].opened.config_hash == status.experiment.config_hash()


def mark_archived(statuses: Iterable[ExperimentStatus]) -> list[str]:
    """Take the next attempt of every experiment that has not ended, so that no late runner can open it.

    Returns what prevents archiving: a line for each experiment with an open attempt. Call again until there is none.
    """
    open_ones = []
    for status in statuses:
        rec = record.read(status.record.directory)
        ended = (Cause.ARCHIVED, Cause.PRUNED, Cause.DIVERGED)
        if rec.compacted or rec.completed or (rec.newest and rec.newest.cause in ended):
            continue
        if rec.damage or (rec.newest and not rec.newest.closed):
            open_ones.append(f"{status.experiment.path}: attempt {rec.next_number - 1} is open")
        elif not mark(rec, status.experiment, Cause.ARCHIVED, "the round was archived"):
            open_ones.append(f"{status.experiment.path}: another runner has just opened an attempt")
    return open_ones


def _retry_unreadable(rec: Record, experiment: Experiment) -> str:
    """Abandon an unreadable newest attempt, if it is certain that nothing runs, or can start, in it."""
    number = rec.next_number - 1
    voided = record.void(rec.directory, number, Cause.UNKNOWN, f"unreadable: {rec.damage}")
    if not voided and not (record.attempt_directory(rec.directory, number) / record.RESULT).exists():
        return f"refused, {rec.damage}, and a job may still run in attempt {number}: end it, then remove that directory"
    return "will be retried" if mark(rec, experiment, Cause.RETRY, "by the user") else _FASTER
