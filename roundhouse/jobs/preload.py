"""A Python that has loaded PyTorch already, for each experiment of an allocation: its start-up is paid once.

The agent of an allocation loads what a training needs, and forks the shell of each job; beside the shell, as its child,
it forks an *attendant*. When the shell comes to start Python, it tells the attendant through a socket what train.py
would have found (templates/body.sh.j2, `hand_over`). The attendant forks the Python that trains, in the process group
that the shell waits for, and reports how that ended. If one dies, so do those after it: agent, shell, attendant,
training.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import io
import logging
import os
import pkgutil
import random
import signal
import socket
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn, TextIO

from roundhouse.machine import pool
from roundhouse.machine.binding import bind, die_with

CHANNEL = "ROUNDHOUSE_PRELOADED"  # the number of the shell's end of the socket
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
MODULES = ("numpy", "torch", "torch._dynamo", "roundhouse.training.loop", "train")  # the first optimiser loads dynamo
CANNOT_START, STOPPED_BEFORE = 127, 143


@dataclass
class Forked:
    """A process that the agent forked; a `pool.Child`."""

    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)


@dataclass(frozen=True)
class Preloaded:
    """Starts job scripts that find a Python with everything loaded; a `pool.Launch`. `threads`: as it was loaded."""

    train: ModuleType
    threads: int

    def __call__(self, script: Path, environ: Mapping[str, str], log: IO[bytes]) -> pool.Child:
        sys.stdout.flush()
        sys.stderr.flush()
        agent = os.getpid()
        # No handler of ours may run in the child.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    self._become_shell(agent, script, environ, log)
                finally:
                    os._exit(CANNOT_START)
        except OSError as error:
            _say(f"{script} starts a Python of its own: {error}")
            return pool.launch_bound(script, environ, log)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with suppress(OSError):  # the child does the same; whichever comes first, `Pool.kill` finds the group
            os.setpgid(pid, pid)
        return Forked(pid)

    def _become_shell(self, agent: int, script: Path, environ: Mapping[str, str], log: IO[bytes]) -> NoReturn:
        bind(agent)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        environ = dict(environ)
        ours, theirs = socket.socketpair()
        shell = os.getpid()
        try:
            child = os.fork()
        except OSError as error:
            os.write(2, f"roundhouse: this job starts a Python of its own: {error}\n".encode())
        else:
            if child == 0:
                try:
                    self._attend(ours, shell)
                except OSError as error:
                    os.write(2, f"roundhouse: this job starts a Python of its own: {error}\n".encode())
                finally:
                    os._exit(CANNOT_START)
            environ[CHANNEL] = str(fcntl.fcntl(theirs, fcntl.F_DUPFD, 3))  # unlike the others, open in the shell
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe("bash", ["bash", str(script)], environ)

    def _attend(self, channel: socket.socket, shell: int) -> None:
        """Wait for the shell's word, fork the training, tell its end. If that fails, the shell finds no answer."""
        die_with(shell)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for other in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, channel.fileno()}:
            with suppress(OSError):  # the list's own
                os.close(other)
        order = _read_order(channel)
        if order is None or not os.path.samefile(order.program, str(self.train.__file__)):
            return
        attendant = os.getpid()
        child = os.fork()
        if child == 0:
            code = CANNOT_START
            try:
                die_with(attendant)
                _take_place(channel, order)
                _set_threads(self.threads)
                code = _run(self.train.main, [order.program, order.directory])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        channel.sendall(f"{128 - code if code < 0 else code}\n".encode())


def preload(repository: Path, studies: Collection[str], threads: int) -> pool.Launch:
    """Load what trainings of these studies need, once, and return how to start jobs with it.

    `threads` is how many most of the jobs will have. No device is touched, as CUDA does not outlive a fork; call it
    before anything of this process computes or starts a thread. If it cannot be done, that is said, and each job starts
    a Python of its own.
    """
    for name in THREADS:
        os.environ[name] = str(threads)  # libraries read it as they are loaded
    environ = dict(os.environ)
    if str(repository) not in sys.path:
        sys.path.insert(0, str(repository))
    try:
        for study in studies:
            _load_study(study)
        loaded = [importlib.import_module(name) for name in MODULES]
        if sys.modules["torch"].cuda.is_initialized():
            raise RuntimeError(f"{', '.join(studies)}: to load it touches the GPU; that must wait for build()")
    except Exception as error:  # a study's code may fail in any way as it is loaded; its job then tells of it
        _say(f"each job starts a Python of its own: {' '.join(str(error).split()) or type(error).__name__}")
        return pool.launch_bound
    finally:
        for name in os.environ.keys() - environ.keys():
            del os.environ[name]  # what libraries set for themselves is not for the commands of others
    gc.collect()
    atexit.register(gc.unfreeze)
    gc.freeze()  # so that a collection in a child touches, and thereby copies, nothing of it
    return Preloaded(loaded[-1], threads)


