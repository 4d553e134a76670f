"""Torque, and what has its commands (Slurm's qsub, qstat and qdel): how to ask it, and how to read its answers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from roundhouse.model.answers import Identity, Jobs, QueryFailed, Refused, Scope, SubmitAnswer, Submitted, Unclear
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Resources
from roundhouse.schedulers import pbs_answers, pbs_qsub, slurm, slurm_answers, slurm_refusals
from roundhouse.schedulers.base import ONE_CORE, Output, Run, in_batches

# exit_status below 0 (Torque's administrator guide, appendix of job exit statuses).
VERDICTS = {
    -12: Cause.WALLTIME,  # CPU time: a limit of time as well
    -11: Cause.WALLTIME,
    -10: Cause.MEMORY,
    -6: Cause.NODE,
    -5: Cause.NODE,
    -4: Cause.NODE,
}
SHOW = ("scontrol", "-o", "show", "job")
SLURMS = "Job Id:\t"  # how an answer of Slurm's qstat begins
ARRAY_SIZE = 10_000  # Torque itself has no limit
PLAIN = re.compile(r"[\w@+=:,./-]+", re.ASCII)

# Definite refusals, by their words: whether the same may be accepted later, and what it is about. All else that fails
# may have been accepted.
_SAYS = r"^qsub: (submit error \()?"
REFUSALS = [
    (re.compile(_SAYS + said, re.IGNORECASE | re.MULTILINE), later, scope)
    for said, later, scope in (
        (r"array job exceeds server or queue size limit", True, Scope.SIZE),
        (r"(.*would exceed|maximum number of jobs .*already in)", True, Scope.ALL),
        (r"queue is not enabled", True, Scope.QUEUE),
        (r"(unknown queue|access to queue is denied)", False, Scope.QUEUE),
        (r"(unauthorized request|access from host not allowed|bad [ug]id for job execution|no default queue"
         r"|invalid (account|credential))", False, Scope.ALL),
        (r"(unknown resource|illegal|job name is too long|job (violates|exceeds) queue|resource limit exceeds"
         r"|job rejected by all possible|invalid (request|job dependency|option)|undefined attribute"
         r"|cannot set attribute|resource invalid in|node\(s\) specification|attribute value is out of range"
         r"|.*cannot be used with \"?select|.*script file|.*no such file|jobscript size)", False, Scope.REQUEST),
    )
]  # fmt: skip


class Torque:
    """The verbs of `base.Scheduler` for Torque, and for the qsub and qstat that Slurm brings along."""

    kind = "torque"
    grace = 180.0

    def __init__(self, user: str) -> None:
        self.user = user

    def identity(self, run: Run) -> Identity | QueryFailed:
        answer = run(["qstat", "-q"])
        server = re.search(r"^\s*server:\s*(\S+)", answer.stdout, re.MULTILINE)
        if server and answer.code == 0:
            return Identity(self.kind, server[1], self.user)
        if answer.code not in (0, pbs_answers.UNKNOWN):
            return QueryFailed(answer.complaint)
        cluster = slurm.Slurm(self.user).identity(run)  # Slurm's qstat names no server, but its cluster has a name
        return cluster if isinstance(cluster, QueryFailed) else Identity(self.kind, cluster.server, self.user)

    def submit(self, run: Run, script: Path, name: str, need: Resources = ONE_CORE) -> SubmitAnswer:
        text = script.read_text(encoding="utf-8", errors="replace")
        path, log = str(pbs_qsub.beside_log(script, text)), pbs_qsub.log_in(text)
        if not PLAIN.fullmatch(path):
            return Refused(f"{path}: qsub of Torque takes no paths but of letters, digits and @+=:,./-_")
        # Slurm's qsub gives sbatch a log path of its own unless -o names one, and that would override the header's.
        options = ["-j", "oe", "-o", log] if log and PLAIN.fullmatch(log) else []
        return read_submission(run(["qsub", *options, path]))

    def query(
        self, run: Run, ids: Collection[str], names: Collection[str], since: float | None = None
    ) -> Jobs | QueryFailed:
        jobs = read_status(answer := run(["qstat", "-f"]), self.user)
        if isinstance(jobs, QueryFailed):
            return jobs
        if any("[]" in job.id for job in jobs.jobs):
            jobs = read_status(run(["qstat", "-t", "-f"]), self.user)
            if isinstance(jobs, QueryFailed):
                return jobs
            return replace(jobs, jobs=tuple(one for one in jobs.jobs if "[]" not in one.id))
        return slurm_tasks(jobs, run) if answer.stdout.startswith(SLURMS) else jobs

    def array_limit(self, run: Run, queue: str | None) -> int:
        torques = read_array_limit(run(["qmgr", "-c", "print server"]))
        return max(torques, slurm.Slurm(self.user).array_limit(run, queue))

    def cancel(self, run: Run, ids: Iterable[str]) -> list[str]:
        ids = list(ids)
        if any("_" in one for one in ids):
            # Slurm's qdel would take 12_3 for 12, and delete the whole array. It can delete the tasks that have begun;
            # the others end by themselves, as soon as they see that their attempt is over.
            begun = {task: job for job, tasks in read_tasks(run(SHOW)).items() if len(tasks) == 1 for task in tasks}
            ids = [begun.get(one, one) for one in ids if "_" not in one or one in begun]
        return [line for some in in_batches(ids, 500) for line in pbs_answers.read_delete(run(["qdel", *some]))]


def read_array_limit(answer: Output) -> int:
    """The most tasks of an array, which the server prints only if it has been set. Without an answer, 1."""
    if answer.code != 0:
        return 1
    size = re.search(r"^set server max_job_array_size = (\d+)", answer.stdout, re.MULTILINE)
    return int(size[1]) if size else ARRAY_SIZE


def read_submission(answer: Output) -> SubmitAnswer:
    """What qsub said. Slurm's prints what sbatch said when that fails, after a command that may be long."""
    if isinstance(accepted := pbs_qsub.read_submission(answer), Submitted):
        return accepted
    for said, later, scope in REFUSALS if answer.code else ():
        if said.search(answer.stderr):
            return Refused(answer.complaint, later, scope)
    if answer.code and "sbatch" in answer.stdout:
        words = answer.stdout.rpartition("and the output was:")[2].strip().strip("'")
        return slurm_refusals.refusal(replace(answer, stdout="", stderr=words))
    return Unclear(answer.complaint)


