"""A simulator of a cluster, its jobs, a clock and a faulty file system in one process, for the state machine.

Runners are the real code (`one_pass`, `user_actions`, `record`). Only the environment is simulated: the scheduler, the
jobs (with the protocol of `templates/body.sh.j2`), time, and the faults.
"""

from __future__ import annotations

import errno
import os
import threading
import uuid
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from roundhouse import files
from roundhouse.engine import submit_job
from roundhouse.jobs import heartbeat
from roundhouse.model.answers import Identity, Job, Jobs, JobState, QueryFailed, Refused, Scope, Submitted, Unclear
from roundhouse.model.causes import Cause
from roundhouse.store import job_group, record

HOME = Identity("slurm", "home", "me")


class Crash(BaseException):
    """The runner's process is gone, in the middle of something."""


@dataclass
class SimulatedJob:
    """A job as the scheduler keeps it. Not `known`: a late submission, or a job that the history has lost."""

    id: str
    name: str
    directory: Path
    number: int
    home: Identity
    state: JobState = JobState.QUEUED
    known: bool = True
    cause: Cause | None = None
    arrives: float = 0.0
    token: str = ""  # of its attempt
    shared: Path | None = None  # the directory of the array of which it is one task
    index: int = 0

    def read_manifest(self) -> bool:
        """What a task runs. False: nothing, because another runner was faster than the one that submitted it."""
        if self.shared is None:
            return True
        line = (self.shared / job_group.MANIFEST).read_text().split("\n")[self.index]
        if line:
            number, self.token, path = line.split(" ")
            self.directory, self.number = self.shared.parents[1] / path, int(number)
        return bool(line)


class OneByOne:
    """Replaces a thread pool: work is done at once and in order, so that every example can be repeated."""

    def __init__(self, size: int) -> None:
        self.map = map

    def __enter__(self) -> OneByOne:
        return self

    def __exit__(self, *raised: object) -> None:
        pass


@dataclass
class Process:
    """One incarnation of a job. `stopped`: frozen (or cut off), so that it may continue later as an orphaned job."""

    job: SimulatedJob
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)
    steps: Generator[None, None, None] | None = None
    holds: int | None = None
    reporting: bool = False
    stopped: bool = False
    ever_stopped: bool = False
    alive: bool = True


class Thread(threading.Thread):
    """A runner's pass that halts before its `pause`-th step of input or output until it is resumed."""

    def __init__(self, work: Callable[[], Any], pause: int) -> None:
        super().__init__(daemon=True)
        self._work, self._pause = work, pause
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self.error: BaseException | None = None
        self.finished = False

    def run(self) -> None:
        self._mine.acquire()
        try:
            self._work()
        except Crash:
            pass
        except BaseException as error:
            self.error = error
        self.finished = True
        self._theirs.release()

    def step(self) -> None:
        self._pause -= 1
        if self._pause == 0:
            self._theirs.release()
            self._mine.acquire()

    def proceed(self) -> None:
        """Let it run to its pause, or to its end."""
        if not self.is_alive() and not self.finished:
            self.start()
        self._mine.release()
        self._theirs.acquire()
        if self.error is not None:
            raise self.error


@dataclass
class Faults:
    """What goes wrong for the runner that is at work now."""

    crash_at: int | None = None  # before this step
    full_at: int | None = None  # this write finds the disk full
    hide: frozenset[str] = frozenset()  # files of these names, or N/NAME, younger than a minute, are not seen yet
    steps: int = 0
    writes: int = 0


