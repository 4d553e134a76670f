"""The user ends experiments: cancel and archive. Each sets a marker, which is opened as any attempt is."""

from __future__ import annotations

from collections.abc import Iterable

from roundhouse.engine.context import PassContext
from roundhouse.model.causes import Cause
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import record
from roundhouse.store.markers import mark


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
