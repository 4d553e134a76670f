"""Slurm: how to ask it, and how to read what it says."""

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
    in_batches,
)

# The states of a job that is over, and the cause where the state alone tells it. Any other word means alive.
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

# Reasons that no waiting resolves: somebody must release the job, change it, or change the cluster.
NEVER = re.compile(
    r"JobHeld(User|Admin)|JobHoldMaxRequeue|.*requeued_held|BadConstraints|DependencyNeverSatisfied"
    r"|Partition(Config|TimeLimit|NodeLimit)|Invalid(Account|QOS)|(Account|QOS)NotAllowed|ReservationDeleted"
    r"|(QOS|Assoc)Max\w*Per(Job|Node)(Limit)?|QOSMin\w*|MaxMemPerLimit"
)

# What is said of a submission that was turned down for good. All else that fails may have been accepted.
REFUSED = re.compile(
    r"invalid (partition|account|qos|feature|generic resource|node name|wckey|user|job constraint|license"
    r"|trackable|gres specification|--[\w-]+ specification|directive found)"
    r"|no partition specified|not permitted to use this partition|nodes not in this partition"
    r"|more processors requested than permitted|more tasks than available processors"
    r"|(node|task|cpu) count specification invalid|is not a valid node count|job size specification needs"
    r"|requested (node|partition) configuration (is )?not available|memory required by task is not available"
    r"|time limit (is invalid|specification required)|reservation is invalid|access denied to requested reservation"
    r"|requested gres option unsupported|operation not supported|pathname .* too long|access/permission denied"
    r"|unrecognized option|option requires an argument|batch script (is empty|contains)|not look like a batch script"
    r"|unable to open file",
    re.IGNORECASE,
)
# Likewise, but it will be accepted once there is room.
LIMITED = re.compile(
    r"job violates accounting/qos policy|resource temporarily unavailable|unable to create job record"
    r"|qos usage threshold|partition not available \(inactive",
    re.IGNORECASE,
)
GONE = re.compile(r"invalid job id specified|already (completing|completed|finished)", re.IGNORECASE)
NO_HISTORY = re.compile(r"accounting storage is disabled|No such file or directory|command not found", re.IGNORECASE)

# The name comes last: it may hold any character.
QUEUE = ("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%j")
HISTORY = ("sacct", "-n", "-P", "-X", "-S", "now-30days", "-o", "JobID,State,JobName")


class Slurm:
    """The verbs of `base.Scheduler` for Slurm 20 and later."""

    kind = "slurm"
    grace = 180.0

    def __init__(self, user: str) -> None:
        self.user = user

    def identity(self, run: Run) -> Identity | QueryFailed:
        answer = run(["scontrol", "show", "config"])
        name = re.search(r"^ClusterName\s*=\s*(\S+)", answer.stdout, re.MULTILINE)
        if answer.code != 0 or name is None:
            return QueryFailed(answer.complaint)
        return Identity(self.kind, name[1], self.user)

    def submit(self, run: Run, script: Path, name: str, need: Resources = ONE_CORE) -> SubmitAnswer:
        return read_submission(run(["sbatch", "--parsable", str(script)]))

    def query(self, run: Run, ids: Collection[str], names: Collection[str]) -> Jobs | QueryFailed:
        listed = read_queue(run([*QUEUE, "-u", self.user]))
        if isinstance(listed, QueryFailed):
            return listed
        jobs = list(listed.jobs)
        lost = [f"--jobs={','.join(some)}" for some in in_batches(set(ids) - {job.id for job in jobs}, 500)]
        lost += [f"--name={','.join(some)}" for some in in_batches(set(names) - {job.name for job in jobs}, 500)]
        for which in lost:
            answer = run([*HISTORY, f"--user={self.user}", which])
            if answer.code != 0 and NO_HISTORY.search(answer.stderr):
                break
            past = read_history(answer)
            if isinstance(past, QueryFailed):
                return past
            jobs += past.jobs
        return Jobs(tuple(jobs))

    def array_limit(self, run: Run, queue: str | None) -> int:
        return read_array_limit(run(["scontrol", "show", "config"]))

    def cancel(self, run: Run, ids: Iterable[str]) -> list[str]:
        return [line for some in in_batches(ids, 500) for line in read_cancel(run(["scancel", *some]))]


