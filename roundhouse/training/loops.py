"""The loops of a run, by steps and by epochs, and what a study uses inside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
import torch.utils.data

from roundhouse.errors import RoundhouseError
from roundhouse.training.optimise import Optimisers, Place, listed
from roundhouse.training.reproducibility import derive_seed, global_states, restore_globals, seed_globals
from roundhouse.training.session import Session
from roundhouse.training.state import EPOCH, STEP, LoopState
from roundhouse.training.tracking import Mismatch
from roundhouse.training.workers import start_workers

Item = TypeVar("Item")
Batch = TypeVar("Batch", covariant=True)


@runtime_checkable
class Feed(Protocol[Batch]):
    """A source of the batches of an epoch that can begin in its middle, without loading what comes before."""

    def batches(self, epoch: Epoch, first: int) -> Iterator[Batch]:
        """The batches of the epoch from number `first` on. All random numbers come from the epoch's generators."""


class Streams:
    """Random numbers that are derived from the seed of the run and a position: nothing is carried from step to step."""

    def __init__(self, seed: int, *position: int | str) -> None:
        self._seed = seed
        self._position = position

    def seed(self, stream: str, *more: int) -> int:
        """The seed of a named random stream at this position."""
        return derive_seed(self._seed, stream, *self._position, *more)

    def generator(self, stream: str, *more: int, device: torch.device | str = "cpu") -> torch.Generator:
        """A new generator: the same numbers at each call for the same stream and position.

        `more` distinguishes several uses, such as the steps of a critic. Another type of device gives other numbers.
        """
        return torch.Generator(device).manual_seed(self.seed(stream, *more))

    def numpy_generator(self, stream: str, *more: int) -> np.random.Generator:
        """A new NumPy generator for the named stream."""
        return np.random.default_rng(self.seed(stream, *more))


class Step(Streams):
    """One step of a loop. `index` counts from 0: in the loop, or in the epoch."""

    def __init__(self, session: Session, index: int, *position: int | str) -> None:
        super().__init__(session.settings.seed, *position)
        self.index = index
        self._session = session
        self._losses = 0
        self._weight = 1.0  # the samples of this process, relative to the mean over the processes

    def shard(self, count: int) -> slice:
        """This process's part of a batch of `count` samples. With one process, all of it.

        Parts differ by at most one sample, and none is empty: gradients and averages of this step are weighted so that
        the mean over the processes is that of the batch. Draw random numbers for the whole batch, and take their part,
        too. RoundhouseError: there is no sample.
        """
        self._check_running()
        part, self._weight = self._session.ranks.share(count)
        return part

    def every(self, count: int) -> bool:
        """Whether this is the last of each `count` steps: with 100, the steps of index 99, 199 and so on."""
        if count < 1:
            raise RoundhouseError(f"step.every({count}): the number of steps must be >= 1")
        return (self.index + 1) % count == 0

    def _check_running(self) -> None:
        """RoundhouseError: the loop is at another step, or over."""
        if self._session.running is not self:
            raise RoundhouseError(
                f"step {self.index + 1} is used after its end: use a step only in the body of the loop that yields it, "
                "and do not collect or prefetch steps"
            )

    def optimise(self, loss: torch.Tensor, optimisers: Optimisers, clip_norm: float | None = None) -> None:
        """One backward pass of a scalar loss, and one step of each of the optimisers, with gradient scaling under fp16.

        Gradients of their parameters from before are cleared. `clip_norm`: the largest norm of all gradients together.
        A loss that is not finite is detected within the next 50, and before anything is saved.
        """
        each = listed(optimisers)
        for one in each:
            one.zero_grad(set_to_none=True)
        self.watch(loss)
        self.backward(loss)
        self.update(each, clip_norm)

    def backward(self, loss: torch.Tensor) -> None:
        """Only the backward pass: gradients, scaled if the precision needs it, are added to existing ones."""
        self._check_running()
        self._session.optimisation.backward(loss)

    def scaled_backward(self, loss: torch.Tensor) -> None:
        """`backward` for code that is captured in a graph: call `settle` before, outside it."""
        self._session.optimisation.scaled_backward(loss)

    def settle(self) -> None:
        """Update the gradient scale if optimisers have stepped since; `backward` does this itself."""
        self._session.optimisation.settle()

    def update(self, optimisers: Optimisers, clip_norm: float | None = None) -> None:
        """Only the step of the optimisers, with the gradients of `backward`. It is skipped if they overflowed."""
        self._check_running()
        self._session.optimisation.update(optimisers, clip_norm, self._weight)

    def watch(self, loss: torch.Tensor) -> None:
        """Check that the loss is finite, within the next 50 losses: an immediate check waits for the device."""
        self._check_running()
        session = self._session
        batch = f", batch {self.index + 1}" if session.state.unit == EPOCH else ""
        session.checks.watch(Place(session.state.step, session.where() + batch, number=self._losses), loss)
        self._losses += 1

    def average(self, **values: torch.Tensor | float) -> None:
        """Add scalars to means that are recorded with the epoch, or with the next `run.record`.

        Tensors stay on the device until then, and are read all at once.
        """
        self._check_running()
        self._session.average(values, self._weight)


