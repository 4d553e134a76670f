"""What the scheduler says, asked once a pass, and what of it may be held against a record."""

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
    """The scheduler's answer at one moment; or that of the allocation `within`, which knows only its own slots."""

    jobs: Jobs | QueryFailed
    identity: Identity | QueryFailed
    took: float = 0.0  # seconds until it came
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
        """The live jobs by ID, whatever they are called."""
        if isinstance(self.jobs, QueryFailed):
            return {}
        return {job.id: job for job in self.jobs.jobs if job.state is not JobState.ENDED}

    @cached_property
    def live(self) -> int:
        """How many live jobs the user has, of any round and of none."""
        if isinstance(self.jobs, QueryFailed):
            return 0
        return sum(job.state is not JobState.ENDED for job in self.jobs.jobs)

    @cached_property
    def here(self) -> Mapping[str, str] | None:
        """The scheduler that answered, as job.json names one; None if none did."""
        return None if isinstance(self.identity, QueryFailed) else asdict(self.identity)

    @property
    def trouble(self) -> str:
        """Why the scheduler could not be asked; empty if it answered."""
        for answer in (self.jobs, self.identity):
            if isinstance(answer, QueryFailed):
                return answer.why
        return ""


NOT_ASKED = SchedulerSnapshot(QueryFailed("not asked"), QueryFailed("not asked"))


def look(scheduler: Scheduler, run: Run, records: Sequence[Record]) -> SchedulerSnapshot:
    """Ask once, about all live jobs of this user and about the jobs of this scheduler that decisions depend on.

    Those of another scheduler mean nothing to it: Slurm takes the token of a local job for a mistake, and says no more.
    """
    began = time.monotonic()
    identity = scheduler.identity(run)
    if isinstance(identity, QueryFailed):
        return SchedulerSnapshot(identity, identity, time.monotonic() - began)
    here = asdict(identity)
    newest = [rec.newest for rec in records if rec.newest and _is_asked_about(rec.newest)]
    attempts = [attempt for attempt in newest if attempt.opened.ran_at(here)]
    ids = {attempt.job_id for attempt in attempts if attempt.job_id}
    # By name only where no ID is recorded: PBS looks each name up over a connection of its own.
    names = {attempt.opened.job_name for attempt in attempts if not attempt.job_id}
    jobs = scheduler.query(run, ids, names, min((attempt.opened.at for attempt in attempts), default=None))
    return SchedulerSnapshot(jobs, identity, time.monotonic() - began)


def answer_for(attempt: Attempt | None, before: Attempt | None, seen: SchedulerSnapshot) -> Answer:
    """What `seen` says of the attempt's job. `before` is the attempt as it was read before the scheduler was asked."""
    if attempt is None or not _is_asked_about(attempt):
        return Unknown()
    for part in (seen.jobs, seen.identity):
        if isinstance(part, QueryFailed):
            return part
    assert isinstance(seen.jobs, Jobs) and seen.here is not None
    if not attempt.opened.ran_at(seen.here):
        return QueryFailed(f"its job belongs to {attempt.opened.home}: run the pass there")
    if attempt.opened.scheduler.get("boot", "") != seen.here["boot"]:
        return Unknown()  # this very machine has been started anew since
    if before is None or before.number != attempt.number or before.job_id not in (None, attempt.job_id):
        return QueryFailed("the attempt is newer than the scheduler's answer; the next pass will tell")
    if seen.within not in (None, attempt.opened.job_name):
        return QueryFailed("it runs in another job")
    # By name and ID: IDs are used again after a reset of the scheduler.
    name = attempt.opened.token if seen.within else attempt.opened.job_name
    called = seen.named.get((name, attempt.opened.index), ())
    job = next((job for job in called if attempt.job_id in (None, job.id)), None)
    if attempt.closed and not before.closed and (job is None or job.state is not JobState.ENDED):
        return QueryFailed("the attempt ended after the scheduler's answer; the next pass asks again")
    return job or _not_found(attempt, name, seen)


def _is_asked_about(attempt: Attempt) -> bool:
    """Whether an answer about its job can change anything: how it stands, or why it ended."""
    return not attempt.closed or attempt.awaits_verdict


def _not_found(attempt: Attempt, name: str, seen: SchedulerSnapshot) -> Answer:
    """What it means that no job has both the name and the ID of the attempt's job: often, that it is not known."""
    assert isinstance(seen.jobs, Jobs)
    renamed = seen.alive_by_id.get(attempt.job_id or "")
    if renamed is not None and not seen.within:
        # It may be this job under another name, or another job that was given the same ID.
        return QueryFailed(f"job {renamed.id} is alive, but is called {renamed.name!r} instead of {name!r}")
    if why := seen.jobs.left_open(attempt.job_id, name):
        return QueryFailed(why)
    return Unknown(seen.jobs.history)


def stale_jobs(before: Iterable[Record], now: Iterable[Record], seen: SchedulerSnapshot) -> list[str]:
    """IDs of queued jobs whose attempt is over. They would exit without a trace, but only after a wait for nothing.

    It was over `before` the scheduler was asked: a job that was queued then may have run to its end since.
    """
    if not isinstance(seen.jobs, Jobs):
        return []
    waiting = [job for job in seen.jobs.jobs if job.state in (JobState.QUEUED, JobState.BLOCKED)]
    if not waiting:
        return []  # as in every pass over a large round that is done
    over = {_called(attempt) for rec in before for attempt in rec.attempts if attempt.closed}
    over -= {_called(attempt) for rec in now for attempt in rec.attempts if not attempt.closed or attempt.opened.packed}
    return [job.id for job in waiting if (job.name, job.index) in over]


def _called(attempt: Attempt) -> tuple[str, int | None]:
    """The job's name, and which task of it the attempt is, if it is one."""
    return attempt.opened.job_name, attempt.opened.index
