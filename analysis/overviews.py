"""Overviews of one group of a round: what its settings came to, and how they got there, beside the baseline."""

from __future__ import annotations

import json
import math
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from analysis.curves import FEW, LETTERS, WIDE, Band, Course, Drawn, label, percent, plain
from analysis.rounds import Entry, Metrics, labels, metrics_of, varying_keys
from analysis.style import BASELINE, COLOURS, LINES, MARKERS, legend_below, panels
from roundhouse.model.plan import State

Shown = tuple[Entry, tuple[Entry, ...]]  # an experiment, and its baseline

RESULTS = "test_"  # how those final metrics begin that results are judged by
JUDGES = 3  # at most
DATA = frozenset({"dataset", "data", "task"})  # results on different ones are not comparable
MANY = 24  # settings from which a panel is split
LINES_AT_MOST = 7  # in one panel of learning curves
FACETS = 8  # values of a key that panels may be split by
ACROSS = 4  # panels side by side
SETTLED = 0.25  # of the epochs: from there on a panel shows the whole range
LONGEST = 44  # letters of a setting's label


@dataclass(frozen=True)
class Panel:
    """Settings that may be compared with each other, and what they are all compared with."""

    title: str
    settings: Mapping[str, Sequence[Entry]]  # by the text that tells them apart from the others in the figure
    baseline: tuple[Entry, ...]


@dataclass(frozen=True)
class Group:
    """A group's experiments with their metrics, and its baseline's."""

    shown: Sequence[Shown]

    @cached_property
    def entries(self) -> list[Entry]:
        return [entry for entry, _ in self.shown]

    @cached_property
    def baseline(self) -> dict[str, Entry]:
        return {one.path: one for _, baseline in self.shown for one in baseline}

    @cached_property
    def metrics(self) -> dict[str, Metrics]:
        return {one.path: metrics_of(one, []) for one in (*self.entries, *self.baseline.values())}

    @cached_property
    def courses(self) -> dict[str, Course]:
        return {path: Course.of(metrics) for path, metrics in self.metrics.items()}

    @cached_property
    def keys(self) -> dict[str, int]:
        """The config keys in which its experiments differ, in the order of the round file, and of how many values."""
        varying = varying_keys(self.entries)
        keys = [key for key in dict.fromkeys(key for one in self.entries for key in one.config) if key in varying]
        return {key: len({_value(one, key) for one in self.entries}) for key in keys}

    @cached_property
    def apart(self) -> list[str]:
        """The keys whose values are never in one panel: data sets, and what the baseline depends on."""
        chosen = DATA | varying_keys(list(self.baseline.values()))
        return [key for key in self.keys if key in chosen]

    def split(self, most: int) -> list[str]:
        """The keys to split panels by, so that none has more than `most` settings if one further key can do that."""
        largest = max(len(panel.settings) for panel in self.panels(self.apart))
        others = [key for key, values in self.keys.items() if key not in self.apart and values <= FACETS]
        return self.apart + (others[:1] if largest > most else [])

    def panels(self, split: Sequence[str]) -> list[Panel]:
        """A panel for each combination of values of these keys."""
        found: dict[tuple[str, ...], list[Shown]] = {}
        for one in self.shown:
            found.setdefault(tuple(_value(one[0], key) for key in split), []).append(one)
        names = _names(self.entries, split)
        made = []
        for shown in found.values():
            settings: dict[str, list[Entry]] = {}
            for entry, _ in shown:
                settings.setdefault(names[entry.setting], []).append(entry)
            told = ", ".join(_told(key, shown[0][0]) for key in split)
            made.append(Panel(told, settings, next((beside for _, beside in shown if beside), ())))
        return made

    def heading(self, what: str, inches: float) -> str:
        """The title of a figure so wide: the group, what is shown, and how many are through."""
        one = self.entries[0].row.experiment
        states = Counter(entry.state for entry in self.entries)
        through = f"{states.pop(State.COMPLETED, 0)} of {len(self.entries)} experiments completed"
        rest = "".join(f", {count} {str(state).replace('_', ' ')}" for state, count in states.items())
        lines = [f"{one.round}, {one.group or 'experiments'}: {what}", f"{through}{rest}"]
        return plain("\n".join(textwrap.fill(line, round(LETTERS * inches)) for line in lines))

    def drawn(
        self, what: str, figure: Figure, axes: Sequence[Axes], table: list[dict[str, Any]], told: str, grey: str
    ) -> Drawn:
        """A figure with its legend, its title and a caption: what is `told` of it, and what of the baseline is grey."""
        legend_below(figure, axes)
        figure.suptitle(self.heading(what, figure.get_figwidth()), fontsize=9)
        names = [one.group for one in self.baseline.values()]
        beside = f"Grey: the baseline, group {names[0]}, {grey}." if names else "No baseline to compare with."
        return Drawn(figure, table, f"{self.entries[0].group or 'experiments'}: {what}", f"{told} {beside}")