class Epoch(Streams):
    """One epoch of a loop. `index` counts from 0 within the loop."""

    def __init__(self, session: Session, loop: LoopState, name: str) -> None:
        super().__init__(session.settings.seed, name, loop.done)
        self.index = loop.done
        self.stage = name
        self.cut = False  # a limit of the run has ended it before its last batch
        self._session = session
        self._loop = loop
        self._first = loop.batch
        self.used = False
        self._began: float | None = None  # when the present batch began; None: it is complete
        self._generators: dict[str, Any] | None = None  # the global ones, when the study has left the batches
        self.ranks = session.ranks

    def batches(self, feed: Feed[Item] | Iterable[Item]) -> Iterator[tuple[Step, Item]]:
        """A step with each batch of a feed, or each item of an iterable; once in each epoch.

        After a resume inside the epoch it begins with the next batch: an iterable is advanced without using its items.
        """
        session, loop = self._session, self._loop
        session.complete_break()
        if session.epoch is not self:
            raise RoundhouseError(
                f"epoch {self.index + 1} of stage {self.stage} is used after its end: use an epoch only in the body of "
                "the loop that yields it"
            )
        if self.used:
            raise RoundhouseError(f"epoch.batches() was called twice in one epoch of stage {self.stage}")
        self.used = True
        source = self._rest_of(feed)
        while not loop.left:
            session.safe_point(boundary=False)
            session.untimed, began = 0.0, time.monotonic()
            try:
                item = next(source)
            except StopIteration:
                break
            if session.ended:
                session.save()
                self.cut = True
                break
            self._began = began
            session.running = step = Step(session, loop.batch, self.stage, loop.done, "batch", loop.batch)
            try:
                yield step, item
            except GeneratorExit:
                self.leave_batches()
                raise
            self.complete_batch()
        session.before_evaluation()

    def leave_batches(self) -> None:
        """The study has left the batches with `break`: what they are is complete with what follows."""
        if self._began is not None:
            self._generators = global_states()
            self._session.running, self._session.after_break = None, self.complete_left

    def complete_left(self) -> None:
        """Complete the batch in which the study has left, and with it the batches of the epoch."""
        if self._began is not None:
            self.complete_batch()
            self._loop.left = True
            self._session.begin_evaluation(self._generators)

    def complete_batch(self) -> None:
        if self._began is not None:
            began, self._began = self._began, None
            self._loop.batch += 1
            _complete_step(self._session, self._loop, began)

    def _rest_of(self, feed: Feed[Item] | Iterable[Item]) -> Iterator[Item]:
        """The batches that are left, with the global generators as they were when they were left."""
        first, session = self._first, self._session
        items: Iterator[Item]
        if isinstance(feed, Feed):
            items = feed.batches(self, first)
            if first:
                items = chain(list(islice(items, 1)), items)  # what it draws when it starts is drawn now
        else:
            items = start_workers(feed) if isinstance(feed, torch.utils.data.DataLoader) else iter(feed)
            skipped = first if self._loop.left else sum(1 for _ in islice(items, first))
            if skipped < first:
                raise RoundhouseError(
                    f"epoch {self.index + 1} of stage {self.stage} had {first} batches before the resume, and has only "
                    f"{skipped} now: its batches must follow from the epoch alone"
                )
        if session.ranks.count > 1:
            items = chain(list(islice(items, 1)), items)  # its order is drawn before the processes differ
            session.diverge_globals(EPOCH, self.stage, self.index)
        if first and session.resumed_globals is not None:
            restore_globals(session.resumed_globals)
        session.resumed_globals, session.repeating = None, False
        return items


