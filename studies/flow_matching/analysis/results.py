"""The results of a flow matching round: each setting with its runs over seeds, by the part it has in the study."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from analysis.rounds import RoundEntry, RoundRecords, metrics_of
from roundhouse.errors import RoundhouseError
from roundhouse.model.experiment import SEED, Pack
from roundhouse.model.plan import State
from studies.flow_matching.analysis.projections import combination

PSNR, LAST_PSNR, MEAN_PSNR = "test_psnr", "last_test_psnr", "test_mean_psnr"
SECONDS, TRAINING, STEP, SAMPLE = "seconds", "train_seconds", "step_seconds", "sample_seconds"  # times of a run
REFERENCES = ("mean_psnr", "nearest_psnr", "thin_plate_psnr", "rbf_psnr", "rbf_oracle_psnr")
BASE, REGRESSION, LONGER, DOCUMENT_BASE, LOGIT_NORMAL = "base", "regression", "longer", "document_base", "logit_normal"
GENERALISATION, CONTROL = "generalisation_", "control_"  # prefixes of groups
LABELS = frozenset({"version", "techniques", SEED})  # config keys in which a version may differ from the base
DEFAULTS = {"method": "flow", "locality": "distance", "query_pattern": "random", "schedule": "constant",
            "noise_schedule": "cosine_path", "complexity": "simple"}  # fmt: skip
"""Of the study's options: a key that a round leaves out has this value."""


@dataclass(frozen=True)
class Run:
    """A completed run. `spans`: when its attempts ran.

    `seconds`: of its epochs with their validation; `train_seconds`: of its training steps alone. Neither has the time
    in which technique 1 draws its pairs.
    """

    path: str
    seed: int
    final: Mapping[str, float]
    seconds: float
    train_seconds: float
    epochs: Sequence[Mapping[str, Any]]
    spans: Sequence[tuple[float, float]]

    def value(self, metric: str) -> float:
        """A final metric, or one of the times; NaN if the run does not have it."""
        if metric == STEP:
            return self.train_seconds / self.final.get("train_steps", math.nan)
        times = {SECONDS: self.seconds, TRAINING: self.train_seconds}
        return times.get(metric, self.final.get(metric, math.nan))


@dataclass(frozen=True)
class Unfinished:
    """A run without a result. `ended`: it will have none, unless the user retries it."""

    path: str
    state: str
    why: str
    ended: bool


@dataclass(frozen=True)
class Setting:
    """A config, with its runs over seeds."""

    group: str
    version: int
    techniques: tuple[int, ...]
    config: Mapping[str, Any]
    runs: tuple[Run, ...]
    unfinished: tuple[Unfinished, ...]

    @property
    def complexity(self) -> str:
        return str(self.option("complexity"))

    @property
    def is_flow(self) -> bool:
        return str(self.option("method")) == "flow"

    @property
    def label(self) -> str:
        return f"v{self.version}"

    @property
    def name(self) -> str:
        """`v13 (1+2)`."""
        return f"{self.label} ({combination(self.techniques)})"

    @property
    def paths(self) -> list[str]:
        return [*(one.path for one in self.runs), *(one.path for one in self.unfinished)]

    def option(self, key: str) -> Any:
        """A value of the config, or the default of the keys that decide which settings are comparable."""
        return self.config.get(key, DEFAULTS.get(key))

    def values(self, metric: str = PSNR) -> tuple[float, ...]:
        """A final metric or a time of the completed runs, without those that lack it."""
        return tuple(value for one in self.runs if math.isfinite(value := one.value(metric)))

    def mean(self, metric: str = PSNR) -> float:
        """The mean over seeds; NaN without a run that has it."""
        found = self.values(metric)
        return statistics.fmean(found) if found else math.nan

    @property
    def is_measured(self) -> bool:
        return bool(self.values())

    def differs_from(self, other: Setting, *, but: Iterable[str] = ()) -> list[str]:
        """The config keys, beside labels and `but`, in which it differs from another setting."""
        keys = (self.config.keys() | other.config.keys()) - LABELS - {*but}
        return sorted(key for key in keys if self.option(key) != other.option(key))


