"""What the attempts of an experiment measured: when they ran, how far they came, the seconds of an epoch."""

from __future__ import annotations

import math

from roundhouse.model.attempt import Attempt, Progress, Record
from roundhouse.model.status import ExperimentStatus, goes_on

LONGEST = 366 * 86400.0  # seconds; an attempt that seems to have run longer saw a wrong clock


def spans(rec: Record) -> list[tuple[float, float]]:
    """When its attempts ran: (start, end) in seconds since 1970, by the clock of the job's host. Never end < start.

    An attempt whose job left no result ends at its last heartbeat, also if a pass closed it much later.
    """
    return [span for one in rec.runs if (span := _span(one))]


def progress_of(rec: Record) -> Progress | None:
    """The progress of the completed attempt, else of the newest that reported its number of epochs, else any."""
    attempts = [rec.completed] if rec.completed else rec.current.attempts[::-1]
    reported = [one.progress for one in attempts if one.progress]
    return next((one for one in reported if one.epochs), reported[0] if reported else None)


def pace_of(rec: Record) -> float | None:
    """Seconds per epoch, as the training measured them, else the time of the attempts by the epochs they gained."""
    progress = progress_of(rec)
    if progress is not None and progress.seconds_per_epoch is not None:
        return progress.seconds_per_epoch
    seconds = epochs = 0.0
    for one in rec.runs:
        if one.progress and one.progress.gained and (span := _span(one)):
            seconds += span[1] - span[0]
            epochs += one.progress.epoch - one.progress.started_epoch
    return seconds / epochs if seconds > 0 else None


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
