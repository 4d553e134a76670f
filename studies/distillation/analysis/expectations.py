"""What contradicts expectations: results that a reader would not believe without a second look."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from analysis.comparison import Comparison
from analysis.rounding import fixed
from roundhouse.formatting import abbreviated, counted
from studies.distillation.analysis.effects import DISTILLED, SAME_ALPHA, SHRUNK
from studies.distillation.analysis.figure_data import FigureData
from studies.distillation.analysis.measures import MEASURES
from studies.distillation.analysis.runs import TEACHER, MethodSetting

MOST_NAMED = 6


def contradictions(data: FigureData) -> list[str]:
    """A line for each contradiction."""
    return [line for check in CHECKS for line in check(data)]


def _results(data: FigureData, measure: str, question: str) -> dict[MethodSetting, Comparison]:
    found = (one for one in data.families if (one.measure.column, one.question) == (measure, question))
    return dict(next((one.results for one in found), {}))


def _named(results: dict[MethodSetting, Comparison], measure: str) -> str:
    parts = [f"{setting}: {MEASURES[measure].difference(one)}" for setting, one in results.items()]
    return f"{abbreviated(parts, MOST_NAMED)}{MEASURES[measure].difference_unit}"


def _less_accuracy(data: FigureData) -> Iterator[str]:
    for question, other in ((DISTILLED, f"the {data.baseline_label}"), (SAME_ALPHA, "the control of the same alpha")):
        lost = {key: one for key, one in _results(data, "accuracy", question).items() if one.shown and one.mean < 0}
        if lost:
            yield f"Distillation lowers test accuracy, against {other}: {_named(lost, 'accuracy')}."


def _fidelity_without_accuracy(data: FigureData) -> Iterator[str]:
    accuracy = _results(data, "accuracy", DISTILLED)
    closer = {key: one for key, one in _results(data, "agreement", DISTILLED).items() if one.shown and one.mean > 0}
    idle = {key: one for key, one in closer.items()
            if key in accuracy and not (accuracy[key].shown and accuracy[key].mean > 0)}  # fmt: skip
    if idle:
        yield (
            f"More fidelity without more accuracy: agreement with the teacher is higher ({_named(idle, 'agreement')}), "
            f"a gain in test accuracy is not shown ({_named({key: accuracy[key] for key in idle}, 'accuracy')})."
        )


def _accuracy_without_fidelity(data: FigureData) -> Iterator[str]:
    agreement = _results(data, "agreement", DISTILLED)
    better = {key: one for key, one in _results(data, "accuracy", DISTILLED).items() if one.shown and one.mean > 0}
    apart = {key: agreement[key] for key in better if key in agreement and not agreement[key].mean > 0}
    if apart:
        yield f"More accuracy without more agreement with the teacher: {_named(apart, 'agreement')}."


def _worse_calibration(data: FigureData) -> Iterator[str]:
    worse = {key: one for key, one in _results(data, "ece", DISTILLED).items() if one.shown and one.mean > 0}
    if worse:
        yield f"Distilled students are worse calibrated: {MEASURES['ece'].label} is higher ({_named(worse, 'ece')})."


def _better_without_labels(data: FigureData) -> Iterator[str]:
    better = {key: one for key, one in _results(data, "accuracy", SHRUNK).items() if one.shown and one.mean > 0}
    if better:
        yield f"A smaller cross entropy alone raises test accuracy: {_named(better, 'accuracy')}."


def _only_cka(data: FigureData) -> Iterator[str]:
    distance = _results(data, "procrustes", DISTILLED)
    nearer = {key: one for key, one in _results(data, "cka_pooled", DISTILLED).items() if one.shown and one.mean > 0}
    only = {key: distance[key] for key in nearer if key in distance and not distance[key].mean < 0}
    if only:
        yield (
            "CKA and Procrustes distance disagree: by CKA the features come nearer to the teacher's, by distance not "
            f"({_named(only, 'procrustes')})."
        )


def _weak_teacher(data: FigureData) -> Iterator[str]:
    for dataset in data.runs.datasets:
        led, own = (data.values(one, dataset, "accuracy") * 100 for one in (MethodSetting(TEACHER, None),
                                                                             data.undistilled))  # fmt: skip
        if len(led) and len(own) and led.mean() <= own.mean():
            yield (
                f"{dataset}: the teacher is not more accurate ({fixed(led.mean(), 2)} %) than the "
                f"{data.baseline_label} ({fixed(own.mean(), 2)} %)."
            )


def _no_better_than_chance(data: FigureData) -> Iterator[str]:
    lost = data.frame[data.frame["accuracy"] <= data.frame["chance"]]
    if len(lost):
        subject = f"{counted(len(lost), 'run')} {'is' if len(lost) == 1 else 'are'}"
        yield f"{subject} not better than chance: {abbreviated(list(lost['run']), 3)}."


CHECKS: tuple[Callable[[FigureData], Iterator[str]], ...] = (
    _less_accuracy,
    _fidelity_without_accuracy,
    _accuracy_without_fidelity,
    _worse_calibration,
    _better_without_labels,
    _only_cka,
    _weak_teacher,
    _no_better_than_chance,
)
