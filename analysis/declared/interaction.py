"""Effects of single factors and of pairs, and how far a pair is from the sum of its two effects."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.comparison import LEVEL, half_width
from analysis.declared.matrix import (
    colour_bar,
    diverging_for,
    draw_matrix,
    frame_diagonal,
    name_cells,
    norm_around,
)
from analysis.declared.runs import FigureRuns
from analysis.declared.settings import Noise, pooled_noise
from analysis.declared.values import in_order, text_of
from analysis.group_data import shortened
from analysis.learning_curves import DrawnFigure, plain
from analysis.rounding import alike
from analysis.rounds import RoundEntry
from analysis.style import PRINT_WIDTH, panels
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import abbreviated, counted
from roundhouse.metrics import with_unit

MOST = 24  # factors whose names can be read in print
EMPTY = frozenset({"", "0", "none", "not set"})  # texts of a set without techniques

Factors = frozenset[str]


@dataclass(frozen=True)
class Term:
    """A number of the matrix with half of its interval, which is None if the noise is unknown."""

    value: float
    half: float | None
    n: int

    @property
    def is_noise(self) -> bool:
        """Whether its interval contains 0."""
        return self.half is not None and abs(self.value) <= self.half


@dataclass(frozen=True)
class Effects:
    """The results of the sets of factors; the empty set is the base."""

    factors: Sequence[str]
    results: Mapping[Factors, Sequence[float]]
    noise: Noise | None

    def term(self, weights: Mapping[Factors, int]) -> Term | None:
        """The sum of means times weights; None without a result of one of the sets."""
        found = {one: self.results.get(one, ()) for one in weights}
        if not all(found.values()):
            return None
        value = sum(weight * statistics.fmean(found[one]) for one, weight in weights.items())
        half = None
        if self.noise is not None:
            share = math.sqrt(sum(weight**2 / len(found[one]) for one, weight in weights.items()))
            half = half_width(self.noise.deviation * share, self.noise.freedom)
        return Term(value, half, min(map(len, found.values())))

    def effect(self, *factors: str) -> Term | None:
        """The mean with these factors minus that of the base."""
        return self.term({frozenset(factors): 1, frozenset(): -1})

    def interaction(self, first: str, second: str) -> Term | None:
        """The effect of both minus the sum of their single effects."""
        single = {frozenset({first}): -1, frozenset({second}): -1}
        return self.term({frozenset({first, second}): 1, **single, frozenset(): 1})

    @cached_property
    def cells(self) -> dict[tuple[int, int], tuple[str, Term | None]]:
        """By row and column: what the cell shows, and its number."""
        made: dict[tuple[int, int], tuple[str, Term | None]] = {}
        for row, one in enumerate(self.factors):
            made[row, row] = "effect of one", self.effect(one)
        for (row, one), (column, other) in combinations(enumerate(self.factors), 2):
            made[row, column] = "effect of the pair", self.effect(one, other)
            made[column, row] = "interaction", self.interaction(one, other)
        return made


@dataclass(frozen=True)
class Part:
    """What is shown of one data set."""

    effects: Effects
    base: Sequence[RoundEntry]
    exclusive: Collection[Factors]  # pairs that no run can have: two values of one key
    larger: int  # runs with three factors or more

    def lacks(self, row: int, column: int) -> bool:
        """Whether a run that this cell needs does not exist, although it could."""
        names = self.effects.factors
        possible = frozenset({names[row], names[column]}) not in self.exclusive
        return possible and self.effects.cells[row, column][1] is None


def draw(runs: FigureRuns) -> DrawnFigure:
    """A matrix for each data set."""
    runs.require_metric()
    found = {name: part for name, entries in runs.data_sets.items() if (part := _part(runs, entries))}
    if not found:
        raise RoundhouseError(f"keys: no run without a factor has a value of {runs.metric}, so there is no base to "
                              "compare with: add its group to groups, or declare a baseline")  # fmt: skip
    most = max(len(one.effects.factors) for one in found.values())
    if not most:
        raise RoundhouseError("keys: all runs have the same values of these keys, so there is no effect to show")
    if most > MOST:
        raise RoundhouseError(f"keys: {most} factors are too many for a matrix (at most {MOST}): choose groups or keys "
                              "with fewer values")  # fmt: skip
    height = min(6.2, max(1.5 + 0.36 * most, 2.4))
    figure, axes = panels(1, len(found), width=min(PRINT_WIDTH, max(3.0 + 0.5 * most, 4.8)), height=height)
    table: list[dict[str, Any]] = []
    for place, (data_set, part) in zip(axes, found.items(), strict=True):
        _panel(place, runs, part)
        parts = "diagonal: effect of one; above: of the pair; below: interaction"
        place.set_title(f"{shortened(data_set)}\n{parts}" if data_set else parts, fontsize=8)
        table += _rows(runs, data_set, part)
    title = f"{runs.declared.label(runs.metric)}: effects and interactions of {', '.join(runs.figure.keys)}"
    return DrawnFigure(figure, table, title, _caption(runs, title, found), _alt(runs, found))


# ---------------------------------------------------------------------------------------------- the data


def _part(runs: FigureRuns, entries: Sequence[RoundEntry]) -> Part | None:
    """The effects in a data set; None without a result of the base."""
    compared = runs.baseline(entries)
    every = [*entries, *compared]
    sets = _techniques(runs, every, compared) if runs.figure.separator else _values(runs, every, compared)
    results: dict[Factors, list[float]] = {}
    for one in every:
        if (value := runs.value(one)) is not None:
            results.setdefault(sets[one.path], []).append(value)
    base = [one for one in every if not sets[one.path] and runs.value(one) is not None]
    if not base:
        return None
    names = _names(runs, every, sets)
    noise = pooled_noise(runs.settings(every))
    keys = {name: name.partition("=")[0] for name in names}
    same = [] if runs.figure.separator else [
        frozenset(pair) for pair in combinations(names, 2) if keys[pair[0]] == keys[pair[1]]]  # fmt: skip
    larger = sum(len(sets[one.path]) > 2 for one in every)
    return Part(Effects(names, results, noise), base, same, larger)


def _techniques(runs: FigureRuns, every: Sequence[RoundEntry], compared: Sequence[RoundEntry]) -> dict[str, Factors]:
    """The techniques of each run (by path): the divided text. None in the baseline, whatever its text is."""
    (name,) = runs.figure.keys
    empty = EMPTY | {text_of(one.config.get(name)) for one in compared}
    texts = {one.path: text_of(one.config.get(name)) for one in every}
    return {
        path: frozenset() if text in empty else divided(text, runs.figure.separator) for path, text in texts.items()
    }


def divided(text: str, separator: str) -> Factors:
    """The techniques in a text such as `1+2+7`."""
    return frozenset(one.strip() for one in text.split(separator)) - EMPTY


def _values(runs: FigureRuns, every: Sequence[RoundEntry], compared: Sequence[RoundEntry]) -> dict[str, Factors]:
    """The factors of each run (by path): the values that differ from those of the baseline, or of the first run."""
    first = (compared or every)[0].config
    base = {key: text_of(first.get(key)) for key in runs.figure.keys}
    return {one.path: frozenset(f"{key}={text}" for key in base if (text := text_of(one.config.get(key))) != base[key])
            for one in every}  # fmt: skip


def _names(runs: FigureRuns, every: Sequence[RoundEntry], sets: Mapping[str, Factors]) -> list[str]:
    """All factors: techniques as they come, numbers first and by size; values by key, and in their order."""
    found = {name for factors in sets.values() for name in factors}
    if runs.figure.separator:
        (key,) = runs.figure.keys
        texts = [text_of(one.config.get(key)).split(runs.figure.separator) for one in every]
        names = list(dict.fromkeys(name.strip() for parts in texts for name in parts if name.strip() in found))
        return sorted(names, key=lambda name: int(name) if name.isdecimal() else math.inf)
    return [name for key in runs.figure.keys for text in in_order(one.config.get(key) for one in every)
            if (name := f"{key}={text}") in found]  # fmt: skip


# ---------------------------------------------------------------------------------------------- drawing


def _panel(axes: Axes, runs: FigureRuns, part: Part) -> None:
    names, cells = part.effects.factors, part.effects.cells
    values = np.full((len(names), len(names)), np.nan)
    texts: list[list[str | None]] = [[None] * len(names) for _ in names]
    written = alike([one.value for _, one in cells.values() if one], sign=True)
    for (row, column), (_, one) in cells.items():
        if one:
            values[row, column] = one.value
            text = written(one.value)
            texts[row][column] = f"[{text}]" if one.is_noise else text
        elif part.lacks(row, column):
            texts[row][column] = "no run"
    image = draw_matrix(axes, values, texts, norm_around(0.0, values), diverging_for(runs.mode(runs.metric)))
    name_cells(axes, names, names)
    if runs.figure.separator:
        axes.set_xlabel(runs.axis(runs.figure.keys[0]))
        axes.set_ylabel(runs.axis(runs.figure.keys[0]))
    frame_diagonal(axes, len(names))
    unit = runs.declared.of(runs.metric).shown_unit
    label = with_unit(f"difference in {runs.declared.label(runs.metric)}", unit)
    colour_bar(axes, image, plain(label), [(0.0, "-")])


# ---------------------------------------------------------------------------------------------- words


def _rows(runs: FigureRuns, data_set: str, part: Part) -> list[dict[str, Any]]:
    names = part.effects.factors
    unit = runs.declared.of(runs.metric).shown_unit
    base = part.effects.results[frozenset()]
    rows: list[dict[str, Any]] = [{"data_set": data_set, "what": "base", "metric": runs.metric, "unit": unit,
                                   "value": statistics.fmean(base), "n": len(base),
                                   "noise": part.effects.noise and part.effects.noise.deviation}]  # fmt: skip
    for (row, column), (what, one) in part.effects.cells.items():
        rows.append({"data_set": data_set, "what": what, "first": names[min(row, column)],
                     "second": names[max(row, column)] if row != column else None, "metric": runs.metric, "unit": unit,
                     "value": one.value if one else None, "n": one.n if one else 0,
                     "half_of_interval": one.half if one else None,
                     "within_noise": None if not one or one.half is None else "yes" if one.is_noise else "no",
                     })  # fmt: skip
    return rows


def _caption(runs: FigureRuns, title: str, found: Mapping[str, Part]) -> str:
    sentences = [f"{title}. Diagonal: the mean with one factor minus that of the base; above: with both; below: the "
                 "interaction, the effect of both minus the sum of their single effects."]  # fmt: skip
    better = {"min": "lower is better", "max": "higher is better"}.get(str(runs.mode(runs.metric)))
    sentences.append(f"Blue is better ({better})." if better else "Blue is lower.")
    for data_set, part in found.items():
        sentences.append(f"{f'{data_set}: ' if data_set else ''}{_base(part)} {_noise(part)}")
    if any(part.lacks(*at) for part in found.values() for at in part.effects.cells):
        sentences.append("Hatched: a run that is needed does not exist, or has no value.")
    if larger := sum(part.larger for part in found.values()):
        sentences.append(f"{counted(larger, 'run')} with three factors or more not used.")
    sentences += _confounded(runs, found)
    return " ".join(sentences)


def _base(part: Part) -> str:
    base = part.effects.results[frozenset()]
    groups = ", ".join(dict.fromkeys(one.group or "all runs" for one in part.base))
    return f"Base: {statistics.fmean(base):.4g}, n {len(base)} (group {groups})."


def _noise(part: Part) -> str:
    if part.effects.noise is None:
        return "Noise between seeds: unknown, each setting has one run, so no number is shown to differ from 0."
    return (f"Noise: standard deviation over seeds, pooled over settings, {part.effects.noise.deviation:.2g}; in "
            f"brackets: its {100 * LEVEL:g} % interval contains 0 (Student's t, noise with "
            f"{counted(part.effects.noise.freedom, 'degree')} of freedom; not corrected for the number of cells)."
            )  # fmt: skip


def _confounded(runs: FigureRuns, found: Mapping[str, Part]) -> list[str]:
    """The other keys that vary: what is averaged, and where the base differs from the runs."""
    base = [one for part in found.values() for one in part.base]
    chosen = {one.path for one in base}
    rest = [one for one in runs.entries if one.path not in chosen]
    sentences = []
    for key in sorted({key for one in (*base, *rest) for key in one.config} - {*runs.figure.keys, "seed"}):
        if key in runs.declared.apart:
            continue
        values, others = in_order(one.config.get(key) for one in base), in_order(one.config.get(key) for one in rest)
        if set(others) - set(values) and rest:
            sentences.append(
                f"Effects include that of {key}: {abbreviated(others, 4, '; ')} "
                f"against {abbreviated(values, 4, '; ')} in the base."
            )
        elif len(others) > 1:
            sentences.append(f"Means are over {key}, which varies too.")
    return sentences


def _alt(runs: FigureRuns, found: Mapping[str, Part]) -> str:
    """The text for readers who cannot see the figure: the largest numbers of each kind."""
    sentences = []
    for data_set, part in found.items():
        names = part.effects.factors
        for kind in ("effect of one", "effect of the pair", "interaction"):
            known = [(one.value, " and ".join(dict.fromkeys((names[min(at)], names[max(at)]))))
                     for at, (what, one) in part.effects.cells.items() if what == kind and one]  # fmt: skip
            largest = sorted(known, key=lambda one: -abs(one[0]))
            lines = [f"{name} {value:+.3g}" for value, name in largest]
            if lines:
                sentences.append(f"{f'{data_set}, ' if data_set else ''}{kind}: {abbreviated(lines, 4, '; ')}")
    return f"Differences in {runs.axis()} from the base. {'. '.join(sentences)}."
