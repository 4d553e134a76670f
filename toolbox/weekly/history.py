"""What happened to an experiment, from its attempts: events, its state at a moment, its hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.round_summary import ExperimentSummary
from analysis.rounds import RoundEntry
from roundhouse.model.answers import QueryFailed
from roundhouse.model.attempt import Attempt
from roundhouse.model.causes import Cause
from roundhouse.model.evaluate import expected_hash
from roundhouse.model.plan import Clock, Inputs, State, decide
from toolbox.weekly.period import Period

KINDS = ("started", "finished", "requeued", "failed", "pruned", "diverged", "cancelled", "archived")
ENDS = {
    Cause.COMPLETED: "finished",
    Cause.CANCELLED: "cancelled",
    Cause.ARCHIVED: "archived",
    Cause.PRUNED: "pruned",
    Cause.DIVERGED: "diverged",
}


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


def hours_in(one: ExperimentSummary, period: Period, unit: str) -> float:
    """What an experiment used in a period, in the unit of its round."""
    resources = one.entry.experiment.resources
    weight = {"GPU-hours": resources.ngpus, "CPU-hours": resources.ncpus}.get(unit, 1)
    return sum(period.overlap(start, end) for start, end in one.entry.spans) * weight / 3600