def _value(entry: Entry, key: str) -> str:
    return json.dumps(entry.config.get(key), default=str)


def _told(key: str, entry: Entry) -> str:
    value = entry.config.get(key)
    return value if isinstance(value, str) else f"{key} {value}"


def _names(entries: Sequence[Entry], split: Sequence[str]) -> dict[str, str]:
    """Each setting by the values that tell it apart within its panel."""
    if not split:
        return labels(entries)
    varying = varying_keys(entries) - set(split)
    keys = [key for key in dict.fromkeys(key for one in entries for key in one.config) if key in varying]
    return {one.setting: ", ".join(_told(key, one) for key in keys if key in one.config) or one.group
            for one in entries}  # fmt: skip


def _short(text: str) -> str:
    return plain(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")


# ---------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Judge:
    """A number that experiments are judged by."""

    name: str
    text: str
    of: Callable[[Metrics], float | None]


def results(shown: Sequence[Shown]) -> Drawn:
    """The final metrics of each setting of a group: a dot for each seed, their mean and standard deviation."""
    group = Group(shown)
    judges = _judges(group)
    found = group.panels(group.split(MANY))
    columns = len(judges) if len(found) == 1 else min(len(found), ACROSS)
    blocks = [found[start : start + columns] for start in range(0, len(found), columns)]
    cells = [(panel, judge) for block in blocks for judge in judges for panel in _padded(block, columns, len(found))]
    most = max(len(panel.settings) for panel in found)
    letters = max(min(len(name), LONGEST) for panel in found for name in panel.settings)
    rows = math.ceil(len(cells) / columns)
    height = min(0.19 * most + 1.15 + 0.8 / rows, 200 / rows)  # inches, of which a file cannot hold any number
    figure, axes = panels(columns, rows, width=2.5 + 0.062 * letters / columns, height=height)
    for number, (place, (panel, judge)) in enumerate(zip(axes, cells, strict=True)):
        if panel is None:
            place.remove()
        else:
            _results_panel(place, panel, judge, group, names=number % columns == 0)
    told = (
        f"{', '.join(judge.name for judge in judges)} of each setting: a dot for each experiment, and, from two on, "
        "mean and standard deviation; n experiments each."
    )
    table = _results_table(group, found, judges)
    return group.drawn("results", figure, axes, table, told, "its mean and standard deviation")


def _padded(block: Sequence[Panel], columns: int, count: int) -> list[Panel | None]:
    """A row of panels, filled up with none; a single panel is alone, since its judges stand side by side."""
    return [*block, *([None] * (columns - len(block)))] if count > 1 else list(block)


def _judges(group: Group) -> list[Judge]:
    """Test metrics if there are any; else the best so far; else the first numbers that a command left."""
    metrics = [group.metrics[one.path] for one in group.entries]
    study = group.entries[0].row.experiment.study
    finals = dict.fromkeys(key for one in metrics for key in one.final)
    keys = [key for key in finals if key.startswith(RESULTS)]
    best = next((one.metric for one in metrics if one.best is not None and one.metric), None)
    if best and not keys:
        return [Judge(f"best {best}", f"best {label(best, study)}", lambda metrics: metrics.best)]
    return [Judge(key, label(key, study), _final(key)) for key in (keys or list(finals))[:JUDGES]]


def _final(key: str) -> Callable[[Metrics], float | None]:
    return lambda metrics: metrics.final.get(key)


def _values(entries: Iterable[Entry], judge: Judge, group: Group) -> list[float]:
    found = (judge.of(group.metrics[one.path]) for one in entries)
    return [float(one) for one in found if one is not None and math.isfinite(one)]


def _results_panel(axes: Axes, panel: Panel, judge: Judge, group: Group, *, names: bool) -> None:
    every = {name: _values(entries, judge, group) for name, entries in panel.settings.items()}
    beside = _values(panel.baseline, judge, group)
    factor = percent(judge.name, [value for values in (*every.values(), beside) for value in values])
    for row, (name, values) in enumerate(every.items()):
        number = _colour(panel.settings[name][0], group)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        scaled = [factor * value for value in values]
        axes.plot(scaled, [row - 0.15 * (len(values) > 1)] * len(values), marker, color=colour, markersize=3, alpha=0.6)
        if len(values) > 1:
            axes.errorbar(statistics.mean(scaled), row + 0.18, xerr=statistics.stdev(scaled), fmt="|", color=colour,
                          capsize=2, markersize=6, elinewidth=1)  # fmt: skip
        axes.text(1.02, row, str(len(values)), transform=axes.get_yaxis_transform(), fontsize=7, va="center")
    axes.plot([], [], "o", color="black", markersize=3, alpha=0.6, label="an experiment")
    if any(len(values) > 1 for values in every.values()):
        axes.errorbar([], [], xerr=[], fmt="|", color="black", capsize=2, markersize=6, elinewidth=1,
                      label="mean and standard deviation")  # fmt: skip
    axes.text(1.02, 1.0, "n", transform=axes.transAxes, fontsize=7, va="bottom", style="italic")
    if not any(every.values()):
        axes.text(0.5, 0.5, "no result yet", transform=axes.transAxes, ha="center", va="center", color=BASELINE)
        axes.set_xticks([])
    note = [judge.text]
    if beside:
        told = _results_baseline(axes, [factor * one for one in beside], panel.baseline[0].group)
        note.append(f"{told}{' %' * (factor == 100)} (n {len(beside)})")
    note += _chance(axes, panel, judge, group)
    axes.set_xlabel("\n".join(note))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(len(every) - 0.4, -0.6)
    axes.set_yticks(range(len(every)), [_short(name) for name in every] if names else [""] * len(every))
    axes.set_title(_short(panel.title))


def _colour(entry: Entry, group: Group) -> int:
    """Which of the values of the first key within panels it has: methods differ in colour."""
    key = next((key for key in group.keys if key not in group.apart), None)
    if key is None:
        return 0
    return list(dict.fromkeys(_value(one, key) for one in group.entries)).index(_value(entry, key))


def _results_baseline(axes: Axes, values: Sequence[float], name: str) -> str:
    mean, spread = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    axes.axvline(mean, color=BASELINE, linewidth=1, zorder=1.9, label=plain(f"{name}: mean"))
    if spread:
        axes.axvspan(mean - spread, mean + spread, color=BASELINE, alpha=0.2, linewidth=0, zorder=0,
                     label=plain(f"{name}: standard deviation"))  # fmt: skip
    return plain(f"{name}: {mean:.4g}")


def _chance(axes: Axes, panel: Panel, judge: Judge, group: Group) -> list[str]:
    """The line of an axis' text that tells chance, and a line in the panel if it lies in its range."""
    entries = [*panel.baseline, *(one for entries in panel.settings.values() for one in entries)]
    found = {group.metrics[one.path].final.get("chance_accuracy") for one in entries} - {None}
    if not found or not judge.name.endswith("accuracy"):
        return []
    low, high = axes.get_xlim()
    told = sorted(100 * one for one in found if one is not None)
    for one in told:
        if low <= one <= high:
            axes.axvline(one, color=BASELINE, linestyle=":")
    return [f"chance: {told[0]:.3g}" + (f" to {told[-1]:.3g}" if len(told) > 1 else "") + " %"]


def _results_table(group: Group, found: Sequence[Panel], judges: Sequence[Judge]) -> list[dict[str, Any]]:
    rows = []
    for panel in found:
        members = [("result", name, one) for name, entries in panel.settings.items() for one in entries]
        members += [("baseline", one.group, one) for one in panel.baseline]
        for role, name, one in members:
            told = {"panel": panel.title, "role": role, "setting": name, "path": one.path, "state": str(one.state),
                    "seed": one.config.get("seed")}  # fmt: skip
            rows.append({**told, **{judge.name: judge.of(group.metrics[one.path]) for judge in judges}})
    return rows


# ---------------------------------------------------------------------------------------------- learning curves


def learning(shown: Sequence[Shown]) -> Drawn:
    """The mean learning curve of each setting of a group, with the range between its seeds."""
    group = Group(shown)
    metric, mode = _main_metric(group)
    found = group.panels(group.split(LINES_AT_MOST))
    apart = len(group.panels(group.apart))
    columns = min(len(found), len(found) // apart if 1 < apart < len(found) else ACROSS if len(found) > 6 else 3)
    columns = 2 if len(found) == 4 else columns
    width, height = (2.4, 1.9) if len(found) > 6 else (3.3, 2.6) if len(found) > 1 else (5.0, 3.6)
    figure, axes = panels(columns, math.ceil(len(found) / columns), width=width, height=height)
    bands = [_bands(panel, group, metric) for panel in found]
    factor = percent(metric, [float(one) for by_name in bands for band in by_name.values() for one in band.high])
    names = list(dict.fromkeys(name for panel in found for name in panel.settings))
    for number, (place, panel, by_name) in enumerate(zip(axes, found, bands, strict=False)):
        _learning_panel(place, panel, by_name, factor, names)
        _limits(place, _same(found, bands, panel, group), factor, metric, mode)
        place.set_title(_short(panel.title))
        if number % columns == 0:
            place.set_ylabel(label(metric, group.entries[0].row.experiment.study))
        if number + columns >= len(found):
            place.set_xlabel(
                "epoch of the last stage" if any(one.before for one in group.courses.values()) else "epoch"
            )
    for place in axes[len(found) :]:
        place.remove()
    told = f"{metric} of each setting: mean of its experiments that have come so far, and the range between them."
    if max((band.epochs[-1] for by_name in bands for band in by_name.values()), default=0) > FEW:
        told += " Axes show the range after the first quarter of the epochs."
    table = _learning_table(found, bands, metric)
    return group.drawn("learning curves", figure, axes[: len(found)], table, told, "drawn in the same way")


def _main_metric(group: Group) -> tuple[str, str]:
    """The metric that most are judged by, and its mode; else an accuracy, else whatever was measured first."""
    metrics = [group.metrics[one.path] for one in group.entries]
    measured = dict.fromkeys(key for one in group.entries for key in group.courses[one.path].values)
    chosen = Counter((one.metric, one.mode) for one in metrics if one.metric in measured).most_common(1)
    if chosen:
        metric, mode = chosen[0][0]
        return str(metric), mode
    metric = min(measured, key=lambda key: not key.endswith("accuracy"))
    return metric, "max" if metric.endswith("accuracy") else "min"


def _bands(panel: Panel, group: Group, metric: str) -> dict[str, Band]:
    """A band for each setting that has any epochs; the baseline's under the name ``."""
    members = {"": panel.baseline, **panel.settings}
    made = {name: Band.of([group.courses[one.path] for one in of], metric) for name, of in members.items()}
    return {name: band for name, band in made.items() if len(band.epochs)}


def _learning_panel(axes: Axes, panel: Panel, bands: Mapping[str, Band], factor: float, names: Sequence[str]) -> None:
    for name, band in bands.items():
        if name:
            number = names.index(name)
            look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number % len(LINES)]}
            told = _short(name)
        else:
            look, told = {"color": BASELINE, "linewidth": 0.9}, plain(f"{panel.baseline[0].group} (baseline)")
        marker = "o" if len(band.epochs) <= FEW else ""
        axes.fill_between(band.epochs, factor * band.low, factor * band.high, color=look["color"], alpha=0.2,
                          linewidth=0)  # fmt: skip
        axes.plot(band.epochs, factor * band.mean, label=told, marker=marker, markersize=2.5, **look)
    if not bands:
        axes.text(0.5, 0.5, "no epochs yet", transform=axes.transAxes, ha="center", va="center", color=BASELINE)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))


