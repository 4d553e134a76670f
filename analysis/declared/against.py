"""A metric against a continuous config key: mean and standard deviation over seeds, a line for each setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from analysis.declared.runs import FigureRuns, SettingResult, mean_of, number, swept_geometrically, value_label
from analysis.group_data import shortened
from analysis.learning_curves import DrawnFigure, is_logarithmic, plain
from analysis.rounds import RoundEntry
from analysis.style import BASELINE, legend_below, logarithmic, look, panels
from roundhouse.errors import RoundhouseError

LINES_AT_MOST = 7  # in one panel
ACROSS = 3
TICKS_AT_MOST = 6  # on the x axis; with more values, matplotlib chooses

Line = list[tuple[float, SettingResult]]  # by increasing x


def draw(runs: FigureRuns) -> DrawnFigure:
    """A panel for each data set; a data set with many lines has several."""
    runs.require_metric()
    over = runs.figure.over
    found = [
        (name, entries, part) for name, entries in runs.data_sets.items() for part in _parts(_lines(runs, entries))
    ]
    found = [one for one in found if one[2]]
    if not found:
        raise RoundhouseError(f"over: the values of {over} are not numbers")
    columns = min(len(found), ACROSS)
    figure, axes = panels(columns, math.ceil(len(found) / columns), width=2.3 if columns > 1 else 4.8, height=2.3)
    numbers = {name: place for place, name in enumerate(dict.fromkeys(name for _, _, part in found for name in part))}
    table: list[dict[str, Any]] = []
    for place, (data_set, entries, part) in zip(axes, found, strict=False):
        table += _panel(place, runs, entries, part, numbers)
        place.set_title(shortened(data_set))
    for place in axes[len(found) :]:
        place.remove()
    _share_axes(axes[: len(found)], runs, [x for _, _, part in found for line in part.values() for x, _ in line])
    axes[0].set_ylabel(runs.axis())
    legend_below(figure, axes[: len(found)], row=0.17)
    counts = [one.n for _, _, part in found for line in part.values() for _, one in line]
    label = runs.declared.label(runs.metric)
    caption = f"{label} against {over}: {mean_of(counts)}."
    return DrawnFigure(figure, table, f"{label} against {over}", f"{caption} {_compared(runs)}", _alt(runs, found))


def _lines(runs: FigureRuns, entries: Sequence[RoundEntry]) -> dict[str, Line]:
    """The lines of a data set, by label; runs whose `over` is no number are left out."""
    over, by = runs.figure.over, runs.figure.by
    found: dict[tuple[str, float], list[RoundEntry]] = {}
    for one in entries:
        x = number(one.config.get(over))
        label = value_label(by, one.config.get(by)) if by else runs.label(one, without={over})
        if x is not None:
            found.setdefault((label, x), []).append(one)
    lines: dict[str, Line] = {}
    for (label, x), members in sorted(found.items(), key=lambda one: one[0][1]):
        if values := runs.values(members):
            lines.setdefault(label, []).append((x, SettingResult(label, tuple(members), values)))
    return lines


def _parts(lines: dict[str, Line]) -> list[dict[str, Line]]:
    names = list(lines)
    return [{name: lines[name] for name in names[start : start + LINES_AT_MOST]}
            for start in range(0, len(names), LINES_AT_MOST)]  # fmt: skip


def _panel(
    axes: Axes, runs: FigureRuns, entries: Sequence[RoundEntry], lines: dict[str, Line], numbers: dict[str, int]
) -> list[dict[str, Any]]:
    """Draw the lines of one panel and what they are compared with. Returns the rows of the table."""
    rows = []
    for name, line in lines.items():
        spread = [one.sd or 0.0 for _, one in line]
        axes.errorbar([x for x, _ in line], [one.mean for _, one in line], spread, label=shortened(name), capsize=2,
                      elinewidth=0.8, **look(numbers[name]))  # fmt: skip
        rows += [_row(entries[0].data_set, "result", name, x, one, runs) for x, one in line]
    members = [one for line in lines.values() for _, point in line for one in point.entries]
    baseline = runs.baseline(members)
    points = _lines(runs, baseline)
    along = [(x, one) for line in points.values() for x, one in line]
    if len({x for x, _ in along}) > 1:
        axes.errorbar([x for x, _ in along], [one.mean for _, one in along], [one.sd or 0.0 for _, one in along],
                      color=BASELINE, linestyle="--", capsize=2, elinewidth=0.8,
                      label=plain(f"{baseline[0].group} (baseline)"))  # fmt: skip
        rows += [_row(entries[0].data_set, "baseline", one.label, x, one, runs) for x, one in along]
    elif values := runs.values(baseline):
        one = SettingResult(baseline[0].group, tuple(baseline), values)
        axes.axhline(one.mean, color=BASELINE, linewidth=1, label=plain(f"{one.label} (baseline, n {one.n})"))
        axes.axhspan(one.mean - (one.sd or 0), one.mean + (one.sd or 0), color=BASELINE, alpha=0.2, linewidth=0)
        rows.append(_row(entries[0].data_set, "baseline", one.label, None, one, runs))
    reference = runs.reference(members)
    if reference is not None:
        label = runs.declared.reference_label(runs.metric)
        axes.axhline(reference, color=BASELINE, linestyle=":", label=plain(str(label)))
        rows.append({"data_set": entries[0].data_set, "role": str(label), "mean": reference})
    axes.set_xlabel(runs.axis(runs.figure.over))
    return rows


def _row(data_set: str, role: str, name: str, x: float | None, one: SettingResult, runs: FigureRuns) -> dict[str, Any]:
    return {"data_set": data_set, "role": role, "setting": name, runs.figure.over: x, "metric": runs.metric,
            "unit": runs.declared.of(runs.metric).shown_unit, "mean": one.mean, "sd": one.sd, "n": one.n}  # fmt: skip


def _share_axes(axes: Sequence[Axes], runs: FigureRuns, xs: Sequence[float]) -> None:
    """Equal axes for all panels: logarithmic where the values were swept so."""
    low, high = min(one.get_ylim()[0] for one in axes), max(one.get_ylim()[1] for one in axes)
    values = [float(value) for one in axes for line in one.lines for value in np.asarray(line.get_ydata(), dtype=float)]
    values = [value for value in values if math.isfinite(value)]
    ticks = sorted(set(xs))
    for one in axes:
        if swept_geometrically(xs):
            one.set_xscale("log")
        if len(ticks) <= TICKS_AT_MOST:
            one.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            one.xaxis.set_minor_locator(NullLocator())
        if is_logarithmic(runs.metric, runs.declared, min(values), max(values)):
            one.set_yscale("log")
            one.set_ylim(min(values) / 1.3, max(values) * 1.3)
            logarithmic(one.yaxis, min(values), max(values))
        else:
            one.set_ylim(low, high)


def _compared(runs: FigureRuns) -> str:
    names = list(dict.fromkeys(one.group for one in runs.baseline(runs.entries)))
    return f"Grey: the baseline, group {names[0]}, drawn in the same way." if names else "No baseline to compare with."


def _alt(runs: FigureRuns, found: Sequence[tuple[str, Sequence[RoundEntry], dict[str, Line]]]) -> str:
    """The text for readers who cannot see the figure: where each line begins and ends."""
    sentences = []
    for data_set, _, part in found:
        for name, line in part.items():
            (first, low), (last, high) = line[0], line[-1]
            where = f"{data_set}, " if data_set else ""
            sentences.append(f"{where}{name}: from {low.mean:.4g} at {first:g} to {high.mean:.4g} at {last:g}")
    return f"{runs.axis()} against {runs.figure.over}. {'; '.join(sentences[:12])}."
