"""Differences between settings, and whether they are shown: families of paired comparisons with corrected p-values.

A pair shares data set and seed. Its difference is the run's measure minus the measure of the compared run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.comparison import Comparison, detectable, family, pairs_needed
from studies.distillation.analysis.measures import MEASURES, Measure
from studies.distillation.analysis.runs import CONTROL, PLAIN, UNDISTILLED, Block, CompletedRuns, MethodSetting

COMPARED = (
    "accuracy", "agreement", "kl", "ece", "ece_scaled", "nll", "cka_pooled", "procrustes", "knn", "participation",
    "variance_ratio",
)  # fmt: skip


@dataclass(frozen=True)
class ComparisonFamily:
    """Comparisons of one measure that answer one question. Their p-values are corrected for their number."""

    measure: Measure
    question: str
    results: Mapping[MethodSetting, Comparison]


DISTILLED = "distilled student against the undistilled one"
SAME_ALPHA = "distilled student against the control with the same alpha"
SHRUNK = "control with alpha against the undistilled student"
MORE_ALPHA = "largest alpha against the smallest"


def baseline_of(runs: CompletedRuns) -> MethodSetting:
    """The setting that distilled students are compared with: the control at alpha 0, else the plain student."""
    return UNDISTILLED if runs.of(UNDISTILLED) else MethodSetting(PLAIN, None)


def families(frame: pd.DataFrame, runs: CompletedRuns) -> list[ComparisonFamily]:
    """All families for which there is at least one pair, from the table of measures."""
    distilled = [one for one in runs.students if one.method in runs.methods]
    controls = [one for one in runs.students if one.method == CONTROL and one != UNDISTILLED]
    undistilled = baseline_of(runs)
    extremes = {method: _extremes(runs, method) for method in runs.methods}
    questions: dict[str, dict[MethodSetting, MethodSetting]] = {
        DISTILLED: dict.fromkeys(distilled, undistilled),
        SAME_ALPHA: {one: MethodSetting(CONTROL, one.alpha) for one in distilled},
        SHRUNK: dict.fromkeys(controls, undistilled),
        MORE_ALPHA: {high: low for low, high in extremes.values() if low != high},
    }
    values = {name: _values(frame, name) for name in COMPARED if name in frame}
    made = []
    for name, by_setting in values.items():
        for question, pairs in questions.items():
            differences = {one: _differences(by_setting, one, other) for one, other in pairs.items()}
            present = {one: found for one, found in differences.items() if len(found)}
            if present:
                made.append(ComparisonFamily(MEASURES[name], question, family(present)))
    return made


def _extremes(runs: CompletedRuns, method: str) -> tuple[MethodSetting, MethodSetting]:
    alphas = sorted(one.alpha for one in runs.students if one.method == method and one.alpha is not None)
    return MethodSetting(method, alphas[0]), MethodSetting(method, alphas[-1])


Values = Mapping[MethodSetting, Mapping[Block, float]]


def _values(frame: pd.DataFrame, column: str) -> Values:
    """The finite values of a measure, by setting and block."""
    made: dict[MethodSetting, dict[Block, float]] = {}
    for row in frame[["method", "alpha", "dataset", "seed", column]].itertuples(index=False):
        method, alpha, dataset, seed, value = row
        if np.isfinite(value):
            setting = MethodSetting(str(method), None if pd.isna(alpha) else float(alpha))
            made.setdefault(setting, {})[Block(str(dataset), int(seed))] = float(value)
    return made


def _differences(values: Values, one: MethodSetting, other: MethodSetting) -> NDArray[np.float64]:
    mine, theirs = values.get(one, {}), values.get(other, {})
    return np.array([mine[block] - theirs[block] for block in sorted(mine.keys() & theirs.keys())])


def as_table(found: Sequence[ComparisonFamily]) -> pd.DataFrame:
    """All comparisons, a row each; differences in the unit of the measure's column."""
    rows = [
        {
            "measure": one.measure.column,
            "question": one.question,
            "method": setting.method,
            "alpha": setting.alpha,
            "pairs": result.n,
            "difference": result.mean,
            "sd": result.sd,
            "low_95": result.interval.low,
            "high_95": result.interval.high,
            "p": result.p,
            "p_holm": result.p_holm,
            "family_size": len(one.results),
            "shown": result.shown,
            "pairs_needed": pairs_needed(result, len(one.results)),
            "detectable": detectable(result, len(one.results)),
        }
        for one in found
        for setting, result in one.results.items()
    ]
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame
