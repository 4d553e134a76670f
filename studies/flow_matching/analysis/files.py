"""The files that the document promises, such as all_results.json and performance_matrix.csv: their names and content.

They hold what is known when they are written, so a round that still runs has them too. A number that is unknown is null
or empty; a version without a result is in combinations.json, execution_plan.json and, if it failed, failed_jobs.json.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np

from analysis.comparison import Interval
from analysis.figure_store import csv_of
from analysis.rounding import significant
from analysis.rounds import RoundEntry, RoundRecords
from analysis.tables import as_json, attempts_of
from roundhouse.model.plan import State
from studies.flow_matching.analysis.costs import HOUR, usual_seconds
from studies.flow_matching.analysis.effects import MAIN, SINGLE, UNKNOWN, Effect, Effects, difference, own_interval
from studies.flow_matching.analysis.projections import NAMES, NUMBERS, combination
from studies.flow_matching.analysis.results import LAST_PSNR, MEAN_PSNR, SECONDS, FlowResults, Setting

CONFOUNDED = (
    "A correlation compares the versions that have a technique with those that lack it, and these differ in their "
    "other techniques too: the row `companions` has how many others a technique has beside it on average. So a "
    "correlation mixes the effect of a technique with the effects of its companions; technique_ranking.json has the "
    "main effects, which separate them."
)
MATRIX = (
    "Version", "Techniques", "Best_PSNR", "Final_PSNR", "Training_Time", "Complexity",  # the document's
    "Time_Unit", "N", "Gain_dB", "Gain_Low", "Gain_High",
)  # fmt: skip
Rows = list[dict[str, Any]]


def document_files(results: FlowResults, effects: Effects, found: RoundRecords) -> dict[str, bytes]:
    """Content by file name."""
    matrix = performance_matrix(results, effects)
    return {
        "all_results.json": as_json(all_results(results, effects)),
        "performance_matrix.csv": csv_of(matrix) if matrix else f"{','.join(MATRIX)}\n".encode(),
        "technique_ranking.json": as_json(technique_ranking(results, effects)),
        "failed_jobs.json": as_json(failed_jobs(results, found)),
        "combinations.json": as_json(combinations_of(results)),
        "execution_plan.json": as_json(execution_plan(results)),
        "interactions.csv": csv_of(interactions(results)),
    }


def all_results(results: FlowResults, effects: Effects) -> dict[str, Any]:
    """By version: PSNR of the best and of the last weights, both on test fields, and the base that it is compared with.

    `interval`: of best_psnr; means are over `n` seeds. `training_time`: of all epochs
    with their validation, in seconds.
    """
    base, noise = results.base, effects.noise
    baseline = None
    if base and base.is_measured:
        baseline = {"version": base.version, "best_psnr": base.mean(), "n": len(base.values()),
                    "interval": _ends(own_interval(base, noise))}  # fmt: skip
    made: dict[str, Any] = {}
    for one in _complete(results):
        gain, interval = difference(one, base, noise) if base else (math.nan, own_interval(one, None))
        key = one.label if one.label not in made else f"{one.label}-{one.group}-{combination(one.techniques)}"
        made[key] = {
            "version": one.version,
            "techniques": list(one.techniques),
            "best_psnr": one.mean(),
            "final_psnr": one.mean(LAST_PSNR),
            "training_time": one.mean(SECONDS),
            "complexity": one.complexity,
            "n": len(one.values()),
            "interval": _ends(own_interval(one, noise)),
            "mean_of_samples_psnr": one.mean(MEAN_PSNR),
            "gain_db": gain,
            "gain_interval": _ends(interval),
            "baseline": baseline,
        }
    return made


def _complete(results: FlowResults) -> list[Setting]:
    """The versions with a PSNR of both weights: readers of the files sort by either."""
    return [one for one in results.versions if one.is_measured and one.values(LAST_PSNR)]


def performance_matrix(results: FlowResults, effects: Effects) -> Rows:
    """A row for each version; the first six columns are the document's."""
    rows = []
    for one in _complete(results):
        gain, interval = difference(one, results.base, effects.noise) if results.base else (math.nan, UNKNOWN)
        cells = (
            one.label, combination(one.techniques), f"{one.mean():.2f}", f"{one.mean(LAST_PSNR):.2f}",
            significant(one.mean(SECONDS) / 60), one.complexity, "min", len(one.values()), _cell(gain),
            _cell(interval.low), _cell(interval.high),
        )  # fmt: skip
        rows.append(dict(zip(MATRIX, cells, strict=True)))
    return rows


