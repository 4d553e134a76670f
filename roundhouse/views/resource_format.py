"""Resource requests and retry policies in words, and why the next job requests other resources or the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from roundhouse.formatting import counted, walltime
from roundhouse.model.attempt import Attempt
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Resources
from roundhouse.model.retry import (
    GROWING,
    can_exclude,
    gpu_memory_ran_out,
    job_memory_ran_out,
    next_resources,
    node_of,
    since_retry,
    stuck,
)
from roundhouse.model.retry_policy import HARD, SOFT, Growth, RetryPolicy


def job(resources: Resources) -> str:
    """The resource request of a job: `2 cores, 1 GPU, 16 GB, 4:00:00`."""
    gpus = f", {counted(resources.ngpus, 'GPU')}" if resources.ngpus else ""
    memory = f", {_memory(resources.mem_mb)}" if resources.mem_mb else ""
    slots = f" for {counted(resources.pack.slots, 'slot')}" if resources.pack else ""
    more = _measures(resources.exclude, resources.accumulate)
    return f"{counted(resources.ncpus, 'core')}{gpus}{memory}, {walltime(resources.walltime_s)}{slots}{more}"


def divided(resources: Resources) -> list[str]:
    """Warnings about the division of an allocation into slots."""
    pack = resources.pack
    if pack is None:
        return []
    lines, places = [], resources.ngpus * pack.per_gpu
    if pack.slots > resources.ncpus:
        cores = counted(resources.ncpus, "core")
        lines.append(f"{pack.slots} slots share {cores} (ncpus): experiments slow each other down")
    if pack.slots < places:
        gpus = f"{counted(resources.ngpus, 'GPU')} with {pack.per_gpu} on each (per_gpu)"
        lines.append(f"{counted(pack.slots, 'slot')}, but {gpus} have room for {places}")
    return lines


def changes(requested: Mapping[str, Any]) -> str:
    """What an attempt requested, from its job.json, where that differs from the round file; else empty."""
    instead = requested.get("instead_of")
    keys = [key for key in GROWING if isinstance(instead, dict) and key in instead]
    amounts = [(key, requested[key]) for key in keys if isinstance(requested.get(key), int)]
    texts = [_memory(value) if key == "mem_mb" else walltime(value) for key, value in amounts]
    exclude, accumulate = requested.get("exclude"), requested.get("accumulate")
    more = _measures(
        [str(node) for node in exclude] if isinstance(exclude, list) else [],
        accumulate if isinstance(accumulate, int) else 1,
    )
    return f"requested {', '.join(texts)}{more}" if texts else more.removeprefix("; ")


def _measures(exclude: Sequence[str], accumulate: int) -> str:
    """What earlier attempts led to, apart from amounts."""
    nodes = f"; excludes {', '.join(exclude)}" if exclude else ""
    return nodes + (f"; computes a batch in {accumulate} times as many parts" if accumulate > 1 else "")


def policy(retry: RetryPolicy) -> str:
    """The policy in a line."""
    details = {
        Cause.MEMORY: _growth(retry.memory, "memory", _memory)
        + "; GPU: batch in twice as many parts each" * retry.memory.accumulate,
        Cause.WALLTIME: "without a newly saved step" + _growth(retry.walltime, ", time", walltime),
        Cause.NODE: "failed nodes are excluded" if retry.node.exclude else "",
    }
    texts = {
        cause: f"{cause} {retry.limit(cause)}{f' ({details[cause]})' if details.get(cause) else ''}"
        for cause in (*HARD, *SOFT)
    }
    hard, soft = (", ".join(texts[cause] for cause in group) for group in (HARD, SOFT))
    return f"{hard}; in a row without a newly saved step: {soft}"


def _growth(growth: Growth, what: str, amount: Callable[[int], str]) -> str:
    most = f", at most {amount(growth.most)}" if growth.most is not None else ""
    return f"{what} x {growth.factor:g} each{most}" if growth.factor > 1 else ""


def remarks(resources: Resources, attempts: Sequence[Attempt], retry: RetryPolicy) -> list[str]:
    """Why the next attempt does not request more, although an earlier one ran out of memory or time."""
    following, counted_attempts = next_resources(resources, attempts, retry), since_retry(attempts)
    lines = []
    if any(map(job_memory_ran_out, counted_attempts)):
        if resources.mem_mb is None:
            lines.append("memory ran out, but the round file requests no `mem` that could be multiplied")
        elif following.mem_mb is not None and following.mem_mb >= (retry.memory.most or math.inf):
            lines.append(f"memory is not increased beyond {_memory(following.mem_mb)}, the limit of `retry`")
    if any(map(gpu_memory_ran_out, counted_attempts)) and not retry.memory.accumulate:
        lines.append(
            "GPU memory ran out, which more memory for the job cannot prevent: use a smaller batch, or "
            "`retry: {memory: {accumulate: true}}`"
        )
    if any(map(stuck, counted_attempts)) and following.walltime_s >= (retry.walltime.most or math.inf):
        lines.append(f"walltime is not increased beyond {walltime(following.walltime_s)}, the limit of `retry`")
    by_node = [one for one in counted_attempts if one.cause is Cause.NODE]
    failed = [one for one in by_node if node_of(one) not in ("", *following.exclude)]
    if failed and retry.node.exclude:
        nodes = ", ".join(sorted(set(map(node_of, failed))))
        why = "a job was refused since" if all(map(can_exclude, failed)) else "its scheduler does not support it"
        lines.append(f"{nodes} failed, but is not excluded: {why}")
    return lines


def _memory(mebibytes: int) -> str:
    return f"{mebibytes} MB" if mebibytes < 1024 else f"{mebibytes / 1024:.4g} GB"
