"""Maps and pictures of runs side by side: rows and columns are examples, arrays or settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from analysis.declared import arrays, image_grid
from analysis.declared.image_grid import GridRow, Wanted
from analysis.declared.runs import FigureRuns, baseline_label
from analysis.learning_curves import DrawnFigure
from analysis.rounds import RoundEntry
from analysis.saved_arrays import Array
from roundhouse.errors import RoundhouseError
from roundhouse.figures import Axis
from roundhouse.formatting import abbreviated, counted

_FACTS: Mapping[str, Callable[[Array], Any]] = {"min": np.min, "max": np.max, "mean": np.mean}
SIDE = {"sample": 0.8, "array": 0.95, "setting": 1.5}  # inches left of the pictures, by what the rows are


@dataclass(frozen=True)
class Candidate:
    """The run that stands for a setting, and the number of runs of the setting and their mean result."""

    data_set: str
    label: str
    role: str
    entry: RoundEntry
    runs: int
    result: float | None


@dataclass(frozen=True)
class Shown:
    """What is along each axis, as it fits on the page. An axis that is neither rows nor columns is fixed."""

    samples: Sequence[int]
    arrays: Sequence[str]
    settings: Sequence[Candidate]

    def along(self, axis: Axis) -> Sequence[Any]:
        return {"sample": self.samples, "array": self.arrays, "setting": self.settings}[axis]

    def only(self, axis: Axis, first: int, count: int) -> Shown:
        """With `count` places of an axis from `first` on."""
        name = {"sample": "samples", "array": "arrays", "setting": "settings"}[axis]
        return replace(self, **{name: self.along(axis)[first : first + count]})


class Examples:
    """The examples of runs, each read once."""

    def __init__(self, runs: FigureRuns) -> None:
        self._figure = runs.figure
        self._read: dict[tuple[str, str], dict[int, Array]] = {}

    def of(self, entry: RoundEntry, name: str) -> dict[int, Array]:
        """Those examples of an array that are shown. RoundhouseError: they cannot be."""
        if (entry.path, name) not in self._read:
            what, samples = f"arrays: {name} of {entry.path}", self._figure.samples
            if self._figure.file.endswith(arrays.PICTURE):
                samples = (0,)
            found = arrays.examples(arrays.read(entry, self._figure.file, name), samples, what)
            if name in self._figure.diverging and any(one.ndim == 3 for one in found.values()):
                raise RoundhouseError(f"diverging: {name} of {entry.path} is a picture in colours, not a map")
            self._read[entry.path, name] = found
        return self._read[entry.path, name]


def draw(runs: FigureRuns) -> DrawnFigure:
    """The pictures of as many settings as fit on a page, the best ones of each data set with their baselines."""
    figure, examples = runs.figure, Examples(runs)
    candidates = _candidates(runs)
    every = _everything(runs, candidates, examples)
    fixed = ({"sample", "array", "setting"} - {figure.rows, figure.columns}).pop()
    wanted = _wanted(runs, every, fixed == "setting", examples)
    layout = wanted.layout()
    shown = every.only(figure.columns, 0, layout.columns).only(figure.rows, 0, layout.rows)
    if fixed == "setting":
        shown = shown.only("setting", 0, layout.blocks)
    shown = _in_order(shown)
    wanted = _wanted(runs, shown, fixed == "setting", examples)
    parts = [shown.only("setting", number, 1) for number in range(len(shown.settings))]
    blocks = [(_described(runs, part.settings[0]), _rows(runs, part, examples)) for part in parts]
    if fixed != "setting":
        blocks = [("", _rows(runs, shown, examples))]
    made = image_grid.draw(blocks, wanted, layout)
    title = f"{', '.join(_words(one) for one in figure.arrays)} of examples"
    table = [row for part in parts for row in _table(runs, part, examples)]
    return DrawnFigure(made, table, title, _caption(runs, every, shown, examples), _alt(runs, shown, table))


# --------------------------------------------------------------------------------------------- which runs are shown


def _candidates(runs: FigureRuns) -> list[Candidate]:
    """The settings that have the arrays, in the order in which they are shown if there is no place for all.

    Of each data set in turn: the best setting, the baseline, the second best.
    """
    present = [one for one in (*runs.own, *runs.baseline(runs.own)) if arrays.file_of(one, runs.figure.file)]
    lacking = {one.path: arrays.lacking(one, runs.figure.file, runs.figure.arrays) for one in present}
    usable = {path for path, message in lacking.items() if not message}
    if not usable:
        message = next(iter(lacking.values()), "")
        raise RoundhouseError(f"arrays: {message}" if message else f"file: no run has a file {runs.figure.file}")
    found = []
    for data_set, own in runs.data_sets.items():
        made = [
            _candidate(runs, data_set, label, "result", members, usable) for label, members in runs.parts(own).items()
        ]
        ranked = _ranked(runs, [one for one in made if one])
        baseline = runs.baseline(own)
        compared = _candidate(runs, data_set, baseline_label(baseline), "baseline", baseline, usable)
        found.append([*ranked[:1], *([compared] if compared else []), *ranked[1:]])
    return [one for turn in zip_longest(*found) for one in turn if one]


def _candidate(
    runs: FigureRuns, data_set: str, label: str, role: str, members: Sequence[RoundEntry], usable: set[str]
) -> Candidate | None:
    """A setting with the first of its runs that has the arrays."""
    first = next((one for one in members if one.path in usable), None)
    if first is None:
        return None
    values = runs.values(members)
    label = ", ".join(one for one in (data_set, label) if one)
    return Candidate(data_set, label, role, first, len(members), float(np.mean(values)) if values else None)


def _ranked(runs: FigureRuns, found: Sequence[Candidate]) -> list[Candidate]:
    """The best mean first; in the order of the round file if nothing declares which value is best."""
    sign = runs.sign(runs.metric)
    return sorted(found, key=lambda one: math.inf if one.result is None else -sign * one.result)


def _everything(runs: FigureRuns, candidates: Sequence[Candidate], examples: Examples) -> Shown:
    """All that the declaration names and that exists. RoundhouseError: none of the examples exists."""
    figure, axes = runs.figure, (runs.figure.rows, runs.figure.columns)
    having = {
        number: None for one in candidates[:1] for name in figure.arrays for number in examples.of(one.entry, name)
    }
    if not having:
        raise RoundhouseError(f"samples: the arrays of {candidates[0].entry.path} have none of these examples "
                              f"({abbreviated([str(one) for one in figure.samples], 6)})")  # fmt: skip
    samples = [*having] if "sample" in axes else [*having][:1]
    return Shown(samples, figure.arrays if "array" in axes else figure.arrays[:1], candidates)


def _in_order(shown: Shown) -> Shown:
    """The settings of a data set together, the baseline last."""
    places = {name: place for place, name in enumerate(dict.fromkeys(one.data_set for one in shown.settings))}
    ordered = sorted(shown.settings, key=lambda one: (places[one.data_set], one.role == "baseline"))
    return replace(shown, settings=ordered)


# ------------------------------------------------------------------------------------------------------- the page


def _wanted(runs: FigureRuns, shown: Shown, in_blocks: bool, examples: Examples) -> Wanted:
    figure = runs.figure
    maps = [(name, one) for name in shown.arrays for one in examples.of(shown.settings[0].entry, name).values()]
    is_map = {name in figure.diverging for name, one in maps if one.ndim == 2}
    rows = [_label(runs, figure.rows, one) for one in shown.along(figure.rows)]
    columns = [_label(runs, figure.columns, one) for one in shown.along(figure.columns)]
    headings = [_described(runs, one) for one in shown.settings] if in_blocks else []
    blocks = len(shown.settings) if in_blocks else 1
    least = min(blocks, 2 * len({one.data_set for one in shown.settings}))
    aspect = max(one.shape[0] / one.shape[1] for _, one in maps)
    side = SIDE[figure.rows]
    return Wanted(len(columns), len(rows), blocks, least, aspect, side, len(is_map), headings, rows, columns)


def _rows(runs: FigureRuns, shown: Shown, examples: Examples) -> list[GridRow]:
    figure, made = runs.figure, []
    for row in range(len(shown.along(figure.rows))):
        cells, diverging = [], []
        for column in range(len(shown.along(figure.columns))):
            one = shown.only(figure.rows, row, 1).only(figure.columns, column, 1)
            name = one.arrays[0]
            cells.append(examples.of(one.settings[0].entry, name).get(one.samples[0]))
            diverging.append(name in figure.diverging)
        made.append(GridRow(_label(runs, figure.rows, shown.along(figure.rows)[row]), cells, diverging))
    return made


# ---------------------------------------------------------------------------------------------------------- words


def _words(name: str) -> str:
    return name.replace("_", " ")


def _label(runs: FigureRuns, axis: Axis, one: Any) -> str:
    if axis == "setting":
        return _described(runs, one, separator="\n")
    return f"example {one}" if axis == "sample" else _words(one)


def _described(runs: FigureRuns, one: Candidate, separator: str = "; ") -> str:
    """A setting with the seed of the run that is shown, and its result."""
    seed, result = one.entry.config.get("seed"), runs.value(one.entry)
    unit = runs.declared.of(runs.metric).shown_unit
    facts = [one.label] if seed is None else [one.label, f"seed {seed}"]
    if result is not None:
        facts.append(f"{runs.declared.label(runs.metric)} {result:.4g} {unit}".strip())
    return separator.join(facts)


def _table(runs: FigureRuns, part: Shown, examples: Examples) -> list[dict[str, Any]]:
    """A row for each picture of one setting, with the values of the array, in colours from 0 to 1."""
    one, made = part.settings[0], []
    for name in part.arrays:
        found = examples.of(one.entry, name)
        for sample in (number for number in part.samples if number in found):
            values = found[sample][np.isfinite(found[sample])]
            facts = {key: float(of(values)) if len(values) else None for key, of in _FACTS.items()}
            made.append({"path": one.entry.path, "role": one.role, "setting": one.label, "sample": sample,
                         "array": name, **facts,
                         "not_finite": found[sample].size - len(values), "metric": runs.metric,
                         "unit": runs.declared.of(runs.metric).shown_unit, "value": runs.value(one.entry),
                         "mean_of_seeds": one.result, "seeds": one.runs})  # fmt: skip
    return made


def _caption(runs: FigureRuns, every: Shown, shown: Shown, examples: Examples) -> str:
    names, meanings = [_words(one) for one in shown.arrays], runs.declared.arrays
    which = f"example{'s' * (len(shown.samples) > 1)} {abbreviated([str(one) for one in shown.samples], 6)}"
    sentences = [f"{', '.join(names)} of {which}; {_whose(runs, every, shown)}."]
    most = max(one.runs for one in shown.settings)
    sentences.append(f"Each is shown by its first run of {most}." if most > 1 else "One run each.")
    sentences += [f"{_words(one)}: {meanings[one].rstrip('.')}." for one in shown.arrays if one in meanings]
    pictures = [(name, picture) for one in shown.settings for name in shown.arrays
                for sample, picture in examples.of(one.entry, name).items() if sample in shown.samples]  # fmt: skip
    if any(one.ndim == 2 and name not in runs.figure.diverging for name, one in pictures):
        sentences.append("Each row has its own colour scale.")
    if diverging := [_words(one) for one in shown.arrays if one in runs.figure.diverging]:
        sentences.append(f"{', '.join(diverging)}: white is 0.")
    if any(not np.isfinite(one).all() for _, one in pictures):
        sentences.append("Hatched: no finite value.")
    sentences += [reference] if (reference := runs.reference_sentence()) else []
    sentences += _left_out(runs, every, shown)
    if all(one.role != "baseline" for one in shown.settings):
        sentences.append("No baseline with these arrays is shown.")
    return " ".join(sentences)


def _whose(runs: FigureRuns, every: Shown, shown: Shown) -> str:
    count, total = (sum(one.role == "result" for one in of.settings) for of in (shown, every))
    ranked = runs.mode(runs.metric) is not None
    by = f" by mean {runs.declared.label(runs.metric)}" if ranked else ""
    if count == total:
        return counted(total, "setting") + (f", the best first{by}" if ranked and total > 1 else "")
    turns = ", of each data set in turn" if len({one.data_set for one in every.settings}) > 1 else ""
    return f"{'the best ' * ranked}{count} of {counted(total, 'setting')}{by}{turns}"


def _left_out(runs: FigureRuns, every: Shown, shown: Shown) -> list[str]:
    parts = [("example", len(every.samples) - len(shown.samples)), ("array", len(every.arrays) - len(shown.arrays)),
             ("setting", len(every.settings) - len(shown.settings))]  # fmt: skip
    cut = [counted(count, f"further {what}") for what, count in parts if count]
    found = [f"Not on the page: {' and '.join(cut)}."] if cut else []
    settings = sum(len(runs.parts(of)) for of in runs.data_sets.values())
    if without := settings - sum(one.role == "result" for one in every.settings):
        found.append(f"{counted(without, 'setting')} without these arrays.")
    is_axis = "sample" in (runs.figure.rows, runs.figure.columns)
    absent = [one for one in runs.figure.samples if one not in every.samples] if is_axis else []
    if absent and not runs.figure.file.endswith(arrays.PICTURE):
        found.append(f"There is no example {abbreviated([str(one) for one in absent], 6)}.")
    return found


def _alt(runs: FigureRuns, shown: Shown, table: Sequence[Mapping[str, Any]]) -> str:
    """The text for readers who cannot see the figure: the range of values of the pictures."""
    ranges = [f"{_words(row['array'])} of example {row['sample']}, {row['setting']}: "
              + ("no finite value" if row["min"] is None else f"{row['min']:.4g} to {row['max']:.4g}")
              for row in table]  # fmt: skip
    return (
        f"Pictures in rows by {runs.figure.rows} and columns by {runs.figure.columns}. {abbreviated(ranges, 12, '; ')}."
    )
