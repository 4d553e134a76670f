"""Summary of a round: counts, hours, remaining time, failures, best settings, changes. Contains no HTML."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from analysis.result_metric import result_metric
from analysis.rounds import RoundEntry, RoundRecords, metrics_of, setting_labels
from roundhouse.metrics import Declarations
from roundhouse.model.attempt import EPOCH, STEP, Progress
from roundhouse.model.plan import State
from roundhouse.store import logs
from roundhouse.store.metrics import RunMetrics
from roundhouse.views import eta, measured
from roundhouse.views.eta import Workload

ORDER = (
    State.COMPLETED,
    State.PRUNED,
    State.DIVERGED,
    State.IN_PROGRESS,
    State.SUBMITTING,
    State.PENDING,
    State.FAILED,
    State.BLOCKED,
    State.CANCELLED,
)  # in which states are listed
SETTINGS_SHOWN = 3  # best settings of each group
LOGS_SHOWN = 200  # failures shown with the end of their log: when all of a round fails, logs are alike


@dataclass(frozen=True)
class ExperimentSummary:
    """One experiment with its metrics, read once."""

    entry: RoundEntry
    metrics: RunMetrics

    @property
    def running(self) -> bool:
        """Whether a job has claimed its newest attempt; a queued job is not running."""
        return measured.is_running(self.entry.status)

    @cached_property
    def progress(self) -> Progress | None:
        """The progress of the newest attempt that reported its planned epochs; else of the newest with any progress."""
        return measured.progress_of(self.entry.record)

    @property
    def unit(self) -> str:
        """What it counts: epoch or step."""
        return self.progress.unit if self.progress else EPOCH

    @property
    def done(self) -> int:
        return self.progress.counter().done if self.progress else len(self.metrics.epochs)

    @property
    def planned(self) -> int | None:
        return self.progress.counter().planned if self.progress else None

    @property
    def pace(self) -> float | None:
        """Seconds of an epoch or step of its current stage, of epochs the median; None if none was measured."""
        if self.unit == STEP:
            counter = measured.counter_of(self.entry.record)
            return counter.seconds if counter else None
        epochs = self.metrics.epochs
        seconds = [one.get("seconds") for one in epochs if one.get("stage") == epochs[-1].get("stage")]
        known = [one for one in seconds if isinstance(one, (int, float)) and math.isfinite(one)]
        return statistics.median(known) if known else None

    @property
    def metric(self) -> str | None:
        return (self.progress.metric_name if self.progress else None) or self.metrics.metric

    @property
    def best(self) -> float | None:
        best = self.progress.best if self.progress else None
        return self.metrics.best if best is None else best


def summaries_of(found: RoundRecords) -> tuple[list[ExperimentSummary], list[str]]:
    """All experiments of a round with their metrics, and what could not be read."""
    problems = list(found.problems)
    return [ExperimentSummary(entry, metrics_of(entry, problems)) for entry in found.entries], problems


# --------------------------------------------------------------------------------------------------- counts and hours


def counts(summaries: Iterable[ExperimentSummary]) -> dict[State, int]:
    """How many experiments are in each state, in the order of `ORDER`; states without any are left out."""
    found = Counter(one.entry.state for one in summaries)
    return {state: found[state] for state in ORDER if found[state]}


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources used so far: `hours` of `unit`, in `runs` attempts. `restarted`: experiments with more than one run."""

    hours: float
    unit: str
    restarted: int
    runs: int


def usage(summaries: Sequence[ExperimentSummary], resources_known: bool = True) -> Usage:
    """Hours of all runs times GPUs; times CPU cores if no experiment requests a GPU; job-hours if neither is known."""
    unit, weights = eta.weights_of([_work(one) for one in summaries])
    if not resources_known:
        unit, weights = "job-hours", dict.fromkeys(weights, 1)
    hours = sum(one.entry.seconds * weights[one.entry.path] for one in summaries) / 3600
    runs = [len(one.entry.spans) for one in summaries]
    return Usage(hours, unit, sum(number > 1 for number in runs), sum(runs))


# ---------------------------------------------------------------------------------------------------- remaining time


@dataclass(frozen=True, slots=True)
class RemainingTime:
    """The estimated time until the round ends: `seconds`, or None if unknown. `basis`: the basis of the estimate."""

    seconds: float | None
    ahead: int
    running: int
    uncounted: int
    basis: str


def remaining_time(summaries: Sequence[ExperimentSummary]) -> RemainingTime:
    """Remaining work divided by the number of running experiments, but at least its longest chain of dependencies.

    The remaining epochs or steps of an experiment count with its own seconds of each; without any, with the median of
    completed experiments of its group with the most equal values in the config. Stopped experiments do not count.
    """
    found = eta.estimate([_work(one) for one in summaries])
    return RemainingTime(
        found.end.usual if found.end else None, found.ahead, found.running, found.uncounted, found.basis
    )


def _work(one: ExperimentSummary) -> Workload:
    """From the record, with more exact values from the metrics. Experiments of other groups are not comparable."""
    work = eta.workload_of(one.entry.status)
    return work._replace(pace=one.pace, done=one.done, planned=one.planned, like=work.like[:-1])


# -------------------------------------------------------------------------------------------------------- failures


@dataclass(frozen=True, slots=True)
class Failure:
    """An experiment that needs an action of the user. `log`: the end of the log of its last run, if there is one."""

    path: str
    state: State
    cause: str
    reason: str
    attempts: int
    log: str


def failures(summaries: Iterable[ExperimentSummary]) -> list[Failure]:
    """The failed, blocked and cancelled experiments, in this order."""
    stopped = sorted(
        (one for one in summaries if one.entry.state.needs_user), key=lambda one: ORDER.index(one.entry.state)
    )
    return [_failure(one, number < LOGS_SHOWN) for number, one in enumerate(stopped)]


