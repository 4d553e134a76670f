"""The loops of a run, by steps and by epochs, and what a study uses inside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch

from roundhouse.errors import RoundhouseError
from roundhouse.training.optimise import Optimisers, Place, listed
from roundhouse.training.reproducibility import derive_seed, restore_globals, seed_globals
from roundhouse.training.session import Session
from roundhouse.training.state import EPOCH, STEP, LoopState
from roundhouse.training.tracking import Mismatch

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

    def every(self, count: int) -> bool:
        """Whether this is the last of each `count` steps: with 100, the steps of index 99, 199 and so on."""
        return (self.index + 1) % count == 0

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
        self._session.optimisation.backward(loss)

    def scaled_backward(self, loss: torch.Tensor) -> None:
        """`backward` for code that is captured in a graph: call `settle` before, outside it."""
        self._session.optimisation.scaled_backward(loss)

    def settle(self) -> None:
        """Update the gradient scale if optimisers have stepped since; `backward` does this itself."""
        self._session.optimisation.settle()

    def update(self, optimisers: Optimisers, clip_norm: float | None = None) -> None:
        """Only the step of the optimisers, with the gradients of `backward`. It is skipped if they overflowed."""
        self._session.optimisation.update(optimisers, clip_norm)

    def watch(self, loss: torch.Tensor) -> None:
        """Check that the loss is finite, within the next 50 losses: an immediate check waits for the device."""
        session = self._session
        batch = f", batch {self.index + 1}" if session.state.unit == EPOCH else ""
        session.checks.watch(Place(session.state.step, session.where() + batch, number=self._losses), loss)
        self._losses += 1

    def average(self, **values: torch.Tensor) -> None:
        """Add scalars, without gradients, to means that are recorded with the epoch, or with the next `run.record`."""
        self._session.average(values)


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
        self._used = False

    def batches(self, feed: Feed[Item] | Iterable[Item]) -> Iterator[tuple[Step, Item]]:
        """A step with each batch of a feed, or each item of an iterable; once in each epoch.

        After a resume inside the epoch it begins with the next batch: an iterable is advanced without using its items.
        """
        if self._used:
            raise RoundhouseError(f"epoch.batches() was called twice in one epoch of stage {self.stage}")
        self._used = True
        session, loop = self._session, self._loop
        source = self._rest_of(feed)
        while True:
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
            try:
                yield Step(session, loop.batch, self.stage, loop.done, loop.batch), item
            except GeneratorExit:
                session.after_break = partial(_complete_batch, session, loop, began)
                raise
            _complete_batch(session, loop, began)
        session.before_evaluation()

    def _rest_of(self, feed: Feed[Item] | Iterable[Item]) -> Iterator[Item]:
        """The batches that are left, with the global generators as they were when they were left."""
        first, session = self._first, self._session
        items = feed.batches(self, first) if isinstance(feed, Feed) else islice(feed, first, None)
        if first:
            following = list(islice(items, 1))  # all that is drawn before it is drawn now
            items = chain(following, items)
            if session.resumed_globals is not None:
                restore_globals(session.resumed_globals)
        session.resumed_globals, session.repeating = None, False
        return items


def _complete_batch(session: Session, loop: LoopState, began: float) -> None:
    loop.batch += 1
    _complete_step(session, loop, began)


def _complete_step(session: Session, loop: LoopState, began: float) -> None:
    """Count a step that is complete, and its time."""
    session.state.seconds += max(0.0, time.monotonic() - began - session.untimed)
    session.state.step += 1
    session.inside_step = False
    loop.steps += 1
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
            loop.open, loop.batch = True, 0
            session.discard_row()
        seed_globals(derive_seed(session.settings.seed, EPOCH, name, loop.done))
        session.begin_row()
        epoch, began, trained = Epoch(session, loop, name), time.monotonic(), session.state.seconds
        try:
            yield epoch
        except GeneratorExit:
            session.after_break = partial(_break_epochs, session, loop, name, epoch, session.after_break)
            raise
        session.complete_break()  # of the batches
        session.evaluated(time.monotonic() - began - (session.state.seconds - trained))
        _close_epoch(session, loop, epoch)
        session.early_stop()
        if epoch.cut:
            break
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


def _break_epochs(
    session: Session, loop: LoopState, name: str, epoch: Epoch, complete_batch: Callable[[], None] | None
) -> None:
    if complete_batch is not None:
        complete_batch()
    _close_epoch(session, loop, epoch)
    loop.ended = "break"
    _leave(session, name)


def steps(
    session: Session, total: int | None, name: str, save_every: int | None, until: Callable[[], bool] | None
) -> Iterator[Step]:
    """The steps of the loop `name` that are left."""
    if total is None and until is None:
        raise RoundhouseError(f"run.steps(None, name={name!r}) needs `until`, a function that says when to end")
    loop = _enter(session, name, STEP, total)
    if loop is None:
        return
    session.begin_row()
    while not loop.finished and not session.ended:
        session.safe_point(boundary=True)
        if until is not None and until():
            loop.ended = "until"
            break
        seed_globals(derive_seed(session.settings.seed, STEP, name, loop.done))
        session.untimed, began = 0.0, time.monotonic()
        session.inside_step = True
        try:
            yield Step(session, loop.done, name, loop.done, STEP)
        except GeneratorExit:
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
    session.evaluated(session.untimed)
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
    if session.loop:
        raise RoundhouseError(f"the loop {name!r} begins inside the loop {session.loop!r}: loops follow one another")
    if session.last_parts is not None:
        raise RoundhouseError(f"the loop {name!r} begins after run.load_best(): call that after the last loop")
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
        session.hash_parts()
        _after(session, name)
        return None
    if loop is None:
        loop = state.loops[name] = LoopState(total=total)
        session.discard_row()
    else:
        session.tracked.check_complete()
    state.unit, session.loop, session.replaying = unit, name, False
    session.tracked.all_known()
    session.changed()
    return loop


def _leave(session: Session, name: str) -> None:
    if not session.state.loops[name].open:  # else the whole state was saved when the epoch was cut
        session.save()
    session.hash_parts()
    session.loop = ""
    _after(session, name)


def _after(session: Session, name: str) -> None:
    """The global generators after a loop are the same, whether it ran now or in an earlier attempt."""
    seed_globals(derive_seed(session.settings.seed, "after", name))
