"""How often an experiment is tried again, and what its next job asks for: pure functions of how its attempts ended."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from roundhouse.model.attempt import Attempt
from roundhouse.model.causes import Cause
from roundhouse.model.exit_codes import ExitCode
from roundhouse.model.experiment import Resources

HARD_LIMIT = 2  # tries that ended by the experiment's own fault
SOFT_LIMIT = 20  # tries in a row that ended by somebody else's fault, without one new epoch

HARD = (Cause.ERROR, Cause.MEMORY, Cause.WALLTIME, Cause.UNKNOWN, Cause.UNCLAIMED, Cause.REFUSED)
SOFT = (Cause.PREEMPTED, Cause.NODE, Cause.DELETED, Cause.INPUT)
_TRIES: Mapping[Cause, int] = {**dict.fromkeys(HARD, HARD_LIMIT), **dict.fromkeys(SOFT, SOFT_LIMIT)}
GROWING = ("mem_mb", "walltime_s")
_EXCLUDING = ("slurm",)  # schedulers whose jobs can say which nodes to keep away from

Written = tuple[tuple[str, str, Any], ...]
"""What a file says under `retry`: (cause, key, value), such as ("memory", "factor", 1.5)."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Each next job asks for `factor` times as much as the one before, up to `most` (MiB, or seconds), if not None."""

    factor: float = 2.0
    most: int | None = None

    def of(self, value: int, times: int) -> int:
        """`value`, grown so many times, rounded up; never less than `value` itself."""
        grown = math.ceil(value * self.factor**times)
        return max(value, grown if self.most is None else min(grown, self.most))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How many attempts may end by each cause, and what changes for the next. `Cause.WALLTIME`: without a new epoch."""

    tries: Mapping[Cause, int] = field(default_factory=lambda: _TRIES)
    memory: Growth = Growth()
    walltime: Growth = Growth()
    exclude: bool = True  # keep away from nodes that failed
    accumulate: bool = False  # after the GPU's memory ran out: batches in twice as many parts


@lru_cache
def policy_of(*written: Written) -> RetryPolicy:
    """The policy that files lead to: the site's and then the round's, of which the last that says something wins."""
    said = {(cause, key): value for layer in written for cause, key, value in layer}
    tries = {Cause(cause): value for (cause, key), value in said.items() if key == "tries"}
    memory, walltime = (
        Growth(**{key: value for (of, key), value in said.items() if of == cause and key in ("factor", "most")})
        for cause in ("memory", "walltime")
    )
    exclude, accumulate = said.get(("node", "exclude"), True), said.get(("memory", "accumulate"), False)
    return RetryPolicy({**_TRIES, **tries}, memory, walltime, exclude, accumulate)


# ------------------------------------------------------------------------------------------------- how often


def exhausted(attempts: Sequence[Attempt], policy: RetryPolicy) -> str:
    """Why there is no further try; empty if there is one. Tries count since the last `--retry`."""
    hard: Counter[Cause] = Counter()
    soft: Counter[Cause] = Counter()
    last = ""
    for attempt in since_retry(attempts):
        if _gained(attempt):
            soft.clear()
        cause = _counts_as(attempt)
        if cause in HARD or cause in SOFT:
            (hard if cause in HARD else soft)[cause] += 1
            last = f"{attempt.cause}: {attempt.why}" if attempt.why else f"{attempt.cause}"
    if _used_up(hard, policy):
        return f"failed {_times(hard)}, at last by {last}"
    if _used_up(soft, policy):
        return f"taken down {_times(soft)} without one new epoch, at last by {last}"
    return ""


def _times(ends: Counter[Cause]) -> str:
    return "once" if ends.total() == 1 else f"{ends.total()} times"


def _used_up(ends: Counter[Cause], policy: RetryPolicy) -> bool:
    """Each cause counts by itself, and all together to the most that one of them allows."""
    allowed = {cause: policy.tries[cause] for cause in ends}
    return any(ends[cause] >= limit for cause, limit in allowed.items()) or (
        bool(ends) and ends.total() >= max(allowed.values())
    )


def since_retry(attempts: Sequence[Attempt]) -> Sequence[Attempt]:
    """The attempts after the last `--retry`: those that count."""
    marks = [number for number, attempt in enumerate(attempts, 1) if attempt.cause is Cause.RETRY]
    return attempts[marks[-1] :] if marks else attempts


def _counts_as(attempt: Attempt) -> Cause | None:
    """The cause whose tries an attempt uses up, if it uses up any."""
    cause = attempt.cause
    if cause is Cause.WALLTIME and not stuck(attempt):
        cause = Cause.PREEMPTED  # a program that does not report its epochs may well make progress
    if cause is Cause.MEMORY and attempt.opened.packed and attempt.verdict:
        cause = Cause.PREEMPTED  # the memory of the allocation ran out, and which experiment used it is not known
    return None if cause in SOFT and (_gained(attempt) or _interrupted(attempt)) else cause


def _gained(attempt: Attempt) -> bool:
    return attempt.progress is not None and attempt.progress.gained


def stuck(attempt: Attempt) -> bool:
    """Its time was up, it tells its epochs, and there is no new one."""
    tells = attempt.progress is not None and bool(attempt.progress.epochs)
    return attempt.cause is Cause.WALLTIME and tells and not _gained(attempt)


def _interrupted(attempt: Attempt) -> bool:
    """Stopped by Ctrl-C on this machine: the user's wish, and no reason ever to give up."""
    return attempt.result is not None and set(attempt.result.signals) == {"INT"}


