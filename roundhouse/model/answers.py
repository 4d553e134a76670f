"""The answers of a scheduler to a query and to a submission, each kind a class of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from roundhouse.model.causes import Cause


class JobState(Enum):
    """The states of a job that Roundhouse distinguishes. Every state but ENDED is alive."""

    QUEUED = "queued"
    RUNNING = "running"
    BLOCKED = "blocked"  # held, or never able to run: the user must act
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Job:
    """One job as the scheduler shows it, with its `words`. `cause`: why the job ended, if the scheduler says so.

    A job that is queued again may have a cause too, of the end of its last run.
    """

    id: str
    name: str
    state: JobState
    words: str = ""
    cause: Cause | None = None

    @property
    def index(self) -> int | None:
        """Which task of an array it is, from its ID: 12_3 or 12[3].server."""
        task = _TASK.search(self.id)
        return int(task[1]) if task else None


_TASK = re.compile(r"^\d+[_\[](\d+)")


def task_id(job_id: str, index: int | None) -> str:
    """The ID of one task of an array whose ID is `job_id`: 12_3 as Slurm writes it, 12[3].server as PBS does."""
    if index is None:
        return job_id
    return job_id.replace("[]", f"[{index}]") if "[]" in job_id else f"{job_id}_{index}"


def array_id(job_id: str) -> str:
    """The ID of the array to which a task belongs; that of any other job as it is."""
    return re.sub(r"^(\d+)_\d+$", r"\1", re.sub(r"^(\d+)\[\d+\]", r"\1[]", job_id))


@dataclass(frozen=True, slots=True)
class Jobs:
    """The scheduler answered: every live job of this user, and what it remembers of the ended jobs that were queried.

    A job that was asked for and is not in `jobs` is *not known to the scheduler*. Its state is undetermined in two
    cases: one of the `unreadable` rows may describe it (rows of the answer that could not be parsed, as printed), or it
    belongs to a later query, since there were too many jobs (`later`: their IDs and names).
    """

    jobs: tuple[Job, ...]
    unreadable: tuple[str, ...] = ()
    later: frozenset[str] = frozenset()
    history: bool = False  # whether the scheduler keeps what it knows of jobs that have ended

    def by_name(self) -> dict[str, list[Job]]:
        found: dict[str, list[Job]] = {}
        for job in self.jobs:
            found.setdefault(job.name, []).append(job)
        return found

    def unreadable_row_of(self, job_id: str | None, name: str) -> str:
        """The unreadable row that may describe this job; empty if none can.

        A row begins with its job's number, and one of Slurm ends with the name after the third bar, unless it was cut.
        """
        for row in self.unreadable:
            number = re.match(r"\s*(\d+)[|_+.\[]", row)
            last = row.rpartition("|")[2] if row.count("|") > 2 else ""
            if name in row or (number and job_id and re.match(rf"{number[1]}(?!\d)", job_id)):
                return row
            of_another = last != "" and not name.startswith(last)
            if (number is None or job_id is None) and not of_another:
                return row
        return ""

    def left_open(self, job_id: str | None, name: str) -> str:
        """Why the state of a job that is not among `jobs` is open; empty if it is not known to the scheduler."""
        if self.later & {job_id, array_id(job_id or ""), name}:
            return "there are many jobs to query, and this one is queried in a later pass"
        row = self.unreadable_row_of(job_id, name)
        return f"a row of the scheduler's answer that cannot be read may be about its job: {row[:200]!r}" if row else ""


@dataclass(frozen=True, slots=True)
class QueryFailed:
    """No answer, or an unreliable one. Nothing follows from it."""

    why: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Which scheduler this is: jobs recorded under another identity are unknown to it."""

    kind: str  # slurm, pbs, torque, local
    server: str  # cluster name, PBS server, or the name of the local machine
    user: str
    boot: str = ""  # local only: the boot of the machine during which the job ran


@dataclass(frozen=True, slots=True)
class Submitted:
    job_id: str


class Scope(str, Enum):
    """What a refusal applies to, and so what else would be refused for the same reason."""

    SIZE = "size"  # the number of tasks: a smaller array may be accepted at once
    REQUEST = "request"  # this resource request: other jobs with the same request would be refused too
    QUEUE = "queue"  # every job for the same queue
    ALL = "all"  # every job that this user submits here

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Refused:
    """The job was refused and does not exist. `later`: the same submission may be accepted later.

    A refusal that is not `later` and applies to a queue, or to everything, is an error in the site file or the account:
    it does not concern the experiment. `why` is the scheduler's message.
    """

    why: str
    later: bool = False
    scope: Scope = Scope.REQUEST
    counts_tasks: bool = False  # each task of an array counts towards the limit that was reached

    @property
    def splits(self) -> bool:
        """Whether an array of fewer tasks may be accepted at once."""
        return self.later and (self.counts_tasks or self.scope in (Scope.SIZE, Scope.ALL))


@dataclass(frozen=True, slots=True)
class Unclear:
    """The job may or may not exist: it is searched by its name, and never submitted again."""

    why: str


SubmitAnswer = Submitted | Refused | Unclear
