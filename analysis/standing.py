"""How a round stands: counts, hours, what remains, what failed, which settings did best, what changed. No HTML."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from analysis.frames import spans_of
from analysis.rounds import Entry, Metrics, RoundRecords, labels, metrics_of
from roundhouse.model.attempt import Progress
from roundhouse.model.causes import Cause
from roundhouse.model.plan import State
from roundhouse.store import logs
from roundhouse.views import eta, measured
from roundhouse.views.eta import Workload

ORDER = (
    State.COMPLETED,
    State.PRUNED,
    State.IN_PROGRESS,
    State.SUBMITTING,
    State.PENDING,
    State.FAILED,
    State.BLOCKED,
    State.CANCELLED,
)  # in which states are told
BEST = 3  # settings told of each group
LOGS = 200  # failures whose log's end is told: a round that failed as a whole repeats itself


@dataclass(frozen=True)
class Known:
    """One experiment and its metrics, read once."""

    entry: Entry
    metrics: Metrics

    @cached_property
    def spans(self) -> list[tuple[float, float]]:
        return spans_of(self.entry)

    @property
    def seconds(self) -> float:
        """How long all its attempts ran, together."""
        return sum(end - start for start, end in self.spans)

    @property
    def attempts(self) -> int:
        """Tries so far: marks are none, and neither is what the scheduler put off, or what paused as planned."""
        return sum(one.cause not in (Cause.LIMIT, Cause.RUNG) for one in self.entry.row.record.runs)

    @property
    def running(self) -> bool:
        """Whether a job holds its newest attempt; one that is only queued does not run."""
        return measured.is_running(self.entry.row)

    @cached_property
    def progress(self) -> Progress | None:
        """The furthest that an attempt has come, the newest first that told how far it is to go."""
        return measured.progress_of(self.entry.row.record)

    @property
    def done(self) -> int:
        return self.progress.epoch if self.progress else len(self.metrics.epochs)

    @property
    def planned(self) -> int | None:
        return self.progress.epochs if self.progress else None

    @property
    def pace(self) -> float | None:
        """Median seconds of an epoch of the stage that it is in; None where none was measured."""
        epochs = self.metrics.epochs
        seconds = [one.get("seconds") for one in epochs if one.get("stage") == epochs[-1].get("stage")]
        measured = [one for one in seconds if isinstance(one, (int, float)) and math.isfinite(one)]
        return statistics.median(measured) if measured else None

    @property
    def metric(self) -> str | None:
        return (self.progress.metric_name if self.progress else None) or self.metrics.metric

    @property
    def best(self) -> float | None:
        best = self.progress.best if self.progress else None
        return self.metrics.best if best is None else best


def known_of(found: RoundRecords) -> tuple[list[Known], list[str]]:
    """All experiments of a round with their metrics, and what could not be read."""
    problems = list(found.problems)
    return [Known(entry, metrics_of(entry, problems)) for entry in found.entries], problems


# --------------------------------------------------------------------------------------------------- counts and hours


def counts(known: Iterable[Known]) -> dict[State, int]:
    """How many experiments are in each state, in the order of `ORDER`; states without any are left out."""
    found = Counter(one.entry.state for one in known)
    return {state: found[state] for state in ORDER if found[state]}


@dataclass(frozen=True, slots=True)
class Use:
    """What was used so far: `hours` of `unit`, in so many `runs`. `restarted`: those that began more than once."""

    hours: float
    unit: str
    restarted: int
    runs: int


def use(known: Sequence[Known], resources_known: bool = True) -> Use:
    """Hours of all runs times GPUs; times CPU cores if no experiment asks for a GPU; else plain, of jobs."""
    unit, weights = eta.weights_of([_work(one) for one in known])
    if not resources_known:
        unit, weights = "job-hours", dict.fromkeys(weights, 1)
    hours = sum(one.seconds * weights[one.entry.path] for one in known) / 3600
    runs = [len(one.spans) for one in known]
    return Use(hours, unit, sum(number > 1 for number in runs), sum(runs))


# ---------------------------------------------------------------------------------------------------- what remains


@dataclass(frozen=True, slots=True)
class Prospect:
    """When all that goes on by itself may be through: in `seconds`, or not known. `basis` says on what that rests."""

    seconds: float | None
    ahead: int
    running: int
    uncounted: int
    basis: str


def prospect(known: Sequence[Known]) -> Prospect:
    """Measured work that remains, divided by how many run now, and not less than the longest chain of it.

    An experiment's own seconds per epoch count for its epochs to come; without them, the median of completed ones of
    its group and data set, else of its group. What failed, is blocked or was cancelled does not count.
    """
    found = eta.estimate([_work(one) for one in known])
    return Prospect(found.end.usual if found.end else None, found.ahead, found.running, found.uncounted, found.basis)


def _work(one: Known) -> Workload:
    """As the record tells it, but for what its metrics tell better. Those of another group are nothing like it."""
    work = eta.workload_of(one.entry.row)
    return work._replace(pace=one.pace, done=one.done, planned=one.planned, like=work.like[:2])


# -------------------------------------------------------------------------------------------------------- failures


@dataclass(frozen=True, slots=True)
class Failure:
    """An experiment that waits for a person. `log`: the end of what its last run printed, if anything."""

    path: str
    state: State
    cause: str
    reason: str
    attempts: int
    log: str


def failures(known: Iterable[Known]) -> list[Failure]:
    """What failed, is blocked or was cancelled, in this order."""
    stopped = sorted((one for one in known if one.entry.state.needs_user), key=lambda one: ORDER.index(one.entry.state))
    return [_failure(one, number < LOGS) for number, one in enumerate(stopped)]


def _failure(one: Known, with_log: bool) -> Failure:
    shown = one.entry.row.shown
    cause = one.entry.row.action.cause or (shown.cause if shown else None)
    log = ""
    if shown and with_log:
        try:
            log = logs.tail(one.entry.directory, shown.number)
        except OSError as error:
            log = f"(the log cannot be read: {error})"
    return Failure(one.entry.path, one.entry.state, str(cause or ""), one.entry.reason, one.attempts, log)


# ------------------------------------------------------------------------------------------------------- best runs


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation over n seeds. With one seed the noise is not known: None."""

    mean: float
    deviation: float | None
    n: int