def _load_study(name: str) -> None:
    """All modules of a study, and what else it says that it will load."""
    package = importlib.import_module(f"studies.{name}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    for also in getattr(package, "PRELOAD", ()):
        with suppress(ImportError):  # what an experiment does not need may be missing
            importlib.import_module(also)


@dataclass(frozen=True)
class _Order:
    """What the shell hands over: the process group to run in, train.py, its log, the directory to run in, its word."""

    group: int
    program: str
    log: str
    folder: str
    directory: str
    environ: Mapping[bytes, bytes]


def _read_order(channel: socket.socket) -> _Order | None:
    """None if the shell ended, or did not come to the end of it. Its fields end in NUL, the last is empty."""
    data = b""
    while not data.endswith(b"\0\0"):
        more = channel.recv(1 << 16)
        if not more:
            return None
        data += more
    group, program, log, folder, directory, *environ = data[:-2].split(b"\0")
    variables = (entry.partition(b"=") for entry in environ)
    return _Order(
        group=int(group),
        program=os.fsdecode(program),
        log=os.fsdecode(log),
        folder=os.fsdecode(folder),
        directory=os.fsdecode(directory),
        environ={name: value for name, _, value in variables if name != b"_"},  # that names the program that told them
    )


def _take_place(channel: socket.socket, order: _Order) -> None:
    """Become what a Python just started by the shell would be; returns once the shell says so."""
    os.setpgid(0, order.group)
    log = os.open(order.log, os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(order.folder)
    os.environb.clear()
    os.environb.update(order.environ)
    os.environ["ROUNDHOUSE_SHELL"] = str(os.getppid())  # whom the training must not outlive
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The shell passes signals on to the group: from now on this process hears them, so the shell may stop to listen.
    channel.sendall(b"ready\n")
    if not channel.recv(1):
        os._exit(STOPPED_BEFORE)
    channel.close()


def _set_threads(before: int) -> None:
    """As many threads as the environment says, in all libraries."""
    wanted = os.environ.get(THREADS[0], "")
    if wanted.isdigit() and int(wanted) not in (0, before):
        from threadpoolctl import threadpool_limits

        sys.modules["torch"].set_num_threads(int(wanted))
        threadpool_limits(int(wanted))


def _run(main: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run train.py's `main` as if it were a program; returns its exit code."""
    _forget_the_agent(argv)
    try:
        code: Any = main(argv)
    except SystemExit as left:
        code = left.code
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        own = error.__traceback__ and error.__traceback__.tb_next
        sys.__excepthook__(type(error), error.with_traceback(own), own)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the end of a program does
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    return code if isinstance(code, int) else int(code is not None)


def _unbuffered(number: int, like: TextIO) -> io.TextIOWrapper:
    """As PYTHONUNBUFFERED makes it."""
    file = io.FileIO(number, "w", closefd=False)
    return io.TextIOWrapper(file, like.encoding, like.errors, write_through=True)


def _say(what: str) -> None:
    print(f"roundhouse: nothing is preloaded, {what}", file=sys.stderr, flush=True)


def _forget_the_agent(argv: list[str]) -> None:
    """Leave nothing of the agent's to this process: its output, what it cleans up at its end, its random numbers."""
    sys.stdout, sys.stderr = _unbuffered(1, sys.stdout), _unbuffered(2, sys.stderr)
    atexit._clear()
    vars(weakref.finalize)["_registry"].clear()
    atexit.register(weakref.finalize._exitfunc)  # type: ignore[attr-defined]
    atexit.register(logging.shutdown)
    if "multiprocessing.util" in sys.modules:
        util = sys.modules["multiprocessing.util"]
        util._finalizer_registry.clear()
        atexit.register(util._exit_function)
    random.seed()
    sys.modules["numpy"].random.seed()
    sys.argv = argv
    sys.modules["__main__"] = sys.modules["train"]
