"""Torque, and what takes its manners: how to ask it, and how to read what it says."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from roundhouse.causes import Cause
from roundhouse.experiment import Resources
from roundhouse.schedulers import pbs, slurm, slurm_answers, slurm_refusals
from roundhouse.schedulers.base import (
    ONE_CORE,
    Identity,
    Jobs,
    Output,
    QueryFailed,
    Refused,
    Run,
    SubmitAnswer,
    Unclear,
    in_batches,
)

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
        if answer.code not in (0, pbs.UNKNOWN):
            return QueryFailed(answer.complaint)
        cluster = slurm.Slurm(self.user).identity(run)  # Slurm's qstat names no server, but its cluster has a name
        return cluster if isinstance(cluster, QueryFailed) else Identity(self.kind, cluster.server, self.user)

    def submit(self, run: Run, script: Path, name: str, need: Resources = ONE_CORE) -> SubmitAnswer:
        if not PLAIN.fullmatch(str(script)):
            return Refused(f"{script}: qsub of Torque takes no paths but of letters, digits and @+=:,./-_")
        log = re.search(r"^#PBS -o (\S+)$", script.read_text(), re.MULTILINE)
        # Slurm's qsub gives sbatch a log of its own choice unless told, and that would win over the header's.
        options = ["-j", "oe", "-o", log[1]] if log and PLAIN.fullmatch(log[1]) else []
        return read_submission(run(["qsub", *options, str(script)]))

    def query(
        self, run: Run, ids: Collection[str], names: Collection[str], since: float | None = None
    ) -> Jobs | QueryFailed:
        jobs = read_status(answer := run(["qstat", "-f"]), self.user)
        if isinstance(jobs, QueryFailed):
            return jobs
        if any("[]" in job.id for job in jobs.jobs):
            jobs = read_status(run(["qstat", "-t", "-f"]), self.user)
            return (
                jobs if isinstance(jobs, QueryFailed) else Jobs(tuple(one for one in jobs.jobs if "[]" not in one.id))
            )
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
        return [line for some in in_batches(ids, 500) for line in pbs.read_delete(run(["qdel", *some]))]


def read_array_limit(answer: Output) -> int:
    """The most tasks of an array, which the server tells only if somebody has set it. Without an answer, 1."""
    if answer.code != 0:
        return 1
    size = re.search(r"^set server max_job_array_size = (\d+)", answer.stdout, re.MULTILINE)
    return int(size[1]) if size else ARRAY_SIZE


def read_submission(answer: Output) -> SubmitAnswer:
    """What qsub said. Slurm's prints what sbatch said when that fails, after a command that may be long."""
    verdict = pbs.read_submission(answer)
    if isinstance(verdict, Unclear) and answer.code and "sbatch" in answer.stdout:
        said = answer.stdout.rpartition("and the output was:")[2].strip().strip("'")
        return slurm_refusals.refusal(replace(answer, stdout="", stderr=said))
    return verdict


def slurm_tasks(jobs: Jobs, run: Run) -> Jobs | QueryFailed:
    """The jobs that Slurm's qstat told of, those of arrays by task: which they are, only scontrol knows."""
    if not jobs.jobs:
        return jobs
    answer = run(SHOW)
    if answer.code != 0:
        return QueryFailed(answer.complaint)
    tasks = read_tasks(answer)
    return Jobs(tuple(replace(job, id=task) for job in jobs.jobs for task in tasks.get(job.id, [job.id])))


def read_tasks(answer: Output) -> dict[str, list[str]]:
    """Job ID -> the tasks that the job stands for, such as 12_3, from `scontrol show job`."""
    told = re.findall(r"^JobId=(\d+) ArrayJobId=(\d+) ArrayTaskId=([\d,-]+)", answer.stdout, re.MULTILINE)
    return {job: slurm_answers.job_ids(f"{array}_[{ranges}]")[0] for job, array, ranges in told}


def read_status(answer: Output, user: str) -> Jobs | QueryFailed:
    """The user's own jobs among all that `qstat -f` told of: the live, and the ended while the server keeps them."""
    jobs = pbs.from_text(answer.stdout)
    nothing = not answer.stdout.strip() and not answer.stderr.strip()
    if not (answer.code == 0 and (jobs or nothing)) and not (answer.code == pbs.UNKNOWN and nothing):
        return QueryFailed(answer.complaint)
    own = {job_id: one for job_id, one in jobs.items() if one.get("Job_Owner", "").partition("@")[0] == user}
    return Jobs(tuple(pbs.job_of(job_id, one, VERDICTS) for job_id, one in own.items()))
