"""Learning curves of one experiment: a panel for each family of metrics, with the curves of its baseline."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.curve_data import Band, Floats, LearningCurve
from analysis.curve_layout import CurveLayout
from analysis.rounds import RoundEntry, early_end, metrics_of, planned_of
from analysis.style import BASELINE, COLOURS, FEW, line_look, logarithmic, position_axis
from roundhouse.formatting import counted, number
from roundhouse.metrics import Declarations, quantity, with_unit
from roundhouse.model.attempt import STEP
from roundhouse.store.metrics import RunMetrics, finite

PANELS_AT_MOST = 12  # in one figure
LETTERS = 14  # of a heading, per inch
WIDE = 30.0  # ratio of the largest to the smallest value above which an axis is logarithmic


@dataclass(frozen=True)
class DrawnFigure:
    """A figure, the rows that it was drawn from, its title, its caption, and a text for readers who cannot see it."""

    figure: Figure
    table: Sequence[Mapping[str, Any]]
    title: str
    caption: str
    alt: str = ""


def panel_of(key: str, declared: Declarations) -> str:
    """The name of the panel of a key: by default, X, train_X and val_X are all in the panel X."""
    return declared.of(key).panel or quantity(key)


def axis_of(keys: Sequence[str], declared: Declarations) -> str:
    """The axis label of a panel with these keys."""
    if len(keys) == 1:
        return plain(declared.axis(keys[0]))
    units = {declared.of(key).shown_unit for key in keys}
    name = panel_of(keys[0], declared).replace("_", " ")
    return plain(with_unit(name, units.pop() if len(units) == 1 else ""))


def is_logarithmic(key: str, declared: Declarations, low: float, high: float) -> bool:
    """Whether an axis from `low` to `high` is logarithmic: if that is declared, or if the range is wide."""
    scale = declared.of(key).scale
    return low > 0 and (scale == "log" or (scale == "linear" and high / low > WIDE))


def plain(text: str) -> str:
    """Text that matplotlib shows literally: no formula between `$`, no label hidden because it begins with `_`."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


# ---------------------------------------------------------------------------------------------- the figure


def draw(entry: RoundEntry, baseline: Sequence[RoundEntry]) -> DrawnFigure:
    """The learning curves of an experiment. RoundhouseError: its metrics cannot be read.

    The table has a row for each entry in metrics.json, with all its keys, and the baseline's values from the figure.
    """
    metrics, declared = entry.metrics(), entry.declared
    curve = LearningCurve.of(metrics, declared)
    main = declared.main if declared.main in curve.values else metrics.metric
    references = [metrics_of(one, []) for one in baseline if one.path != entry.path]
    curves = [LearningCurve.of(one, declared) for one in references if one.epochs]
    shown = [key for key in curve.values if key == main or key.startswith(("val_", "validation_"))]
    bands = {key: _within(Band.of(curves, key, curve.unit), curve) for key in shown}
    bands = {key: band for key, band in bands.items() if len(band.positions)}
    finals = [one.final for one in (metrics, *references)]
    panels = _panels(curve, main, declared)
    layout = CurveLayout(min(len(panels), PANELS_AT_MOST))
    figure, axes = layout.figure()
    for keys, panel in zip(panels, axes, strict=False):
        _lines(panel, keys, curve, declared, layout)
        for key in keys:
            if key in bands:
                name = _averaged(baseline[0].group, bands[key])
                _draw_baseline(panel, declared.of(key).factor, bands[key], name)
        if metrics.metric in keys:
            _best(panel, metrics, curve, declared)
        _reference(panel, keys, finals, declared)
        _finish(panel, keys, curve, _resumed(entry, curve.unit), layout)
    layout.place(figure, axes)
    figure.suptitle(
        _heading(entry, metrics, curve, figure.get_figwidth()), fontsize=9, y=1 - 0.06 / figure.get_figheight()
    )
    caption = _caption(entry, metrics, curve, bands, baseline)
    if missing := [key for keys in panels[PANELS_AT_MOST:] for key in keys]:
        caption += f" In the table only: {', '.join(missing)}."
    return DrawnFigure(figure, _table(metrics, curve, bands), f"{entry.path}: learning curves", caption)


def _panels(curve: LearningCurve, main: str | None, declared: Declarations) -> list[list[str]]:
    """The keys of each panel: first the main metric, then in declared order, last keys of earlier stages only.

    A panel has as many lines as there are colours.
    """
    found: dict[str, list[str]] = {}
    for key in curve.values:
        found.setdefault(panel_of(key, declared), []).append(key)
    kept = [one for one in found.values() if any(curve.last_stage(key) for key in one)]
    others = [one for one in found.values() if one not in kept]
    order = {name: index for index, name in enumerate(declared.metrics)}
    kept.sort(key=lambda keys: (main not in keys, min(order.get(key, len(order)) for key in keys)))
    most = len(COLOURS)
    return [keys[first : first + most] for keys in (*kept, *others) for first in range(0, len(keys), most)]


