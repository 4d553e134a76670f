"""What a process other than the first does, in a run that trains in several: `jobs/processes.py` starts it.

It runs the study in step with process 0, which has started it and decides for it, and it writes no file.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from roundhouse.errors import RoundhouseError
from roundhouse.jobs.processes import OF_SCHEDULERS
from roundhouse.model.exit_codes import JobExitCode


def main(rank: int, descriptor: int) -> int:
    """Take part as process `rank`. `descriptor`: of the channel to process 0. Returns the exit code."""
    channel = Connection(descriptor)
    _pass_signals_on(os.getppid())
    try:
        return train(rank, channel, pickle.loads(channel.recv_bytes()))
    except EOFError:
        return JobExitCode.ERROR  # process 0 has ended, and reports why
    except RoundhouseError as error:
        print(f"roundhouse: {error}", file=sys.stderr)
        return JobExitCode.ERROR


def train(rank: int, channel: Connection, work: dict[str, Any]) -> int:
    """Take part in the run that process 0 describes."""
    import torch

    from roundhouse.training.execute import Hooks, execute, prepare
    from roundhouse.training.memory import memory_ran_out
    from roundhouse.training.ranks import connect, disconnect
    from roundhouse.training.study import load_study

    torch.set_num_threads(work["threads"])
    precision = prepare(work["settings"])
    ranks = connect(rank, [channel], precision.device)
    try:
        study = load_study(work["study"], work["config"], work["inputs"], work["data"])
        execute(study, work["settings"], work["attempt"], Hooks(_ignore, _ignore, _no_reason), ranks)
    except (RuntimeError, MemoryError) as error:
        where = memory_ran_out(error, precision.device)
        if not where:
            raise
        print(f"roundhouse: memory of process {rank} ran out: {error}", file=sys.stderr)
        return JobExitCode.GPU_MEMORY if where == "gpu" else JobExitCode.MEMORY
    disconnect(ranks)
    return JobExitCode.COMPLETED


def _ignore(reported: Any) -> None:
    """Process 0 reports."""


def _no_reason() -> None:
    """Process 0 decides when to stop."""


def _pass_signals_on(first: int) -> None:
    """Whichever process a signal reaches: process 0 must know of it, which decides for all."""

    def forward(number: int, frame: object) -> None:
        with suppress(ProcessLookupError):
            if os.getppid() == first:
                os.kill(first, number)

    for number in OF_SCHEDULERS:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_SCHEDULERS)
