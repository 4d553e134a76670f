"""Box plots of relative absolute errors: of the trainings of a stage, and of stage D on all sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import style
from analysis.learning_curves import DrawnFigure
from studies.flood.analysis.names import BIG_TEST, RAE, SETS, SPLITS
from studies.flood.analysis.rae import SettingErrors, quartiles
from studies.flood.analysis.results import COARSE, EVALUATION, TRAINING

Rows = list[dict[str, Any]]
WHISKERS = (0.05, 0.95)
LEAST = 1e-4  # errors below it are drawn there
BOXES = (
    "Boxes: quartiles and median of the samples of all seeds together; whiskers: 5 to 95 %; points: the median of each "
    "seed, whose spread is the noise; numbers: share of samples below 1. Line at 1: persistence. Samples in which "
    "nothing changes are dropped; how many is in results/rae.csv."
)


def of_stage(errors: Sequence[SettingErrors], stage: str) -> DrawnFigure | None:
    """A panel for each split of the set that a stage trains on."""
    own = [one for one in errors if one.setting.task == TRAINING and one.setting.stage == stage and len(one.pooled)]
    sets = list(dict.fromkeys(one.flood_set for one in own))
    panels = [(f"{name} set, {split}", [one for one in own if (one.flood_set, one.split) == (name, split)])
              for name in sets for split in SPLITS]  # fmt: skip
    made = _figure(panels)
    return made and DrawnFigure(*made, f"Relative absolute errors of stage {stage}", f"{RAE} {BOXES}")


def of_all_sets(errors: Sequence[SettingErrors]) -> DrawnFigure | None:
    """A panel for each split of each set, with the models of stage D; coarse solvers on the big test set."""
    own = [one for one in errors if one.setting.task in (EVALUATION, COARSE) and len(one.pooled)]
    panels = [(f"{name} set, {split}", [one for one in own if (one.flood_set, one.split) == (name, split)])
              for name in SETS for split in SPLITS]  # fmt: skip
    made = _figure([one for one in panels if one[1]])
    where = (
        f"Coarse solvers, restarted from the true state of each sample, are measured on the {' '.join(BIG_TEST)} set."
    )
    return made and DrawnFigure(*made, "Relative absolute errors on all sets, stage D", f"{RAE} {BOXES} {where}")


def _figure(panels: Sequence[tuple[str, Sequence[SettingErrors]]]) -> tuple[Any, Rows] | None:
    labels = list(dict.fromkeys(one.setting.label for _, ones in panels for one in ones))
    if not labels:
        return None
    columns = min(3, len(panels))
    rows_of_panels = -(-len(panels) // columns)
    figure, places = style.panels(columns, rows_of_panels, width=style.PRINT_WIDTH / columns,
                                  height=0.85 + 0.19 * len(labels), share_y=True)  # fmt: skip
    rows: Rows = []
    ends: list[float] = [1.0]
    for axes, (title, ones) in zip(places, panels, strict=False):
        _panel(axes, title, {one.setting.label: one for one in ones}, labels, rows, ends)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    low, high = max(min(ends), LEAST), max(ends)
    for axes in places[: len(panels)]:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.2, high * 1.2)
        style.logarithmic(axes.xaxis, low, high)
        axes.set_xlabel("RAE")
    places[0].set_yticks(range(len(labels)), labels)
    places[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure, rows


def _panel(
    axes: Axes, title: str, ones: Mapping[str, SettingErrors], labels: Sequence[str], rows: Rows, ends: list[float]
) -> None:
    axes.axvline(1, color="black", linewidth=0.9, linestyle=":")
    for place, label in enumerate(labels):
        if label not in ones:
            continue
        one = ones[label]
        values = np.maximum(one.pooled, LEAST)
        median, lower, upper, below = quartiles(values)
        low, high = (float(end) for end in np.quantile(values, WHISKERS))
        box = {"med": median, "q1": lower, "q3": upper, "whislo": low, "whishi": high}
        colour = style.BASELINE if one.setting.task == COARSE else style.COLOURS[0]
        look = {"color": colour, "linewidth": 0.9}
        # fmt: off
        axes.bxp([box], positions=[place], widths=0.55, orientation="horizontal", showfliers=False, boxprops=look,
                 whiskerprops=look, capprops=look, medianprops={**look, "linewidth": 1.6}, manage_ticks=False)
        axes.plot(one.medians, [place] * len(one.medians), ".", color=style.COLOURS[1], markersize=3.5, zorder=3)
        axes.annotate(f"{100 * below:.0f} %", (1, place), xycoords=("axes fraction", "data"), xytext=(2, 0),
                      textcoords="offset points", va="center", fontsize=5.5, annotation_clip=False)  # fmt: skip
        ends += [low, high, *one.medians]
        rows.append({"panel": title, "setting": label, "samples": len(values), "seeds": len(one.seeds),
                     "median": median, "lower": lower, "upper": upper, "whisker_low": low, "whisker_high": high,
                     "below": below, "medians_of_seeds": " ".join(f"{value:.6g}" for value in one.medians)})
        # fmt: on
    axes.set_title(title, loc="left", fontsize=8)
    axes.grid(visible=False, axis="y")
