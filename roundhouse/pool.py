"""Slots on this machine, and the job scripts that run in them. Which are taken is read from the processes.

Nothing is remembered between calls: a pool that was killed leaves its jobs running, and the next one finds them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

TOKEN, SLOT, JOB_ID = "ROUNDHOUSE_TOKEN", "ROUNDHOUSE_SLOT", "ROUNDHOUSE_JOB_ID"


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one experiment: a GPU (or a share of one), or some CPU cores. Its name is the same for all runners."""

    name: str
    gpu: str | None
    threads: int


def find_slots(ncpus: int, jobs_per_gpu: int = 1, environ: Mapping[str, str] = os.environ) -> list[Slot]:
    """The slots of this machine: `jobs_per_gpu` on each GPU that it sees, else one for each `ncpus` of its cores."""
    cores = len(os.sched_getaffinity(0))
    gpus = find_gpus(environ)
    count = len(gpus) * jobs_per_gpu if gpus else max(1, cores // ncpus)
    threads = max(1, cores // count)
    if not gpus:
        return [Slot(f"cpu/{number}", None, threads) for number in range(count)]
    return [Slot(f"gpu {gpu}/{share}", gpu, threads) for share in range(jobs_per_gpu) for gpu in gpus]


def find_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that may be used: those in CUDA_VISIBLE_DEVICES if it is set, else all that the driver lists."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        listed = [name.strip() for name in environ["CUDA_VISIBLE_DEVICES"].split(",")]
        return [name for name in listed if name and name != "-1"]
    try:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip().isdigit()] if done.returncode == 0 else []


@dataclass
class Pool:
    """Starts job scripts, each in a free slot."""

    slots: Sequence[Slot]
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)  # by token

    def start(self, script: Path, token: str) -> bool:
        """Run a job script in a free slot; False if there is none."""
        with _turn():
            return self._start(script, token)

    def _start(self, script: Path, token: str) -> bool:
        free = self.free()
        if not free:
            return False
        slot = free[0]
        environ = dict(os.environ)
        environ |= {TOKEN: token, JOB_ID: token, SLOT: slot.name}
        environ |= {"OMP_NUM_THREADS": str(slot.threads), "MKL_NUM_THREADS": str(slot.threads)}
        if slot.gpu is not None:
            environ["CUDA_VISIBLE_DEVICES"] = slot.gpu
        with (script.parent / "scheduler.log").open("ab") as log:
            self._children[token] = subprocess.Popen(
                ["bash", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                start_new_session=True,  # Ctrl-C reaches the jobs only through `stop`, in order
            )
        return True

    def free(self) -> list[Slot]:
        """The slots that no job of this user is in, whichever runner started it."""
        taken = {slot for _, slot in live().values()}
        return [slot for slot in self.slots if slot.name not in taken]

    def reap(self) -> bool:
        """Collect children that have ended; True if there were any."""
        before = len(self._children)
        self._children = {token: child for token, child in self._children.items() if child.poll() is None}
        return len(self._children) < before

    @property
    def running(self) -> frozenset[str]:
        """The tokens of the jobs that this pool started, and has not yet seen to end."""
        return frozenset(self._children)

    def stop(self) -> None:
        """Ask the jobs that this pool started to stop at a safe point."""
        for child in self._children.values():
            child.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Make them stop at once. What a shell has started dies with it."""
        for child in self._children.values():
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
    import psutil

    found: dict[str, tuple[list[int], str]] = {}
    mine = os.getuid()
    for process in psutil.process_iter():
        try:
            if process.uids().real != mine or process.status() == psutil.STATUS_ZOMBIE:
                continue
            environ = process.environ()
        except (psutil.Error, OSError):
            continue
        if TOKEN in environ and process.pid != os.getpid():
            pids, _ = found.setdefault(environ[TOKEN], ([], environ.get(SLOT, "")))
            pids.append(process.pid)
    return found
