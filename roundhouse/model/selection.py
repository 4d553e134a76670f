"""Selections: a group takes the best settings of other groups, by the mean over seeds. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from roundhouse.expressions import Expression
from roundhouse.formatting import spread
from roundhouse.model.attempt import Attempt
from roundhouse.model.experiment import SEED, SELECTED, Experiment, Selection, comparable, setting_of
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.names import nearest
from roundhouse.placeholders import any_text, fill_words, printable


class Metrics(Protocol):
    """Reads the metrics of an attempt of the experiment in a directory. NaN: not a finite number. None: no such metric.

    `result_of`: the final value. `value_at`: the value at an epoch or step. `names_of`: the metrics that exist.
    """

    def result_of(self, directory: Path, attempt: Attempt, metric: str) -> float | None: ...

    def value_at(self, directory: Path, attempt: Attempt, metric: str, position: int) -> float | None: ...

    def names_of(self, directory: Path, attempt: Attempt) -> list[str]: ...


class Run(NamedTuple):
    """A run to be ranked, with its value of the metric. `group`: if runs of several groups are ranked together."""

    path: str
    config: Mapping[str, Any]
    value: float
    group: str = ""

    @property
    def setting(self) -> tuple[str, str]:
        return self.group, setting_of(self.config)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A setting: runs of a group that differ only in their seed.

    `config` is what they share, `values` are those of `paths`.
    """

    group: str
    config: Mapping[str, Any]
    paths: tuple[str, ...]
    seeds: tuple[Any, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Independent of the order of the values."""
        return math.fsum(self.values) / len(self.values)


def ranking(runs: Iterable[Run], mode: str) -> list[Candidate]:
    """The settings of these runs, the best mean first; equal means by path, NaN last."""
    ordered = sorted(runs, key=lambda run: run.path)
    varied = len({_text(run.config.get(SEED)) for run in ordered}) > 1
    settings: dict[tuple[str, str], list[Run]] = {}
    for run in ordered:
        settings.setdefault(run.setting, []).append(run)
    candidates = [
        Candidate(
            members[0].group,
            {key: value for key, value in members[0].config.items() if key != SEED or not varied},
            tuple(run.path for run in members),
            tuple(run.config.get(SEED) for run in members),
            tuple(run.value for run in members),
        )
        for members in settings.values()
    ]
    sign = 1.0 if mode == "min" else -1.0
    return sorted(candidates, key=lambda one: sign * one.mean if math.isfinite(one.mean) else math.inf)


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The settings that were not pruned, the best first, and how many are `left_out` for which reason.

    Or `why` they cannot be ranked (see `Selection`).
    """

    settings: Sequence[Candidate] = ()
    left_out: str = ""
    why: str = ""
    hopeless: bool = True
    blocked: bool = False


class Selections:
    """The selections of one evaluation. Each ranking is computed once, from the statuses of its groups."""

    def __init__(self, statuses: Mapping[str, ExperimentStatus], metrics: Metrics) -> None:
        self._statuses, self._metrics = statuses, metrics
        self._known: dict[tuple[Any, ...], _Ranking] = {}

    def resolve(self, experiment: Experiment) -> Experiment:
        """The experiment with its selection made, or with the reason why that is not possible yet."""
        wanted = experiment.selection
        if wanted is None:
            return experiment
        value = _text(experiment.config.get(wanted.per)) if wanted.per else None
        key = wanted.groups, wanted.metric, wanted.mode, wanted.where, wanted.per, value
        if key not in self._known:
            self._known[key] = self._ranking(experiment, wanted)
        found = self._known[key]
        usable = [one for one in found.settings if math.isfinite(one.mean)]
        if not found.why and wanted.rank > len(usable):
            why = f"there is no rank {wanted.rank}: {len(usable)} of the settings of {source_text(experiment, wanted)} "
            left_out = f" ({found.left_out})" if found.left_out else ""
            found = _Ranking(why=f"{why}have a finite {wanted.metric}{left_out}", blocked=True)
        if found.why:
            still_open = replace(wanted, waiting=found.why, hopeless=found.hopeless, blocked=found.blocked)
            return replace(experiment, selection=still_open)
        return with_choice(experiment, wanted, usable, found.left_out)

    def _ranking(self, experiment: Experiment, wanted: Selection) -> _Ranking:
        source = source_text(experiment, wanted)
        statuses = [self._statuses[path] for group in wanted.groups for path in experiment.after.get(group, ())]
        if wanted.per:
            statuses = [one for one in statuses if _may_have(one, wanted.per, experiment.config.get(wanted.per))]
        missing = [one for one in statuses if not one.action.state.ended_well or _unknown(one, wanted.per)]
        if missing:
            why = f"waits for {len(missing)} of {len(statuses)} of {source}"
            stuck = [one for one in missing if not _continues(one)]
            if stuck:
                first = f"{stuck[0].experiment.path} {_standing(stuck[0])}"
                why += f", and {len(stuck)} will not complete automatically ({first}): "
                why += "--retry, or exclude from the group"
            return _Ranking(why=why, hopeless=bool(stuck))
        pruned, diverged = (_settings_in(state, statuses) for state in (State.PRUNED, State.DIVERGED))
        runs = []
        for status in statuses:
            run = _run(status, math.nan)
            if run.setting in pruned:
                continue
            if status.action.state is State.DIVERGED:
                runs.append(run)
                continue
            value = self._value(status, wanted.metric)
            if value is None:
                hint = nearest(wanted.metric, self._names(status))
                why = f"{run.path} of group {run.group} does not report the metric {wanted.metric!r}: {hint}"
                return _Ranking(why=why, blocked=True)
            runs.append(_run(status, value))
        counts = {"pruned": len(pruned), "diverged": len(diverged - pruned)}
        settings = ranking(runs, wanted.mode)
        if wanted.where is not None:
            try:
                kept = self._satisfying(Expression(wanted.where), settings, wanted.combinations)
            except ValueError as error:
                return _Ranking(why=f"where of the selection from {source}: {error}", blocked=True)
            counts |= {f"excluded by where {wanted.where!r}": len(settings) - len(kept)}
            settings = kept
        left_out = ", ".join(f"{count} {why}" for why, count in counts.items() if count)
        return _Ranking(settings, left_out)

    def _satisfying(
        self, where: Expression, settings: Sequence[Candidate], combinations: Sequence[str]
    ) -> list[Candidate]:
        """The settings for which an expression is true, and those that cannot be chosen. ValueError: it has no value.

        A name in it is a config key; if no setting has such a key, a metric: the mean over the seeds.
        """
        usable = [one for one in settings if math.isfinite(one.mean)]
        configs = {one.paths: printable(one.config, combinations) for one in usable}
        metrics = [name for name in where.names if not any(name in config for config in configs.values())]
        values = {one.paths: self._means(one, metrics) for one in usable}
        for metric in metrics if usable else ():
            if not any(metric in means for means in values.values()):
                first = usable[0].paths[0]
                hint = nearest(metric, [*self._names(self._statuses[first]), *configs[usable[0].paths]])
                raise ValueError(f"no run reports the metric {metric!r}: {hint}")
        kept = []
        for one in settings:
            try:
                if one.paths not in configs or where.truth({**configs[one.paths], **values[one.paths]}):
                    kept.append(one)
            except ValueError as error:
                raise ValueError(f"{error} ({one.paths[0]})") from None
        return kept

    def _means(self, one: Candidate, metrics: Sequence[str]) -> dict[str, float]:
        """The mean over seeds of each metric that all runs of a setting report."""
        means = {}
        for metric in metrics:
            values = [self._value(self._statuses[path], metric) for path in one.paths]
            reported = [value for value in values if value is not None]
            if len(reported) == len(values):
                means[metric] = math.fsum(reported) / len(values)
        return means

    def _value(self, status: ExperimentStatus, metric: str) -> float | None:
        done = status.record.completed
        return self._metrics.result_of(status.record.directory, done, metric) if done else None

    def _names(self, status: ExperimentStatus) -> list[str]:
        done = status.record.completed
        return self._metrics.names_of(status.record.directory, done) if done else []


def _run(status: ExperimentStatus, value: float) -> Run:
    one = status.experiment
    return Run(one.path, one.config, value, one.group)


def _may_have(status: ExperimentStatus, per: str, value: Any) -> bool:
    """Whether a run has this value of a key, or may get it from its own selection. All others were matched before."""
    one = status.experiment
    return one.selection is None or per not in one.config or comparable(one.config[per]) == comparable(value)


def _unknown(status: ExperimentStatus, per: str | None) -> bool:
    """Whether the value of a key follows from a selection that is open; maybe again, though the run has completed."""
    return per is not None and status.experiment.undecided and per not in status.experiment.config


def _continues(status: ExperimentStatus) -> bool:
    """Whether a run completes, or its selection is made again, automatically."""
    return not status.inputs.hopeless if status.action.state.ended_well else goes_on(status)


def _standing(status: ExperimentStatus) -> str:
    """What a run is, or what it waits for, if it has completed and its selection is open again."""
    return status.inputs.waiting if status.action.state.ended_well else f"is {status.action.state}"


def _settings_in(state: State, statuses: Iterable[ExperimentStatus]) -> set[tuple[str, str]]:
    """The settings of which at least one run is in this state."""
    return {_run(one, math.nan).setting for one in statuses if one.action.state is state}


def source_text(experiment: Experiment, wanted: Selection) -> str:
    """What is selected from, in words: `group sweep`, or `groups a, b with dataset=svhn`."""
    per = f" with {wanted.per}={any_text(experiment.config.get(wanted.per))}" if wanted.per else ""
    return f"{wanted.named()}{per}"


def with_choice(
    experiment: Experiment, wanted: Selection, ranked: Sequence[Candidate], left_out: str = ""
) -> Experiment:
    """The experiment with the setting of its rank, which determines config, command and inputs."""
    chosen = ranked[wanted.rank - 1]
    config = {**wanted.defaults, **chosen.config, **experiment.config}
    names = printable(config, wanted.combinations)
    command = fill_words(experiment.command, names) if experiment.command else None
    own = experiment.config.get(SEED)
    same = tuple(path for path, seed in zip(chosen.paths, chosen.seeds, strict=True) if _text(seed) == _text(own))
    after = {group: paths for group, paths in experiment.after.items() if group not in wanted.groups}
    if wanted.inputs:
        after[chosen.group] = same or chosen.paths
    source = source_text(experiment, wanted).partition(" ")[2]
    chosen_by = replace(wanted, choice=choice_text(wanted, source, ranked, left_out))
    start = experiment.start
    if start is not None and start.source == SELECTED:
        runs = same or chosen.paths
        if len(runs) > 1:
            why = f"`{start.kind}` needs one run, and the selected setting has {len(runs)}, none with seed {own}: "
            why += f"give the group the seeds of {chosen.group}"
            return replace(experiment, selection=replace(wanted, waiting=why, hopeless=True, blocked=True))
        start = replace(start, source=runs[0])
    return replace(experiment, config=config, command=command, after=after, selection=chosen_by, start=start)


def choice_text(wanted: Selection, source: str, ranked: Sequence[Candidate], left_out: str = "") -> str:
    """What was chosen from `source`, always with its spread over seeds and the best setting that was not chosen."""
    left = f" left ({left_out})" if left_out else ""
    best = "lowest" if wanted.mode == "min" else "highest"
    what = f"rank {wanted.rank} of {len(ranked)} settings{left} of {source} by the {best} mean {wanted.metric}"
    line = f"{what}: {describe(ranked[wanted.rank - 1], ranked)}"
    if wanted.top < len(ranked):
        line += f"; the best not chosen: {describe(ranked[wanted.top], ranked)}"
    return line


def describe(one: Candidate, among: Sequence[Candidate]) -> str:
    """A setting: its group and the keys in which it differs from the others, and its value with its spread."""
    varying = [key for key in one.config if len({_text(other.config.get(key)) for other in among}) > 1]
    group = [f"group {one.group}"] if len({other.group for other in among}) > 1 else []
    setting = ", ".join([*group, *(f"{key}={one.config[key]}" for key in varying)]) or one.paths[0]
    runs = f"{len(one.values)} seeds" if len(one.values) > 1 else "one run"
    return f"{setting}, {spread(one.values)} ({runs})"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