# --------------------------------------------------------------------------------------- what the next asks for


def next_resources(resources: Resources, attempts: Sequence[Attempt], policy: RetryPolicy) -> Resources:
    """What the next job asks for: `resources`, which the round file says, or more, by how earlier attempts ended.

    Memory and time grow only by attempts for which the round file said the same: whoever changes it knows better.
    """
    counted = since_retry(attempts)
    if not counted:
        return resources
    tries, mem_mb, seconds = policy.tries, resources.mem_mb, resources.walltime_s
    short = sum(job_memory_ran_out(one) and _said(one, "mem_mb", mem_mb) for one in counted)
    late = sum(stuck(one) and _said(one, "walltime_s", seconds) for one in counted)
    splits = sum(map(gpu_memory_ran_out, counted)) if policy.accumulate else 0
    return replace(
        resources,
        mem_mb=None if mem_mb is None else policy.memory.of(mem_mb, min(short, tries[Cause.MEMORY])),
        walltime_s=policy.walltime.of(seconds, min(late, tries[Cause.WALLTIME])),
        exclude=tuple(sorted(_failed_nodes(counted))) if policy.exclude else (),
        accumulate=2 ** min(splits, tries[Cause.MEMORY]),
    )


def gpu_memory_ran_out(attempt: Attempt) -> bool:
    """More memory of the node would not have helped."""
    code = attempt.result.exit_code if attempt.result else None
    return attempt.cause is Cause.MEMORY and code == ExitCode.GPU_MEMORY


def job_memory_ran_out(attempt: Attempt) -> bool:
    return attempt.cause is Cause.MEMORY and not gpu_memory_ran_out(attempt)


def _failed_nodes(attempts: Iterable[Attempt]) -> set[str]:
    """Nodes that failed under a job that started there. A refusal since then clears them: there may be no other."""
    nodes: set[str] = set()
    for attempt in attempts:
        host = node_of(attempt)
        if attempt.cause is Cause.REFUSED:
            nodes.clear()
        elif attempt.cause is Cause.NODE and host and can_exclude(attempt):
            nodes.add(host)
    return nodes


def node_of(attempt: Attempt) -> str:
    """The node that its job started on, as schedulers call it: the host's name up to the first dot; or nothing."""
    host = attempt.claim.host.partition(".")[0] if attempt.claim else ""
    return host if re.fullmatch(r"[A-Za-z0-9][\w-]*", host, re.ASCII) else ""


def can_exclude(attempt: Attempt) -> bool:
    """Whether the scheduler that had its job can be told, in a job, which nodes to keep away from."""
    return attempt.opened.scheduler.get("kind") in _EXCLUDING


# ---------------------------------------------------------------------------------------------- the record


def request(asked: Resources, round_file: Resources) -> dict[str, Any]:
    """What job.json says: all that the job asks for, and under `instead_of` what the round file says, where it grew."""
    now, said = asdict(asked), asdict(round_file)
    grown = {key: said[key] for key in GROWING if said[key] != now[key]}
    return {**now, "exclude": list(asked.exclude), "instead_of": grown}


def _said(attempt: Attempt, key: str, value: int | None) -> bool:
    """Whether the round file said so too when the attempt was opened. A record that does not tell counts as yes."""
    asked = attempt.opened.resources
    instead = asked.get("instead_of")
    told = {**asked, **instead} if isinstance(instead, dict) else asked
    return bool(told.get(key, value) == value)
