"""Starts the jobs of an allocation with PyTorch already loaded, so that its start-up time is paid once.

The agent of an allocation loads what a training run needs, and starts the shell of each job. Before the shell's
process becomes bash, it forks a *supervisor*. When the shell is ready to start Python, it sends the supervisor through
a socket what train.py needs (`hand_over` in templates/body.sh.j2). The supervisor forks the process that trains, in the
process group that the shell waits for, and reports its exit code. If one of these processes dies, so do its
descendants: agent, shell, supervisor, training.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn

from roundhouse.machine import pool
from roundhouse.machine.parent_death import die_with, start_group

CHANNEL = "ROUNDHOUSE_PRELOADED"  # the file descriptor of the shell's end of the socket
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# The first optimiser loads dynamo.
MODULES = ("numpy", "torch", "torch._dynamo", "roundhouse.training.execute", "train")
ANALYSIS = "analysis"  # the package of a study that only the scripts in analysis/ load
CANNOT_START, STOPPED_BEFORE = 127, 143  # exit codes


def preload(repository: Path, studies: Collection[str], threads: int) -> pool.Launch:
    """Load what training runs of these studies need, once. Returns a function that starts jobs with it.

    `threads`: how many threads most of the jobs have. No device is used, because CUDA does not survive a fork. Call it
    before this process computes anything or starts a thread. If loading fails, it prints why, and each job starts a
    Python of its own.
    """
    for name in THREADS:
        os.environ[name] = str(threads)  # libraries read it when they are loaded
    environ = dict(os.environ)
    if str(repository) not in sys.path:
        sys.path.insert(0, str(repository))
    try:
        for study in studies:
            _load_study(study)
        loaded = [importlib.import_module(name) for name in MODULES]
        if sys.modules["torch"].cuda.is_initialized():
            raise RuntimeError(f"importing {', '.join(studies)} initialises CUDA; do that in train() instead")
    except Exception as error:  # importing a study can raise anything; its job then reports the error
        _warn(error)
        return pool.launch_bound
    finally:
        for name in os.environ.keys() - environ.keys():
            del os.environ[name]  # set by libraries for themselves; commands of other jobs must not see it
    gc.collect()
    atexit.register(gc.unfreeze)
    gc.freeze()  # a collection in a child must not touch, and thereby copy, the memory of these objects
    return Preloaded(loaded[-1], threads)


def _load_study(name: str) -> None:
    """Import all modules of a study except its analysis, which no job needs, and those that it lists in `PRELOAD`."""
    package = importlib.import_module(f"studies.{name}")
    _load_modules(package, without=f"{package.__name__}.{ANALYSIS}")
    for also in getattr(package, "PRELOAD", ()):
        with suppress(ImportError):  # optional packages may be missing
            importlib.import_module(also)


def _load_modules(package: ModuleType, without: str) -> None:
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if found.name != without:
            module = importlib.import_module(found.name)
            if found.ispkg:
                _load_modules(module, without)


def _warn(error: Exception) -> None:
    why = " ".join(str(error).split()) or type(error).__name__
    print(f"roundhouse: nothing is preloaded, each job starts a Python of its own: {why}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Preloaded:
    """Starts job scripts that find a Python with everything loaded; a `pool.Launch`. `threads`: those of `preload`."""

    train: ModuleType
    threads: int

    def __call__(self, script: Path, environ: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        supervisors, shells = socket.socketpair()
        # The agent's signal handlers must not run in the child.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            extended = {**environ, CHANNEL: str(shells.fileno())}
            in_shell = partial(self._in_shell, os.getpid(), supervisors)
            return pool.launch(script, extended, log, pass_fds=[shells.fileno()], preexec_fn=in_shell)
        except (OSError, subprocess.SubprocessError) as error:  # a fork failed
            _warn(error)
            return pool.launch_bound(script, environ, log)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            supervisors.close()
            shells.close()

    def _in_shell(self, agent: int, channel: socket.socket) -> None:
        """In the shell's process before it becomes bash: fork the supervisor."""
        start_group(agent)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        shell = os.getpid()
        if os.fork() == 0:
            try:
                self._supervise(channel, shell)
            finally:
                os._exit(CANNOT_START)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _supervise(self, channel: socket.socket, shell: int) -> None:
        """Wait for the shell's request, fork the training, report its exit code.

        If it returns, the shell gets no answer, and starts a Python of its own.
        """
        die_with(shell)
        gc.enable()  # subprocess disables it before `preexec_fn`
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # Popen in the agent returns when its pipe is closed here as well.
        for other in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, channel.fileno()}:
            with suppress(OSError):  # that of the listing itself
                os.close(other)
        request = _read_request(channel)
        if request is None or not os.path.samefile(request.program, str(self.train.__file__)):
            return
        supervisor = os.getpid()
        child = os.fork()
        if child == 0:
            self._train(channel, request, supervisor)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        channel.sendall(f"{128 - code if code < 0 else code}\n".encode())

    def _train(self, channel: socket.socket, request: Request, supervisor: int) -> NoReturn:
        """Run train.py's `main` as the program of a new Python process."""
        code = CANNOT_START
        try:
            die_with(supervisor)
            _enter(channel, request)
            _set_threads(self.threads)
            code = _run(self.train, [request.program, request.directory])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)  # an ordinary exit takes half a second to free all modules


