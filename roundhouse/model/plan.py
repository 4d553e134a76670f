"""The decision about one experiment: a function of its record, the scheduler's answer, and the time. Pure.

`decide` is a table, read from the top: the first condition that holds gives the action and the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from roundhouse.model.answers import Job, JobState, QueryFailed
from roundhouse.model.attempt import Attempt, Record
from roundhouse.model.causes import Cause
from roundhouse.model.retry import exhausted
from roundhouse.model.retry_policy import RetryPolicy

AGENT_CLOSES_WITHIN = 60.0  # seconds after its mark; it looks every 10 s, and waits 2 s for a result
SILENT_AFTER = 1800.0  # seconds without a heartbeat before a running job is reported
VERDICT_WITHIN = 180.0  # seconds to wait for the exit cause reported by the scheduler, before the next attempt
_DEFAULT = RetryPolicy()


class State(str, Enum):
    """The state of an experiment, as status.json and the tables show it."""

    PENDING = "pending"
    SUBMITTING = "submitting"
    IN_PROGRESS = "in_progress"
    BLOCKED = "blocked"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PRUNED = "pruned"
    DIVERGED = "diverged"

    def __str__(self) -> str:
        return self.value

    @property
    def final(self) -> bool:
        """No further attempt is made, unless the user retries."""
        return self in (State.COMPLETED, State.PRUNED, State.DIVERGED, State.FAILED, State.CANCELLED)

    @property
    def ended_well(self) -> bool:
        """The round is done with it: completed, pruned early, or diverged."""
        return self in (State.COMPLETED, State.PRUNED, State.DIVERGED)

    @property
    def needs_user(self) -> bool:
        """It continues only after the user has done something."""
        return self in (State.FAILED, State.BLOCKED, State.CANCELLED)

    @property
    def never_completes(self) -> bool:
        """It will not be completed automatically, so what depends on it cannot start."""
        return self.needs_user or self in (State.PRUNED, State.DIVERGED)

    @property
    def active(self) -> bool:
        """It has a job, or may have one."""
        return self in (State.SUBMITTING, State.IN_PROGRESS)


class Verb(Enum):
    """What a pass does for an experiment. Each is one step of the record protocol, safe to repeat."""

    NOTHING = "nothing"
    ADOPT = "adopt"  # write the ID of a job that was found by its name
    VOID = "void"  # take the claim of an attempt for which no job was ever seen
    MARK_GONE = "mark gone"
    UNMARK_GONE = "unmark gone"
    CLOSE = "close"  # write the result that the job did not write
    VERDICT = "record the exit cause"  # as the scheduler reports it, for a result that is a guess
    KILL = "kill"  # delete the job of an attempt that was cancelled
    SUBMIT = "submit"
    PRUNE = "prune"  # others that paused at the same rung were better


@dataclass(frozen=True, slots=True)
class Action:
    verb: Verb
    state: State
    reason: str = ""
    cause: Cause | None = None
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The scheduler answered, after the record was read, and knows no such job.

    `history`: it keeps ended jobs, so it may still report why the job ended.
    """

    history: bool = False


Answer = Job | Unknown | QueryFailed


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of an experiment. `pinned` identifies them, once all exist; `waiting` says which do not exist yet.

    `hopeless`: they will not be made automatically, because something has failed permanently or was cancelled.
    `blocked`: the round file names something that does not exist.
    `ended`: one of them has ended without completing; nothing but a retry or the round file can change that.
    """

    pinned: Mapping[str, Any] | None
    waiting: str = ""
    hopeless: bool = False
    blocked: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Clock:
    """The file server's time, and how long to wait before an absent job counts as ended."""

    now: float
    grace: float  # a job must be missing for so long
    submission_delay: float  # a submission may take so long to appear in the queue
    limit_backoff: float = 600.0  # after "limit reached", unless the user has fewer jobs by then


