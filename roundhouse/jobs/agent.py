"""The agent of an allocation: in each slot it runs one experiment of the round after the other, until time is short.

It is a runner inside a job: it opens attempts as any runner does, so no other process runs what it takes. It evaluates
what runs in its own slots and nothing else; from outside, an attempt here lives as long as the allocation's job.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from roundhouse import files
from roundhouse.engine import allocations
from roundhouse.engine.allocations import Allocation
from roundhouse.engine.context import PassContext
from roundhouse.engine.reconcile import MOST_STEPS, Reconciler
from roundhouse.engine.report import PassReport
from roundhouse.engine.scheduler_snapshot import SchedulerSnapshot
from roundhouse.engine.submit_job import Submitter
from roundhouse.machine.pool import KILL_TRAINING
from roundhouse.model import walltime
from roundhouse.model.attempt import Attempt, Record
from roundhouse.model.causes import Cause
from roundhouse.model.evaluate import Evaluation, completed
from roundhouse.model.experiment import Experiment, Resources
from roundhouse.model.plan import Clock, State, Verb
from roundhouse.model.status import ExperimentStatus
from roundhouse.schedulers.allocation_slots import AllocationSlots
from roundhouse.store import record

REAP_EVERY = 0.02  # seconds between checks for jobs that have ended
CANCEL_EVERY = 2.0  # seconds between checks for experiments to cancel
EVALUATE_EVERY = 10.0  # seconds between evaluations of everything, while slots are free
RERUN_EVERY = 60.0  # seconds between checks for completed experiments that the user runs again
HELD_FOR = 180.0  # seconds to wait for other processes to leave the slots; a training whose attempt was closed needs 60


class _Records(dict[str, Record]):
    """Records by path, each read when it is first needed."""

    def __init__(self, read: Callable[[str], Record]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, path: str) -> Record:
        rec = self[path] = self._read(path)
        return rec


@dataclass
class _View:
    """One evaluation by the agent, as far as it is needed."""

    reconciler: Reconciler
    evaluation: Evaluation
    ended: dict[str, ExperimentStatus] = field(default_factory=dict)  # whose files must be refreshed


@dataclass
class Agent:
    """The agent of one allocation. `ends`: when its walltime is over, by the monotonic clock."""

    allocation: Allocation
    directory: Path  # the allocation's own
    context: PassContext
    slots: AllocationSlots
    experiments: Sequence[Experiment]
    ends: float
    stop_signal: int | None = None  # the signal that ends it
    held_by: str = ""  # the processes of other jobs that hold all slots, while experiments wait for one
    _running: dict[str, Attempt] = field(default_factory=dict)  # by path
    _cancelled: set[str] = field(default_factory=set)  # tokens of attempts that were signalled to stop
    _completed: dict[str, ExperimentStatus] = field(default_factory=dict)  # are not evaluated again
    _skipped: set[str] = field(default_factory=set)  # cannot start, whatever ends here
    _kill_at: float = float("inf")  # when trainings that are still running are killed, by the monotonic clock
    _held_since: float = 0.0
    _rerun_at: float = 0.0  # when to look for experiments that run again, by the monotonic clock
    _holders: set[str] = field(default_factory=set)  # tokens of other jobs that were reported

    def __post_init__(self) -> None:
        self._by_path = {one.path: one for one in self.experiments}
        self._mine = [one for one in self.experiments if self.allocation.is_for(one)]

    def run(self) -> None:
        """Until nothing is left to take, or there is no time to take it; then until what runs has ended."""
        self._close_attempts_before_restart()
        evaluate_at = cancel_at = 0.0
        while True:
            ended, due = self.slots.pool.reap(), time.monotonic() >= evaluate_at
            if due:
                evaluate_at = time.monotonic() + EVALUATE_EVERY
                self._skipped.clear()
                self._forget_what_runs_again()
            if (ended or due) and not self._fill_slots():
                if due:
                    return
                evaluate_at = 0.0  # before it ends, everything is evaluated once more
            if time.monotonic() >= cancel_at:
                cancel_at = time.monotonic() + CANCEL_EVERY
                self._stop_cancelled()
            if self.stop_signal is not None:
                self.end_slots(self.stop_signal)
                view = self._view()
                self._reconcile_running(view)
                self._refresh(view)
                return
            time.sleep(REAP_EVERY)

    def _forget_what_runs_again(self) -> None:
        """Evaluate completed experiments again that the user runs again: every minute, and before the end."""
        if time.monotonic() >= self._rerun_at or not self._running:
            self._rerun_at = time.monotonic() + RERUN_EVERY
            self._completed = {
                path: one
                for path, one in self._completed.items()
                if not record.is_opened(one.record.directory, one.record.next_number)
            }

    def _fill_slots(self) -> bool:
        """Update the records of what has ended, and start what can start. False: nothing runs, nothing can be taken.

        Derived files are written last: until an experiment is taken, a slot is idle.
        """
        try:
            view = self._view()
            self._reconcile_running(view)
            self._report_holders()
            try:
                taken = self._take(view) if self.has_time() else 0
            finally:
                self._refresh(view)
        except OSError as error:  # a full disk may have space later, and what runs must not be affected
            print(f"roundhouse: {error.filename or 'the system'}: {error.strerror or error}", flush=True)
            return self.has_time() or bool(self.slots.pool.running)
        waits = bool(self.held_by) and time.monotonic() < self._held_since + HELD_FOR and self.has_time()
        return bool(taken or self._running or self.slots.pool.running or waits)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the walltime is nearly over, or the scheduler wants the job to end."""
        self.stop_signal = number
        kind = self.allocation.identity.kind
        self._kill_at = min(self._kill_at, time.monotonic() + walltime.seconds_to_save(kind, number))

    @property
    def end(self) -> str:
        """Why it ends, once `run` has returned."""
        if self.stop_signal is not None:
            return f"it was stopped by {signal.Signals(self.stop_signal).name}"
        if not self.has_time():
            return "too little of its walltime is left to start another experiment"
        if self.held_by:
            return f"other processes hold its slots: {self.held_by}. End them, then call runner.py again"
        return "nothing is left to take"

    def has_time(self) -> bool:
        """Whether an experiment that starts now has a useful amount of time."""
        left = self.ends - time.monotonic()
        return self.stop_signal is None and walltime.worth_starting(left, self.allocation.resources.walltime_s)

    def _take(self, view: _View) -> int:
        """Start the experiments of the highest priority that can start, while slots are free. Returns how many."""
        room, taken = self.slots.room, 0
        held = bool(self.slots.holders) and not self._running and not room.has(self._need)
        self.held_by, before = "", self.held_by
        if room.has(self._need) and any(one.halving for one in self._mine):
            self._compare_at_rungs(view)
        for experiment in self._mine:
            if self.stop_signal is not None or not (held or room.has(self._need)):
                break
            if any(experiment.path in those for those in (self._completed, self._running, self._skipped)):
                continue
            status = view.evaluation.status(experiment.path)
            if status.action.state is not State.PENDING:
                self._skipped.add(experiment.path)
            fits = allocations.required_resources(status) == self.allocation.resources
            if not fits or status.action.verb is not Verb.SUBMIT:
                continue
            if held:
                self.held_by = "; ".join(_processes(*holder) for holder in self.slots.holders.items())
                self._held_since = self._held_since if before else time.monotonic()
                break
            if self._start(status, view):
                room.take(self._need)
                taken += 1
        return taken

    def _report_holders(self) -> None:
        """Report once each job that has processes in a slot, but does not, or no longer, run in this allocation."""
        mine = {attempt.opened.token for attempt in self._running.values()}
        for token, pids in self.slots.holders.items():
            if token not in mine | self._holders:
                self._holders.add(token)
                held = f"a slot is held by {_processes(token, pids)}, which this allocation does not run"
                print(f"roundhouse: {held}. It can be used when they have ended", flush=True)

    def _compare_at_rungs(self, view: _View) -> None:
        """Evaluate the whole round, which comparisons at rungs need, and prune what they exclude."""
        statuses = view.evaluation.whole_round().values()
        pruned = [one for one in statuses if one.action.verb is Verb.PRUNE]
        self._skipped |= {one.experiment.path for one in pruned}
        view.reconciler.carry_out(one for one in pruned if self.allocation.takes(one.experiment.path))

    def _start(self, status: ExperimentStatus, view: _View) -> bool:
        path, report = status.experiment.path, view.reconciler.report
        view.ended.pop(path, None)
        left = max(1, int(self.ends - time.monotonic()))
        self.context.late = walltime.starts_late(left, self.allocation.resources.walltime_s)
        request = replace(self._need, walltime_s=left, accumulate=status.resources.accumulate)
        _, (action,) = Submitter(self.context, view.reconciler.snapshot, report).one(status, self.directory, request)
        _print_trouble(report)
        started = replace(status, action=action, record=record.read(status.record.directory))
        view.reconciler.refresh(started)
        newest = started.record.newest
        if action.state is not State.IN_PROGRESS or newest is None:
            return False
        self._running[path] = newest
        print(f"roundhouse: {path} starts, attempt {newest.number}", flush=True)
        return True

    @property
    def _need(self) -> Resources:
        """The resources of one slot."""
        share = self.allocation.resources.in_a_slot()
        return Resources(ncpus=share.ncpus, ngpus=share.ngpus)

    def _view(self) -> _View:
        """The state of the slots now. What runs elsewhere is not known here, and is left as it is."""
        run = self.context.run
        jobs = self.slots.query(run, (), ())
        snapshot = SchedulerSnapshot(jobs, self.slots.identity(run), within=self.allocation.name)
        clock = Clock(files.server_time(self.context.experiments), self.slots.grace, self.context.submission_delay)
        records = _Records(lambda path: record.read(self.context.directory(self._by_path[path])))
        reconciler = Reconciler(self.context, snapshot, clock, PassReport(), records)
        return _View(reconciler, Evaluation(self.experiments, reconciler.evidence, self._completed))

    def _reconcile_running(self, view: _View) -> None:
        """Close the attempts whose job shells have ended without writing a result."""
        for path in list(self._running):
            status = view.evaluation.status(path)
            for _ in range(MOST_STEPS):
                if not view.reconciler.carry_out([status]):
                    break
                status = view.evaluation.again(path)
            view.ended[path] = status
            newest = status.record.newest
            if newest is None or newest.closed:
                del self._running[path]
                print(f"roundhouse: {path} ended: {newest.cause if newest else 'its record is gone'}", flush=True)

    def _refresh(self, view: _View) -> None:
        """Update the derived files of the experiments that ran here."""
        for status in view.ended.values():
            view.reconciler.refresh(status)
        self._completed = completed(view.evaluation.statuses)
        _print_trouble(view.reconciler.report)

    def _stop_cancelled(self) -> None:
        """Signal the experiments to stop that were cancelled. Each job checks for itself as well, but less often."""
        for path, attempt in self._running.items():
            token, directory = attempt.opened.token, self.context.directory(self._by_path[path])
            with suppress(OSError):
                if token not in self._cancelled and record.to_be_cancelled(directory, attempt.number):
                    self._cancelled.add(token)
                    self.slots.pool.stop(signal.SIGTERM, {token})
                    print(f"roundhouse: {path} is stopped: it was cancelled", flush=True)

    def _close_attempts_before_restart(self) -> None:
        """Close attempts of this job that are open as it starts: the scheduler has started it again."""
        why = "the scheduler started the allocation again"
        for experiment in self._mine:
            rec = record.read(self.context.directory(experiment))
            newest = rec.newest
            if newest is not None and not newest.closed and newest.opened.job_name == self.allocation.name:
                if not record.void(rec.directory, newest.number, Cause.PREEMPTED, why):
                    record.close(rec.directory, newest.number, Cause.PREEMPTED, why)

    def end_slots(self, number: int) -> None:
        """Pass a signal on and wait until all have saved a checkpoint; kill what has not, and wait for the results.

        PBS has sent the signal to all of them already; other schedulers only to this process.
        """
        pool, again = self.slots.pool, 0.0
        pool.stop(number)
        while pool.running and (now := time.monotonic()) < self._kill_at + walltime.RESULT:
            if now > max(self._kill_at, again):  # repeated: bash may miss a signal that follows another closely
                pool.stop(KILL_TRAINING)
                again = now + walltime.RESULT / 5
            time.sleep(REAP_EVERY)
            pool.reap()
        pool.kill()


def _processes(token: str, pids: Sequence[int]) -> str:
    return f"{'processes' if len(pids) > 1 else 'process'} {', '.join(map(str, pids))} of job {token}"


def _print_trouble(report: PassReport) -> None:
    while report.trouble:
        print(f"roundhouse: {report.trouble.pop(0)}", flush=True)
