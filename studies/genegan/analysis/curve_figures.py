"""Figures over the training: distances, kernel distances, losses, transfer rate and PSNR, each arm beside its base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes

from analysis import style
from analysis.learning_curves import DrawnFigure
from studies.genegan.analysis.answers import LEAST_RATE, MOST_LOST
from studies.genegan.analysis.curves import ITERATIONS, SECONDS, Point, curve_of
from studies.genegan.analysis.document import FLOOR
from studies.genegan.analysis.references import is_near, labelled
from studies.genegan.analysis.results import DIRECTIONS, LOSSES, Arm, GeneganResults

Rows = list[dict[str, Any]]
MOST_TOGETHER = 5  # arms in one panel; with more, each experiment has a panel of its own, with its baseline
COLUMNS = 4
SEEDS = "Lines: mean over seeds; bands: range over seeds, on the iterations that all of them have reached."
IDENTITY = "Identity: the unchanged input, on test images."
TIMES = ((7200.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


@dataclass(frozen=True)
class CurveRow:
    """A metric with its axis label, and the lines to compare it with: label, final metric (or number), dash.

    Values are multiplied with `factor` before they are shown.
    """

    metric: str
    label: str
    lines: Sequence[tuple[str, str | float, str]] = ()
    factor: float = 1.0


@dataclass(frozen=True)
class Panel:
    """The arms of a panel, and their baseline, which is grey; None: no arm of the panel has one."""

    arms: tuple[Arm, ...]
    baseline: Arm | None = None


@dataclass
class Drawing:
    """What is collected while panels are drawn: the rows of the table, and the values of each metric."""

    rows: Rows = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)


def panels_of(results: GeneganResults) -> list[Panel]:
    """One panel for a few arms; else one for each experiment, by the first part of its name, and its baseline."""
    arms = results.gans
    if len(arms) <= MOST_TOGETHER:
        return [Panel(tuple(arms))] if arms else []
    found: dict[tuple[str, str], list[Arm]] = {}
    for arm in arms:
        others = results.against.get(arm.label, ())
        if others:
            found.setdefault((others[0].label, arm.group.partition("_")[0]), []).append(arm)
    by_label = {one.label: one for one in arms}
    baselines = {label for label, _ in found}
    alone = tuple(one for one in arms if one.label not in baselines and one.label not in results.against)
    return [*(Panel(tuple(ones), by_label[label]) for (label, _), ones in found.items()),
            *([Panel(alone)] if alone else [])]  # fmt: skip


def curves(results: GeneganResults, kinds: Sequence[CurveRow], over: str, *, log: bool, share: bool) -> (
    tuple[Any, Rows] | None
):  # fmt: skip
    """A figure with a block of panels for each kind. None: no run has recorded any of them."""
    drawing = Drawing()
    known = {(one.metric, arm.label): curve_of(arm, one.metric, over) for one in kinds for arm in results.gans}
    if not any(known.values()):
        return None
    with_data = {label for (_, label), points in known.items() if points}
    panels = [one for one in panels_of(results) if with_data & {arm.label for arm in one.arms}] or [
        Panel(tuple(one for one in results.gans if one.label in with_data))
    ]
    longest = max(points[-1].x for points in known.values() if points)
    divisor, unit = next((by, name) for least, by, name in TIMES if longest >= least)
    columns = len(kinds) if len(panels) == 1 else min(COLUMNS, len(panels))
    rows = 1 if len(panels) == 1 else len(kinds) * -(-len(panels) // columns)
    height = 2.6 if rows == 1 else 1.75
    figure, places = style.panels(columns, rows, width=style.PRINT_WIDTH / columns, height=height)
    blocks = len(places) // len(kinds)
    for number, kind in enumerate(kinds):
        block = places[number * blocks : (number + 1) * blocks]
        for axes, panel in zip(block, panels, strict=False):
            scaled = {label: [_scaled(one, kind.factor, divisor if over == SECONDS else 1.0) for one in points]
                      for (metric, label), points in known.items() if metric == kind.metric}  # fmt: skip
            _draw_panel(axes, panel, kind, scaled, drawing)
            _axis(axes, over, unit)
        _references(block[: len(panels)], results, kind, drawing)
        for axes in block[len(panels) :]:
            axes.set_visible(False)
        if share:
            _ranges(block[: len(panels)], drawing.values.get(kind.metric, []), log=log)
        for axes in block[: len(panels) : columns]:
            axes.set_ylabel(kind.label)
    style.legend_below(figure, [one for one in places if one.get_visible()], row=0.17)
    return figure, drawing.rows


def _scaled(one: Point, factor: float, divisor: float) -> Point:
    return Point(one.x / divisor, one.mean * factor, one.low * factor, one.high * factor, one.n)


def _draw_panel(
    axes: Axes, panel: Panel, kind: CurveRow, known: Mapping[str, Sequence[Point]], drawing: Drawing
) -> None:
    looks = [(arm, style.line_look(number, len(known[arm.label]))) for number, arm in enumerate(panel.arms)]
    if panel.baseline:
        grey = {"color": style.BASELINE, "linestyle": (0, (3, 1.5)), "linewidth": 1.1, "zorder": 3}
        looks.insert(0, (panel.baseline, grey))
    handles = []
    for arm, look in looks:
        points = known[arm.label]
        if not points:
            continue
        xs = [one.x for one in points]
        (line,) = axes.plot(xs, [one.mean for one in points], **look)
        line.set_label(f"_{arm.label}")
        handles.append((line, arm.label))
        axes.fill_between(xs, [one.low for one in points], [one.high for one in points], color=look["color"],
                          alpha=0.18, linewidth=0)  # fmt: skip
        drawing.values.setdefault(kind.metric, []).extend(value for one in points for value in (one.low, one.high))
        drawing.rows += [{"arm": arm.label, "metric": kind.metric, "x": one.x, "mean": one.mean, "lowest": one.low,
                          "highest": one.high, "n": one.n} for one in points]  # fmt: skip
    if handles:
        axes.legend([line for line, _ in handles], [label for _, label in handles], loc="lower left",
                    bbox_to_anchor=(0, 1), ncols=1, fontsize=6.5, handlelength=2.2, borderaxespad=0.2,
                    labelspacing=0.2)  # fmt: skip


def _references(block: Sequence[Axes], results: GeneganResults, kind: CurveRow, drawing: Drawing) -> None:
    """Lines across the panels of a metric. One far from the curves is in the legend only: it would flatten them."""
    curved = list(drawing.values.get(kind.metric, []))
    for label, name, dash in kind.lines:
        value = (results.reference(name) if isinstance(name, str) else name) * kind.factor
        if not math.isfinite(value) or not curved:
            continue
        near = is_near(value, curved)
        for axes in block:
            place = value if near else math.nan
            axes.axhline(place, color="black", linewidth=0.8, linestyle=dash, label=labelled(label, value, near))
        drawing.values[kind.metric] += [value] * near
        drawing.rows.append({"arm": label, "metric": kind.metric, "mean": value})


def _axis(axes: Axes, over: str, unit: str) -> None:
    style.position_axis(axes)
    axes.set_xlabel("iteration" if over == ITERATIONS else f"training ({unit})")


def _ranges(block: Sequence[Axes], values: Sequence[float], *, log: bool) -> None:
    """Equal y axes for the panels of one metric."""
    if not values:
        return
    low, high = min(values), max(values)
    for axes in block:
        if log and low > 0:
            axes.set_yscale("log")
            axes.set_ylim(low / 1.15, high * 1.15)
            style.logarithmic(axes.yaxis, low, high)
        else:
            margin = 0.06 * (high - low) or 0.5
            axes.set_ylim(low - margin, high + margin)


# ------------------------------------------------------------------------------------------------------ the figures


def distance(results: GeneganResults, over: str) -> DrawnFigure | None:
    """The Frechet distance of both directions, with the floor and the identity."""
    kinds = [CurveRow(f"{direction}_fd", f"{results.distance_name}\n{text}", (
                 (f"identity, {text}", f"test_{direction}_fd_identity", "--"),
                 (f"floor, {text}", f"test_{direction}_fd_floor", ":"),
             )) for direction, text in DIRECTIONS.items()]  # fmt: skip
    made = curves(results, kinds, over, log=True, share=True)
    if made is None:
        return None
    caption = (
        f"{', or '.join(map(str, results.evaluated))}, on validation images; lower is better. Added: Bu against real "
        f"images with the attribute; removed: A0 against real images without it. {IDENTITY} {FLOOR} {SEEDS}"
    )
    what = "iterations" if over == ITERATIONS else "seconds of training"
    return DrawnFigure(made[0], made[1], f"{results.distance_name} over {what}", caption)


def kernel_distance(results: GeneganResults) -> DrawnFigure | None:
    """The kernel distance of both directions."""
    kinds = [CurveRow(f"{direction}_kd", f"{results.kernel_name}\n{text}", (
                 (f"identity, {text}", f"test_{direction}_kd_identity", "--"),
             )) for direction, text in DIRECTIONS.items()]  # fmt: skip
    made = curves(results, kinds, ITERATIONS, log=False, share=True)
    if made is None:
        return None
    caption = (
        f"{results.kernel_name} on validation images; lower is better, and the expected value is 0 for equal "
        f"distributions at any number of images. {IDENTITY} {SEEDS}"
    )
    return DrawnFigure(made[0], made[1], f"{results.kernel_name} over iterations", caption)


def losses(results: GeneganResults) -> DrawnFigure | None:
    """The losses of critics and generator."""
    made = curves(results, [CurveRow(name, f"loss of the\n{text}") for name, text in LOSSES.items()], ITERATIONS,
                  log=False, share=False)  # fmt: skip
    if made is None:
        return None
    caption = (
        "Losses are no measure of quality: those of a WGAN depend on the critics, and those of different objectives or "
        f"weights have different scales, so each panel has its own y axis. Neighbouring rows are averaged. {SEEDS}"
    )
    return DrawnFigure(made[0], made[1], "Losses over iterations", caption)


def transfer_rate(results: GeneganResults) -> DrawnFigure | None:
    """On procedural faces: the share of outputs that an independent classifier finds on the wanted side."""
    accuracy = results.reference("test_judge_accuracy")
    kinds = [CurveRow(f"{direction}_rate", f"transfer rate (%)\n{text}", (
                 ("accuracy of the judge", "test_judge_accuracy", "-."),
                 ("wanted: at least", LEAST_RATE, ":"),
                 (f"identity, {text}", f"test_{direction}_rate_identity", "--"),
             ), 100.0) for direction, text in DIRECTIONS.items()]  # fmt: skip
    made = curves(results, kinds, ITERATIONS, log=False, share=True)
    if made is None:
        return None
    known = f" The judge is right for {100 * accuracy:.1f} % of real faces." if math.isfinite(accuracy) else ""
    caption = (
        "Share of the outputs that a classifier, trained on real procedural faces, finds on the wanted side, on "
        f"validation images.{known} {IDENTITY} {SEEDS}"
    )
    return DrawnFigure(made[0], made[1], "Transfer rate over iterations", caption)


def inside(results: GeneganResults) -> DrawnFigure | None:
    """On procedural faces: PSNR in the region that differs, with the dummies."""
    kinds = [CurveRow(f"{direction}_inside", f"PSNR inside (dB)\n{text}", tuple(
                 (f"{dummy}, {text}", f"test_{direction}_inside_{dummy}", dash)
                 for dummy, dash in (("identity", "--"), ("copy", ":"), ("paste", "-."))
             )) for direction, text in DIRECTIONS.items()]  # fmt: skip
    made = curves(results, kinds, ITERATIONS, log=False, share=True)
    if made is None:
        return None
    caption = (
        "PSNR against the paired truth where the two faces differ, on validation images; higher is better. Identity: "
        "the unchanged input; copy: the other input; paste: the mean of real faces of the wanted side, put into the "
        f"true region, which no model knows; these on test images. {SEEDS}"
    )
    return DrawnFigure(made[0], made[1], "PSNR inside the region that differs", caption)


def outside(results: GeneganResults) -> DrawnFigure | None:
    """On procedural faces: how much worse the output is than the reconstruction, outside the region that differs."""
    kinds = [CurveRow(f"{direction}_lost", f"PSNR lost outside (dB)\n{text}",
                      (("wanted: at most", MOST_LOST, ":"),))
             for direction, text in DIRECTIONS.items()]  # fmt: skip
    made = curves(results, kinds, ITERATIONS, log=False, share=True)
    if made is None:
        return None
    caption = (
        "PSNR of the reconstruction minus PSNR of the output, both outside the region that differs, where nothing "
        f"should change, on validation images; lower is better. {SEEDS}"
    )
    return DrawnFigure(made[0], made[1], "PSNR lost outside the region that differs", caption)
