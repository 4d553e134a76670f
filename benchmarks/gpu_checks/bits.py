"""Part `bits`: runs that must be equal, bit for bit: as a graph and eager, twice, in two parts, with another feed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product

import torch

from gpu_checks.distillation import TINY, Case, train_once
from gpu_checks.report import FAILED, OK, Context, shortened
from studies.distillation.options import DISTILLING

PRECISIONS = ("fp32", "bf16", "fp16")
METHODS = ("pure", *DISTILLING)


def run(context: Context) -> None:
    """A row for each method and precision."""
    for case, different, loss in results(cases(context.small), context.device):
        text = f"differ: {', '.join(different)}" if different else f"loss {loss}"
        context.row(f"{case.method}, {case.precision}", FAILED if different else OK, text, different=different)


def cases(small: bool) -> list[Case]:
    """All methods and precisions; in a dry run some of them, to save time."""
    if small:
        some = (("pure", "fp32"), ("logit", "fp32"), ("factor_transfer", "fp32"), ("rkd", "fp32"))
        return [Case(method, precision, **TINY) for method, precision in (*some, ("logit", "bf16"), ("logit", "fp16"))]
    return [Case(method, precision) for precision, method in product(PRECISIONS, METHODS)]


def results(cases: list[Case], device: str) -> Iterator[tuple[Case, list[str], str]]:
    """The comparisons of each case, as soon as they are made; on a GPU in several processes at the same time."""
    if device == "cpu":
        torch.set_num_threads(1)
        yield from ((case, *compare(case, device)) for case in cases)
        return
    workers = max(1, min(8, (os.cpu_count() or 1) // 2))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(compare, case, device): case for case in cases}
        for done in as_completed(running):
            yield running[done], *done.result()


def compare(case: Case, device: str) -> tuple[list[str], str]:
    """What is not equal in the runs of a case, and the last loss. An error is one of the differences."""
    try:
        return differences(case, device)
    except Exception as error:
        return [shortened(f"{type(error).__name__}: {error}")], "-"


def differences(case: Case, device: str) -> tuple[list[str], str]:
    graph = "eager" if device == "cpu" else "graph"
    eager = train_once(case, device, step="eager")
    first, again = (train_once(case, device, step=graph) for _ in range(2))
    halves = [train_once(case, device, step=step, accumulation=2) for step in ("eager", graph)]
    fed = train_once(case, device, step=graph, feed="workers", workers=2) if case.precision == "bf16" else first
    equal = {
        "graph and eager": first.final_hash == eager.final_hash,
        "metrics of graph and eager": first.epochs == eager.epochs,
        "graph twice": first.final_hash == again.final_hash,
        "graph and eager in 2 parts": halves[0].final_hash == halves[1].final_hash,
        "worker feed": first.final_hash == fed.final_hash,
    }
    return [name for name, same in equal.items() if not same], f"{first.epochs[-1]['loss']:.4f}"
