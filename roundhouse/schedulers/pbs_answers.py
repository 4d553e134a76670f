"""Parses what qstat, qselect and qdel of OpenPBS and PBS Pro print: jobs, queues, error messages. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from roundhouse.model.answers import Job, Jobs, JobState
from roundhouse.model.causes import Cause
from roundhouse.schedulers.base import Output

Attributes = Mapping[str, str]  # of one job or queue, as qstat -f names them

JOB_ID = re.compile(r"\d+(\[\d*\])?(\.\S+)?")

# Exit codes are PBS's error numbers modulo 256.
UNKNOWN, FINISHED = 153, 35
ANSWERED = {0, UNKNOWN, FINISHED}  # with several IDs, the code is that of the last error; the other jobs are printed
NO_HISTORY = re.compile(r"job[ _]history", re.IGNORECASE)
GONE = re.compile(
    r"job has finished|unknown job id|request invalid for (state of job|finished array subjob)"
    r"|delete already in progress",
    re.IGNORECASE,
)

ENDED = {"F", "X", "C"}  # C is Torque's
STATES = {
    "Q": "queued", "W": "waiting", "T": "in transit", "M": "moved", "H": "held", "R": "running", "B": "array begun",
    "S": "suspended", "U": "suspended", "E": "ending", "F": "finished", "X": "finished", "C": "completed",
}  # fmt: skip
NOT_STARTED = {"Q", "W", "T", "M"}

# An Exit_status below 0 is an exit cause reported by PBS (pbs_job.h: JOB_EXEC_...).
CAUSES = {
    **dict.fromkeys((-29, -28), Cause.WALLTIME),  # -28: CPU time
    **dict.fromkeys((-27, -26), Cause.MEMORY),
    **dict.fromkeys((-20, -6, -5, -4), Cause.NODE),
    **dict.fromkeys((-18, -14, -11), Cause.PREEMPTED),
}
LIMITS = {"walltime": Cause.WALLTIME, "cput": Cause.WALLTIME, "mem": Cause.MEMORY, "vmem": Cause.MEMORY}
DELETED = "91"  # the substate of a job that was deleted


class NoAnswer(Exception):
    """A command gave no answer, or an unreliable one."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The output of one `qstat -f`: job ID -> attributes, and the blocks that could not be parsed."""

    jobs: Mapping[str, Attributes]
    unreadable: tuple[str, ...] = ()


def blocks_of(text: str, heading: str = "Job Id:") -> dict[str, Attributes]:
    """Name -> attributes, from `qstat -f`. PBS continues long values on lines that begin with a tab."""
    found: dict[str, Attributes] = {}
    for block in re.split(rf"^{heading}[ \t]*", text, flags=re.MULTILINE)[1:]:
        name, _, body = block.partition("\n")
        if body.startswith(" "):
            body = body.replace("\n\t", "")
        # The first line with a key counts: a later one is a line of a variable's value.
        pairs = re.findall(r"^\s+([\w.]+) = (.*)$", body, re.MULTILINE)
        found[name.strip()] = dict(reversed(pairs))
    return found


def parse_listing(text: str) -> Listing:
    """All jobs that `qstat -f` printed. A block without a job ID, a name or a state is unreadable."""
    jobs: dict[str, Attributes] = {}
    unreadable = []
    for job_id, attributes in blocks_of(text).items():
        if JOB_ID.fullmatch(job_id) and attributes.get("Job_Name") and attributes.get("job_state"):
            jobs[job_id] = attributes
        else:
            known = ", ".join(f"{key} = {value}" for key, value in [*attributes.items()][:3])
            unreadable.append(f"{job_id} {known}".strip()[:200] or "a job without an ID")
    return Listing(jobs, tuple(unreadable))


def read_listing(answer: Output, requested: Collection[str]) -> Listing:
    """The output of `qstat -f` for the requested jobs.

    NoAnswer: one of them is neither listed, even if unreadable, nor reported as unknown or finished. `-F json` is less
    reliable: OpenPBS 23.06 prints it only for the first of several jobs (its issue 2672), and also if the server is
    down.
    """
    listing = parse_listing(answer.stdout)
    known = {stem(job_id) for job_id in listing.jobs}
    known |= {stem(word) for line in answer.stderr.splitlines() if GONE.search(line) for word in line.split()}
    rows = Jobs((), listing.unreadable)
    missing = [one for one in requested if stem(one) not in known and not rows.unreadable_row_of(one, f"job {one}")]
    if answer.code not in ANSWERED or missing:
        raise NoAnswer(answer.complaint)
    return listing