def decide(
    record: Record,
    answer: Answer,
    inputs: Inputs,
    clock: Clock,
    config_hash: str,
    scheduler: Mapping[str, str] | None = None,
    retry: RetryPolicy = _DEFAULT,
) -> Action:
    """The action for one experiment. `scheduler`: the identity of the scheduler that answered."""
    attempt = record.newest
    if record.damage:
        why = "unreadable, left unchanged: " if record.readable else ""
        return _nothing(State.BLOCKED, why + record.damage)
    if record.completed:
        if record.completed.opened.config_hash != config_hash:
            return _nothing(State.BLOCKED, "completed with another config")
        return _nothing(State.COMPLETED, cause=Cause.COMPLETED)
    if attempt is not None and attempt.cause in (Cause.CANCELLED, Cause.ARCHIVED):
        return _nothing(State.CANCELLED, attempt.why, attempt.cause)
    if attempt is not None and attempt.cause is Cause.PRUNED:
        return _nothing(State.PRUNED, attempt.why, attempt.cause)
    if attempt is not None and attempt.cause is Cause.DIVERGED:
        if attempt.opened.config_hash != config_hash:
            return _nothing(State.BLOCKED, "diverged with another config")
        return _nothing(State.DIVERGED, attempt.why, attempt.cause)
    if attempt is not None and not attempt.closed:
        if attempt.opened.mark is not None:  # the process that set the marker died halfway
            why = "others of its group were better" if attempt.opened.mark is Cause.PRUNED else "by the user"
            return Action(Verb.VOID, State.PENDING, why, attempt.opened.mark)
        if isinstance(answer, QueryFailed):
            state = State.IN_PROGRESS if attempt.job_id else State.SUBMITTING
            return _nothing(state, f"state unknown: {answer.why}" if answer.why else "")
        if isinstance(answer, Job) and answer.state is not JobState.ENDED:
            return _alive(attempt, answer, clock)
        if attempt.job_id is None:
            return _unseen(attempt, answer, clock)
        return _ended(attempt, answer, clock)
    if elsewhere := _elsewhere(record, scheduler):
        at_home = _next_attempt(record, inputs, config_hash, retry)
        return at_home if at_home.state in (State.FAILED, State.BLOCKED) else _nothing(State.BLOCKED, elsewhere)
    if attempt is not None and attempt.awaits_verdict and (action := _verdict(attempt, answer, clock)):
        return action
    return _next_attempt(record, inputs, config_hash, retry)


def _nothing(state: State, reason: str = "", cause: Cause | None = None) -> Action:
    return Action(Verb.NOTHING, state, reason, cause)


def _alive(attempt: Attempt, job: Job, clock: Clock) -> Action:
    """The newest attempt is open, and the scheduler has its job."""
    if attempt.opened.job_id is None:
        return Action(Verb.ADOPT, State.IN_PROGRESS, f"found job {job.id} by its name", job_id=job.id)
    if attempt.gone_at is not None and not _marked_by_agent(attempt, job, clock):
        return Action(Verb.UNMARK_GONE, State.IN_PROGRESS, "the scheduler knows the job again")
    if attempt.cancel and attempt.opened.packed:
        return _nothing(State.IN_PROGRESS, "being cancelled")  # the agent stops it; the job runs others as well
    if attempt.cancel:
        return Action(Verb.KILL, State.IN_PROGRESS, "being cancelled", job_id=job.id)
    if job.state is JobState.BLOCKED:
        return _nothing(State.BLOCKED, f"the scheduler will not run job {job.id}: {job.words}")
    if job.state is JobState.RUNNING and attempt.claim is not None:
        silent = clock.now - max(attempt.progress_at or 0.0, attempt.claim.at)
        if silent > SILENT_AFTER:
            why = f"job {job.id} is running, but its last heartbeat was {silent / 60:.0f} min ago"
            return _nothing(State.IN_PROGRESS, why)
    return _nothing(State.IN_PROGRESS, job.words if job.state is JobState.QUEUED else "")


def _marked_by_agent(attempt: Attempt, job: Job, clock: Clock) -> bool:
    """Whether the agent of an allocation has just found that the process in its slot is gone.

    The allocation's `job` lives on, so a runner outside must not remove the mark: with frequent passes the agent would
    never see it grow older than its grace, and the slot would stay lost.
    """
    seen_from_outside = attempt.opened.packed and job.name == attempt.opened.job_name
    runs = job.state is JobState.RUNNING  # otherwise no agent does
    return seen_from_outside and runs and clock.now - (attempt.gone_at or 0.0) <= AGENT_CLOSES_WITHIN


def _unseen(attempt: Attempt, answer: Answer, clock: Clock) -> Action:
    """Open, without a job ID, and no live job has its name: the submission was lost, is late, or was never made."""
    if isinstance(answer, Job):
        return Action(Verb.ADOPT, State.IN_PROGRESS, f"found ended job {answer.id} by its name", job_id=answer.id)
    age = clock.now - attempt.opened.at
    answered = f". The answer to its submission: {attempt.opened.answer}" if attempt.opened.answer else ""
    if age > clock.submission_delay:
        why = f"no job was seen within {clock.submission_delay:.0f} s{answered}"
        return Action(Verb.VOID, State.PENDING, why, Cause.UNCLAIMED)
    return _nothing(State.SUBMITTING, f"not seen by the scheduler yet ({age:.0f} s){answered}")


