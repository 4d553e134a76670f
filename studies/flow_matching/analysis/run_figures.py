"""Figures of runs: few sampling steps, learning curves, the base without the distance term, other families."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from analysis import style
from analysis.comparison import INTERVAL
from analysis.learning_curves import DrawnFigure
from studies.flow_matching.analysis.figure_data import FigureData, Rows, dots, reference_lines, room_for
from studies.flow_matching.analysis.projections import combination
from studies.flow_matching.analysis.results import (
    DOCUMENT_BASE,
    GENERALISATION,
    LONGER,
    MEAN_PSNR,
    PSNR,
    Setting,
)

EULER = {"1": "euler1_psnr", "2": "euler2_psnr", "4": "euler4_psnr", "full": PSNR}
REFLOW = (1,)
_SEEDS = f"Small dots: seeds; markers: their mean; bars: {INTERVAL}, for fewer seeds by the noise of a run."


def few_steps(data: FigureData) -> DrawnFigure | None:
    """PSNR with 1, 2 and 4 Euler steps and with the full sampler, and the deviation from a straight trajectory."""
    shown = {"base": data.results.base, "reflow (technique 1)": data.results.singles.get(REFLOW[0])}
    known = {label: one for label, one in shown.items() if one and one.values(EULER["1"])}
    if not known:
        return None
    figure, (left, right) = style.panels(2, width=style.PRINT_WIDTH / 2, height=2.8)
    rows: Rows = []
    for number, (label, one) in enumerate(known.items()):
        look = style.look(number)
        means = [one.mean(metric) for metric in EULER.values()]
        left.plot(range(len(EULER)), means, label=f"{label} (n {len(one.values())})", **look)
        for x, (steps, metric) in enumerate(EULER.items()):
            left.plot([x] * len(one.values(metric)), one.values(metric), ".", color=look["color"], markersize=2)
            rows += [{"what": label, "steps": steps, "metric": metric, "psnr": value} for value in one.values(metric)]
        straight = one.values("straightness")
        right.plot([number] * len(straight), straight, **{**look, "linestyle": ""})
        rows += [{"what": label, "metric": "straightness", "value": value} for value in straight]
    reference_lines(left, data, rows)
    left.set_xticks(range(len(EULER)), [f"{one} Euler" if one != "full" else _sampler(known) for one in EULER])
    left.set_ylabel("test PSNR, single samples (dB)")
    right.set_xticks(range(len(known)), list(known))
    right.set_xlim(-0.6, len(known) - 0.4)
    right.set_ylabel("deviation from a straight trajectory")
    right.set_ylim(bottom=0)
    style.legend_below(figure, [left], row=0.17)
    caption = (
        "Left: single samples with 1, 2 and 4 Euler steps and with the full sampler; dots are seeds. Right: mean "
        "squared deviation of the velocity from the straight line between start and end of the model's own trajectory, "
        "a marker for each seed. Reflow should lose less with few steps, and be straighter."
    )
    return DrawnFigure(figure, rows, "Sampling with few steps, without and with reflow", caption)


def _sampler(known: Mapping[str, Setting]) -> str:
    config = next(iter(known.values())).config
    steps = config.get("sample_steps", 50)
    return f"{steps} {str(config.get('sampler', 'heun')).capitalize()}"


def learning(data: FigureData) -> DrawnFigure | None:
    """Validation PSNR of base and regression over the training, with the Gaussian RBF."""
    shown = {"base, single samples": data.results.base, "regression": data.results.regression}
    known = {label: one for label, one in shown.items() if one and _curve(one)}
    if not known:
        return None
    figure, (axes,) = style.panels(1, width=4.8, height=3.0)
    rows: Rows = []
    every: list[float] = []
    for number, (label, one) in enumerate(known.items()):
        curve, look = _curve(one), style.look(number)
        epochs = sorted(curve)
        means = [float(np.mean(curve[epoch])) for epoch in epochs]
        axes.plot(epochs, means, label=f"{label} (n {len(one.runs)})", **{**look, "markersize": 3})
        axes.fill_between(epochs, [min(curve[epoch]) for epoch in epochs], [max(curve[epoch]) for epoch in epochs],
                          color=look["color"], alpha=0.18, linewidth=0)  # fmt: skip
        rows += [{"what": label, "epoch": epoch, "metric": "val_psnr", "psnr": mean, "lowest": min(curve[epoch]),
                  "highest": max(curve[epoch]), "n": len(curve[epoch])}
                 for epoch, mean in zip(epochs, means, strict=True)]  # fmt: skip
        every += [value for values in curve.values() for value in values]
    references: Rows = []
    reference_lines(axes, data, references)
    style.position_axis(axes)
    room_for(axes, [*every, *(one["psnr"] for one in references)])
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation PSNR (dB)")
    style.legend_below(figure, [axes], row=0.17)
    caption = (
        "Mean and range over seeds. The lines of the Gaussian RBF, its width chosen on validation fields, and of the "
        "mean of the observations are on the test fields."
    )
    return DrawnFigure(figure, [*references, *rows], "Learning of base and regression", caption)


def _curve(one: Setting) -> dict[int, list[float]]:
    """Validation PSNR of all runs by epoch."""
    made: dict[int, list[float]] = {}
    for run in one.runs:
        for row in run.epochs:
            value, epoch = row.get("val_psnr"), row.get("epoch")
            if isinstance(value, (int, float)) and math.isfinite(value) and isinstance(epoch, int):
                made.setdefault(epoch, []).append(float(value))
    return made


def without_distances(data: FigureData) -> DrawnFigure | None:
    """The base and each technique alone, with and without the distance term in the attention."""
    plain = {one.techniques: one for one in data.results.in_group(DOCUMENT_BASE) if one.is_measured}
    near = {one.techniques: one for one in data.results.measured}
    names = [one for one in near if one in plain] + [one for one in plain if one not in near]
    if not names:
        return None
    figure, (axes,) = style.panels(1, width=max(3.2, 1.6 + 0.42 * len(names)), height=3.0)
    rows: Rows = []
    every: list[float] = []
    for number, (label, found, shift) in enumerate(
        (("with the distance term", near, -0.12), ("without it", plain, 0.12))
    ):
        look = style.look(number)
        for x, techniques in enumerate(names):
            if one := found.get(techniques):
                dots(axes, x + shift, one, {**look, "label": label}, data)
                rows.append({"what": label, "techniques": combination(techniques), "psnr": one.mean(),
                             "n": len(one.values())})  # fmt: skip
                every += one.values()
    reference_lines(axes, data, rows)
    axes.set_xticks(range(len(names)), [combination(one) if one else "base" for one in names])
    axes.set_xlabel("technique")
    axes.set_ylabel("test PSNR, single samples (dB)")
    style.legend_below(figure, [axes], row=0.17)
    caption = (
        "The document's own base has plain attention, which knows distances only through the encoded coordinates. "
        f"{_SEEDS}"
    )
    return DrawnFigure(figure, rows, "The base with and without the distance term", caption)


def families(data: FigureData) -> DrawnFigure | None:
    """Base, best and the document's combination on all families of fields, with their single samples and means."""
    parts = {name: [one for one in data.results.in_group(f"{GENERALISATION}{name}") if one.is_measured]
             for name in ("base", "document", "best")}  # fmt: skip
    names = list(dict.fromkeys(one.complexity for ones in parts.values() for one in ones))
    if not names:
        return None
    figure, panels = style.panels(2, width=style.PRINT_WIDTH / 2, height=3.1, share_y=True)
    rows: Rows = []
    for axes, metric, title in zip(panels, (PSNR, MEAN_PSNR), ("single samples", "mean of the samples"), strict=True):
        for number, (part, ones) in enumerate(parts.items()):
            for one in ones:
                label = part if part == "base" else f"{part}: {combination(one.techniques)}"
                x = names.index(one.complexity) + 0.16 * (number - 1)
                dots(axes, x, one, {**style.look(number), "label": label}, data, metric)
                rows.append({"what": part, "techniques": combination(one.techniques), "complexity": one.complexity,
                             "metric": metric, "psnr": one.mean(metric), "n": len(one.values(metric))})  # fmt: skip
        _family_lines(axes, data, names, rows if metric == PSNR else [])
        axes.set_title(title)
        axes.set_xticks(range(len(names)), [one.replace("_", "\n") for one in names], rotation=45)
    panels[0].set_ylabel("test PSNR (dB)")
    style.legend_below(figure, panels, row=0.17)
    caption = f"All with 200 epochs in the round of the document's size. {_SEEDS}"
    epochs = sorted({str(one.option("epochs")) for ones in parts.values() for one in ones})
    return DrawnFigure(figure, rows, "Other families of fields", caption.replace("200", " or ".join(epochs)))