@dataclass(frozen=True)
class Request:
    """What the shell sends: process group and working directory, train.py, its log, its argument, its environment."""

    group: int
    program: str
    log: str
    folder: str
    directory: str
    environ: Mapping[bytes, bytes]


def _read_request(channel: socket.socket) -> Request | None:
    """None if the shell ended before the request was complete. Each field ends with NUL; the last one is empty."""
    data = b""
    while not data.endswith(b"\0\0"):
        more = channel.recv(1 << 16)
        if not more:
            return None
        data += more
    fields = data[:-2].split(b"\0")
    group, program, log, folder, directory = map(os.fsdecode, fields[:5])
    variables = (entry.partition(b"=") for entry in fields[5:])
    environ = {name: value for name, _, value in variables if name != b"_"}  # `_` is the path of `env`
    return Request(int(group), program, log, folder, directory, environ)


def _enter(channel: socket.socket, request: Request) -> None:
    """Take over process group, log, directory and environment of the shell; returns when the shell confirms."""
    os.setpgid(0, request.group)
    log = os.open(request.log, os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(request.folder)
    os.environb.clear()
    os.environb.update(request.environ)
    os.environ["ROUNDHOUSE_SHELL"] = str(os.getppid())  # the process that the training must not outlive
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # From here on, signals that the shell passes on to the group reach this process, so the shell may ignore them.
    channel.sendall(b"ready\n")
    if not channel.recv(1):
        os._exit(STOPPED_BEFORE)
    channel.close()


def _set_threads(preloaded: int) -> None:
    """Set the number of threads of all libraries to that of the environment."""
    wanted = os.environ.get(THREADS[0], "")
    if wanted.isdigit() and int(wanted) not in (0, preloaded):
        from threadpoolctl import threadpool_limits

        sys.modules["torch"].set_num_threads(int(wanted))
        threadpool_limits(int(wanted))


def _run(train: ModuleType, argv: list[str]) -> int:
    """Run `train.main(argv)` and what a program does at its end; returns the exit code."""
    vars(weakref.finalize)["_registry"].clear()  # clean-up of the agent's objects is left to the agent
    sys.modules["numpy"].random.seed()  # unlike those of Python, NumPy's generator is not seeded again after a fork
    sys.argv, sys.modules["__main__"] = argv, train
    try:
        code: Any = train.main(argv)
    except SystemExit as left:
        code = left.code
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        own = error.__traceback__ and error.__traceback__.tb_next
        sys.excepthook(type(error), error.with_traceback(own), own)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    return code if isinstance(code, int) else int(code is not None)
