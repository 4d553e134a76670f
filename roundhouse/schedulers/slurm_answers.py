"""Parses what Slurm's commands print. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from roundhouse.model.answers import Job, Jobs, JobState, QueryFailed, SubmitAnswer, Submitted, Unclear
from roundhouse.model.causes import Cause
from roundhouse.schedulers.base import Output
from roundhouse.schedulers.slurm_refusals import complaint, is_permanent, own_lines, refusal

# The states of an ended job, and the exit cause if the state alone shows it. Any other state means alive.
ENDED: Mapping[str, Cause | None] = {
    "COMPLETED": None,
    "FAILED": None,
    "CANCELLED": Cause.DELETED,
    "TIMEOUT": Cause.WALLTIME,
    "DEADLINE": Cause.WALLTIME,
    "OUT_OF_MEMORY": Cause.MEMORY,
    "NODE_FAIL": Cause.NODE,
    "BOOT_FAIL": Cause.NODE,
    "PREEMPTED": Cause.PREEMPTED,
    "REVOKED": None,
}
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED"}
HELD = {"RESV_DEL_HOLD", "REQUEUE_HOLD", "SPECIAL_EXIT"}

ACCEPTED = re.compile(r"^\s*(\d+)(?:;(\S*))?\s*\Z", re.MULTILINE)  # sbatch's last line: `123` or `123;cluster`
# 12, 12_3, 12_[0-5%2] (the tasks of an array that are pending), 1+0 (a part of a heterogeneous job).
_ID = r"(\d+(?:[_+]\d+|_\[[^\]|]*\])?)"
# Reason and name may contain any character, but names of our jobs contain no bar: the name follows the last bar.
_QUEUE_ROW = re.compile(rf"{_ID}\|([A-Z_]+)\|(.*)\|([^|]*)")
_HISTORY_ROW = re.compile(rf"{_ID}\|([A-Z_]+)(?: by \S+)?\|(.*)")
# A line that may be a row or a part of one: neither the rest of a name with a line break nor a line of a wrapper.
_LIKE_A_ROW = re.compile(r"\s*\d|.*\|[A-Z_]+\|")
_RANGE = re.compile(r"(\d{1,7})(?:-(\d{1,7})(?::(\d{1,7}))?)?")

# Errors in the configuration or in plugins: a command reports them together with a correct answer.
_HARMLESS = re.compile(r"plugin|spank|parsing error|unrecognized key|defunct|obsolete|deprecated|ignor", re.IGNORECASE)
_GONE = re.compile(r"invalid job id specified|already (completing|completed|finished)", re.IGNORECASE)


def read_submission(answer: Output) -> SubmitAnswer:
    """The answer of sbatch: an ID, or an error.

    It is unclear whether there is a job after an error with an ID, an exit by a signal, or success without an ID.
    """
    accepted = ACCEPTED.search(answer.stdout)
    if answer.code == 0 and accepted:
        return Submitted(accepted[1])
    failed = answer.code is not None and (0 < answer.code <= 128 or answer.code == 255)
    return refusal(answer) if failed and not accepted else Unclear(complaint(answer, "sbatch"))


def read_queue(answer: Output) -> Jobs | QueryFailed:
    """The jobs that squeue printed. Unreadable rows are returned as they are; they never hide other rows."""
    if answer.code != 0 or _has_error(answer, "squeue"):
        return QueryFailed(complaint(answer, "squeue"))
    jobs: list[Job] = []
    unreadable: list[str] = []
    for line, cut in _lines(answer.stdout):
        row = None if cut else _QUEUE_ROW.fullmatch(line)
        if row is None:
            unreadable += [line] if _LIKE_A_ROW.match(line) else []
            continue
        ids, complete = job_ids(row[1])
        jobs += [job_of(job_id, row[2], row[4], row[3]) for job_id in ids]
        unreadable += [] if complete else [line]
    if answer.stdout.strip() and not jobs and not unreadable:
        return QueryFailed(answer.complaint)
    return Jobs(tuple(jobs), tuple(unreadable))


def read_history(answer: Output) -> Jobs | QueryFailed:
    """The ended jobs that sacct printed. Only squeue shows which jobs are alive: accounting may lag.

    So an unreadable row means only a job without history.
    """
    if answer.code != 0 or _has_error(answer, "sacct"):
        return QueryFailed(complaint(answer, "sacct"))
    rows = [_HISTORY_ROW.fullmatch(line) for line, _ in _lines(answer.stdout)]
    ended = [row for row in rows if row and row[2] in ENDED]
    return Jobs(tuple(job_of(job_id, row[2], row[3]) for row in ended for job_id in job_ids(row[1])[0]))


def _lines(text: str) -> list[tuple[str, bool]]:
    """The non-empty lines of a listing, and whether each was truncated: every row ends with a line break."""
    *whole, rest = text.split("\n")
    return [(line, False) for line in whole if line.strip()] + [(rest, True)] * bool(rest.strip())


def _has_error(answer: Output, command: str) -> bool:
    """Whether the command itself reported an error that makes its answer unreliable, whatever its exit code.

    squeue exits with 0 for an unknown user. Other lines on stderr, of preloaded libraries and wrappers, do not count.
    """
    errors = [line for line in own_lines(answer.stderr, command) if re.match(r"\S+:? (error|fatal): ", line)]
    return any(not _HARMLESS.search(line) for line in errors)


def job_ids(printed: str) -> tuple[list[str], bool]:
    """The jobs that an ID represents, one for each task of `12_[0-5%2]`, and whether the list is complete.

    Slurm shortens long lists of tasks with "...".
    """
    array, bracket, ranges = printed.partition("_[")
    if not bracket:
        return [printed], True
    parts = [_RANGE.fullmatch(part) for part in ranges.rstrip("]").partition("%")[0].split(",")]
    spans = [range(int(part[1]), int(part[2] or part[1]) + 1, int(part[3] or 1) or 1) for part in parts if part]
    return [f"{array}_{index}" for span in spans for index in span], all(parts)


def job_of(job_id: str, state: str, name: str, reason: str = "") -> Job:
    """A job from the columns that Slurm prints."""
    words = f"{state} ({reason})" if reason not in ("", "None") else state
    if state in ENDED:
        return Job(job_id, name, JobState.ENDED, words, ENDED[state])
    if state in HELD or (state == "PENDING" and is_permanent(reason)):
        return Job(job_id, name, JobState.BLOCKED, words)
    return Job(job_id, name, JobState.QUEUED if state in WAITING else JobState.RUNNING, words)


def read_cancel(answer: Output) -> list[str]:
    """Error messages of scancel, except that a job is already gone. Its own lines count, if there are any."""
    if answer.code == 0:
        return []
    own = own_lines(answer.stderr, "scancel")
    if answer.code is None or not own:
        return [answer.complaint]
    return [line for line in own if not _GONE.search(line)]
