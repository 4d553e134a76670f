"""What a round has used, what is left of it, and when it may end, as far as its own runs have measured it."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from roundhouse import formatting
from roundhouse.model.attempt import Attempt, Progress, Record
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus, goes_on

LONGEST = 366 * 86400.0  # seconds: no job runs longer, so an attempt that seems to has only seen a clock go wrong
WEEK = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Range:
    """An estimate and its bounds: `low` <= `usual` <= `high`. `high` None: nothing measured tells of an upper one."""

    low: float
    usual: float
    high: float | None


class Work(NamedTuple):
    """One experiment, as far as time goes. A tuple, since a pass over a large round makes very many.

    `seconds`: of all its `runs` so far. `pace`: its own seconds per epoch, if measured; `done` of `planned` epochs are
    done. `like`: what it has in common with others, the closest first. `after`: paths of what it waits for.
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


@dataclass(frozen=True, slots=True)
class Outlook:
    """How far a round is. `used`, `left`: hours of `unit`; `end`: seconds from now until all that goes on is through.

    `basis` says on what `end` rests, or why it is None. `uncounted` of those `ahead` are not in `left` and `end`, for
    nothing like them was measured; durations come from `measured` experiments.
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


# ------------------------------------------------------------------------------------------------ from the records


def spans(rec: Record) -> list[tuple[float, float]]:
    """When its attempts ran: (start, end) in seconds since 1970, by the clock of the job's host. Never end < start.

    The end of an attempt that is open is its last sign of life. One whose job left no result counts to the moment at
    which a pass closed it, an upper bound.
    """
    return [(one.claim.started, one.claim.started + _length(one)) for one in rec.runs if _ran(one) and one.claim]


def _ran(attempt: Attempt) -> bool:
    claim = attempt.claim
    return claim is not None and not claim.void and 0 < claim.started < math.inf


def _length(attempt: Attempt) -> float:
    """Seconds that an attempt ran. Where two clocks would be compared, that of the file server stands for the host's.

    Copies may have lost the files' own times: such a start is later than the end, and is not used.
    """
    claim, result = attempt.claim, attempt.result
    assert claim is not None
    end = result.at if result else attempt.progress_at or 0.0
    own = result is not None and result.exit_code is not None  # the job's shell wrote start and end
    start = claim.at if not own and 0 < claim.at <= end else claim.started
    length = end - start
    return length if 0 <= length <= LONGEST else 0.0


def progress_of(rec: Record) -> Progress | None:
    """The furthest that an attempt has come, the newest first that told how far it is to go."""
    attempts = [rec.completed] if rec.completed else rec.attempts[::-1]
    told = [one.progress for one in attempts if one.progress]
    return next((one for one in told if one.epochs), told[0] if told else None)


def pace_of(rec: Record) -> float | None:
    """Seconds of an epoch: as its training measured them, else those of its attempts by the epochs that they gained."""
    told = progress_of(rec)
    if told is not None and told.seconds_per_epoch is not None:
        return told.seconds_per_epoch
    gaining = [one for one in rec.runs if one.progress and one.progress.gained and _ran(one)]
    seconds = sum(_length(one) for one in gaining)
    epochs = sum(one.progress.epoch - one.progress.started_epoch for one in gaining if one.progress)
    return seconds / epochs if seconds > 0 else None


def is_running(row: ExperimentStatus) -> bool:
    """Whether a job holds its newest attempt; one that is only queued does not run."""
    newest = row.record.newest
    holds = newest is not None and not newest.closed and newest.opened.mark is None and newest.claim is not None
    return holds and goes_on(row)


def work_of(row: ExperimentStatus) -> Work:
    """One experiment, as its record alone tells it: nothing is read.

    It is like those of its group and data set; if none of them was measured, its group; else, the round.
    """
    one, rec = row.experiment, row.record
    ran, ahead = spans(rec), goes_on(row)
    told = progress_of(rec) if ahead else None
    asked, slots = one.resources, one.resources.pack.slots if one.resources.pack else 1
    return Work(
        path=one.path,
        ahead=ahead,
        running=ahead and is_running(row),
        completed=row.action.state is State.COMPLETED,
        seconds=sum(end - start for start, end in ran),
        runs=len(ran),
        done=told.epoch if told else 0,
        planned=told.epochs if told else None,
        pace=pace_of(rec) if ahead else None,
        gpus=asked.ngpus / slots,
        cores=asked.ncpus / slots,
        like=((one.group, str(one.config.get("dataset"))), (one.group,), ()),
        after=tuple(path for paths in one.after.values() for path in paths) if ahead else (),
    )


# -------------------------------------------------------------------------------------------------------- estimates


def outlook(works: Sequence[Work]) -> Outlook:
    """What was used, what is left, and when the end may come at as many running at once as now.

    Work left W, of which L lies in the longest chain of experiments that wait for each other, takes m at a time at
    least max(W/m, L), and at most L + (W - L)/m in whatever order it is done (R. L. Graham, "Bounds on Multiprocessing
    Timing Anomalies", SIAM J. Appl. Math. 17, 1969). Where nothing that could run waits, more might run at once later,
    and the least is L alone.
    """
    unit, weights = weights_of(works)
    left = left_of(works)
    ahead = [one for one in works if one.ahead]
    counted = {path: found for path, found in left.items() if found is not None}
    running, uncounted = sum(one.running for one in ahead), len(ahead) - len(counted)
    hours = [_times(left[one.path], weights[one.path] / 3600) for one in ahead]
    end = _end(ahead, left, running) if running and counted else None
    if not ahead:
        end = Range(0.0, 0.0, 0.0)
    return Outlook(
        used=sum(one.seconds * weights[one.path] for one in works) / 3600,
        unit=unit,
        left=_total(hours) if counted or not ahead else None,
        end=end,
        ahead=len(ahead),
        running=running,
        uncounted=uncounted,
        measured=sum(one.completed and one.runs > 0 or _own(one) is not None for one in works),
        basis=_basis(len(ahead), running, uncounted, bool(counted)),
    )


def weights_of(works: Iterable[Work]) -> tuple[str, dict[str, float]]:
    """The unit of what was used, and what an hour of each experiment counts: its GPUs, or without any its cores.

    One that shares a job with others counts as its slot's share.
    """
    works = list(works)
    if any(one.gpus for one in works):
        return "GPU-hours", {one.path: one.gpus for one in works}
    return "CPU-hours", {one.path: one.cores for one in works}


def left_of(works: Iterable[Work]) -> dict[str, Range | None]:
    """Seconds left of each experiment that goes on, by path; None where nothing like it was measured."""
    works = list(works)
    ahead = [one for one in works if one.ahead]
    measured = _measured(works) if ahead else {}
    return {one.path: _own(one) or _like(one, measured) for one in ahead}


def _own(one: Work) -> Range | None:
    """By its own pace. Of the epoch that it is in, anything may be left."""
    if not one.ahead or one.pace is None or not one.planned:
        return None
    epochs = max(one.planned - one.done, 0)
    begun = 1 if one.running and epochs else 0
    return Range((epochs - begun) * one.pace, epochs * one.pace, epochs * one.pace)


def _like(one: Work, measured: Mapping[Hashable, Range]) -> Range | None:
    """By what others took. One that has run longer than they did ends some time."""
    found = next((measured[kind] for kind in one.like if kind in measured), None)
    if found is None or found.high is None:
        return None
    over = one.seconds > found.high
    low, usual = max(found.low - one.seconds, 0.0), max(found.usual - one.seconds, 0.0)
    return Range(low, usual, None if over else found.high - one.seconds)


def _measured(works: Iterable[Work]) -> dict[Hashable, Range]:
    """Seconds of whole experiments by kind: quartiles and median of completed ones, else of what runs, to its end."""
    completed: dict[Hashable, list[float]] = {}
    projected: dict[Hashable, list[float]] = {}
    for one in works:
        own = _own(one)
        if one.completed and one.runs:
            for kind in one.like:
                completed.setdefault(kind, []).append(one.seconds)
        elif own is not None:
            for kind in one.like:
                projected.setdefault(kind, []).append(one.seconds + own.usual)
    return {kind: _quartiles(values) for kind, values in {**projected, **completed}.items()}


def _quartiles(values: list[float]) -> Range:
    ordered, last = sorted(values), len(values) - 1
    middle = (ordered[last // 2] + ordered[(last + 1) // 2]) / 2
    return Range(ordered[last // 4], middle, ordered[last - last // 4])


def _end(ahead: Sequence[Work], left: Mapping[str, Range | None], running: int) -> Range:
    """Seconds until the last one ends, `running` at a time; see `outlook`."""
    total, chain = _total(left.values()), _longest_chain(ahead, left)
    going = {one.path for one in ahead}
    waits = any(not one.running and going.isdisjoint(one.after) for one in ahead)
    low = max(total.low / running, chain.low) if waits else chain.low
    usual = max(total.usual / running, chain.usual)
    if total.high is None or chain.high is None:
        return Range(low, max(low, usual), None)
    high = chain.high if len(ahead) <= running else chain.high + max(total.high - chain.high, 0.0) / running
    return Range(low, max(low, usual), max(low, usual, high))


def _longest_chain(ahead: Sequence[Work], left: Mapping[str, Range | None]) -> Range:
    """The most that must be done one after the other."""
    from graphlib import TopologicalSorter

    works = {one.path: one for one in ahead}
    before = {path: [name for name in one.after if name in works] for path, one in works.items()}
    order = TopologicalSorter(before).static_order() if any(before.values()) else list(works)
    ends: dict[str, Range] = {}
    longest = Range(0.0, 0.0, 0.0)
    for path in order:
        start = Range(0.0, 0.0, 0.0)
        for name in before[path]:
            start = _later(start, ends[name])
        ends[path] = _total([start, left[path]])
        longest = _later(longest, ends[path])
    return longest


def _later(one: Range, other: Range) -> Range:
    high = None if one.high is None or other.high is None else max(one.high, other.high)
    return Range(max(one.low, other.low), max(one.usual, other.usual), high)


def _total(ranges: Iterable[Range | None]) -> Range:
    """The sum; what is not known adds nothing, and takes the upper bound away."""
    low = usual = high = 0.0
    bounded = True
    for one in ranges:
        if one is None or one.high is None:
            bounded = False
        else:
            high += one.high
        if one is not None:
            low, usual = low + one.low, usual + one.usual
    return Range(low, usual, max(high, usual) if bounded else None)


def _times(one: Range | None, factor: float) -> Range | None:
    if one is None:
        return None
    return Range(one.low * factor, one.usual * factor, None if one.high is None else one.high * factor)


def _basis(ahead: int, running: int, uncounted: int, counted: bool) -> str:
    missing = (
        f"{formatting.counted(uncounted, 'experiment')} without a measured duration not counted" if uncounted else ""
    )
    if not ahead:
        return "nothing remains that goes on by itself"
    if not running:
        return "nothing runs"
    if not counted:
        return missing
    pace = f"at {running} running now, of {formatting.counted(ahead, 'experiment')} ahead"
    return f"{pace}; {missing}" if missing else pace


# ----------------------------------------------------------------------------------------------------------- words


def told(rows: Iterable[ExperimentStatus], now: float) -> list[str]:
    """What a person is told of a round below its table. `now`: seconds since 1970."""
    return lines(outlook([work_of(row) for row in rows]), now)


def lines(found: Outlook, now: float) -> list[str]:
    """An outlook in words; none of a round that has never run."""
    if not found.used and not found.running and not found.measured:
        return []
    used = f"{_hours(found.used)} {found.unit} used"
    if not found.ahead:
        return [f"{used}."]
    left = f", {_hours_left(found.left)}" if found.left else ""
    if found.end is None:
        why = "nothing like it was measured" if found.running else found.basis
        return [f"{used}{left}. When it ends is not known yet: {why}."]
    if found.end.high is None and found.end.low < 1:
        return [f"{used}{left}. When it ends is not known: what runs has taken longer than all that was measured."]
    measured = f"measured in {formatting.counted(found.measured, 'experiment')}"
    return [f"{used}{left}. The end {when(found.end, now)}, {found.basis}; {measured}."]


def when(end: Range, now: float) -> str:
    """From when to when it may come: `in 3 h 5 min to 4 h 0 min (Fri 14:05 to Fri 15:00)`."""
    if end.high is None:
        return f"in {duration(end.low)} at the least"
    from_, to = duration(end.low), duration(end.high)
    first, last = _moment(now + end.low, now), _moment(now + end.high, now)
    told = f"about {to}" if from_ == to else f"{from_} to {to}"
    return f"in {told} ({last if first == last else f'{first} to {last}'})"


def duration(seconds: float) -> str:
    """A time in the two units that matter: `2 d 4 h`, `3 h 20 min`, `45 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _moment(at: float, now: float) -> str:
    return time.strftime("%a %H:%M" if at - now < WEEK else "%d %b %Y", time.localtime(at))


def _hours(hours: float) -> str:
    return f"{hours:.{2 if hours < 1 else 1 if hours < 100 else 0}f}"


def _hours_left(left: Range) -> str:
    low = _hours(left.low)
    if left.high is None:
        return f"at least {low} left"
    high = _hours(left.high)
    return f"about {high} left" if low == high else f"{low} to {high} left"
