"""What qstat, qselect and qdel of OpenPBS and PBS Pro print, read into jobs, queues and complaints. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from roundhouse.model.answers import Job, Jobs, JobState, QueryFailed
from roundhouse.model.causes import Cause
from roundhouse.schedulers.base import Output

Attributes = Mapping[str, str]  # of one job or queue, as qstat -f names them

ARRAY_SIZE = 10_000  # the limit of an OpenPBS server that has none of its own
JOB_ID = re.compile(r"\d+(\[\d*\])?(\.\S+)?")

# Exit codes are PBS's error numbers modulo 256.
UNKNOWN, FINISHED = 153, 35
ANSWERED = {0, UNKNOWN, FINISHED}  # with several IDs, the code is that of the last failure; the other jobs are printed
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

# Exit_status below 0 is PBS's own verdict (pbs_job.h: JOB_EXEC_...).
VERDICTS = {
    -29: Cause.WALLTIME,
    -28: Cause.WALLTIME,  # CPU time: a limit of time as well
    -27: Cause.MEMORY,
    -26: Cause.MEMORY,
    -20: Cause.NODE,
    -18: Cause.PREEMPTED,
    -14: Cause.PREEMPTED,
    -11: Cause.PREEMPTED,
    -6: Cause.NODE,
    -5: Cause.NODE,
    -4: Cause.NODE,
}
LIMITS = {"walltime": Cause.WALLTIME, "cput": Cause.WALLTIME, "mem": Cause.MEMORY, "vmem": Cause.MEMORY}
DELETED = "91"  # the substate of a job that was deleted


@dataclass(frozen=True, slots=True)
class Listing:
    """What one `qstat -f` printed: the attributes of each job by ID, and the blocks that could not be parsed."""

    jobs: Mapping[str, Attributes]
    unreadable: tuple[str, ...] = ()


def blocks_of(text: str, heading: str = "Job Id:") -> dict[str, Attributes]:
    """Name -> attributes, from `qstat -f`. PBS continues long values on lines that begin with a tab."""
    found: dict[str, Attributes] = {}
    for block in re.split(rf"^{heading}[ \t]*", text, flags=re.MULTILINE)[1:]:
        name, _, body = block.partition("\n")
        if body.startswith(" "):
            body = body.replace("\n\t", "")
        # The first of a key counts: what looks like another is a line of a variable's value.
        pairs = re.findall(r"^\s+([\w.]+) = (.*)$", body, re.MULTILINE)
        found[name.strip()] = dict(reversed(pairs))
    return found


def parse_listing(text: str) -> Listing:
    """All jobs that `qstat -f` printed. A block without a job ID, a name or a state cannot be read."""
    jobs: dict[str, Attributes] = {}
    unreadable = []
    for job_id, attributes in blocks_of(text).items():
        if JOB_ID.fullmatch(job_id) and attributes.get("Job_Name") and attributes.get("job_state"):
            jobs[job_id] = attributes
        else:
            known = ", ".join(f"{key} = {value}" for key, value in [*attributes.items()][:3])
            unreadable.append(f"{job_id} {known}".strip()[:200] or "a job without an ID")
    return Listing(jobs, tuple(unreadable))


def read_listing(answer: Output, asked: Collection[str]) -> Listing | QueryFailed:
    """What `qstat -f` said of the jobs asked for.

    It is an answer only if each of them is there, even if unreadable, or is said to be unknown or finished. That is
    more than can be had with `-F json`, which OpenPBS 23.06 prints for the first of several jobs alone (its issue
    2672), and for a server that is down as well.
    """
    listing = parse_listing(answer.stdout)
    known = {stem(job_id) for job_id in listing.jobs}
    known |= {stem(word) for line in answer.stderr.splitlines() if GONE.search(line) for word in line.split()}
    missing = [one for one in asked if stem(one) not in known and not _may_be_in(listing.unreadable, one)]
    return QueryFailed(answer.complaint) if answer.code not in ANSWERED or missing else listing


def _may_be_in(rows: Iterable[str], job_id: str) -> bool:
    """Whether one of these unreadable rows may be that of the job: it has its number, or none."""
    numbers = [re.match(r"\d+", row) for row in rows]
    return any(number is None or number[0] == re.split(r"\D", job_id, maxsplit=1)[0] for number in numbers)


def stem(job_id: str) -> str:
    """The ID without the server's name, which is not always printed."""
    return job_id.partition(".")[0]


