"""What figures and summary are made from, and what several figures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis import style
from analysis.comparison import Interval
from analysis.distillation.effects import Family, baseline_of
from analysis.distillation.runs import Runs, Setting

Table = list[dict[str, Any]]
Drawn = tuple[Figure, Table]


@dataclass(frozen=True)
class Material:
    """All that figures are drawn from."""

    runs: Runs
    frame: pd.DataFrame  # a row of measures for each run
    similarities: pd.DataFrame  # CKA between students
    families: Sequence[Family]
    intervals: Mapping[Setting, Interval]  # of the pooled gain in accuracy
    epochs: pd.DataFrame  # gradient_ratio of each epoch of each run
    bins: pd.DataFrame  # of the reliability diagram of each run

    def values(self, setting: Setting, dataset: str, column: str) -> pd.Series[float]:
        """A measure of a setting on a data set, by seed."""
        found: pd.Series[float] = self.at(self.frame, setting, dataset).set_index("seed")[column].dropna()
        return found

    def at(self, table: pd.DataFrame, setting: Setting, dataset: str) -> pd.DataFrame:
        """The rows of a setting on a data set."""
        alpha = table["alpha"].isna() if setting.alpha is None else table["alpha"] == setting.alpha
        chosen: pd.DataFrame = table[(table["method"] == setting.method) & alpha & (table["dataset"] == dataset)]
        return chosen

    @property
    def undistilled(self) -> Setting:
        return baseline_of(self.runs)

    @property
    def baseline_label(self) -> str:
        return "undistilled student" if self.undistilled.alpha is not None else self.plain_label

    @property
    def plain_label(self) -> str:
        return "plain student (smoothed labels)" if self.runs.smoothed else "plain student"

    @property
    def caveat(self) -> str:
        """What is to be added to a caption that speaks of the undistilled student."""
        if self.undistilled.alpha is not None:
            return ""
        smoothed = ", with smoothed labels" if self.runs.smoothed else ""
        return f" There is no control at alpha 0: the plain student stands for the undistilled one{smoothed}."


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean by Student's t; of two values, half their range, for t says nothing of them.

    NaN for a single value, which says nothing of the noise.
    """
    if len(values) < 2:
        return float("nan")
    if len(values) == 2:
        return float(np.ptp(values)) / 2
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def gains(material: Material, dataset: str, one: Setting, other: Setting) -> list[float]:
    """Differences in accuracy, in points, at equal seeds."""
    mine, theirs = (material.values(setting, dataset, "accuracy") for setting in (one, other))
    return [float(mine[seed] - theirs[seed]) * 100 for seed in mine.index if seed in theirs.index]


def say_nothing(axes: Axes) -> None:
    """Say so in a panel that has nothing to show yet."""
    box = {"facecolor": "white", "edgecolor": "none"}
    axes.text(
        0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color=style.BASELINE, bbox=box
    )


def shared_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend below all panels, with whatever any of them shows, and room for it."""
    style.legend_below(figure, panels, row=0.17)
