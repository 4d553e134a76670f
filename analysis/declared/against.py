"""A metric against a continuous config key: mean and standard deviation over seeds, a line for each setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from analysis.declared.runs import FigureRuns, baseline_label
from analysis.declared.settings import SettingResult, mean_of
from analysis.declared.values import as_number, swept_geometrically
from analysis.group_data import shortened
from analysis.learning_curves import DrawnFigure, is_logarithmic, plain
from analysis.rounds import RoundEntry
from analysis.style import BASELINE, legend_below, logarithmic, look, panels
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import abbreviated

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
    _share_axes(axes[: len(found)], runs, [x for _, _, part in found for line in part.values() for x, _ in line],
                [row["mean"] for row in table])  # fmt: skip
    axes[0].set_ylabel(runs.axis())
    legend_below(figure, axes[: len(found)], row=0.17)
    counts = [one.n for _, _, part in found for line in part.values() for _, one in line]
    label = runs.declared.label(runs.metric)
    title = f"{label} against {runs.label_of(over)}"
    pooled = runs.pooled([one.entries for _, _, part in found for line in part.values() for _, one in line])
    what = mean_of(counts, f"mean and standard deviation over {'runs' if pooled else 'seeds'}")
    caption = " ".join(one for one in (f"{title}: {what}.", pooled, _compared(runs)) if one)
    return DrawnFigure(figure, table, title, caption, _alt(runs, found))


def _lines(runs: FigureRuns, entries: Sequence[RoundEntry]) -> dict[str, Line]:
    """The lines of a data set, by label; runs whose `over` is no number are left out."""
    over = runs.figure.over
    lines: dict[str, Line] = {}
    for label, members in runs.parts(entries, without={over}).items():
        found: dict[float, list[RoundEntry]] = {}
        for one in members:
            if (x := as_number(one.config.get(over))) is not None:
                found.setdefault(x, []).append(one)
        results = [(x, SettingResult(label, tuple(ones), runs.values(ones))) for x, ones in sorted(found.items())]
        if line := [(x, one) for x, one in results if one.values]:
            lines[label] = line
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
                      label=plain(baseline_label(baseline)))  # fmt: skip
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


def _share_axes(axes: Sequence[Axes], runs: FigureRuns, xs: Sequence[float], means: Sequence[float]) -> None:
    """Equal axes for all panels: logarithmic where the values were swept so, and where the means range widely."""
    low, high = min(one.get_ylim()[0] for one in axes), max(one.get_ylim()[1] for one in axes)
    wide = is_logarithmic(runs.metric, runs.declared, min(means), max(means))
    ticks = sorted(set(xs))
    for one in axes:
        if swept_geometrically(xs):
            one.set_xscale("log")
            logarithmic(one.xaxis, ticks[0], ticks[-1])
        if len(ticks) <= TICKS_AT_MOST:
            one.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            one.xaxis.set_minor_locator(NullLocator())
        if wide:  # bars that reach far down, or below 0, end at the edge of the panel
            one.set_yscale("log")
            one.set_ylim(max(low, min(means) / 3), high * 1.1)
            logarithmic(one.yaxis, min(means), max(means))
        else:
            one.set_ylim(low, high)


def _compared(runs: FigureRuns) -> str:
    names = list(dict.fromkeys(one.group for one in runs.baseline(runs.own)))
    return f"Grey: the baseline, group {names[0]}, drawn in the same way." if names else "No baseline to compare with."


def _alt(runs: FigureRuns, found: Sequence[tuple[str, Sequence[RoundEntry], dict[str, Line]]]) -> str:
    """The text for readers who cannot see the figure: where each line begins and ends."""
    sentences = []
    for data_set, _, part in found:
        for name, line in part.items():
            (first, low), (last, high) = line[0], line[-1]
            where = f"{data_set}, " if data_set else ""
            sentences.append(f"{where}{name}: from {low.mean:.4g} at {first:g} to {high.mean:.4g} at {last:g}")
    return f"{runs.axis()} against {runs.figure.over}. {abbreviated(sentences, 12, '; ')}."
