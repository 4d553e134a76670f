#!/usr/bin/env python3
"""What a job runs: one experiment, from the attempt that its shell has claimed. `python train.py DIRECTORY`.

The exit codes are those of `roundhouse.model.exit_codes`; the job's shell records them in the attempt's result.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from roundhouse.errors import RoundhouseError
from roundhouse.jobs import worker
from roundhouse.jobs.carry import prepare_files
from roundhouse.jobs.command import run_command, variables
from roundhouse.jobs.heartbeat import start_heartbeat
from roundhouse.jobs.time_limit import TimeLimit
from roundhouse.model.exit_codes import COMMAND_MAY_RETURN, RESERVED, JobExitCode
from roundhouse.terminal import escape_unencodable

if TYPE_CHECKING:
    from roundhouse.training.loop import TrainingProgress


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
    """Train with the study that the config names."""
    from roundhouse.settings import split_config
    from roundhouse.training import loop
    from roundhouse.training.reproducibility import environment

    name = claimed.config["study"]
    if importlib.util.find_spec(f"studies.{name}") is None:
        known = sorted(
            path.name for path in (Path(__file__).parent / "studies").iterdir() if (path / "__init__.py").exists()
        )
        raise RoundhouseError(f"there is no study {name!r} in studies/; available: {', '.join(known)}")
    deadline = os.environ.get("ROUNDHOUSE_DEADLINE")
    accumulate = int(os.environ.get("ROUNDHOUSE_ACCUMULATE", "1"))
    if accumulate > 1:
        print(
            f"roundhouse: the GPU's memory ran out before: each batch is computed in {accumulate} times as many parts",
            flush=True,
        )
    settings, config = split_config(claimed.config["config"], float(deadline) if deadline else None, accumulate)
    settings = replace(settings, pause_at=claimed.attempt.opened.pause_at)
    inputs = claimed.inputs()
    precision = loop.prepare(settings)
    claimed.write_environment(environment(precision.device, precision.name))
    data = os.environ.get("ROUNDHOUSE_DATA")
    study = importlib.import_module(f"studies.{name}")
    task = study.build(config, inputs, precision.device, Path(data) if data else None)

    def report(progress: TrainingProgress) -> None:
        claimed.report(
            epoch=progress.epoch,
            epochs=progress.epochs,
            started_epoch=progress.started_epoch,
            stage=progress.stage,
            metric_name=progress.metric,
            metric=progress.metrics.get(progress.metric),
            best=progress.best,
            mode=task.mode,
            exact=progress.exact,
            seconds_per_epoch=progress.seconds_per_epoch,
        )
        metrics = ", ".join(f"{key} {value:.4g}" for key, value in progress.metrics.items())
        if progress.epoch > progress.started_epoch:
            print(f"epoch {progress.epoch}/{progress.epochs} ({progress.stage}): {metrics}", flush=True)
        elif progress.epoch:
            print(f"roundhouse: resumed after epoch {progress.epoch}/{progress.epochs}", flush=True)

    import torch

    try:
        outcome = loop.run(
            task, settings, claimed.place, claimed.earlier(), report, claimed.stop, claimed.of_another_config()
        )
    except RuntimeError as error:
        # Only the message of the error says that the host's memory ran out.
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        print(f"roundhouse: memory ran out: {error}", file=sys.stderr)
        on_gpu = isinstance(error, torch.cuda.OutOfMemoryError) and precision.device.type == "cuda"
        return JobExitCode.GPU_MEMORY if on_gpu else JobExitCode.MEMORY
    if not outcome.finished:
        print(f"roundhouse: stopped after epoch {outcome.epochs_run}: {outcome.reason}", flush=True)
        codes = {"walltime": JobExitCode.WALLTIME, loop.RUNG: JobExitCode.RUNG}
        return codes.get(outcome.reason, JobExitCode.STOPPED)
    claimed.report(artifacts=dict(outcome.artifacts), final_hash=outcome.final_hash, final=dict(outcome.metrics))
    print(f"roundhouse: {outcome.reason} after {outcome.epochs_run} epochs", flush=True)
    return JobExitCode.COMPLETED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
