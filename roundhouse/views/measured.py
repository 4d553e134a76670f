"""What the attempts of an experiment measured: when they ran, how far they came, the seconds of an epoch or a step."""

from __future__ import annotations

import math

from roundhouse.model.attempt import STEP, Attempt, Counter, Progress, Record
from roundhouse.model.status import ExperimentStatus, goes_on

LONGEST = 366 * 86400.0  # seconds; an attempt that seems to have run longer saw a wrong clock


def spans(rec: Record) -> list[tuple[float, float]]:
    """When its attempts ran: (start, end) in seconds since 1970, by the clock of the job's host. Never end < start.

    An attempt whose job left no result ends at its last heartbeat, also if a pass closed it much later.
    """
    return [span for one in rec.runs if (span := _span(one))]


def progress_of(rec: Record) -> Progress | None:
    """The progress of the completed attempt, else of the newest that reported a planned number, else any."""
    attempts = [rec.completed] if rec.completed else rec.current.attempts[::-1]
    reported = [one.progress for one in attempts if one.progress]
    return next((one for one in reported if one.counter().planned), reported[0] if reported else None)


def counter_of(rec: Record) -> Counter | None:
    """How far it is, in the unit of the run; while no epoch was measured, in steps, if the run reports them.

    `seconds` are those that the training measured, else the time of the attempts by what they gained; None: unknown.
    """
    progress = progress_of(rec)
    if progress is None:
        return None
    found = [_with_pace(progress.counter(unit), rec, unit) for unit in (progress.unit, STEP)]
    return next((one for one in found if one.planned and one.seconds is not None), found[0])


def _with_pace(counter: Counter, rec: Record, unit: str) -> Counter:
    """The counter with the time that attempts took for what they gained, if the training did not measure it."""
    if counter.seconds is not None:
        return counter
    seconds = gained = 0.0
    for one in rec.runs:
        own = one.progress.counter(unit) if one.progress else None
        if own and own.done > own.started and (span := _span(one)):
            seconds += span[1] - span[0]
            gained += own.done - own.started
    return counter._replace(seconds=seconds / gained if seconds > 0 else None)


def is_running(status: ExperimentStatus) -> bool:
    """Whether a job holds its newest attempt; a queued job does not run."""
    newest = status.record.newest
    claimed = newest is not None and not newest.closed and newest.opened.mark is None and newest.claim is not None
    return claimed and goes_on(status)


def _span(attempt: Attempt) -> tuple[float, float] | None:
    """Start and end of an attempt; None if it never started.

    Its length is by one clock: where the end is the file server's, so is the start. In a copy that lost the files' own
    times, they are later than the end in result.json, and are not used. Old history files do not have them.
    """
    claim, result = attempt.claim, attempt.result
    if claim is None or claim.void or not 0 < claim.started < math.inf:
        return None
    by_job = result is not None and result.by_job  # the job's shell wrote start and end
    end = result.at if result else math.inf
    if not by_job:
        unknown = end if result and attempt.progress else 0.0  # a heartbeat whose time is lost
        end = min(end, unknown if attempt.progress_at is None else attempt.progress_at)
    length = end - (claim.at if not by_job and 0 < claim.at <= end else claim.started)
    return claim.started, claim.started + (length if 0 <= length <= LONGEST else 0.0)
