"""The figures of the analysis, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from analysis.figure_store import file_name
from analysis.learning_curves import DrawnFigure
from studies.genegan.analysis import arm_figures, curve_figures, sample_figures
from studies.genegan.analysis.curves import ITERATIONS, SECONDS
from studies.genegan.analysis.results import GeneganResults

ON_FACES = ("transfer_rate", "inside", "outside")
"""Figures that need the paired truth of procedural faces."""


def figures_of(results: GeneganResults) -> Mapping[str, Callable[[], DrawnFigure | None]]:
    """What draws each figure; those of data that the data set of the round cannot have are left out."""
    made: dict[str, Callable[[], DrawnFigure | None]] = {
        "samples_of_arms": partial(sample_figures.side_by_side, results),
        "distance_of_arms": partial(arm_figures.arms, results),
        "distance_over_iterations": partial(curve_figures.distance, results, ITERATIONS),
        "distance_over_seconds": partial(curve_figures.distance, results, SECONDS),
        "kernel_distance": partial(curve_figures.kernel_distance, results),
        "losses": partial(curve_figures.losses, results),
    }
    if any(one.option("dataset") == "faces" for one in results.gans):
        made |= {name: partial(getattr(curve_figures, name), results) for name in ON_FACES}
    for arm in (one for one in results.gans if any(run.rows for run in one.runs)):
        made[f"samples/{file_name(arm.label)}"] = partial(sample_figures.over_training, arm)
    return made
