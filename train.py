#!/usr/bin/env python3
"""What a job runs: one experiment, from the attempt that its shell has claimed. `python train.py DIRECTORY`.

The exit codes are those of `roundhouse.model.exit_codes`; the job's shell records them in the attempt's result.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roundhouse.errors import RoundhouseError
from roundhouse.jobs import worker
from roundhouse.jobs.carry import prepare_files
from roundhouse.jobs.command import run_command, variables
from roundhouse.jobs.heartbeat import start_heartbeat
from roundhouse.jobs.processes import Processes, start_processes
from roundhouse.jobs.time_limit import TimeLimit
from roundhouse.model.exit_codes import COMMAND_MAY_RETURN, RESERVED, JobExitCode
from roundhouse.settings import Settings, split_config
from roundhouse.terminal import escape_unencodable

if TYPE_CHECKING:
    from roundhouse.training.execute import Outcome


def main(argv: list[str]) -> int:
    if len(argv) != 2 or argv[1] in ("-h", "--help"):
        print("usage: python train.py DIRECTORY   (for job scripts; to run experiments: python runner.py --round NAME)")
        return 0 if "-h" in argv or "--help" in argv else 2
    escape_unencodable()
    try:
        claimed = worker.enter(Path(argv[1]))
        start_heartbeat(claimed)
        for group, paths in claimed.missing().items():
            print(f"roundhouse: these experiments of group {group} are missing: {', '.join(paths)}", flush=True)
        return run_program(claimed) if claimed.config.get("command") else train(claimed)
    except worker.Leave as leave:
        print(f"roundhouse: {leave}", file=sys.stderr)
        return leave.code
    except RoundhouseError as error:
        print(f"roundhouse: {error}", file=sys.stderr)
        return JobExitCode.ERROR
    except MemoryError:
        print("roundhouse: memory ran out", file=sys.stderr)
        return JobExitCode.MEMORY
    except OSError as error:
        print(f"roundhouse: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return JobExitCode.ERROR


def run_program(claimed: worker.ClaimedAttempt) -> int:
    """Run the round file's `command`. Exit code 0 means completed, unless a stop was requested before.

    75 requests another attempt; 71 and 73 mean that memory ran out, the job's or the GPU's; 78 means that the command
    paused at the rung named by ROUNDHOUSE_PAUSE_AT; 79 means that its training diverged.
    """
    environment = variables(claimed)
    prepare_files(claimed)
    limit = TimeLimit.of(claimed)
    claimed.write_environment({})  # it says that the command was started, so nothing comes between
    code = run_command(claimed, environment, limit)
    if limit and limit.reached:
        code = limit.exit_code(code)
    elif claimed.stop_reason:
        return JobExitCode.STOPPED
    meant = COMMAND_MAY_RETURN | ({JobExitCode.RUNG} if claimed.attempt.opened.pause_at else set())
    return JobExitCode.ERROR if code in RESERVED - meant else code


def train(claimed: worker.ClaimedAttempt) -> int:
    """Train with the study that the config names, in one process or in several."""
    deadline = os.environ.get("ROUNDHOUSE_DEADLINE")
    accumulate = int(os.environ.get("ROUNDHOUSE_ACCUMULATE", "1"))
    if accumulate > 1:
        print(
            f"roundhouse: the GPU's memory ran out before: each batch is computed in {accumulate} times as many parts",
            flush=True,
        )
    settings, config = split_config(claimed.config["config"], float(deadline) if deadline else None, accumulate)
    opened = claimed.attempt.opened
    settings = replace(settings, pause_at=opened.pause_at, ngpus=opened.resources.get("ngpus") or 0)
    if settings.device == "auto" and not settings.ngpus and settings.count_processes > 1:
        settings = replace(settings, device="cpu")  # GPUs that can be seen may be those of other jobs
    processes = start_processes(settings)
    with processes.watched():
        return train_in(processes, claimed, settings, config)


def train_in(processes: Processes, claimed: worker.ClaimedAttempt, settings: Settings, config: dict[str, Any]) -> int:
    """Train as process 0, which keeps the record. `config`: the study's own keys."""
    from roundhouse.training.execute import Attempt, Hooks, execute, prepare
    from roundhouse.training.memory import memory_ran_out
    from roundhouse.training.progress import line_of, position_of, progress_of
    from roundhouse.training.ranks import connect, disconnect
    from roundhouse.training.reproducibility import environment, share_threads
    from roundhouse.training.session import Session
    from roundhouse.training.study import load_study

    name, inputs, data = claimed.config["study"], claimed.inputs(), os.environ.get("ROUNDHOUSE_DATA")
    folder = Path(data) if data else None
    attempt = Attempt(claimed.place, claimed.earlier(), claimed.of_another_config(), claimed.start())
    in_slot = settings.ngpus > 1 and "ROUNDHOUSE_SLOT" in os.environ  # its number of threads is that of a process
    threads = share_threads(1 if in_slot else settings.count_processes)
    processes.send(
        {"settings": settings, "study": name, "config": config, "inputs": inputs, "data": folder, "attempt": attempt,
         "threads": threads}
    )  # fmt: skip
    precision = prepare(settings)
    ranks = connect(0, processes.channels, precision.device, processes.links)
    claimed.write_environment(environment(precision.device, precision.name) | dict(ranks.facts))
    study = load_study(name, config, inputs, folder)

    def report(session: Session) -> None:
        if session.replaying:
            print(f"roundhouse: resumed after {position_of(session)}", flush=True)
        claimed.report(**progress_of(session))

    def show(means: Mapping[str, float]) -> None:
        claimed.report(means=dict(means))  # what is saved has not changed

    hooks = Hooks(report, lambda session: print(line_of(session), flush=True), claimed.stop, show)
    try:
        outcome = execute(study, settings, attempt, hooks, ranks)
    except (RuntimeError, MemoryError) as error:
        where = memory_ran_out(error, precision.device)
        if not where:
            raise
        print(f"roundhouse: memory ran out: {error}", file=sys.stderr)
        processes.kill()  # they wait for this one
        return JobExitCode.GPU_MEMORY if where == "gpu" else JobExitCode.MEMORY
    code = report_outcome(claimed, outcome)
    disconnect(ranks)
    return code


def report_outcome(claimed: worker.ClaimedAttempt, outcome: Outcome) -> int:
    """Report how the training ended. Returns the exit code."""
    from roundhouse.training.execute import RUNG, WALLTIME

    if outcome.diverged:
        print(f"roundhouse: the training diverged: {outcome.reason}", file=sys.stderr)
        return JobExitCode.DIVERGED
    if not outcome.finished:
        print(f"roundhouse: stopped after {outcome.position}: {outcome.reason}", flush=True)
        codes = {WALLTIME: JobExitCode.WALLTIME, RUNG: JobExitCode.RUNG}
        return codes.get(outcome.reason, JobExitCode.STOPPED)
    claimed.report(artifacts=dict(outcome.artifacts), final_hash=outcome.final_hash, final=dict(outcome.metrics))
    print(f"roundhouse: {outcome.reason} after {outcome.position}", flush=True)
    return JobExitCode.COMPLETED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