def slurm_tasks(jobs: Jobs, run: Run) -> Jobs | QueryFailed:
    """The jobs that Slurm's qstat listed, those of arrays by task: which they are, only scontrol knows."""
    if not jobs.jobs:
        return jobs
    answer = run(SHOW)
    if answer.code != 0:
        return QueryFailed(answer.complaint)
    tasks = read_tasks(answer)
    found = tuple(replace(job, id=task) for job in jobs.jobs for task in tasks.get(job.id, [job.id]))
    return replace(jobs, jobs=found)


def read_tasks(answer: Output) -> dict[str, list[str]]:
    """Job ID -> the tasks that the job stands for, such as 12_3, from `scontrol show job`."""
    found = re.findall(r"^JobId=(\d+) ArrayJobId=(\d+) ArrayTaskId=([\d,-]+)", answer.stdout, re.MULTILINE)
    return {job: slurm_answers.job_ids(f"{array}_[{ranges}]")[0] for job, array, ranges in found}


def read_status(answer: Output, user: str) -> Jobs | QueryFailed:
    """The user's own jobs among all that `qstat -f` listed: the live, and the ended while the server keeps them."""
    listing = pbs_answers.parse_listing(answer.stdout)
    # An error may exit with 0, with words on stderr alone. Those of the dynamic linker are not qstat's.
    said = [line for line in answer.stderr.splitlines() if line.strip() and "ld.so:" not in line]
    nothing = not answer.stdout.strip() and not said
    answered = answer.code == 0 and (listing.jobs or listing.unreadable or nothing)
    if not answered and not (answer.code == pbs_answers.UNKNOWN and nothing):  # Slurm's qstat for an empty queue
        return QueryFailed(answer.complaint)
    own = {job_id: one for job_id, one in listing.jobs.items() if one.get("Job_Owner", "").partition("@")[0] == user}
    return Jobs(
        tuple(pbs_answers.job_of(job_id, one, VERDICTS, history=False) for job_id, one in own.items()),
        listing.unreadable,
    )