def _failure(one: ExperimentSummary, with_log: bool) -> Failure:
    shown = one.entry.status.shown
    cause = one.entry.status.action.cause or (shown.cause if shown else None)
    log = ""
    if shown and with_log:
        try:
            log = logs.tail(one.entry.directory, shown.number)
        except OSError as error:
            log = f"(the log cannot be read: {error})"
    return Failure(one.entry.path, one.entry.state, str(cause or ""), one.entry.reason, one.entry.counted_attempts, log)


# ------------------------------------------------------------------------------------------------------- best runs


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation over n seeds. The deviation of one seed is None."""

    mean: float
    deviation: float | None
    n: int


def spread(values: Sequence[float]) -> Spread | None:
    """None if there are no values."""
    if not values:
        return None
    deviation = None if len(values) == 1 else statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
    return Spread(statistics.fmean(values), deviation, len(values))


@dataclass(frozen=True, slots=True)
class RankedSetting:
    """Completed experiments that differ in their seed alone. `chosen`: the metric they are ranked by.

    `result`: the final metric; `baseline`: that of their baseline; `reference`: the value that the metric's declaration
    compares with, such as chance. None: unknown.
    """

    label: str
    chosen: Spread
    result: Spread | None
    baseline: Spread | None
    reference: float | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best settings of a group, on one data set if the round has several.

    `metric` is what they are ranked by, best first by `mode` (max or min); `result` is the metric shown, the same
    if there is no test metric. `baseline`: the name of the baseline group, if any; `declared`: how metrics are shown.
    If the mode is None, it is unknown which value is best: nothing is ranked, and `settings` is empty.
    """

    group: str
    dataset: str | None
    metric: str
    mode: str | None
    result: str
    baseline: str | None
    settings: list[RankedSetting]
    of: int
    declared: Declarations


def rankings(found: RoundRecords, summaries: Sequence[ExperimentSummary]) -> list[Ranking]:
    """The best settings of each group and data set among completed experiments that report a metric.

    They are ranked by the chosen metric, not by its result on test data, because that would bias the result.
    """
    several = len({one.entry.data_set for one in summaries}) > 1
    kinds: dict[tuple[str, str | None], list[ExperimentSummary]] = {}
    for one in summaries:
        dataset = (one.entry.data_set or None) if several else None
        kinds.setdefault((one.entry.group, dataset), []).append(one)
    by_path = {one.entry.path: one for one in summaries}
    made = (_ranking(found, by_path, group, dataset, members) for (group, dataset), members in kinds.items())
    return [one for one in made if one]


def _ranking(
    found: RoundRecords,
    by_path: Mapping[str, ExperimentSummary],
    group: str,
    dataset: str | None,
    candidates: Sequence[ExperimentSummary],
) -> Ranking | None:
    names, declared = setting_labels([one.entry for one in candidates]), candidates[0].entry.declared
    completed = [one for one in candidates if one.entry.completed]
    shown = result_metric([(one.entry, one.metrics) for one in completed], declared, found)
    members = [one for one in completed if shown and _values([one], shown.chosen)]
    if not shown or not members:
        return None
    metric, result, mode = shown.chosen, shown.result, shown.mode
    settings: dict[str, list[ExperimentSummary]] = {}
    for one in members:
        settings.setdefault(one.entry.setting, []).append(one)
    means = {key: statistics.fmean(_values(ones, metric)) for key, ones in settings.items()}
    ranked = sorted(settings, key=lambda key: _rank(means[key], mode)) if mode else []
    baseline = found.baselines.get(group)
    best = [
        _ranked_setting(found, by_path, names[key], settings[key], metric, result) for key in ranked[:SETTINGS_SHOWN]
    ]
    return Ranking(group, dataset, metric, mode, result, baseline, best, len(settings), declared)


def _rank(mean: float, mode: str) -> float:
    """A sort key: the best mean first, diverged runs last."""
    return (-mean if mode == "max" else mean) if math.isfinite(mean) else math.inf


def _ranked_setting(
    found: RoundRecords,
    by_path: Mapping[str, ExperimentSummary],
    label: str,
    ones: Sequence[ExperimentSummary],
    metric: str,
    result: str,
) -> RankedSetting:
    chosen = spread(_values(ones, metric))
    assert chosen  # each of them has the metric
    references = [by_path[entry.path] for entry in found.baseline_of(ones[0].entry)]
    completed = [one for one in references if one.entry.completed]
    known = (one.entry.declared.reference(result, one.metrics.final) for one in ones)
    references_of_runs = spread([value for value in known if value is not None])
    reference = references_of_runs.mean if references_of_runs else None
    return RankedSetting(label, chosen, spread(_values(ones, result)), spread(_values(completed, result)), reference)


def _values(ones: Iterable[ExperimentSummary], name: str) -> list[float]:
    values = [one.metrics.value(name) for one in ones]
    return [value for value in values if value is not None]


# ---------------------------------------------------------------------------------------------------- what changed


@dataclass(frozen=True, slots=True)
class Changes:
    """Differences from the previous report. `bests`: path, old value, new value; `stopped`: path, new state."""

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


def snapshot(summaries: Iterable[ExperimentSummary]) -> dict[str, dict[str, Any]]:
    """What the next report is compared with: by path the state, best result and number of attempts."""
    return {
        one.entry.path: {
            "state": str(one.entry.state),
            "best": one.best if one.best is not None and math.isfinite(one.best) else None,
            "attempts": one.entry.counted_attempts,
        }
        for one in summaries
    }


def changes(since: str, before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> Changes:
    """The differences between two snapshots. A newly completed experiment is not listed as a changed best too."""
    both = {path: (before[path], current) for path, current in now.items() if path in before}
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
