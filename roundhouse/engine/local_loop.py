"""A round on this machine: passes over it in the foreground, with progress, until nothing is left to do."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

from roundhouse.engine import one_pass
from roundhouse.engine.context import PassContext
from roundhouse.engine.report import PassReport
from roundhouse.machine.pool import Pool, live
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import State, Verb
from roundhouse.store import record
from roundhouse.views.progress_bar import Display

LOOK_EVERY = 0.25  # seconds between looks at the processes
STOP_AGAIN = 10.0  # seconds after which jobs that still run are asked to stop once more
PASS_EVERY = 2.0  # seconds between passes while nothing runs from here, but something is awaited
PASS_AT_LEAST_EVERY = 60.0  # seconds between passes while jobs run from here


def run_here(
    place: PassContext,
    pool: Pool,
    experiments: Sequence[Experiment],
    only: Callable[[Experiment], bool],
    limit: int | None,
) -> tuple[PassReport, bool]:
    """Run the round to its end. Returns the last report, and whether the user interrupted it.

    Ctrl-C stops the jobs at a safe point, a second one at once; either way the next call resumes them.
    """
    report, told = PassReport(), False
    with Display() as display, _Interrupts() as interrupts:
        try:
            while True:
                with interrupts.deferred():
                    report = one_pass.run_pass(place, experiments, limit=limit, only=only)
                if limit is not None:
                    limit -= sum(action.verb is Verb.SUBMIT for _, action in report.done)
                display.show(report.rows)
                full = limit != 0 and any(row.action.cause is Cause.LIMIT for row in report.rows)
                if not pool.running and not report.done and not full and not _awaits(place, report):
                    return report, False
                if full and not pool.running and not told:
                    display.say("All slots of this machine are taken by other jobs of yours. Waiting for one.")
                    told = True
                _wait(pool, display, report, interrupts)
        except KeyboardInterrupt:
            _stop(pool, display, report, interrupts)
            return one_pass.run_pass(place, experiments, limit=0, only=only), True


def _awaits(place: PassContext, report: PassReport) -> bool:
    """Whether something of this machine's is still open: an orphan of an earlier runner, or a last word to come."""
    here = asdict(place.scheduler.identity(place.run))
    for row in report.rows:
        newest = row.record.newest
        if row.action.state in (State.IN_PROGRESS, State.SUBMITTING) and newest is not None and not newest.closed:
            if newest.opened.ran_at(here):
                return True
    return False


def _wait(pool: Pool, display: Display, report: PassReport, interrupts: _Interrupts) -> None:
    """Until a job ends, or it is time to look around again."""
    until = time.monotonic() + (PASS_AT_LEAST_EVERY if pool.running else PASS_EVERY)
    while not pool.reap() and time.monotonic() < until:
        if interrupts.noted():
            raise KeyboardInterrupt
        time.sleep(LOOK_EVERY)
        display.show(report.rows, fresh=record.read)


def _stop(pool: Pool, display: Display, report: PassReport, interrupts: _Interrupts) -> None:
    stopped = pool.running
    display.say("Stopping: each job saves its place. Once more to stop at once.")
    pool.stop()
    again = time.monotonic() + STOP_AGAIN
    while pool.running:
        if time.monotonic() > again:  # a shell that just starts a command may have lost the signal
            pool.stop()
            again += STOP_AGAIN
        if interrupts.noted():
            pool.kill()
        time.sleep(LOOK_EVERY)
        pool.reap()
    _close(stopped, report)


def _close(stopped: frozenset[str], report: PassReport) -> None:
    """Write down for jobs that had no time to: it was the user's wish, and no fault of the experiments'."""
    until = time.monotonic() + PASS_EVERY
    while stopped & live().keys() and time.monotonic() < until:
        time.sleep(LOOK_EVERY)
    gone = stopped - live().keys()
    for row in report.rows:
        directory = row.record.directory
        newest = record.read(directory).newest
        if newest is not None and not newest.closed and not newest.cancel and newest.opened.token in gone:
            why = "stopped by the user"
            if not record.void(directory, newest.number, Cause.PREEMPTED, why):
                record.close(directory, newest.number, Cause.PREEMPTED, why)


class _Interrupts:
    """Ctrl-C, a polite kill and a closed terminal: noted when they come, and raised where nothing is half done.

    Half a pass would leave jobs that this runner does not know of, and an exception that comes anywhere can be lost in
    a place that swallows it.
    """

    def __init__(self) -> None:
        self._pending = False

    def __enter__(self) -> _Interrupts:
        self._before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for name, handler in self._before.items():
            # What is ignored (by nohup, or in the background of a script) stays so, but by a handler, which jobs do
            # not inherit: they must hear what the pool tells them.
            signal.signal(name, self._ignore if handler is signal.SIG_IGN else self._interrupt)
        return self

    def __exit__(self, *exception: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        yield
        if self.noted():
            raise KeyboardInterrupt

    def noted(self) -> bool:
        """Whether there was one since the last time."""
        pending, self._pending = self._pending, False
        return pending

    def _interrupt(self, received: int, frame: FrameType | None) -> None:
        self._pending = True

    def _ignore(self, received: int, frame: FrameType | None) -> None:
        pass
