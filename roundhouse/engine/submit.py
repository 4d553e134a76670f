"""What one pass submits: the most important first, as single jobs or arrays, within the limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from roundhouse.engine import allocations
from roundhouse.engine.refusals import blocked, cause_of, held_back, reason_of
from roundhouse.engine.report import Foreseen
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

SLOT_AWAITED = Action(Verb.NOTHING, State.PENDING, "waits for a slot of this machine", Cause.LIMIT)


@dataclass
class Submissions:
    """One pass's submissions. `_room`: how many jobs there may still be; `_full`: what those beyond are told."""

    submitter: Submitter
    clock: Clock
    rows: Iterable[ExperimentStatus] = ()  # all of the round: what is open holds places of `max_running`
    _throttles: dict[Resources, Throttle] = field(default_factory=dict)  # by what the round file says
    _sizes: dict[str | None, int] = field(default_factory=dict)  # most tasks of an array, by queue
    _room: int = 0
    _full: str = ""
    _accepted: bool = False  # whether a job was accepted in this pass

    def __post_init__(self) -> None:
        self.place = self.submitter.place

    def submit(self, rows: Sequence[ExperimentStatus], limit: int | None) -> Iterator[ExperimentStatus]:
        """Submit what is to be submitted; yields the rows that changed. Without `act`, only tells what would go."""
        waiting = [row for row in rows if row.action.verb is Verb.SUBMIT]
        waiting.sort(key=lambda row: -row.experiment.priority)
        self._make_room(rows, len(waiting), limit)
        if self.place.scheduler.kind != "local":
            yield from self._allocate([row for row in waiting if row.experiment.resources.pack is not None])
            waiting = [row for row in waiting if row.experiment.resources.pack is None]
            if waiting:
                self._throttles = throttles(self.rows, self.submitter.seen.here or {}, self._at_once)
        here = self.place.room() if self.place.room is not None and waiting else None
        refusals = self.submitter.refusals
        while waiting and self._room > 0:
            if refused := refusals.of(waiting[0].resources):
                yield held_back(waiting.pop(0), refused)
            elif here is not None and not here.take(waiting[0].resources):
                yield replace(waiting.pop(0), action=SLOT_AWAITED)
            elif throttled := self._throttled(waiting):
                yield from throttled
                waiting = [row for row in waiting if row.experiment.resources != throttled[0].experiment.resources]
            else:
                batch, at_once = self._batch(waiting)
                taken = {id(row) for row in batch}
                waiting = waiting[1:] if len(batch) == 1 else [row for row in waiting if id(row) not in taken]
                settled, again = self._submit(batch, at_once)
                yield from settled
                waiting = again + waiting
        for row in waiting:
            if refused := refusals.of(row.resources):
                yield held_back(row, refused)
            else:
                yield replace(row, action=Action(Verb.NOTHING, State.PENDING, self._full, Cause.LIMIT))

    def _allocate(self, packed: Sequence[ExperimentStatus]) -> Iterator[ExperimentStatus]:
        """See to allocations for what wants a slot in one; yields how each stands."""
        allocating = Allocating(self.submitter, self.clock)
        for like, those in allocations.by_resources(packed).items():
            self._room, stand = allocating.allocate(like, those, self._room, self._full)
            yield from stand

    def _submit(
        self, batch: Sequence[ExperimentStatus], at_once: int | None
    ) -> tuple[list[ExperimentStatus], list[ExperimentStatus]]:
        """Submit one job. Returns how its experiments stand, and those that are to go in smaller arrays instead."""
        self._room -= len(batch)
        if not self.submitter.act:
            self.submitter.report.foreseen.append(self._foreseen(batch, at_once))
            return [], []
        answer, actions = self.submitter.array(batch, at_once) if len(batch) > 1 else self.submitter.one(batch[0])
        self._accepted = self._accepted or isinstance(answer, Submitted)
        again: list[ExperimentStatus] = []
        if isinstance(answer, Refused) and at_once is not None:
            self._throttles[batch[0].experiment.resources].give_back(len(batch), at_once)
        if isinstance(answer, Refused) and answer.later:
            if answer.scope is Scope.ALL:
                self._room, self._full = len(batch) - 1, reason_of(answer)
            else:
                self._room += len(batch)
            if len(batch) > 1 and answer.splits:
                again = self._to_smaller_arrays(batch)
        if isinstance(answer, Refused) and cause_of(answer) is Cause.SITE:
            return [replace(blocked(row, answer), record=record.read(row.record.directory)) for row in batch], []
        left = {row.experiment.path for row in again}
        settled = [
            replace(row, action=action, record=record.read(row.record.directory))
            for row, action in zip(batch, actions, strict=True)
            if row.experiment.path not in left
        ]
        return settled, again

    def _make_room(self, rows: Sequence[ExperimentStatus], waiting: int, limit: int | None) -> None:
        """How many of those that wait may be submitted now, and what is to be said to those beyond."""
        live, most = self.submitter.live, self.place.max_jobs
        self._room, self._full = waiting, ""
        if limit is not None and limit < waiting:
            told = f"limit reached: {counted(limit, 'submission')}" if limit else "not submitted"
            self._room, self._full = limit, f"{told} in this pass"
        if most is not None and most - live < self._room:
            self._room, self._full = most - live, f"limit reached: {counted(most, 'job')} at once"
        for row, claim in self._recent_limits(rows):
            if claim.jobs is None:
                if row.action.verb is Verb.SUBMIT:
                    self.submitter.refusals.add(row.resources, Refused(claim.why, later=True, scope=claim.scope))
            elif claim.jobs - live < self._room:
                self._room, self._full = claim.jobs - live, f"limit reached: {claim.why}"

    def _recent_limits(self, rows: Sequence[ExperimentStatus]) -> Iterator[tuple[ExperimentStatus, Claim]]:
        """The attempts that the scheduler refused for now, a short while ago."""
        for row in rows:
            for attempt in row.record.attempts[-1:] if row.record.folded else row.record.attempts:
                claim = attempt.claim
                if attempt.cause is Cause.LIMIT and claim is not None:
                    if self.clock.now - claim.at < self.clock.limit_backoff:
                        yield row, claim

    def _batch(self, waiting: Sequence[ExperimentStatus]) -> tuple[Sequence[ExperimentStatus], int | None]:
        """What goes as the next job: the most important one; with `array`, as many as there may be of its resources.

        With `max_running`, also how many of them may run at a time.
        """
        first, like, said = waiting[0], waiting[0].resources, waiting[0].experiment.resources
        throttle, newest = self._throttles.get(said), first.record.newest
        # After a refusal of every job, a single one finds out whether the site file was corrected.
        probe = newest is not None and newest.cause is Cause.SITE and not self._accepted
        if not like.array or probe:
            return waiting[:1], None
        kind = [row for row in waiting[: self._room] if throttle is None or row.experiment.resources == said]
        may = throttle.share(len(kind)) if throttle else len(kind)
        batch: Sequence[ExperimentStatus] = [first]
        if may > 1:
            queue, code = self._queue(like), self.submitter.code(first)
            if queue not in self._sizes:
                self._sizes[queue] = self.place.scheduler.array_limit(self.place.run, queue)
            alike = [row for row in kind if row.resources == like and self.submitter.code(row) == code]
            batch = alike[: min(may, self._sizes[queue])]
        return batch, throttle.take(len(batch), may) if throttle else None

    def _at_once(self, round_name: str, array: str) -> int | None:
        return job_group.read_at_once(job_group.directory_of(self.place.experiments / round_name, array))

    def _throttled(self, waiting: Sequence[ExperimentStatus]) -> list[ExperimentStatus]:
        """All that wait for the same resources as the first, if `max_running` leaves no place for them."""
        said = waiting[0].experiment.resources
        throttle = self._throttles.get(said)
        if throttle is None or not throttle.full:
            return []
        told = Action(Verb.NOTHING, State.PENDING, throttle.told, Cause.LIMIT)
        return [replace(row, action=told) for row in waiting if row.experiment.resources == said]

    def _foreseen(self, batch: Sequence[ExperimentStatus], at_once: int | None) -> Foreseen:
        like, name = batch[0].resources, record.new_token()
        if len(batch) == 1:
            return Foreseen("single job", batch, like, lambda: self.submitter.script(batch[0], name, like))
        return Foreseen("array", batch, like, lambda: self.submitter.array_script(batch, name, at_once), at_once)

    def _queue(self, resources: Resources) -> str | None:
        return resources.queue or self.place.site.queue

    def _to_smaller_arrays(self, batch: Sequence[ExperimentStatus]) -> list[ExperimentStatus]:
        """What of an array that was refused for a limit is to go in smaller ones: whatever is void for that alone."""
        like = batch[0].resources
        self._sizes[self._queue(like)] = len(batch) // 2
        return [after for row in batch if (after := _given_up(row))]


def _given_up(row: ExperimentStatus) -> ExperimentStatus | None:
    """The row with its record after a limit was reached, for another attempt now. None: it is another runner's by now.

    A second attempt may be opened only beside the very one that this pass has opened and made void.
    """
    now = record.read(row.record.directory)
    newest = now.newest
    ours = newest is not None and newest.number == row.record.next_number and newest.cause is Cause.LIMIT
    return replace(row, record=now) if ours else None
