"""What happened to an experiment, from its attempts: events, its state at a moment, its hours, and those lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.round_summary import ExperimentSummary
from analysis.rounds import RoundEntry
from roundhouse.model.answers import QueryFailed
from roundhouse.model.attempt import EPOCH, STEP, Attempt
from roundhouse.model.causes import Cause
from roundhouse.model.evaluate import expected_hash
from roundhouse.model.plan import Clock, Inputs, State, decide
from roundhouse.views import measured
from toolbox.weekly.period import Period

KINDS = ("started", "finished", "requeued", "failed", "pruned", "diverged", "cancelled", "archived")
ENDS = {
    Cause.COMPLETED: "finished",
    Cause.CANCELLED: "cancelled",
    Cause.ARCHIVED: "archived",
    Cause.PRUNED: "pruned",
    Cause.DIVERGED: "diverged",
}
NOT_LOST = {*ENDS, Cause.RUNG}  # a run that ended so has its result, was stopped by the user, or goes on as planned


@dataclass(frozen=True, slots=True)
class Event:
    """One of KINDS, and why. The cause of `requeued` is that of the attempt before."""

    at: float
    kind: str
    cause: str = ""
    why: str = ""


def opened_at(one: Attempt) -> float:
    """When an attempt was opened. A copy may have lost the file's own time, but not that in the claim."""
    times = [one.opened.at, one.claim.started if one.claim else 0.0]
    return min((at for at in times if at), default=0.0)


def events_of(entry: RoundEntry) -> list[Event]:
    """All events of an experiment so far, in order."""
    events: list[Event] = []
    before: Attempt | None = None
    attempts = entry.record.attempts
    for number, one in enumerate(attempts, 1):
        run = one.opened.mark is None and one.cause is not Cause.LIMIT
        if run and before and before.cause is not Cause.RUNG:
            events.append(Event(opened_at(one), "requeued", str(before.cause)))
        if one.claim and not one.void and all(event.kind != "started" for event in events):
            events.append(Event(one.claim.started, "started"))
        if one.closed:
            at = one.result.at if one.result else opened_at(one) if one.claim is None else one.claim.started
            kind = _ending(entry, one, attempts[:number])
            events += [Event(at, kind, str(one.cause), one.why)] if kind else []
        before = None if one.opened.mark is Cause.RERUN else one if run else before
    return events


def _ending(entry: RoundEntry, one: Attempt, attempts: tuple[Attempt, ...]) -> str:
    """What the end of the last of these attempts meant for the experiment; empty if it was retried automatically."""
    if one.cause in ENDS:
        return ENDS[one.cause]
    return "failed" if one.opened.mark is None and state_after(entry, attempts) is State.FAILED else ""


def state_after(entry: RoundEntry, attempts: tuple[Attempt, ...]) -> State:
    """The state of an experiment when it had these attempts and no more."""
    if attempts == entry.record.attempts:
        return entry.state
    known = replace(entry.record, attempts=attempts)
    inputs = Inputs(known.pin.inputs)
    clock, answer = Clock(0.0, 0.0, 0.0), QueryFailed("no scheduler is queried here")
    expected = expected_hash(entry.experiment, known)
    return decide(known, answer, inputs, clock, expected, retry=entry.experiment.retry).state


def attempts_until(entry: RoundEntry, moment: float) -> tuple[Attempt, ...]:
    """The attempts as they were at a moment: without what was opened, claimed or closed later."""
    made = []
    for one in entry.record.attempts:
        if opened_at(one) < moment:
            claim = one.claim if one.claim and one.claim.started < moment else None
            result = one.result if one.result and one.result.at < moment else None
            made.append(replace(one, claim=claim, result=result))
    return tuple(made)


def state_at(entry: RoundEntry, moment: float) -> str:
    """The state of an experiment at a moment, as one word."""
    attempts = attempts_until(entry, moment)
    state = state_after(entry, attempts)
    if state.active:
        return "running" if attempts and attempts[-1].claim else "queued"
    return "waiting" if state is State.PENDING else str(state)


def known_at(known: Sequence[ExperimentSummary], moment: float) -> list[ExperimentSummary]:
    """The same experiments, but those that completed later are pending."""
    made = []
    for one in known:
        done = one.entry.record.completed
        if done and done.result and done.result.at >= moment:
            action = replace(one.entry.status.action, state=State.PENDING)
            one = ExperimentSummary(replace(one.entry, status=replace(one.entry.status, action=action)), one.metrics)
        made.append(one)
    return made


def weight_of(one: ExperimentSummary, unit: str) -> int:
    """How many hours of this unit an hour of the experiment counts."""
    resources = one.entry.experiment.resources
    return {"GPU-hours": resources.ngpus, "CPU-hours": resources.ncpus}.get(unit, 1)


def hours_in(one: ExperimentSummary, period: Period, unit: str) -> float:
    """What an experiment used in a period, in the unit of its round."""
    return sum(period.overlap(start, end) for start, end in one.entry.spans) * weight_of(one, unit) / 3600


def lost_in(one: ExperimentSummary, period: Period, unit: str) -> float:
    """The hours in a period on whose results nothing was built: of failed runs, and what was computed again."""
    record, lost = one.entry.record, 0.0
    following = (*record.runs[1:], None)
    for run, later in zip(record.runs, following, strict=False):
        spans = measured.spans(replace(record, attempts=(run,)))
        share = _lost_share(run, later, one.entry.state) if run.closed and run.cause not in NOT_LOST else 0.0
        lost += share * sum(period.overlap(start, end) for start, end in spans)
    return lost * weight_of(one, unit) / 3600


def _lost_share(run: Attempt, later: Attempt | None, state: State) -> float:
    """Which share of an interrupted run was lost; 0 while it is not known from where the next run continued."""
    if later is None:
        return 1.0 if state is State.FAILED else 0.0
    before, after = run.progress, later.progress
    if before is None or after is None or not (before.reported and after.reported):
        return 0.0
    unit = EPOCH if before.step is None or after.started_step is None else STEP
    own, resumed = before.counter(unit), after.counter(unit).started
    if own.done <= own.started:
        return 1.0
    return 1.0 - min(max(resumed - own.started, 0) / (own.done - own.started), 1.0)
