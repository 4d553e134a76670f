"""A round as the analysis reads it: its experiments, their status, their metrics, and their baselines.

Only records are read; nothing is written, and no scheduler is queried. So the analysis works offline, on a copy, and
while jobs write. A record that cannot be read becomes a line in `problems`; the rest is read. A line in `notes` is no
fault of the records: nothing has to be done about it.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from roundhouse.config.round import load_round
from roundhouse.engine import offline
from roundhouse.errors import RoundhouseError
from roundhouse.figures import Figure
from roundhouse.metrics import Declarations, declared_by, quantity
from roundhouse.model.attempt import EPOCH, STEP, Attempt, Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import SEED, Experiment, start_in
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus
from roundhouse.names import is_name, nearest
from roundhouse.store import record
from roundhouse.store.carried import result_file
from roundhouse.store.metrics import RunMetrics, numbers_in, read_metrics
from roundhouse.views import measured

REPOSITORY = Path(__file__).resolve().parents[1]
BOOKKEEPING = frozenset({EPOCH, STEP, "stage", "partial", "seconds", "peak_memory_mb"})
"""Keys of an entry in metrics.json that are not measurements."""


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders with records, round files and generated results."""

    experiments: Path = REPOSITORY / "experiments"
    rounds: Path = REPOSITORY / "rounds"
    analysis: Path = REPOSITORY / "analysis"

    def absolute(self) -> Folders:
        return Folders(self.experiments.absolute(), self.rounds.absolute(), self.analysis.absolute())

    def results(self, name: str) -> Path:
        """The folder of everything generated from a round, and of its records once it is archived."""
        return self.analysis / f"experiment_{name}"

    def records(self, name: str) -> Path:
        """The folder with the records of a round, archived or not. RoundhouseError: there are none."""
        archived = self.results(name) / "experiments"
        found = [folder for folder in (self.experiments / name, archived) if is_name(name) and folder.is_dir()]
        if not found:
            known = find_rounds(self)
            raise RoundhouseError(f"no records of a round {name!r} in {self.experiments} or {archived}: "
                                  f"{nearest(name, known)}")  # fmt: skip
        return found[0]


@dataclass(frozen=True)
class RoundEntry:
    """One experiment of a round. `metrics_file` and `outputs_file` are those found by `newest_file`.

    `declared`: what its study and the round file declare about its metrics.
    """

    status: ExperimentStatus
    metrics_file: Path | None
    outputs_file: Path | None
    declared: Declarations = Declarations()

    @property
    def experiment(self) -> Experiment:
        return self.status.experiment

    @property
    def record(self) -> Record:
        return self.status.record

    @property
    def path(self) -> str:
        return self.experiment.path

    @property
    def group(self) -> str:
        return self.experiment.group

    @property
    def config(self) -> Mapping[str, Any]:
        return self.experiment.config

    @property
    def data_set(self) -> str:
        """The data set: the values of the keys that are kept apart. Results of two data sets are never compared.

        Empty if no such key is declared, or the config has none.
        """
        return label_of(self.config, self.declared.apart)

    @property
    def directory(self) -> Path:
        return self.record.directory

    @property
    def state(self) -> State:
        return self.status.action.state

    @property
    def completed(self) -> bool:
        """Whether it has a result of its config: one of another config, from before a change, does not count."""
        return self.state is State.COMPLETED

    @property
    def reason(self) -> str:
        return self.status.action.reason

    @cached_property
    def setting(self) -> str:
        """Equal for experiments of a group that differ in the seed alone."""
        return self.experiment.setting()

    @cached_property
    def spans(self) -> list[tuple[float, float]]:
        """When its attempts ran: (start, end) in seconds since 1970.

        An attempt whose job left no result ends at its last heartbeat.
        """
        return measured.spans(self.record)

    @property
    def seconds(self) -> float:
        """How long all its attempts ran, together."""
        return sum(end - start for start, end in self.spans)

    @property
    def gpu_hours(self) -> float:
        return self.seconds / 3600 * self.experiment.resources.ngpus

    @property
    def counted_attempts(self) -> int:
        """Attempts that count towards the retry limit. Markers, scheduler limits and pauses at a rung do not."""
        return sum(one.cause not in (Cause.LIMIT, Cause.RUNG) for one in self.record.runs)

    def metrics(self) -> RunMetrics:
        """metrics.json; without one, what the record holds of a completed run. RoundhouseError: it is unreadable."""
        if self.metrics_file:
            return read_metrics(self.metrics_file)
        completed = self.record.completed
        kept = completed.progress if completed else None
        return (
            RunMetrics(kept.metric_name, kept.mode, kept.best, final=numbers_in(kept.final)) if kept else RunMetrics()
        )


WithBaseline = tuple[RoundEntry, tuple[RoundEntry, ...]]  # an experiment, and the experiments of its baseline


