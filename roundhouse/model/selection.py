"""Which settings a selecting group takes: the best of another group, by the mean over seeds. The choice is pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from roundhouse.formatting import spread
from roundhouse.model.experiment import SEED, Experiment, Selection, setting_of
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.names import nearest
from roundhouse.store.metrics import names_of, result_of


@dataclass(frozen=True, slots=True)
class Candidate:
    """A setting: runs that differ in their seed alone. `config` is what they share; `values` are by path."""

    config: Mapping[str, Any]
    paths: tuple[str, ...]
    seeds: tuple[Any, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The same in whatever order the values are added."""
        return math.fsum(self.values) / len(self.values)


def ranking(runs: Iterable[tuple[str, Mapping[str, Any], float]], mode: str) -> list[Candidate]:
    """The settings of runs (path, config, value), the best mean first; equal means by path, what is no number last."""
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


class Selections:
    """The choices of one pass. Each ranking is made once, from the rows of all that is chosen from."""

    def __init__(self, rows: Mapping[str, ExperimentStatus]) -> None:
        self._rows = rows
        self._known: dict[tuple[str, str, str], _Ranking | _Open] = {}

    def resolve(self, experiment: Experiment) -> Experiment:
        """The experiment with its choice made; else with the reason why it is not made yet."""
        wanted = experiment.selection
        if wanted is None:
            return experiment
        key = wanted.group, wanted.metric, wanted.mode
        if key not in self._known:
            self._known[key] = self._ranking(wanted, experiment.after[wanted.group])
        found = self._known[key]
        if isinstance(found, _Open):
            still_open = replace(wanted, waiting=found.why, hopeless=found.hopeless, blocked=found.blocked)
            return replace(experiment, selection=still_open)
        usable = [one for one in found.settings if math.isfinite(one.mean)]
        if wanted.rank > len(usable):
            why = f"there is no rank {wanted.rank}: {len(usable)} of the settings of group {wanted.group} that are "
            why += f"completed have a finite {wanted.metric}"
            return replace(experiment, selection=replace(wanted, waiting=why, hopeless=True, blocked=True))
        return decided(experiment, wanted, usable, found.pruned)

    def _ranking(self, wanted: Selection, paths: Sequence[str]) -> _Ranking | _Open:
        over = (State.COMPLETED, State.PRUNED)
        missing = [self._rows[path] for path in paths if self._rows[path].action.state not in over]
        if missing:
            return _still_open(wanted.group, missing, len(paths))
        rows = [self._rows[path] for path in paths]
        pruned = {setting_of(row.experiment.config) for row in rows if row.action.state is State.PRUNED}
        runs = []
        for row in rows:
            path = row.experiment.path
            if setting_of(row.experiment.config) in pruned:
                continue
            done = row.record.completed
            value = result_of(row.record.directory, done, wanted.metric) if done else None
            if value is None:
                known = names_of(row.record.directory, done) if done else []
                hint = nearest(wanted.metric, known)
                return _Open(f"{path} of group {wanted.group} tells no metric {wanted.metric!r}: {hint}", blocked=True)
            runs.append((path, row.experiment.config, value))
        return _Ranking(ranking(runs, wanted.mode), len(pruned))


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The settings that are completed, and how many were pruned before."""

    settings: list[Candidate]
    pruned: int


@dataclass(frozen=True, slots=True)
class _Open:
    """Why no ranking can be made."""

    why: str
    hopeless: bool = True
    blocked: bool = False


def _still_open(group: str, missing: Sequence[ExperimentStatus], of: int) -> _Open:
    why = f"waits for {len(missing)} of {of} of group {group}"
    stuck = [row for row in missing if not goes_on(row)]
    if not stuck:
        return _Open(why, hopeless=False)
    first = f"{stuck[0].experiment.path} is {stuck[0].action.state}"
    return _Open(f"{why}, and {len(stuck)} will not complete by {'itself' if len(stuck) == 1 else 'themselves'} "
                 f"({first}): --retry, or exclude from the group")  # fmt: skip


def decided(experiment: Experiment, wanted: Selection, ranked: Sequence[Candidate], pruned: int = 0) -> Experiment:
    """The experiment with the setting of its rank: config, command and inputs follow from it."""
    from roundhouse.config.sweeps import printable
    from roundhouse.config.templates import any_text, fill_words

    chosen = ranked[wanted.rank - 1]
    config = {**wanted.defaults, **chosen.config, **experiment.config}
    names = printable(config, wanted.combinations)
    command = fill_words(experiment.command, names, any_text) if experiment.command else None
    own = experiment.config.get(SEED)
    same = tuple(path for path, seed in zip(chosen.paths, chosen.seeds, strict=True) if _text(seed) == _text(own))
    after = {group: paths for group, paths in experiment.after.items() if group != wanted.group}
    if wanted.inputs:
        after[wanted.group] = same or chosen.paths
    made = replace(wanted, choice=told(wanted, ranked, pruned))
    return replace(experiment, config=config, command=command, after=after, selection=made)


def told(wanted: Selection, ranked: Sequence[Candidate], pruned: int = 0) -> str:
    """What was chosen, never without its spread over seeds and the best that was not chosen."""
    left = f" left ({pruned} pruned)" if pruned else ""
    best = "lowest" if wanted.mode == "min" else "highest"
    what = f"rank {wanted.rank} of {len(ranked)} settings{left} of {wanted.group} by the {best} mean {wanted.metric}"
    line = f"{what}: {shown(ranked[wanted.rank - 1], ranked)}"
    if wanted.top < len(ranked):
        line += f"; the best not chosen: {shown(ranked[wanted.top], ranked)}"
    return line


def shown(one: Candidate, among: Sequence[Candidate]) -> str:
    """A setting by what tells it from the others, and its value beside its spread."""
    varying = [key for key in one.config if len({_text(other.config.get(key)) for other in among}) > 1]
    setting = ", ".join(f"{key}={one.config[key]}" for key in varying) or one.paths[0]
    runs = f"{len(one.values)} seeds" if len(one.values) > 1 else "one run"
    return f"{setting}, {spread(one.values)} ({runs})"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