def _lines(axes: Axes, keys: Sequence[str], curve: LearningCurve, declared: Declarations, layout: CurveLayout) -> None:
    """The lines of one panel; that of training is the last."""
    for index, key in enumerate(sorted(keys, key=lambda key: key == quantity(key) or key.startswith("train_"))):
        positions, values = curve.points(key)
        factor, look = declared.of(key).factor, {**line_look(index, len(values)), "markersize": 2.5}
        if _sparse(values):
            look["markevery"] = None
        axes.plot(positions, factor * values, label=plain(_series(key, keys, declared)), **look)
        cut = curve.partial & curve.recorded[key]
        if cut.any():
            axes.plot(curve.positions[cut], factor * curve.values[key][cut], "o", color=look["color"],
                      markersize=5, markerfacecolor="white")  # fmt: skip
    line = round(18 * layout.height)  # letters
    text = textwrap.shorten(axis_of(keys, declared), 2 * line, placeholder=" …")
    axes.set_ylabel(textwrap.fill(text, line))
    every = np.concatenate([curve.values[key] for key in keys])
    every = every[np.isfinite(every)]
    if not len(every):
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="center", color=BASELINE)
    elif is_logarithmic(keys[0], declared, every.min(), every.max()):
        factor = declared.of(keys[0]).factor
        axes.set_yscale("log")
        logarithmic(axes.yaxis, factor * every.min(), factor * every.max())


def _series(key: str, among: Sequence[str], declared: Declarations) -> str:
    """The name of a line in its panel: the label without the name of the panel, with the unit if units differ."""
    panel, metric = panel_of(key, declared).replace("_", " "), declared.of(key)
    if not metric.label and not metric.panel and key == quantity(key):
        return "training" if len(among) > 1 else panel
    text = " ".join(declared.label(key).replace(panel, "").split()).strip(" ,:") or declared.label(key)
    return with_unit(text, metric.shown_unit if len({declared.of(one).shown_unit for one in among}) > 1 else "")


def _sparse(values: Floats) -> bool:
    """Whether a line needs markers to show all its points: there are few, or there are gaps between them."""
    where = np.flatnonzero(np.isfinite(values))
    return len(where) <= FEW or bool((np.diff(where) > 1).any())


def _within(band: Band, curve: LearningCurve) -> Band:
    """The part of a baseline at positions that the experiment has too, with the experiment's positions."""
    positions = band.positions + curve.before
    chosen = np.isin(positions, curve.positions)
    return Band(positions[chosen], band.mean[chosen], band.low[chosen], band.high[chosen], band.count[chosen])


def _draw_baseline(axes: Axes, factor: float, band: Band, name: str) -> None:
    axes.fill_between(band.positions, factor * band.low, factor * band.high, color=BASELINE, alpha=0.3, linewidth=0)
    marker = "s" if _sparse(band.mean) else ""
    axes.plot(band.positions, factor * band.mean, color=BASELINE, linewidth=0.9, label=plain(name), marker=marker,
              markersize=2, zorder=1.9)  # fmt: skip


def _averaged(name: str, band: Band) -> str:
    most = int(band.count.max())
    return f"{name} (mean of {most})" if most > 1 else f"{name} (1 run)"


def _best(axes: Axes, metrics: RunMetrics, curve: LearningCurve, declared: Declarations) -> None:
    metric, values = declared.of(str(metrics.metric)), curve.values[str(metrics.metric)]
    at = finite(metrics.best_step if curve.unit == STEP else metrics.best_epoch)
    where = np.flatnonzero((curve.positions == at) & np.isfinite(values))[:1]
    if len(where):
        best, position = metric.factor * values[where[0]], curve.positions[where[0]]
        text = f"best {_amount(best, metric.shown_unit)} ({curve.unit} {position:.0f})"
        axes.plot([position], [best], "*", color="black", markersize=8, label=text, zorder=5)


def _reference(axes: Axes, keys: Sequence[str], finals: Sequence[Mapping[str, float]], declared: Declarations) -> None:
    """A line at the declared baseline of the panel's metrics, such as chance."""
    known = ((key, declared.reference(key, final)) for key in keys for final in finals)
    key, value = next(((key, value) for key, value in known if value is not None), ("", None))
    if value is not None:
        metric = declared.of(key)
        text = f"{declared.reference_label(key)} {_amount(metric.factor * value, metric.shown_unit)}"
        axes.axhline(metric.factor * value, color=BASELINE, linestyle=":", label=plain(text))


def _amount(value: float, unit: str) -> str:
    return f"{number(value)} {unit}".rstrip()


