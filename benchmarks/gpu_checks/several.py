"""Part `several`: what needs two GPUs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from gpu_checks import packed
from gpu_checks.distillation import TINY, Case, train_once
from gpu_checks.report import FAILED, OK, SKIPPED, Context


def run(context: Context) -> None:
    for name, check in CHECKS.items():
        if not context.small and torch.cuda.device_count() < 2:
            context.row(name, SKIPPED, f"needs 2 GPUs, and there are {torch.cuda.device_count()}")
        else:
            context.attempt(name, partial(check, context, name))


def second_device(context: Context, name: str) -> None:
    """A graph on the second GPU must train there, and end where eager passes end."""
    device, graph = ("cpu", "eager") if context.small else ("cuda:1", "graph")
    case = Case("logit", "fp32", **(TINY if context.small else {}))
    eager, captured = (train_once(case, device, step=step) for step in ("eager", graph))
    losses = [entry["loss"] for entry in captured.epochs]
    problems = [] if captured.final_hash == eager.final_hash else ["graph and eager differ"]
    problems += [] if len(set(losses)) == len(losses) else ["the loss is the same in all epochs: nothing was trained"]
    context.row(name, FAILED if problems else OK, "; ".join(problems) or f"losses {losses}", losses=losses)


def two_processes(context: Context, name: str) -> None:
    """A run of two processes with a GPU each completes, and ends twice with the same bits."""
    resources = {"ncpus": 2, "ngpus": 0 if context.small else 2, "mem": "4gb", "walltime": "0:20:00"}
    config = {"dataset": "digits", "model": "ResNet8", "method": "pure", "epochs": 2, "batch_size": 64, "processes": 2}
    experiments = {"student": {"path": "student", "config": config}}
    content = {"round": "gpu_check", "study": "distillation", "resources": resources, "experiments": experiments}
    found = []
    for once in ("first", "second"):
        with TemporaryDirectory(prefix="roundhouse-gpu-check-") as folder:
            records = packed.start(context, Path(folder) / once, content, 1, "*", gpus=2)
            found += [packed.results(one) for one in records.values()]
    problems = [] if len(found) == 2 and all(found) else ["a run did not complete"]
    problems += [] if problems or found[0] == found[1] else ["two runs differ"]
    context.row(name, FAILED if problems else OK, "; ".join(problems) or "two runs have the same bits")


CHECKS = {"device: cuda:1, graph and eager": second_device, "processes: 2": two_processes}
"""By name. A check gets the context and its name, and writes its row; in a dry run, on the CPU."""