def metrics_of(entry: RoundEntry, problems: list[str]) -> RunMetrics:
    """Its metrics. If they cannot be read: none, and a line in `problems`."""
    try:
        return entry.metrics()
    except (RoundhouseError, OSError) as error:
        problems.append(f"{entry.path}: {error}")
        return RunMetrics()


@dataclass(frozen=True)
class RoundRecords:
    """All experiments of a round, in the order of its file. `baselines`: from a group to its baseline group."""

    name: str
    directory: Path
    file: Path | None
    entries: tuple[RoundEntry, ...]
    baselines: Mapping[str, str]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def groups(self) -> dict[str, list[RoundEntry]]:
        made: dict[str, list[RoundEntry]] = {}
        for entry in self.entries:
            made.setdefault(entry.group, []).append(entry)
        return made

    @cached_property
    def declared(self) -> Declarations:
        """What the studies of all experiments declare; if two declare the same metric, the first one counts."""
        found = list({id(one.declared): one.declared for one in self.entries}.values())
        made = Declarations()
        for one in reversed(found):
            metrics = {**one.metrics, **made.metrics, **one.metrics}
            apart, cost = dict.fromkeys((*one.apart, *made.apart)), dict.fromkeys((*one.cost, *made.cost))
            figures = {**made.figures, **one.figures}
            made = Declarations(metrics, {**made.arrays, **one.arrays}, tuple(apart), tuple(cost), figures)
        return made

    @cached_property
    def modes(self) -> set[tuple[str, str]]:
        """Metrics with the mode that is declared for them anywhere in the round."""
        return modes_in(self.entries, self.declared)

    def baseline_of(self, entry: RoundEntry) -> list[RoundEntry]:
        """The experiments of its baseline group that have the same value of every key that varies in that group.

        Seeds are not compared: all seeds of the baseline belong to it. Neither are keys that the entry lacks.
        """
        candidates = self.groups.get(self.baselines.get(entry.group, ""), [])
        keys = varying_keys(candidates) & entry.config.keys()
        return [one for one in candidates if all(one.config.get(key) == entry.config[key] for key in keys)]


def modes_in(entries: Iterable[RoundEntry], declared: Declarations) -> set[tuple[str, str]]:
    """Metrics with the mode that a study, the round file or a progress.json declares for them."""
    modes: list[tuple[str | None, str | None]] = [(name, one.mode) for name, one in declared.metrics.items()]
    for entry in entries:
        rules = (entry.experiment.selection, entry.experiment.halving)
        modes += [(rule.metric, rule.mode) for rule in rules if rule]
        modes += [(run.progress.metric_name, run.progress.mode) for run in entry.record.runs if run.progress]
    return {(metric, mode) for metric, mode in modes if metric and mode}


def mode_among(modes: set[tuple[str, str]], metric: str, runs: Iterable[RunMetrics]) -> str | None:
    """The mode of a metric in `modes` or in one of the runs; it is the same for validation and test data.

    None: nothing declares it, or declarations differ.
    """
    known = modes | {(one.metric, one.mode) for one in runs if one.metric and one.mode}
    found = {mode for name, mode in known if quantity(name) == quantity(metric)}
    return found.pop() if len(found) == 1 else None


def varying_keys(entries: Sequence[RoundEntry]) -> set[str]:
    """The config keys in which the experiments differ, without the seed."""
    keys = {key for entry in entries for key in entry.config} - {SEED}
    return {key for key in keys if len({json.dumps(one.config.get(key), default=str) for one in entries}) > 1}


def setting_labels(entries: Sequence[RoundEntry]) -> dict[str, str]:
    """A short label for each setting: the values of the varying keys, such as `logit, alpha 0.5`."""
    varying = varying_keys(entries)
    return {entry.setting: label_of(entry.config, varying) or entry.group for entry in entries}


def label_of(config: Mapping[str, Any], keys: Container[str]) -> str:
    """The values of these keys: `logit, alpha 0.5`."""
    return ", ".join(value_label(key, value) for key, value in config.items() if key in keys)


def value_label(key: str, value: Any) -> str:
    """A config value in a label: `alpha 0.5`, `techniques 1+2`. Text with a letter stands without its key."""
    return value if isinstance(value, str) and any(map(str.isalpha, value)) else f"{key} {value}"


def find_rounds(folders: Folders) -> list[str]:
    """The names of the rounds that have records below `experiments/`."""
    if not folders.experiments.is_dir():
        return []
    return sorted(one.name for one in folders.experiments.iterdir() if one.is_dir() and is_name(one.name))