def spread(values: Sequence[float]) -> Spread | None:
    """None: there are no values."""
    if not values:
        return None
    deviation = None if len(values) == 1 else statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
    return Spread(statistics.fmean(values), deviation, len(values))


@dataclass(frozen=True, slots=True)
class Setting:
    """Completed experiments that differ in their seed alone. `chosen`: what they are ranked by; `result`: at the end.

    `baseline`: the result of what they stand beside; `chance`: a share, where runs tell it. None: not known.
    """

    label: str
    chosen: Spread
    result: Spread | None
    baseline: Spread | None
    chance: float | None


@dataclass(frozen=True, slots=True)
class Leaders:
    """The best settings of a group, on one data set if the round has several.

    `metric` is what they are ranked by, best first by `mode` (max or min); `result` what is told of them, the same
    where there is no test metric. `baseline`: the name of the group that they stand beside, if any.
    """

    group: str
    dataset: str | None
    metric: str
    mode: str
    result: str
    baseline: str | None
    settings: list[Setting]
    of: int


def leaders(found: RoundRecords, known: Sequence[Known]) -> list[Leaders]:
    """The best settings of each group and data set among completed experiments that name a metric.

    Ranked by that metric, not by the test data, which choosing by would spoil.
    """
    several = len({one.entry.data_set for one in known}) > 1
    kinds: dict[tuple[str, str | None], list[Known]] = {}
    for one in known:
        dataset = (one.entry.data_set or None) if several else None
        kinds.setdefault((one.entry.group, dataset), []).append(one)
    by_path = {one.entry.path: one for one in known}
    told = (_leaders(found, by_path, group, dataset, everyone) for (group, dataset), everyone in kinds.items())
    return [one for one in told if one]


