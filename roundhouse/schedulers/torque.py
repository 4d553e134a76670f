"""Torque, and Slurm's commands of the same names (qsub, qstat, qdel): commands, and how to parse their output."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from roundhouse.model.answers import Identity, Jobs, QueryFailed, Refused, Scope, SubmitAnswer, Submitted, Unclear
from roundhouse.model.causes import Cause
from roundhouse.schedulers import pbs_answers, pbs_qsub, slurm, slurm_answers, slurm_refusals
from roundhouse.schedulers.base import Output, QueryAnswer, Run, in_batches

if TYPE_CHECKING:  # it needs packages, and toolbox/setup.sh runs without any
    from roundhouse.model.experiment import Resources

# exit_status below 0 (Torque's administrator guide, appendix of job exit statuses).
CAUSES = {
    **dict.fromkeys((-12, -11), Cause.WALLTIME),  # -12: CPU time
    -10: Cause.MEMORY,
    **dict.fromkeys((-6, -5, -4), Cause.NODE),
}
SHOW = ("scontrol", "-o", "show", "job")
SLURM_PREFIX = "Job Id:\t"  # how the output of Slurm's qstat begins
ARRAY_SIZE = 10_000  # if the server has no limit
PLAIN = re.compile(r"[\w@+=:,./-]+", re.ASCII)

# Definite refusals: message, whether the same may be accepted later, scope. After any other error the job may have been
# accepted.
REFUSALS = (
    (r"array job exceeds server or queue size limit", True, Scope.SIZE),
    (r".*would exceed|maximum number of jobs .*already in", True, Scope.ALL),
    (r"queue is not enabled", True, Scope.QUEUE),
    (r"unknown queue|access to queue is denied", False, Scope.QUEUE),
    (r"unauthorized request|access from host not allowed|bad [ug]id for job execution|no default queue"
     r"|invalid (account|credential)", False, Scope.ALL),
    (r"unknown resource|illegal|job name is too long|job (violates|exceeds) queue|resource limit exceeds"
     r"|job rejected by all possible|invalid (request|job dependency|option)|undefined attribute"
     r"|cannot set attribute|resource invalid in|node\(s\) specification|attribute value is out of range"
     r"|.*cannot be used with \"?select|.*script file|.*no such file|jobscript size", False, Scope.REQUEST),
)  # fmt: skip


class Torque:
    """The methods of `base.Scheduler` for Torque, and for the qsub, qstat and qdel that come with Slurm."""

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

    def submit(self, run: Run, script: Path, name: str, need: Resources | None = None) -> SubmitAnswer:
        text = script.read_text(encoding="utf-8", errors="replace")
        path, log = str(pbs_qsub.in_folder_of_log(script, text)), pbs_qsub.log_in(text)
        if not PLAIN.fullmatch(path):
            return Refused(f"{path}: qsub of Torque only accepts paths of letters, digits and @+=:,./-_")
        # Without -o, Slurm's qsub passes a log path of its own to sbatch, which would override that of the header.
        options = ["-j", "oe", "-o", log] if log and PLAIN.fullmatch(log) else []
        return read_submission(run(["qsub", *options, path]))

    def query(self, run: Run, ids: Collection[str], names: Collection[str], since: float | None = None) -> QueryAnswer:
        jobs = read_status(answer := run(["qstat", "-f"]), self.user)
        if isinstance(jobs, QueryFailed):
            return jobs
        if any("[]" in job.id for job in jobs.jobs):
            jobs = read_status(run(["qstat", "-t", "-f"]), self.user)
            if isinstance(jobs, QueryFailed):
                return jobs
            return replace(jobs, jobs=tuple(one for one in jobs.jobs if "[]" not in one.id))
        return slurm_tasks(jobs, run) if answer.stdout.startswith(SLURM_PREFIX) else jobs

    def array_limit(self, run: Run, queue: str | None) -> int:
        answer = run(["qmgr", "-c", "print server"])
        size = re.search(r"^set server max_job_array_size = (\d+)", answer.stdout, re.MULTILINE)
        limit = int(size[1]) if size else ARRAY_SIZE
        return max(limit if answer.code == 0 else 1, slurm.Slurm(self.user).array_limit(run, queue))

    def cancel(self, run: Run, ids: Iterable[str]) -> list[str]:
        ids = list(ids)
        if any("_" in one for one in ids):
            # Slurm's qdel would read 12_3 as 12, and delete the whole array. It can delete tasks that have started; the
            # others exit when they start, because their attempt is closed.
            started = {task: job for job, tasks in read_tasks(run(SHOW)).items() if len(tasks) == 1 for task in tasks}
            ids = [started.get(one, one) for one in ids if "_" not in one or one in started]
        return [line for some in in_batches(ids, 500) for line in pbs_answers.read_delete(run(["qdel", *some]))]


def read_submission(answer: Output) -> SubmitAnswer:
    """The answer of qsub. If sbatch fails, Slurm's qsub prints its command, which may be long, and its output."""
    if isinstance(accepted := pbs_qsub.read_submission(answer), Submitted):
        return accepted
    for message, later, scope in REFUSALS if answer.code else ():
        if re.search(rf"(?im)^qsub: (submit error \()?({message})", answer.stderr):
            return Refused(answer.complaint, later, scope)
    if answer.code and "sbatch" in answer.stdout:
        output = answer.stdout.rpartition("and the output was:")[2].strip().strip("'")
        return slurm_refusals.refusal(replace(answer, stdout="", stderr=output))
    return Unclear(answer.complaint)


def slurm_tasks(jobs: Jobs, run: Run) -> Jobs | QueryFailed:
    """The jobs that Slurm's qstat listed, with one job for each task of an array; only scontrol lists the tasks."""
    if not jobs.jobs:
        return jobs
    answer = run(SHOW)
    if answer.code != 0:
        return QueryFailed(answer.complaint)
    tasks = read_tasks(answer)
    found = tuple(replace(job, id=task) for job in jobs.jobs for task in tasks.get(job.id, [job.id]))
    return replace(jobs, jobs=found)


def read_tasks(answer: Output) -> dict[str, list[str]]:
    """Job ID -> the tasks that the job represents, such as 12_3, from `scontrol show job`."""
    found = re.findall(r"^JobId=(\d+) ArrayJobId=(\d+) ArrayTaskId=([\d,-]+)", answer.stdout, re.MULTILINE)
    return {job: slurm_answers.job_ids(f"{array}_[{ranges}]")[0] for job, array, ranges in found}


def read_status(answer: Output, user: str) -> Jobs | QueryFailed:
    """The user's own jobs in the output of `qstat -f`: live ones, and ended ones as long as the server keeps them."""
    listing = pbs_answers.parse_listing(answer.stdout)
    # After an error, qstat may exit with 0 and print only to stderr. Lines of the dynamic linker are not its errors.
    errors = [line for line in answer.stderr.splitlines() if line.strip() and "ld.so:" not in line]
    nothing = not answer.stdout.strip() and not errors
    answered = answer.code == 0 and (listing.jobs or listing.unreadable or nothing)
    if not answered and not (answer.code == pbs_answers.UNKNOWN and nothing):  # Slurm's qstat for an empty queue
        return QueryFailed(answer.complaint)
    own = {job_id: one for job_id, one in listing.jobs.items() if one.get("Job_Owner", "").partition("@")[0] == user}
    return Jobs(
        tuple(pbs_answers.job_of(job_id, one, CAUSES, history=False) for job_id, one in own.items()),
        listing.unreadable,
    )