def read_array_limit(answer: Output) -> int:
    """The most tasks of an array: MaxArraySize counts the index 0, and max_array_tasks may allow fewer still.

    Without an answer, 1: the jobs are then submitted one by one.
    """
    size = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.stdout, re.MULTILINE)
    if answer.code != 0 or size is None:
        return 1
    tasks = re.search(r"\bmax_array_tasks=(\d+)", answer.stdout)
    return max(1, min(int(size[1]), int(tasks[1]) if tasks else int(size[1])))


def read_submission(answer: Output) -> SubmitAnswer:
    """What sbatch said: `123` or `123;cluster`, or why not."""
    accepted = re.search(r"^(\d+)(;\S*)?$", answer.stdout.strip().rpartition("\n")[2])
    if answer.code == 0 and accepted:
        return Submitted(accepted[1])
    return refusal(answer.stderr, answer.complaint) if answer.code else Unclear(answer.complaint)


def refusal(said: str, complaint: str) -> Refused | Unclear:
    """Whether a failed submission was definitely not accepted, from what sbatch said.

    Only the controller's own verdict counts where there is one: lines before it may tell of tries that failed.
    """
    verdict = said.rpartition("Batch job submission failed:")[2]
    if re.search(r"\w+SubmitJobs?\w*Limit", said) and LIMITED.search(verdict):
        return Refused(complaint, later=True, scope=Scope.ALL)
    if "PerJobLimit" in said and LIMITED.search(verdict):
        return Refused(complaint)
    if LIMITED.search(verdict):
        return Refused(complaint, later=True, scope=Scope.ALL)
    return Refused(complaint) if REFUSED.search(verdict) else Unclear(complaint)


def read_queue(answer: Output) -> Jobs | QueryFailed:
    """What squeue said. It exits 0 even where it complains, so a complaint counts as a failure too."""
    if answer.code != 0 or "error" in answer.stderr:
        return QueryFailed(answer.complaint)
    rows = re.findall(r"^(\d[\w\[\]]*)\|([A-Z_]+)\|([^|\n]*)\|(.*)$", answer.stdout, re.MULTILINE)
    if answer.stdout.strip() and not re.match(r"\d[\w\[\]]*\|[A-Z_]+\|", answer.stdout):
        return QueryFailed(answer.complaint)
    return Jobs(tuple(job_of(job_id, state, name, reason) for job_id, state, reason, name in rows))


def read_history(answer: Output) -> Jobs | QueryFailed:
    """The ended jobs that sacct told of. Which jobs are alive is squeue's to say: accounting may lag for ever."""
    if answer.code != 0 or "error" in answer.stderr:
        return QueryFailed(answer.complaint)
    rows = [line.split("|", 2) for line in answer.stdout.splitlines() if line.count("|") >= 2]
    return Jobs(tuple(job_of(job_id, state, name) for job_id, state, name in rows if state.split()[0] in ENDED))


def job_of(job_id: str, state: str, name: str, reason: str = "") -> Job:
    """A job from Slurm's words; `state` may be as long as `CANCELLED by 1000`."""
    word = state.split()[0]
    words = f"{word} ({reason})" if reason not in ("", "None") else word
    if word in ENDED:
        return Job(job_id, name, JobState.ENDED, words, ENDED[word])
    if word in HELD or (word == "PENDING" and NEVER.fullmatch(reason.replace(" ", "_"))):
        return Job(job_id, name, JobState.BLOCKED, words)
    return Job(job_id, name, JobState.QUEUED if word in WAITING else JobState.RUNNING, words)


def read_cancel(answer: Output) -> list[str]:
    """Complaints of scancel; that a job is gone already is none."""
    lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
    if answer.code in (0, None) or not lines:
        return [] if answer.code == 0 else [answer.complaint]
    return [line for line in lines if not GONE.search(line)]
