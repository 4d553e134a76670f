"""Tasks in worker processes: if one dies, its task is reported and the others are done; Ctrl-C interrupts no task."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


def in_processes(
    tasks: Sequence[Task], jobs: int, how: Callable[[Task], Outcome | str]
) -> Generator[tuple[Task, Outcome | str], None, None]:
    """Do tasks in `jobs` processes; yields each when it is done, with its outcome or an error message.

    When a process dies, the tasks that were running are repeated one by one, to find the one that caused it.
    """
    waiting = deque(tasks)
    while waiting:
        lost: list[Task] = []
        yield from _until_one_dies(waiting, jobs, how, lost)
        for one in lost:
            again: list[Task] = []
            yield from _until_one_dies(deque([one]), 1, how, again)
            if again:
                yield one, "its process died twice; it may have been killed, or have run out of memory"


def _until_one_dies(
    waiting: deque[Task], jobs: int, how: Callable[[Task], Outcome | str], lost: list[Task]
) -> Iterator[tuple[Task, Outcome | str]]:
    """Do the waiting tasks until none is left or a process dies; `lost` receives the tasks that were running then."""
    # Imported here because nothing of this is needed when no task is waiting.
    from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    running: dict[Future[Outcome | str], Task] = {}
    pool = ProcessPoolExecutor(min(jobs, len(waiting)), get_context("spawn"), _end_with_parent)
    try:
        while (waiting or running) and not lost:
            while waiting and len(running) < 2 * jobs:
                with _sigint_blocked():
                    running[pool.submit(how, waiting[0])] = waiting[0]
                waiting.popleft()
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task = running.pop(future)
                try:
                    yield task, future.result()
                except BrokenProcessPool:
                    lost.append(task)
    except BrokenProcessPool:
        pass
    finally:
        lost += running.values()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Processes started in this context ignore Ctrl-C, so they finish their task."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this process when its parent has ended, in whatever way."""
    from multiprocessing import parent_process
    from threading import Thread

    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()
