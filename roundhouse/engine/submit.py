"""The submissions of one pass: the highest priority first, as single jobs or arrays, within the limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import filterfalse
from typing import Literal

from roundhouse.engine import allocations
from roundhouse.engine.refusals import blocked, cause_of, held_back, reason_of
from roundhouse.engine.report import PlannedJob
from roundhouse.engine.submit_allocations import Allocating
from roundhouse.engine.submit_job import Submitter
from roundhouse.formatting import counted
from roundhouse.model.answers import Refused, Scope, Submitted
from roundhouse.model.attempt import Claim
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Resources
from roundhouse.model.plan import Action, Clock, State, Verb
from roundhouse.model.status import ExperimentStatus
from roundhouse.model.throttle import Throttle, throttles
from roundhouse.store import job_group, record

SLOT_AWAITED = Action(Verb.NOTHING, State.PENDING, "waits for a slot on the local machine", Cause.LIMIT)


@dataclass
class Submissions:
    """The submissions of one pass. `_room`: how many more jobs may be submitted; `_full`: the reason for the others."""

    submitter: Submitter
    clock: Clock
    statuses: Iterable[ExperimentStatus] = ()  # all of the round: open attempts count towards `max_running`
    _throttles: dict[Resources, Throttle] = field(default_factory=dict)  # by what the round file says
    _sizes: dict[str | None, int] = field(default_factory=dict)  # most tasks of an array, by queue
    _room: int = 0
    _full: str = ""
    _accepted: bool = False  # whether a job was accepted in this pass

    def __post_init__(self) -> None:
        self.context = self.submitter.context

    def submit(self, statuses: Sequence[ExperimentStatus], limit: int | None) -> Iterator[ExperimentStatus]:
        """Submit what can be submitted; yields the statuses that changed. Without `act`, jobs are only planned."""
        waiting = [status for status in statuses if status.action.verb is Verb.SUBMIT]
        waiting.sort(key=lambda status: -status.experiment.priority)
        self._make_room(statuses, len(waiting), limit)
        if self.context.scheduler.kind != "local" and not all(map(_is_packed, waiting)):
            self._throttles = throttles(self.statuses, self.submitter.snapshot.scheduler or {}, self._at_once)
        local_room = self.context.room() if self.context.room is not None and waiting else None
        refusals = self.submitter.refusals
        while waiting and self._room > 0:
            first, request = waiting[0], waiting[0].experiment.resources
            throttle = self._throttles.get(request)
            if _is_packed(first):
                alike = allocations.by_resources(list(filter(_is_packed, waiting)))
                those = alike[allocations.required_resources(first)]
                taken = set(map(id, those))
                waiting = [status for status in waiting if id(status) not in taken]
                yield from self._allocate(those)
            elif refused := refusals.of(first.resources):
                yield held_back(waiting.pop(0), refused)
            elif local_room is not None and not local_room.take(first.resources):
                yield replace(waiting.pop(0), action=SLOT_AWAITED)
            elif throttle is not None and throttle.full:
                action = Action(Verb.NOTHING, State.PENDING, throttle.reason, Cause.LIMIT)
                yield from (replace(one, action=action) for one in waiting if one.experiment.resources == request)
                waiting = [one for one in waiting if one.experiment.resources != request]
            else:
                batch, at_once = self._batch(waiting)
                taken = {id(status) for status in batch}
                waiting = waiting[1:] if len(batch) == 1 else [status for status in waiting if id(status) not in taken]
                changed, again = self._submit(batch, at_once)
                yield from changed
                waiting = again + waiting
        yield from self._allocate(list(filter(_is_packed, waiting)))  # which may have a slot in an older allocation
        for status in filterfalse(_is_packed, waiting):
            if refused := refusals.of(status.resources):
                yield held_back(status, refused)
            else:
                yield replace(status, action=Action(Verb.NOTHING, State.PENDING, self._full, Cause.LIMIT))

    def _allocate(self, packed: Sequence[ExperimentStatus]) -> Iterator[ExperimentStatus]:
        """Submit allocations for experiments that run in slots; yields their statuses."""
        allocating = Allocating(self.submitter, self.clock, self._room, self._full)
        for like, those in allocations.by_resources(packed).items():
            yield from allocating.allocate(like, those)
        self._room, self._full = allocating.room, allocating.full

    def _submit(
        self, batch: Sequence[ExperimentStatus], at_once: int | None
    ) -> tuple[list[ExperimentStatus], list[ExperimentStatus]]:
        """Submit one job. Returns the statuses of its experiments, and those to submit in smaller arrays instead."""
        self._room -= len(batch)
        if not self.submitter.act:
            kind: Literal["array", "single job"] = "array" if len(batch) > 1 else "single job"
            script = partial(self.submitter.script, batch, record.new_token(), at_once)
            self.submitter.report.planned.append(PlannedJob(kind, batch, batch[0].resources, script, at_once))
            return [], []
        answer, actions = self.submitter.array(batch, at_once) if len(batch) > 1 else self.submitter.one(batch[0])
        self._accepted = self._accepted or isinstance(answer, Submitted)
        changed = [
            replace(status, action=action, record=record.read(status.record.directory))
            for status, action in zip(batch, actions, strict=True)
        ]
        if not isinstance(answer, Refused):
            return changed, []
        if at_once is not None:
            self._throttles[batch[0].experiment.resources].give_back(len(batch), at_once)
        if not answer.later:
            return [blocked(status, answer) for status in changed] if cause_of(answer) is Cause.SITE else changed, []
        if answer.scope is Scope.ALL:
            self._room, self._full = len(batch) - 1, reason_of(answer)
        else:
            self._room += len(batch)
        if len(batch) == 1 or not answer.splits:
            return changed, []
        self._sizes[self.submitter.refusals.queue_of(batch[0].resources)] = len(batch) // 2
        again = {
            before.experiment.path: replace(before, record=after.record)
            for before, after in zip(batch, changed, strict=True)
            if _voided_by_this_pass(before, after)
        }
        return [status for status in changed if status.experiment.path not in again], list(again.values())

    def _make_room(self, statuses: Sequence[ExperimentStatus], waiting: int, limit: int | None) -> None:
        """Determine how many of the waiting experiments may be submitted now, and the reason for the others."""
        live, most = self.submitter.live, self.context.max_jobs
        self._room, self._full = waiting, ""
        if limit is not None and limit < waiting:
            why = f"limit reached: {counted(limit, 'submission')}" if limit else "not submitted"
            self._room, self._full = limit, f"{why} in this pass"
        if most is not None and most - live < self._room:
            self._room, self._full = most - live, f"limit reached: {counted(most, 'job')} at once"
        for status, claim in self._recent_limits(statuses):
            if claim.jobs is None:
                if status.action.verb is Verb.SUBMIT:
                    self.submitter.refusals.add(status.resources, Refused(claim.why, later=True, scope=claim.scope))
            elif claim.jobs - live < self._room:
                self._room, self._full = claim.jobs - live, f"limit reached: {claim.why}"

    def _recent_limits(self, statuses: Sequence[ExperimentStatus]) -> Iterator[tuple[ExperimentStatus, Claim]]:
        """The attempts that the scheduler refused temporarily, a short while ago."""
        for status in statuses:
            for attempt in status.record.attempts[-1:] if status.record.compacted else status.record.attempts:
                claim = attempt.claim
                if attempt.cause is Cause.LIMIT and claim is not None:
                    if self.clock.now - claim.at < self.clock.limit_backoff:
                        yield status, claim

    def _batch(self, waiting: Sequence[ExperimentStatus]) -> tuple[Sequence[ExperimentStatus], int | None]:
        """The next job: the waiting experiment of the highest priority; with `array`, others of the same resources too.

        None of these has a lower priority than an experiment that requests other resources. With `max_running`, also
        how many of them may run at a time.
        """
        first, like, request = waiting[0], waiting[0].resources, waiting[0].experiment.resources
        throttle, newest = self._throttles.get(request), first.record.newest
        # After a refusal of every job, a single one shows whether the site file was corrected.
        probe = newest is not None and newest.cause is Cause.SITE and not self._accepted
        if not like.array or probe:
            return waiting[:1], None
        kind = [
            status for status in waiting[: self._room] if throttle is None or status.experiment.resources == request
        ]
        may = throttle.share(len(kind)) if throttle else len(kind)
        batch: Sequence[ExperimentStatus] = [first]
        if may > 1:
            queue, code = self.submitter.refusals.queue_of(like), self.submitter.code(first)
            if queue not in self._sizes:
                self._sizes[queue] = self.context.scheduler.array_limit(self.context.run, queue)
            alike = [status for status in kind if status.resources == like and self.submitter.code(status) == code]
            rival = next((one.experiment.priority for one in waiting if one.resources != like), -math.inf)
            ahead = [status for status in alike if status.experiment.priority >= rival]
            batch = ahead[: min(may, self._sizes[queue])]
        return batch, throttle.take(len(batch), may) if throttle else None

    def _at_once(self, round_name: str, array: str) -> int | None:
        return job_group.read_at_once(job_group.directory_of(self.context.experiments / round_name, array))


def _is_packed(status: ExperimentStatus) -> bool:
    """Whether it runs in a slot of an allocation. On the local machine, slots are not allocated."""
    return status.experiment.resources.pack is not None


def _voided_by_this_pass(before: ExperimentStatus, after: ExperimentStatus) -> bool:
    """Whether this pass has opened and voided the newest attempt, since only then it may open a second one."""
    newest = after.record.newest
    return newest is not None and newest.number == before.record.next_number and newest.cause is Cause.LIMIT
