"""What a person orders: cancel, retry, put away. An order is a mark in the record, made as any attempt is."""

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


def cancel(place: PassContext, rows: Iterable[ExperimentStatus]) -> tuple[list[str], list[str]]:
    """Cancel experiments that are not over: no job may start any more, and those that run are told to stop.

    Returns a line for each experiment that something was done about, and a line for each failure.
    """
    told, failed, jobs = [], [], []
    for row in rows:
        if row.action.state in (State.COMPLETED, State.CANCELLED, State.FAILED, State.PRUNED):
            continue
        try:
            done = _cancel(row)
        except OSError as error:
            failed.append(f"{row.experiment.path}: could not be cancelled: {error}")
            continue
        if done:
            told.append(f"{row.experiment.path}: {done}")
        newest = row.record.newest
        if newest is None or newest.opened.packed:  # an allocation runs others as well
            continue
        if newest.job_id and row.job_state:  # known to the scheduler, and to this one
            jobs.append(newest.job_id)
    if jobs:
        failed += place.scheduler.cancel(place.run, jobs)
    return told, failed


def _cancel(row: ExperimentStatus) -> str:
    """What was done; empty if the experiment was over already."""
    rec = record.read(row.record.directory)
    if not rec.readable:
        raise OSError(rec.damage)
    if rec.newest is None or rec.newest.closed:
        if mark(rec, row.experiment, Cause.CANCELLED, "by the user"):
            return f"cancelled before its {'next' if rec.runs else 'first'} attempt"
        rec = record.read(rec.directory)  # a runner has opened an attempt just now
    newest = rec.newest
    if newest is None or newest.closed:
        return ""
    if record.void(rec.directory, newest.number, Cause.CANCELLED, "by the user"):
        return f"attempt {newest.number} cancelled before it started"
    record.request_cancel(rec.directory, newest.number)
    if row.job_state:
        return f"attempt {newest.number} asked to stop"
    # It belongs to another scheduler, or this one could not be asked.
    why = f"; {row.action.reason}" if row.action.reason else ""
    told = f"attempt {newest.number} marked to stop, but its job not signalled"
    return f"{told}: if it runs on these files, it sees the mark within a minute{why}"


def retry(rows: Iterable[ExperimentStatus], pruned: bool = False) -> list[str]:
    """Give failed and cancelled experiments another try: a mark from which tries are counted anew.

    Pruned ones only if that is said: it is no failure, and there are many. Returns a line for each experiment that was
    failed, cancelled or damaged, or whose attempt is open.
    """
    again = (State.FAILED, State.CANCELLED, *([State.PRUNED] if pruned else []))
    told = []
    for row in rows:
        path, state = row.experiment.path, row.action.state
        rec = record.read(row.record.directory)
        if rec.folded and rec.damage:
            told.append(
                f"{path}: refused, it was completed, and its {rec.damage}: restore it, or remove {rec.directory}"
            )
        if rec.folded or state is State.COMPLETED:
            continue
        if not rec.readable:
            told.append(f"{path}: refused, {rec.damage}")
        elif rec.damage:
            told.append(f"{path}: {_retry_damaged(rec, row.experiment)}")
        elif rec.newest is not None and not rec.newest.closed:
            told.append(f"{path}: refused, attempt {rec.newest.number} is open: wait for it, or --cancel it first")
        elif state in again or _elsewhere(row):
            done = mark(rec, row.experiment, Cause.RETRY, "by the user")
            told.append(
                f"{path}: {'to be tried again' if done else 'refused, another runner opened an attempt just now'}"
            )
    return told


def _elsewhere(row: ExperimentStatus) -> bool:
    """Closed, and blocked for no other reason than that it has run through another scheduler."""
    runs = row.record.runs
    if row.action.state is not State.BLOCKED or row.refusal or row.inputs.blocked:
        return False
    return bool(runs) and runs[0].opened.config_hash == row.experiment.config_hash()


def put_away(rows: Iterable[ExperimentStatus]) -> list[str]:
    """Take the next attempt of every experiment that is not over, so that no late runner can open it.

    Returns what stands in the way: a line for each experiment with an open attempt. Until there is none, call again.
    """
    open_ones = []
    for row in rows:
        rec = record.read(row.record.directory)
        if rec.folded or rec.completed:
            continue
        if rec.newest is not None and rec.newest.cause in (Cause.ARCHIVED, Cause.PRUNED):
            continue
        if rec.damage or (rec.newest is not None and not rec.newest.closed):
            open_ones.append(f"{row.experiment.path}: attempt {rec.next_number - 1} is open")
        elif not mark(rec, row.experiment, Cause.ARCHIVED, "the round was put away"):
            open_ones.append(f"{row.experiment.path}: another runner opened an attempt just now")
    return open_ones


def _retry_damaged(rec: Record, experiment: Experiment) -> str:
    """Leave a damaged newest attempt behind, if it is certain that nothing runs or will ever run in it."""
    number = rec.next_number - 1
    voided = record.void(rec.directory, number, Cause.UNKNOWN, f"damaged: {rec.damage}")
    if not voided and not (record.attempt_directory(rec.directory, number) / record.RESULT).exists():
        return f"refused, {rec.damage}, and a job may still run in attempt {number}: end it, then remove that directory"
    return "to be tried again" if mark(rec, experiment, Cause.RETRY, "by the user") else "refused, try again"
