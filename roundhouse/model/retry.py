"""Whether there is another attempt, and what its job requests: pure functions of how the earlier attempts ended."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from roundhouse.model.attempt import Attempt
from roundhouse.model.causes import Cause
from roundhouse.model.exit_codes import JobExitCode
from roundhouse.model.experiment import Resources
from roundhouse.model.retry_policy import HARD, SOFT, RetryPolicy

GROWING = ("mem_mb", "walltime_s")
_EXCLUDING = ("slurm",)  # schedulers whose jobs can name nodes that they must not run on

# ------------------------------------------------------------------------------------------------- number of attempts


def exhausted(attempts: Sequence[Attempt], policy: RetryPolicy) -> str:
    """Why there is no further attempt; empty if there is one. Attempts count since the last `--retry` or `--rerun`."""
    hard: Counter[Cause] = Counter()
    soft: Counter[Cause] = Counter()
    last = ""
    for attempt in since_retry(attempts):
        if _gained(attempt):
            soft.clear()
        cause = _counts_as(attempt)
        if cause in HARD or cause in SOFT:
            (hard if cause in HARD else soft)[cause] += 1
            last = f"{attempt.cause} ({attempt.why})" if attempt.why else f"{attempt.cause}"
    if _reaches_limit(hard, policy):
        return f"failed {_times(hard)}; last cause: {last}"
    if _reaches_limit(soft, policy):
        return f"interrupted {_times(soft)} without a newly saved step; last cause: {last}"
    return ""


def _times(ends: Counter[Cause]) -> str:
    return "once" if ends.total() == 1 else f"{ends.total()} times"


def _reaches_limit(ends: Counter[Cause], policy: RetryPolicy) -> bool:
    """Each cause has its own limit, and all together have the highest of these."""
    limits = {cause: policy.limit(cause) for cause in ends}
    return any(ends[cause] >= limit for cause, limit in limits.items()) or (
        bool(ends) and ends.total() >= max(limits.values())
    )


def since_retry(attempts: Sequence[Attempt]) -> Sequence[Attempt]:
    """The attempts after the last `--retry` or `--rerun`, which are those that count."""
    again = (Cause.RETRY, Cause.RERUN)
    markers = [number for number, attempt in enumerate(attempts, 1) if attempt.cause in again]
    return attempts[markers[-1] :] if markers else attempts


def _counts_as(attempt: Attempt) -> Cause | None:
    """The cause towards whose limit an attempt counts, if it counts at all."""
    cause = attempt.cause
    if cause is Cause.WALLTIME and not stuck(attempt):
        cause = Cause.PREEMPTED  # a program that does not report its progress may still make some
    if cause is Cause.MEMORY and attempt.opened.packed and attempt.verdict:
        cause = Cause.PREEMPTED  # the memory of the allocation ran out, and which experiment used it is not known
    return None if cause in SOFT and (_gained(attempt) or _interrupted(attempt)) else cause


def _gained(attempt: Attempt) -> bool:
    return attempt.progress is not None and attempt.progress.gained


def stuck(attempt: Attempt) -> bool:
    """Whether it reached its walltime, and reports its progress, but has no newly saved step."""
    reports = attempt.progress is not None and attempt.progress.reported
    return attempt.cause is Cause.WALLTIME and reports and not _gained(attempt)


def _interrupted(attempt: Attempt) -> bool:
    """Whether the user stopped a local run with Ctrl-C, which never counts towards a limit."""
    return attempt.result is not None and set(attempt.result.signals) == {"INT"}


# --------------------------------------------------------------------------------------- the next resource request


def next_resources(resources: Resources, attempts: Sequence[Attempt], policy: RetryPolicy) -> Resources:
    """What the next job requests: the `resources` in the round file, or more, depending on how earlier attempts ended.

    Memory and time grow only by attempts for which the round file said the same: a change by the user takes precedence.
    """
    counted = since_retry(attempts)
    if not counted:
        return resources
    mem_mb, seconds = resources.mem_mb, resources.walltime_s
    short = sum(job_memory_ran_out(one) and _written(one, "mem_mb", mem_mb) for one in counted)
    late = sum(stuck(one) and _written(one, "walltime_s", seconds) for one in counted)
    splits = sum(map(gpu_memory_ran_out, counted)) if policy.memory.accumulate else 0
    return replace(
        resources,
        mem_mb=None if mem_mb is None else policy.memory.of(mem_mb, min(short, policy.memory.tries)),
        walltime_s=policy.walltime.of(seconds, min(late, policy.walltime.tries)),
        exclude=tuple(sorted(_failed_nodes(counted))) if policy.node.exclude else (),
        accumulate=2 ** min(splits, policy.memory.tries),
    )


def gpu_memory_ran_out(attempt: Attempt) -> bool:
    """Whether the GPU's memory ran out, so that more memory of the node would not have helped."""
    code = attempt.result.exit_code if attempt.result else None
    return attempt.cause is Cause.MEMORY and code == JobExitCode.GPU_MEMORY


def job_memory_ran_out(attempt: Attempt) -> bool:
    """Whether the job's memory ran out."""
    return attempt.cause is Cause.MEMORY and not gpu_memory_ran_out(attempt)


def _failed_nodes(attempts: Iterable[Attempt]) -> set[str]:
    """The nodes that failed while a job ran there. A later refusal clears them: there may be no other nodes."""
    nodes: set[str] = set()
    for attempt in attempts:
        host = node_of(attempt)
        if attempt.cause is Cause.REFUSED:
            nodes.clear()
        elif attempt.cause is Cause.NODE and host and can_exclude(attempt):
            nodes.add(host)
    return nodes


def node_of(attempt: Attempt) -> str:
    """The node that its job started on, as the scheduler names it: the host up to the first dot; empty if unknown."""
    host = attempt.claim.host.partition(".")[0] if attempt.claim else ""
    return host if re.fullmatch(r"[A-Za-z0-9][\w-]*", host, re.ASCII) else ""


def can_exclude(attempt: Attempt) -> bool:
    """Whether jobs can exclude nodes on the scheduler that ran its job."""
    return attempt.opened.scheduler.get("kind") in _EXCLUDING


# ---------------------------------------------------------------------------------------------- the record


def request(requested: Resources, round_file: Resources) -> dict[str, Any]:
    """The resources in job.json: what the job requests, and under `instead_of` what the round file says if it grew."""
    now, written = asdict(requested), asdict(round_file)
    grown = {key: written[key] for key in GROWING if written[key] != now[key]}
    return {**now, "exclude": list(requested.exclude), "instead_of": grown}


def _written(attempt: Attempt, key: str, value: int | None) -> bool:
    """Whether the round file had this value when the attempt was opened. A record without it counts as yes."""
    requested = attempt.opened.resources
    instead = requested.get("instead_of")
    written = {**requested, **instead} if isinstance(instead, dict) else requested
    return bool(written.get(key, value) == value)
