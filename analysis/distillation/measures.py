"""What a run's outputs measure: accuracy, fidelity, calibration, representation, cost; with chance and floors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import calibration, fidelity, representation
from analysis.distillation.runs import LAYERS, Outputs, Run, Runs
from analysis.frames import spans_of
from analysis.rounds import Metrics, metrics_of
from roundhouse.errors import RoundhouseError

NEIGHBOURS = 10  # k of the k-NN overlap
NEIGHBOUR_EXAMPLES = 2000  # the first so many test images: distances of all 10,000 would take most of the time
ANGLES = 10  # dimensions of the principal subspaces
BINS = ("lower", "upper", "count", "confidence", "accuracy")  # columns of a reliability diagram
EPOCH = ("epoch", "gradient_ratio")  # what is kept of an epoch


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the table of measures: how it is called, its unit, what it is multiplied with, what is better."""

    column: str
    label: str
    unit: str = ""
    factor: float = 1.0
    better: int = 0  # 1: more is better, -1: less is, 0: neither

    @property
    def axis(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def differences(self, *values: float) -> str:
        """Differences for a sentence, with their signs; those of percentages are points."""
        unit = "points" if self.unit == "%" else self.unit
        return ", ".join(map(self.signed, values)) + (f" {unit}" if unit else "")

    def signed(self, value: float) -> str:
        """A difference without its unit; neither 1e-16 nor -0."""
        return f"{round(value * self.factor, 9) + 0.0:+.3g}"


MEASURES = {
    one.column: one
    for one in (
        Measure("accuracy", "test accuracy", "%", 100.0, 1),
        Measure("agreement", "agreement with the teacher", "%", 100.0),
        Measure("kl", "KL(teacher ‖ student)", "nats"),
        Measure("ece", f"ECE, {calibration.BINS} bins", "%", 100.0, -1),
        Measure("ece_scaled", f"ECE after temperature scaling, {calibration.BINS} bins", "%", 100.0, -1),
        Measure("adaptive_ece", f"adaptive ECE, {calibration.BINS} bins", "%", 100.0, -1),
        Measure("nll", "negative log-likelihood", "nats", 1.0, -1),
        Measure("brier", "Brier score", "", 1.0, -1),
        Measure("temperature", "fitted temperature"),
        Measure("cka_pooled", "CKA with the teacher, pooled features"),
        Measure("procrustes", "Procrustes distance to the teacher, pooled features"),
        Measure("knn", f"{NEIGHBOURS}-NN overlap with the teacher, pooled features"),
        Measure("angle", f"mean of {ANGLES} principal angles to the teacher", "rad"),
        Measure("participation", "effective rank (participation ratio), pooled features"),
        Measure("components_90", "components for 90 % of variance, pooled features"),
        Measure("components_95", "components for 95 % of variance, pooled features"),
        Measure("variance_ratio", "variance within / between classes, pooled features"),
        Measure("class_cosine", "mean cosine between class means, pooled features"),
        Measure("gradient_ratio", "distance's over cross entropy's gradient norm, median over epochs"),
        Measure("gpu_hours", "GPU-hours", "h"),
        Measure("seconds", "seconds of training", "s"),
    )
}
BESIDES = (
    "chance",
    "ece_floor",
    "nll_scaled",
    "knn_chance",
    *(f"cka_{layer}" for layer in LAYERS if layer != "pooled"),
)


@dataclass(frozen=True)
class Measured:
    """One run: a row of measures, the bins of its reliability diagram, which test images it has right, and its epochs.

    What is not defined or not there is NaN, or None, and told in `problems`.
    """

    run: Run
    row: Mapping[str, Any]
    bins: Sequence[Mapping[Any, float]] = ()
    right: NDArray[np.bool_] | None = None
    epochs: Sequence[Mapping[str, float]] = ()  # those that have a gradient_ratio
    problems: Sequence[str] = ()


def measure_all(runs: Runs, pool: Executor) -> list[Measured]:
    """All runs measured, in their order."""
    teachers = [runs.teacher_of(run) for run in runs.runs]
    return list(pool.map(measure, runs.runs, teachers, chunksize=4))


def place_of(run: Run) -> dict[str, Any]:
    """The columns by which tables name a run's setting and block."""
    method, alpha = run.setting
    return {"method": method, "alpha": alpha, "dataset": run.block.dataset, "seed": run.block.seed}


def measure(run: Run, teacher: Run | None) -> Measured:
    """Measure one run, beside its teacher if that is completed."""
    unread: list[str] = []
    metrics = metrics_of(run.entry, unread)
    problems = [f"{run.round}/{one}" for one in unread]
    row: dict[str, Any] = {"run": run.name, **place_of(run), **dict.fromkeys((*MEASURES, *BESIDES), float("nan"))}
    epochs = [one for one in metrics.epochs if all(isinstance(one.get(key), (int, float)) for key in EPOCH)]
    epochs = [{key: one[key] for key in EPOCH} for one in epochs]
    row |= _cost(run, metrics, epochs)
    try:
        own = run.outputs()
    except RoundhouseError as error:
        return Measured(run, row, epochs=epochs, problems=[*problems, str(error)])
    attempts = _alone(own)
    if teacher is None:
        problems.append(f"{run.name}: its teacher is not completed: nothing is known of fidelity and similarity")
    elif teacher is not run:
        try:
            attempts |= _beside(own, teacher.outputs())
        except RoundhouseError as error:
            problems.append(f"{run.name}: nothing is known of fidelity and similarity: its teacher {error}")
    refused: dict[str, list[str]] = {}
    for column, compute in attempts.items():
        try:
            row[column] = compute()
        except RoundhouseError as error:
            refused.setdefault(str(error), []).append(column)
    problems += [f"{run.name}: {', '.join(columns)}: {why}" for why, columns in refused.items()]
    try:
        found = calibration.reliability(own["logits"], own["labels"])
        bins = pd.DataFrame({name: getattr(found, name) for name in BINS}).to_dict("records")
        right = fidelity.correct(own["logits"], own["labels"])
    except RoundhouseError:
        return Measured(run, row, epochs=epochs, problems=problems)  # told above
    return Measured(run, row, bins, right, epochs, problems)


Computations = dict[str, Callable[[], float]]


def _alone(own: Outputs) -> Computations:
    """What is measured of one network's outputs."""
    found: dict[str, float] = {}

    def answers() -> tuple[Any, Any]:
        return own["logits"], own["labels"]

    def temperature() -> float:
        if "value" not in found:
            found["value"] = calibration.fit_temperature(own["validation_logits"], own["validation_labels"])
        return found["value"]

    def scaled() -> tuple[Any, Any]:
        return calibration.scaled(own["logits"], temperature()), own["labels"]

    def means() -> representation.ClassMeans:
        return representation.class_means(own["pooled"], own["labels"])

    return {
        "accuracy": lambda: fidelity.accuracy(*answers()),
        "chance": lambda: _largest_share(own["labels"]),
        "ece": lambda: calibration.ece(*answers()),
        "ece_floor": lambda: calibration.ece_floor(own["logits"]),
        "adaptive_ece": lambda: calibration.adaptive_ece(*answers()),
        "nll": lambda: calibration.nll(*answers()),
        "brier": lambda: calibration.brier(*answers()),
        "temperature": temperature,
        "ece_scaled": lambda: calibration.ece(*scaled()),
        "nll_scaled": lambda: calibration.nll(*scaled()),
        "participation": lambda: representation.participation_ratio(own["pooled"]),
        "components_90": lambda: representation.components_for(own["pooled"], 0.9),
        "components_95": lambda: representation.components_for(own["pooled"], 0.95),
        "variance_ratio": lambda: means().variance_ratio,
        "class_cosine": lambda: means().cosine,
    }


def _largest_share(labels: Any) -> float:
    """The accuracy of always giving the most frequent class."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def _beside(own: Outputs, led: Outputs) -> Computations:
    """What is measured of a student's outputs beside those of its teacher."""
    few = slice(NEIGHBOUR_EXAMPLES)

    def overlap() -> float:
        mine = representation.neighbours(own["pooled"][few], NEIGHBOURS)
        return representation.knn_overlap(mine, representation.neighbours(led["pooled"][few], NEIGHBOURS))

    return {
        "agreement": lambda: fidelity.agreement(own["logits"], led["logits"]),
        "kl": lambda: fidelity.mean_kl(led["logits"], own["logits"]),
        **{f"cka_{layer}": _cka(own, led, layer) for layer in LAYERS},
        "procrustes": lambda: representation.procrustes(own["pooled"], led["pooled"]),
        "knn": overlap,
        "knn_chance": lambda: representation.knn_chance(len(own["pooled"][few]), NEIGHBOURS),
        "angle": lambda: float(representation.principal_angles(own["pooled"], led["pooled"], ANGLES).mean()),
    }


def _cka(own: Outputs, led: Outputs, layer: str) -> Callable[[], float]:
    return lambda: representation.cka(own[layer], led[layer])


def _cost(run: Run, metrics: Metrics, epochs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    ratios = [one["gradient_ratio"] for one in epochs]
    hours = sum(end - start for start, end in spans_of(run.entry)) / 3600
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a median of nothing is NaN, which is what is meant
        ratio = float(np.nanmedian(np.array(ratios, dtype=float)))
    return {
        "gradient_ratio": ratio,
        "seconds": metrics.used.get("seconds", float("nan")),
        "gpu_hours": hours * run.entry.row.experiment.resources.ngpus,
    }


def similarities(runs: Runs, pool: Executor) -> pd.DataFrame:
    """CKA of pooled features between students of one data set: `first`, `second` (settings), `dataset`, `seeds`, `cka`.

    Two settings are compared at equal seeds; a setting with itself between its seeds, which is the noise floor: how
    alike two runs are that differ in nothing but chance.
    """
    tables = pool.map(_similarities, [[run for run in runs.runs if run.setting in runs.students
                                       and run.block.dataset == dataset] for dataset in runs.datasets])  # fmt: skip
    rows = [row for table in tables for row in table]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=["dataset", "first", "second", "seeds", "cka"])
    return frame


def _similarities(runs: list[Run]) -> list[dict[str, Any]]:
    features = {}
    for run in runs:
        try:
            features[run.setting, run.block] = np.asarray(run.outputs()["pooled"], dtype=np.float32)
        except RoundhouseError:
            continue  # told when it was measured
    rows = []
    for first, second in _pairs(features):
        try:
            value = representation.cka(features[first], features[second])
        except RoundhouseError:
            continue
        seeds = f"{first[1].seed}-{second[1].seed}"
        rows.append({"dataset": first[1].dataset, "first": str(first[0]), "second": str(second[0]), "seeds": seeds,
                     "cka": value})  # fmt: skip
    return rows


def _pairs(keys: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Same seed and different setting, or same setting and different seed."""
    return [(a, b) for a, b in combinations(keys, 2) if (a[0] == b[0]) != (a[1].seed == b[1].seed)]
