"""Slots on the local machine, and the job scripts that run in them. Which are taken is read from the processes.

Nothing is remembered between calls. On the local machine, a pool that was killed leaves its jobs running, and the next
one finds them; in an allocation, jobs end with their pool.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from roundhouse.machine.binding import bind
from roundhouse.machine.gpus import find_gpus
from roundhouse.machine.slots import BETWEEN, Layout, Room, Slot
from roundhouse.model.experiment import Resources

TOKEN, SLOT, JOB_ID = "ROUNDHOUSE_TOKEN", "ROUNDHOUSE_SLOT", "ROUNDHOUSE_JOB_ID"
KILL_TRAINING = signal.SIGALRM  # has a job's shell kill what it runs, and write the result (templates/body.sh.j2)


class Child(Protocol):
    """A job's shell, as the pool that started it sees it."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Its exit code once it has ended, negative for a death by signal; None while it runs."""
        ...

    def send_signal(self, sig: int) -> None:
        """Nothing happens to one that has ended."""
        ...


Launch = Callable[[Path, Mapping[str, str], IO[bytes]], Child]  # script, environment, log


def launch(script: Path, environ: Mapping[str, str], log: IO[bytes]) -> Child:
    """Start a job script in a session of its own: Ctrl-C reaches the jobs only through `Pool.stop`, in order."""
    return subprocess.Popen(
        ["bash", str(script)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
    )


def launch_bound(script: Path, environ: Mapping[str, str], log: IO[bytes]) -> Child:
    """Start a job script that stays in this process's session, and dies when this thread does: for allocations."""
    first = partial(bind, os.getpid())
    command = ["bash", str(script)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, preexec_fn=first)


def make_pool(
    ncpus: int = 1,
    per_gpu: int = 1,
    slots: int | None = None,
    cores: int | None = None,
    home: str = "",
    launch: Launch = launch,
) -> Pool:
    """A pool of all that this machine, or this allocation, lets us use.

    `per_gpu` jobs share a GPU, and of those without one as many run as there are `ncpus` cores for; with `slots`, that
    is how many run in all. `cores` is how many there are; if not given, all that this process may use. `home` names the
    allocation: two of them on one node may call different GPUs and cores by the same names.
    """
    cores = cores or len(os.sched_getaffinity(0))
    layout = Layout(tuple(find_gpus()), per_gpu, slots or max(1, cores // ncpus), cores, slots, home)
    return Pool(layout, launch)


@dataclass
class Pool:
    """Starts job scripts, each in a free slot."""

    layout: Layout
    launch: Launch = launch
    _started: dict[str, tuple[Child, Slot]] = field(default_factory=dict)  # by token

    def start(self, script: Path, token: str, need: Resources) -> bool:
        """Run a job script in a free slot; False if there is none now."""
        with _turn():
            return self._start(script, token, need)

    def _start(self, script: Path, token: str, need: Resources) -> bool:
        slot = self.layout.choose(need, self.places_taken(live()))
        if slot is None:
            return False
        environ = dict(os.environ)
        environ |= {TOKEN: token, JOB_ID: token, SLOT: slot.name}
        environ |= {"OMP_NUM_THREADS": str(slot.threads), "MKL_NUM_THREADS": str(slot.threads)}
        if slot.gpus is not None:
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(slot.gpus)
        with (script.parent / "scheduler.log").open("ab") as log:
            self._started[token] = self.launch(script, environ, log), slot
        return True

    def room(self) -> Room:
        """What is free now."""
        return Room(self.layout, self.places_taken(live()))

    def places_taken(self, jobs: Mapping[str, tuple[list[int], str]]) -> set[str]:
        """The names of the places that some of `live` are in, whichever runner started them.

        What this pool has started counts from the first moment: one that was forked shows its token only once it is a
        shell.
        """
        others = {place for _, slot in jobs.values() for place in slot.split(BETWEEN)}
        return others.union(*(slot.places for _, slot in self._started.values()))

    def holders(self, jobs: Mapping[str, tuple[list[int], str]]) -> dict[str, list[int]]:
        """The processes, by token, of jobs that are in a place of this pool, but that it does not run."""
        own = self.layout.places
        return {
            token: pids
            for token, (pids, slot) in jobs.items()
            if token not in self._started and not own.isdisjoint(slot.split(BETWEEN))
        }

    def reap(self) -> bool:
        """Collect children that have ended; True if there were any."""
        before = len(self._started)
        self._started = {token: started for token, started in self._started.items() if started[0].poll() is None}
        return len(self._started) < before

    @property
    def running(self) -> frozenset[str]:
        """The tokens of the jobs that this pool started, and has not yet seen to end."""
        return frozenset(self._started)

    def stop(self, number: int = signal.SIGINT, tokens: Collection[str] | None = None) -> None:
        """Ask the jobs that this pool started to stop at a safe point; all of them, or some."""
        for token, (child, _) in self._started.items():
            if tokens is None or token in tokens:
                child.send_signal(number)

    def kill_training(self) -> None:
        """Have each shell kill what it runs; the shell itself lives on, to write the result."""
        self.stop(KILL_TRAINING)

    def kill(self) -> None:
        """Make them stop at once. What a shell has started dies with it."""
        for child, _ in self._started.values():
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


@contextmanager
def _turn() -> Iterator[None]:
    """One runner of this user at a time takes slots: else two that look at once would take the same one."""
    import filelock

    lock = filelock.FileLock(Path(tempfile.gettempdir(), f"roundhouse-{os.getuid()}.lock"))
    with suppress(filelock.Timeout, NotImplementedError, OSError):  # without it, slots may be shared for a while
        lock.acquire(timeout=10)
    try:
        yield
    finally:
        lock.release()


def live() -> dict[str, tuple[list[int], str]]:
    """Every job of this user on this machine, by token: the processes that still carry it, and its slot's name.

    A process inherits the token from its job's shell, so a job whose shell was killed is still seen to live.
    """
    found: dict[str, tuple[list[int], str]] = {}
    for pid, environ in _environments() if sys.platform == "linux" else _environments_elsewhere():
        if TOKEN in environ and pid != os.getpid():
            pids, _ = found.setdefault(environ[TOKEN], ([], environ.get(SLOT, "")))
            pids.append(pid)
    return found


def _environments() -> Iterator[tuple[int, Mapping[str, str]]]:
    """Each process of this user's that may be a job's: its ID, and the environment in which it was started.

    It reads /proc itself, for psutil takes ten times as long, and a slot stays idle meanwhile. The dead have none.
    """
    mine, sign = os.getuid(), TOKEN.encode() + b"="
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            raw = Path(f"/proc/{pid}/environ").read_bytes() if os.stat(f"/proc/{pid}").st_uid == mine else b""
        except OSError:
            continue
        if sign in raw:
            yield pid, dict(part.split("=", 1) for part in os.fsdecode(raw).split("\0") if "=" in part)


def _environments_elsewhere() -> Iterator[tuple[int, Mapping[str, str]]]:
    import psutil

    mine = os.getuid()
    for process in psutil.process_iter():
        try:
            if process.uids().real == mine and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid, process.environ()
        except (psutil.Error, OSError):
            continue
