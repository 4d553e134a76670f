"""NVIDIA MPS for an allocation: a daemon of its own, which ends when the agent ends, however that happens.

The agent starts a keeper, which is this module as a program. The keeper starts the daemon and waits until the agent's
end of a pipe is closed: by the agent, or by the kernel when the agent has died. Then it ends the daemon. The keeper has
a session of its own and ignores signals, because a scheduler may signal all processes of a job, and trainings that save
a checkpoint still need the daemon.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from roundhouse.machine.gpus import find_gpus, query_driver
from roundhouse.machine.parent_death import die_with

CONTROL = "nvidia-cuda-mps-control"
PID_FILE = f"{CONTROL}.pid"  # the daemon creates it in its pipe directory
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
DEFAULT_PIPES = "/tmp/nvidia-mps"  # of a daemon for which nothing else is set
NAME = "nvidia-cuda-mps"  # how the kernel shortens the names of the daemon and of its servers
OUTPUT = "output"  # what the daemon prints
START, QUIT, POLL = 10.0, 5.0, 0.2  # seconds
LONGEST_FOLDER = 60  # characters: the names of sockets are limited to 108
IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)


@dataclass(frozen=True)
class Mps:
    """A daemon that runs. `environ`: what jobs need to use it."""

    environ: Mapping[str, str]
    _keeper: subprocess.Popen[bytes] = field(repr=False)

    def stop(self) -> None:
        """End the daemon; returns when it has ended. The keeper needs no help if this is never called."""
        _close(self._keeper)
        with suppress(subprocess.TimeoutExpired):
            self._keeper.wait(3 * QUIT)
        _kill_processes(self.environ[PIPES])  # nothing is left, unless the keeper was killed
        shutil.rmtree(Path(self.environ[PIPES]).parent, ignore_errors=True)


class NotStarted(Exception):
    """The daemon was not started; the text says why."""


def start(environ: Mapping[str, str] = os.environ) -> Mps:
    """Start a daemon for the GPUs of this job. NotStarted: it cannot be, and jobs run without it.

    The GPUs are named by UUID: a daemon counts its own from 0, so for its clients an index would be another GPU.
    """
    if environ.get(PIPES):
        raise NotStarted(f"{PIPES} is set already: jobs use that daemon")
    if is_on(environ):
        raise NotStarted(f"a daemon is running on this node already, in {DEFAULT_PIPES}: jobs use that one")
    if shutil.which(CONTROL) is None:
        raise NotStarted(f"{CONTROL} is not installed on this node")
    uuids = uuids_of(find_gpus(environ), query_driver("index,uuid"))
    try:
        folder = _make_folder()
        own = {PIPES: str(folder / "pipe"), LOGS: str(folder / "log"), "CUDA_VISIBLE_DEVICES": ",".join(uuids)}
        command = [sys.executable, "-m", "roundhouse.machine.mps", str(folder)]
        keeper = subprocess.Popen(
            command, stdin=subprocess.PIPE, env={**environ, **own}, start_new_session=True, cwd=_code()
        )
    except OSError as error:
        raise NotStarted(f"{error.filename or 'a process'}: {error.strerror}") from None
    if not _started(keeper, Path(own[PIPES])):
        ended = keeper.poll() is not None
        _close(keeper)
        how = "ended at once, for the reason above" if ended else f"did not start within {START:.0f} s"
        raise NotStarted(f"{CONTROL} -f {how}")
    return Mps(own, keeper)


def uuids_of(gpus: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The UUIDs of GPUs, which are indices or UUIDs. NotStarted: they are unknown, or parts of a GPU (MIG)."""
    known = {row[0]: row[1] for row in rows if len(row) == 2}
    found = [gpu if gpu.startswith("GPU-") else known.get(gpu, "") for gpu in gpus]
    if any(gpu.startswith("MIG-") for gpu in gpus):
        raise NotStarted("the job has parts of a GPU (MIG), each of which would need a daemon of its own")
    if not found or not all(uuid.startswith("GPU-") for uuid in found):
        raise NotStarted("nvidia-smi does not list the UUIDs of the job's GPUs")
    return found


def is_on(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether CUDA programs with this environment find an MPS daemon on this host: of this user, or of the node."""
    try:
        process = Path("/proc", (Path(environ.get(PIPES) or DEFAULT_PIPES) / PID_FILE).read_text().strip() or "none")
        return process.joinpath("comm").read_text().strip() == NAME and process.stat().st_uid in (0, os.getuid())
    except (OSError, ValueError):
        return False


def _make_folder() -> Path:
    """A new folder, on the node's own disk and with a short path, for the daemon's sockets and logs."""
    place = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="rhmps-", dir=place if len(place) <= LONGEST_FOLDER else "/tmp"))
    for name in ("pipe", "log"):
        (folder / name).mkdir()
    return folder


def _code() -> str:
    """The folder from which this code was imported, so that the keeper finds it too."""
    return str(Path(__file__).resolve().parents[2])


def _started(keeper: subprocess.Popen[bytes], pipes: Path) -> bool:
    until = time.monotonic() + START
    while time.monotonic() < until and keeper.poll() is None:
        if is_on({PIPES: str(pipes)}):
            return True
        time.sleep(0.05)
    return False


def _close(keeper: subprocess.Popen[bytes]) -> None:
    if keeper.stdin is not None:
        keeper.stdin.close()


# ---------------------------------------------------------------------------------------------- the keeper


def keep(folder: Path) -> int:
    """Run the daemon until standard input ends, then end it, its servers, and remove the folder of its files.

    A daemon that dies later ends nothing: its clients go on, and new programs run without it.
    """
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)  # the daemon inherits it
    try:
        with (folder / OUTPUT).open("wb") as output:
            daemon = subprocess.Popen(
                [CONTROL, "-f"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=partial(die_with, os.getpid()),
            )
        started = False
        while not _input_ended(POLL):
            started = started or is_on()
            if daemon.poll() is not None and not started:
                said = " ".join((folder / OUTPUT).read_text(errors="replace").split())[-200:]
                print(f"roundhouse: {CONTROL} -f: exit code {daemon.returncode}. {said}", file=sys.stderr, flush=True)
                break
        _end(daemon)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _input_ended(seconds: float) -> bool:
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable) and not os.read(0, 1)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    """Ask the daemon to end; kill what has not ended by then."""
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run([CONTROL], input=b"quit\n", timeout=QUIT, check=False, capture_output=True)
    with suppress(subprocess.TimeoutExpired):
        daemon.wait(QUIT)
    _kill_processes(os.environ[PIPES])
    daemon.kill()
    daemon.wait()


def _kill_processes(pipes: str) -> None:
    """Kill the daemon with this pipe directory and its servers, which have inherited the variable."""
    wanted = f"{PIPES}={pipes}".encode()
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with suppress(OSError):
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if wanted in environ and Path(f"/proc/{pid}/comm").read_text().strip() == NAME:
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(keep(Path(sys.argv[1])))
