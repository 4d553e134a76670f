"""What the attempts of an experiment measured: when they ran, how far they came, the seconds of an epoch."""

from __future__ import annotations

import math

from roundhouse.model.attempt import Attempt, Progress, Record
from roundhouse.model.status import ExperimentStatus, goes_on

LONGEST = 366 * 86400.0  # seconds; an attempt that seems to have run longer saw a wrong clock


def spans(rec: Record) -> list[tuple[float, float]]:
    """When its attempts ran: (start, end) in seconds since 1970, by the clock of the job's host. Never end < start.

    The end of an open attempt is its last heartbeat. An attempt whose job left no result counts until a pass closed
    it, which is an upper bound.
    """
    return [(one.claim.started, one.claim.started + _length(one)) for one in rec.runs if _ran(one) and one.claim]


def progress_of(rec: Record) -> Progress | None:
    """The progress of the completed attempt, else of the newest that reported its number of epochs, else any."""
    attempts = [rec.completed] if rec.completed else rec.attempts[::-1]
    reported = [one.progress for one in attempts if one.progress]
    return next((one for one in reported if one.epochs), reported[0] if reported else None)


def pace_of(rec: Record) -> float | None:
    """Seconds per epoch, as the training measured them, else the time of the attempts by the epochs they gained."""
    progress = progress_of(rec)
    if progress is not None and progress.seconds_per_epoch is not None:
        return progress.seconds_per_epoch
    gaining = [one for one in rec.runs if one.progress and one.progress.gained and _ran(one)]
    seconds = sum(_length(one) for one in gaining)
    epochs = sum(one.progress.epoch - one.progress.started_epoch for one in gaining if one.progress)
    return seconds / epochs if seconds > 0 else None


def is_running(status: ExperimentStatus) -> bool:
    """Whether a job holds its newest attempt; a queued job does not run."""
    newest = status.record.newest
    claimed = newest is not None and not newest.closed and newest.opened.mark is None and newest.claim is not None
    return claimed and goes_on(status)


def _ran(attempt: Attempt) -> bool:
    claim = attempt.claim
    return claim is not None and not claim.void and 0 < claim.started < math.inf


def _length(attempt: Attempt) -> float:
    """Seconds that an attempt ran, by one clock: where the end is the file server's, so is the start.

    In a copy that lost the files' own times, the claim's time is later than the end, and is not used.
    """
    claim, result = attempt.claim, attempt.result
    assert claim is not None
    end = result.at if result else attempt.progress_at or 0.0
    by_job = result is not None and result.exit_code is not None  # the job's shell wrote start and end
    start = claim.at if not by_job and 0 < claim.at <= end else claim.started
    length = end - start
    return length if 0 <= length <= LONGEST else 0.0
