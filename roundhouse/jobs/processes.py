"""The other processes of a run that trains in several: process 0 starts them, and none outlives another.

They are children of process 0, in its process group and session, and the kernel kills them when it dies. If one of them
ends too early, process 0 ends in the same way, because it would wait for it forever. What they print to stderr is shown
only then: with the same code, all would print the same.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, NoReturn

from roundhouse.errors import ConnectionLost, RoundhouseError
from roundhouse.machine.gpu_links import find_links
from roundhouse.machine.gpus import find_gpus
from roundhouse.machine.parent_death import die_with
from roundhouse.model.exit_codes import JobExitCode
from roundhouse.settings import Settings

OF_SCHEDULERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
_POLL = 0.1  # seconds between checks whether all are alive
_OWN_ERROR = 10.0  # seconds within which process 0 reports an error itself that another process has ended with
_END = 10.0  # seconds within which the others must end after process 0 has
_LONGEST = 8000  # characters of what a process that failed has printed
_TREE = Path(__file__).parents[2]
# It imports what train.py would import, whatever the current folder is.
_PROGRAM = """
import sys
sys.path[0] = sys.argv[1]
from roundhouse.jobs.other_process import main
sys.exit(main(int(sys.argv[2]), int(sys.argv[3])))
"""


@dataclass(frozen=True)
class Process:
    """One of the other processes. `errors`: its stderr."""

    number: int
    child: subprocess.Popen[bytes]
    channel: Connection
    errors: IO[bytes]

    @property
    def failed(self) -> bool:
        return self.child.poll() not in (None, JobExitCode.COMPLETED)

    @property
    def blame(self) -> int:
        """Of several that failed, the one with the lowest blame was first: the others failed because it was gone."""
        code = self.child.returncode
        return 0 if code < 0 else 2 if code == JobExitCode.ERROR else 1


@dataclass(frozen=True)
class Processes:
    """The other processes of a run: none, if it has only one. `links`: how the GPUs of all are connected."""

    others: Sequence[Process] = ()
    links: Sequence[str] = ()
    _over: threading.Event = field(default_factory=threading.Event)
    _ending: threading.Lock = field(default_factory=threading.Lock)

    @property
    def channels(self) -> list[Connection]:
        return [one.channel for one in self.others]

    def send(self, work: Mapping[str, Any]) -> None:
        """Give all of them what they need to take part."""
        message = pickle.dumps(dict(work))
        for channel in self.channels:
            try:
                channel.send_bytes(message)
            except OSError:
                raise ConnectionLost("another process of this run ended at its start") from None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While the block runs, the end of one of them ends this process. None is left after it."""
        if not self.others:
            yield
            return
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            yield
        except ConnectionLost:
            if failed := self._wait_for_failed():
                self._end_like(failed)
            self.kill()
            raise
        except BaseException:
            failed = self._first_failed()
            if failed and failed.blame < 2:  # what this process reports follows from that
                self._end_like(failed)
            self.kill()
            raise
        self._over.set()
        self._wait_for_all()

    def _watch(self) -> None:
        while not self._over.wait(_POLL):
            failed = self._first_failed()
            if failed is None or self._over.is_set():  # else this process has ended it
                continue
            if failed.blame == 2 and self._over.wait(_OWN_ERROR):
                return  # this process has the same error, and reports it
            self._end_like(self._first_failed() or failed)

    def _first_failed(self) -> Process | None:
        return min((one for one in self.others if one.failed), key=lambda one: one.blame, default=None)

    def _wait_for_failed(self) -> Process | None:
        deadline = time.monotonic() + _OWN_ERROR
        while self._first_failed() is None and time.monotonic() < deadline:
            time.sleep(_POLL)
        time.sleep(_POLL)  # the one that was killed may be seen after one that missed it
        return self._first_failed()

    def _end_like(self, failed: Process) -> NoReturn:
        """End this process as the other one ended. The kernel kills those that are left."""
        with self._ending:  # by one thread
            code = failed.child.returncode
            failed.errors.seek(0)
            printed = failed.errors.read().decode(errors="replace").strip()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            shown = f"{printed[-_LONGEST:]}\n" if printed else ""
            sys.stdout.flush()
            print(f"{shown}roundhouse: process {failed.number} of this run {how}, and all others end with it",
                  file=sys.stderr, flush=True)  # fmt: skip
            if code == -signal.SIGKILL:
                os.kill(os.getpid(), signal.SIGKILL)  # so that the job's shell finds out whether memory ran out
            os._exit(code if code > 0 else 128 - code)

    def kill(self) -> None:
        """End them at once: this process cannot continue."""
        self._over.set()
        for one in self.others:
            one.child.kill()
        for one in self.others:
            one.child.wait()

    def _wait_for_all(self) -> None:
        deadline = time.monotonic() + _END
        for one in self.others:
            try:
                one.child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill()


def start_processes(settings: Settings) -> Processes:
    """Start the other processes of this run. From then on, each process sees only its own GPU, if there are GPUs.

    It must be called before PyTorch uses a GPU, in the main thread. RoundhouseError: there are fewer GPUs than
    processes.
    """
    count = settings.count_processes
    if count == 1:
        return Processes()
    gpus = [] if settings.device == "cpu" else find_gpus()
    if gpus and len(gpus) < count:
        raise RoundhouseError(
            f"this run has {count} processes, and its job has only GPU {', '.join(gpus)}: request more GPUs (ngpus), "
            "or set the config key `processes`"
        )
    print(f"roundhouse: {count} processes train together, {'a GPU each' if gpus else 'on the CPU'}", flush=True)
    others = [_start(number, gpus[number] if gpus else None) for number in range(1, count)]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
    return Processes(others, find_links(gpus[:count]) if gpus else ())


def _start(number: int, gpu: str | None) -> Process:
    channel, its_channel = Pipe()
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as the process may write to it
    environ = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})}
    command = [sys.executable, "-c", _PROGRAM, str(_TREE), str(number), str(its_channel.fileno())]
    # Schedulers signal every process of a job. Until it has handlers, the signals wait.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, OF_SCHEDULERS)
    try:
        child = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[its_channel.fileno()],
            preexec_fn=partial(die_with, os.getpid()),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    its_channel.close()
    return Process(number, child, channel, errors)
