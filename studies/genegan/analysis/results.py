"""The results of a GeneGAN round: each arm with its runs over seeds, and how their images were evaluated."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from analysis.rounds import RoundEntry, RoundRecords, metrics_of, newest_file, setting_labels
from roundhouse.errors import RoundhouseError
from roundhouse.model.experiment import SEED
from roundhouse.model.plan import State
from roundhouse.store.metrics import RunMetrics, finite
from studies.genegan.analysis.document import PAIRS

DISTANCE = "distance"
DIRECTIONS = {"add": "added", "remove": "removed"}
LOSSES = {"critic_loss": "critics", "generator_loss": "generator"}
EVALUATION = "kept/evaluation.json"
"""What a run keeps about its evaluation: the extractor and its weights, image size, number of images."""
WORDS = {State.COMPLETED: "done", State.IN_PROGRESS: "running", State.SUBMITTING: "running"}
DEFAULTS: Mapping[str, Any] = {
    "method": "genegan", "dataset": "faces", "attribute": "Smiling", "sizes": [64, 96, 128], "width": 128,
    "batch_size": 64, "evaluation_images": 5000, "evaluation_size": None, "extractor": "auto",
}  # fmt: skip
"""Of the study's options: a key that a round leaves out has this value."""


@dataclass(frozen=True)
class Evaluated:
    """How distances were computed. Only those that agree in all of it are compared."""

    extractor: str  # `auto`: it is not recorded which one was used
    weights: str  # SHA-256, if it is recorded
    size: int
    images: int

    @property
    def distance_name(self) -> str:
        """FID only with the standard Inception weights, which the study verifies before it uses them."""
        return "FID" if self.extractor == "inception" else f"FD ({self.extractor})"

    @property
    def kernel_name(self) -> str:
        return "KID" if self.extractor == "inception" else f"KD ({self.extractor})"

    def __str__(self) -> str:
        return f"{self.distance_name} @{self.size}, N {self.images}"


@dataclass(frozen=True)
class Run:
    """A run in any state. `rows`: what it recorded, by iteration; `final`: of a completed run; `why`: if it is not."""

    entry: RoundEntry
    seed: int
    state: State
    why: str
    rows: Sequence[Mapping[str, Any]]
    final: Mapping[str, float]
    train_seconds: float
    evaluated: Evaluated
    best_iteration: int | None = None

    @property
    def path(self) -> str:
        return self.entry.path

    @property
    def completed(self) -> bool:
        return self.state is State.COMPLETED

    @property
    def status(self) -> str:
        """`done`, `running`, `pending`, or another state as it is."""
        return WORDS.get(self.state, str(self.state).replace("_", " "))

    @cached_property
    def iterations(self) -> int:
        return max((int(row.get("step", 0)) for row in self.rows), default=0)

    @property
    def seconds_per_iteration(self) -> float:
        """Of training alone; NaN before it is known."""
        return self.train_seconds / self.iterations if self.iterations else math.nan

    def series(self, metric: str) -> list[tuple[int, float]]:
        """A metric by iteration, where it was recorded as a finite number."""
        return [(int(row["step"]), float(row[metric])) for row in self.rows
                if "step" in row and math.isfinite(finite(row.get(metric)))]  # fmt: skip

    def last(self, metric: str) -> float:
        return next((value for _, value in reversed(self.series(metric))), math.nan)

    def variance(self, metric: str) -> float:
        """The variance of a loss between the recorded rows of the last half of the iterations; NaN for fewer than 2."""
        values = [value for step, value in self.series(metric) if step > self.iterations / 2]
        return statistics.variance(values) if len(values) > 1 else math.nan

    def distance_at(self, seconds: float) -> float:
        """The validation distance after so many seconds of training, linear between evaluations; NaN outside them."""
        points = [(step * self.seconds_per_iteration, value) for step, value in self.series(DISTANCE)]
        if points and math.isclose(points[-1][0], seconds):
            return points[-1][1]
        for (start, first), (end, last) in pairwise(points):
            if start <= seconds <= end and end > start:
                return first + (last - first) * (seconds - start) / (end - start)
        return math.nan

    def value(self, name: str) -> float:
        """A final metric, or one of the measures that follow from what was recorded; NaN if it is not known."""
        if name == "iterations_per_second":
            return 1 / self.seconds_per_iteration if self.train_seconds > 0 and self.iterations else math.nan
        if name in ("generator_variance", "critic_variance"):
            return self.variance(name.replace("variance", "loss"))
        return finite(self.final.get(name))


@dataclass(frozen=True)
class Arm:
    """A config, with its runs over seeds."""

    group: str
    label: str
    config: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def completed(self) -> list[Run]:
        return [one for one in self.runs if one.completed]

    @property
    def is_gan(self) -> bool:
        return bool(self.option("method") == "genegan")

    def option(self, key: str) -> Any:
        return self.config.get(key, DEFAULTS.get(key))

    def values(self, name: str) -> tuple[float, ...]:
        """A measure of the completed runs, without those that lack it."""
        return tuple(value for one in self.completed if math.isfinite(value := one.value(name)))

    def mean(self, name: str) -> float:
        found = self.values(name)
        return statistics.fmean(found) if found else math.nan

    def to_show(self) -> list[Run]:
        """The completed runs; without any, all that recorded something."""
        return self.completed or [one for one in self.runs if one.rows]