def _complete_step(session: Session, loop: LoopState, began: float) -> None:
    """Count a step that is complete, and its time."""
    session.state.seconds += max(0.0, time.monotonic() - began - session.untimed)
    session.agree_on_end()
    session.state.step += 1
    loop.steps += 1
    session.running = None
    session.changed()
    session.checks.passed(session.state.step)
    session.keep_snapshots()


def epochs(session: Session, total: int | None, name: str) -> Iterator[Epoch]:
    """The epochs of the loop `name` that are left."""
    loop = _enter(session, name, EPOCH, total)
    if loop is None:
        return
    while not loop.finished and (loop.open or not session.ended):
        session.repeating = loop.open
        if not loop.open:
            session.safe_point(boundary=True)
            loop.open, loop.batch, loop.left = True, 0, False
            session.discard_row()
        seed_globals(derive_seed(session.settings.seed, EPOCH, name, loop.done))
        session.begin_row()
        epoch, began, trained = Epoch(session, loop, name), time.monotonic(), session.state.seconds
        session.epoch = epoch
        try:
            yield epoch
        except GeneratorExit:
            session.epoch, session.running = None, None
            session.after_break = partial(_break_epochs, session, loop, name, epoch)
            raise
        session.after_break = None
        epoch.complete_left()
        session.epoch = None
        _check_batches(epoch, loop)
        session.timing.evaluated(time.monotonic() - began - (session.state.seconds - trained))
        _close_epoch(session, loop, epoch)
        session.early_stop()
        if epoch.cut:
            break
        if session.settings.save_each_epoch:
            session.save()
    _leave(session, name)


def _close_epoch(session: Session, loop: LoopState, epoch: Epoch) -> None:
    """Record the epoch. One that was cut stays open in the state, so that it can be continued with larger limits."""
    if epoch.cut:
        session.keep_snapshots()
        session.close_row(partial=True)
        return
    session.check_skipped()
    session.close_row()
    loop.open, loop.batch = False, 0
    loop.done += 1
    session.state.epoch += 1
    session.keep_snapshots()


def _check_batches(epoch: Epoch, loop: LoopState) -> None:
    """RoundhouseError: the study has trained on no batch of the epoch."""
    where = f"epoch {epoch.index + 1} of stage {epoch.stage}"
    if not epoch.used:
        raise RoundhouseError(f"{where}: the study has not iterated over epoch.batches(...), which counts the steps")
    if not loop.batch and not epoch.cut:
        raise RoundhouseError(
            f"{where} has no batch: the data set is empty or smaller than a batch, or its iterator is used up (each "
            "epoch needs a new one)"
        )


def _break_epochs(session: Session, loop: LoopState, name: str, epoch: Epoch) -> None:
    """Complete the epoch in which the study has left; one that it has not trained on does not count."""
    epoch.complete_left()
    if loop.batch:
        _close_epoch(session, loop, epoch)
    else:
        loop.open = False
        session.discard_row()
    loop.ended = "break"
    _leave(session, name)


