"""A round as the analysis sees it: its experiments, how each stands, its metrics, and what it is to be compared with.

Only records are read, none is written, and no scheduler is asked, so all of this works offline, on a copy, and while
jobs write. One bad record is a line in `problems`, never an end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from roundhouse import files
from roundhouse.config.round import load_round
from roundhouse.engine import offline
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Attempt
from roundhouse.model.experiment import SEED, Experiment
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus
from roundhouse.names import is_name, nearest
from roundhouse.store import record

REPOSITORY = Path(__file__).resolve().parents[1]
BOOKKEEPING = frozenset(
    {"epoch", "stage", "seconds", "peak_memory_mb", "accumulation", "distance_weight", "epochs_trained"}
)  # what an epoch tells besides what was measured in it


@dataclass(frozen=True, slots=True)
class Place:
    """Where rounds are found, and where what is made of them goes."""

    experiments: Path = REPOSITORY / "experiments"
    rounds: Path = REPOSITORY / "rounds"
    analysis: Path = REPOSITORY / "analysis"

    def absolute(self) -> Place:
        return Place(self.experiments.absolute(), self.rounds.absolute(), self.analysis.absolute())

    def results(self, name: str) -> Path:
        """The folder of everything that is made of a round, and of its records once it is archived."""
        return self.analysis / f"experiment_{name}"

    def records(self, name: str) -> Path:
        """The folder of the round's records, archived or not. RoundhouseError if there is none."""
        archived = self.results(name) / "experiments"
        found = [folder for folder in (self.experiments / name, archived) if is_name(name) and folder.is_dir()]
        if not found:
            known = find_rounds(self)
            raise RoundhouseError(f"no records of a round {name!r} in {self.experiments} or {archived}: "
                                  f"{nearest(name, known)}")  # fmt: skip
        return found[0]


@dataclass(frozen=True, slots=True)
class Metrics:
    """metrics.json. `epochs`: a mapping for each epoch; `final`, `used`: numbers of the run as a whole."""

    metric: str | None = None
    mode: str = "max"
    best: float | None = None
    best_epoch: int | None = None
    exact: bool = True
    final: Mapping[str, float] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)
    epochs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Entry:
    """One experiment of a round. `metrics_file`, `outputs_file`: those of the attempt to speak of, if it has any."""

    row: ExperimentStatus
    metrics_file: Path | None
    outputs_file: Path | None

    @property
    def path(self) -> str:
        return self.row.experiment.path

    @property
    def group(self) -> str:
        return self.row.experiment.group

    @property
    def config(self) -> Mapping[str, Any]:
        return self.row.experiment.config

    @property
    def data_set(self) -> str:
        """The data set's name, empty where the config has none."""
        return str(self.config.get("dataset", ""))

    @property
    def directory(self) -> Path:
        return self.row.record.directory

    @property
    def state(self) -> State:
        return self.row.action.state

    @property
    def reason(self) -> str:
        return self.row.action.reason

    @cached_property
    def setting(self) -> str:
        """What it shares with the experiments that differ from it in their seed alone."""
        return self.row.experiment.setting()

    def metrics(self) -> Metrics:
        """What metrics.json says; without one, what the record keeps of a completed run. RoundhouseError: damage."""
        if self.metrics_file:
            return read_metrics(self.metrics_file)
        completed = self.row.record.completed
        kept = completed.progress if completed else None
        return Metrics(kept.metric_name, best=kept.best, final=_numbers(kept.final)) if kept else Metrics()


def metrics_of(entry: Entry, problems: list[str]) -> Metrics:
    """Its metrics; none, and a line in `problems`, where they cannot be read."""
    try:
        return entry.metrics()
    except (RoundhouseError, OSError) as error:
        problems.append(f"{entry.path}: {error}")
        return Metrics()


@dataclass(frozen=True)
class RoundRecords:
    """All experiments of a round, in the order of its file. `baselines`: for a group, the group it is shown beside."""

    name: str
    directory: Path
    file: Path | None
    entries: tuple[Entry, ...]
    baselines: Mapping[str, str]
    problems: tuple[str, ...] = ()

    @cached_property
    def groups(self) -> dict[str, list[Entry]]:
        made: dict[str, list[Entry]] = {}
        for entry in self.entries:
            made.setdefault(entry.group, []).append(entry)
        return made

    def baseline_of(self, entry: Entry) -> list[Entry]:
        """The experiments of its baseline group that agree with it in every key in which that group itself varies.

        The seed is no such key: all seeds of the baseline belong to it. Keys that the entry lacks are not compared.
        """
        candidates = self.groups.get(self.baselines.get(entry.group, ""), [])
        keys = varying_keys(candidates) & entry.config.keys()
        return [one for one in candidates if all(one.config.get(key) == entry.config[key] for key in keys)]


def varying_keys(entries: Sequence[Entry]) -> set[str]:
    """The config keys in which the experiments differ, the seed apart."""
    keys = {key for entry in entries for key in entry.config} - {SEED}
    return {key for key in keys if len({json.dumps(one.config.get(key), default=str) for one in entries}) > 1}


