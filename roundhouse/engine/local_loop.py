"""A round on the local machine: passes in the foreground, with progress, until nothing is left to do."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import FrameType

from roundhouse.engine import one_pass
from roundhouse.engine.context import PassContext
from roundhouse.engine.report import PassReport
from roundhouse.machine.pool import Pool, kill_processes, live
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import Verb
from roundhouse.store import record
from roundhouse.views.progress_bar import Display

REAP_EVERY = 0.25  # seconds between checks for processes that have ended
STOP_AGAIN = 10.0  # seconds after which jobs that are still running are signalled again
PASS_EVERY = 2.0  # seconds between passes while no job of this process runs, but an attempt is open
PASS_AT_LEAST_EVERY = 60.0  # seconds between passes while jobs of this process run


def run_local(
    context: PassContext,
    pool: Pool,
    experiments: Sequence[Experiment],
    only: Callable[[Experiment], bool],
    limit: int | None,
) -> tuple[PassReport, bool]:
    """Run the round to its end. Returns the last report, and whether the user interrupted it.

    Ctrl-C stops the jobs at a safe point, a second one at once; either way the next call resumes them.
    """
    report, reported = PassReport(), False
    with Display() as display, _Interrupts() as interrupts:
        try:
            while True:
                report = one_pass.run_pass(context, experiments, limit=limit, only=only)
                interrupts.check()
                if limit is not None:
                    limit -= sum(action.verb is Verb.SUBMIT for _, action in report.done)
                display.show(report.statuses)
                full = limit != 0 and any(status.action.cause is Cause.LIMIT for status in report.statuses)
                if not pool.running and not report.done and not full and not _has_open_attempts(context, report):
                    return report, False
                if full and not pool.running and not reported:
                    display.say("Your other jobs use all slots of the local machine. Waiting for one.")
                    reported = True
                _wait(pool, display, report, interrupts)
        except KeyboardInterrupt:
            _stop(pool, display, report, interrupts)
            return one_pass.run_pass(context, experiments, limit=0, only=only), True


def _has_open_attempts(context: PassContext, report: PassReport) -> bool:
    """Whether an attempt of this host is still open: of an earlier runner, or one whose result has not arrived."""
    scheduler = asdict(context.scheduler.identity(context.run))
    active = [status.record.newest for status in report.statuses if status.action.state.active]
    return any(one is not None and not one.closed and one.opened.ran_at(scheduler) for one in active)


def _wait(pool: Pool, display: Display, report: PassReport, interrupts: _Interrupts) -> None:
    """Wait until a job ends, or until the next pass is due."""
    until = time.monotonic() + (PASS_AT_LEAST_EVERY if pool.running else PASS_EVERY)
    while not pool.reap() and time.monotonic() < until:
        interrupts.check()
        time.sleep(REAP_EVERY)
        display.show(report.statuses, fresh=record.read)


def _stop(pool: Pool, display: Display, report: PassReport, interrupts: _Interrupts) -> None:
    stopped = pool.running
    display.say("Stopping: each job saves a checkpoint. Press Ctrl-C again to stop at once.")
    pool.stop()
    again = time.monotonic() + STOP_AGAIN
    while pool.running:
        if time.monotonic() > again:  # a shell that has just started a command may have missed the signal
            pool.stop()
            again += STOP_AGAIN
        if interrupts.noted():
            pool.kill()
            kill_processes(stopped)
        time.sleep(REAP_EVERY)
        pool.reap()
    until = time.monotonic() + PASS_EVERY
    while stopped & live().keys() and time.monotonic() < until:
        time.sleep(REAP_EVERY)
    gone = stopped - live().keys()
    for status in report.statuses:  # close the attempts of jobs that had no time to write a result
        newest = record.read(status.record.directory).newest
        if newest is not None and not newest.closed and not newest.cancel and newest.opened.token in gone:
            which = status.record.directory, newest.number, Cause.PREEMPTED, "stopped by the user"
            if not record.void(*which):
                record.close(*which)


class _Interrupts:
    """SIGINT, SIGTERM and SIGHUP: noted when they arrive, and raised only between passes.

    An interrupted pass would leave jobs that this runner does not know, and an exception raised at any point may be
    swallowed by other code.
    """

    def __init__(self) -> None:
        self._pending = False

    def __enter__(self) -> _Interrupts:
        self._before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for name, handler in self._before.items():
            # Signals that are ignored (by nohup, or in the background of a script) stay ignored, but by a handler,
            # which jobs do not inherit: they must receive the signals of the pool.
            signal.signal(name, self._ignore if handler is signal.SIG_IGN else self._interrupt)
        return self

    def __exit__(self, *exception: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def check(self) -> None:
        """KeyboardInterrupt: there was one since the last call."""
        if self.noted():
            raise KeyboardInterrupt

    def noted(self) -> bool:
        """Whether there was one since the last call."""
        pending, self._pending = self._pending, False
        return pending

    def _interrupt(self, received: int, frame: FrameType | None) -> None:
        self._pending = True

    def _ignore(self, received: int, frame: FrameType | None) -> None:
        pass