def _family_lines(axes: Axes, data: FigureData, names: Sequence[str], rows: Rows) -> None:
    for metric, label, dash in (("rbf_psnr", "Gaussian RBF", "-"), ("mean_psnr", "mean of the observations", ":")):
        for x, name in enumerate(names):
            value = data.results.reference(metric, name)
            if math.isfinite(value):
                axes.hlines(value, x - 0.35, x + 0.35, color=style.BASELINE, linestyle=dash, linewidth=1.2, label=label)
                rows.append({"what": label, "complexity": name, "metric": metric, "psnr": value})


def longer(data: FigureData) -> DrawnFigure | None:
    """The best versions with more epochs, beside the same versions of the round."""
    found = [one for one in data.results.in_group(LONGER) if one.is_measured]
    if not found:
        return None
    figure, (axes,) = style.panels(1, width=max(3.2, 1.6 + 0.5 * len(found)), height=3.0)
    rows: Rows = []
    for x, one in enumerate(found):
        short = data.results.with_techniques(one.techniques)
        pairs = ((short, "as in the round", -0.12, 0), (one, "longer", 0.12, 1))
        for setting, label, shift, number in pairs:
            if setting and setting.is_measured:
                dots(axes, x + shift, setting, {**style.look(number), "label": label}, data)
                rows.append({"what": label, "techniques": combination(one.techniques), "psnr": setting.mean(),
                             "epochs": setting.option("epochs"), "n": len(setting.values())})  # fmt: skip
    reference_lines(axes, data, rows)
    axes.set_xticks(range(len(found)), [combination(one.techniques) for one in found], rotation=90, fontsize=7)
    axes.set_ylabel("test PSNR, single samples (dB)")
    style.legend_below(figure, [axes], row=0.17)
    caption = (
        "The versions were chosen as the best of one seed each, so as they are in the round they look better than they "
        f"are; those that train longer have a new seed. {_SEEDS}"
    )
    return DrawnFigure(figure, rows, "The best versions, trained longer", caption)
