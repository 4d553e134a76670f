"""Parallel coordinates: an axis for each config key and last the metric, a line for each setting."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.ticker import LogLocator, MaxNLocator

from analysis.declared.matrix import norm_between
from analysis.declared.runs import FigureRuns, baseline_label
from analysis.declared.settings import SettingResult, mean_of
from analysis.declared.values import as_number, in_order, swept_geometrically, text_of
from analysis.group_data import shortened
from analysis.learning_curves import WIDE, DrawnFigure, is_logarithmic, plain
from analysis.style import MARKERS, PRINT_WIDTH, SEQUENTIAL, panels
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import abbreviated

HEIGHT = 3.1  # inches
LEFT, STRIP, TICKS = 0.7, 0.09, 0.4  # inches: before the first axis, of the colours, of the numbers beside them
BEST = 5  # settings that are labelled
SIZE = 6.5  # points
LETTER = 0.58 * SIZE / 72  # inches
LINE = 0.045  # of the height: the least gap between two texts
SPREAD = 0.5  # of the gap between two texts on an axis: over how much of it the lines through one text spread
MANY = 30  # settings; with more, lines are thinner

Positions = dict[int, float]  # of lines (by number) on an axis, from 0 to 1


@dataclass(frozen=True)
class KeyAxis:
    """Where each line crosses the axis of a config key; a line without the key does not. `ticks`: text by position."""

    positions: Positions
    ticks: Mapping[float, str]


def draw(runs: FigureRuns) -> DrawnFigure:
    """A panel for each data set."""
    runs.require_metric()
    found = {}
    for name, entries in runs.data_sets.items():
        lines, base = runs.settings(entries), runs.settings(runs.baseline(entries))
        if lines:
            found[name] = [*lines, *base], [False] * len(lines) + [True] * len(base)
    if not found:
        raise RoundhouseError(f"keys: no run that is not of a baseline has a value of {runs.metric}")
    figure, axes = panels(1, len(found), width=PRINT_WIDTH, height=HEIGHT)
    table: list[dict[str, Any]] = []
    for place, (data_set, (lines, are_baseline)) in zip(axes, found.items(), strict=True):
        ranks = _ranks(lines, are_baseline, runs.mode(runs.metric))
        _panel(place, runs, lines, are_baseline, ranks)
        place.set_title(shortened(data_set))
        table += [_row(runs, data_set, one, is_baseline, ranks.get(number))
                  for number, (one, is_baseline) in enumerate(zip(lines, are_baseline, strict=True))]  # fmt: skip
    title = f"{runs.declared.label(runs.metric)} by {', '.join(map(runs.label_of, runs.figure.keys))}"
    return DrawnFigure(figure, table, title, _caption(runs, title, found), _alt(runs, found))


def _ranks(lines: Sequence[SettingResult], are_baseline: Sequence[bool], mode: str | None) -> dict[int, int]:
    """The rank of each line that is no baseline, 1 for the best; none if it is not known what is best."""
    if mode is None:
        return {}
    sign = 1 if mode == "min" else -1
    chosen = [place for place, is_baseline in enumerate(are_baseline) if not is_baseline]
    return {place: rank for rank, place in enumerate(sorted(chosen, key=lambda one: sign * lines[one].mean), 1)}


# ---------------------------------------------------------------------------------------------- axes


def _key_axis(key: str, lines: Sequence[SettingResult], wanted: Sequence[int]) -> KeyAxis:
    """The axis of a key. `wanted`: lines whose text is written where there is no room for all."""
    values = {place: one.config[key] for place, one in enumerate(lines) if key in one.config}
    sizes = {place: size for place, value in values.items() if (size := as_number(value)) is not None}
    if values and len(sizes) == len(values):
        return _numeric_axis(sizes)
    texts = in_order(values.values())
    step = 1 / max(1, len(texts))
    centres = {text: 1 - (place + 0.5) * step for place, text in enumerate(texts)}
    positions: Positions = {}
    for text, centre in centres.items():
        members = sorted((lines[place].mean, place) for place, value in values.items() if text_of(value) == text)
        offsets = np.linspace(-0.5, 0.5, len(members)) if len(members) > 1 else [0.0]
        positions |= {place: centre + SPREAD * step * float(offset)
                      for (_, place), offset in zip(members, offsets, strict=True)}  # fmt: skip
    first = [centres[text_of(values[place])] for place in wanted if place in values]
    return KeyAxis(positions, {at: text for text, at in centres.items() if at in apart([*first, *centres.values()])})


def _numeric_axis(sizes: Mapping[int, float]) -> KeyAxis:
    """A linear axis, or a logarithmic one if the values were swept so or range widely. Ticks are at the values."""
    given = sorted(set(sizes.values()))
    logarithmic = swept_geometrically(given) or (given[0] > 0 and given[-1] / given[0] > WIDE)
    place_of = math.log if logarithmic else float
    low, high = place_of(given[0]), place_of(given[-1])
    at = {size: (place_of(size) - low) / (high - low) if high > low else 0.5 for size in given}
    ticks = apart([at[given[0]], at[given[-1]], *at.values()])
    return KeyAxis({place: at[size] for place, size in sizes.items()},
                   {at[size]: f"{size:g}" for size in given if at[size] in ticks})  # fmt: skip


def apart(positions: Sequence[float]) -> list[float]:
    """Those positions that are far enough from all that come before them, so that their texts do not overlap."""
    kept: list[float] = []
    for one in positions:
        if all(abs(one - other) >= LINE for other in kept):
            kept.append(one)
    return kept


def spread_out(positions: Sequence[float], gap: float) -> list[float]:
    """Positions at least `gap` apart, in the same order and within 0 to 1 if there is room, near the given ones."""
    order = sorted(range(len(positions)), key=lambda one: positions[one])
    made = [positions[one] for one in order]
    for place in range(1, len(made)):
        made[place] = max(made[place], made[place - 1] + gap)
    limit = 1.0
    for place in reversed(range(len(made))):
        made[place] = min(made[place], limit)
        limit = made[place] - gap
    return [at for _, at in sorted(zip(order, made, strict=True))]


# ---------------------------------------------------------------------------------------------- drawing


def _panel(
    axes: Axes, runs: FigureRuns, lines: Sequence[SettingResult], are_baseline: Sequence[bool], ranks: Mapping[int, int]
) -> None:
    means = np.array([one.mean for one in lines])
    norm = norm_between(means, is_logarithmic(runs.metric, runs.declared, means.min(), means.max()))
    colours = _colours(runs.mode(runs.metric))
    best = sorted((place for place in ranks if ranks[place] <= BEST), key=lambda place: ranks[place])
    base = [place for place, is_baseline in enumerate(are_baseline) if is_baseline]
    keys = [_key_axis(key, lines, [*best, *base]) for key in runs.figure.keys]
    last = len(keys)
    for place in sorted(range(len(lines)), key=lambda place: (place in base, -ranks.get(place, 0))):
        y = [*(one.positions.get(place, math.nan) for one in keys), float(norm(means[place]))]
        style: dict[str, Any] = {"color": colours(norm(means[place])), "linewidth": 0.5 if len(lines) > MANY else 0.8}
        if place in base:
            style = {"color": "black", "linestyle": "--", "linewidth": 1.2, "marker": "x", "markersize": 4}
        elif place in best:
            style |= {"linewidth": 1.7, "marker": MARKERS[ranks[place] - 1], "markersize": 4}
        axes.plot(range(last + 1), y, clip_on=False, zorder=2 + (place in best) + 2 * (place in base), **style)
    inch = last / (PRINT_WIDTH - LEFT - STRIP - TICKS - _room(last))  # in units of the x axis
    _axes_lines(axes, keys, inch)
    _colour_strip(axes, norm, colours, last, inch)
    room = int(_room(last) / LETTER)
    names = {
        place: f"{ranks[place]}: {lines[place].label}" for place in reversed(best)
    }  # of equal ones, the best above
    names |= {place: baseline_label(lines[place].entries) for place in base[:1]}
    starts = [float(norm(means[place])) for place in names]
    for name, start, end in zip(names.values(), starts, spread_out(starts, LINE), strict=True):
        x = last + (STRIP + TICKS) * inch
        axes.plot([last + STRIP * inch, x], [start, end], color="#999999", linewidth=0.4, zorder=1)
        axes.text(x, end, plain(textwrap.shorten(name, room, placeholder=" …")), fontsize=SIZE, va="center")
    axes.set_xlim(-LEFT * inch, last + (STRIP + TICKS + _room(last)) * inch)
    _name_axes(axes, [*map(runs.axis, runs.figure.keys), runs.axis()], 1 / inch)


def _name_axes(axes: Axes, names: Sequence[str], apart: float) -> None:
    """Write the names below the axes, which are this many inches `apart`; turned where they are too near."""
    wide = int(apart / (1.25 * LETTER))
    if max(len(word) for name in names for word in name.split()) < wide:
        axes.set_xticks(range(len(names)), [textwrap.fill(name, wide) for name in names])
    else:
        axes.set_xticks(range(len(names)), [shortened(name) for name in names], rotation=30, ha="right",
                        rotation_mode="anchor")  # fmt: skip


def _room(axes: int) -> float:
    """Inches for the labels of the best settings."""
    return 1.8 if axes <= 6 else 1.2


def _colours(mode: str | None) -> ListedColormap:
    """A map whose dark end is the best; its palest colours are left out, which thin lines would not show."""
    made = ListedColormap(colormaps[SEQUENTIAL](np.linspace(0, 0.88, 256)))
    return made.reversed() if mode == "max" else made


def _axes_lines(axes: Axes, keys: Sequence[KeyAxis], inch: float) -> None:
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=7.5)
    axes.set_yticks([])
    axes.set_ylim(-0.04, 1.04)
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    letters = int((LEFT if len(keys) == 1 else min(LEFT, 0.8 / inch)) / LETTER)
    for x, key in enumerate(keys):
        axes.plot([x, x], [0, 1], color="#777777", linewidth=0.8, zorder=1)
        for y, text in key.ticks.items():
            axes.text(x - 0.05 * inch, y, plain(textwrap.shorten(text, max(4, letters), placeholder="…")), zorder=5,
                      fontsize=SIZE, ha="right", va="center", bbox=behind)  # fmt: skip


def _colour_strip(axes: Axes, norm: Normalize, colours: ListedColormap, x: int, inch: float) -> None:
    """The axis of the metric, which is the colour bar too."""
    strip = np.linspace(0, 1, 256)[:, None]
    axes.imshow(strip, cmap=colours, extent=(x, x + STRIP * inch, 0, 1), origin="lower", aspect="auto", zorder=1.5)
    low, high = float(norm.vmin or 0), float(norm.vmax or 0)
    locator = LogLocator(subs=(1, 2, 5)) if isinstance(norm, LogNorm) and high / low > 3 else MaxNLocator(6)
    values = [float(one) for one in locator.tick_values(low, high) if low <= one <= high]
    shown = apart([float(norm(one)) for one in values])
    for value in values:
        y = float(norm(value))
        if y in shown:
            axes.text(x + (STRIP + 0.04) * inch, y, f"{value:g}", fontsize=SIZE, va="center", zorder=5)


# ---------------------------------------------------------------------------------------------- words


def _row(runs: FigureRuns, data_set: str, one: SettingResult, is_baseline: bool, rank: int | None) -> dict[str, Any]:
    return {"data_set": data_set, "role": "baseline" if is_baseline else "result", "group": one.entries[0].group,
            "setting": one.label,
            **{key: one.config.get(key) for key in runs.figure.keys}, "metric": runs.metric,
            "unit": runs.declared.of(runs.metric).shown_unit, "mean": one.mean, "sd": one.sd, "n": one.n,
            "rank": rank}  # fmt: skip


Found = Mapping[str, tuple[Sequence[SettingResult], Sequence[bool]]]


def _caption(runs: FigureRuns, title: str, found: Found) -> str:
    pairs = [pair for lines, are_baseline in found.values() for pair in zip(lines, are_baseline, strict=True)]
    count, base = sum(not is_baseline for _, is_baseline in pairs), [one for one, is_baseline in pairs if is_baseline]
    what = mean_of([one.n for one, _ in pairs], "mean over seeds")
    sentences = [f"{title}, a line for each setting ({count}): {what}."]
    mode = runs.mode(runs.metric)
    if mode:
        best = {"min": "lowest", "max": "highest"}[mode]
        what = f"the best {min(BEST, count)}, by the {best} {runs.label_of(runs.metric)}"
        sentences.append(f"Thick, with markers: {what}; the darker, the better.")
    else:
        sentences.append(f"No best setting: nothing declares whether the lowest or the highest {runs.metric} is best.")
    sentences += [noise] if (noise := runs.noise(runs.own)) else []
    sentences += [reference] if (reference := runs.reference_sentence()) else []
    if others := sorted(runs.varying - {*runs.figure.keys}):
        sentences.append(f"Also varying, without an axis: {', '.join(others)}.")
    if not base:
        return " ".join([*sentences, "No baseline to compare with."])
    means = abbreviated([f"{one.mean:.4g}" for one in base], 3)
    return " ".join([*sentences, f"Dashed: the baseline, group {base[0].entries[0].group} ({means})."])


def _alt(runs: FigureRuns, found: Found) -> str:
    """The text for readers who cannot see the figure: the best settings, or the range if it is not known."""
    sentences = []
    for data_set, (lines, are_baseline) in found.items():
        ranks = _ranks(lines, are_baseline, runs.mode(runs.metric))
        order = sorted(ranks, key=lambda place: ranks[place])[:BEST] or _ends(lines)
        what = "best" if ranks else "lowest and highest"
        names = [f"{lines[place].label} {lines[place].mean:.4g}" for place in order]
        sentences.append(f"{f'{data_set}, ' if data_set else ''}{what}: {abbreviated(names, BEST, '; ')}")
    return f"Parallel coordinates of {', '.join(runs.figure.keys)} and {runs.axis()}. {'. '.join(sentences)}."


def _ends(lines: Sequence[SettingResult]) -> list[int]:
    order = sorted(range(len(lines)), key=lambda place: lines[place].mean)
    return list(dict.fromkeys((order[0], order[-1])))
