"""How many attempts may end with each cause, and how the resource request grows: the `retry` of a site and a round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge, Le

from roundhouse.model.causes import Cause
from roundhouse.schema import Count, Rule, key
from roundhouse.units import Memory, Walltime

HARD_LIMIT = 2  # attempts that ended because of the experiment itself
SOFT_LIMIT = 20  # attempts in a row that ended for another reason, without a newly saved step

HARD = (Cause.ERROR, Cause.MEMORY, Cause.WALLTIME, Cause.UNKNOWN, Cause.UNCLAIMED, Cause.REFUSED)
SOFT = (Cause.PREEMPTED, Cause.NODE, Cause.DELETED, Cause.INPUT)


@dataclass(frozen=True, slots=True)
class Growth:
    """Each next job requests `factor` times as much as the one before, up to `most` (MiB, or seconds), if not None."""

    tries: Annotated[int, Ge(1), Le(100)] = key("Maximum number of attempts that end with this cause", HARD_LIMIT)
    factor: Annotated[float, Ge(1), Le(10)] = key("Each next job requests this many times as much", 2.0)
    most: int | None = None

    def of(self, value: int, times: int) -> int:
        """`value`, grown this many times, rounded up; never less than `value` itself."""
        grown = math.ceil(value * self.factor**times)
        return max(value, grown if self.most is None else min(grown, self.most))


@dataclass(frozen=True, slots=True)
class MemoryRetry(Growth):
    """After memory ran out."""

    most: Memory | None = key("Maximum memory to request: 128gb; null for no limit", None)
    accumulate: bool = key("If it was the GPU's memory: each next job computes a batch in twice as many parts", False)


@dataclass(frozen=True, slots=True)
class WalltimeRetry(Growth):
    """After the walltime ended without a newly saved step."""

    most: Walltime | None = key('Maximum walltime to request: "48:00:00"; null for no limit', None)


@dataclass(frozen=True, slots=True)
class NodeRetry:
    """After a node failed."""

    tries: Count = key(
        "Maximum number of attempts in a row, without a newly saved step, that end with this cause", SOFT_LIMIT
    )
    exclude: bool = key("Do not run on nodes that failed (Slurm)", True)


def _tries(value: Any) -> Any:
    """A number alone means `tries`."""
    return {"tries": value} if type(value) is int else value


_OR_TRIES = Rule(before=_tries, also={"type": "integer", "minimum": 1})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How many attempts may end with each cause, and what the next job requests. Keys that are not written keep the
    value of the site file, or the default."""

    error: Count = key("Maximum number of attempts that end with an error", HARD_LIMIT)
    memory: Annotated[MemoryRetry, _OR_TRIES] = key("After memory ran out", MemoryRetry())
    walltime: Annotated[WalltimeRetry, _OR_TRIES] = key(
        "After the walltime ended without a newly saved step", WalltimeRetry()
    )
    unknown: Count = key("Maximum number of attempts that end for an unknown reason", HARD_LIMIT)
    unclaimed: Count = key("Maximum number of jobs that never start", HARD_LIMIT)
    refused: Count = key("Maximum number of jobs that the scheduler refuses", HARD_LIMIT)
    preempted: Count = key("Maximum number in a row, without a newly saved step, that are preempted", SOFT_LIMIT)
    node: Annotated[NodeRetry, _OR_TRIES] = key("After a node failed", NodeRetry())
    deleted: Count = key("Maximum number in a row, without a newly saved step, that are deleted", SOFT_LIMIT)
    input: Count = key("Maximum number in a row that cannot read an input", SOFT_LIMIT)

    def limit(self, cause: Cause) -> int:
        """How many attempts may end with this cause, which is one of HARD or SOFT."""
        written = getattr(self, cause.value)
        return int(written if isinstance(written, int) else written.tries)

    def updated(self, written: Mapping[str, Any]) -> RetryPolicy:
        """The policy with what a file writes: a value for each cause, or a mapping of some keys of it."""
        changes = {
            cause: replace(getattr(self, cause), **value) if isinstance(value, dict) else value
            for cause, value in written.items()
        }
        return replace(self, **changes)
