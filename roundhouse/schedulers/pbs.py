"""OpenPBS and PBS Pro: how to ask them, and how to read what they say."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from roundhouse.causes import Cause
from roundhouse.experiment import Resources
from roundhouse.schedulers.base import (
    ONE_CORE,
    Identity,
    Job,
    Jobs,
    JobState,
    Output,
    QueryFailed,
    Refused,
    Run,
    Scope,
    SubmitAnswer,
    Submitted,
    Unclear,
    array_id,
    in_batches,
)

Attributes = Mapping[str, str]  # one job's, as qstat -f names them

ARRAY_SIZE = 10_000  # OpenPBS's own limit

# Exit codes are PBS's error numbers modulo 256.
UNKNOWN, FINISHED = 153, 35
ANSWERED = {0, UNKNOWN, FINISHED}  # other jobs asked for in the same breath are told of all the same
NO_HISTORY = re.compile(r"job[ _]history", re.IGNORECASE)

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
DELETED = "91"  # the substate of a job that somebody deleted

# What is said of a submission that was turned down for good, by PBS or Torque. All else may have been accepted.
REFUSED = re.compile(
    r"^qsub: (submit error \()?(unknown (queue|resource)|illegal|job name is too long|queue is not enabled"
    r"|access to queue is denied|unauthorized request|access from host not allowed|bad [ug]id for job execution"
    r"|job (violates|exceeds) queue|resource limit exceeds|no default queue|job rejected by all possible"
    r"|invalid (account|credential|request|job dependency|option)|undefined attribute|cannot set attribute"
    r"|resource invalid in|node\(s\) specification|attribute value is out of range|.*cannot be used with \"?select"
    r"|.*script file|.*no such file|jobscript size)",
    re.IGNORECASE | re.MULTILINE,
)
# Likewise, but it will be accepted once there is room.
LIMITED = re.compile(
    r"^qsub: (submit error \()?(.*would exceed|maximum number of jobs .*already in)", re.IGNORECASE | re.MULTILINE
)
# Likewise, but an array of fewer tasks is accepted: a queue may allow less than its server.
TOO_LARGE = re.compile(r"^qsub: array job exceeds server or queue size limit", re.IGNORECASE | re.MULTILINE)
GONE = re.compile(
    r"job has finished|unknown job id|request invalid for (state of job|finished array subjob)"
    r"|delete already in progress",
    re.IGNORECASE,
)


class PBS:
    """The verbs of `base.Scheduler` for OpenPBS and PBS Pro."""

    kind = "pbs"
    grace = 180.0

    def __init__(self, user: str) -> None:
        self.user = user

    def identity(self, run: Run) -> Identity | QueryFailed:
        answer = run(["qstat", "-B", "-f"])
        server = re.search(r"^Server:\s*(\S+)", answer.stdout, re.MULTILINE)
        if answer.code != 0 or server is None:
            return QueryFailed(answer.complaint)
        return Identity(self.kind, server[1], self.user)

    def submit(self, run: Run, script: Path, name: str, need: Resources = ONE_CORE) -> SubmitAnswer:
        return read_submission(run(["qsub", str(script)]))

    def query(
        self, run: Run, ids: Collection[str], names: Collection[str], since: float | None = None
    ) -> Jobs | QueryFailed:
        live = read_selection(run(["qselect", "-u", self.user]))
        if isinstance(live, QueryFailed):
            return live
        known = status(run, {*live, *(array_id(one) for one in ids)})
        if isinstance(known, QueryFailed):
            return known
        for name in sorted({*names} - {job.name for job in known.jobs}):
            ended = read_selection(run(["qselect", "-x", "-u", self.user, "-N", name]))
            past = ended if isinstance(ended, QueryFailed) else status(run, map(array_id, ended))
            if isinstance(past, QueryFailed):
                return past
            known = Jobs(known.jobs + past.jobs)
        return known

    def array_limit(self, run: Run, queue: str | None) -> int:
        server = run(["qstat", "-B", "-f"])
        default = re.search(r"^\s*default_queue = (\S+)", server.stdout, re.MULTILINE)
        queue = queue or (default[1] if default else None)
        return read_array_limit(server, run(["qstat", "-Q", "-f", queue]) if queue else None)

    def cancel(self, run: Run, ids: Iterable[str]) -> list[str]:
        return [line for some in in_batches(ids, 500) for line in read_delete(run(["qdel", *some]))]


def read_submission(answer: Output) -> SubmitAnswer:
    """What qsub said: an ID alone on its last line, or why not."""
    accepted = re.search(r"^\d+(\[\])?(\.\S+)?$", answer.stdout.strip().rpartition("\n")[2])
    if answer.code == 0 and accepted:
        return Submitted(accepted[0])
    if answer.code and TOO_LARGE.search(answer.stderr):
        return Refused(answer.complaint, later=True, scope=Scope.SIZE)
    if answer.code and LIMITED.search(answer.stderr):
        return Refused(answer.complaint, later=True, scope=Scope.ALL)
    return Refused(answer.complaint) if answer.code and REFUSED.search(answer.stderr) else Unclear(answer.complaint)


def read_array_limit(server: Output, queue: Output | None = None) -> int:
    """The most tasks of an array, which server and queue tell only if somebody has set it. Without an answer, 1."""
    if server.code != 0:
        return 1
    told = (re.search(r"^\s*max_array_size = (\d+)", one.stdout, re.MULTILINE) for one in (server, queue) if one)
    sizes = [int(size[1]) if size else ARRAY_SIZE for size in told]
    return min(sizes)


def read_selection(answer: Output) -> list[str] | QueryFailed:
    """The IDs that qselect printed. A server without history has none to select from."""
    if NO_HISTORY.search(answer.stderr):
        return []
    ids = answer.stdout.split()
    if answer.code != 0 or answer.stderr.strip() or not all(re.fullmatch(r"\d+(\[\d*\])?(\.\S+)?", one) for one in ids):
        return QueryFailed(answer.complaint)
    return ids


def status(run: Run, ids: Iterable[str]) -> Jobs | QueryFailed:
    """What the server says of each of these jobs, from its history where it keeps one."""
    jobs: list[Job] = []
    for some in in_batches(ids, 500):
        tasks = ["-t"] if any("[]" in one for one in some) else []
        answer = run(["qstat", "-x", *tasks, "-f", *some])
        if NO_HISTORY.search(answer.stderr) or (answer.code == 0 and not answer.stdout.strip()):
            answer = run(["qstat", *tasks, "-f", *some])
        found = read_status(answer, some)
        if isinstance(found, QueryFailed):
            return found
        jobs += found.jobs
    return Jobs(tuple(jobs))


def read_status(answer: Output, asked: Collection[str]) -> Jobs | QueryFailed:
    """What `qstat -f` said of the jobs asked for.

    It is an answer only if each of them is there, or is said to be unknown or finished. That is more than can be had
    with `-F json`, which OpenPBS 23.06 prints for the first of several jobs alone (its issue 2672), and for a server
    that is down as well.
    """
    jobs = from_text(answer.stdout)
    told = {_stem(job_id) for job_id in jobs}
    told |= {_stem(word) for line in answer.stderr.splitlines() if GONE.search(line) for word in line.split()}
    if answer.code not in ANSWERED or not {_stem(job_id) for job_id in asked} <= told:
        return QueryFailed(answer.complaint)
    return Jobs(tuple(job_of(job_id, attributes) for job_id, attributes in jobs.items() if "[]" not in job_id))


def _stem(job_id: str) -> str:
    return job_id.partition(".")[0]


def from_text(text: str) -> dict[str, Attributes]:
    """Job ID -> attributes, from `qstat -f`. PBS continues long values on lines that begin with a tab."""
    jobs: dict[str, Attributes] = {}
    for block in re.split(r"^Job Id:\s*", text, flags=re.MULTILINE)[1:]:
        job_id, _, body = block.partition("\n")
        if body.startswith(" "):
            body = body.replace("\n\t", "")
        # The first of a name counts: what looks like another is a line of a variable's value.
        pairs = re.findall(r"^\s+([\w.]+) = (.*)$", body, re.MULTILINE)
        jobs[job_id.strip()] = dict(reversed(pairs))
    return jobs


def job_of(job_id: str, attributes: Attributes, verdicts: Mapping[int, Cause] = VERDICTS) -> Job:
    """A job from its attributes; `verdicts` gives meaning to an exit status below 0."""
    name, letter, comment = (attributes.get(key, "") for key in ("Job_Name", "job_state", "comment"))
    words = ": ".join(part for part in (STATES.get(letter, f"state {letter}"), comment) if part)
    if letter in ENDED:
        return Job(job_id, name, JobState.ENDED, words, cause_of(attributes, verdicts))
    if letter == "H" or "can never run" in comment.lower():
        return Job(job_id, name, JobState.BLOCKED, words)
    return Job(job_id, name, JobState.QUEUED if letter in NOT_STARTED else JobState.RUNNING, words)


def cause_of(attributes: Attributes, verdicts: Mapping[int, Cause]) -> Cause | None:
    """The scheduler's own verdict on an ended job, if it gave a clear one. An exit code of the script is none."""
    status = attributes.get("Exit_status") or attributes.get("exit_status", "")
    verdict = verdicts.get(int(status)) if re.fullmatch(r"-\d+", status) else None
    exceeded = re.search(r"exceeded resource (\w+)", attributes.get("comment", ""))
    if verdict is None and exceeded:
        verdict = LIMITS.get(exceeded[1])
    return verdict or (Cause.DELETED if attributes.get("substate") == DELETED else None)


def read_delete(answer: Output) -> list[str]:
    """Complaints of qdel; that a job is gone already is none."""
    lines = [line.strip() for line in f"{answer.stdout}\n{answer.stderr}".splitlines() if line.strip()]
    if answer.code is None or answer.code < 0:
        return [answer.complaint]
    return [line for line in lines if not GONE.search(line)] if answer.code else []
