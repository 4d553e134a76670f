"""The data that figures and summary are made from, and functions that several figures share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from studies.distillation.analysis.effects import ComparisonFamily, baseline_of
from studies.distillation.analysis.runs import CompletedRuns, MethodSetting

Rows = list[dict[str, Any]]
FigureAndRows = tuple[Figure, Rows]


@dataclass(frozen=True)
class FigureData:
    """The data of all figures."""

    runs: CompletedRuns
    frame: pd.DataFrame  # a row of measures for each run
    similarities: pd.DataFrame  # CKA between students
    families: Sequence[ComparisonFamily]
    epochs: pd.DataFrame  # gradient_ratio of each epoch of each run
    bins: pd.DataFrame  # of the reliability diagram of each run

    def values(self, setting: MethodSetting, dataset: str, column: str) -> pd.Series[float]:
        """A measure of a setting on a data set, by seed."""
        found: pd.Series[float] = self.at(self.frame, setting, dataset).set_index("seed")[column].dropna()
        return found

    def at(self, table: pd.DataFrame, setting: MethodSetting, dataset: str) -> pd.DataFrame:
        """The rows of a setting on a data set."""
        alpha = table["alpha"].isna() if setting.alpha is None else table["alpha"] == setting.alpha
        chosen: pd.DataFrame = table[(table["method"] == setting.method) & alpha & (table["dataset"] == dataset)]
        return chosen

    @property
    def undistilled(self) -> MethodSetting:
        return baseline_of(self.runs)

    @property
    def baseline_label(self) -> str:
        return "undistilled student" if self.undistilled.alpha is not None else self.plain_label

    @property
    def plain_label(self) -> str:
        return "plain student (smoothed labels)" if self.runs.smoothed else "plain student"

    @property
    def caveat(self) -> str:
        """A sentence for captions that mention the undistilled student; empty if it exists."""
        if self.undistilled.alpha is not None:
            return ""
        smoothed = ", with smoothed labels" if self.runs.smoothed else ""
        return f" There is no control at alpha 0: the plain student replaces the undistilled one{smoothed}."


def gains(data: FigureData, dataset: str, one: MethodSetting, other: MethodSetting) -> list[float]:
    """Differences in accuracy, in points, at equal seeds."""
    mine, theirs = (data.values(setting, dataset, "accuracy") for setting in (one, other))
    return [float(mine[seed] - theirs[seed]) * 100 for seed in mine.index if seed in theirs.index]


def page(columns: int, rows: int = 1, *, height: float = 2.1, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure as wide as a printed page, with panels of this height, in reading order."""
    return style.panels(columns, rows, width=style.PRINT_WIDTH / columns, height=height, share_y=share_y)


def mark_empty(axes: Axes) -> None:
    """Mark a panel without data."""
    box = {"facecolor": "white", "edgecolor": "none"}
    axes.text(
        0.5, 0.5, "no data yet", transform=axes.transAxes, ha="center", va="center", color=style.BASELINE, bbox=box
    )


def shared_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels, below them."""
    style.legend_below(figure, panels, row=0.17)
