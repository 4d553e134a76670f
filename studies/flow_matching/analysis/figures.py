"""The figures of the analysis: their names, and how all are drawn into a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from analysis.learning_curves import DrawnFigure
from analysis.study_figures import draw_figures
from studies.flow_matching.analysis import run_figures, version_figures
from studies.flow_matching.analysis.figure_data import FigureData

FIGURES: Mapping[str, Callable[[FigureData], DrawnFigure | None]] = {
    "version_psnr": version_figures.version_psnr,
    "gains": version_figures.gains,
    "effects": version_figures.interaction_matrix,
    "learning": run_figures.learning,
    "few_steps": run_figures.few_steps,
    "without_distances": run_figures.without_distances,
    "families": run_figures.families,
    "longer": run_figures.longer,
}


def draw(data: FigureData, folder: Path, formats: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Draw all figures that the round has data for. Returns the names of the others, and a line for each failure."""
    return draw_figures({name: partial(make, data) for name, make in FIGURES.items()}, folder, formats)