def read_round(name: str, folders: Folders | None = None) -> RoundRecords:
    """All experiments of a round with their status. RoundhouseError: there are no records of such a round.

    Experiments are those of the round file; if it is missing or invalid, those that have a record.
    """
    folders = folders or Folders()
    directory = folders.records(name)
    problems: list[str] = []
    notes: list[str] = []
    archived = folders.results(name) / f"{name}.yaml"
    folder = folders.rounds if directory.parent == folders.experiments else archived.parent
    file: Path | None = folder / f"{name}.yaml"
    experiments: list[Experiment] = []
    baselines: dict[str, str] = {}
    changes: Mapping[str, Mapping[str, Any]] = {}
    apart: Sequence[str] | None = None
    figures: Mapping[str, Figure | None] = {}
    try:
        loaded = load_round(name, folder)
        changes, apart, figures = loaded.metrics, loaded.apart, loaded.figures
        experiments, baselines = loaded.experiments, loaded.baselines
        notes += _records_without_experiment(directory, {one.path for one in experiments})
    except RoundhouseError as error:
        problems.append(f"no valid round file, so only experiments with a record are shown, without baselines: {error}")
        file = None
        experiments = list(_experiments_with_record(name, directory, problems))
    statuses = offline.statuses(experiments, {one.path: directory / one.path for one in experiments})
    problems += [f"{path}: {status.record.damage}" for path, status in statuses.items() if status.record.damage]
    declared = {
        study: _declared_by(study, problems).updated(changes, apart, figures)
        for study in dict.fromkeys(one.study for one in experiments)
    }
    entries = tuple(
        RoundEntry(
            one,
            newest_file(one.record, "metrics.json"),
            newest_file(one.record, "outputs.npz"),
            declared[one.experiment.study],
        )
        for one in statuses.values()
    )
    return RoundRecords(name, directory, file, entries, baselines, tuple(problems), tuple(notes))


def _declared_by(study: str | None, problems: list[str]) -> Declarations:
    """What a study declares. If that cannot be read: nothing, and a line in `problems`."""
    try:
        return declared_by(study, REPOSITORY)
    except RoundhouseError as error:
        problems.append(f"metrics are shown without declarations: {error}")
        return Declarations()


def newest_file(rec: Record, name: str) -> Path | None:
    """The file of this name of the completed attempt; else of the newest attempt that has one; else None."""
    attempts: Sequence[Attempt] = [rec.completed] if rec.completed else rec.current.attempts[::-1]
    return next(filter(None, (result_file(rec.directory, one, name) for one in attempts)), None)


def _experiments_with_record(name: str, directory: Path, problems: list[str]) -> Iterator[Experiment]:
    """The experiments that have a record, from their config.yaml."""
    configs = {}
    for folder in _record_folders(directory):
        path = str(folder.relative_to(directory))
        try:
            configs[path] = record.read_config(folder)
        except (RoundhouseError, OSError) as error:
            problems.append(f"{path} is left out: {error}")
    for path, saved in configs.items():
        after = {group: tuple(one for one in paths if one in configs) for group, paths in saved["after"].items()}
        command = tuple(saved["command"]) if saved.get("command") else None
        start = start_in(saved)
        yield Experiment(
            name,
            saved.get("group") or "",
            path,
            saved.get("study"),
            saved["config"],
            after=after,
            command=command,
            start=start if start and (start.is_file or start.source in configs) else None,
        )


def _record_folders(directory: Path) -> Iterator[Path]:
    """The folders with a record, in order; the inside of a record is not searched."""
    if (directory / record.ATTEMPTS).is_dir():
        yield directory
        return
    for child in sorted(directory.iterdir()):
        if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
            yield from _record_folders(child)


def _records_without_experiment(directory: Path, known: set[str]) -> list[str]:
    paths = (str(folder.relative_to(directory)) for folder in _record_folders(directory))
    extra = [path for path in paths if path not in known]
    if not extra:
        return []
    more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
    return [f"{extra[0]}{more}: the record is not in the round file (any more) and is left out"]


def planned_of(entry: RoundEntry, unit: str) -> int | None:
    """The planned number of epochs or steps over all stages, if it was reported."""
    shown = entry.status.shown
    return shown.progress.counter(unit).planned if shown and shown.progress else None


def early_end(metrics: RunMetrics) -> list[str]:
    """Why training ended early, for a list of facts; empty if it did not."""
    step, why = metrics.diverged.get("step"), metrics.diverged.get("why")
    at, because = "" if step is None else f" at step {step}", f" ({why})" if why else ""
    diverged = [f"diverged{at}{because}"] if metrics.diverged else []
    return diverged + ([f"ended early ({metrics.ended})"] if metrics.ended else [])


def measured_keys(epochs: Sequence[Mapping[str, Any]], declared: Declarations) -> list[str]:
    """The keys that have a number in any of these entries and are to be drawn, in the order of appearance."""
    found = dict.fromkeys(key for one in epochs for key in numbers_in(one) if key not in BOOKKEEPING)
    return [key for key in found if declared.of(key).curve]
