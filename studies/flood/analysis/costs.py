"""Error against time: surrogates beside the coarse solver at equal error, persistence, and the fine solver.

Times are ratios to the fine solver for as many cells and one lead, measured on the same host in the same process. The
solvers run on the CPU; where a surrogate ran on a GPU, its ratio is one of different devices.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from analysis.comparison import mean_interval
from studies.flood.analysis.convergence import cell
from studies.flood.analysis.names import PERSISTENCE
from studies.flood.analysis.results import FloodResults, Setting

ERROR, TIME = "test_rae", "time_ratio"
FASTER, SLOWER, OPEN, UNKNOWN = "faster", "not faster", "open", "not measured"
FINE = "fine solver"
LEAST_SEEDS = 2  # for an answer
OTHERS = (
    "test_rae_lower", "test_rae_upper", "test_rae_below", "test_rae_dropped", "test_loss", "test_rmse", "test_csi_5cm",
    "test_csi_30cm", "test_csi_100cm", "test_mass_error", "test_absolute_mass_error", "test_front_error",
    "test_front_states", "dummy_loss", "network_parameters", "predict_seconds", "solver_seconds",
)  # fmt: skip
"""Further columns of the table: means over seeds."""


@dataclass(frozen=True)
class Cost:
    """A surrogate or coarse solver: time ratio and median error of each seed that has both."""

    setting: Setting
    points: tuple[tuple[float, float], ...]

    @property
    def times(self) -> list[float]:
        return [time for time, _ in self.points]

    @property
    def errors(self) -> list[float]:
        return [error for _, error in self.points]

    @property
    def device(self) -> str:
        """`CPU`, `GPU` or both; empty if no run has recorded it."""
        return " and ".join(sorted({one.device for one in self.setting.completed} - {""}))

    @property
    def centre(self) -> tuple[float, float]:
        """Mean time ratio and error; NaN without a point."""
        if not self.points:
            return math.nan, math.nan
        return statistics.fmean(self.times), statistics.fmean(self.errors)


def costs_of(settings: Sequence[Setting]) -> list[Cost]:
    """Of the settings with at least one completed run that has both numbers."""
    made = [Cost(one, tuple(pair for run in one.completed
                            if all(map(math.isfinite, pair := (run.value(TIME), run.value(ERROR))))))
            for one in settings]  # fmt: skip
    return [one for one in made if one.points]


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (time, error) that no other beats in both, from the fastest to the most exact."""
    kept: list[tuple[float, float]] = []
    for time, error in sorted(points):
        if not kept or error < kept[-1][1]:
            kept.append((time, error))
    return kept


def time_at(error: float, points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Between which times the coarse solver reaches this error, from its points (time, error).

    Between two points of its front both are the same: interpolated in the logarithms of time and error. An error above
    that of the fastest point takes at most its time; one below that of the most exact takes more, and at most 1, the
    fine solver. NaN: there is no coarse solver.
    """
    known = front([one for one in points if one[0] > 0 and one[1] > 0])
    if not known:
        return math.nan, math.nan
    if error > known[0][1]:
        return 0.0, known[0][0]
    if error < known[-1][1]:
        return known[-1][0], max(1.0, known[-1][0])
    for (first, worse), (last, finer) in pairwise(known):
        if finer <= error <= worse:
            share = math.log(worse / error) / math.log(worse / finer)
            time = first * (last / first) ** share
            return time, time
    return known[0][0], known[0][0]


def verdict(cost: Cost, coarse: Sequence[Cost]) -> str:
    """Whether a surrogate is faster than a coarse solver of equal error: an answer only if two or more seeds agree."""
    points = [one.centre for one in coarse]
    if not cost.points or not points:
        return UNKNOWN
    if len(cost.points) < LEAST_SEEDS:
        return OPEN
    answers = {_answer(time, time_at(error, points)) for time, error in cost.points}
    return answers.pop() if len(answers) == 1 else OPEN


def _answer(time: float, between: tuple[float, float]) -> str:
    low, high = between
    return FASTER if time < low else SLOWER if time >= high else OPEN if math.isfinite(low) else UNKNOWN


# ---------------------------------------------------------------------------------------------------------- the table


def table(results: FloodResults) -> list[dict[str, Any]]:
    """A row for each surrogate of stage D and each coarse solver; then persistence and the fine solver."""
    coarse = costs_of(results.coarse)
    surrogates = costs_of(results.evaluated)
    rows = [_row(one, verdict(one, coarse), coarse) for one in surrogates] + [_row(one, "", ()) for one in coarse]
    if not rows:
        return []
    return [*rows, {"model": PERSISTENCE, ERROR: 1.0, TIME: 0.0}, {"model": FINE, ERROR: 0.0, TIME: 1.0}]


def _row(one: Cost, answer: str, coarse: Sequence[Cost]) -> dict[str, Any]:
    (time, error), interval = one.centre, mean_interval(one.errors)
    low, high = time_at(error, [other.centre for other in coarse])
    return {
        "model": one.setting.label, "architecture": one.setting.architecture, "n": len(one.points),
        "device": one.device, ERROR: error,
        "rae_low_95": cell(interval.low), "rae_high_95": cell(interval.high), "rae_lowest": min(one.errors),
        "rae_highest": max(one.errors), TIME: time, "ratio_lowest": min(one.times), "ratio_highest": max(one.times),
        "coarse_ratio_at_least": cell(low), "coarse_ratio_at_most": cell(high), "beside_coarse": answer,
        **{name: cell(one.setting.mean(name)) for name in OTHERS},
    }  # fmt: skip
