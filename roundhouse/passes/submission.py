"""From experiments that are to be submitted to jobs: one for each, or an array of many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from roundhouse import files
from roundhouse.causes import Cause
from roundhouse.decisions.halving import pause_at
from roundhouse.decisions.plan import Action, Clock, State, Verb
from roundhouse.decisions.retry import request
from roundhouse.decisions.row import Row
from roundhouse.decisions.throttle import Throttle, throttles
from roundhouse.experiment import Resources
from roundhouse.passes import packing
from roundhouse.passes.look import Look
from roundhouse.records import record, shared_job
from roundhouse.records.attempt import Opened, Record
from roundhouse.schedulers.base import Identity, Refused, SubmitAnswer, Submitted, task_id

if TYPE_CHECKING:
    from roundhouse.passes.dispatch import Report, Workplace

_FASTER = Action(Verb.NOTHING, State.SUBMITTING, "another runner was faster")
_SLOTS_TAKEN = Action(Verb.NOTHING, State.PENDING, "limit reached: all slots of this machine are taken", Cause.LIMIT)
_AT_ONCE = 16  # attempts of an array that are opened side by side: each waits for the disk several times


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A job that a pass would submit.

    `rows`: the experiment, the tasks of an array, or all that wait for a slot in such an allocation.
    """

    kind: Literal["array", "allocation", "single job"]
    rows: Sequence[Row]
    resources: Resources
    script: Callable[[], str]  # renders it
    at_once: int | None = None  # tasks of an array that may run


