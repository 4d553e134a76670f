"""The test distances of all arms, with each seed, beside floor and identity."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes

from analysis import style
from analysis.comparison import INTERVAL, mean_interval
from analysis.learning_curves import DrawnFigure
from studies.genegan.analysis.document import FLOOR
from studies.genegan.analysis.references import is_near, labelled
from studies.genegan.analysis.results import DIRECTIONS, Arm, GeneganResults

Rows = list[dict[str, Any]]


def arms(results: GeneganResults) -> DrawnFigure | None:
    """A row for each arm: dots for seeds, a marker for their mean, a bar for its interval."""
    shown = [one for one in results.gans if one.values("test_add_fd")]
    if not shown:
        return None
    figure, panels = style.panels(2, width=style.PRINT_WIDTH / 2, height=1.1 + 0.2 * len(shown), share_y=True)
    rows: Rows = []
    for axes, (direction, text) in zip(panels, DIRECTIONS.items(), strict=True):
        name = f"test_{direction}_fd"
        values = [value for arm in shown for value in arm.values(name)]
        for place, arm in enumerate(shown):
            rows.append(_draw(axes, place, arm, name, arm is results.base))
        measured = list(values)
        for label, metric, dash in ((f"identity, {text}", f"{name}_identity", "--"),
                                    (f"floor, {text}", f"{name}_floor", ":")):  # fmt: skip
            value = results.reference(metric)
            if math.isfinite(value):
                near = is_near(value, measured)
                axes.axvline(value if near else math.nan, color="black", linewidth=0.8, linestyle=dash,
                             label=labelled(label, value, near))  # fmt: skip
                rows.append({"arm": label, "metric": metric, "mean": value})
                values += [value] * near
        base = results.base
        if base and base in shown:
            axes.axvline(base.mean(name), color=style.BASELINE, linewidth=0.8, label=f"mean of {base.label}")
        if min(values) > 0:
            axes.set_xscale("log")
            axes.set_xlim(min(values) / 1.1, max(values) * 1.1)
            style.logarithmic(axes.xaxis, min(values), max(values))
        axes.set_xlabel(f"{results.distance_name}, {text}")
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(shown)), [f"{one.label} (n {len(one.values('test_add_fd'))})" for one in shown])
    panels[0].set_ylim(len(shown) - 0.5, -0.5)
    style.legend_below(figure, panels, row=0.17)
    caption = (
        f"{', or '.join(map(str, results.evaluated))}, best weights by validation distance, on test images; lower is "
        f"better. Small dots: seeds; markers: their mean; bars: {INTERVAL}. Identity: the unchanged "
        f"input. {FLOOR}"
    )
    return DrawnFigure(figure, rows, f"{results.distance_name} of all arms", caption)


def _draw(axes: Axes, place: int, arm: Arm, name: str, is_base: bool) -> dict[str, Any]:
    values = arm.values(name)
    colour = style.BASELINE if is_base else style.COLOURS[0]
    axes.plot(values, [place] * len(values), ".", color=colour, markersize=3, alpha=0.6)
    axes.plot([arm.mean(name)], [place], "o", color=colour, markersize=4.5)
    interval = mean_interval(values)
    if math.isfinite(interval.low):
        axes.hlines(place, max(interval.low, 1e-9), interval.high, color=colour, linewidth=0.9)
    return {"arm": arm.label, "metric": name, "mean": arm.mean(name), "n": len(values), "low_95": interval.low,
            "high_95": interval.high}  # fmt: skip
