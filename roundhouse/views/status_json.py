"""The status of an experiment as JSON: for `--status --json`, and for status.json."""

from __future__ import annotations

from typing import Any

from roundhouse.model.attempt import Progress
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus, goes_on

_PROGRESS = ("epoch", "epochs", "unit", "step", "steps", "metric", "best", "metric_name")
_SET_BY_MARKER = (State.CANCELLED, State.PRUNED)  # states that begin with a marker, not with an attempt


def shown_progress(status: ExperimentStatus) -> Progress | None:
    """The progress that is shown: that of the completed attempt, else of the newest attempt that reported any."""
    rec = status.record
    attempts = [rec.completed] if rec.completed else rec.current.attempts[::-1]
    return next((one.progress for one in attempts if one.progress), None)


def as_dict(status: ExperimentStatus) -> dict[str, Any]:
    """One object of `--status --json`.

    `since`: when the state began, in seconds since 1970; None before the first attempt and between two attempts.
    """
    attempt, rec, state = status.shown, status.record, status.action.state
    progress = shown_progress(status)
    cause = status.action.cause or (attempt.cause if attempt and attempt.closed else None)
    began = rec.newest if state in _SET_BY_MARKER else attempt
    return {
        "path": status.experiment.path,
        "state": str(state),
        "since": began.since if began and state is not State.PENDING else None,
        "goes_on": goes_on(status),
        "attempt": attempt.number if attempt else None,
        "job_id": attempt.job_id if attempt else None,
        "job_state": status.job_state,
        **{key: getattr(progress, key, None) for key in _PROGRESS},
        "cause": str(cause) if cause else None,
        "reason": status.action.reason,
        "code": attempt.opened.code if attempt else None,
    }


def file_content(status: ExperimentStatus) -> dict[str, Any]:
    """The content of status.json, except its time."""
    attempt = status.shown
    content = as_dict(status)
    for key in ("job_state", "goes_on"):  # they depend on the scheduler and on the rest of the round
        del content[key]
    content["scheduler"] = dict(attempt.opened.scheduler) if attempt else None
    content["notes"] = list(status.record.notes)
    content["attempts"] = [
        {
            "number": one.number,
            "job_id": one.job_id,
            "cause": str(one.cause) if one.cause else None,
            "why": one.why,
            "code": one.opened.code,
        }
        for one in status.record.attempts
    ]
    return content
