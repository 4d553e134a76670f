"""Figures over the training: losses of a stage, of each seed of an architecture, and the learning rate."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes

from analysis import style
from analysis.learning_curves import DrawnFigure
from studies.flood.analysis.curves import alike, curve_of, finite_series
from studies.flood.analysis.panels import (
    COLUMNS,
    MOST,
    PERSISTENCE_LINE,
    SEEDS,
    Rows,
    draw_stage,
    panels_of,
    same_range,
)  # fmt: skip
from studies.flood.analysis.results import LEARNING_RATE, LOSS, VAL_LOSS, FloodResults, Setting

MOST_PANELS = 12
LONGEST = 30  # letters of a label


def losses(results: FloodResults, stage: str) -> DrawnFigure | None:
    """Training and validation loss of all settings of a stage; tuned ones beside the untuned one."""
    made = draw_stage(results, panels_of(results, stage))
    if made is None:
        return None
    sets = " and ".join(dict.fromkeys(one.flood_set for one in results.trained[stage] if one.flood_set)) or "unknown"
    caption = f"Mean absolute error of the change of depth; set: {sets}. {SEEDS} {PERSISTENCE_LINE}"
    return DrawnFigure(made[0], made[1], f"Learning curves of stage {stage}", caption)


def seeds(results: FloodResults, stage: str) -> DrawnFigure | None:
    """A panel for each setting: the losses of each seed over all of its epochs, and its best epoch."""
    shown = [one for one in results.trained[stage] if any(run.rows for run in one.runs)][:MOST_PANELS]
    if not shown:
        return None
    columns = min(COLUMNS, len(shown))
    rows_of_panels = -(-len(shown) // columns)
    figure, places = style.panels(columns, rows_of_panels, width=style.PRINT_WIDTH / columns, height=1.75)
    rows: Rows = []
    values: list[float] = []
    for axes, one in zip(places, shown, strict=False):
        _draw_seeds(axes, results, one, rows, values)
    for axes in places[len(shown) :]:
        axes.set_visible(False)
    for axes in places[::columns]:
        axes.set_ylabel("loss (m)")
    same_range(places[: len(shown)], values)
    style.legend_below(figure, places[: len(shown)], row=0.17)
    caption = (
        "Thin lines: seeds, with all their epochs; dashed: training, solid: validation. Dots: the best epoch, whose "
        "weights are kept. Dotted: persistence on the validation data."
    )
    left_out = len([one for one in results.trained[stage] if one not in shown])
    if left_out:
        caption += f" {left_out} more settings are not drawn."
    return DrawnFigure(figure, rows, f"Losses of each seed, stage {stage}", caption)


def _draw_seeds(axes: Axes, results: FloodResults, one: Setting, rows: Rows, values: list[float]) -> None:
    for number, run in enumerate(one.runs):
        colour = style.COLOURS[number % len(style.COLOURS)]
        for kind, dash in ((LOSS, (0, (3, 1.2))), (VAL_LOSS, "-")):
            series = finite_series(run, kind)
            axes.plot(list(series), list(series.values()), color=colour, linestyle=dash, linewidth=0.8)
            values += series.values()
            rows += [{"setting": one.label, "path": run.path, "metric": kind, "epoch": epoch, "value": value}
                     for epoch, value in series.items()]  # fmt: skip
            if kind == VAL_LOSS and series:
                best = min(series, key=lambda epoch: series[epoch])
                axes.plot([best], [series[best]], "o", color=colour, markersize=3.5, label=f"seed {run.seed}")
    dummy = results.dummy(one.flood_set, "validation")
    if math.isfinite(dummy):
        axes.axhline(dummy, color="black", linewidth=0.9, linestyle=":", label="persistence")
        values.append(dummy)
    style.position_axis(axes)
    axes.set_title(one.label, loc="left", fontsize=7)
    axes.set_xlabel("epoch")


def learning_rate(results: FloodResults) -> DrawnFigure | None:
    """The learning rate over the epochs, a panel for each stage; settings of equal rates share a line."""
    stages: dict[str, list[tuple[list[str], Any]]] = {}
    for stage, settings in results.trained.items():
        curves = [(one.label, points) for one in settings if (points := curve_of(one, LEARNING_RATE))]
        if curves:
            stages[stage] = alike(curves)
    if not stages:
        return None
    parts = [(stage, lines[first : first + MOST]) for stage, lines in stages.items()
             for first in range(0, len(lines), MOST)]  # fmt: skip
    columns = min(3, len(parts))
    figure, places = style.panels(columns, -(-len(parts) // columns), width=style.PRINT_WIDTH / columns, height=2.2)
    rows: Rows = []
    values: list[float] = []
    for axes, (stage, lines) in zip(places, parts, strict=False):
        for number, (labels, points) in enumerate(lines):
            epochs = [one.epoch for one in points]
            look = style.line_look(number, len(points))
            axes.plot(epochs, [one.mean for one in points], label=together(labels), drawstyle="steps-post", **look)
            axes.fill_between(epochs, [one.low for one in points], [one.high for one in points], step="post",
                              color=look["color"], alpha=0.18, linewidth=0)  # fmt: skip
            values += [value for one in points for value in (one.low, one.high)]
            rows += [{"stage": stage, "settings": "; ".join(labels), "epoch": one.epoch, "mean": one.mean,
                      "lowest": one.low, "highest": one.high, "n": one.n} for one in points]  # fmt: skip
        style.position_axis(axes)
        axes.set_xlabel(f"epoch (stage {stage})")
        axes.legend(fontsize=6.5, labelspacing=0.2, loc="lower left", bbox_to_anchor=(0, 1.02), borderaxespad=0)
    for axes in places[len(parts) :]:
        axes.set_visible(False)
    for axes in places[::columns]:
        axes.set_ylabel("learning rate")
    same_range(places[: len(parts)], values)
    caption = (
        "The learning rate of each epoch. Settings with equal rates share a line. Lines: mean over seeds; bands: range "
        "over seeds, where the schedule follows the validation loss."
    )
    return DrawnFigure(figure, rows, "Learning rate", caption)


def together(labels: list[str]) -> str:
    """`02, 03, 04`, or `9 settings` if that is too long for a legend."""
    text = ", ".join(labels)
    return text if len(text) <= LONGEST else f"{len(labels)} settings"
