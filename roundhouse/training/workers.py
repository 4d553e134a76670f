"""Worker processes of a DataLoader: signals to the job do not end them, and no exit waits for them."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

import torch.utils.data

from roundhouse.errors import RoundhouseError

_PR_SET_PDEATHSIG = 1
_WORKER_DEATH = ("DataLoader worker", "Pin memory thread")  # in PyTorch's messages about a process that died
_OF_SCHEDULERS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
_started: WeakSet[Iterator[Any]] = WeakSet()


def loader_of_batches(
    batches: torch.utils.data.Dataset[Any], order: Iterable[Any], workers: int, device: torch.device
) -> torch.utils.data.DataLoader[Any]:
    """A loader whose items are batches, made by worker processes and yielded in the order of `order`."""
    return torch.utils.data.DataLoader(
        batches,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # without one it draws from the global generator
        worker_init_fn=partial(_begin_work, os.getpid()),
        multiprocessing_context="fork",  # so that workers share the data
    )


def _begin_work(trainer: int, worker: int) -> None:
    """Initialise a worker process: it ends when the trainer ends, and only then."""
    # PyTorch's own check of the parent starts later, and would accept any process that is the parent then.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != trainer:
        os._exit(1)


@contextmanager
def deaths_reported() -> Iterator[None]:
    """Turn the errors by which PyTorch reports the death of a worker into one RoundhouseError."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not any(part in str(error) for part in _WORKER_DEATH):
            raise
        raise RoundhouseError(
            f"a worker process that prepares batches died ({error}); memory or /dev/shm may be full: "
            "use fewer `workers`, or `feed: device`, which needs none"
        ) from error


def start_workers(loader: torch.utils.data.DataLoader[Any]) -> Iterator[Any]:
    """The loader's iterator. Schedulers signal every process of a job, but only the trainer decides when to stop."""
    # PyTorch's handler raises an error when a worker dies, wherever the program is, even in a checkpoint's write.
    # Without the handler, the error is raised when the next batch is requested.
    handler = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_SCHEDULERS)  # workers inherit it
    try:
        batches = iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _started.add(batches)
    return batches


def end_workers(batches: Iterator[Any]) -> None:
    """End the workers of an iterator now, as when it is garbage-collected. Without workers it does nothing."""
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()


# At exit this runs before multiprocessing's handler, which would wait forever for workers that get no SIGTERM.
@atexit.register
def _end_all() -> None:
    for batches in list(_started):
        end_workers(batches)
