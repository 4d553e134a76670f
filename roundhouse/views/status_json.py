"""The status of an experiment as JSON: for `--status --json`, and for status.json."""

from __future__ import annotations

from typing import Any

from roundhouse.model.attempt import Progress, Record
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus, goes_on

_SET_BY_MARKER = (State.CANCELLED, State.PRUNED)  # states that begin with a marker, not with an attempt


def as_dict(status: ExperimentStatus) -> dict[str, Any]:
    """One object of `--status --json`."""
    attempt = status.shown
    progress = _progress(status.record)
    cause = status.action.cause or (attempt.cause if attempt and attempt.closed else None)
    return {
        "path": status.experiment.path,
        "state": str(status.action.state),
        "since": _since(status),
        "goes_on": goes_on(status),
        "attempt": attempt.number if attempt else None,
        "job_id": attempt.job_id if attempt else None,
        "job_state": status.job_state,
        "epoch": progress.epoch if progress else None,
        "epochs": progress.epochs if progress else None,
        "metric": progress.metric if progress else None,
        "best": progress.best if progress else None,
        "metric_name": progress.metric_name if progress else None,
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


def _since(status: ExperimentStatus) -> float | None:
    """When the state began, in seconds since 1970; None before the first attempt and between two attempts."""
    attempt = status.record.newest if status.action.state in _SET_BY_MARKER else status.shown
    return attempt.since if attempt and status.action.state is not State.PENDING else None


def _progress(rec: Record) -> Progress | None:
    """The progress of the completed attempt, else of the newest attempt that reported any."""
    if rec.completed:
        return rec.completed.progress
    return next((one.progress for one in reversed(rec.attempts) if one.progress), None)
