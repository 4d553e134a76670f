"""The agent of an allocation: in each slot it runs one experiment of the round after the other, until time is short.

It is a runner that works inside a job: it opens attempts as any runner does, so whatever it takes nobody else has. It
judges what runs in its own slots and nothing else; from outside, an attempt here lives as long as the allocation's job.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from roundhouse import files
from roundhouse.engine import allocations
from roundhouse.engine.allocations import Allocation
from roundhouse.engine.context import PassContext
from roundhouse.engine.one_pass import Desk
from roundhouse.engine.report import PassReport
from roundhouse.engine.scheduler_snapshot import SchedulerSnapshot
from roundhouse.engine.submit_job import Submitter
from roundhouse.errors import RoundhouseError
from roundhouse.jobs.stopping import RESULT, seconds_to_save
from roundhouse.machine.pool import Pool, make_pool
from roundhouse.model.attempt import Attempt
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Resources
from roundhouse.model.halving import judged
from roundhouse.model.plan import Clock, State, Verb
from roundhouse.model.selection import Selections
from roundhouse.model.status import ExperimentStatus
from roundhouse.schedulers.allocation_slots import AllocationSlots
from roundhouse.schedulers.base import Output
from roundhouse.store import job_group, record
from roundhouse.store.archive import Archive, refuse_archived

LOOK_EVERY = 0.02  # seconds between looks at what runs
LISTEN_EVERY = 2.0  # seconds between looks for what is to be cancelled
LOOK_AROUND = 10.0  # seconds between looks at everything, while slots are free
HELD_FOR = 180.0  # seconds to wait for other processes to leave the slots; a training whose attempt was closed needs 60
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


@dataclass
class _Around:
    """One look around: how the round stands at it, as far as it was looked at."""

    desk: Desk
    rows: dict[str, ExperimentStatus]
    settled: dict[str, ExperimentStatus] = field(default_factory=dict)  # of those that are to be written down

    def __post_init__(self) -> None:
        self.selections = Selections(self.rows)


@dataclass
class Agent:
    """One allocation at work. `ends`: when its walltime is over, by the monotonic clock."""

    allocation: Allocation
    directory: Path  # the allocation's own
    place: PassContext
    slots: AllocationSlots
    experiments: Sequence[Experiment]
    ends: float
    stop_signal: int | None = None  # the signal that ends it
    held_by: str = ""  # the processes of others that hold all slots, while experiments wait for one
    _running: dict[str, Attempt] = field(default_factory=dict)  # by path
    _cancelled: set[str] = field(default_factory=set)  # tokens of what was told to stop
    _completed: dict[str, ExperimentStatus] = field(default_factory=dict)  # which stay so
    _passed_over: set[str] = field(default_factory=set)  # nothing that ends here changes how they stand
    _kill_at: float = float("inf")  # when what still trains is killed, by the monotonic clock
    _held_since: float = 0.0
    _holders: set[str] = field(default_factory=set)  # tokens of other processes that were reported

    def __post_init__(self) -> None:
        self._by_path = {one.path: one for one in self.experiments}
        self._mine = [one for one in self.experiments if _may_take(self.allocation, one)]

    def run(self) -> None:
        """Until there is nothing left to take, or no time to take it; then until what runs has ended."""
        self._close_what_was_left()
        around = listen = 0.0
        while True:
            ended, due = self.slots.pool.reap(), time.monotonic() >= around
            if due:
                around = time.monotonic() + LOOK_AROUND
                self._passed_over.clear()
            if (ended or due) and not self._look_around():
                if due:
                    return
                around = 0.0  # before it ends, it looks at everything once more
            if time.monotonic() >= listen:
                listen = time.monotonic() + LISTEN_EVERY
                self._stop_cancelled()
            if self.stop_signal is not None:
                self._stop()
                return
            time.sleep(LOOK_EVERY)

    def _look_around(self) -> bool:
        """Settle what has ended, and take what there is. False: nothing runs, and nothing can be taken.

        What can wait is written down only then: until something is taken, a slot is idle.
        """
        try:
            around = _Around(self._desk(), dict(self._completed))
            self._settle_running(around)
            self._report_holders()
            try:
                taken = self._fill(around) if self.has_time() else 0
            finally:
                self._write_down(around)
        except OSError as error:  # a disk that is full may have room in a while, and what runs must not suffer for it
            print(f"roundhouse: {error.filename or 'the system'}: {error.strerror or error}", flush=True)
            return self.has_time() or bool(self.slots.pool.running)
        waits = bool(self.held_by) and time.monotonic() < self._held_since + HELD_FOR and self.has_time()
        return bool(taken or self._running or self.slots.pool.running or waits)

    def hear(self, number: int, frame: FrameType | None) -> None:
        """A signal: the walltime is near, or the scheduler wants the job to go."""
        self.stop_signal = number
        kind = self.allocation.identity.kind
        self._kill_at = min(self._kill_at, time.monotonic() + seconds_to_save(kind, number))

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

    # ------------------------------------------------------------------------------------------ taking

    def has_time(self) -> bool:
        """Whether an experiment that starts now could get anywhere: a tenth of the walltime, or 5 minutes, is left."""
        left = self.ends - time.monotonic()
        return self.stop_signal is None and left > min(300.0, self.allocation.resources.walltime_s / 10)

    def _fill(self, around: _Around) -> int:
        """Start the most important experiments that can start, while slots are free. Returns how many."""
        room, taken = self.slots.room, 0
        held = bool(self.slots.holders) and not self._running and not room.has(self._need)
        self.held_by, before = "", self.held_by
        if room.has(self._need) and any(one.halving for one in self._mine):
            self._judge(around)
        for experiment in self._mine:
            if self.stop_signal is not None or not (held or room.has(self._need)):
                break
            if any(experiment.path in those for those in (self._completed, self._running, self._passed_over)):
                continue
            row = self._row(experiment, around)
            if row.action.state is not State.PENDING:
                self._passed_over.add(experiment.path)
            fits = allocations.asked_for(row) == self.allocation.resources
            if held and fits and row.action.verb is Verb.SUBMIT:
                self.held_by = "; ".join(_processes(*holder) for holder in self.slots.holders.items())
                self._held_since = self._held_since if before else time.monotonic()
                break
            if fits and row.action.verb is Verb.SUBMIT and self._start(row, around):
                room.take(self._need)
                taken += 1
        return taken

    def _report_holders(self) -> None:
        """Name once each job that has processes in a slot, but that this allocation does not run, or no longer."""
        mine = {attempt.opened.token for attempt in self._running.values()}
        for token, pids in self.slots.holders.items():
            if token not in mine | self._holders:
                self._holders.add(token)
                held = f"a slot is held by {_processes(token, pids)}, which this allocation does not run"
                print(f"roundhouse: {held}. It can be used when they have ended", flush=True)

    def _judge(self, around: _Around) -> None:
        """Who goes on from a rung, and who is pruned; for that, all of them must be looked at."""
        for experiment in self.experiments:
            self._row(experiment, around)
        for path, row in judged(around.rows).items():
            prunes = row.action.verb is Verb.PRUNE and self.allocation.takes(path)
            around.rows[path] = around.desk.prune(row) if prunes else row

    def _start(self, row: ExperimentStatus, around: _Around) -> bool:
        desk, path = around.desk, row.experiment.path
        around.settled.pop(path, None)
        left = max(1, int(self.ends - time.monotonic()))
        self.place.late = left < 0.9 * self.allocation.resources.walltime_s
        asked = replace(self._need, walltime_s=left, accumulate=row.resources.accumulate)
        _, (action,) = Submitter(self.place, desk.seen, desk.report).one(row, self.directory, asked)
        _tell(desk.report)
        fresh = replace(row, action=action, record=record.read(row.record.directory))
        desk.refresh(fresh)
        newest = fresh.record.newest
        if action.state is not State.IN_PROGRESS or newest is None:
            return False
        self._running[path] = newest
        print(f"roundhouse: {path} starts, attempt {newest.number}", flush=True)
        return True

    @property
    def _need(self) -> Resources:
        """What one slot is for."""
        share = self.allocation.resources.in_a_slot()
        return Resources(ncpus=share.ncpus, ngpus=share.ngpus)

    # ------------------------------------------------------------------------------------------ judging

    def _desk(self) -> Desk:
        """A look at the slots. What runs elsewhere is not known here, and stays as it is."""
        run = self.place.run
        seen = SchedulerSnapshot(self.slots.query(run, (), ()), self.slots.identity(run), within=self.allocation.name)
        clock = Clock(files.server_time(self.place.experiments), self.slots.grace, self.place.settle)
        return Desk(self.place, seen, clock, PassReport(), act=True)

    def _row(self, experiment: Experiment, around: _Around) -> ExperimentStatus:
        """How an experiment stands, those that it waits for first."""
        rows = around.rows
        if experiment.path not in rows:
            for path in (path for paths in experiment.after.values() for path in paths):
                self._row(self._by_path[path], around)
            rec = record.read(self.place.directory(experiment))
            mine = experiment.path in self._running
            row = around.desk.settle(around.selections.resolve(experiment), rec, rows, act=mine)
            rows[experiment.path] = row
            if row.action.state is State.COMPLETED:
                self._completed[experiment.path] = row
        return rows[experiment.path]

    def _settle_running(self, around: _Around) -> None:
        """Close the attempts whose shells have ended without a word."""
        for path in list(self._running):
            row = around.settled[path] = self._row(self._by_path[path], around)
            newest = row.record.newest
            if newest is None or newest.closed:
                del self._running[path]
                print(f"roundhouse: {path} ended: {newest.cause if newest else 'its record is gone'}", flush=True)

    def _write_down(self, around: _Around) -> None:
        """How each of those stands that ran here."""
        for row in around.settled.values():
            around.desk.refresh(row)
        _tell(around.desk.report)

    def _stop_cancelled(self) -> None:
        """Tell what runs here, and is to be cancelled, to stop. Each job looks for itself as well, but seldom."""
        for path, attempt in self._running.items():
            token, directory = attempt.opened.token, self.place.directory(self._by_path[path])
            with suppress(OSError):
                if token not in self._cancelled and record.to_be_cancelled(directory, attempt.number):
                    self._cancelled.add(token)
                    self.slots.pool.stop(signal.SIGTERM, {token})
                    print(f"roundhouse: {path} is told to stop: it is to be cancelled", flush=True)

    def _close_what_was_left(self) -> None:
        """Attempts of this very job that are open as it starts: the scheduler has started it again."""
        why = "the scheduler started the allocation again"
        for experiment in self._mine:
            rec = record.read(self.place.directory(experiment))
            newest = rec.newest
            if newest is not None and not newest.closed and newest.opened.job_name == self.allocation.name:
                if not record.void(rec.directory, newest.number, Cause.PREEMPTED, why):
                    record.close(rec.directory, newest.number, Cause.PREEMPTED, why)

    def end_slots(self, number: int) -> None:
        """Pass a signal on, and wait until all have saved their place; kill what has not, and wait for the results.

        PBS has sent the signal to all of them already; other schedulers to this process alone.
        """
        pool, again = self.slots.pool, 0.0
        pool.stop(number)
        while pool.running and (now := time.monotonic()) < self._kill_at + RESULT:
            if now > max(self._kill_at, again):  # again and again: bash may miss a signal that follows another closely
                pool.kill_training()
                again = now + RESULT / 5
            time.sleep(LOOK_EVERY)
            pool.reap()
        pool.kill()

    def _stop(self) -> None:
        assert self.stop_signal is not None
        self.end_slots(self.stop_signal)
        around = _Around(self._desk(), dict(self._completed))
        self._settle_running(around)
        self._write_down(around)


def _may_take(allocation: Allocation, experiment: Experiment) -> bool:
    """Whether an experiment is one of those that an allocation was submitted for, whatever it needs by now."""
    return experiment.resources.pack == allocation.pack and allocation.takes(experiment.path)


def _processes(token: str, pids: Sequence[int]) -> str:
    return f"{'processes' if len(pids) > 1 else 'process'} {', '.join(map(str, pids))} of job {token}"


def _tell(report: PassReport) -> None:
    while report.trouble:
        print(f"roundhouse: {report.trouble.pop(0)}", flush=True)


# ---------------------------------------------------------------------------------------------- starting


def main(argv: list[str]) -> int:
    """`python -m roundhouse.jobs.allocation DIRECTORY JOB_ID`, as job scripts of allocations do."""
    started = time.monotonic()
    directory, job_id = Path(argv[1]), argv[2]
    agent = None
    try:
        agent = prepare(directory, job_id, started)
        for number in SIGNALS:
            signal.signal(number, agent.hear)
        agent.run()
    except (RoundhouseError, OSError) as error:
        print(f"roundhouse: {error}", file=sys.stderr, flush=True)
        if agent is not None:  # what runs would be killed as this process ends
            agent.hear(signal.SIGTERM, None)
            agent.end_slots(signal.SIGTERM)
        return 1
    print(f"roundhouse: the allocation ends: {agent.end}", flush=True)
    return 0


def prepare(directory: Path, job_id: str, started: float) -> Agent:
    """The agent of the allocation in `directory`. RoundhouseError: there is none, or its round cannot be read."""
    from roundhouse.config.round import load_round
    from roundhouse.config.site import load_site

    repository = Path.cwd()  # where the job script started it: a link may have led here
    allocation = allocations.read(directory)
    if allocation is None:
        raise RoundhouseError(f"{directory / allocations.FILE} is missing or damaged: this job can take nothing")
    if job_id != "unknown":
        job_group.write_id(directory, job_id)
    experiments = directory.parent.parent.parent
    refuse_archived(Archive.of(allocation.round, experiments, Path(allocation.analysis)))
    loaded = load_round(allocation.round, Path(allocation.rounds))
    site = load_site(allocation.site, repository / "sites", "").model_copy(update=_DONE)
    slots = AllocationSlots(_pool(allocation, loaded.experiments, repository), allocation.identity, job_id)
    place = PassContext(experiments, repository, site, slots, _no_command, site.python or sys.executable)
    place.packed, place.current_code = True, allocation.current_code
    if allocation.code is not None:
        place.copies.present[allocation.round] = allocation.code
    wanted = sorted(loaded.experiments, key=lambda one: -one.priority)
    return Agent(allocation, directory, place, slots, wanted, started + allocation.resources.walltime_s)


_DONE: Mapping[str, object] = {"modules": [], "setup": [], "environment": {}}  # by the allocation's own script


def _no_command(argv: Sequence[str]) -> Output:
    return Output(tuple(argv), None, "", "no scheduler is asked from within an allocation")


def _pool(allocation: Allocation, experiments: Sequence[Experiment], repository: Path) -> Pool:
    from roundhouse.jobs.preload import preload
    from roundhouse.machine.pool import launch_bound

    pack, resources = allocation.pack, allocation.resources
    studies = {one.study for one in experiments if _may_take(allocation, one) and one.study is not None}
    threads = max(1, resources.ncpus // pack.slots)
    start = preload(repository, sorted(studies), threads) if studies else launch_bound
    return make_pool(
        per_gpu=pack.per_gpu, slots=pack.slots, cores=resources.ncpus, home=f"{allocation.name} ", launch=start
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