@dataclass
class Submissions:
    """What one pass submits, the most important first, within the limits."""

    place: Workplace
    seen: Look
    clock: Clock
    report: Report
    act: bool = True
    rows: Iterable[Row] = ()  # all of the round: what is open holds places of `max_running`
    _refused: dict[Resources, str] = field(default_factory=dict)
    _throttles: dict[Resources, Throttle] = field(default_factory=dict)  # by what the round file says
    _sizes: dict[str | None, int] = field(default_factory=dict)  # most tasks of an array, by queue

    def __post_init__(self) -> None:
        self.live = self.seen.live  # jobs of the user, those of this pass included

    def submit(self, rows: Sequence[Row], limit: int | None) -> Iterator[Row]:
        """Submit what is to be submitted; yields the rows that changed. Without `act`, only tells what would go."""
        waiting = [row for row in rows if row.action.verb is Verb.SUBMIT]
        waiting.sort(key=lambda row: -row.experiment.priority)
        room, full = self._room(rows, len(waiting), limit)
        if self.place.scheduler.kind != "local":
            packed = [row for row in waiting if row.experiment.resources.pack is not None]
            waiting = [row for row in waiting if row.experiment.resources.pack is None]
            for like, those in packing.by_resources(packed).items():
                room, stand = self._allocate(like, those, room, full)
                yield from stand
            if waiting:
                self._throttles = throttles(self.rows, asdict(self.seen.identity), self._at_once)
        here = self.place.room() if self.place.room is not None and waiting else None
        refused = []
        while waiting and room > 0:
            if waiting[0].resources in self._refused:
                refused.append(waiting.pop(0))
                continue
            if here is not None and not here.take(waiting[0].resources):
                yield replace(waiting.pop(0), action=_SLOTS_TAKEN)
                continue
            if held_back := self._held_back(waiting):
                yield from held_back
                waiting = [row for row in waiting if row.experiment.resources != held_back[0].experiment.resources]
                continue
            batch, at_once = self._batch(waiting, room)
            taken = {id(row) for row in batch}
            waiting = waiting[1:] if len(batch) == 1 else [row for row in waiting if id(row) not in taken]
            room -= len(batch)
            if not self.act:
                self.report.foreseen.append(self._foreseen(batch, at_once))
                continue
            answer, actions = self._submit_array(batch, at_once) if len(batch) > 1 else self.submit_one(batch[0])
            again: list[Row] = []
            if isinstance(answer, Refused) and at_once is not None:
                self._throttles[batch[0].experiment.resources].give_back(len(batch), at_once)
            if isinstance(answer, Refused) and answer.later:
                if answer.too_large:
                    room += len(batch)
                else:
                    room, full = len(batch) - 1, f"limit reached: {answer.why}"
                if len(batch) > 1:  # a smaller one may be accepted
                    again = self._to_smaller_arrays(batch)
            waiting = again + waiting
            settled = {row.experiment.path for row in batch} - {row.experiment.path for row in again}
            for row, action in zip(batch, actions, strict=True):
                if row.experiment.path in settled:
                    yield replace(row, action=action, record=record.read(row.record.directory))
        for row in refused + waiting:
            why = self._refused.get(row.resources, full)
            yield replace(row, action=Action(Verb.NOTHING, State.PENDING, why, Cause.LIMIT))

    def _room(self, rows: Sequence[Row], waiting: int, limit: int | None) -> tuple[int, str]:
        """How many of those that wait may be submitted now, and what is to be said to those beyond."""
        room, full = waiting, ""
        if limit is not None and limit < room:
            told = f"limit reached: {limit} submissions in this pass" if limit else "not submitted in this pass"
            room, full = limit, told
        if self.place.max_jobs is not None and self.place.max_jobs - self.live < room:
            room, full = self.place.max_jobs - self.live, f"limit reached: {self.place.max_jobs} jobs at once"
        for jobs, why in self._ceilings(rows):
            if jobs - self.live < room:
                room, full = jobs - self.live, f"limit reached: {why}"
        return room, full

    def _ceilings(self, rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
        """What is known of the user's limits from submissions that were refused a short while ago."""
        for row in rows:
            for attempt in row.record.attempts[-1:] if row.record.folded else row.record.attempts:
                claim = attempt.claim
                if attempt.cause is Cause.LIMIT and claim is not None and claim.jobs is not None:
                    if self.clock.now - claim.at < self.clock.limit_backoff:
                        yield claim.jobs, claim.why

    def _batch(self, waiting: Sequence[Row], room: int) -> tuple[Sequence[Row], int | None]:
        """What goes as the next job: the most important one; with `array`, as many as there may be of its resources.

        With `max_running`, also how many of them may run at a time.
        """
        first, like, said = waiting[0], waiting[0].resources, waiting[0].experiment.resources
        throttle = self._throttles.get(said)
        if not like.array:
            return waiting[:1], None
        kind = [row for row in waiting[:room] if throttle is None or row.experiment.resources == said]
        may = throttle.share(len(kind)) if throttle else len(kind)
        batch: Sequence[Row] = [first]
        if may > 1:
            queue, code = self._queue(like), self._code(first)
            if queue not in self._sizes:
                self._sizes[queue] = self.place.scheduler.array_limit(self.place.run, queue)
            alike = [row for row in kind if row.resources == like and self._code(row) == code]
            batch = alike[: min(may, self._sizes[queue])]
        return batch, throttle.take(len(batch), may) if throttle else None

    def _at_once(self, round_name: str, array: str) -> int | None:
        return shared_job.read_at_once(shared_job.directory_of(self.place.experiments / round_name, array))

    def _held_back(self, waiting: Sequence[Row]) -> list[Row]:
        """All that wait for the same resources as the first, if `max_running` leaves no place for them."""
        said = waiting[0].experiment.resources
        throttle = self._throttles.get(said)
        if throttle is None or not throttle.full:
            return []
        told = Action(Verb.NOTHING, State.PENDING, throttle.told, Cause.LIMIT)
        return [replace(row, action=told) for row in waiting if row.experiment.resources == said]

    def _code(self, row: Row) -> str | None:
        """The copy of the code that it is to run; it is made, if it is not there yet."""
        return self.place.copies.of(row.experiment, row.record, self.act)

    def _foreseen(self, batch: Sequence[Row], at_once: int | None) -> Foreseen:
        like, name = batch[0].resources, record.new_token()
        if len(batch) == 1:
            return Foreseen("single job", batch, like, lambda: self._script(batch[0], name, like))
        return Foreseen("array", batch, like, lambda: self._array_script(batch, name, at_once), at_once)

    def _queue(self, resources: Resources) -> str | None:
        return resources.queue or self.place.site.queue

    def _to_smaller_arrays(self, batch: Sequence[Row]) -> list[Row]:
        """What of an array that was refused for a limit is to go in smaller ones: whatever is void for that alone."""
        like = batch[0].resources
        self._sizes[self._queue(like)] = len(batch) // 2
        return [after for row in batch if (after := _given_up(row))]

    # ------------------------------------------------------------------------------------------ allocations

    def _allocate(self, like: Resources, rows: Sequence[Row], room: int, full: str) -> tuple[int, list[Row]]:
        """See to it that there are allocations for experiments that ask for the same; they wait for a slot in one.

        Returns the room that is left, and how these experiments stand.
        """
        folder = self.place.experiments / rows[0].experiment.round
        found = packing.alive(folder, self.seen, self.clock.now, self.clock.settle)
        living = [(allocation, job) for allocation, job in found if allocation.resources == like]
        queues = packing.queues(rows, living)
        waiting = [row.experiment.path for queue in queues if not queue.stuck for row in queue.rows]
        wanted = packing.wanted(waiting, like, [allocation for allocation, _ in living])
        if not wanted:  # and yet something may have no allocation that takes it
            full = f"limit reached: max_running: {like.max_running}, and those that live were submitted with --only"
        room, more, otherwise = self._submit_allocations(rows, like, wanted, room, full)
        self._tell_of_other_code(queues)
        return room, [row for queue in queues for row in queue.stand(more, otherwise)]

    def _submit_allocations(
        self, rows: Sequence[Row], like: Resources, wanted: int, room: int, full: str
    ) -> tuple[int, list[str], Action]:
        """Submit some allocations for experiments that ask for the same.

        Returns the room that is left, what to call each of them, and how an experiment stands that no allocation takes.
        """
        made: list[str] = []
        for _ in range(min(wanted, room)):
            room -= 1
            if not self.act:
                made.append("an allocation that would be submitted")
                self.report.foreseen.append(
                    Foreseen("allocation", rows, like, lambda: self._allocation_script(rows[0], like))
                )
                continue
            try:
                answer = packing.submit(self.place, self._allocation(rows[0], like))
            except OSError as error:
                name = rows[0].experiment.round
                self.report.trouble.append(f"an allocation of round {name} was not submitted in order: {error}")
                break
            if isinstance(answer, Refused) and not answer.later:
                why = f"its allocation was refused: {answer.why}"
                return room + 1, made, Action(Verb.NOTHING, State.BLOCKED, why)
            if isinstance(answer, Refused):
                room, full = 0, f"limit reached: {answer.why}"
                break
            self.live += isinstance(answer, Submitted)
            made.append(
                f"allocation {answer.job_id}" if isinstance(answer, Submitted) else f"to be looked up: {answer.why}"
            )
            self.report.done.append((rows[0].experiment, Action(Verb.SUBMIT, State.PENDING, made[-1])))
        return room, made, Action(Verb.NOTHING, State.PENDING, full, Cause.LIMIT)

    def _tell_of_other_code(self, queues: Sequence[packing.Queue]) -> None:
        """Where the present code is asked for: which allocations that are there will start something with another."""
        if not self.place.current_code:
            return
        others = {
            job.id if job else allocation.name: None
            for queue in queues
            for allocation, job in queue.allocations
            if any(allocation.code_of(row) != self._code(row) for row in queue.rows)
        }
        if others:
            self.report.notes.append(
                f"Allocations that keep to the code they were submitted with, whatever they take: {', '.join(others)}. "
                "For the present code: delete these jobs, and then pass again with --code current"
            )

    def _allocation(self, row: Row, like: Resources) -> packing.Allocation:
        """One more allocation. It runs the code that an experiment would which has never run."""
        assert isinstance(self.seen.identity, Identity)
        code = self._code(replace(row, record=Record(row.record.directory)))
        return self.place.allocation(row.experiment.round, like, self.seen.identity, code)

    def _allocation_script(self, row: Row, like: Resources) -> str:
        return self.place.allocation_script(self._allocation(row, like))

    # ------------------------------------------------------------------------------------------ one job

    def submit_one(
        self, row: Row, shared: Path | None = None, resources: Resources | None = None
    ) -> tuple[SubmitAnswer | None, list[Action]]:
        """Open the next attempt and submit it, once. Whatever goes wrong on the way, a later pass finds out.

        `shared`: the directory of the allocation in which it is started, instead of being submitted, and `resources`
        what it has there.
        """
        experiment, directory, number = row.experiment, row.record.directory, row.record.next_number
        token = record.new_token()
        asked = resources or row.resources
        script = self._script(row, token, asked)
        try:
            if not self._open(row, token, asked, os.path.relpath(shared, directory) if shared else None):
                return None, [_FASTER]
            path = record.attempt_directory(directory, number) / record.SCRIPT
            files.replace(path, script.encode())
            answer = self.place.scheduler.submit(self.place.run, path, token, asked)
            if isinstance(answer, Submitted) and shared is None:
                record.record_job_id(directory, number, answer.job_id)
            action = self._record(row, number, answer, 1)
        except OSError as error:
            self.report.trouble.append(f"{experiment.path}: attempt {number} was not submitted in order: {error}")
            return None, [Action(Verb.NOTHING, State.SUBMITTING, f"to be looked up: {error}")]
        self.live += isinstance(answer, Submitted)
        self.report.done.append((experiment, action))
        return answer, [action]

    def _script(self, row: Row, token: str, asked: Resources) -> str:
        return self.place.script(row.experiment, row.record.next_number, token, asked, self._code(row))

    def _open(
        self, row: Row, token: str, asked: Resources, shared: str | None = None, index: int | None = None
    ) -> bool:
        experiment, directory, number = row.experiment, row.record.directory, row.record.next_number
        assert isinstance(self.seen.identity, Identity) and row.inputs.pinned is not None
        opened = Opened(
            token,
            asdict(self.seen.identity),
            experiment.config_hash(),
            row.inputs.pinned,
            shared=shared,
            index=index,
            resources=request(asked, experiment.resources),
            code=self._code(row),
            pause_at=pause_at(experiment, row.record),
        )
        if not record.open_attempt(directory, number, opened, self.place.experiments / experiment.round):
            return False
        record.write_config(directory, experiment)
        return True

    def _record(self, row: Row, number: int, answer: SubmitAnswer, jobs: int, index: int | None = None) -> Action:
        """Write down what the scheduler said to the submission of an attempt, as one of so many jobs."""
        if isinstance(answer, Submitted):
            job_id = task_id(answer.job_id, index)
            return Action(Verb.SUBMIT, State.IN_PROGRESS, row.action.reason, job_id=job_id)
        if isinstance(answer, Refused):
            cause = Cause.LIMIT if answer.later else Cause.REFUSED
            most = None if answer.too_large else self.live + jobs - 1
            record.void(row.record.directory, number, cause, answer.why, jobs=most)
            if not answer.later:
                self._refused[row.resources] = f"not tried: a job with the same resources was refused ({answer.why})"
            return Action(Verb.SUBMIT, State.PENDING, f"{'limit reached: ' * answer.later}{answer.why}", cause)
        return Action(Verb.SUBMIT, State.SUBMITTING, f"no clear answer, to be looked up: {answer.why}")

    # ------------------------------------------------------------------------------------------ an array

    def _submit_array(self, batch: Sequence[Row], at_once: int | None) -> tuple[SubmitAnswer | None, list[Action]]:
        """Open the next attempt of each as a task of one array, and submit that, once.

        A task whose attempt another runner has opened stays in the array, with nothing to do.
        """
        name = record.new_token()
        shared = shared_job.directory_of(self.place.experiments / batch[0].experiment.round, name)
        try:
            shared_job.make(shared)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                tokens = list(pool.map(self._open_task, batch, range(len(batch)), repeat(shared)))
            if not any(tokens):
                return None, [_FASTER] * len(batch)
            files.replace(shared / shared_job.MANIFEST, manifest(batch, tokens).encode())
            if at_once is not None:
                shared_job.write_at_once(shared, at_once)
            files.replace(shared / shared_job.SCRIPT, self._array_script(batch, name, at_once).encode())
            answer = self.place.scheduler.submit(self.place.run, shared / shared_job.SCRIPT, name)
            if isinstance(answer, Submitted):
                shared_job.write_id(shared, answer.job_id)
            actions = [
                self._record(row, row.record.next_number, answer, len(batch), index) if tokens[index] else _FASTER
                for index, row in enumerate(batch)
            ]
        except OSError as error:
            self.report.trouble.append(f"array {name} of {len(batch)} tasks was not submitted in order: {error}")
            return None, [Action(Verb.NOTHING, State.SUBMITTING, f"to be looked up: {error}")] * len(batch)
        self.live += len(batch) * isinstance(answer, Submitted)
        self.report.done += [(row.experiment, action) for row, action in zip(batch, actions, strict=True)]
        return answer, actions

    def _array_script(self, batch: Sequence[Row], name: str, at_once: int | None) -> str:
        round_name, like, code = batch[0].experiment.round, batch[0].resources, self._code(batch[0])
        return self.place.array_script(round_name, like, code, name, len(batch), at_once)

    def _open_task(self, row: Row, index: int, shared: Path) -> str | None:
        """Open one attempt as a task: its token; None if it is not to run, since another runner was faster."""
        token = record.new_token()
        place = os.path.relpath(shared, row.record.directory)
        return token if self._open(row, token, row.resources, place, index) else None


def _given_up(row: Row) -> Row | None:
    """The row with its record after a limit was reached, for another attempt now. None: it is another runner's by now.

    A second attempt may be opened only beside the very one that this pass has opened and made void.
    """
    now = record.read(row.record.directory)
    newest = now.newest
    ours = newest is not None and newest.number == row.record.next_number and newest.cause is Cause.LIMIT
    return replace(row, record=now) if ours else None


def manifest(batch: Sequence[Row], tokens: Sequence[str | None]) -> str:
    """What each task of an array runs, a line each: number and token of the attempt, and the experiment's path."""
    return "".join(
        f"{row.record.next_number} {token} {row.experiment.path}\n" if token else "\n"
        for row, token in zip(batch, tokens, strict=True)
    )
