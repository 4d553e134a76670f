"""The distribution of a metric over runs, or of an array over examples: a box for each value of a key or setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.declared.box_data import Box, Boxes, best, boxes_of
from analysis.declared.runs import FigureRuns
from analysis.group_data import LONGEST, shortened
from analysis.learning_curves import DrawnFigure, is_logarithmic, plain
from analysis.style import BASELINE, COLOURS, PRINT_WIDTH, legend_below, logarithmic, panels
from roundhouse.formatting import abbreviated, counted

FEW = 5  # below so many values, each is drawn as a point: quartiles would mean nothing
PAGE = (PRINT_WIDTH, 8.6)  # inches
ROW, AROUND = 0.17, 0.85  # inches: height of a box, and of what is above and below the boxes of a panel
LETTER, NARROWEST = 0.055, 1.5  # inches: width of a letter of a label, and of the narrowest panel


def draw(runs: FigureRuns) -> DrawnFigure:
    """A panel for each data set with a row for each box; a long list of boxes has several panels."""
    name = runs.figure.array or runs.metric
    found = boxes_of(runs, name)
    labels = list(dict.fromkeys(label for boxes in found.values() for label in boxes))
    columns, per_panel = _layout(labels, len(found))
    kept = set(best(found, per_panel * (columns if len(found) == 1 else 1), runs.sign(name)))
    shown = [label for label in labels if label in kept]
    parts = [shown[start : start + per_panel] for start in range(0, len(shown), per_panel)]
    cells = [(data_set, part) for data_set in found for part in parts]
    figure, axes = _grid(len(cells), min(columns, len(cells)), parts)
    for number, (place, (data_set, part)) in enumerate(zip(axes, cells, strict=True)):
        _panel(place, runs, {label: found[data_set][label] for label in part if label in found[data_set]}, part, name)
        is_first = len(parts) > 1 or number % columns == 0
        place.set_yticks(range(len(part)), [shortened(one) if is_first else "" for one in part])
        place.set_title(shortened(data_set))
    lines = _lines(runs, axes, cells, found, name)
    ends = [one for boxes in found.values() for box in boxes.values() for one in box.ends]
    _share_axis(axes, [*ends, *lines], lambda low, high: is_logarithmic(name, runs.declared, low, high))
    legend_below(figure, axes, row=0.17)
    rows = [(data_set, label, box) for data_set, boxes in found.items() for label, box in boxes.items()]
    table = [_row(data_set, label, box, runs, name) for data_set, label, box in rows]
    title = f"{runs.declared.label(name)} by {runs.figure.by or 'setting'}"
    caption = _caption(runs, found, title, len(labels) - len(shown))
    return DrawnFigure(figure, table, title, caption, _alt(runs, found, name))


def _grid(count: int, columns: int, parts: Sequence[Sequence[str]]) -> tuple[Figure, list[Axes]]:
    """So many panels, as wide as their labels need."""
    letters = _letters([label for part in parts for label in part])
    width = min(PAGE[0], LETTER * letters * (columns if len(parts) > 1 else 1) + 2.4 * columns + 0.4)
    figure, axes = panels(columns, math.ceil(count / columns), width=width / columns,
                          height=ROW * len(parts[0]) + AROUND)  # fmt: skip
    for place in axes[count:]:
        place.remove()
    return figure, axes[:count]


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
        axes.plot(box.ends, [row, row], ".", color=colour, markersize=3)
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
    limit, unit = _limit(runs, name), runs.declared.of(name).shown_unit
    made = [] if limit is None else [limit]
    for place, (data_set, _) in zip(axes, cells, strict=True):
        if limit is not None:
            place.axvline(
                limit,
                color=COLOURS[1],
                linestyle="--",
                linewidth=1,
                label=plain(f"threshold {limit:g} {unit}".rstrip()),
            )
        for label, box in found[data_set].items():
            if box.role == "baseline" and box.n:
                place.axvline(box.at(0.5), color=BASELINE, linewidth=0.9, zorder=0.9, label=plain(f"{label}: median"))
        reference = runs.reference([one for one in runs.entries if one.data_set == data_set], name)
        if reference is not None and reference != limit:
            text = f"{runs.declared.reference_label(name)} {reference:.4g} {unit}".rstrip()
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
    if missing := len(runs.own) - sum(box.runs for box in boxes if box.role != "baseline"):
        sentences.append(f"{missing} of {counted(len(runs.own), 'run')} without a value.")
    parts = [ones for members in runs.data_sets.values() for ones in runs.parts(members).values()]
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
    return f"{runs.declared.axis(name)} by {runs.figure.by or 'setting'}. {abbreviated(sentences, 12, '; ')}."
