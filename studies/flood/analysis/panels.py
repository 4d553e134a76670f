"""Panels of curves over epochs: at most seven settings each, an untuned one in grey, and persistence as a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from matplotlib.axes import Axes

from analysis import style
from studies.flood.analysis.curves import Point, curve_of
from studies.flood.analysis.names import PERSISTENCE
from studies.flood.analysis.results import LOSS, VAL_LOSS, FloodResults, Setting

Rows = list[dict[str, Any]]
MOST = 7  # settings in a panel: as many as there are colours
COLUMNS = 4
KINDS = {LOSS: ("training loss (m)", {"train": ":"}),
         VAL_LOSS: ("validation loss (m)", {"validation": ":", "test": "-."})}  # fmt: skip
"""Metrics that are drawn: label, and the splits whose persistence stands beside them, with its dash."""

DATA = {"train": "training", "validation": "validation", "test": "test"}
SEEDS = "Lines: mean over seeds; bands: range over seeds, on the epochs that all of them have."
PERSISTENCE_LINE = (
    "Persistence, whose loss is the mean change of depth: dotted on the same split, dash-dotted on the test data."
)


@dataclass(frozen=True)
class Panel:
    """The settings of a panel, and the untuned one beside them, if there is one."""

    title: str
    settings: tuple[Setting, ...]
    untuned: Setting | None = None

    @property
    def everyone(self) -> list[Setting]:
        return [*([self.untuned] if self.untuned else []), *self.settings]


@dataclass
class Drawing:
    """What is collected while panels are drawn: the rows of the table, and the lowest and highest values."""

    rows: Rows = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def panels_of(results: FloodResults, stage: str) -> list[Panel]:
    """Tuned settings by architecture and key, each panel beside the untuned one; all others by seven."""
    settings = [one for one in results.trained.get(stage, ()) if one.to_show()]
    tuned = [one for one in settings if _untuned(one, results)]
    found: dict[tuple[str, str], list[Setting]] = {}
    for one in tuned if stage not in ("A", "C") else ():
        found.setdefault((one.architecture, ", ".join(one.changed)), []).append(one)
    panels = [Panel(f"{architecture}: {keys}", tuple(part), results.untuned[architecture])
              for (architecture, keys), ones in found.items() for part in _sevens(ones)]  # fmt: skip
    rest = settings if not found else [one for one in settings if one not in tuned]
    return panels + [Panel("", tuple(part)) for part in _sevens(rest)]


def _untuned(one: Setting, results: FloodResults) -> bool:
    """Whether an untuned setting of its architecture is shown beside it."""
    beside = results.untuned.get(one.architecture)
    return bool(one.changed) and beside is not None and beside is not one


def _sevens(settings: Sequence[Setting]) -> list[Sequence[Setting]]:
    return [settings[first : first + MOST] for first in range(0, len(settings), MOST)]


def draw_stage(results: FloodResults, panels: Sequence[Panel]) -> tuple[Any, Rows] | None:
    """A figure with a block of panels for each loss. None: no setting has recorded any."""
    curves = {(kind, one.group, one.label): curve_of(one, kind)
              for kind in KINDS for panel in panels for one in panel.everyone}  # fmt: skip
    if not any(curves.values()):
        return None
    single = len(panels) == 1
    columns = len(KINDS) if single else min(COLUMNS, len(panels))
    rows = 1 if single else len(KINDS) * -(-len(panels) // columns)
    figure, places = style.panels(columns, rows, width=style.PRINT_WIDTH / columns, height=2.7 if single else 1.8)
    drawing, shown = Drawing(), []
    each = len(places) // len(KINDS)
    for number, (kind, (label, splits)) in enumerate(KINDS.items()):
        block = places[number * each : (number + 1) * each]
        for axes, panel in zip(block, panels, strict=False):
            points = [(one, curves[kind, one.group, one.label]) for one in panel.everyone]
            _draw(axes, panel, kind, points, drawing)
            _persistence(axes, results, panel, splits, drawing)
            style.position_axis(axes)
            axes.set_xlabel("epoch")
            axes.set_title(panel.title, loc="left", fontsize=8)
            shown.append(axes)
        for axes in block[::columns][: -(-len(panels) // columns)]:
            axes.set_ylabel(label)
        for axes in block[len(panels) :]:
            axes.set_visible(False)
    same_range(shown, drawing.values)
    if single:
        style.legend_below(figure, shown, row=0.17)
    else:
        for axes in shown[: len(panels)]:
            axes.legend(fontsize=6, handlelength=2.0, labelspacing=0.2, loc="upper right")
    return figure, drawing.rows


def _draw(
    axes: Axes, panel: Panel, kind: str, curves: Sequence[tuple[Setting, Sequence[Point]]], drawing: Drawing
) -> None:
    number = 0
    for setting, points in curves:
        if setting is panel.untuned:
            look: Mapping[str, Any] = {"color": style.BASELINE, "linestyle": "--", "linewidth": 1.1, "zorder": 3}
            label = f"untuned ({setting.stage})"
        else:
            look, number = style.line_look(number, len(points)), number + 1
            label = short_label(setting, panel)
        if not points:
            continue
        epochs = [one.epoch for one in points]
        axes.plot(epochs, [one.mean for one in points], label=label, **look)
        axes.fill_between(epochs, [one.low for one in points], [one.high for one in points], color=look["color"],
                          alpha=0.18, linewidth=0)  # fmt: skip
        drawing.values += [value for one in points for value in (one.low, one.high)]
        drawing.rows += [{"stage": setting.stage, "setting": setting.label, "metric": kind, "epoch": one.epoch,
                          "mean": one.mean, "lowest": one.low, "highest": one.high, "n": one.n}
                         for one in points]  # fmt: skip


def short_label(setting: Setting, panel: Panel) -> str:
    """Without the architecture and the key that the title of the panel has."""
    if not panel.title:
        return setting.label
    return ", ".join(map(str, setting.changed.values())) or setting.label


def _persistence(axes: Axes, results: FloodResults, panel: Panel, splits: Mapping[str, str], drawing: Drawing) -> None:
    sets = dict.fromkeys(one.flood_set for one in panel.everyone)
    for name, (split, dash) in product(sets, splits.items()):
        value = results.dummy(name, split)
        if math.isfinite(value):
            label = f"_{split}" if panel.title else f"persistence, {DATA[split]} data"
            axes.axhline(value, color="black", linewidth=0.9, linestyle=dash, label=label)
            drawing.values.append(value)
            drawing.rows.append({"setting": PERSISTENCE, "metric": f"{split} loss", "mean": value, "set": name})


def same_range(axes: Sequence[Axes], values: Sequence[float]) -> None:
    """Equal logarithmic y axes."""
    known = [one for one in values if one > 0 and math.isfinite(one)]
    if not known:
        return
    low, high = min(known), max(known)
    for one in axes:
        one.set_yscale("log")
        one.set_ylim(low / 1.15, high * 1.15)
        style.logarithmic(one.yaxis, low, high)
