"""Worker processes of a DataLoader: signals to the job do not end them, and no exit waits for them."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import torch.utils.data

_OF_SCHEDULERS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
_started: WeakSet[Iterator[Any]] = WeakSet()


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
