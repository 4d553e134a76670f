"""What to do about one experiment: a pure function of its record, what the scheduler said, and the time.

`decide` is a table, read from the top: the first line that fits gives the action and the reason. It does no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from roundhouse.model.answers import Job, JobState, QueryFailed
from roundhouse.model.attempt import Attempt, Record
from roundhouse.model.causes import Cause
from roundhouse.model.retry import RetryPolicy, exhausted

SILENT_AFTER = 1800.0  # seconds without a heartbeat before a running job is reported
VERDICT_WITHIN = 180.0  # seconds that a scheduler has to say why a job ended, before it is run again without that
_AS_PLANNED = {Cause.RETRY, Cause.LIMIT, Cause.RUNG}
_DEFAULT = RetryPolicy()


class State(str, Enum):
    """An experiment's state, as status.json and the tables tell it."""

    PENDING = "pending"
    SUBMITTING = "submitting"
    IN_PROGRESS = "in_progress"
    BLOCKED = "blocked"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PRUNED = "pruned"

    def __str__(self) -> str:
        return self.value


class Verb(Enum):
    """What a pass does about an experiment. Each is one step of the record's protocol, safe to repeat."""

    NOTHING = "nothing"
    ADOPT = "adopt"  # write the ID of a job that was found by its name, or by its claim
    VOID = "void"  # take the claim of an attempt that no job was ever seen for
    MARK_GONE = "mark gone"
    UNMARK_GONE = "unmark gone"
    CLOSE = "close"  # write the result that the job can no longer write
    VERDICT = "record verdict"  # write why the job ended, as the scheduler says
    KILL = "kill"  # delete the job of an attempt that is to be cancelled
    SUBMIT = "submit"
    PRUNE = "prune"  # leave it behind: what paused with it was better


@dataclass(frozen=True, slots=True)
class Action:
    verb: Verb
    state: State
    reason: str = ""
    cause: Cause | None = None
    job_id: str | None = None


# What the scheduler said of the newest attempt's job.
@dataclass(frozen=True, slots=True)
class Unknown:
    """The scheduler that has the job answered, later than the record was read, and knows no such job.

    `history`: it keeps what it knows of jobs that have ended, so it may still say why the job ended.
    """

    history: bool = False


Answer = Job | Unknown | QueryFailed


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the experiment waits for. `pinned` identifies what is there, once all is; `waiting` says what is not yet.

    `hopeless`: that will not come by itself, because something failed for good or was cancelled.
    `blocked`: there is nothing to wait for either; the round file asks for what is not there.
    """

    pinned: Mapping[str, Any] | None
    waiting: str = ""
    hopeless: bool = False
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Clock:
    """The file server's time, and how long to wait before absence counts."""

    now: float
    grace: float  # a job must be missing so long
    settle: float  # a submission may take so long to show up
    limit_backoff: float = 600.0  # after "limit reached", unless the user has fewer jobs by then


def decide(
    record: Record,
    answer: Answer,
    inputs: Inputs,
    clock: Clock,
    config_hash: str,
    here: Mapping[str, str] | None = None,
    retry: RetryPolicy = _DEFAULT,
) -> Action:
    """The action for one experiment. `here` identifies the scheduler."""
    attempt = record.newest
    if record.damage:
        return _nothing(
            State.BLOCKED, f"damaged, kept as evidence: {record.damage}" if record.readable else record.damage
        )
    if record.completed:
        if record.completed.opened.config_hash != config_hash:
            return _nothing(State.BLOCKED, "completed with another config")
        return _nothing(State.COMPLETED, cause=Cause.COMPLETED)
    if attempt is not None and attempt.cause in (Cause.CANCELLED, Cause.ARCHIVED):
        return _nothing(State.CANCELLED, attempt.why, attempt.cause)
    if attempt is not None and attempt.cause is Cause.PRUNED:
        return _nothing(State.PRUNED, attempt.why, attempt.cause)
    if attempt is not None and not attempt.closed:
        if attempt.opened.mark is not None:  # whoever set the mark died before it was whole
            why = "others of its group were better" if attempt.opened.mark is Cause.PRUNED else "by the user"
            return Action(Verb.VOID, State.PENDING, why, attempt.opened.mark)
        if isinstance(answer, QueryFailed):
            state = State.IN_PROGRESS if attempt.job_id else State.SUBMITTING
            return _nothing(state, f"cannot tell: {answer.why}")
        if isinstance(answer, Job) and answer.state is not JobState.ENDED:
            return _alive(attempt, answer, clock)
        if attempt.job_id is None:
            return _unseen(attempt, answer, clock)
        return _ended(attempt, answer, clock)
    if elsewhere := _elsewhere(record, here):
        return _nothing(State.BLOCKED, elsewhere)
    if attempt is not None and attempt.awaits_verdict and (action := _verdict(attempt, answer, clock)):
        return action
    return _next_attempt(record, inputs, config_hash, retry)


def _nothing(state: State, reason: str = "", cause: Cause | None = None) -> Action:
    return Action(Verb.NOTHING, state, reason, cause)