def _leaders(
    found: RoundRecords, by_path: Mapping[str, Known], group: str, dataset: str | None, everyone: Sequence[Known]
) -> Leaders | None:
    names = labels([one.entry for one in everyone])
    through = (one for one in everyone if one.entry.state is State.COMPLETED)
    members = [one for one in through if one.metric and one.best is not None]
    if not members:
        return None
    metric = str(members[0].metric)
    mode = next((one.metrics.mode for one in members if one.metrics.metric), "max")
    tested = f"test_{metric.removeprefix('val_')}"
    result = tested if any(tested in one.metrics.final for one in members) else metric
    settings: dict[str, list[Known]] = {}
    for one in members:
        if one.metric == metric:
            settings.setdefault(one.entry.setting, []).append(one)
    means = {key: statistics.fmean(_values(ones, metric)) for key, ones in settings.items()}
    ranked = sorted(settings, key=lambda key: _rank(means[key], mode))
    baseline = found.baselines.get(group)
    told = [_setting(found, by_path, names[key], settings[key], metric, result) for key in ranked[:BEST]]
    return Leaders(group, dataset, metric, mode, result, baseline, told, len(settings))


def _rank(mean: float, mode: str) -> float:
    """Least is best; what diverged comes last."""
    return (-mean if mode == "max" else mean) if math.isfinite(mean) else math.inf


def _setting(
    found: RoundRecords, by_path: Mapping[str, Known], label: str, ones: Sequence[Known], metric: str, result: str
) -> Setting:
    chosen = spread(_values(ones, metric))
    assert chosen  # each has its metric, or it would not be among these
    beside = [by_path[entry.path] for entry in found.baseline_of(ones[0].entry)]
    completed = [one for one in beside if one.entry.state is State.COMPLETED]
    chances = spread([one.metrics.final["chance_accuracy"] for one in ones if "chance_accuracy" in one.metrics.final])
    chance = chances.mean if chances and result.endswith("accuracy") else None
    return Setting(label, chosen, spread(_values(ones, result)), spread(_values(completed, result)), chance)


def _values(ones: Iterable[Known], name: str) -> list[float]:
    values = [one.best if name == one.metric else one.metrics.final.get(name) for one in ones]
    return [value for value in values if value is not None]


# ---------------------------------------------------------------------------------------------------- what changed


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the last report. `bests`: path, value before, value now; `stopped`: path, state now."""

    since: str
    completed: list[str]
    stopped: list[tuple[str, str]]
    requeued: list[str]
    bests: list[tuple[str, float | None, float | None]]
    added: list[str]
    removed: list[str]

    @property
    def any(self) -> bool:
        return any((self.completed, self.stopped, self.requeued, self.bests, self.added, self.removed))


def snapshot(known: Iterable[Known]) -> dict[str, dict[str, Any]]:
    """What the next report needs of this one: by path, state, best result and number of attempts."""
    return {
        one.entry.path: {
            "state": str(one.entry.state),
            "best": one.best if one.best is not None and math.isfinite(one.best) else None,
            "attempts": one.attempts,
        }
        for one in known
    }


def changes(since: str, before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> Changes:
    """What is new between two snapshots. An experiment that has just completed is not told as a changed best too."""
    both = {path: (before[path], told) for path, told in now.items() if path in before}
    moved = {path: now[path]["state"] for path in now if before.get(path, {}).get("state") != now[path]["state"]}
    completed = [path for path, state in moved.items() if state == State.COMPLETED]
    return Changes(
        since,
        completed,
        [(path, state) for path, state in moved.items() if State(state).needs_user],
        [path for path, (old, new) in both.items() if new["attempts"] > old["attempts"] > 0],
        [
            (path, old["best"], new["best"])
            for path, (old, new) in both.items()
            if old["best"] != new["best"] and path not in completed
        ],
        [path for path in now if path not in before],
        [path for path in before if path not in now],
    )
