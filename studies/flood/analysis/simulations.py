"""Tables of the data: mass balance and steps of the simulated floods, and the samples of each split."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from studies.flood.analysis.convergence import cell
from studies.flood.analysis.names import SPLITS
from studies.flood.analysis.results import SAMPLES, SIMULATION, FloodResults, Run

Rows = list[dict[str, Any]]
COUNTS = ("samples", "dropped", "dummy_loss", "ring_rae")


def simulations_table(results: FloodResults) -> Rows:
    """A row for each set of floods: the worst of them, and which one it is. Depth in m; mass error relative."""
    made = []
    for name, runs in simulations_by_set(results).items():
        done = [one for one in runs if one.completed]
        worst = max(done, key=lambda run: abs(_or(run, "mass_error", 0.0)), default=None)
        lowest = min(done, key=lambda run: _or(run, "smallest_depth", math.inf), default=None)
        made.append({
            "set": name, "simulations": len(runs), "completed": len(done),
            "worst_mass_error": _worst(done, "mass_error", lambda values: max(values, key=abs)),
            "worst_simulation": worst.path if worst else "",
            "smallest_depth": _worst(done, "smallest_depth", min), "smallest_depth_in": lowest.path if lowest else "",
            "deepest": _worst(done, "deepest", max), "steps_median": _worst(done, "solver_steps", statistics.median),
            "steps_least": _worst(done, "solver_steps", min), "steps_most": _worst(done, "solver_steps", max),
            "wet_share_mean": _worst(done, "wet_share", statistics.fmean),
            "cell_steps_per_second_median": _worst(done, "cell_steps_per_second", statistics.median),
        })  # fmt: skip
    return made


def simulations_by_set(results: FloodResults) -> dict[str, list[Run]]:
    """All floods of a round, by the set that they belong to."""
    made: dict[str, list[Run]] = {}
    for one in results.of_task(SIMULATION):
        made.setdefault(one.flood_set or one.group, []).extend(one.runs)
    return made


def _or(run: Run, name: str, default: float) -> float:
    value = run.value(name)
    return value if math.isfinite(value) else default


def _worst(runs: Sequence[Run], name: str, of: Callable[[list[float]], float]) -> float | str:
    values = [value for run in runs if math.isfinite(value := run.value(name))]
    return of(values) if values else ""


def samples_table(results: FloodResults) -> Rows:
    """A row for each set and split: samples, patches dropped because they are dry, the loss of persistence (m), and the
    median relative error of the ring alone.
    """
    made = []
    for one in results.of_task(SAMPLES):
        for split in SPLITS:
            found = {name: one.mean(f"{split}_{name}") for name in COUNTS}
            if any(map(math.isfinite, found.values())):
                made.append({"set": one.flood_set, "split": split, **{key: cell(one) for key, one in found.items()}})
    return made
