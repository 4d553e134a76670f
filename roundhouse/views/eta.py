"""Hours used and left, and the ETA of a round, from what its own experiments have measured."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from math import inf
from typing import NamedTuple

from roundhouse.formatting import counted, duration
from roundhouse.model.experiment import SEED, Experiment
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.views.measured import counter_of, is_running, spans

WEEK = 7 * 86400.0


class Range(NamedTuple):
    """Bounds of an estimate: `low` <= `usual` <= `high`. `high` is inf if nothing measured gives an upper bound."""

    low: float
    usual: float
    high: float


ZERO, UNBOUNDED = Range(0.0, 0.0, 0.0), Range(0.0, 0.0, inf)


class Workload(NamedTuple):
    """The time of one experiment. A tuple, since a pass over a large round makes very many.

    `seconds`: of all its `runs` so far. `pace`: its own seconds per epoch or step, if measured; `done` of `planned` are
    done. `like`: the kinds that it belongs to, the most specific first. `after`: paths of its dependencies.
    """

    path: str
    ahead: bool
    running: bool
    completed: bool
    seconds: float
    runs: int
    done: int
    planned: int | None
    pace: float | None
    gpus: float
    cores: float
    like: tuple[Hashable, ...]
    after: tuple[str, ...] = ()

    @property
    def left(self) -> Range | None:
        """Seconds left by its own pace, if that is known. Of the epoch or step that runs, any part may be left."""
        if not self.ahead or self.pace is None or not self.planned:
            return None
        remaining = max(self.planned - self.done, 0)
        most = remaining * self.pace
        return Range(most - self.pace if self.running and remaining else most, most, most)


@dataclass(frozen=True, slots=True)
class Estimate:
    """`used` and `left`: hours of `unit`. `end`: seconds from now until everything that continues is done.

    `basis` says how `end` was estimated, or why it is None. `uncounted` of the experiments `ahead` are in neither
    `left` nor `end`, since nothing like them was measured; durations come from `measured` experiments.
    """

    used: float
    unit: str
    left: Range | None
    end: Range | None
    ahead: int
    running: int
    uncounted: int
    measured: int
    basis: str


def workload_of(status: ExperimentStatus) -> Workload:
    """The workload of one experiment, from its record alone. Its kinds: see `kinds_of`."""
    one, rec, ahead = status.experiment, status.record, goes_on(status)
    counter, ran = counter_of(rec) if ahead else None, spans(rec)
    slots = one.resources.pack.slots if one.resources.pack else 1
    return Workload(
        path=one.path,
        ahead=ahead,
        running=ahead and is_running(status),
        completed=status.action.state is State.COMPLETED,
        seconds=sum(end - start for start, end in ran),
        runs=len(ran),
        done=counter.done if counter else 0,
        planned=counter.planned if counter else None,
        pace=counter.seconds if counter else None,
        gpus=one.resources.ngpus / slots,
        cores=one.resources.ncpus / slots,
        like=kinds_of(one),
        after=one.dependencies if ahead else (),
    )


def kinds_of(one: Experiment) -> tuple[str, ...]:
    """The kinds that an experiment belongs to, the most specific first; its group and the round are the last two.

    Those of a kind have the same group and equal values of the first keys of the config, the seed left out. The keys of
    a sweep come last, in the order of the round file: what matters most for the time is best swept first.
    """
    kind = f"group {one.group}"
    kinds = ["", kind]
    for key, value in one.config.items():
        if key != SEED:
            kind = f"{kind}\0{key} {value!r}"
            kinds.append(kind)
    return tuple(reversed(kinds))


def estimate(works: Sequence[Workload]) -> Estimate:
    """Hours used and left, and the end if as many experiments run at once as now."""
    unit, weights = weights_of(works)
    ahead, left = [one for one in works if one.ahead], left_of(works)
    running, uncounted = sum(one.running for one in ahead), sum(found is None for found in left.values())
    some_known = uncounted < len(ahead)
    bounds = {path: found or UNBOUNDED for path, found in left.items()}
    hours = [Range(*(each * weights[path] / 3600 for each in found)) for path, found in bounds.items() if weights[path]]
    end = None if ahead else ZERO
    if not ahead:
        basis = "no experiment remains"
    elif not running:
        basis = "no experiment is running"
    elif not some_known:
        basis = "no similar experiment was measured"
    else:
        end = _end(ahead, bounds, running)
        basis = f"with {running} of {counted(len(ahead), 'remaining experiment')} running"
        basis += f", without {counted(uncounted, 'experiment')} of unknown duration" if uncounted else ""
    return Estimate(
        used=sum(one.seconds * weights[one.path] for one in works) / 3600,
        unit=unit,
        left=_total(hours) if some_known or not ahead else None,
        end=end,
        ahead=len(ahead),
        running=running,
        uncounted=uncounted,
        measured=sum(one.completed and one.runs > 0 or one.left is not None for one in works),
        basis=basis,
    )


def weights_of(works: Sequence[Workload]) -> tuple[str, dict[str, float]]:
    """The unit of hours, and how many of it one hour of each experiment counts: its GPUs, or without any its cores.

    An experiment that shares a job with others counts as the share of its slot.
    """
    if any(one.gpus for one in works):
        return "GPU-hours", {one.path: one.gpus for one in works}
    return "CPU-hours", {one.path: one.cores for one in works}


def left_of(works: Sequence[Workload]) -> dict[str, Range | None]:
    """Seconds left of each experiment that continues, by path; None if nothing like it was measured."""
    measured = _measured(works)
    return {one.path: one.left or _like(one, measured) for one in works if one.ahead}


def _like(one: Workload, measured: Mapping[Hashable, Range]) -> Range | None:
    """By what others of its kind took. One that has run longer than all of them has no upper bound."""
    took = next((measured[kind] for kind in one.like if kind in measured), None)
    if took is None or one.seconds > took.high:
        return took and UNBOUNDED
    return Range(*(max(seconds - one.seconds, 0.0) for seconds in took))


def _measured(works: Iterable[Workload]) -> dict[Hashable, Range]:
    """Seconds of whole experiments by kind: quartiles and median of completed ones, else of unfinished ones."""
    completed: dict[Hashable, list[float]] = {}
    projected: dict[Hashable, list[float]] = {}
    for one in works:
        left = ZERO if one.completed and one.runs else one.left
        if left is not None:
            for kind in one.like:
                (completed if one.completed else projected).setdefault(kind, []).append(one.seconds + left.usual)
    return {kind: _quartiles(sorted(values)) for kind, values in {**projected, **completed}.items()}


def _quartiles(values: Sequence[float]) -> Range:
    last = len(values) - 1
    return Range(values[last // 4], (values[last // 2] + values[(last + 1) // 2]) / 2, values[last - last // 4])


def _end(ahead: Sequence[Workload], left: Mapping[str, Range], running: int) -> Range:
    """Seconds until the last one ends.

    Work W, of which the longest chain of dependencies is L, takes at least max(W/m, L) with m at once, and at most
    L + (W - L)/m in any order (R. L. Graham, "Bounds on Multiprocessing Timing Anomalies", SIAM J. Appl. Math. 17,
    1969). m is the number that runs now. If nothing that could run waits, more may run at once later: then the lower
    bound is L.
    """
    before = {one.path: [path for path in one.after if path in left] for one in ahead}
    ends: dict[str, Range] = {}
    for path in TopologicalSorter(before).static_order():
        ends[path] = _total([_latest(ends[name] for name in before[path]), left[path]])
    total, chain = _total(left.values()), _latest(ends.values())
    waiting = any(not one.running and not before[one.path] for one in ahead)
    low = max(total.low / running, chain.low) if waiting else chain.low
    usual = max(low, total.usual / running, chain.usual)
    high = chain.high
    if len(ahead) > running and high < inf:
        high += (total.high - high) / running
    return Range(low, usual, max(usual, high))


def _total(ranges: Iterable[Range]) -> Range:
    return Range(*map(sum, zip(ZERO, *ranges, strict=True)))


def _latest(ranges: Iterable[Range]) -> Range:
    return Range(*map(max, zip(ZERO, *ranges, strict=True)))


# ------------------------------------------------------------------------------------------------------------- text


def lines(statuses: Iterable[ExperimentStatus], now: float) -> list[str]:
    """What is printed below the table of a round, a line at most. `now`: seconds since 1970."""
    text = sentence(estimate([workload_of(status) for status in statuses]), now)
    return [text] if text else []


def sentence(found: Estimate, now: float) -> str:
    """An estimate in words; empty for a round that has never run."""
    if not found.used and not found.running and not found.measured:
        return ""
    used = f"{_hours(found.used)} {found.unit} used"
    if not found.ahead:
        return f"{used}."
    if found.left:
        low, high = _hours(found.left.low), _hours(found.left.high)
        amount = f"at least {low}" if found.left.high == inf else f"about {high}" if low == high else f"{low} to {high}"
        used += f", {amount} left"
    if found.end is None:
        return f"{used}. No ETA yet: {found.basis}."
    if found.end.high == inf and found.end.low < 1:
        return f"{used}. No ETA: a running experiment has taken longer than all measured ones."
    measured = counted(found.measured, "measured experiment")
    return f"{used}. ETA: {when(found.end, now)}, {found.basis}; based on {measured}."


def when(end: Range, now: float) -> str:
    """A range of times: `in 3 h 5 min to 4 h 0 min (Fri 14:05 to Fri 15:00)`."""
    if end.high == inf:
        return f"in at least {duration(end.low)}"
    first, last = duration(end.low), duration(end.high)
    period = f"about {last}" if first == last else f"{first} to {last}"
    first, last = _moment(now + end.low, now), _moment(now + end.high, now)
    return f"in {period} ({last if first == last else f'{first} to {last}'})"


def _moment(at: float, now: float) -> str:
    return time.strftime("%a %H:%M" if at - now < WEEK else "%d %b %Y", time.localtime(at))


def _hours(hours: float) -> str:
    return f"{hours:.{2 if hours < 1 else 1 if hours < 100 else 0}f}"