def _ended(attempt: Attempt, answer: Answer, clock: Clock) -> Action:
    """Open, and its job has ended or is not known: wait until its result may have arrived, then close."""
    job = answer if isinstance(answer, Job) else None
    what = f"job {attempt.job_id} {'has ended' if job else 'is not known to the scheduler'}"
    if attempt.gone_at is None:
        return Action(Verb.MARK_GONE, State.IN_PROGRESS, f"{what}; waiting {clock.grace:.0f} s for its result")
    if attempt.progress_at is not None and attempt.progress_at > attempt.gone_at:
        return Action(Verb.MARK_GONE, State.IN_PROGRESS, f"{what}, but its heartbeats continue")
    if clock.now - attempt.gone_at <= clock.grace:
        return _nothing(State.IN_PROGRESS, f"{what}; waiting {clock.grace:.0f} s for its result")
    if attempt.cancel:
        return _close(attempt, Cause.CANCELLED, "cancelled by the user")
    if job is not None and job.cause is not None:
        return _close(attempt, job.cause, job.words or what)
    if attempt.claim is None:
        return _close(attempt, Cause.UNCLAIMED, f"{what}, and never started; {job.words if job else ''}".rstrip("; "))
    return _close(attempt, Cause.UNKNOWN, f"{what}, without a result")


def _verdict(attempt: Attempt, answer: Answer, clock: Clock) -> Action | None:
    """Closed by a guess: record the cause that its scheduler reports; None if there is no reason to wait for it.

    A job that still runs may end soon, the scheduler's history may be late, and the next query may succeed.
    """
    cause = attempt.cause or Cause.UNKNOWN
    if isinstance(answer, Job) and answer.state is JobState.ENDED:
        found = answer.cause or cause
        if attempt.opened.packed and found is Cause.WALLTIME:
            found = cause  # the walltime is that of the allocation, not of the experiment
        why = f"job {answer.id}: {answer.words}" if found is not cause else attempt.why
        return Action(Verb.VERDICT, State.PENDING, why, found)
    if isinstance(answer, Job) and answer.state is not JobState.RUNNING:
        why = f"the scheduler queued job {answer.id} again"
        return Action(Verb.VERDICT, State.PENDING, why, answer.cause or Cause.PREEMPTED)
    waited = clock.now - (attempt.result_at or 0.0)
    if waited > VERDICT_WITHIN or (isinstance(answer, Unknown) and not answer.history):
        return None
    return _nothing(State.PENDING, f"{attempt.why}; waiting for the scheduler to report why job {attempt.job_id} ended")


def _close(attempt: Attempt, cause: Cause, why: str) -> Action:
    # An attempt in which no job started is closed by its claim, so that none can start later.
    verb = Verb.VOID if attempt.claim is None else Verb.CLOSE
    return Action(verb, State.PENDING, why, cause)


def _elsewhere(record: Record, scheduler: Mapping[str, str] | None) -> str:
    """A record continues on the scheduler where it has run: a copy of it would run twice. `--retry` moves it."""
    last = record.newest
    if last is None or scheduler is None or last.opened.mark is not None or last.opened.ran_at(scheduler):
        return ""
    return f"its jobs belong to {last.opened.scheduler_text}: run the pass there. To continue here permanently: --retry"


def _next_attempt(record: Record, inputs: Inputs, config_hash: str, retry: RetryPolicy) -> Action:
    """No attempt is open: whether there is another one, and when."""
    newest = record.newest
    if newest is not None and newest.result is not None and newest.result.final:
        return _nothing(State.FAILED, newest.why, newest.cause)
    pin = record.pin
    if pin.config_hash not in (None, config_hash):
        return _nothing(State.BLOCKED, "has run with another config")
    if newest is not None and (enough := exhausted(record.attempts, retry)):
        return _nothing(State.FAILED, enough, newest.cause)
    if inputs.pinned is None:
        return _nothing(State.BLOCKED if inputs.blocked else State.PENDING, inputs.waiting)
    if pin.inputs is not None and dict(pin.inputs) != dict(inputs.pinned):
        changed = [group for group in inputs.pinned if pin.inputs.get(group) != inputs.pinned[group]]
        what = ", ".join(changed) or "an input"
        return _nothing(State.FAILED, f"{what} changed since the first attempt; --retry uses the present one")
    failed = newest is not None and newest.cause is not None and not newest.cause.planned
    reason = f"retry after {newest.cause} ({newest.why})" if newest and failed else ""
    return Action(Verb.SUBMIT, State.PENDING, reason)
