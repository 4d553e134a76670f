"""The results of a flood round: its settings by stage and task, each with its runs over seeds.

Which task a run has is in its config; the stage is the name of its group up to the first `_`. So rounds with fewer or
other groups than the study's own are read in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from analysis.rounds import RoundEntry, RoundRecords, metrics_of
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import EPOCH
from roundhouse.model.experiment import SEED
from roundhouse.model.plan import State
from roundhouse.store import history
from roundhouse.store.metrics import RunMetrics, finite
from studies.flood.analysis.names import ARCHITECTURES, SETS

SIMULATION, SAMPLES, TRAINING, EVALUATION, COARSE = "simulation", "samples", "training", "evaluation", "coarse"
TASKS = {"simulations": SIMULATION, "samples": SAMPLES, "coarse": COARSE, "D": EVALUATION}
"""By stage: the task of a run whose config has none. All others train."""

LOSS, VAL_LOSS, LEARNING_RATE = "loss", "val_loss", "learning_rate"
DUMMIES = {"train": "dummy_train_loss", "validation": "dummy_val_loss", "test": "dummy_loss"}
"""By split: the final metric of a training with the loss of persistence."""

RUNNING = "running"
DEFAULT_ARCHITECTURE = "04"
DEFAULTS: Mapping[str, Any] = {
    "lr": 1e-4, "width": 1.0, "attention": "self", "downsampler": "k11s10", "last": "linear", "batch_size": 300,
    "schedule": "constant", "plateau_patience": 10, "plateau_factor": 0.5,
}  # fmt: skip
"""The study's options that make a setting, with the value of a key that a round leaves out. How long a setting is
trained is none of them: stages may differ in that.
"""


@dataclass(frozen=True)
class Run:
    """A run in any state. `rows`: its whole epochs, in order; `final`: of a completed run."""

    entry: RoundEntry
    seed: int
    metrics: RunMetrics
    rows: Sequence[Mapping[str, Any]]
    final: Mapping[str, float]

    @property
    def path(self) -> str:
        return self.entry.path

    @property
    def state(self) -> State:
        return self.entry.state

    @property
    def completed(self) -> bool:
        return self.entry.completed

    @property
    def status(self) -> str:
        """`completed`, `running`, `pending`, or another state as it is."""
        return RUNNING if self.state in (State.IN_PROGRESS, State.SUBMITTING) else str(self.state)

    @cached_property
    def device(self) -> str:
        """`CPU` or `GPU`: what computed it; empty if it is not recorded."""
        shown = self.entry.status.shown
        found = history.environments(self.entry.directory).get(shown.number, {}) if shown else {}
        return {"cuda": "GPU", "cpu": "CPU"}.get(str(found.get("device")), "")

    def value(self, name: str) -> float:
        """A final metric, or the best validation loss, of a completed run; NaN if it is not known."""
        if not self.completed:
            return math.nan
        return finite(self.metrics.value(name) if name == VAL_LOSS else self.final.get(name))

    def series(self, metric: str) -> list[tuple[int, float]]:
        """A metric by epoch, where it was recorded; NaN where it was not finite."""
        return [(int(row[EPOCH]), finite(row[metric])) for row in self.rows if metric in row]


@dataclass(frozen=True)
class Setting:
    """A config with its runs over seeds. `architecture`: empty if it has none, or if it is not selected yet.

    `label`: the architecture, with what differs from the untuned setting; `changed`: the same, by config key.
    """

    stage: str
    group: str
    task: str
    label: str
    architecture: str
    config: Mapping[str, Any]
    runs: tuple[Run, ...]
    changed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def completed(self) -> list[Run]:
        return [one for one in self.runs if one.completed]

    @property
    def diverged(self) -> int:
        """How many of its runs diverged. Such a setting is in no ranking, as in `select`."""
        return sum(one.state is State.DIVERGED for one in self.runs)

    @property
    def flood_set(self) -> str:
        """`small` or `big`: the set of floods; without the key, that in the name of the group, else the default."""
        in_name = self.group.rpartition("_")[2]
        return str(self.config.get("set", in_name if in_name in SETS else SETS[0]))

    def values(self, name: str) -> tuple[float, ...]:
        """A final metric of the completed runs, without those that lack it."""
        return tuple(value for one in self.completed if math.isfinite(value := one.value(name)))

    def mean(self, name: str) -> float:
        found = self.values(name)
        return math.fsum(found) / len(found) if found else math.nan

    def to_show(self) -> list[Run]:
        """The completed runs; without any, all that have recorded an epoch."""
        return self.completed or [one for one in self.runs if one.rows]


@dataclass(frozen=True)
class FloodResults:
    """All settings of a round, in the order of its file."""

    name: str
    settings: tuple[Setting, ...]
    problems: tuple[str, ...] = ()

    def of_task(self, task: str) -> list[Setting]:
        return [one for one in self.settings if one.task == task]

    @cached_property
    def trained(self) -> Mapping[str, list[Setting]]:
        """The settings that train, by stage."""
        made: dict[str, list[Setting]] = {}
        for one in self.of_task(TRAINING):
            made.setdefault(one.stage, []).append(one)
        return made

    @cached_property
    def untuned(self) -> Mapping[str, Setting]:
        """By architecture: its setting in stage A, or else the first one."""
        found = sorted(self.of_task(TRAINING), key=lambda one: one.stage != "A")
        made: dict[str, Setting] = {}
        for one in found:
            if one.architecture:
                made.setdefault(one.architecture, one)
        return made

    @cached_property
    def evaluated(self) -> list[Setting]:
        return self.of_task(EVALUATION)

    @cached_property
    def coarse(self) -> list[Setting]:
        """The coarse solvers, the finest first."""
        return sorted(self.of_task(COARSE), key=lambda one: finite(one.config.get("factor")))

    def dummy(self, flood_set: str, split: str) -> float:
        """The loss of persistence (m) on a split of a set, from its samples or from a training; NaN if not known."""
        samples = [one for one in self.of_task(SAMPLES) if one.flood_set == flood_set]
        trained = [one for one in self.of_task(TRAINING) if one.flood_set == flood_set]
        found = [value for one in samples for value in one.values(f"{split}_dummy_loss")]
        found += [value for one in trained for value in one.values(DUMMIES[split])]
        return found[0] if found else math.nan

    def ring(self, flood_set: str, split: str) -> float:
        """The median relative error of the ring alone on a split of a set, from its samples; NaN if not known."""
        samples = [one for one in self.of_task(SAMPLES) if one.flood_set == flood_set]
        return next((value for one in samples for value in one.values(f"{split}_ring_rae")), math.nan)


def results_of(found: RoundRecords) -> FloodResults:
    """The results of a round. RoundhouseError: it has no experiment of this study."""
    entries = [one for one in found.entries if one.experiment.study == "flood"]
    if not entries:
        raise RoundhouseError(f"round {found.name} is not of the study flood, which this analysis needs")
    problems = list(found.problems)
    settings: list[Setting] = []
    for group, ones in found.groups.items():
        by_setting: dict[str, list[RoundEntry]] = {}
        for one in ones:
            if one in entries:
                by_setting.setdefault(one.setting, []).append(one)
        settings += [_setting(group, own, problems) for own in by_setting.values()]
    return FloodResults(found.name, tuple(_labelled(settings)), tuple(problems))


def _setting(group: str, entries: Sequence[RoundEntry], problems: list[str]) -> Setting:
    stage, config = group.partition("_")[0], entries[0].config
    task = str(config.get("task", TASKS.get(stage, TRAINING)))
    runs = tuple(_run(one, problems) for one in entries)
    architecture = _architecture(entries[0]) if task in (TRAINING, EVALUATION) else ""
    return Setting(stage, group, task, "", architecture, config, runs)


def _architecture(entry: RoundEntry) -> str:
    """From the config (`04`, or 4 if a round file has it without quotes), else from the path; else the default.

    Empty while the run waits for a selection from which it follows.
    """
    given = entry.config.get("architecture")
    if given is not None:
        return f"{given:02}" if isinstance(given, int) else str(given)
    selection = entry.experiment.selection
    known = "" if selection and not selection.choice else DEFAULT_ARCHITECTURE
    return next((one for one in PurePosixPath(entry.path).parts[:-1] if one in ARCHITECTURES), known)


def _run(entry: RoundEntry, problems: list[str]) -> Run:
    metrics = metrics_of(entry, problems)
    seed = entry.config.get(SEED, 0)
    rows = [one for one in metrics.epochs if isinstance(one.get(EPOCH), int) and not one.get("partial")]
    return Run(entry, seed if isinstance(seed, int) else 0, metrics, rows, metrics.final if entry.completed else {})


# --------------------------------------------------------------------------------------------------------- labels


def _labelled(settings: Sequence[Setting]) -> list[Setting]:
    """With labels that differ within a stage: of equal labels, each gets the path of its runs."""
    untuned = FloodResults("", tuple(settings)).untuned
    made = [_with_label(one, untuned.get(one.architecture)) for one in settings]
    known = [(one.stage, one.label) for one in made]
    return [_renamed(one, f"{one.label} ({_place(one)})") if known.count((one.stage, one.label)) > 1 else one
            for one in made]  # fmt: skip


def _with_label(one: Setting, untuned: Setting | None) -> Setting:
    if one.task == COARSE:
        return _renamed(one, f"coarse {one.config.get('factor', '')}".strip())
    if one.task == EVALUATION and one.architecture:
        return _renamed(one, one.architecture)
    if one.task != TRAINING or not one.architecture:
        return _renamed(one, _place(one) if one.task == TRAINING else one.group)
    changed = changes(one.config, untuned.config) if untuned else {}
    text = ", ".join(f"{key} {value}" for key, value in changed.items())
    return _renamed(one, f"{one.architecture} {text}".strip(), changed)


def _place(one: Setting) -> str:
    """The part of the path that its runs share."""
    return str(PurePosixPath(one.runs[0].path).parent)


def _renamed(one: Setting, label: str, changed: Mapping[str, Any] | None = None) -> Setting:
    return Setting(one.stage, one.group, one.task, label, one.architecture, one.config, one.runs,
                   one.changed if changed is None else changed)  # fmt: skip


def changes(config: Mapping[str, Any], untuned: Mapping[str, Any]) -> dict[str, Any]:
    """What a config changes of the untuned one, by key; also the key that its sub-sweep is named after."""
    values = {**DEFAULTS, **config}
    keys = [*DEFAULTS, *({config["focus"]} - {*DEFAULTS} if config.get("focus") in config else ())]
    return {key: values[key] for key in keys if values[key] != {**DEFAULTS, **untuned}.get(key)}