def jobs_of(jobs: Mapping[str, Attributes], unreadable: Sequence[str] = (), history: bool = True) -> Jobs:
    """The jobs, and the tasks of arrays, without the arrays as a whole."""
    own = (job_of(job_id, one, history=history) for job_id, one in jobs.items() if "[]" not in job_id)
    return Jobs(tuple(own), tuple(unreadable))


def job_of(job_id: str, attributes: Attributes, verdicts: Mapping[int, Cause] = VERDICTS, history: bool = True) -> Job:
    """A job from its attributes; `verdicts` gives meaning to an exit status below 0.

    `history`: whether the server keeps what it knows of jobs that have ended.
    """
    name, letter, comment = (attributes.get(key, "") for key in ("Job_Name", "job_state", "comment"))
    words = ": ".join(part for part in (STATES.get(letter, f"state {letter}"), comment) if part)
    if letter in ENDED:
        cause = cause_of(attributes, verdicts)
        return Job(job_id, name, JobState.ENDED, words, cause or _deleted_while_queued(job_id, attributes, history))
    # The queued tasks of a held array are in state Q; only Hold_Types shows that they are held.
    held = letter == "H" or (letter in NOT_STARTED and attributes.get("Hold_Types", "n") not in ("n", ""))
    if held or "can never run" in comment.lower():
        return Job(job_id, name, JobState.BLOCKED, words)
    if letter in NOT_STARTED:  # with an exit status if it has run before
        return Job(job_id, name, JobState.QUEUED, words, cause_of(attributes, verdicts))
    return Job(job_id, name, JobState.RUNNING, words)


def cause_of(attributes: Attributes, verdicts: Mapping[int, Cause]) -> Cause | None:
    """The scheduler's own verdict on an ended job, if it gave a clear one. An exit code of the script is none."""
    status = attributes.get("Exit_status") or attributes.get("exit_status", "")
    verdict = verdicts.get(int(status)) if re.fullmatch(r"-\d+", status) else None
    exceeded = re.search(r"exceeded resource (\w+)", attributes.get("comment", ""))
    if verdict is None and exceeded:
        verdict = LIMITS.get(exceeded[1])
    return verdict or (Cause.DELETED if attributes.get("substate") == DELETED else None)


def _deleted_while_queued(job_id: str, attributes: Attributes, history: bool) -> Cause | None:
    """The cause of a task that ended and never ran: only qdel does that.

    Without history, PBS says the same of every task that has ended, so nothing follows from it.
    """
    never_ran = "[" in job_id and not {"run_count", "exec_host"} & attributes.keys()
    return Cause.DELETED if history and never_ran and attributes.get("comment") == "Subjob finished" else None


def read_selection(answer: Output) -> list[str] | QueryFailed:
    """The IDs that qselect printed. A server without history has none to select from.

    Other words on stderr, such as those of a preloaded library or of a site's wrapper, are no complaint of qselect.
    """
    if NO_HISTORY.search(answer.stderr):
        return []
    ids = answer.stdout.split()
    complains = re.search(r"^qselect:", answer.stderr, re.MULTILINE)
    if answer.code != 0 or complains or not all(JOB_ID.fullmatch(one) for one in ids):
        return QueryFailed(answer.complaint)
    return ids


def read_queues(answer: Output) -> dict[str, Attributes]:
    """Queue -> attributes, from `qstat -Q -f`."""
    return blocks_of(answer.stdout, "Queue:")


def destinations_of(queue: Attributes) -> list[str]:
    """Where a routing queue hands its jobs on to; empty for an execution queue."""
    if queue.get("queue_type", "").lower() != "route":
        return []
    return [one for one in re.split(r"[,\s]+", queue.get("route_destinations", "")) if one]


def read_array_limit(server: Output, queues: Iterable[Attributes] = ()) -> int:
    """The most tasks of an array: the server's limit or a queue's, where one is set. Without an answer, 1."""
    if server.code != 0:
        return 1
    own = re.search(r"^\s*max_array_size = (\d+)", server.stdout, re.MULTILINE)
    others = [queue.get("max_array_size", "") for queue in queues]
    return min([int(own[1]) if own else ARRAY_SIZE, *(int(size) for size in others if size.isdigit())])


def read_delete(answer: Output) -> list[str]:
    """Complaints of qdel; that a job is gone already is none."""
    if answer.code is None or answer.code < 0:
        return [answer.complaint]
    lines = [line.strip() for line in f"{answer.stdout}\n{answer.stderr}".splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("qdel:")]  # the others may be a wrapper's or a library's
    return [line for line in own or lines if not GONE.search(line)] if answer.code else []
