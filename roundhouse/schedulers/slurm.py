"""Slurm: which commands to run. `slurm_answers` parses their output, `slurm_refusals` that of failed submissions."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from roundhouse.model.answers import Identity, Jobs, QueryFailed, Refused, Scope, SubmitAnswer, Submitted, Unclear
from roundhouse.schedulers import slurm_answers
from roundhouse.schedulers.base import Output, QueryAnswer, Run, in_batches
from roundhouse.schedulers.slurm_refusals import complaint

if TYPE_CHECKING:  # it needs packages, and toolbox/setup.sh runs without any
    from roundhouse.model.experiment import Resources

QUEUE = ("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%j")
HISTORY = ("sacct", "-n", "-P", "-X", "-o", "JobID,State,JobName")

DAY = 86400
MARGIN = 3600.0  # seconds before the oldest attempt from which history is queried, because clocks differ
NARROWINGS = 8  # halvings of the range: 30 days become less than 3 hours

# A site may limit the time range of a query (MaxQueryTimeRange of slurmdbd), for queries by name, not by ID.
TOO_WIDE = re.compile(r"too wide of a date range", re.IGNORECASE)


class Slurm:
    """The methods of `base.Scheduler` for Slurm 20 and later."""

    kind = "slurm"
    grace = 180.0

    def __init__(self, user: str) -> None:
        self.user = user
        self.cluster = ""  # the name of the cluster that answers, once known
        self.widest = math.inf  # seconds: the longest time range that accounting allows for names

    def identity(self, run: Run) -> Identity | QueryFailed:
        answer = run(["scontrol", "show", "config"])
        name = re.search(r"^ClusterName\s*=\s*(\S+)", answer.stdout, re.MULTILINE)
        if answer.code != 0 or name is None:
            return QueryFailed(complaint(answer, "scontrol"))
        self.cluster = name[1]
        return Identity(self.kind, name[1], self.user)

    def submit(self, run: Run, script: Path, name: str, need: Resources | None = None) -> SubmitAnswer:
        answer = run(["sbatch", "--parsable", str(script)])
        result, accepted = slurm_answers.read_submission(answer), slurm_answers.ACCEPTED.search(answer.stdout)
        if isinstance(result, Submitted) and accepted and accepted[2]:
            return self._on_cluster(run, result, accepted[2])
        return result

    def _on_cluster(self, run: Run, accepted: Submitted, cluster: str) -> SubmitAnswer:
        """The answer if sbatch named the cluster that accepted the job (`4711;cluster`), which may be another one.

        A job on another cluster is never in the answers of this one, so its ID must not be recorded: it would count as
        gone while it waits or runs, and the experiment would be submitted again. The job is cancelled there, so the
        answer is a refusal. If it cannot be cancelled it may still start, so the answer is unclear: the attempt is
        closed by taking its claim, and a job that starts later exits immediately.
        """
        if not self.cluster:
            self.identity(run)
        if cluster.lower() == self.cluster.lower():
            return accepted
        where = f"sbatch: job {accepted.job_id} was accepted by cluster {cluster!r}"
        if not self.cluster:
            return Unclear(f"{where}, and scontrol did not report the name of this cluster")
        cancel = ["scancel", f"--clusters={cluster}", accepted.job_id]
        where += f", but this pass works with cluster {self.cluster!r}"
        if complaints := slurm_answers.read_cancel(run(cancel)):
            return Unclear(f"{where}; it could not be cancelled there; run: {' '.join(cancel)} ({complaints[0]})")
        remedy = f"remove the choice of a cluster from the site file, or set SLURM_CLUSTERS={cluster}"
        return Refused(f"{where}; it was cancelled there; {remedy}", scope=Scope.ALL)

    def query(self, run: Run, ids: Collection[str], names: Collection[str], since: float | None = None) -> QueryAnswer:
        listed = slurm_answers.read_queue(run([*QUEUE, "-u", self.user]))
        if isinstance(listed, QueryFailed):
            return listed
        jobs = list(listed.jobs)
        lost = [f"--jobs={','.join(some)}" for some in in_batches(set(ids) - {job.id for job in jobs}, 500)]
        lost += [f"--name={','.join(some)}" for some in in_batches(set(names) - {job.name for job in jobs}, 500)]
        for which in lost:
            past = self._history(run, which, since)
            if isinstance(past, QueryFailed):
                return past
            if past is None:
                return Jobs(tuple(jobs), listed.unreadable)
            jobs += past.jobs
        return Jobs(tuple(jobs), listed.unreadable, history=True)

    def _history(self, run: Run, which: str, since: float | None) -> Jobs | QueryFailed | None:
        """The ended jobs that accounting knows, from `since` on; None if there is no history, or access is refused."""
        seconds = 30 * DAY if since is None else max(0.0, time.time() - since) + MARGIN
        if which.startswith("--name="):
            seconds = min(seconds, self.widest)
        for _ in range(NARROWINGS + 1):
            answer = run([*HISTORY, "-S", f"now-{seconds:.0f}seconds", f"--user={self.user}", which])
            if not TOO_WIDE.search(answer.stderr):
                return None if no_history(answer) else slurm_answers.read_history(answer)
            seconds /= 2
            self.widest = seconds
        return None

    def array_limit(self, run: Run, queue: str | None) -> int:
        answer = run(["scontrol", "show", "config"])
        if answer.code != 0:
            return 1
        # MaxArraySize counts the index 0, and max_array_tasks may be smaller.
        sizes = re.findall(r"(?m)^MaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", answer.stdout)
        return max(1, min((int(size or tasks) for size, tasks in sizes), default=1))

    def cancel(self, run: Run, ids: Iterable[str]) -> list[str]:
        return [line for some in in_batches(ids, 500) for line in slurm_answers.read_cancel(run(["scancel", *some]))]


def no_history(answer: Output) -> bool:
    """Whether there is no accounting: the command is missing, or the cluster has none."""
    missing = answer.code is None and answer.stderr.startswith("cannot be started: No such file")
    return missing or answer.code == 127 or "accounting storage is disabled" in answer.stderr
