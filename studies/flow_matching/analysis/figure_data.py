"""What the figures of this study share: the data that they show, reference lines, dots of seeds with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from analysis import style
from studies.flow_matching.analysis.effects import Effects, own_interval
from studies.flow_matching.analysis.results import PSNR, FlowResults, Setting

Rows = list[dict[str, Any]]
UNIT = "dB"
LINES = {"rbf_psnr": ("Gaussian RBF", "--"), "mean_psnr": ("mean of the observations", ":")}
"""The reconstructions without training that stand beside every PSNR."""


@dataclass(frozen=True)
class FigureData:
    """The data of all figures."""

    results: FlowResults
    effects: Effects


def reference_lines(axes: Axes, data: FigureData, rows: Rows, complexity: str | None = None) -> None:
    """PSNR of the Gaussian RBF and of the mean predictor, on the base's test fields."""
    for metric, (label, dash) in LINES.items():
        value = data.results.reference(metric, complexity)
        if math.isfinite(value):
            axes.axhline(value, color=style.BASELINE, linewidth=1, linestyle=dash, label=label)
            rows.append({"what": label, "metric": metric, "psnr": value})


def band_of_seeds(axes: Axes, setting: Setting | None, label: str, colour: str, rows: Rows, metric: str = PSNR) -> None:
    """The mean of a setting as a line, and the range of its seeds as a band; nothing without a result."""
    values = setting.values(metric) if setting else ()
    if setting is None or not values:
        return
    axes.axhspan(min(values), max(values), color=colour, alpha=0.18, linewidth=0)
    axes.axhline(setting.mean(metric), color=colour, linewidth=1, label=f"{label} (n {len(values)})")
    rows.append({"what": label, "metric": metric, "psnr": setting.mean(metric), "lowest": min(values),
                 "highest": max(values), "n": len(values)})  # fmt: skip


def dots(axes: Axes, x: float, setting: Setting, look: dict[str, Any], data: FigureData, metric: str = PSNR) -> None:
    """Small dots for the seeds, a marker for their mean, a bar for its interval."""
    values = setting.values(metric)
    axes.plot([x] * len(values), values, ".", color=look["color"], markersize=2, alpha=0.6)
    axes.plot([x], [setting.mean(metric)], **{"linestyle": "", "markersize": 4.5, **look})
    interval = own_interval(setting, data.effects.noise, metric)
    if math.isfinite(interval.low):
        axes.vlines(x, interval.low, interval.high, color=look["color"], linewidth=0.8)


def room_for(axes: Axes, values: Sequence[float]) -> None:
    """Set the y range by these values, with a margin."""
    known = [one for one in values if math.isfinite(one)]
    if known:
        margin = 0.06 * (max(known) - min(known)) or 0.5
        axes.set_ylim(min(known) - margin, max(known) + margin)
