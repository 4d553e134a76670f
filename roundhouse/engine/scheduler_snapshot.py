"""The scheduler's answer to the one query of a pass, and what it means for each record."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from roundhouse.model.answers import Identity, Job, Jobs, JobState, QueryFailed
from roundhouse.model.attempt import Attempt, Record
from roundhouse.model.plan import Answer, Unknown
from roundhouse.schedulers.base import Run, Scheduler


@dataclass(frozen=True)
class SchedulerSnapshot:
    """The scheduler's answer at one moment, or that of the allocation `within`, which knows only its own slots.

    Without an identity there are no `jobs` either.
    """

    jobs: Jobs | QueryFailed
    identity: Identity | QueryFailed
    took: float = 0.0  # seconds that the query took
    within: str | None = None

    @cached_property
    def named(self) -> dict[tuple[str, int | None], list[Job]]:
        """Jobs by name, and by index where they are tasks of an array; the live ones first."""
        found: dict[tuple[str, int | None], list[Job]] = {}
        if isinstance(self.jobs, Jobs):
            for job in sorted(self.jobs.jobs, key=lambda job: job.state is JobState.ENDED):
                found.setdefault((job.name, job.index), []).append(job)
        return found

    @cached_property
    def alive_by_id(self) -> dict[str, Job]:
        """The live jobs by ID, under any name."""
        return {job.id: job for jobs in self.named.values() for job in jobs if job.state is not JobState.ENDED}

    @cached_property
    def scheduler(self) -> Mapping[str, str] | None:
        """The identity of the scheduler, as job.json names it; None if it did not answer."""
        return None if isinstance(self.identity, QueryFailed) else asdict(self.identity)

    @property
    def error(self) -> str:
        """Why the scheduler could not be queried; empty if it answered."""
        return self.jobs.why if isinstance(self.jobs, QueryFailed) else ""


NOT_QUERIED = SchedulerSnapshot(QueryFailed("not queried"), QueryFailed("not queried"))


def query_scheduler(scheduler: Scheduler, run: Run, records: Sequence[Record]) -> SchedulerSnapshot:
    """Query once: all live jobs of this user, and the jobs of this scheduler that decisions depend on.

    Jobs of another scheduler are left out: Slurm answers a query for the token of a local job with an error.
    """
    began = time.monotonic()
    identity = scheduler.identity(run)
    if isinstance(identity, QueryFailed):
        return SchedulerSnapshot(identity, identity, time.monotonic() - began)
    home = asdict(identity)
    newest = [rec.newest for rec in records if rec.newest and is_open_question(rec.newest)]
    attempts = [attempt for attempt in newest if attempt.opened.ran_at(home)]
    ids = {attempt.job_id for attempt in attempts if attempt.job_id}
    # By name only where no ID is recorded: PBS looks each name up over a connection of its own.
    names = {attempt.opened.job_name for attempt in attempts if not attempt.job_id}
    jobs = scheduler.query(run, ids, names, min((attempt.opened.at for attempt in attempts), default=None))
    return SchedulerSnapshot(jobs, identity, time.monotonic() - began)


def answer_for(attempt: Attempt | None, before: Attempt | None, snapshot: SchedulerSnapshot) -> Answer:
    """The answer for an attempt's job. `before` is the attempt as it was read before the scheduler was queried."""
    if attempt is None or not is_open_question(attempt):
        return Unknown()
    if isinstance(snapshot.jobs, QueryFailed):
        return snapshot.jobs
    assert snapshot.scheduler is not None
    if not attempt.opened.ran_at(snapshot.scheduler):
        return QueryFailed(f"its job belongs to {attempt.opened.scheduler_text}: run the pass there")
    if attempt.opened.scheduler.get("boot", "") != snapshot.scheduler["boot"]:
        return Unknown()  # the host has been rebooted since
    if before is None or before.number != attempt.number or before.job_id not in (None, attempt.job_id):
        return QueryFailed("the attempt is newer than the scheduler's answer; the next pass queries again")
    if snapshot.within not in (None, attempt.opened.job_name):
        return QueryFailed("it runs in another job")
    # By name and ID: IDs are used again after a reset of the scheduler.
    name = attempt.opened.token if snapshot.within else attempt.opened.job_name
    called = snapshot.named.get((name, attempt.opened.index), ())
    job = next((job for job in called if attempt.job_id in (None, job.id)), None)
    if attempt.closed and not before.closed and (job is None or job.state is not JobState.ENDED):
        return QueryFailed("the attempt ended after the scheduler's answer; the next pass queries again")
    if job is not None:
        return job
    renamed = snapshot.alive_by_id.get(attempt.job_id or "")
    if renamed is not None and not snapshot.within:
        # It may be this job under another name, or another job that was given the same ID.
        return QueryFailed(f"job {renamed.id} is alive, but is called {renamed.name!r} instead of {name!r}")
    if why := snapshot.jobs.left_open(attempt.job_id, name):
        return QueryFailed(why)
    return Unknown(snapshot.jobs.history)


def is_open_question(attempt: Attempt) -> bool:
    """Whether an answer about its job can change anything: its state, or why it ended."""
    return not attempt.closed or attempt.awaits_verdict


def stale_jobs(before: Iterable[Record], now: Iterable[Record], snapshot: SchedulerSnapshot) -> list[str]:
    """IDs of queued jobs whose attempt is closed. They would exit without a trace, but hold a place in the queue.

    The attempt was closed `before` the scheduler was queried: a job that was queued then may have ended since.
    """
    if not isinstance(snapshot.jobs, Jobs):
        return []
    waiting = [job for job in snapshot.jobs.jobs if job.state in (JobState.QUEUED, JobState.BLOCKED)]
    if not waiting:
        return []  # as in every pass over a large round that is done
    over = {_called(attempt) for rec in before for attempt in rec.attempts if attempt.closed}
    over -= {_called(attempt) for rec in now for attempt in rec.attempts if not attempt.closed or attempt.opened.packed}
    return [job.id for job in waiting if (job.name, job.index) in over]


def _called(attempt: Attempt) -> tuple[str, int | None]:
    """The job's name, and which task of it the attempt is, if it is one."""
    return attempt.opened.job_name, attempt.opened.index
