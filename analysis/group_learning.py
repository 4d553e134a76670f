"""The learning curves of one group of a round: mean and range over seeds of each setting, with the baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from analysis.curve_data import Band
from analysis.group_data import ACROSS, GroupData, Panel, shortened, value_of
from analysis.learning_curves import FEW, DrawnFigure, is_logarithmic, plain
from analysis.rounds import WithBaseline
from analysis.style import BASELINE, COLOURS, LINES, panels
from roundhouse.metrics import Declarations
from roundhouse.model.attempt import STEP

LINES_AT_MOST = 7  # in one panel of learning curves
SETTLED = 0.25  # after this share of the epochs or steps, a panel's axis covers the full range


def learning(shown: Sequence[WithBaseline]) -> DrawnFigure:
    """The mean learning curve of each setting of a group, with the range between its seeds."""
    group = GroupData(shown)
    metric = _main_metric(group)
    found = group.panels(group.split(LINES_AT_MOST))
    apart = len(group.panels(group.apart))
    columns = min(len(found), len(found) // apart if 1 < apart < len(found) else ACROSS if len(found) > 6 else 3)
    columns = 2 if len(found) == 4 else columns
    width, height = (2.4, 1.9) if len(found) > 6 else (3.3, 2.6) if len(found) > 1 else (5.0, 3.6)
    figure, axes = panels(columns, math.ceil(len(found) / columns), width=width, height=height)
    bands = [_bands(panel, group, metric) for panel in found]
    factor = group.declared.of(metric).factor
    names = list(dict.fromkeys(name for panel in found for name in panel.settings))
    for number, (place, panel, by_name) in enumerate(zip(axes, found, bands, strict=False)):
        _learning_panel(place, panel, by_name, factor, names, group.unit)
        _limits(place, _bands_with_same_data(found, bands, panel, group), group.declared, metric)
        place.set_title(shortened(panel.title))
        if number % columns == 0:
            place.set_ylabel(plain(group.declared.axis(metric)))
        if number + columns >= len(found):
            several = any(one.before for one in group.curves.values())
            place.set_xlabel(f"{group.unit} of the last stage" if several else group.unit)
    for place in axes[len(found) :]:
        place.remove()
    reached = "a step" if group.unit == STEP else "an epoch"
    caption = f"{metric} of each setting: mean of its experiments that have reached {reached}, and their range."
    if max((band.positions[-1] for by_name in bands for band in by_name.values()), default=0) > FEW:
        caption += f" Axes show the range after the first quarter of the {group.unit}s."
    table = _learning_table(found, bands, metric, group.unit)
    return group.drawn("learning curves", figure, axes[: len(found)], table, caption, "drawn in the same way")


def _main_metric(group: GroupData) -> str:
    """The declared main metric; else that of most experiments; else what is declared or was measured first."""
    metrics = [group.metrics[one.path] for one in group.entries]
    measured = dict.fromkeys(key for one in group.entries for key in group.curves[one.path].values)
    if group.declared.main in measured:
        return str(group.declared.main)
    chosen = Counter(one.metric for one in metrics if one.metric in measured).most_common(1)
    return (
        str(chosen[0][0])
        if chosen
        else next((key for key in group.declared.metrics if key in measured), [*measured][0])
    )


def _bands(panel: Panel, group: GroupData, metric: str) -> dict[str, Band]:
    """A band for each setting that has values; that of the baseline has the empty name."""
    members = {"": panel.baseline, **panel.settings}
    made = {name: Band.of([group.curves[one.path] for one in of], metric, group.unit) for name, of in members.items()}
    return {name: band for name, band in made.items() if len(band.positions)}


def _learning_panel(
    axes: Axes, panel: Panel, bands: Mapping[str, Band], factor: float, names: Sequence[str], unit: str
) -> None:
    for name, band in bands.items():
        if name:
            number = names.index(name)
            look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number % len(LINES)]}
            text = shortened(name)
        else:
            look, text = {"color": BASELINE, "linewidth": 0.9}, plain(f"{panel.baseline[0].group} (baseline)")
        marker = "o" if len(band.positions) <= FEW else ""
        axes.fill_between(band.positions, factor * band.low, factor * band.high, color=look["color"], alpha=0.2,
                          linewidth=0)  # fmt: skip
        axes.plot(band.positions, factor * band.mean, label=text, marker=marker, markersize=2.5, **look)
    if not bands:
        axes.text(0.5, 0.5, f"no {unit}s yet", transform=axes.transAxes, ha="center", va="center", color=BASELINE)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))


def _bands_with_same_data(
    found: Sequence[Panel], bands: Sequence[Mapping[str, Band]], panel: Panel, group: GroupData
) -> list[Band]:
    """The bands of all panels with the same data as this one; they share the axis range."""
    values = [value_of(next(iter(panel.settings.values()))[0], key) for key in group.apart]
    made = []
    for other, by_name in zip(found, bands, strict=True):
        if [value_of(next(iter(other.settings.values()))[0], key) for key in group.apart] == values:
            made += list(by_name.values())
    return made


def _limits(axes: Axes, bands: Sequence[Band], declared: Declarations, metric: str) -> None:
    if not bands:
        return
    factor, last = declared.of(metric).factor, max(band.positions[-1] for band in bands)
    late = [band.positions > (SETTLED * last if last > FEW else 0) for band in bands]
    low = factor * min(float(band.low[some].min()) for band, some in zip(bands, late, strict=True) if some.any())
    high = factor * max(float(band.high[some].max()) for band, some in zip(bands, late, strict=True) if some.any())
    if is_logarithmic(metric, declared, low, high):
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(low / 1.1, high * 1.1)
    elif high > low:
        axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))


def _learning_table(
    found: Sequence[Panel], bands: Sequence[Mapping[str, Band]], metric: str, unit: str
) -> list[dict[str, Any]]:
    rows = []
    for panel, by_name in zip(found, bands, strict=True):
        for name, band in by_name.items():
            head = {"panel": panel.title, "role": "result" if name else "baseline",
                    "setting": name or panel.baseline[0].group}  # fmt: skip
            for position, mean, low, high, count in zip(
                band.positions, band.mean, band.low, band.high, band.count, strict=True
            ):
                figures = {"mean": float(mean), "min": float(low), "max": float(high)}
                rows.append({**head, unit: int(position), **{f"{metric}_{what}": one for what, one in figures.items()},
                             "n": int(count)})  # fmt: skip
    return rows
