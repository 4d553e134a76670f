"""In words: what jobs ask for, how often an experiment is tried again, and why its next job asks for something else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from roundhouse.formatting import counted, walltime
from roundhouse.model.attempt import Attempt
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Resources
from roundhouse.model.retry import (
    GROWING,
    HARD,
    SOFT,
    Growth,
    RetryPolicy,
    can_exclude,
    gpu_memory_ran_out,
    job_memory_ran_out,
    next_resources,
    node_of,
    since_retry,
    stuck,
)


def job(asked: Resources) -> str:
    """What a job asks for: `2 cores, 1 GPU, 16 GB, 4:00:00`."""
    gpus = f", {counted(asked.ngpus, 'GPU')}" if asked.ngpus else ""
    more = _besides(asked.exclude, asked.accumulate)
    memory = f", {_memory(asked.mem_mb)}" if asked.mem_mb else ""
    slots = f" for {counted(asked.pack.slots, 'slot')}" if asked.pack else ""
    return f"{counted(asked.ncpus, 'core')}{gpus}{memory}, {walltime(asked.walltime_s)}{slots}{more}"


def divided(asked: Resources) -> list[str]:
    """What may surprise in how an allocation is divided."""
    pack = asked.pack
    if pack is None:
        return []
    told, places = [], asked.ngpus * pack.per_gpu
    if pack.slots > asked.ncpus:
        told.append(
            f"{pack.slots} slots share {counted(asked.ncpus, 'core')} (ncpus): experiments slow each other down"
        )
    if pack.slots < places:
        gpus = f"{counted(asked.ngpus, 'GPU')} with {pack.per_gpu} on each (per_gpu)"
        told.append(f"{counted(pack.slots, 'slot')}, though {gpus} would have room for {places}")
    return told


def changed(asked: Mapping[str, Any]) -> str:
    """What an attempt asked for that the round file does not say, from its job.json; empty if there is nothing."""
    instead = asked.get("instead_of")
    keys = [key for key in GROWING if isinstance(instead, dict) and key in instead]
    amounts = [(key, asked[key]) for key in keys if isinstance(asked.get(key), int)]
    told = [_memory(value) if key == "mem_mb" else walltime(value) for key, value in amounts]
    exclude, accumulate = asked.get("exclude"), asked.get("accumulate")
    more = _besides(
        [str(node) for node in exclude] if isinstance(exclude, list) else [],
        accumulate if isinstance(accumulate, int) else 1,
    )
    return f"asked for {', '.join(told)}{more}" if told else more.removeprefix("; ")


def _besides(exclude: Sequence[str], accumulate: int) -> str:
    nodes = f"; keeps away from {', '.join(exclude)}" if exclude else ""
    return nodes + (f"; computes a batch in {accumulate} times as many parts" if accumulate > 1 else "")


def policy(retry: RetryPolicy) -> str:
    """The policy in a line."""
    beside = {
        Cause.MEMORY: _growth(retry.memory, "memory", _memory) + "; GPU: half the batch at once" * retry.accumulate,
        Cause.WALLTIME: "without a new epoch" + _growth(retry.walltime, ", time", walltime),
        Cause.NODE: "kept away from" if retry.exclude else "",
    }
    told = {
        cause: f"{cause} {tries}{f' ({beside[cause]})' if beside.get(cause) else ''}"
        for cause, tries in retry.tries.items()
    }
    hard, soft = (", ".join(told[cause] for cause in group) for group in (HARD, SOFT))
    return f"{hard}; in a row without a new epoch: {soft}"


def _growth(growth: Growth, what: str, told: Any) -> str:
    most = f", at most {told(growth.most)}" if growth.most is not None else ""
    return f"{what} x {growth.factor:g} each{most}" if growth.factor > 1 else ""


def remarks(resources: Resources, attempts: Sequence[Attempt], retry: RetryPolicy) -> list[str]:
    """Why the next attempt asks for no more than before, although an earlier one ended for want of it."""
    asked, tries = next_resources(resources, attempts, retry), since_retry(attempts)
    told = []
    if any(map(job_memory_ran_out, tries)):
        if resources.mem_mb is None:
            told.append("memory ran out, and the round file asks for no mem: there is nothing to multiply")
        elif asked.mem_mb is not None and asked.mem_mb >= (retry.memory.most or math.inf):
            told.append(f"it asks for no more memory than {_memory(asked.mem_mb)}, the most that `retry` allows")
    if any(map(gpu_memory_ran_out, tries)) and not retry.accumulate:
        told.append(
            "the GPU's memory ran out, and more memory for the job would not help: take a smaller batch, or "
            "`retry: {memory: {accumulate: true}}`"
        )
    if any(map(stuck, tries)) and asked.walltime_s >= (retry.walltime.most or math.inf):
        told.append(f"it asks for no more time than {walltime(asked.walltime_s)}, the most that `retry` allows")
    failed = [one for one in tries if one.cause is Cause.NODE and node_of(one) not in ("", *asked.exclude)]
    if failed and retry.exclude:
        nodes = ", ".join(sorted({node_of(one) for one in failed}))
        why = "a job was refused since" if all(map(can_exclude, failed)) else "its scheduler cannot be told to"
        told.append(f"{nodes} failed, and it does not keep away from there: {why}")
    return told


def _memory(mebibytes: int) -> str:
    return f"{mebibytes} MB" if mebibytes < 1024 else f"{mebibytes / 1024:.4g} GB"
