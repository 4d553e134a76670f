"""Selections: a group takes the best settings of another group, by the mean over seeds. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from roundhouse.formatting import spread
from roundhouse.model.attempt import Attempt
from roundhouse.model.experiment import SEED, Experiment, Selection, setting_of
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.names import nearest
from roundhouse.placeholders import fill_words, printable


class Metrics(Protocol):
    """Reads the metrics of an attempt of the experiment in a directory. NaN: not a finite number. None: no such metric.

    `result_of`: the final value. `value_at`: the value at an epoch or step. `names_of`: the metrics that exist.
    """

    def result_of(self, directory: Path, attempt: Attempt, metric: str) -> float | None: ...

    def value_at(self, directory: Path, attempt: Attempt, metric: str, position: int) -> float | None: ...

    def names_of(self, directory: Path, attempt: Attempt) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A setting: runs that differ only in their seed. `config` is what they share, `values` are those of `paths`."""

    config: Mapping[str, Any]
    paths: tuple[str, ...]
    seeds: tuple[Any, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Independent of the order of the values."""
        return math.fsum(self.values) / len(self.values)


def ranking(runs: Iterable[tuple[str, Mapping[str, Any], float]], mode: str) -> list[Candidate]:
    """The settings of runs (path, config, value), the best mean first; equal means by path, NaN last."""
    ordered = sorted(runs, key=lambda run: run[0])
    varied = len({_text(config.get(SEED)) for _, config, _ in ordered}) > 1
    settings: dict[str, list[tuple[str, Mapping[str, Any], float]]] = {}
    for run in ordered:
        settings.setdefault(setting_of(run[1]), []).append(run)
    candidates = [
        Candidate(
            {key: value for key, value in members[0][1].items() if key != SEED or not varied},
            tuple(path for path, _, _ in members),
            tuple(config.get(SEED) for _, config, _ in members),
            tuple(value for _, _, value in members),
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
    """The selections of one evaluation. Each ranking is computed once, from the statuses of its group."""

    def __init__(self, statuses: Mapping[str, ExperimentStatus], metrics: Metrics) -> None:
        self._statuses, self._metrics = statuses, metrics
        self._known: dict[tuple[str, str, str], _Ranking] = {}

    def resolve(self, experiment: Experiment) -> Experiment:
        """The experiment with its selection made, or with the reason why that is not possible yet."""
        wanted = experiment.selection
        if wanted is None:
            return experiment
        key = wanted.group, wanted.metric, wanted.mode
        if key not in self._known:
            self._known[key] = self._ranking(wanted, experiment.after[wanted.group])
        found = self._known[key]
        usable = [one for one in found.settings if math.isfinite(one.mean)]
        if not found.why and wanted.rank > len(usable):
            why = f"there is no rank {wanted.rank}: {len(usable)} of the settings of group {wanted.group} have a "
            left_out = f" ({found.left_out})" if found.left_out else ""
            found = _Ranking(why=f"{why}finite {wanted.metric}{left_out}", blocked=True)
        if found.why:
            still_open = replace(wanted, waiting=found.why, hopeless=found.hopeless, blocked=found.blocked)
            return replace(experiment, selection=still_open)
        return with_choice(experiment, wanted, usable, found.left_out)

    def _ranking(self, wanted: Selection, paths: Sequence[str]) -> _Ranking:
        statuses = [self._statuses[path] for path in paths]
        missing = [status for status in statuses if not status.action.state.ended_well]
        if missing:
            why = f"waits for {len(missing)} of {len(paths)} of group {wanted.group}"
            stuck = [status for status in missing if not goes_on(status)]
            if stuck:
                first = f"{stuck[0].experiment.path} is {stuck[0].action.state}"
                why += f", and {len(stuck)} will not complete automatically ({first}): "
                why += "--retry, or exclude from the group"
            return _Ranking(why=why, hopeless=bool(stuck))
        pruned, diverged = (_settings_in(state, statuses) for state in (State.PRUNED, State.DIVERGED))
        runs = []
        for status in statuses:
            path, directory, done = status.experiment.path, status.record.directory, status.record.completed
            if setting_of(status.experiment.config) in pruned:
                continue
            if status.action.state is State.DIVERGED:
                runs.append((path, status.experiment.config, math.nan))
                continue
            value = self._metrics.result_of(directory, done, wanted.metric) if done else None
            if value is None:
                hint = nearest(wanted.metric, self._metrics.names_of(directory, done) if done else [])
                why = f"{path} of group {wanted.group} does not report the metric {wanted.metric!r}: {hint}"
                return _Ranking(why=why, blocked=True)
            runs.append((path, status.experiment.config, value))
        counts = {"pruned": len(pruned), "diverged": len(diverged - pruned)}
        left_out = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        return _Ranking(ranking(runs, wanted.mode), left_out)


def _settings_in(state: State, statuses: Iterable[ExperimentStatus]) -> set[str]:
    """The settings of which at least one run is in this state."""
    return {setting_of(one.experiment.config) for one in statuses if one.action.state is state}


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
    after = {group: paths for group, paths in experiment.after.items() if group != wanted.group}
    if wanted.inputs:
        after[wanted.group] = same or chosen.paths
    chosen_by = replace(wanted, choice=choice_text(wanted, ranked, left_out))
    return replace(experiment, config=config, command=command, after=after, selection=chosen_by)


def choice_text(wanted: Selection, ranked: Sequence[Candidate], left_out: str = "") -> str:
    """What was chosen, always with its spread over seeds and the best setting that was not chosen."""
    left = f" left ({left_out})" if left_out else ""
    best = "lowest" if wanted.mode == "min" else "highest"
    what = f"rank {wanted.rank} of {len(ranked)} settings{left} of {wanted.group} by the {best} mean {wanted.metric}"
    line = f"{what}: {describe(ranked[wanted.rank - 1], ranked)}"
    if wanted.top < len(ranked):
        line += f"; the best not chosen: {describe(ranked[wanted.top], ranked)}"
    return line


def describe(one: Candidate, among: Sequence[Candidate]) -> str:
    """A setting: the keys in which it differs from the others, and its value with its spread."""
    varying = [key for key in one.config if len({_text(other.config.get(key)) for other in among}) > 1]
    setting = ", ".join(f"{key}={one.config[key]}" for key in varying) or one.paths[0]
    runs = f"{len(one.values)} seeds" if len(one.values) > 1 else "one run"
    return f"{setting}, {spread(one.values)} ({runs})"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
