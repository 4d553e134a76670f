"""Two figures of stage D: error against time beside the coarse solver, and errors over several leads in a row."""

from __future__ import annotations

import math
import re
import statistics
from typing import Any

from matplotlib.axes import Axes

from analysis import style
from analysis.learning_curves import DrawnFigure
from studies.flood.analysis.costs import FINE, OPEN, Cost, costs_of, front, verdict
from studies.flood.analysis.names import BIG_TEST, PERSISTENCE, RAE, RING
from studies.flood.analysis.results import FloodResults, Setting

ROLLOUT = re.compile(r"rollout(\d+)_(rae|rmse)")
MEASURES = {"rae": "median RAE", "rmse": "RMSE (m)"}


def error_against_time(results: FloodResults) -> DrawnFigure | None:
    """Median error on the big test set over the time ratio, with the range of seeds."""
    surrogates, coarse = costs_of(results.evaluated), costs_of(results.coarse)
    if not surrogates and not coarse:
        return None
    figure, (axes,) = style.panels(1, width=5.2, height=3.6)
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(surrogates):
        _point(axes, one, {"color": style.COLOURS[number % 7], "marker": style.MARKERS[number % 8]}, rows)
        rows[-1]["beside_coarse"] = verdict(one, coarse)
    for one in coarse:
        _point(axes, one, {"color": style.BASELINE, "marker": "s", "markerfacecolor": "white"}, rows)
        axes.annotate(one.setting.label, one.centre, xytext=(4, 3), textcoords="offset points", fontsize=6.5)
    line = front([one.centre for one in coarse])
    axes.plot([x for x, _ in line], [y for _, y in line], color=style.BASELINE, linewidth=0.9, linestyle="--")
    axes.axhline(1, color="black", linewidth=0.9, linestyle=":", label=PERSISTENCE)
    ring = results.ring(*BIG_TEST)
    if math.isfinite(ring):
        axes.axhline(ring, color="black", linewidth=0.9, linestyle="-.", label=RING)
        rows.append({"model": RING, "rae": ring})
    axes.plot([1], [0], "*", color="black", markersize=8, clip_on=False, label=FINE, zorder=4)
    times = [time for one in (*surrogates, *coarse) for time in one.times] + [1.0]
    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.5, max(times) * 1.5)
    style.logarithmic(axes.xaxis, min(times), max(times))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("time / time of the fine solver on the same host")
    axes.set_ylabel("median RAE, big test set")
    style.legend_below(figure, [axes], row=0.17)
    rows += [{"model": PERSISTENCE, "rae": 1.0}, {"model": FINE, "time_ratio": 1.0, "rae": 0.0}]
    caption = (
        f"{RAE} Marks: mean over seeds; bars: their range. Grey: the solver on a grid 2, 4 or 8 times coarser, "
        "restarted from the true state of each sample. A surrogate is worth something left of and below the grey line: "
        f"faster than a coarse solver of equal error. Where the line does not reach, the answer can be `{OPEN}`."
    )
    return DrawnFigure(figure, rows, "Error against time", caption)


def _point(axes: Axes, one: Cost, look: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    time, error = one.centre
    axes.errorbar([time], [error], xerr=[[time - min(one.times)], [max(one.times) - time]],
                  yerr=[[error - min(one.errors)], [max(one.errors) - error]], linestyle="", markersize=5,
                  elinewidth=0.8, ecolor=look["color"], label=_label(one), **look)  # fmt: skip
    rows.append({"model": one.setting.label, "n": len(one.points), "time_ratio": time, "ratio_lowest": min(one.times),
                 "ratio_highest": max(one.times), "rae": error, "rae_lowest": min(one.errors),
                 "rae_highest": max(one.errors)})  # fmt: skip


def _label(one: Cost) -> str:
    return one.setting.label if one.setting.architecture else "coarse solver"


# ------------------------------------------------------------------------------------------------------------ leads


def leads_of(setting: Setting, measure: str) -> dict[int, tuple[float, ...]]:
    """By number of leads in a row: the measure of each completed seed."""
    names = {name for run in setting.completed for name in run.final}
    found = {int(match[1]): name for name in names if (match := ROLLOUT.fullmatch(name)) and match[2] == measure}
    return {lead: values for lead, name in sorted(found.items()) if (values := setting.values(name))}


def rollouts(results: FloodResults) -> DrawnFigure | None:
    """RAE and RMSE over the number of leads, a line for each architecture with the range of its seeds."""
    known = {(one.label, measure): leads_of(one, measure) for one in results.evaluated for measure in MEASURES}
    shown = [one for one in results.evaluated if any(known[one.label, measure] for measure in MEASURES)]
    if not shown:
        return None
    figure, places = style.panels(len(MEASURES), width=style.PRINT_WIDTH / len(MEASURES), height=2.6)
    rows: list[dict[str, Any]] = []
    for axes, (measure, label) in zip(places, MEASURES.items(), strict=True):
        for number, one in enumerate(shown):
            leads = known[one.label, measure]
            look = style.line_look(number, len(leads))
            means = [statistics.fmean(values) for values in leads.values()]
            axes.plot(list(leads), means, label=one.label, **look)
            axes.fill_between(list(leads), list(map(min, leads.values())), list(map(max, leads.values())),
                              color=look["color"], alpha=0.18, linewidth=0)  # fmt: skip
            rows += [{"setting": one.label, "measure": measure, "leads": lead, "mean": statistics.fmean(values),
                      "lowest": min(values), "highest": max(values), "n": len(values)}
                     for lead, values in leads.items()]  # fmt: skip
        if measure == "rae":
            axes.axhline(1, color="black", linewidth=0.9, linestyle=":", label=PERSISTENCE)
        style.position_axis(axes)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("leads in a row")
        axes.set_ylabel(label)
    style.legend_below(figure, places, row=0.17)
    minutes = {one.config.get("lead_minutes") for one in shown}
    lead = f" A lead is {minutes.pop():g} minutes." if len(minutes) == 1 and minutes != {None} else ""
    caption = (
        "Each prediction is the input of the next one; the boundary ring is the true one at each lead. Lines: mean "
        f"over seeds; bands: their range.{lead} {RAE}"
    )
    return DrawnFigure(figure, rows, "Errors over several leads", caption)


def grows(setting: Setting) -> tuple[float, float, int]:
    """Mean RAE of one lead and of the most leads in a row, and how many those are; NaN if it was not measured."""
    leads = leads_of(setting, "rae")
    if not leads:
        return math.nan, math.nan, 0
    last = max(leads)
    return statistics.fmean(leads[min(leads)]), statistics.fmean(leads[last]), last
