"""The slots of the local machine, or of an allocation, and the job scripts that run in them.

Which slots are taken is read from the process table; nothing is stored between calls. On the local machine, a pool that
was killed leaves its jobs running, and the next pool finds them; in an allocation, jobs end with their pool.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from roundhouse.machine.gpus import find_gpus
from roundhouse.machine.parent_death import start_group
from roundhouse.machine.slots import SEPARATOR, Layout, Room, Slot
from roundhouse.model.experiment import Resources

TOKEN, SLOT, JOB_ID = "ROUNDHOUSE_TOKEN", "ROUNDHOUSE_SLOT", "ROUNDHOUSE_JOB_ID"
JOBS_PER_GPU = "ROUNDHOUSE_JOBS_PER_GPU"  # how many jobs may share the GPU of a job
KILL_TRAINING = signal.SIGALRM  # a job's shell then kills its processes and writes the result (templates/body.sh.j2)

Launch = Callable[[Path, Mapping[str, str], IO[bytes]], subprocess.Popen[bytes]]  # script, environment, log


def launch(script: Path, environ: Mapping[str, str], log: IO[bytes], **how: Any) -> subprocess.Popen[bytes]:
    """Start a job script, by default in its own session: Ctrl-C reaches the jobs only through `Pool.stop`.

    `how`: other arguments of Popen.
    """
    how = how or {"start_new_session": True}
    return subprocess.Popen(["bash", str(script)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, **how)


def launch_bound(script: Path, environ: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a job script in the session of this process; it is killed when this thread ends. For allocations."""
    return launch(script, environ, log, preexec_fn=partial(start_group, os.getpid()))


