"""The distribution of a metric over runs, or of an array over examples: a box for each value of a key or setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.curve_data import Floats
from analysis.declared import arrays
from analysis.declared.runs import FigureRuns, by_data_set
from analysis.group_data import LONGEST, shortened
from analysis.learning_curves import DrawnFigure, is_logarithmic, plain
from analysis.rounds import RoundEntry
from analysis.style import BASELINE, COLOURS, legend_below, logarithmic, panels
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import counted

FEW = 5  # below so many values, each is drawn as a point: quartiles would mean nothing
PAGE = (7.0, 8.6)  # inches
ROW, AROUND = 0.17, 0.85  # inches: height of a box, and of what is above and below the boxes of a panel
LETTER, NARROWEST = 0.055, 1.5  # inches: width of a letter of a label, and of the narrowest panel
Values = Callable[[RoundEntry], Floats | None]  # of a run, finite or not, in the shown unit; None: it has none


@dataclass(frozen=True)
class Box:
    """The values of one box, sorted. `dropped`: how many were not finite; `runs`: how many runs they are from."""

    role: str
    values: Floats
    dropped: int
    runs: int

    @property
    def n(self) -> int:
        return len(self.values)

    def at(self, share: float) -> float:
        """The value below which this share of all values is."""
        return float(np.quantile(self.values, share))

    def below(self, limit: float) -> float:
        """The share of values below a limit."""
        return float(np.mean(self.values < limit))


Boxes = Mapping[str, Box]


def draw(runs: FigureRuns) -> DrawnFigure:
    """A panel for each data set with a row for each box; a long list of boxes has several panels."""
    name = runs.figure.array or runs.metric
    values = _of_arrays(runs, name) if runs.figure.array else _of_metric(runs)
    found = {data_set: _boxes(runs, own, values) for data_set, own in by_data_set(runs.divided()[0]).items()}
    labels = list(dict.fromkeys(label for boxes in found.values() for label in boxes))
    columns, per_panel = _layout(labels, len(found))
    most = per_panel * (columns if len(found) == 1 else 1)
    kept = set(_best(found, most, runs.mode(name)))
    shown = [label for label in labels if label in kept]
    parts = [shown[start : start + per_panel] for start in range(0, len(shown), per_panel)]
    cells = [(data_set, part) for data_set in found for part in parts]
    columns = min(columns, len(cells))
    rows = math.ceil(len(cells) / columns)
    width = min(PAGE[0], LETTER * _letters(labels) * (columns if len(parts) > 1 else 1) + 2.4 * columns + 0.4)
    figure, axes = panels(columns, rows, width=width / columns, height=ROW * len(parts[0]) + AROUND)
    for number, (place, (data_set, part)) in enumerate(zip(axes, cells, strict=False)):
        _panel(place, runs, {label: found[data_set][label] for label in part if label in found[data_set]}, part, name)
        place.set_yticks(range(len(part)), [shortened(one) for one in part]
                         if len(parts) > 1 or number % columns == 0 else [""] * len(part))  # fmt: skip
        place.set_title(shortened(data_set))
    for place in axes[len(cells) :]:
        place.remove()
    at = _lines(runs, axes[: len(cells)], cells, found, name)
    every = [
        x
        for boxes in found.values()
        for box in boxes.values()
        for x in box.values[:1].tolist() + box.values[-1:].tolist()
    ]
    _share_axis(axes[: len(cells)], [*every, *at], lambda low, high: is_logarithmic(name, runs.declared, low, high))
    legend_below(figure, axes[: len(cells)], row=0.17)
    table = [
        _row(data_set, label, box, runs, name) for data_set, boxes in found.items() for label, box in boxes.items()
    ]
    title = f"{runs.declared.label(name)} by {runs.figure.by or 'setting'}"
    left_out = len(labels) - len(shown)
    return DrawnFigure(figure, table, title, _caption(runs, found, title, left_out), _alt(runs, found, name))


# ------------------------------------------------------------------------------------------------------- values


def _of_metric(runs: FigureRuns) -> Values:
    runs.require_metric()

    def values(entry: RoundEntry) -> Floats | None:
        one = runs.value(entry)
        return None if one is None else np.array([one])

    return values


def _of_arrays(runs: FigureRuns, name: str) -> Values:
    """The values of an array of each run. RoundhouseError: no run has it."""
    file, factor = runs.figure.file, runs.declared.of(name).factor
    present = [one for one in chain(*runs.divided()) if arrays.file_of(one, file)]
    lacking = {one.path: arrays.lacking(one, file, [name]) for one in present}
    if not any(not message for message in lacking.values()):
        raise RoundhouseError(next(iter(lacking.values()), f"no run has a file {file}"))

    def values(entry: RoundEntry) -> Floats | None:
        if lacking.get(entry.path, "no file"):
            return None
        array = arrays.read(entry, file, name)
        if array.ndim != 1:
            raise RoundhouseError(f"array: {name} of {entry.path} has the shape {array.shape}; it must have one value "
                                  "for each example, (N,)")  # fmt: skip
        return factor * array.astype(np.float64)

    return values


def _boxes(runs: FigureRuns, own: Sequence[RoundEntry], values: Values) -> dict[str, Box]:
    """The boxes of one data set by label; the last one is that of the baseline."""
    made = {label: _box("result", members, values) for label, members in runs.parts(own).items()}
    if baseline := runs.baseline(own):
        made[f"{baseline[0].group} (baseline)"] = _box("baseline", baseline, values)
    return made


def _box(role: str, members: Sequence[RoundEntry], values: Values) -> Box:
    found = [one for member in members if (one := values(member)) is not None]
    every = np.concatenate(found) if found else np.array([])
    finite = np.sort(every[np.isfinite(every)])
    return Box(role, finite, len(every) - len(finite), len(found))


def _best(found: Mapping[str, Boxes], most: int, mode: str | None) -> list[str]:
    """At most so many labels: the baselines, then those with the best median in any data set.

    If nothing declares which value is best, those that come first.
    """
    medians: dict[str, list[float]] = {}
    roles = {label: box.role for boxes in found.values() for label, box in boxes.items()}
    for boxes in found.values():
        for label, box in boxes.items():
            medians.setdefault(label, []).extend([box.at(0.5)] if box.n else [])
    sign = {"min": 1, "max": -1}.get(mode or "", 0)
    worst = {label: min((sign * one for one in ones), default=math.inf) for label, ones in medians.items()}
    return sorted(medians, key=lambda label: (roles[label] != "baseline", worst[label]))[:most]


# ------------------------------------------------------------------------------------------------------ drawing


def _letters(labels: Sequence[str]) -> int:
    return max(min(len(label), LONGEST) for label in labels)


def _layout(labels: Sequence[str], data_sets: int) -> tuple[int, int]:
    """How many panels are side by side, and how many boxes a panel has at most."""
    text = LETTER * _letters(labels)
    if data_sets == 1:
        most = int((PAGE[1] - AROUND) / ROW)
        columns = min(math.ceil(len(labels) / most), max(1, int(PAGE[0] / (text + NARROWEST))))
        return columns, min(most, math.ceil(len(labels) / columns))
    columns = min(data_sets, max(1, int((PAGE[0] - text) / NARROWEST)))
    rows = math.ceil(data_sets / columns)
    return columns, max(1, min(len(labels), int((PAGE[1] / rows - AROUND) / ROW)))


def _panel(axes: Axes, runs: FigureRuns, boxes: Boxes, labels: Sequence[str], name: str) -> None:
    limit = _limit(runs, name)
    second = 14 + 4.5 * max((len(str(box.n)) for box in boxes.values()), default=1)  # points, of the second column
    for row, label in enumerate(labels):
        if label not in boxes:
            continue
        box = boxes[label]
        _draw_box(axes, row, box)
        _beside(axes, row, 4, str(box.n))
        if limit is not None and box.n:
            _beside(axes, row, second, f"{100 * box.below(limit):.3g} %")
    _beside(axes, -0.9, 4, "n", style="italic")
    if limit is not None:
        _beside(axes, -0.9, second, f"< {limit:g}", style="italic")
    if not any(box.n for box in boxes.values()):
        axes.text(0.5, 0.5, "no result yet", transform=axes.transAxes, ha="center", va="center", color=BASELINE)
    axes.set_axisbelow(True)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(plain(runs.declared.axis(name)))


def _draw_box(axes: Axes, row: int, box: Box) -> None:
    colour = BASELINE if box.role == "baseline" else COLOURS[0]
    if box.n >= FEW:
        low, high = box.at(0.25), box.at(0.75)
        axes.barh(row, high - low, 0.6, left=low, color=colour, alpha=0.35, edgecolor=colour, linewidth=0.8)
        for inner, outer in ((low, box.at(0.05)), (high, box.at(0.95))):
            axes.plot([inner, outer], [row, row], color=colour, linewidth=0.9)
        axes.plot(box.values[[0, -1]], [row, row], ".", color=colour, markersize=3)
    elif box.n:
        axes.plot(box.values, [row] * box.n, "s" if box.role == "baseline" else "o", color=colour, markersize=3.5,
                  alpha=0.7)  # fmt: skip
    if box.n:
        axes.plot([box.at(0.5)] * 2, [row - 0.36, row + 0.36], color="black", linewidth=1.2)


def _beside(axes: Axes, row: float, points: float, text: str, **look: Any) -> None:
    """Text in a row, so many points to the right of a panel."""
    axes.annotate(text, (1, row), (points, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                  fontsize=7, va="center", annotation_clip=False, **look)  # fmt: skip


def _limit(runs: FigureRuns, name: str) -> float | None:
    """The declared threshold, in the unit that is shown."""
    return None if runs.figure.threshold is None else runs.declared.of(name).factor * runs.figure.threshold


def _lines(
    runs: FigureRuns,
    axes: Sequence[Axes],
    cells: Sequence[tuple[str, Sequence[str]]],
    found: Mapping[str, Boxes],
    name: str,
) -> list[float]:
    """Vertical lines in each panel: the threshold, the baseline's median, and what the metric is compared with.

    Returns where they are.
    """
    limit = _limit(runs, name)
    made = [] if limit is None else [limit]
    for place, (data_set, _) in zip(axes, cells, strict=True):
        if limit is not None:
            place.axvline(limit, color=COLOURS[1], linestyle="--", linewidth=1, label=f"threshold {limit:g}")
        for label, box in found[data_set].items():
            if box.role == "baseline" and box.n:
                place.axvline(box.at(0.5), color=BASELINE, linewidth=0.9, zorder=0.9, label=plain(f"{label}: median"))
        reference = runs.reference([one for one in runs.entries if one.data_set == data_set], name)
        if reference is not None and reference != limit:
            text = f"{runs.declared.reference_label(name)} {reference:.4g}"
            place.axvline(reference, color=BASELINE, linestyle=":", label=plain(text))
            made.append(reference)
    return made


def _share_axis(axes: Sequence[Axes], values: Sequence[float], is_log: Callable[[float, float], bool]) -> None:
    """Equal axes for all panels, which show these values."""
    if not values:
        return
    low, high = min(values), max(values)
    for one in axes:
        if is_log(low, high):
            one.set_xscale("log")
            margin = 1.03 * (high / low) ** 0.04
            one.set_xlim(low / margin, high * margin)
            logarithmic(one.xaxis, low, high)
        else:
            margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
            one.set_xlim(low - margin, high + margin)
            one.xaxis.set_major_locator(MaxNLocator(5))


# -------------------------------------------------------------------------------------------------------- words


def _row(data_set: str, label: str, box: Box, runs: FigureRuns, name: str) -> dict[str, Any]:
    limit = _limit(runs, name)
    shares = {"p5": 0.05, "q1": 0.25, "q3": 0.75, "p95": 0.95} if box.n >= FEW else {}
    return {"data_set": data_set, "role": box.role, runs.figure.by or "setting": label, "value": name,
            "unit": runs.declared.of(name).shown_unit, "runs": box.runs, "n": box.n, "not_finite": box.dropped,
            "min": box.at(0) if box.n else None, "median": box.at(0.5) if box.n else None,
            "max": box.at(1) if box.n else None, **{key: box.at(share) for key, share in shares.items()},
            "threshold": limit, "share_below": box.below(limit) if box.n and limit is not None else None}  # fmt: skip


def _caption(runs: FigureRuns, found: Mapping[str, Boxes], title: str, left_out: int) -> str:
    boxes = [box for of in found.values() for box in of.values()]
    counts = [box.n for box in boxes if box.n]
    sentences = [f"{title}."]
    if max(counts, default=0) >= FEW:
        sentences.append(
            "Box: quartiles and median; whiskers: 5 to 95 % of the values; dots: lowest and highest value."
        )
    if min(counts, default=FEW) < FEW:
        sentences.append(f"With fewer than {FEW} values, each is a point, and the black line is their median.")
    if runs.figure.array:
        most = max(box.runs for box in boxes)
        sentences.append(f"n: values of all examples of all seeds together ({counted(most, 'run')} at most).")
    else:
        sentences.append(
            "n: number of runs."
            if max(counts, default=0) > 1
            else "One run each, so the noise between seeds is unknown."
        )
    if dropped := sum(box.dropped for box in boxes):
        sentences.append(f"{counted(dropped, 'value')} that {'is' if dropped == 1 else 'are'} not finite "
                         f"{'is' if dropped == 1 else 'are'} left out.")  # fmt: skip
    own, _ = runs.divided()
    if missing := len(own) - sum(box.runs for box in boxes if box.role != "baseline"):
        sentences.append(f"{missing} of {counted(len(own), 'run')} without a value.")
    parts = [ones for members in by_data_set(own).values() for ones in runs.parts(members).values()]
    sentences.append(runs.pooled(parts))
    if left_out:
        sentences.append(f"Not on the page, but in the table: {left_out} further rows.")
    grey = next((label for of in found.values() for label, box in of.items() if box.role == "baseline"), "")
    sentences.append(
        f"Grey: {grey.replace(' (baseline)', '')}, the baseline." if grey else "No baseline to compare with."
    )
    return " ".join(one for one in sentences if one)


def _alt(runs: FigureRuns, found: Mapping[str, Boxes], name: str) -> str:
    """The text for readers who cannot see the figure: the median and the quartiles of each box."""
    sentences = []
    for data_set, boxes in found.items():
        for label, box in boxes.items():
            where = f"{data_set}, {label}" if data_set else label
            spread = f", quartiles {box.at(0.25):.4g} to {box.at(0.75):.4g}" if box.n >= FEW else ""
            sentences.append(f"{where}: median {box.at(0.5):.4g}{spread}, n {box.n}" if box.n else f"{where}: no value")
    more = f"; and {len(sentences) - 12} more" if len(sentences) > 12 else ""
    return f"{runs.declared.axis(name)} by {runs.figure.by or 'setting'}. {'; '.join(sentences[:12])}{more}."
