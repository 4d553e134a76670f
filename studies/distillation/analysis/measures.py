"""Measures of a run's outputs: accuracy, fidelity, calibration, representation, cost; with chance and floors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis import calibration, fidelity, representation
from analysis.comparison import Comparison
from analysis.rounding import decimals, fixed, with_interval
from analysis.rounds import metrics_of
from roundhouse.errors import RoundhouseError
from roundhouse.store.metrics import RunMetrics
from studies.distillation.analysis.runs import LAYERS, CompletedRun, CompletedRuns, Outputs

NEIGHBOURS = 10  # k of the k-NN overlap
NEIGHBOUR_EXAMPLES = 2000  # the first test images: distances of all 10,000 would take most of the time
ROUNDING = 1e-6  # of an accuracy: records hold it in single precision
ANGLES = 10  # dimensions of the principal subspaces
BINS = ("lower", "upper", "count", "confidence", "accuracy")  # columns of a reliability diagram
EPOCH = ("epoch", "gradient_ratio")  # what is kept of an epoch


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the table of measures: its label, unit and factor for display."""

    column: str
    label: str
    unit: str = ""
    factor: float = 1.0

    @property
    def axis(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def difference_unit(self) -> str:
        """The unit behind a difference: those of percentages are in points."""
        return " points" if self.unit == "%" else f" {self.unit}" if self.unit else ""

    def difference(self, one: Comparison, spread: float | None = None) -> str:
        """A mean difference with its interval, without unit: `+2.0 (+1.1 to +2.9)`; `spread` gives the digits.

        Of fewer than three pairs `+2.0 (pairs: +1.1, +2.9)`.
        """
        if one.singles:
            known = decimals(self.factor * one.sd, self.factor * one.mean)
            text, *pairs = (fixed(self.factor * each, known, sign=True) for each in (one.mean, *one.singles))
            return f"{text} (pairs: {', '.join(pairs)})"
        mean, low, high = (self.factor * each for each in (one.mean, one.interval.low, one.interval.high))
        return with_interval(mean, low, high, spread)

    def half_width(self, one: Comparison) -> float:
        """Half of the interval of a difference, in the unit in which it is shown."""
        return self.factor * (one.interval.high - one.interval.low) / 2


MEASURES = {
    one.column: one
    for one in (
        Measure("accuracy", "test accuracy", "%", 100.0),
        Measure("agreement", "agreement with the teacher", "%", 100.0),
        Measure("kl", "KL(teacher ‖ student)", "nats"),
        Measure("ece", f"ECE, {calibration.BINS} bins", "%", 100.0),
        Measure("ece_scaled", f"ECE after temperature scaling, {calibration.BINS} bins", "%", 100.0),
        Measure("adaptive_ece", f"adaptive ECE, {calibration.BINS} bins", "%", 100.0),
        Measure("nll", "negative log-likelihood", "nats"),
        Measure("brier", "Brier score"),
        Measure("temperature", "fitted temperature"),
        Measure("cka_pooled", "CKA with the teacher (pooled features)"),
        Measure("procrustes", "Procrustes distance to the teacher (pooled features)"),
        Measure("knn", f"{NEIGHBOURS}-NN overlap with the teacher (pooled features)"),
        Measure("angle", f"mean of {ANGLES} principal angles to the teacher", "rad"),
        Measure("participation", "effective rank: participation ratio (pooled features)"),
        Measure("components_90", "components for 90 % of variance (pooled features)"),
        Measure("components_95", "components for 95 % of variance (pooled features)"),
        Measure("variance_ratio", "variance within / between classes (pooled features)"),
        Measure("class_cosine", "mean cosine between class means (pooled features)"),
        Measure("gradient_ratio", "distance's over cross entropy's gradient norm, median over epochs"),
        Measure("gpu_hours", "GPU time", "GPU-hours"),
        Measure("seconds", "time of training", "s"),
    )
}
BESIDES = (
    "test_images",
    "tied_images",
    "reported_accuracy",
    "chance",
    "ece_floor",
    "nll_scaled",
    "knn_chance",
    *(f"cka_{layer}" for layer in LAYERS if layer != "pooled"),
)


@dataclass(frozen=True)
class RunMeasures:
    """One run: its measures, the bins of its reliability diagram, and its epochs.

    Undefined or missing values are NaN or None, and listed in `problems`.
    """

    run: CompletedRun
    row: Mapping[str, Any]
    bins: Sequence[Mapping[Any, float]] = ()
    epochs: Sequence[Mapping[str, float]] = ()  # those that have a gradient_ratio
    problems: Sequence[str] = ()


def measure_all(runs: CompletedRuns, pool: Executor) -> list[RunMeasures]:
    """Measure all runs; results are in the same order."""
    teachers = [runs.teacher_of(run) for run in runs.runs]
    return list(pool.map(measure, runs.runs, teachers, chunksize=4))


def identity_of(run: CompletedRun) -> dict[str, Any]:
    """The columns of a table that identify a run's setting and block."""
    method, alpha = run.setting
    return {"method": method, "alpha": alpha, "dataset": run.block.dataset, "seed": run.block.seed}


def measure(run: CompletedRun, teacher: CompletedRun | None) -> RunMeasures:
    """Measure one run, and compare it with its teacher if that is completed."""
    unread: list[str] = []
    metrics = metrics_of(run.entry, unread)
    problems = [f"{run.round}/{one}" for one in unread]
    row: dict[str, Any] = {"run": run.name, **identity_of(run), **dict.fromkeys((*MEASURES, *BESIDES), float("nan"))}
    epochs = [one for one in metrics.epochs if all(isinstance(one.get(key), (int, float)) for key in EPOCH)]
    epochs = [{key: one[key] for key in EPOCH} for one in epochs]
    row |= _cost(run, metrics, epochs)
    row["reported_accuracy"] = metrics.final.get("test_accuracy", float("nan"))
    try:
        own = run.outputs()
    except RoundhouseError as error:
        return RunMeasures(run, row, epochs=epochs, problems=[*problems, str(error)])
    attempts = _of_one(own)
    if teacher is None:
        problems.append(f"{run.name}: its teacher is not completed: no fidelity and similarity")
    elif teacher is not run:
        try:
            attempts |= _compared(own, teacher.outputs())
        except RoundhouseError as error:
            problems.append(f"{run.name}: no fidelity and similarity: its teacher {error}")
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
    except RoundhouseError:
        return RunMeasures(run, row, epochs=epochs, problems=problems)  # already in `problems`
    return RunMeasures(run, row, bins, epochs, problems)


Computations = dict[str, Callable[[], float]]


def _of_one(own: Outputs) -> Computations:
    """The measures of one network's outputs."""
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
        "test_images": lambda: float(len(own["labels"])),
        "tied_images": lambda: _tied(own["logits"]),
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


def _tied(logits: Any) -> float:
    """The share of images with several largest logits: rounding to float16 can change the answer for these only."""
    return float(np.mean(np.sum(logits == logits.max(axis=1, keepdims=True), axis=1) > 1))


def accuracy_mismatches(frame: pd.DataFrame) -> list[str]:
    """A line for each data set in which runs report another accuracy than their saved logits have."""
    lines = []
    for dataset, found in frame.groupby("dataset", sort=False):
        apart = (found["accuracy"] - found["reported_accuracy"]).abs()
        wrong = apart[apart > found["tied_images"] + ROUNDING]
        if len(wrong):
            most = found.iloc[int(apart.argmax())]
            lines.append(
                f"{dataset}: in {len(wrong)} of {len(found)} runs the accuracy of the test images in outputs.npz is "
                f"not the test_accuracy in metrics.json. Most in {most['run']}: {100 * most['accuracy']:.2f} % of "
                f"{most['test_images']:.0f} images, reported {100 * most['reported_accuracy']:.2f} %. Check whether "
                "both files are of the same attempt and complete"
            )
    return lines


def _largest_share(labels: Any) -> float:
    """The accuracy of always predicting the most frequent class."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def _compared(own: Outputs, teacher: Outputs) -> Computations:
    """The measures that compare a student's outputs with its teacher's."""
    few = slice(NEIGHBOUR_EXAMPLES)

    def overlap() -> float:
        mine = representation.neighbours(own["pooled"][few], NEIGHBOURS)
        return representation.knn_overlap(mine, representation.neighbours(teacher["pooled"][few], NEIGHBOURS))

    return {
        "agreement": lambda: fidelity.agreement(own["logits"], teacher["logits"]),
        "kl": lambda: fidelity.mean_kl(teacher["logits"], own["logits"]),
        **{f"cka_{layer}": _cka(own, teacher, layer) for layer in LAYERS},
        "procrustes": lambda: representation.procrustes(own["pooled"], teacher["pooled"]),
        "knn": overlap,
        "knn_chance": lambda: representation.knn_chance(len(own["pooled"][few]), NEIGHBOURS),
        "angle": lambda: float(representation.principal_angles(own["pooled"], teacher["pooled"], ANGLES).mean()),
    }


def _cka(own: Outputs, teacher: Outputs, layer: str) -> Callable[[], float]:
    return lambda: representation.cka(own[layer], teacher[layer])


def _cost(run: CompletedRun, metrics: RunMetrics, epochs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    ratios = [one["gradient_ratio"] for one in epochs]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the median of an empty array is NaN, as intended
        ratio = float(np.nanmedian(np.array(ratios, dtype=float)))
    return {
        "gradient_ratio": ratio,
        "seconds": metrics.used.get("seconds", float("nan")),
        "gpu_hours": run.entry.gpu_hours,
    }


def similarities(runs: CompletedRuns, pool: Executor) -> pd.DataFrame:
    """CKA of pooled features between students of one data set: `first`, `second` (settings), `dataset`, `seeds`, `cka`.

    Two settings are compared at equal seeds. A setting is compared with itself between seeds: the noise floor, which is
    the similarity of two runs that differ only in their seed.
    """
    tables = pool.map(_similarities, [[run for run in runs.runs if run.setting in runs.students
                                       and run.block.dataset == dataset] for dataset in runs.datasets])  # fmt: skip
    rows = [row for table in tables for row in table]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=["dataset", "first", "second", "seeds", "cka"])
    return frame


def _similarities(runs: list[CompletedRun]) -> list[dict[str, Any]]:
    features = {}
    for run in runs:
        try:
            features[run.setting, run.block] = np.asarray(run.outputs()["pooled"], dtype=np.float32)
        except RoundhouseError:
            continue  # reported by `measure`
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