def _resumed(entry: RoundEntry, unit: str) -> list[int]:
    """The epochs or steps after which an attempt resumed from a checkpoint."""
    return sorted({one.progress.counter(unit).started for one in entry.record.runs if one.progress} - {0})


def _finish(axes: Axes, keys: Sequence[str], curve: LearningCurve, resumed: Sequence[int], layout: CurveLayout) -> None:
    """Mark where stages and attempts begin, and add the axis of epochs or steps and the legend above the data."""
    present = curve.positions[np.any([np.isfinite(curve.values[key]) for key in keys], axis=0)]
    earlier = len(present) > 0 and present.max() <= curve.before  # measured before the last stage only
    first = curve.stages[0][1] + 2 * curve.half if curve.stages else 0.0
    last = curve.before if earlier else curve.positions[-1]
    for name, start, end in curve.stages[:-1]:
        if earlier and len(curve.stages) == 2:
            axes.set_title(plain(f"in stage {name}"), loc="right", fontsize=7.5, color=BASELINE)
        else:
            axes.axvspan(start + curve.half, end + curve.half, color="#f0e9d8", linewidth=0, zorder=0)
            axes.text((start + end) / 2 + curve.half, 0.5, plain(name), transform=axes.get_xaxis_transform(),
                      rotation=90, ha="center", va="center", fontsize=7, color=BASELINE)  # fmt: skip
    for index, at in enumerate(one + curve.half for one in resumed if first <= one + curve.half <= last):
        axes.axvline(at, color=COLOURS[3], linewidth=0.8, linestyle=(0, (4, 2)),
                     label="resumed" if index == 0 else None)  # fmt: skip
    margin = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - margin, last + margin)
    position_axis(axes)
    axes.set_xlabel(curve.unit)
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=layout.legend_columns, borderaxespad=0,
                    borderpad=0.2, columnspacing=1.2, handlelength=1.8)  # fmt: skip


def _heading(entry: RoundEntry, metrics: RunMetrics, curve: LearningCurve, inches: float) -> str:
    lines = textwrap.wrap(entry.path.replace("/", "/ "), round(LETTERS * inches))  # wrapped after a slash
    state = textwrap.wrap(_state(entry, metrics, curve), round(LETTERS * inches))
    return plain("\n".join([*(line.replace("/ ", "/") for line in lines), *state]))


def _state(entry: RoundEntry, metrics: RunMetrics, curve: LearningCurve) -> str:
    """The state of an experiment, how far it is, and why it ended early if it did."""
    planned = planned_of(entry, curve.unit)
    far = f"{curve.done} of {planned} {curve.unit}s" if planned else counted(curve.done, curve.unit)
    return ", ".join([str(entry.state).replace("_", " "), far, *early_end(metrics)])


def _table(metrics: RunMetrics, curve: LearningCurve, bands: Mapping[str, Band]) -> list[dict[str, Any]]:
    """The entries as they are in metrics.json, with the baseline's mean, minimum, maximum and count."""
    reference: dict[float, dict[str, Any]] = {}
    for key, band in bands.items():
        for position, *values, count in zip(band.positions, band.mean, band.low, band.high, band.count, strict=True):
            names = (f"baseline_{key}_{what}" for what in ("mean", "min", "max"))
            row = dict(zip(names, map(float, values), strict=True))
            reference.setdefault(float(position), {}).update(row, **{f"baseline_{key}_n": int(count)})
    pairs = zip(metrics.epochs, curve.positions.tolist(), strict=True)
    return [{"stage": row.get("stage"), curve.unit: row.get(curve.unit, at), **row, **reference.get(at, {})}
            for row, at in pairs]  # fmt: skip


def _caption(
    entry: RoundEntry,
    metrics: RunMetrics,
    curve: LearningCurve,
    bands: Mapping[str, Band],
    baseline: Sequence[RoundEntry],
) -> str:
    sentences = [f"Learning curves of {entry.path} ({_state(entry, metrics, curve)})."]
    if bands:
        seeds = max(int(band.count.max()) for band in bands.values())
        runs = counted(seeds, "experiment")
        sentences.append(f"Grey: mean and range of its baseline, group {baseline[0].group} ({runs}).")
        if curve.before:
            sentences.append(f"The baseline is drawn from where stage {curve.stages[-1][0]} begins.")
    else:
        sentences.append("No baseline to compare with.")
    if len(curve.stages) > 1:
        earlier = ", ".join(name for name, _, _ in curve.stages[:-1])
        sentences.append(f"Shaded: {earlier}, before the main training stage.")
    if resumed := _resumed(entry, curve.unit):
        sentences.append(f"Resumed after {curve.unit} {', '.join(map(str, resumed))}.")
    if curve.partial.any():
        sentences.append("Open circle: an epoch that the time limit ended early.")
    return " ".join(sentences)