class World:
    """Everything outside the runner, with `roundhouse.files` bent to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 1_000_000.0
        self.identity = HOME
        self.query_fails = False
        self.jobs: list[SimulatedJob] = []
        self.processes: list[Process] = []
        self.outcome = "accepted"
        self.next_id = 1
        self.array_limit = 1
        self.submits: dict[str, int] = {}  # by token
        self.submitted: dict[Path, set[str]] = {}  # tokens by attempt directory
        self.late_starts: list[Path] = []  # attempts that were over when a job claimed them
        self.early: list[Path] = []  # attempts that were submitted before the verdict on the attempt before them
        self.verdicts: dict[Path, Cause] = {}  # the only verdict on an attempt that its scheduler has for it, if known
        self.writers: dict[tuple[Path, int], set[str]] = {}
        self.faults = Faults()
        self.takeover = False
        self._real: dict[str, Any] = {}

    # ------------------------------------------------------------------------------------------ file system

    def bend(self) -> None:
        """Route every step of `roundhouse.files` through the clock and the faults."""
        for name in (
            "create_exclusive",
            "replace",
            "touch",
            "read_bytes",
            "list_names",
            "modified",
            "write_draft",
            "server_time",
        ):
            self._real[name] = getattr(files, name)
        real = self._real

        def stepped(name: str) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                self._step()
                return real[name](*arguments, **options)

            return call

        def write_draft(directory: Path, data: bytes, durable: bool = True) -> Path:
            self._write()
            draft: Path = real["write_draft"](directory, data, durable)
            os.utime(draft, (self.now, self.now))
            return draft

        def touch(path: Path) -> None:
            self._step()
            self._write()
            real["touch"](path)
            os.utime(path, (self.now, self.now))

        def read_bytes(path: Any) -> bytes | None:
            self._step()
            return None if self._hidden(path) else real["read_bytes"](path)

        def list_names(directory: Any) -> list[str]:
            self._step()
            return [name for name in real["list_names"](directory) if not self._hidden(f"{directory}/{name}")]

        files.create_exclusive, files.replace = stepped("create_exclusive"), stepped("replace")
        files.write_draft, files.touch = write_draft, touch
        files.read_bytes, files.list_names = read_bytes, list_names
        files.server_time = lambda directory: self.now
        self._pool, submit_job.ThreadPoolExecutor = submit_job.ThreadPoolExecutor, OneByOne  # type: ignore

    def unbend(self) -> None:
        for name, function in self._real.items():
            setattr(files, name, function)
        submit_job.ThreadPoolExecutor = self._pool  # type: ignore

    def _step(self) -> None:
        thread = threading.current_thread()
        if isinstance(thread, Thread):
            thread.step()
            return
        self.faults.steps += 1
        if self.faults.crash_at == self.faults.steps:
            raise Crash

    def _write(self) -> None:
        if isinstance(threading.current_thread(), Thread):
            return
        self.faults.writes += 1
        if self.faults.full_at == self.faults.writes:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _hidden(self, path: str | Path) -> bool:
        if not self.faults.hide or not self.faults.hide & {Path(path).name, "/".join(Path(path).parts[-2:])}:
            return False
        if isinstance(threading.current_thread(), Thread):
            return False
        changed = self._real["modified"](path)
        return changed is not None and self.now - changed < 60

    # ------------------------------------------------------------------------------------------ the scheduler's verbs

    kind = "slurm"
    grace = 180.0

    def submit(self, run: Any, script: Path, name: str, need: Any = None) -> Any:
        self._step()
        jobs = self._jobs_of(script, name)
        self.submits[name] = self.submits.get(name, 0) + 1
        for job in jobs:
            if job.read_manifest():
                place = record.attempt_directory(job.directory, job.number)
                self.submitted.setdefault(place, set()).add(name)
                if self._verdict_is_due(job.directory, job.number - 1):
                    self.early.append(place)
        outcome = self.outcome
        if outcome == "refused":
            return Refused("no such queue")
        if outcome == "limit" or (outcome == "limit for arrays" and len(jobs) > 1):
            return Refused("too many jobs", later=True, scope=Scope.ALL)
        if outcome == "too large" and len(jobs) > 1:
            return Refused("too many tasks", later=True, scope=Scope.SIZE)
        if outcome == "lost":
            return Unclear("no answer")
        self.next_id += 1
        self.jobs += jobs
        if outcome == "late":
            for job in jobs:
                job.known, job.arrives = False, self.now + 5000
        self._step()  # a runner may die between the scheduler's acceptance and its own note of it
        job_id = jobs[0].id.partition("_")[0]
        return Unclear("timed out") if outcome in ("unclear", "late") else Submitted(job_id)

    def _verdict_is_due(self, directory: Path, number: int) -> bool:
        """Whether an attempt ended by a guess a short while ago, and the scheduler can still say why."""
        place = record.attempt_directory(directory, number)
        result = self._real["read_bytes"](place / record.RESULT) or b""
        ended = self._real["modified"](place / record.RESULT)
        if b'"guess": true' not in result or ended is None or self.now - ended > 180 or self._has_verdict(place):
            return False
        named = {
            job.id: job for job in self.jobs if self._knows(job) and (job.directory, job.number) == (directory, number)
        }
        return bool(named)

    def _has_verdict(self, place: Path) -> bool:
        return self._real["read_bytes"](place / record.VERDICT) is not None

    def _jobs_of(self, script: Path, name: str) -> list[SimulatedJob]:
        """The job of a script, or the tasks of its array; tasks read from the manifest what they run."""
        number = str(self.next_id)
        if script.parents[1].name != job_group.FOLDER:
            return [SimulatedJob(number, name, script.parents[2], int(script.parent.name), self.identity, token=name)]
        tasks = range(int(script.read_text()))
        return [
            SimulatedJob(f"{number}_{index}", name, Path(), 0, self.identity, shared=script.parent, index=index)
            for index in tasks
        ]

    def query(self, run: Any, ids: Iterable[str], names: Iterable[str], since: Any = None) -> Jobs | QueryFailed:
        self._step()
        if self.query_fails:
            return QueryFailed("the server is down")
        return Jobs(tuple(Job(job.id, job.name, job.state, cause=job.cause) for job in self.jobs if self._knows(job)))

    def _knows(self, job: SimulatedJob) -> bool:
        return job.known and job.home == self.identity

    def cancel(self, run: Any, ids: Iterable[str]) -> list[str]:
        for job in self.jobs:
            if job.id in set(ids) and self._knows(job) and job.state is not JobState.ENDED:
                for process in self.processes:
                    if process.job is job and process.alive and not process.stopped:
                        self.finish(process, Cause.CANCELLED if self._cancelled(process) else Cause.PREEMPTED)
                self.reconsider(job)
                job.state, job.cause = JobState.ENDED, Cause.DELETED
        return []

    def reconsider(self, job: SimulatedJob) -> None:
        """The scheduler no longer says only one thing about how the attempts of this job ended."""
        for process in self.processes:
            if process.job is job and process.holds is not None:
                self.verdicts.pop(self.place(process), None)

    def _cancelled(self, process: Process) -> bool:
        return process.holds is not None and (self.place(process) / record.CANCEL).exists()

    def scheduler(self) -> Any:
        return SimpleNamespace(
            kind=self.kind,
            grace=self.grace,
            identity=lambda run: self.identity,
            submit=self.submit,
            query=self.query,
            cancel=self.cancel,
            array_limit=lambda run, queue: self.array_limit,
        )

    # ------------------------------------------------------------------------------------------ jobs

    def place(self, process: Process) -> Path:
        assert process.holds is not None
        return record.attempt_directory(process.job.directory, process.holds)

    def start(self, job: SimulatedJob) -> Process:
        """The scheduler starts a queued job: for the first time, or again."""
        self.reconsider(job)
        job.state = JobState.RUNNING
        process = Process(job)
        process.steps = self._life(process)
        self.processes.append(process)
        return process

    def _life(self, process: Process) -> Generator[None, None, None]:
        """What `templates/body.sh.j2` and `train.py` do with the record; it yields where another may come between."""
        job = process.job
        if not job.read_manifest():
            self._leave(process)
            return
        number = job.number
        if not self._claim(process, number):
            yield
            restarted = yield from self._claim_after_restart(process, number)
            if restarted is None:
                self._leave(process)
                return
            number = restarted
        process.holds = number
        if (self.place(process) / record.RESULT).exists():
            self.late_starts.append(self.place(process))
        self.writers.setdefault((job.directory, number), set()).add(process.uid)
        yield
        for epoch in range(1, 4):
            if heartbeat.why_over(self._claimed(process)):
                self._leave(process)
                return
            process.reporting = True
            self._report(process, epoch)
            if self._pauses_after(process, epoch):
                self.finish(process, Cause.RUNG)
                return
            yield
        self.finish(process, Cause.COMPLETED)

    def _pauses_after(self, process: Process, epoch: int) -> bool:
        attempts = record.read(process.job.directory).attempts
        pauses = [one.opened.pause_at for one in attempts if one.number == process.holds]
        return epoch < 3 and bool(pauses and pauses[0] and epoch >= pauses[0])

    def _claim(self, process: Process, number: int) -> bool:
        place = record.attempt_directory(process.job.directory, number)
        value = {"version": 1, "nonce": process.uid, "job_id": process.job.id, "host": "node"}
        if not place.is_dir():
            return False
        if self.takeover:
            files.replace(place / record.CLAIM, files.dump(value))
            return True
        return bool(files.create_exclusive(place / record.CLAIM, value))

    def _claim_after_restart(self, process: Process, number: int) -> Generator[None, None, int | None]:
        job = process.job
        rec = record.read(job.directory)
        newest = rec.newest
        if not self._claimed_by(job, number) or rec.compacted:
            return None
        if newest is None or newest.opened.token != job.token or newest.number != rec.next_number - 1:
            return None
        yield
        if self._claim(process, newest.number):  # an earlier incarnation opened it and got no further
            return newest.number
        yield
        if not self._claimed_by(job, newest.number):
            return None
        if not record.close(job.directory, newest.number, Cause.PREEMPTED, "started again"):
            return None
        yield
        if not record.open_attempt(job.directory, newest.number + 1, replace(newest.opened, job_id=job.id)):
            return None
        yield
        return newest.number + 1 if self._claim(process, newest.number + 1) else None

    def _claimed_by(self, job: SimulatedJob, number: int) -> bool:
        claims = {attempt.number: attempt.claim for attempt in record.read(job.directory).attempts}
        claim = claims.get(number)
        return claim is not None and claim.job_id == job.id

    def _claimed(self, process: Process) -> Any:
        place = self.place(process)
        return SimpleNamespace(place=place, number=process.holds)

    def _report(self, process: Process, epoch: int) -> None:
        weights = f"{process.job.directory.name}, attempt {process.holds}"
        artifacts = {"best.pth": weights, "checkpoint.pth": weights}
        progress = {"version": 1, "epoch": epoch, "epochs": 3, "started_epoch": 0, "artifacts": artifacts}
        progress |= {"metric_name": "loss", "metric": float(process.job.directory.name)}
        files.replace(self.place(process) / record.PROGRESS, files.dump(progress))

    def step(self, process: Process) -> None:
        """The process takes one more step, unless it is frozen."""
        if process.alive and not process.stopped and process.steps is not None:
            next(process.steps, None)

    def finish(self, process: Process, cause: Cause, verdict: Cause | None = None) -> None:
        """The shell writes the result and the job ends; with a `verdict`, by a guess that the scheduler may correct."""
        runs = process.job.state is JobState.RUNNING  # otherwise it is orphaned, and says nothing about its job
        if process.holds is not None and verdict is not None and runs:
            self.verdicts[self.place(process)] = verdict
        if process.holds is not None and cause is Cause.DIVERGED:
            value = {"version": 1, "nonce": process.uid, "cause": str(cause), "final": True, "at": self.now}
            files.create_exclusive(self.place(process) / record.RESULT, value)
        elif process.holds is not None and verdict is None:
            record.close(process.job.directory, process.holds, cause, "")
        elif process.holds is not None:
            value = {"version": 1, "nonce": process.uid, "cause": str(cause), "guess": True, "at": self.now}
            files.create_exclusive(self.place(process) / record.RESULT, value)
        self._leave(process)
        if process.job.state is JobState.RUNNING:
            process.job.state = JobState.ENDED
        if verdict is not None and runs:
            process.job.cause = verdict

    def _leave(self, process: Process) -> None:
        process.alive = False
        others = [p for p in self.processes if p.job is process.job and p.alive]
        if not others and process.job.state is JobState.RUNNING:
            process.job.state = JobState.ENDED

    def vanish(self, process: Process, cause: Cause | None) -> None:
        """Killed without a result."""
        runs = process.job.state is JobState.RUNNING
        self._leave(process)
        if runs:
            self.reconsider(process.job)
            process.job.cause = cause

    def advance(self, seconds: float) -> None:
        """Time passes; every minute each job that can writes a heartbeat, and exits if its attempt has ended."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 60)
            for process in self.processes:
                if process.alive and not process.stopped and process.reporting:
                    verdict = heartbeat.why_over(self._claimed(process))
                    if verdict == "cancelled":
                        self.finish(process, Cause.CANCELLED)
                    elif verdict:
                        self._leave(process)
                    else:
                        files.touch(self.place(process) / record.PROGRESS)
        for job in self.jobs:
            if job.arrives and job.arrives <= self.now:
                job.known, job.arrives = True, 0.0
