"""A round on this machine: passes over it in the foreground, with progress, until nothing is left to do."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

from roundhouse import dispatch, record
from roundhouse.dispatch import Report, Workplace
from roundhouse.experiment import Experiment
from roundhouse.plan import State, Verb
from roundhouse.pool import Pool
from roundhouse.progress import Display

LOOK_EVERY = 0.25  # seconds between looks at the processes
PASS_EVERY = 2.0  # seconds between passes while a job's last word is awaited


def run_here(
    place: Workplace,
    pool: Pool,
    experiments: Sequence[Experiment],
    only: Callable[[Experiment], bool],
    limit: int | None,
) -> tuple[Report, bool]:
    """Run the round to its end. Returns the last report, and whether the user interrupted it.

    Ctrl-C stops the jobs at a safe point, a second one at once; either way the next call resumes them.
    """
    with Display() as display, _interruptible():
        try:
            while True:
                report = dispatch.run_pass(place, experiments, limit=limit, only=only)
                if limit is not None:
                    limit -= sum(action.verb is Verb.SUBMIT for _, action in report.done)
                display.show(report.rows)
                if not pool.running and not report.done and not _awaits(place, report):
                    return report, False
                _wait(pool, display, report)
        except KeyboardInterrupt:
            display.say("Stopping: each job saves its place. Once more to stop at once.")
            _stop(pool)
            return dispatch.run_pass(place, experiments, limit=0, only=only), True


def _awaits(place: Workplace, report: Report) -> bool:
    """Whether something of this machine's is still open: an orphan of an earlier runner, or a last word to come."""
    here = asdict(place.scheduler.identity(place.run))
    here.pop("boot")
    for row in report.rows:
        newest = row.record.newest
        if row.action.state in (State.IN_PROGRESS, State.SUBMITTING) and newest is not None and not newest.closed:
            if {key: value for key, value in newest.opened.scheduler.items() if key != "boot"} == here:
                return True
    return False


def _wait(pool: Pool, display: Display, report: Report) -> None:
    """Until a job ends; or, where none was started from here, a little."""
    until = time.monotonic() + PASS_EVERY
    while not pool.reap():
        if not pool.running and time.monotonic() > until:
            return
        time.sleep(LOOK_EVERY)
        display.show(report.rows, fresh=record.read)


def _stop(pool: Pool) -> None:
    try:
        pool.stop()
        while pool.running:
            time.sleep(LOOK_EVERY)
            pool.reap()
    except KeyboardInterrupt:
        pool.stop(force=True)
        while pool.running:
            time.sleep(LOOK_EVERY)
            pool.reap()


@contextmanager
def _interruptible() -> Iterator[None]:
    """A closed terminal and a polite kill are as good as Ctrl-C."""

    def interrupt(received: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {name: signal.signal(name, interrupt) for name in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