def labels(entries: Sequence[Entry]) -> dict[str, str]:
    """A short name for each setting among these: the values that tell them apart, such as `logit, alpha 0.5`."""
    varying = varying_keys(entries)
    made = {}
    for entry in entries:
        told = [_told(key, value) for key, value in entry.config.items() if key in varying]
        made[entry.setting] = ", ".join(told) or entry.group
    return made


def _told(key: str, value: Any) -> str:
    return value if isinstance(value, str) else f"{key} {value}"


def find_rounds(place: Place) -> list[str]:
    """The rounds that have records below `experiments/`, by name."""
    if not place.experiments.is_dir():
        return []
    return sorted(one.name for one in place.experiments.iterdir() if one.is_dir() and is_name(one.name))


def read_round(name: str, place: Place | None = None) -> RoundRecords:
    """How every experiment of a round stands. RoundhouseError: there are no records of such a round.

    Experiments are those of the round file; where there is none, or it is wrong, those that have a record.
    """
    place = place or Place()
    directory = place.records(name)
    problems: list[str] = []
    archived = place.results(name) / f"{name}.yaml"
    folder = place.rounds if directory.parent == place.experiments else archived.parent
    file: Path | None = folder / f"{name}.yaml"
    experiments: list[Experiment] = []
    baselines: dict[str, str] = {}
    try:
        loaded = load_round(name, folder)
        experiments, baselines = loaded.experiments, loaded.baselines
        problems += _left_over(directory, {one.path for one in experiments})
    except RoundhouseError as error:
        problems.append(f"no round file, so only experiments with a record are known, and no baselines: {error}")
        file = None
        experiments = list(_recorded(name, directory, problems))
    rows = offline.statuses(experiments, {one.path: directory / one.path for one in experiments})
    problems += [f"{path}: {row.record.damage}" for path, row in rows.items() if row.record.damage]
    entries = tuple(
        Entry(row, newest_file(row, "metrics.json"), newest_file(row, "outputs.npz")) for row in rows.values()
    )
    return RoundRecords(name, directory, file, entries, baselines, tuple(problems))


def newest_file(row: ExperimentStatus, name: str) -> Path | None:
    """The file of this name of the completed attempt; else of the newest attempt that has one; else None."""
    attempts: Sequence[Attempt] = [row.record.completed] if row.record.completed else row.record.attempts[::-1]
    paths = (record.attempt_directory(row.record.directory, one.number) / name for one in attempts)
    return next((path for path in paths if path.is_file()), None)


def _recorded(name: str, directory: Path, problems: list[str]) -> Iterator[Experiment]:
    """The experiments that have a record, as their config.yaml tells them."""
    configs = {}
    for folder in _record_folders(directory):
        path = str(folder.relative_to(directory))
        try:
            configs[path] = record.read_config(folder)
        except (RoundhouseError, OSError) as error:
            problems.append(f"{path} is left out: {error}")
    for path, told in configs.items():
        after = {group: tuple(one for one in paths if one in configs) for group, paths in told["after"].items()}
        command = tuple(told["command"]) if told.get("command") else None
        yield Experiment(
            name, told.get("group") or "", path, told.get("study"), told["config"], after=after, command=command
        )


def _record_folders(directory: Path) -> Iterator[Path]:
    """The folders that hold a record, in order; what lies inside one is not looked through."""
    if (directory / record.ATTEMPTS).is_dir():
        yield directory
        return
    for child in sorted(directory.iterdir()):
        if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
            yield from _record_folders(child)


def _left_over(directory: Path, known: set[str]) -> list[str]:
    paths = (str(folder.relative_to(directory)) for folder in _record_folders(directory))
    extra = [path for path in paths if path not in known]
    if not extra:
        return []
    more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
    return [f"{extra[0]}{more}: a record, but not in the round file (any more): left out"]


def read_metrics(path: Path) -> Metrics:
    """A metrics.json, a study's or a command's own. RoundhouseError if it cannot be understood.

    Of a command's, which may hold anything, the numbers at its top are taken for results.
    """
    raw = files.read_bytes(path)
    try:
        told = json.loads(raw or b"")
        if not isinstance(told, dict):
            raise ValueError
        if not isinstance(told.get("epochs"), list):
            return Metrics(final=_numbers(told))
        best = told.get("best") or {}
        epochs = [one for one in told["epochs"] if isinstance(one, dict)]
        metric = told.get("metric")
        if not isinstance(metric, (str, type(None))):
            raise ValueError
        return Metrics(
            metric=metric,
            mode="min" if told.get("mode") == "min" else "max",
            best=_numbers(best).get(str(metric)),
            best_epoch=best.get("epoch"),
            exact=bool(told.get("exact", True)),
            final=_numbers(told.get("final") or {}),
            used=_numbers(told.get("used") or {}),
            epochs=epochs,
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise RoundhouseError(f"{path} is damaged: it is no JSON object of metrics") from None


def measured(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was measured in these epochs: their keys that hold a number anywhere, in the order of appearance."""
    return list(dict.fromkeys(key for one in epochs for key in _numbers(one) if key not in BOOKKEEPING))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: value for key, value in values.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