def stem(job_id: str) -> str:
    """The ID without the server name, which is not always printed."""
    return job_id.partition(".")[0]


def jobs_of(
    jobs: Mapping[str, Attributes], unreadable: Iterable[str], later: Iterable[str] = (), history: bool = True
) -> Jobs:
    """Plain jobs and the tasks of arrays, without the arrays themselves; the other parameters as in `Jobs`."""
    own = (job_of(job_id, one, history=history) for job_id, one in jobs.items() if "[]" not in job_id)
    return Jobs(tuple(own), tuple(unreadable), frozenset(later), history)


def job_of(job_id: str, attributes: Attributes, causes: Mapping[int, Cause] = CAUSES, history: bool = True) -> Job:
    """A job from its attributes; `causes`: exit status below 0 -> cause.

    `history`: whether the server keeps a history of ended jobs.
    """
    name, letter, comment = (attributes.get(key, "") for key in ("Job_Name", "job_state", "comment"))
    words = ": ".join(part for part in (STATES.get(letter, f"state {letter}"), comment) if part)
    if letter in ENDED:
        cause = cause_of(attributes, causes)
        return Job(job_id, name, JobState.ENDED, words, cause or _deleted_while_queued(job_id, attributes, history))
    # The queued tasks of a held array have state Q; only Hold_Types shows that they are held.
    held = letter == "H" or (letter in NOT_STARTED and attributes.get("Hold_Types", "n") not in ("n", ""))
    if held or "can never run" in comment.lower():
        return Job(job_id, name, JobState.BLOCKED, words)
    if letter in NOT_STARTED:  # with an exit status if it has run before
        return Job(job_id, name, JobState.QUEUED, words, cause_of(attributes, causes))
    return Job(job_id, name, JobState.RUNNING, words)


def cause_of(attributes: Attributes, causes: Mapping[int, Cause]) -> Cause | None:
    """The exit cause reported by the scheduler, if it is definite. The script's own exit code is not one."""
    status = attributes.get("Exit_status") or attributes.get("exit_status", "")
    if re.fullmatch(r"-\d+", status) and (cause := causes.get(int(status))):
        return cause
    exceeded = re.search(r"exceeded resource (\w+)", attributes.get("comment", ""))
    if exceeded and exceeded[1] in LIMITS:
        return LIMITS[exceeded[1]]
    return Cause.DELETED if attributes.get("substate") == DELETED else None


def _deleted_while_queued(job_id: str, attributes: Attributes, history: bool) -> Cause | None:
    """The cause of a task that ended but never ran: only qdel does that.

    Without history, PBS reports every ended task in this way, so there it means nothing.
    """
    never_ran = "[" in job_id and not {"run_count", "exec_host"} & attributes.keys()
    return Cause.DELETED if history and never_ran and attributes.get("comment") == "Subjob finished" else None


def read_selection(answer: Output) -> list[str]:
    """The IDs that qselect printed; none if the server keeps no history. NoAnswer: it printed anything else.

    Other lines on stderr, such as those of a preloaded library or of a site's wrapper, are not errors of qselect.
    """
    if NO_HISTORY.search(answer.stderr):
        return []
    ids = answer.stdout.split()
    has_error = re.search(r"^qselect:", answer.stderr, re.MULTILINE)
    if answer.code != 0 or has_error or not all(JOB_ID.fullmatch(one) for one in ids):
        raise NoAnswer(answer.complaint)
    return ids


def destinations_of(queue: Attributes) -> list[str]:
    """The queues that a routing queue sends its jobs to; empty for an execution queue."""
    routes = queue.get("queue_type", "").lower() == "route"
    return re.findall(r"[^,\s]+", queue.get("route_destinations", "")) if routes else []


def read_delete(answer: Output) -> list[str]:
    """Error messages of qdel, except that a job is already gone."""
    if answer.code is None or answer.code < 0:
        return [answer.complaint]
    lines = [line.strip() for line in f"{answer.stdout}\n{answer.stderr}".splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("qdel:")]  # other lines may come from a wrapper or a library
    return [line for line in own or lines if not GONE.search(line)] if answer.code else []
