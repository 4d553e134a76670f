#!/usr/bin/env python3
"""What a job runs: one experiment, from the attempt that its shell has claimed. `python train.py DIRECTORY`.

The exit codes are those of `roundhouse.model.causes`; the job's shell turns them into the attempt's result.
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
from roundhouse.model import causes

if TYPE_CHECKING:
    from roundhouse.training.loop import Progress


def main(argv: list[str]) -> int:
    if len(argv) != 2 or argv[1] in ("-h", "--help"):
        print("usage: python train.py DIRECTORY   (job scripts do; you want: python runner.py --round NAME)")
        return 0 if "-h" in argv or "--help" in argv else 2
    try:
        work = worker.enter(Path(argv[1]))
        return run_program(work) if work.config.get("command") else train(work)
    except worker.Leave as leave:
        print(f"roundhouse: {leave}", file=sys.stderr)
        return leave.code
    except RoundhouseError as error:
        print(f"roundhouse: {error}", file=sys.stderr)
        return causes.EXIT_ERROR
    except MemoryError:
        print("roundhouse: memory ran out", file=sys.stderr)
        return causes.EXIT_MEMORY
    except OSError as error:
        print(f"roundhouse: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return causes.EXIT_ERROR


def run_program(work: worker.Work) -> int:
    """The round file's `command`: 0 is completed, unless it was asked to stop.

    75 asks to be started again; 71 and 73 say that memory ran out, the job's or the GPU's; 78 that it has paused where
    it was told to.
    """
    work.write_environment({})
    code = worker.run_command(work)
    if work.stop_reason:
        return causes.EXIT_STOPPED
    ours = set(range(causes.EXIT_NOT_MINE, causes.EXIT_RUNG + 1))
    told = {causes.EXIT_STOPPED, causes.EXIT_MEMORY, causes.EXIT_GPU_MEMORY}
    told |= {causes.EXIT_RUNG} if work.attempt.opened.pause_at else set()
    return causes.EXIT_ERROR if code in ours - told else code


def train(work: worker.Work) -> int:
    """Train with the study that the config names."""
    from roundhouse.settings import split_config
    from roundhouse.training import loop
    from roundhouse.training.reproducibility import environment

    name = work.config["study"]
    if importlib.util.find_spec(f"studies.{name}") is None:
        known = sorted(
            path.name for path in (Path(__file__).parent / "studies").iterdir() if (path / "__init__.py").exists()
        )
        raise RoundhouseError(f"there is no study {name!r}; there are: {', '.join(known)}")
    deadline = os.environ.get("ROUNDHOUSE_DEADLINE")
    accumulate = int(os.environ.get("ROUNDHOUSE_ACCUMULATE", "1"))
    if accumulate > 1:
        print(f"roundhouse: memory ran out before: a batch is computed in {accumulate} times as many parts", flush=True)
    settings, config = split_config(work.config["config"], float(deadline) if deadline else None, accumulate)
    settings = replace(settings, pause_at=work.attempt.opened.pause_at)
    inputs = work.inputs()
    precision = loop.prepare(settings)
    work.write_environment(environment(precision.device, precision.name))
    data = os.environ.get("ROUNDHOUSE_DATA")
    study = importlib.import_module(f"studies.{name}")
    task = study.build(config, inputs, precision.device, Path(data) if data else None)

    def report(progress: Progress) -> None:
        work.report(
            epoch=progress.epoch,
            epochs=progress.epochs,
            started_epoch=progress.started_epoch,
            stage=progress.stage,
            metric_name=progress.metric,
            metric=progress.metrics.get(progress.metric),
            best=progress.best,
            exact=progress.exact,
            seconds_per_epoch=progress.seconds_per_epoch,
        )
        told = ", ".join(f"{key} {value:.4g}" for key, value in progress.metrics.items())
        if progress.epoch > progress.started_epoch:
            print(f"epoch {progress.epoch}/{progress.epochs} ({progress.stage}): {told}", flush=True)
        elif progress.epoch:
            print(f"roundhouse: going on after epoch {progress.epoch}/{progress.epochs}", flush=True)

    import torch

    try:
        outcome = loop.run(task, settings, work.place, work.earlier(), report, work.stop)
    except RuntimeError as error:
        # PyTorch tells a shortage of the computer's own memory by its words alone.
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        print(f"roundhouse: memory ran out: {error}", file=sys.stderr)
        on_gpu = isinstance(error, torch.cuda.OutOfMemoryError) and precision.device.type == "cuda"
        return causes.EXIT_GPU_MEMORY if on_gpu else causes.EXIT_MEMORY
    if not outcome.finished:
        print(f"roundhouse: stopped after epoch {outcome.epochs_run}: {outcome.reason}", flush=True)
        codes = {"walltime": causes.EXIT_WALLTIME, loop.RUNG: causes.EXIT_RUNG}
        return codes.get(outcome.reason, causes.EXIT_STOPPED)
    work.report(artifacts=dict(outcome.artifacts), final_hash=outcome.final_hash, final=dict(outcome.metrics))
    print(f"roundhouse: {outcome.reason} after {outcome.epochs_run} epochs", flush=True)
    return causes.EXIT_COMPLETED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