def steps(
    session: Session, total: int | None, name: str, save_every: int | None, until: Callable[[], bool] | None
) -> Iterator[Step]:
    """The steps of the loop `name` that are left."""
    limited = session.settings.time_limit is not None or session.settings.max_steps is not None
    if total is None and until is None and not limited:
        raise RoundhouseError(
            f"run.steps(None, name={name!r}) has no end: it needs `until`, a function that says when to end, or "
            "`time_limit` or `max_steps` in the config"
        )
    if save_every is not None and save_every < 1:
        raise RoundhouseError(f"run.steps(save_every={save_every}, name={name!r}): save_every must be >= 1")
    loop = _enter(session, name, STEP, total)
    if loop is None:
        return
    session.begin_row()
    while not loop.finished and not session.ended:
        session.safe_point(boundary=True)
        if until is not None and session.ranks.agree("until", until()):
            loop.ended = "until"
            break
        seed_globals(derive_seed(session.settings.seed, STEP, name, loop.done))
        session.diverge_globals(STEP, name, loop.done)
        session.untimed, began = 0.0, time.monotonic()
        session.running = step = Step(session, loop.done, name, loop.done, STEP)
        try:
            yield step
        except GeneratorExit:
            session.running = None
            session.after_break = partial(_break_steps, session, loop, name, began)
            raise
        _complete_one(session, loop, began)
        if save_every is not None and loop.done % save_every == 0:
            session.save()
    _leave(session, name)


def _complete_one(session: Session, loop: LoopState, began: float) -> None:
    """Complete a step of a loop by steps."""
    loop.done += 1
    _complete_step(session, loop, began)
    session.timing.evaluated(session.untimed)
    session.check_many_skipped()
    session.early_stop()


def _break_steps(session: Session, loop: LoopState, name: str, began: float) -> None:
    _complete_one(session, loop, began)
    loop.ended = "break"
    _leave(session, name)


def _enter(session: Session, name: str, unit: str, total: int | None) -> LoopState | None:
    """The state of a loop that has something left; None if it is complete, or training has ended before it."""
    session.complete_break()
    state = session.state
    if not name or (total is not None and (not isinstance(total, int) or total < 0)):
        raise RoundhouseError(f"run.{unit}s({total!r}, name={name!r}): give a whole number >= 0, and a name")
    if session.has_results:
        raise RoundhouseError(f"the loop {name!r} begins after run.finish(): call run.finish() after the last loop")
    if session.loop:
        raise RoundhouseError(f"the loop {name!r} begins inside the loop {session.loop!r}: loops follow one another")
    if state.unit not in ("", unit):
        raise RoundhouseError(f"the loop {name!r} counts {unit}s, but those before it {state.unit}s: use one of them")
    loop = state.loops.get(name)
    if loop is not None and not session.replaying:
        raise RoundhouseError(f"two loops of this run are called {name!r}: give each its own name")
    if loop is not None and total is not None and loop.done > total:
        raise Mismatch(f"its stage {name} has {loop.done} {unit}s, and the config only {total}")
    is_last = not state.loops or name == next(reversed(state.loops))
    if loop is not None and is_last:
        loop.total = total  # larger, if a finished run is continued
    nothing_left = session.ended if loop is None else not is_last or loop.finished
    if nothing_left:
        if loop is None:
            session.skipped.append(name)
        elif is_last:
            session.replaying = False
            session.restore_parts()
            session.tracked.note_shapes()
            session.begin_row()
        else:
            session.replayed += loop.steps
        session.hash_parts()
        _after(session, name)
        return None
    session.tracked.check_shapes()
    session.check_prepared()
    if loop is None:
        loop = state.loops[name] = LoopState(total=total)
        session.discard_row()
    else:
        session.tracked.check_complete()
        session.restore_parts()
    state.unit, session.loop, session.replaying = unit, name, False
    state.bests = {file: best for file, best in state.bests.items() if best["value"] is not None}  # else too early
    session.tracked.all_known()
    session.changed()
    return loop


def _leave(session: Session, name: str) -> None:
    if not session.state.loops[name].open:  # else the whole state was saved when the epoch was cut
        session.save()
    session.hash_parts()
    session.tracked.note_shapes()
    session.loop = ""
    _after(session, name)


def _after(session: Session, name: str) -> None:
    """The global generators after a loop are the same, whether it ran now or in an earlier attempt."""
    seed_globals(derive_seed(session.settings.seed, "after", name))