def _alive(attempt: Attempt, job: Job, clock: Clock) -> Action:
    """The newest attempt is open, and the scheduler has its job."""
    if attempt.opened.job_id is None:
        return Action(Verb.ADOPT, State.IN_PROGRESS, f"found job {job.id} by its name", job_id=job.id)
    if attempt.gone_at is not None:
        return Action(Verb.UNMARK_GONE, State.IN_PROGRESS, "the scheduler knows the job again")
    if attempt.cancel and attempt.opened.packed:
        return _nothing(State.IN_PROGRESS, "being cancelled")  # it sees so itself; the allocation is not its own
    if attempt.cancel:
        return Action(Verb.KILL, State.IN_PROGRESS, "being cancelled", job_id=job.id)
    if job.state is JobState.BLOCKED:
        return _nothing(State.BLOCKED, f"the scheduler will not run job {job.id}: {job.words}")
    if job.state is JobState.RUNNING and attempt.claim is not None:
        silent = clock.now - max(attempt.progress_at or 0.0, attempt.claim.at)
        if silent > SILENT_AFTER:
            return _nothing(State.IN_PROGRESS, f"job {job.id} runs, but gave no sign of life for {silent / 60:.0f} min")
    return _nothing(State.IN_PROGRESS, job.words if job.state is JobState.QUEUED else "")


def _unseen(attempt: Attempt, answer: Answer, clock: Clock) -> Action:
    """Open, without a job ID, and no live job has its name: the submission was lost, late, or never made."""
    if isinstance(answer, Job):
        return Action(Verb.ADOPT, State.IN_PROGRESS, f"found ended job {answer.id} by its name", job_id=answer.id)
    age = clock.now - attempt.opened.at
    said = f". The answer to its submission: {attempt.opened.answer}" if attempt.opened.answer else ""
    if age > clock.settle:
        return Action(Verb.VOID, State.PENDING, f"no job was seen within {clock.settle:.0f} s{said}", Cause.UNCLAIMED)
    return _nothing(State.SUBMITTING, f"not seen by the scheduler yet ({age:.0f} s){said}")


def _ended(attempt: Attempt, answer: Answer, clock: Clock) -> Action:
    """Open, and its job has ended or is not known: give its last word time to arrive, then close."""
    job = answer if isinstance(answer, Job) else None
    told = f"job {attempt.job_id} {'has ended' if job else 'is not known to the scheduler'}"
    if attempt.gone_at is None:
        return Action(Verb.MARK_GONE, State.IN_PROGRESS, f"{told}; waiting {clock.grace:.0f} s for its result")
    if attempt.progress_at is not None and attempt.progress_at > attempt.gone_at:
        return Action(Verb.MARK_GONE, State.IN_PROGRESS, f"{told}, and yet it shows signs of life")
    if clock.now - attempt.gone_at <= clock.grace:
        return _nothing(State.IN_PROGRESS, f"{told}; waiting {clock.grace:.0f} s for its result")
    if attempt.cancel:
        return _close(attempt, Cause.CANCELLED, "cancelled by the user")
    if job is not None and job.cause is not None:
        return _close(attempt, job.cause, job.words or told)
    if attempt.claim is None:
        return _close(attempt, Cause.UNCLAIMED, f"{told}, and never started; {job.words if job else ''}".rstrip("; "))
    return _close(attempt, Cause.UNKNOWN, f"{told}, and left no result")


def _verdict(attempt: Attempt, answer: Answer, clock: Clock) -> Action | None:
    """Closed by a guess: what its scheduler says of it, or None if there is nothing to wait for any longer.

    A job that still runs may end only now, a history may be late, and a failed query may succeed in the next pass.
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
    return _nothing(State.PENDING, f"{attempt.why}; waiting for the scheduler to say why job {attempt.job_id} ended")


def _close(attempt: Attempt, cause: Cause, why: str) -> Action:
    # An attempt that no job ever started in is closed by its claim, so that none ever will.
    verb = Verb.VOID if attempt.claim is None else Verb.CLOSE
    return Action(verb, State.PENDING, why, cause)


def _elsewhere(record: Record, here: Mapping[str, str] | None) -> str:
    """A record goes on where it has run: a copy of it would run a second time. `--retry` moves it, on purpose."""
    last = record.newest
    if last is None or here is None or last.opened.mark is not None:
        return ""
    if last.opened.ran_at(here):
        return ""
    return f"its jobs belong to {last.opened.home}: run the pass there. To go on here, for good: --retry"


def _next_attempt(record: Record, inputs: Inputs, config_hash: str, retry: RetryPolicy) -> Action:
    """Nothing is open: is there to be another attempt, and now?"""
    newest = record.newest
    if newest is not None and newest.result is not None and newest.result.final:
        return _nothing(State.FAILED, newest.why, newest.cause)
    first = record.runs[0].opened if record.runs else None
    if first is not None and first.config_hash != config_hash:
        return _nothing(State.BLOCKED, "has run with another config")
    if newest is not None:
        enough = exhausted(record.attempts, retry)
        if enough:
            return _nothing(State.FAILED, enough, newest.cause)
    if inputs.pinned is None:
        return _nothing(State.BLOCKED if inputs.blocked else State.PENDING, inputs.waiting)
    if first is not None and dict(first.inputs) != dict(inputs.pinned):
        changed = [group for group in inputs.pinned if first.inputs.get(group) != inputs.pinned[group]]
        return _nothing(State.FAILED, f"{', '.join(changed) or 'an input'} changed since attempt 1")
    reason = f"again after: {newest.cause} ({newest.why})" if newest and newest.cause not in _AS_PLANNED else ""
    return Action(Verb.SUBMIT, State.PENDING, reason)
