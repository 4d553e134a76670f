"""Slurm: how to read what its commands print."""

from __future__ import annotations

import re
from collections.abc import Mapping

from roundhouse.model.answers import Job, Jobs, JobState, QueryFailed, SubmitAnswer, Submitted, Unclear
from roundhouse.model.causes import Cause
from roundhouse.schedulers.base import Output
from roundhouse.schedulers.slurm_refusals import complaint, hopeless, own_lines, refusal

# The states of a job that is over, and the cause where the state alone shows it. Any other word means alive.
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
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "RESV_DEL_HOLD", "REQUEUE_HOLD", "SPECIAL_EXIT"}
HELD = {"RESV_DEL_HOLD", "REQUEUE_HOLD", "SPECIAL_EXIT"}

# 12, 12_3, 12_[0-5%2] (the tasks of an array that are pending), 1+0 (a part of a heterogeneous job).
_ID = r"(\d+(?:[_+]\d+|_\[[^\]|]*\])?)"
# Reason and name may hold any character, but names of our jobs hold no bar: the name is what follows the last one.
_QUEUE_ROW = re.compile(rf"{_ID}\|([A-Z_]+)\|(.*)\|([^|]*)")
_HISTORY_ROW = re.compile(rf"{_ID}\|([A-Z_]+)(?: by \S+)?\|(.*)")
# A line that may be a row, or a part of one: not the rest of a name with a line break, nor words of a wrapper.
_LIKE_A_ROW = re.compile(r"\s*\d|.*\|[A-Z_]+\|")
_RANGE = re.compile(r"(\d{1,7})(?:-(\d{1,7})(?::(\d{1,7}))?)?")

# Errors that a command reports beside a good answer: they are about the configuration or about plugins.
_HARMLESS = re.compile(r"plugin|spank|parsing error|unrecognized key|defunct|obsolete|deprecated|ignor", re.IGNORECASE)
_GONE = re.compile(r"invalid job id specified|already (completing|completed|finished)", re.IGNORECASE)


def read_submission(answer: Output) -> SubmitAnswer:
    """What sbatch printed: `123` or `123;cluster`, or why not.

    An ID beside a failure, an exit by a signal and a success without an ID leave open whether there is a job.
    """
    accepted = _accepted(answer)
    if answer.code == 0 and accepted:
        return Submitted(accepted[1])
    failed = answer.code is not None and (0 < answer.code <= 128 or answer.code == 255)
    return refusal(answer) if failed and not accepted else Unclear(complaint(answer, "sbatch"))


def cluster_of(answer: Output) -> str:
    """The cluster that sbatch named beside the ID; empty if it named none."""
    accepted = _accepted(answer)
    return (accepted[2] or "").strip() if accepted else ""


def _accepted(answer: Output) -> re.Match[str] | None:
    return re.search(r"^(\d+)(?:;(\S*))?$", answer.stdout.strip().rpartition("\n")[2])


def read_queue(answer: Output) -> Jobs | QueryFailed:
    """The rows that squeue printed. Those that cannot be read are handed on; they never hide the others."""
    if answer.code != 0 or _complains(answer, "squeue"):
        return QueryFailed(complaint(answer, "squeue"))
    jobs: list[Job] = []
    unreadable: list[str] = []
    for line, cut in _lines(answer.stdout):
        row = None if cut else _QUEUE_ROW.fullmatch(line)
        if row is None:
            unreadable += [line] if _LIKE_A_ROW.match(line) else []
            continue
        ids, all_of_them = job_ids(row[1])
        jobs += [job_of(job_id, row[2], row[4], row[3]) for job_id in ids]
        unreadable += [] if all_of_them else [line]
    if answer.stdout.strip() and not jobs and not unreadable:
        return QueryFailed(answer.complaint)
    return Jobs(tuple(jobs), tuple(unreadable))


def read_history(answer: Output) -> Jobs | QueryFailed:
    """The ended jobs that sacct printed. Which jobs are alive is for squeue to say: accounting may lag for ever.

    So a row that cannot be read is no more than a job without history.
    """
    if answer.code != 0 or _complains(answer, "sacct"):
        return QueryFailed(complaint(answer, "sacct"))
    rows = [_HISTORY_ROW.fullmatch(line) for line, _ in _lines(answer.stdout)]
    ended = [row for row in rows if row and row[2] in ENDED]
    return Jobs(tuple(job_of(job_id, row[2], row[3]) for row in ended for job_id in job_ids(row[1])[0]))


def _lines(text: str) -> list[tuple[str, bool]]:
    """The lines of a listing that are not empty, and whether a line was cut short: every row ends with a line break."""
    *whole, rest = text.split("\n")
    return [(line, False) for line in whole if line.strip()] + [(rest, True)] * bool(rest.strip())


def _complains(answer: Output, command: str) -> bool:
    """Whether the command itself reported an error that makes its answer unreliable, whatever its exit code.

    squeue exits with 0 for a user that it does not know. Words of others on stderr do no harm: those of preloaded
    libraries and of wrappers.
    """
    errors = [line for line in own_lines(answer.stderr, command) if re.match(r"\S+:? (error|fatal): ", line)]
    return any(not _HARMLESS.search(line) for line in errors)


def job_ids(printed: str) -> tuple[list[str], bool]:
    """The jobs that an ID stands for, each task of `12_[0-5%2]` by itself, and whether these are all of them.

    Slurm shortens long lists of tasks by "...".
    """
    array, bracket, ranges = printed.partition("_[")
    if not bracket:
        return [printed], True
    parts = [_RANGE.fullmatch(part) for part in ranges.rstrip("]").partition("%")[0].split(",")]
    spans = [range(int(part[1]), int(part[2] or part[1]) + 1, int(part[3] or 1) or 1) for part in parts if part]
    return [f"{array}_{index}" for span in spans for index in span], all(parts)


def job_of(job_id: str, state: str, name: str, reason: str = "") -> Job:
    """A job from Slurm's words."""
    words = f"{state} ({reason})" if reason not in ("", "None") else state
    if state in ENDED:
        return Job(job_id, name, JobState.ENDED, words, ENDED[state])
    if state in HELD or (state == "PENDING" and hopeless(reason)):
        return Job(job_id, name, JobState.BLOCKED, words)
    return Job(job_id, name, JobState.QUEUED if state in WAITING else JobState.RUNNING, words)


def read_cancel(answer: Output) -> list[str]:
    """Complaints of scancel; that a job is gone already is none, and words of others are none beside its own."""
    if answer.code == 0:
        return []
    own = own_lines(answer.stderr, "scancel")
    if answer.code is None or not own:
        return [answer.complaint]
    return [line for line in own if not _GONE.search(line)]


def read_array_limit(answer: Output) -> int:
    """The most tasks of an array: MaxArraySize counts the index 0, and max_array_tasks may allow fewer still.

    Without an answer, 1: the jobs are then submitted one by one.
    """
    size = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.stdout, re.MULTILINE)
    if answer.code != 0 or size is None:
        return 1
    tasks = re.search(r"\bmax_array_tasks=(\d+)", answer.stdout)
    return max(1, min(int(size[1]), int(tasks[1]) if tasks else int(size[1])))
