"""The tables in results/: a row for each run, and a row for each arm, baseline and measure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from studies.genegan.analysis.comparisons import Comparisons
from studies.genegan.analysis.results import DISTANCE, LOSSES, Arm, GeneganResults, Run

Rows = list[dict[str, Any]]
FROM_RECORDS = ("iterations_per_second", "generator_variance", "critic_variance")


def runs_table(results: GeneganResults) -> Rows:
    """A row for each run, completed or not, with all its final metrics."""
    return [_run_row(arm, run) for arm in results.arms for run in arm.runs]


def _run_row(arm: Arm, run: Run) -> dict[str, Any]:
    evaluated = run.evaluated
    row = {
        "path": run.path, "group": arm.group, "arm": arm.label, "seed": run.seed, "state": str(run.state),
        "iterations": run.iterations, "best_iteration": run.best_iteration or "",
        "train_seconds": _cell(run.train_seconds), "extractor": evaluated.extractor,
        "size": evaluated.size, "images": evaluated.images, f"validation_{DISTANCE}": _cell(run.last(DISTANCE)),
        **{f"last_{name}": _cell(run.last(name)) for name in LOSSES},
        **{name: _cell(run.value(name)) for name in FROM_RECORDS},
    }  # fmt: skip
    return row | {name: _cell(value) for name, value in run.final.items()}


def arms_table(comparisons: Comparisons) -> Rows:
    """A row for each arm, the arm that it is compared with, and measure: means over the pairs of equal seeds.

    `difference`: arm minus baseline, with its 95 % interval; of a measure with `kind` ratio, arm / baseline.
    """
    return [
        {
            "arm": arm, "baseline": other, "measure": name, "label": one.measure.label, "better": one.measure.mode,
            "n": len(one.own), "arm_mean": _cell(one.own_mean), "arm_sd": _deviation(one.own),
            "baseline_mean": _cell(one.other_mean), "baseline_sd": _deviation(one.other),
            "kind": "ratio" if one.measure.factor else "difference", "difference": _cell(one.value),
            "low_95": _cell(one.low), "high_95": _cell(one.high), "p": _cell(one.comparison.p),
            "p_holm": _cell(one.comparison.p_holm), "better_than_baseline": one.answer,
        }
        for (arm, other, name), one in comparisons.items()
    ]  # fmt: skip


def _cell(value: float) -> float | str:
    """A number, or an empty cell."""
    return value if math.isfinite(value) else ""


def _deviation(values: Sequence[float]) -> float | str:
    return statistics.stdev(values) if len(values) > 1 else ""