@dataclass(frozen=True)
class FlowResults:
    """All settings of a round, in the order of its file. `problems`: what cannot be read or used, a line each."""

    name: str
    settings: tuple[Setting, ...]
    gpus: int
    slots: int  # runs at the same time
    per_gpu: int
    problems: tuple[str, ...] = ()
    undecided: Mapping[str, int] = field(default_factory=dict)  # by group: runs whose setting is not selected yet

    def in_group(self, *names: str) -> list[Setting]:
        return [one for one in self.settings if one.group in names]

    @cached_property
    def base(self) -> Setting | None:
        """v2, which the versions are compared with; None if the round has no such group."""
        return next((one for one in self.in_group(BASE) if one.is_flow and not one.techniques), None)

    @cached_property
    def versions(self) -> list[Setting]:
        """The combinations of techniques with the base's config, completed or not; groups of other uses are left out.

        Without a base: those with the config of the first of them.
        """
        found = [one for one in self.settings if one.techniques and one.is_flow and not _has_other_use(one.group)]
        like = self.base or (found[0] if found else None)
        return [one for one in found if like and not one.differs_from(like)]

    @cached_property
    def measured(self) -> list[Setting]:
        """The base and the versions that have a result."""
        return [one for one in (*([self.base] if self.base else []), *self.versions) if one.is_measured]

    @cached_property
    def replicated(self) -> list[Setting]:
        """The settings from whose seeds the noise of a run is estimated: flows of the base's family, with controls.

        Follow-ups are left out, whose training is longer, and the base without the distance term, which hardly learns.
        """
        like = self.first
        return [one for one in self.settings
                if like and one.is_flow and not one.group.startswith((LONGER, GENERALISATION))
                and all(one.option(key) == like.option(key) for key in ("complexity", "size", "locality"))]  # fmt: skip

    @cached_property
    def singles(self) -> dict[int, Setting]:
        """By technique, the version that has it alone."""
        return {one.techniques[0]: one for one in reversed(self.versions) if len(one.techniques) == 1}

    @property
    def regression(self) -> Setting | None:
        return next(iter(self.in_group(REGRESSION)), None)

    def control(self, group: str) -> Setting | None:
        return next(iter(self.in_group(group)), None)

    def with_techniques(self, techniques: tuple[int, ...]) -> Setting | None:
        return next((one for one in self.versions if one.techniques == techniques), None)

    @cached_property
    def first(self) -> Setting | None:
        """The setting whose config stands for the round: the base, else the first version, else the first of all."""
        return self.base or next(iter((*self.versions, *self.settings)), None)

    def reference(self, metric: str, complexity: str | None = None) -> float:
        """PSNR of a simple reconstruction, such as the Gaussian RBF, on the test fields of a family; NaN if unknown.

        By default of the base's family. All runs of one family have the same test fields, so it is the mean of all.
        """
        family = complexity or (self.first.complexity if self.first else "")
        size = self.first.option("size") if self.first else None
        chosen = [one for one in self.settings if one.complexity == family and one.option("size") == size]
        found = [value for one in chosen for value in one.values(metric)]
        return statistics.fmean(found) if found else math.nan


def _has_other_use(group: str) -> bool:
    """Whether a group is a control or a follow-up, by its name: even one with the base's config is no version."""
    return group in (LONGER, DOCUMENT_BASE, LOGIT_NORMAL, REGRESSION) or group.startswith((GENERALISATION, CONTROL))


def results_of(found: RoundRecords) -> FlowResults:
    """The results of a round. RoundhouseError: it has no experiment of this study."""
    entries = [one for one in found.entries if one.experiment.study == "flow_matching"]
    if not entries:
        raise RoundhouseError(f"round {found.name} is not of the study flow_matching, which this analysis needs")
    problems = list(found.problems)
    by_setting: dict[str, list[RoundEntry]] = {}
    undecided: dict[str, int] = {}
    for entry in entries:
        if entry.experiment.undecided:
            undecided[entry.group] = undecided.get(entry.group, 0) + 1
        else:
            by_setting.setdefault(f"{entry.group} {entry.setting}", []).append(entry)
    settings = tuple(_setting(ones, problems) for ones in by_setting.values())
    requests = [one.experiment.resources for one in entries]
    pack = next((one.pack for one in requests if one.pack), Pack(1))
    gpus = max(one.ngpus for one in requests)
    return FlowResults(found.name, settings, gpus, pack.slots, pack.per_gpu, tuple(problems), undecided)


def _setting(entries: Sequence[RoundEntry], problems: list[str]) -> Setting:
    config = entries[0].config
    runs = tuple(_run(one, problems) for one in entries if one.completed)
    unfinished = tuple(_unfinished(one) for one in entries if not one.completed)
    version = config.get("version", 2)
    return Setting(entries[0].group, version if isinstance(version, int) else 2,
                   techniques_in(config.get("techniques")), config, runs, unfinished)  # fmt: skip


def techniques_in(value: Any) -> tuple[int, ...]:
    """The numbers in the config key `techniques`, ascending: `1+2+7`, `1,2,7`, empty or not set."""
    return tuple(sorted({int(number) for number in re.findall(r"\d+", str(value or ""))}))


def _run(entry: RoundEntry, problems: list[str]) -> Run:
    metrics = metrics_of(entry, problems)
    if PSNR not in metrics.final:
        problems.append(f"{entry.path}: completed, but without {PSNR}: left out of all comparisons")
    seed = entry.config.get(SEED, 0)
    seconds = metrics.used.get(SECONDS) or entry.seconds
    return Run(entry.path, seed if isinstance(seed, int) else 0, metrics.final, seconds,
               metrics.used.get(TRAINING) or seconds, metrics.epochs, entry.spans)  # fmt: skip


def _unfinished(entry: RoundEntry) -> Unfinished:
    why = entry.reason
    if entry.state is State.DIVERGED and (diverged := metrics_of(entry, []).diverged):
        why = f"diverged at step {diverged.get('step')}: {diverged.get('why')}"
    return Unfinished(entry.path, str(entry.state), why, entry.state.final)