@dataclass(frozen=True)
class GeneganResults:
    """All arms of a round, in the order of its file. `against`: by label, the arms that an arm is compared with."""

    name: str
    arms: tuple[Arm, ...]
    against: Mapping[str, tuple[Arm, ...]]
    problems: tuple[str, ...] = ()

    @cached_property
    def gans(self) -> list[Arm]:
        """The arms that exchange an attribute: all but VQVAEs."""
        return [one for one in self.arms if one.is_gan]

    def in_group(self, group: str) -> list[Arm]:
        return [one for one in self.arms if one.group == group]

    @cached_property
    def base(self) -> Arm | None:
        """The arm that most others are compared with; without comparisons, the first."""
        others = [one for found in self.against.values() for one in found]
        counts = {one.label: sum(other is one for other in others) for one in others}
        return max(others, key=lambda one: counts[one.label]) if others else next(iter(self.gans), None)

    @cached_property
    def evaluated(self) -> list[Evaluated]:
        """The different ways in which the distances of this round were computed."""
        return list(dict.fromkeys(run.evaluated for arm in self.gans for run in arm.runs if run.rows))

    @property
    def distance_name(self) -> str:
        """For axes: `FID`, or `FD (small)`."""
        names = dict.fromkeys(one.distance_name for one in self.evaluated)
        return " or ".join(names) or "FD"

    @property
    def kernel_name(self) -> str:
        return " or ".join(dict.fromkeys(one.kernel_name for one in self.evaluated)) or "KD"

    def reference(self, metric: str) -> float:
        """The mean over all completed runs of a final metric that no generator changes, such as the floor."""
        found = [value for arm in self.gans for value in arm.values(metric)]
        return statistics.fmean(found) if found else math.nan


def results_of(found: RoundRecords) -> GeneganResults:
    """The results of a round. RoundhouseError: it has no experiment of this study."""
    entries = [one for one in found.entries if one.experiment.study == "genegan"]
    if not entries:
        raise RoundhouseError(f"round {found.name} is not of the study genegan, which this analysis needs")
    problems = list(found.problems)
    arms: list[Arm] = []
    for group, ones in found.groups.items():
        of_study = [one for one in ones if one in entries]
        labels = setting_labels(of_study)
        for setting, label in labels.items():
            own = [one for one in of_study if one.setting == setting]
            name = group if len(labels) == 1 else f"{group}: {label}"
            arms.append(Arm(group, name, own[0].config, tuple(_run(one, problems) for one in own)))
    against = {arm.label: tuple(_against(arm, arms, found)) for arm in arms if arm.is_gan}
    made = GeneganResults(found.name, tuple(arms), {label: ones for label, ones in against.items() if ones})
    if len(made.evaluated) > 1:
        ways = "; ".join(map(str, made.evaluated))
        problems.append(f"distances were computed in several ways ({ways}): those of different ways are not compared")
    return GeneganResults(made.name, made.arms, made.against, tuple(problems))


def _against(arm: Arm, arms: Sequence[Arm], found: RoundRecords) -> list[Arm]:
    """The arms of its baseline in the round file, and those that a question of the document compares it with."""
    paths = {one.path for one in found.baseline_of(arm.runs[0].entry)}
    wanted = {other for group, other in PAIRS if group == arm.group}
    chosen = [one for one in arms if one.group in wanted or any(run.path in paths for run in one.runs)]
    return [one for one in chosen if one is not arm and one.is_gan]


def _run(entry: RoundEntry, problems: list[str]) -> Run:
    metrics = metrics_of(entry, problems)
    seed = entry.config.get(SEED, 0)
    rows = [_with_lost(one) for one in metrics.epochs if isinstance(one.get("step"), int)]
    final = metrics.final if entry.completed else {}
    if entry.completed and entry.config.get("method", "genegan") == "genegan" and f"test_{DISTANCE}" not in final:
        problems.append(f"{entry.path}: completed, but without test_{DISTANCE}: left out of all comparisons of it")
    return Run(entry, seed if isinstance(seed, int) else 0, entry.state, _why(entry, metrics), rows, final,
               finite(metrics.used.get("train_seconds")), _evaluated(entry, problems), metrics.best_step)  # fmt: skip


def _with_lost(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """With `add_lost` and `remove_lost`: PSNR that the output lacks to the reconstruction, outside the region."""
    lost = {f"{direction}_lost": finite(row.get("reconstruction_outside")) - finite(row.get(f"{direction}_outside"))
            for direction in DIRECTIONS}  # fmt: skip
    return {**row, **{name: value for name, value in lost.items() if math.isfinite(value)}}


def _why(entry: RoundEntry, metrics: RunMetrics) -> str:
    if entry.state is State.DIVERGED and metrics.diverged:
        return f"{metrics.diverged.get('why')}, at iteration {metrics.diverged.get('step')}"
    return entry.reason


def _evaluated(entry: RoundEntry, problems: list[str]) -> Evaluated:
    """From what the run kept about it; else from its config."""
    config = {**DEFAULTS, **entry.config}
    sizes = config["sizes"] or [0]
    size = config["evaluation_size"] or sizes[-1]
    made = Evaluated(str(config["extractor"]), "", size, config["evaluation_images"])
    path = newest_file(entry.record, EVALUATION)
    if path is None:
        return made
    try:
        content = json.loads(path.read_bytes())
        return Evaluated(str(content["extractor"]), str(content["weights"]), int(content["size"]),
                         int(content["images"]))  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"{entry.path}: {EVALUATION} is unreadable ({type(error).__name__}); the config is used")
        return made
