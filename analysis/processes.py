"""Tasks in processes of their own: one that dies is named, the others are done, and Ctrl-C leaves nothing half done."""

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
    """Do tasks in `jobs` processes; yields each, as it is done, with its outcome, or with what went wrong as text.

    When a process dies, the tasks that were under way are tried again alone, so that the one to blame is known.
    """
    waiting = deque(tasks)
    while waiting:
        lost: list[Task] = []
        yield from _until_one_dies(waiting, jobs, how, lost)
        for one in lost:
            again: list[Task] = []
            yield from _until_one_dies(deque([one]), 1, how, again)
            if again:
                yield one, "the process that made it died twice; was it killed, or out of memory?"


def _until_one_dies(
    waiting: deque[Task], jobs: int, how: Callable[[Task], Outcome | str], lost: list[Task]
) -> Iterator[tuple[Task, Outcome | str]]:
    """Do what is waiting, until that is done or a process dies; `lost` gets what was under way then."""
    # Only now: where nothing is to be done, none of this is needed.
    from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    under_way: dict[Future[Outcome | str], Task] = {}
    pool = ProcessPoolExecutor(min(jobs, len(waiting)), get_context("spawn"), _end_with_parent)
    try:
        while (waiting or under_way) and not lost:
            while waiting and len(under_way) < 2 * jobs:
                with _deaf():
                    under_way[pool.submit(how, waiting[0])] = waiting[0]
                waiting.popleft()
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                task = under_way.pop(future)
                try:
                    yield task, future.result()
                except BrokenProcessPool:
                    lost.append(task)
    except BrokenProcessPool:
        pass
    finally:
        lost += under_way.values()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started within it never see Ctrl-C: what they do is finished."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """A process ends when the one that told it to is gone, however that ended."""
    from multiprocessing import parent_process
    from threading import Thread

    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()