def _same(found: Sequence[Panel], bands: Sequence[Mapping[str, Band]], panel: Panel, group: Group) -> list[Band]:
    """The bands of all panels with this one's data, which share a range."""
    values = [_value(next(iter(panel.settings.values()))[0], key) for key in group.apart]
    made = []
    for other, by_name in zip(found, bands, strict=True):
        if [_value(next(iter(other.settings.values()))[0], key) for key in group.apart] == values:
            made += list(by_name.values())
    return made


def _limits(axes: Axes, bands: Sequence[Band], factor: float, metric: str, mode: str) -> None:
    if not bands:
        return
    last = max(band.epochs[-1] for band in bands)
    late = [band.epochs > (SETTLED * last if last > FEW else 0) for band in bands]
    low = factor * min(float(band.low[some].min()) for band, some in zip(bands, late, strict=True) if some.any())
    high = factor * max(float(band.high[some].max()) for band, some in zip(bands, late, strict=True) if some.any())
    if low > 0 and high / low > WIDE and not metric.endswith("accuracy"):
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(low / 1.1, high * 1.1)
    elif high > low:
        axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))


def _learning_table(found: Sequence[Panel], bands: Sequence[Mapping[str, Band]], metric: str) -> list[dict[str, Any]]:
    rows = []
    for panel, by_name in zip(found, bands, strict=True):
        for name, band in by_name.items():
            told = {"panel": panel.title, "role": "result" if name else "baseline",
                    "setting": name or panel.baseline[0].group}  # fmt: skip
            for epoch, mean, low, high, count in zip(
                band.epochs, band.mean, band.low, band.high, band.count, strict=True
            ):
                figures = {"mean": float(mean), "min": float(low), "max": float(high)}
                rows.append({**told, "epoch": int(epoch), **{f"{metric}_{what}": one for what, one in figures.items()},
                             "n": int(count)})  # fmt: skip
    return rows