def make_pool(
    ncpus: int = 1,
    per_gpu: int = 1,
    slots: int | None = None,
    cores: int | None = None,
    home: str = "",
    launch: Launch = launch,
) -> Pool:
    """A pool of all GPUs and cores that this process may use.

    `per_gpu` jobs share a GPU. Each job without a GPU gets `ncpus` cores. `slots`: the most jobs that run at the same
    time. `cores`: the number of CPU cores; by default all that this process may use. `home`: the allocation's name,
    because two allocations on one node may use the same names for different GPUs and cores.
    """
    cores = cores or len(os.sched_getaffinity(0))
    layout = Layout(tuple(find_gpus()), per_gpu, slots or max(1, cores // ncpus), cores, slots, home)
    return Pool(layout, launch)


@dataclass
class Pool:
    """Starts job scripts, each in a free slot of `layout`."""

    layout: Layout
    launch: Launch = launch
    _room: Room | None = None  # of the pass that runs
    _started: dict[str, tuple[subprocess.Popen[bytes], Slot]] = field(default_factory=dict)  # by token

    def start(self, script: Path, token: str, need: Resources, environ: Mapping[str, str] | None = None) -> bool:
        """Run a job script in a free slot; False if there is none now. `environ`: default, that of this process."""
        with _lock():
            kept = self._room.kept if self._room else frozenset()
            slot = self.layout.choose(need, self.places_taken(live()) | kept)
            if slot is None:
                return False
            environ = {**(environ or os.environ), TOKEN: token, JOB_ID: token, SLOT: slot.name}
            environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(slot.threads))
            if slot.gpus is not None:
                environ["CUDA_VISIBLE_DEVICES"] = ",".join(slot.gpus)
                environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as nvidia-smi counts
                environ[JOBS_PER_GPU] = str(self.layout.per_gpu if need.ngpus == 1 else 1)
            with (script.parent / "scheduler.log").open("ab") as log:
                self._started[token] = self.launch(script, environ, log), slot
            return True

    def room(self) -> Room:
        """The places that are free now. What is kept in it for a job that waits, `start` gives to no other job."""
        self._room = Room(self.layout, self.places_taken(live()))
        return self._room

    def places_taken(self, jobs: Mapping[str, tuple[list[int], str]]) -> set[str]:
        """The names of the places in use by `jobs`, the result of `live()`, whichever runner started them.

        Jobs that this pool has started count from the start: a forked process shows its token only after exec.
        """
        others = {place for _, slot in jobs.values() for place in slot.split(SEPARATOR)}
        return others.union(*(slot.places for _, slot in self._started.values()))

    def holders(self, jobs: Mapping[str, tuple[list[int], str]]) -> dict[str, list[int]]:
        """Token -> process IDs of the jobs that use a place of this pool, but that this pool has not started."""
        own = self.layout.places
        return {
            token: pids
            for token, (pids, slot) in jobs.items()
            if token not in self._started and not own.isdisjoint(slot.split(SEPARATOR))
        }

    def reap(self) -> bool:
        """Remove jobs whose shells have ended; True if there were any."""
        before = len(self._started)
        self._started = {token: started for token, started in self._started.items() if started[0].poll() is None}
        return len(self._started) < before

    @property
    def running(self) -> frozenset[str]:
        """The tokens of the jobs that this pool has started and `reap` has not removed."""
        return frozenset(self._started)

    def stop(self, number: int = signal.SIGINT, tokens: Collection[str] | None = None) -> None:
        """Send a signal to the jobs that this pool has started, all or some: they save a checkpoint and stop."""
        for token, (child, _) in self._started.items():
            if tokens is None or token in tokens:
                child.send_signal(number)

    def kill(self) -> None:
        """Kill all jobs immediately. What the user's command has started may survive: see `kill_processes`."""
        for child, _ in self._started.values():
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def kill_processes(tokens: Collection[str]) -> None:
    """Kill every process of these jobs, also those whose shell has ended."""
    for token, (pids, _) in live().items():
        for pid in pids if token in tokens else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def has_lost_its_shell(pids: Sequence[int]) -> bool:
    """Whether these processes of a job are what its shell has left: nothing passes signals on to them any more."""
    for pid in pids:
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        shell = next((one.partition(b"=")[2] for one in environ if one.startswith(b"ROUNDHOUSE_SHELL=")), b"")
        if not shell.isdigit():
            return False  # it is the shell, or the job is about to start Python
        return int(shell) not in pids
    return False


@contextmanager
def _lock() -> Iterator[None]:
    """Let one runner of this user at a time take slots: two at the same time could take the same slot."""
    import filelock

    lock = filelock.FileLock(Path(tempfile.gettempdir(), f"roundhouse-{os.getuid()}.lock"))
    with suppress(filelock.Timeout, NotImplementedError, OSError):  # without the lock, two jobs may share a slot
        lock.acquire(timeout=10)
    try:
        yield
    finally:
        lock.release()


def live() -> dict[str, tuple[list[int], str]]:
    """Every live job of this user on this host: token -> (IDs of its processes, name of its slot).

    A process inherits the token from its job's shell, so a job whose shell was killed is still found.
    """
    found: dict[str, tuple[list[int], str]] = {}
    for pid, environ in _environments() if sys.platform == "linux" else _environments_by_psutil():
        if TOKEN in environ and pid != os.getpid():
            pids, _ = found.setdefault(environ[TOKEN], ([], environ.get(SLOT, "")))
            pids.append(pid)
    return found


def _environments() -> Iterator[tuple[int, Mapping[str, str]]]:
    """Each process of this user that may belong to a job: its ID, and the environment in which it was started.

    It reads /proc directly, because psutil takes ten times as long, and a slot is idle meanwhile. Zombie processes have
    an empty environment.
    """
    mine, prefix = os.getuid(), TOKEN.encode() + b"="
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            raw = Path(f"/proc/{pid}/environ").read_bytes() if os.stat(f"/proc/{pid}").st_uid == mine else b""
        except OSError:
            continue
        if prefix in raw:
            yield pid, dict(part.split("=", 1) for part in os.fsdecode(raw).split("\0") if "=" in part)


def _environments_by_psutil() -> Iterator[tuple[int, Mapping[str, str]]]:
    """The same on systems without /proc."""
    import psutil

    mine = os.getuid()
    for process in psutil.process_iter():
        try:
            if process.uids().real == mine and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid, process.environ()
        except (psutil.Error, OSError):
            continue
