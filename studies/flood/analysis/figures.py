"""The figures of the analysis, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from analysis.figure_store import file_name
from analysis.learning_curves import DrawnFigure
from studies.flood.analysis import convergence, cost_figures, curve_figures, map_figures, rae_figures
from studies.flood.analysis.rae import SettingErrors
from studies.flood.analysis.results import FloodResults


def figures_of(
    results: FloodResults, errors: Sequence[SettingErrors]
) -> Mapping[str, Callable[[], DrawnFigure | None]]:
    """What draws each figure; those of tasks that the round does not have are left out."""
    made: dict[str, Callable[[], DrawnFigure | None]] = {}
    if results.evaluated or results.coarse:
        made["error_against_time"] = partial(cost_figures.error_against_time, results)
        made["rae/all_sets"] = partial(rae_figures.of_all_sets, errors)
    if results.evaluated:
        made["rollouts"] = partial(cost_figures.rollouts, results)
    for stage in results.trained:
        name = file_name(stage)
        made[f"learning/{name}"] = partial(curve_figures.losses, results, stage)
        made[f"learning/{name}_seeds"] = partial(curve_figures.seeds, results, stage)
        made[f"convergence/{name}"] = partial(convergence.figure, results, stage)
        made[f"rae/{name}"] = partial(rae_figures.of_stage, errors, stage)
    if results.trained:
        made["learning/learning_rate"] = partial(curve_figures.learning_rate, results)
    for architecture, (setting, run) in map_figures.runs_by_architecture(results).items():
        made[f"maps/{file_name(architecture)}"] = partial(map_figures.maps, setting, run)
    return made
