"""Figures of the versions: PSNR of each, effects and interactions as a matrix, projected beside measured gains."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes

from analysis import style
from analysis.comparison import LEVEL
from analysis.declared.matrix import (
    colour_bar,
    diverging_for,
    draw_matrix,
    frame_diagonal,
    name_cells,
    norm_around,
)
from analysis.learning_curves import DrawnFigure
from analysis.rounding import alike, significant
from roundhouse.formatting import counted
from studies.flow_matching.analysis.effects import MAIN, PAIR, SINGLE, Effect, difference
from studies.flow_matching.analysis.figure_data import FigureData, Rows, band_of_seeds, reference_lines, room_for
from studies.flow_matching.analysis.files import average_improvement
from studies.flow_matching.analysis.projections import NAMES, NUMBERS, PROJECTIONS, combination
from studies.flow_matching.analysis.results import MEAN_PSNR, PSNR, Setting

LEAST_NAMED_BY_LACK = 8  # techniques, from which a combination is named by what it lacks


def version_psnr(data: FigureData) -> DrawnFigure | None:
    """PSNR of every version, single samples and mean of the samples, beside all that it is compared with."""
    measured = [one for one in data.results.versions if one.is_measured]
    if not measured:
        return None
    parts = [[one for one in measured if (len(one.techniques) > 2) == large] for large in (False, True)]
    parts = [part for part in parts if part]
    figure, panels = style.panels(1, len(parts), width=style.PRINT_WIDTH, height=3.0)
    rows: Rows = []
    references: Rows = []
    shown = [value for one in measured for metric in (PSNR, MEAN_PSNR) for value in one.values(metric)]
    for axes, part in zip(panels, parts, strict=True):
        references.clear()
        _references(axes, data, references)
        for metric, marker, fill, label in (
            (PSNR, "o", style.COLOURS[0], "versions, single samples"),
            (MEAN_PSNR, "D", "none", "versions, mean of the samples"),
        ):
            points = [(x, value) for x, one in enumerate(part) for value in one.values(metric)]
            if points:
                axes.plot(*np.array(points).T, linestyle="", marker=marker, color=style.COLOURS[0], label=label,
                          markerfacecolor=fill, markersize=3)  # fmt: skip
        for one in part:
            rows += [{"version": one.label, "techniques": combination(one.techniques), "metric": metric,
                      "psnr": one.mean(metric), "n": len(one.values(metric))}
                     for metric in (PSNR, MEAN_PSNR) if one.values(metric)]  # fmt: skip
        axes.set_xticks(range(len(part)), [short_name(one) for one in part], rotation=90, fontsize=6)
        axes.set_xlim(-0.8, len(part) - 0.2)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("test PSNR (dB)")
        room_for(
            axes, [*shown, *(one[key] for one in references for key in ("psnr", "lowest", "highest") if key in one)]
        )
    panels[-1].set_xlabel("techniques of the version")
    style.legend_below(figure, panels, row=0.17)
    return DrawnFigure(figure, [*references, *rows], "PSNR of every version", _version_caption(data, measured))


def _references(axes: Axes, data: FigureData, rows: Rows) -> None:
    reference_lines(axes, data, rows)
    band_of_seeds(axes, data.results.base, "base, single samples", style.COLOURS[1], rows)
    band_of_seeds(axes, data.results.base, "base, mean of the samples", style.COLOURS[4], rows, MEAN_PSNR)
    band_of_seeds(axes, data.results.regression, "regression", style.COLOURS[2], rows)


def short_name(one: Setting) -> str:
    """The techniques of a version; of many, those that it lacks: `all but 10`."""
    lacking = [number for number in NUMBERS if number not in one.techniques]
    if len(one.techniques) < LEAST_NAMED_BY_LACK:
        return combination(one.techniques)
    return f"all but {combination(tuple(lacking))}" if lacking else "all ten"


def _version_caption(data: FigureData, measured: list[Setting]) -> str:
    seeds = sorted({len(one.values()) for one in measured})
    base = data.results.base
    noise = data.effects.noise
    runs = " to ".join(dict.fromkeys((str(seeds[0]), str(seeds[-1]))))
    parts = [
        f"Test PSNR of {counted(len(measured), 'version')}, n {runs}: filled dots, single samples; open diamonds, the "
        "mean of the samples. Bands: range over seeds.",
        "A sample pays for its own variance, so compare a version's single samples with the base's single samples, and "
        "means of samples with the regression, which predicts a mean.",
    ]
    if noise:
        parts.append(f"Standard deviation of a run: {significant(noise.deviation, 2)} dB ({noise.source}).")
    if base is None or not base.is_measured:
        parts.append("The base has no result.")
    return " ".join(parts)


def interaction_matrix(data: FigureData) -> DrawnFigure | None:
    """Main effects, gains of pairs, and interactions, with the names of the techniques."""
    results, effects = data.results, data.effects
    numbers = [number for number in NUMBERS if any(number in one.techniques for one in results.measured)]
    if len(numbers) < 2:
        return None
    place = {number: at for at, number in enumerate(numbers)}
    values = np.full((len(numbers), len(numbers)), np.nan)
    shown: dict[tuple[int, int], bool] = {}
    rows: Rows = []
    for number in numbers:
        if one := effects.get(MAIN, number):
            values[place[number], place[number]], shown[place[number], place[number]] = one.value, one.shown
            rows.append(_row(one))
    for first, second in combinations(numbers, 2):
        above, below = (place[first], place[second]), (place[second], place[first])
        if one := effects.get(PAIR, first, second):
            values[below], shown[below] = one.value, one.shown
            rows.append(_row(one))
        pair = results.with_techniques((first, second))
        if pair and pair.is_measured and results.base and results.base.is_measured:
            gain, interval = difference(pair, results.base, effects.noise)
            values[above], shown[above] = gain, interval.low > 0 or interval.high < 0
            rows.append({"kind": "gain of the pair", "first": first, "second": second, "value": gain,
                         "low_95": interval.low, "high_95": interval.high})  # fmt: skip
    if not np.isfinite(values).any():
        return None
    figure, (axes,) = style.panels(1, width=style.PRINT_WIDTH, height=min(5.6, 1.6 + 0.36 * len(numbers)))
    written = alike([one for one in values.flat if math.isfinite(one)], sign=True)
    texts: list[list[str | None]] = [["no run"] * len(numbers) for _ in numbers]
    for _, techniques in effects.not_estimable:
        row, column = place[techniques[-1]], place[techniques[0]]
        texts[row][column] = "?"
    for at, is_shown in shown.items():
        text = written(float(values[at]))
        texts[at[0]][at[1]] = text if is_shown else f"[{text}]"
    image = draw_matrix(axes, values, texts, norm_around(0.0, values), diverging_for("max"))
    name_cells(axes, [f"{NAMES[number]}  {number}" for number in numbers], [str(number) for number in numbers])
    frame_diagonal(axes, len(numbers))
    axes.set_title("diagonal: main effect; above: gain of the pair alone; below: interaction", fontsize=8)
    colour_bar(axes, image, "difference in test PSNR (dB)", [(0.0, "-")])
    return DrawnFigure(figure, rows, "Effects and interactions of the techniques", _matrix_caption(data))


def _row(one: Effect) -> dict[str, object]:
    first, second = (*one.techniques, None)[:2]
    return {"kind": one.kind, "first": first, "second": second, "value": one.value, "low_95": one.interval.low,
            "high_95": one.interval.high, "p_holm": one.p_holm}  # fmt: skip


def _matrix_caption(data: FigureData) -> str:
    noise = data.effects.noise
    sentences = [
        "Diagonal: main effect, what adding the technique changes on average over the versions that have it. Below: "
        "interaction, how far a pair differs from the sum of its two effects; both by least squares on all versions. "
        "Above: the version with this pair alone minus the base. Blue is better."
    ]
    if noise is None:
        sentences.append("In brackets: every number, since the noise between seeds is unknown.")
    else:
        count = len(data.effects.effects)
        sentences.append(
            "In brackets: not shown, for main effects and interactions by Student's t after Holm's correction over "
            f"{counted(count, 'effect')}, for pairs by the {100 * LEVEL:g} % interval alone."
        )
    if missing := len(data.effects.not_estimable):
        sentences.append(f"?: the versions that have a result do not determine it ({counted(missing, 'effect')}).")
    return " ".join(sentences)


def gains(data: FigureData) -> DrawnFigure | None:
    """For each technique: the projected gain, the gain alone, the main effect, and the average over its versions."""
    effects = data.effects
    if not effects.of(SINGLE) and not effects.of(MAIN):
        return None
    figure, panels = style.panels(2, width=style.PRINT_WIDTH / 2, height=3.6, share_y=True)
    rows: Rows = []
    kinds = ((SINGLE, "alone, minus the base", -0.18, 0), (MAIN, "main effect", 0.18, 1))
    for place, one in enumerate(PROJECTIONS):
        panels[0].barh(place, one.gain[1] - one.gain[0], left=one.gain[0], height=0.6, color="#bbbbbb",
                       label="projected by the document")  # fmt: skip
        rows.append({"technique": one.number, "kind": "projected", "low": one.gain[0], "high": one.gain[1]})
        for axes in panels:
            for kind, label, shift, number in kinds:
                if found := effects.get(kind, one.number):
                    _horizontal(axes, place + shift, found, number, label)
            average = average_improvement(data.results, one.number)
            if math.isfinite(average):
                axes.plot(average, place, "x", color=style.BASELINE, markersize=4, label="average of its versions")
        rows += [{"technique": one.number, "kind": kind, "value": found.value, "low": found.interval.low,
                  "high": found.interval.high, "shown": found.shown}
                 for kind, *_ in kinds if (found := effects.get(kind, one.number))]  # fmt: skip
    for axes, title in zip(panels, ("beside the projection", "measured, enlarged"), strict=True):
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(title)
        axes.set_xlabel("gain in test PSNR (dB)")
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(PROJECTIONS)), [f"{one.name}  {one.number}" for one in PROJECTIONS], fontsize=7)
    panels[0].set_ylim(len(PROJECTIONS) - 0.4, -0.6)
    style.legend_below(figure, panels, row=0.17)
    caption = (
        f"Grey bars: the document's projection. Lines: {100 * LEVEL:g} % interval, not corrected; filled markers are "
        "shown after Holm's correction. The average over the versions that have a technique is confounded by the "
        "techniques beside it."
    )
    return DrawnFigure(figure, rows, "Gain of each technique: projected and measured", caption)


def _horizontal(axes: Axes, y: float, one: Effect, number: int, label: str) -> None:
    look = style.look(number)
    fill = look["color"] if one.shown else "white"
    axes.plot(one.value, y, label=label, **{**look, "linestyle": "", "markerfacecolor": fill})
    if math.isfinite(one.interval.low):
        axes.hlines(y, one.interval.low, one.interval.high, color=look["color"], linewidth=1, zorder=1)