def technique_ranking(results: FlowResults, effects: Effects) -> Rows:
    """The techniques, the best first by the document's measure: the average gain of all versions that have it.

    That is confounded by what they have beside it, so the main effect and the matched pairs stand beside it. A
    technique without a measured version, or in a round without a base, is not in it.
    """
    rows: Rows = []
    for number in NUMBERS:
        average = average_improvement(results, number)
        if not math.isfinite(average):
            continue
        matched, interval = effects.matched_mean(number)
        rows.append({
            "technique_id": number, "technique_name": NAMES[number], "avg_improvement_db": average,
            "num_samples": len(having(results, number)), **_effect("main_effect", effects.get(MAIN, number)),
            **_effect("single_gain", effects.get(SINGLE, number)), "matched_difference_db": matched,
            "matched_difference_interval": _ends(interval), "matched_pairs": len(effects.matched_of(number)),
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["avg_improvement_db"])


def having(results: FlowResults, technique: int) -> list[Setting]:
    """The measured versions that have a technique."""
    return [one for one in results.versions if one.is_measured and technique in one.techniques]


def average_improvement(results: FlowResults, technique: int) -> float:
    """The mean gain over the base of all versions that have a technique; NaN without a base or a version."""
    gains = [one.mean() - results.base.mean() for one in having(results, technique)] if results.base else []
    return statistics.fmean(gains) if gains else math.nan


def _effect(name: str, one: Effect | None) -> dict[str, Any]:
    if one is None:
        return {f"{name}_db": None, f"{name}_interval": [None, None], f"{name}_shown": False}
    return {f"{name}_db": one.value, f"{name}_interval": _ends(one.interval), f"{name}_shown": one.shown}


def failed_jobs(results: FlowResults, found: RoundRecords) -> Rows:
    """The runs that failed, are blocked, were cancelled, or diverged, with their version and attempts."""
    by_path = {path: one for one in results.settings for path in one.paths}
    reasons = {run.path: run.why for one in results.settings for run in one.unfinished}
    return [_failed(entry, by_path.get(entry.path), reasons.get(entry.path, entry.reason))
            for entry in found.entries if entry.state.needs_user or entry.state is State.DIVERGED]  # fmt: skip


def _failed(entry: RoundEntry, setting: Setting | None, why: str) -> dict[str, Any]:
    return {
        "version": setting.label if setting else None,
        "techniques": list(setting.techniques) if setting else None,
        "path": entry.path,
        "group": entry.group,
        "state": str(entry.state),
        "reason": why,
        "attempts": attempts_of(entry),
    }


def combinations_of(results: FlowResults) -> Rows:
    """All versions of the round, run or not."""
    return [{"version": one.version, "techniques": list(one.techniques), "size": len(one.techniques),
             "technique_names": [NAMES.get(number, str(number)) for number in one.techniques],
             "seeds": len(one.paths), "state": state_of(one)} for one in results.versions]  # fmt: skip


def state_of(one: Setting) -> str:
    """`completed` if a run is; else the state of its first run."""
    return "completed" if one.runs else one.unfinished[0].state


def execution_plan(results: FlowResults) -> dict[str, Any]:
    """The slots of the round, and the versions in the order in which they are taken, in waves of as many as slots.

    `hours`: of all waves, by the median time of the completed versions; null before one is completed.
    """
    runs = [f"{one.label}/{path.rpartition('/')[2]}" for one in results.versions for path in one.paths]
    waves = [runs[first : first + results.slots] for first in range(0, len(runs), results.slots)]
    return {
        "gpus": results.gpus,
        "slots": results.slots,
        "per_gpu": results.per_gpu if results.gpus else None,
        "runs": len(runs),
        "hours": len(waves) * usual_seconds(results) / HOUR,
        "note": "A slot takes the next run as soon as it is free, so waves show the order, not the times.",
        "waves": waves,
    }


def interactions(results: FlowResults) -> Rows:
    """One-hot techniques and PSNR of each version, then their correlations, and why these are confounded."""
    measured = _complete(results)
    rows: Rows = [{"kind": "version", "version": one.label, "psnr": one.mean(LAST_PSNR),
                   **{_column(number): int(number in one.techniques) for number in NUMBERS}, "note": ""}
                  for one in measured]  # fmt: skip
    psnr = np.array([one.mean(LAST_PSNR) for one in measured])
    correlations, companions = {}, {}
    for number in NUMBERS:
        has = np.array([number in one.techniques for one in measured], dtype=float)
        others = [len(one.techniques) - 1 for one in measured if number in one.techniques]
        varies = len(measured) > 1 and has.std() > 0 and psnr.std() > 0
        correlations[_column(number)] = float(np.corrcoef(has, psnr)[0, 1]) if varies else ""
        companions[_column(number)] = statistics.fmean(others) if others else ""
    rows.append({"kind": "correlation", "version": "", "psnr": "", **correlations, "note": CONFOUNDED})
    rows.append({"kind": "companions", "version": "", "psnr": "", **companions,
                 "note": "Mean number of other techniques in the versions that have it."})  # fmt: skip
    return rows


def _column(number: int) -> str:
    return f"tech_{number}"


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _cell(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else ""
