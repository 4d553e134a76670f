"""Several processes of one run, forked from the test's own: quick, since they need not import anything again."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from roundhouse.training.ranks import Ranks, connect, disconnect

FORK = multiprocessing.get_context("fork")
LONGEST = 60.0  # seconds


def in_processes(count: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What `work` returns or raises in each of the processes; None for one that was killed.

    When one has been killed, or has raised an error, the others may only take note of it: none must wait forever.
    """
    channels = [FORK.Pipe() for _ in range(1, count)]
    results = [FORK.Pipe(duplex=False) for _ in range(count)]
    started: list[BaseProcess] = []
    for rank in range(count):
        mine = [pair[0] for pair in channels] if rank == 0 else [channels[rank - 1][1]]
        others = [end for pair in channels for end in pair if end not in mine]
        one = FORK.Process(target=_body, args=(rank, mine, others, results[rank][1], work))
        one.start()
        started.append(one)
    for pair in (*channels, *((result[1],) for result in results)):
        for end in pair:
            end.close()
    found = [_result(result[0]) for result in results]
    for one in started:
        one.join(LONGEST)
        assert not one.is_alive(), "a process waits forever"
    return found


def _body(
    rank: int,
    mine: Sequence[Connection],
    others: Sequence[Connection],
    result: Connection,
    work: Callable[[Ranks], Any],
) -> None:
    torch.set_num_threads(1)
    for end in others:
        end.close()  # so that the death of a process is seen
    value: Any
    try:
        ranks = connect(rank, mine, torch.device("cpu"))
        value = work(ranks)
        disconnect(ranks)
    except BaseException as error:
        value = error
    try:
        message = pickle.dumps(value)
    except Exception:
        message = pickle.dumps(RuntimeError(repr(value)))
    result.send_bytes(message)
    os._exit(0)


def _result(end: Connection) -> Any:
    assert wait([end], LONGEST), "a process waits forever"
    try:
        return pickle.loads(end.recv_bytes())
    except EOFError:
        return None
