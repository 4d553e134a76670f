"""Learning curves of one experiment: a panel for each family of metrics, with the curves of its baseline."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from analysis.rounds import RoundEntry, measured_keys, metrics_of
from analysis.style import BASELINE, COLOURS, LINES
from roundhouse.formatting import counted
from roundhouse.store.metrics import RunMetrics, finite

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 3.4, 1.65  # inches of a panel: width with the margins at its sides, height without margins
LETTERS = 14  # of a heading, per inch
FEW = 30  # a line with at most this many points has a marker at each
WIDE = 30.0  # ratio of the largest to the smallest value above which an axis is logarithmic
PREFIXES = {"train_": "training", "val_": "validation", "validation_": "validation", "test_": "test"}
_FAMILIES = {"truth_gradient": "gradient norm", "distance_gradient": "gradient norm"}
_LABELS = {
    "accuracy": "accuracy (%)",
    "distillation_loss": "distillation loss",
    "gradient norm": "norm of the gradient",
    "gradient_ratio": "gradients, distance / truth",
}
_SERIES = {
    "loss": "training (objective)",
    "val_loss": "validation (nats)",
    "truth_gradient": "truth",
    "distance_gradient": "distance",
}  # of the study distillation; other studies' keys are shown by their names


@dataclass(frozen=True)
class DrawnFigure:
    """A figure, the rows that it was drawn from, its title and its caption."""

    figure: Figure
    table: Sequence[Mapping[str, Any]]
    title: str
    caption: str


@dataclass(frozen=True)
class LearningCurve:
    """A training run: `epochs` (n,), counted over all stages, `stages` (name, first, last) and `values` (n,)."""

    epochs: Floats
    stages: tuple[tuple[str, float, float], ...]
    values: Mapping[str, Floats]

    @classmethod
    def of(cls, metrics: RunMetrics) -> LearningCurve:
        """The measurements of each epoch. A value that is not a finite number becomes NaN."""
        rows = metrics.epochs
        epochs = np.array([finite(row.get("epoch", index)) for index, row in enumerate(rows, 1)])
        epochs = np.where(np.isnan(epochs), np.arange(1.0, len(rows) + 1), epochs)
        stages: list[tuple[str, float, float]] = []
        for row, epoch in zip(rows, epochs.tolist(), strict=True):
            name = str(row.get("stage") or "")
            if stages and stages[-1][0] == name:
                stages[-1] = (name, stages[-1][1], epoch)
            else:
                stages.append((name, epoch, epoch))
        values = {key: np.array([finite(row.get(key)) for row in rows]) for key in measured_keys(rows)}
        return cls(epochs, tuple(stages), values)

    @property
    def before(self) -> float:
        """The last epoch before the last stage; 0 if there is one stage only."""
        return self.stages[-1][1] - 1 if self.stages else 0.0

    def last_stage(self, key: str) -> dict[int, float]:
        """The finite values by epoch of the last stage, counted from 1, so that runs can be compared epoch by epoch."""
        pairs = zip(self.epochs - self.before, self.values.get(key, ()), strict=False)
        return {round(epoch): float(value) for epoch, value in pairs if epoch > 0 and not math.isnan(value)}


@dataclass(frozen=True)
class Band:
    """One key of several runs: `mean`, `low`, `high`, `count` (n,), at `epochs` (n,) of the last stage."""

    epochs: Floats
    mean: Floats
    low: Floats
    high: Floats
    count: NDArray[np.int64]

    @classmethod
    def of(cls, curves: Iterable[LearningCurve], key: str) -> Band:
        """Mean, minimum and maximum over the runs that have a value at an epoch."""
        found: dict[int, list[float]] = {}
        for curve in curves:
            for epoch, value in curve.last_stage(key).items():
                found.setdefault(epoch, []).append(value)
        columns = [(epoch, np.mean(of), min(of), max(of), len(of)) for epoch, of in sorted(found.items())]
        epochs, mean, low, high, count = np.array(columns, dtype=float).reshape(-1, 5).T
        return cls(epochs, mean, low, high, count.astype(np.int64))


def family(key: str) -> str:
    """The family of a key: loss and val_loss both belong to `loss`."""
    bare = next((key[len(prefix) :] for prefix in PREFIXES if key.startswith(prefix) and key != prefix), key)
    return _FAMILIES.get(key, bare)


def label(key: str, study: str | None = None) -> str:
    """The axis label of a key, with its unit if it is known."""
    text = _LABELS.get(family(key), family(key).replace("_", " "))
    if study == "distillation" and key in ("val_loss", "test_loss"):
        text = "cross entropy (nats)"
    prefix = next((word for start, word in PREFIXES.items() if key.startswith(start)), "")
    return plain(f"{prefix} {text}".strip())


def percent(key: str, values: Iterable[float]) -> float:
    """The factor to multiply values with: 100 for an accuracy between 0 and 1, else 1."""
    return 100.0 if key.endswith("accuracy") and all(math.isnan(one) or abs(one) <= 1 for one in values) else 1.0


def plain(text: str) -> str:
    """Text that matplotlib shows literally: no formula between `$`, no label hidden because it begins with `_`."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


# ---------------------------------------------------------------------------------------------- the figure


def draw(entry: RoundEntry, baseline: Sequence[RoundEntry]) -> DrawnFigure:
    """The learning curves of an experiment. RoundhouseError: its metrics cannot be read.

    The table has a row for each epoch in metrics.json, with all its keys, and the baseline's values from the figure.
    """
    metrics = entry.metrics()
    curve = LearningCurve.of(metrics)
    references = [metrics_of(one, []) for one in baseline if one.path != entry.path]
    curves = [LearningCurve.of(one) for one in references if one.epochs]
    shown = [key for key in curve.values if key == metrics.metric or key.startswith(("val_", "validation_"))]
    bands = {key: _within(Band.of(curves, key), curve) for key in shown}
    bands = {key: band for key, band in bands.items() if len(band.epochs)}
    finals = [one.final for one in (metrics, *references)]
    chance = next((final["chance_accuracy"] for final in finals if "chance_accuracy" in final), None)
    families = _families(curve, metrics.metric)
    figure, axes = _grid(len(families))
    for keys, panel in zip(families, axes, strict=True):
        _lines(panel, keys, curve, entry.experiment.study)
        for key in keys:
            if key in bands:
                _draw_baseline(panel, key, curve, bands[key], _averaged(baseline[0].group, bands[key]))
        if metrics.metric in keys:
            _best(panel, metrics, curve)
        if chance is not None and family(keys[0]) == "accuracy":
            panel.axhline(100 * chance, color=BASELINE, linestyle=":", label=f"chance {100 * chance:.3g} %")
        _finish(panel, keys, curve, _resumed(entry))
    figure.suptitle(_heading(entry, curve, figure.get_figwidth()), fontsize=9, y=1 - 0.06 / figure.get_figheight())
    title = f"{entry.path}: learning curves"
    return DrawnFigure(figure, _table(metrics, curve, bands), title, _caption(entry, curve, bands, baseline))


def _families(curve: LearningCurve, metric: str | None) -> list[list[str]]:
    """The keys of each panel: first those with the main metric, then losses, last keys of earlier stages only."""
    found: dict[str, list[str]] = {}
    for key in curve.values:
        found.setdefault(family(key), []).append(key)
    kept = [one for one in found.values() if any(curve.last_stage(key) for key in one)]
    others = [one for one in found.values() if one not in kept]
    return [*sorted(kept, key=lambda keys: (metric not in keys, family(keys[0]) != "loss")), *others]


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """Panels at fixed places, with space for a legend above each: an automatic layout takes twice as long."""
    columns = count if count < 4 else 2 if count == 4 else 3
    rows = math.ceil(count / columns)
    left, right, below, above, heading = 0.68, 0.13, 0.45, 0.4, 0.5  # inches
    width, height = columns * WIDTH, rows * (below + HEIGHT + above) + heading
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    made = []
    for row, column in (divmod(number, columns) for number in range(count)):
        x, y = column * WIDTH + left, (rows - 1 - row) * (below + HEIGHT + above) + below
        size = ((WIDTH - left - right) / width, HEIGHT / height)
        made.append(figure.add_axes((x / width, y / height, *size)))
    return figure, made


def _lines(axes: Axes, keys: Sequence[str], curve: LearningCurve, study: str | None) -> None:
    """The lines of one family; that of training is the last."""
    every = np.concatenate([curve.values[key] for key in keys])
    factor = percent(keys[0], every)
    for number, key in enumerate(sorted(keys, key=lambda key: key == family(key) or key.startswith("train_"))):
        axes.plot(
            curve.epochs, factor * curve.values[key], label=plain(_series(key, keys, study)),
            color=COLOURS[number % len(COLOURS)], linestyle=LINES[number % len(LINES)],
            marker="o" if _sparse(curve.values[key]) else "", markersize=2.5,
        )  # fmt: skip
    text = textwrap.shorten(label(keys[0] if len(keys) == 1 else family(keys[0])), 56, placeholder=" …")
    axes.set_ylabel(textwrap.fill(text, 30))
    finite = every[np.isfinite(every)]
    if not len(finite):
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="center", color=BASELINE)
    elif family(keys[0]) != "accuracy" and finite.min() > 0 and finite.max() / finite.min() > WIDE:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())


def _series(key: str, among: Sequence[str], study: str | None) -> str:
    if study == "distillation" and key in _SERIES:
        return _SERIES[key]
    if key == family(key):
        return "training" if len(among) > 1 else key.replace("_", " ")
    return next((word for start, word in PREFIXES.items() if key.startswith(start)), key.replace("_", " "))


def _sparse(values: Floats) -> bool:
    """Whether a line needs markers to show all its points: there are few, or there are gaps between them."""
    where = np.flatnonzero(np.isfinite(values))
    return len(where) <= FEW or bool((np.diff(where) > 1).any())


def _within(band: Band, curve: LearningCurve) -> Band:
    """The part of a baseline in epochs that the experiment has too, with the experiment's epoch numbers."""
    epochs = band.epochs + curve.before
    chosen = np.isin(epochs, curve.epochs)
    return Band(epochs[chosen], band.mean[chosen], band.low[chosen], band.high[chosen], band.count[chosen])


def _draw_baseline(axes: Axes, key: str, curve: LearningCurve, band: Band, name: str) -> None:
    factor = percent(key, curve.values[key])
    axes.fill_between(band.epochs, factor * band.low, factor * band.high, color=BASELINE, alpha=0.3, linewidth=0)
    marker = "s" if _sparse(band.mean) else ""
    axes.plot(band.epochs, factor * band.mean, color=BASELINE, linewidth=0.9, label=plain(name), marker=marker,
              markersize=2, zorder=1.9)  # fmt: skip


def _averaged(name: str, band: Band) -> str:
    most = int(band.count.max())
    return f"{name} (mean of {most})" if most > 1 else f"{name} (1 run)"


def _best(axes: Axes, metrics: RunMetrics, curve: LearningCurve) -> None:
    values = curve.values[str(metrics.metric)]
    where = np.flatnonzero((curve.epochs == finite(metrics.best_epoch)) & np.isfinite(values))[:1]
    if len(where):
        factor = percent(str(metrics.metric), values)
        best, epoch = factor * values[where[0]], curve.epochs[where[0]]
        text = f"best {best:.4g}{' %' if factor == 100 else ''} (epoch {epoch:.0f})"
        axes.plot([epoch], [best], "*", color="black", markersize=8, label=text, zorder=5)


def _resumed(entry: RoundEntry) -> list[int]:
    """The epochs after which an attempt resumed from a checkpoint."""
    return sorted({one.progress.started_epoch for one in entry.record.runs if one.progress} - {0})


def _finish(axes: Axes, keys: Sequence[str], curve: LearningCurve, resumed: Sequence[int]) -> None:
    """Mark where stages and attempts begin, and add the epoch axis and the legend above the data."""
    present = curve.epochs[np.any([np.isfinite(curve.values[key]) for key in keys], axis=0)]
    earlier = len(present) > 0 and present.max() <= curve.before  # measured before the last stage only
    first, last = (curve.epochs[0], curve.before) if earlier else (curve.epochs[0], curve.epochs[-1])
    for name, start, end in curve.stages[:-1]:
        if earlier and len(curve.stages) == 2:
            axes.set_title(plain(f"in stage {name}"), loc="right", fontsize=7.5, color=BASELINE)
        else:
            axes.axvspan(start - 0.5, end + 0.5, color="#f0e9d8", linewidth=0, zorder=0)
            axes.text((start + end) / 2, 0.5, plain(name), transform=axes.get_xaxis_transform(), rotation=90,
                      ha="center", va="center", fontsize=7, color=BASELINE)  # fmt: skip
    for number, epoch in enumerate(one for one in resumed if first <= one + 0.5 <= last):
        axes.axvline(epoch + 0.5, color=COLOURS[3], linewidth=0.8, linestyle=(0, (4, 2)),
                     label="resumed" if number == 0 else None)  # fmt: skip
    margin = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2, borderaxespad=0, borderpad=0.2,
                    columnspacing=1.2, handlelength=1.8)  # fmt: skip


def _heading(entry: RoundEntry, curve: LearningCurve, inches: float) -> str:
    lines = textwrap.wrap(entry.path.replace("/", "/ "), round(LETTERS * inches))  # wrapped after a slash
    return plain(
        "\n".join([*(line.replace("/ ", "/") for line in lines), f"{_state(entry)}, {_how_far(entry, curve)}"])
    )


def _state(entry: RoundEntry) -> str:
    return str(entry.state).replace("_", " ")


def _how_far(entry: RoundEntry, curve: LearningCurve) -> str:
    done, planned = len(curve.epochs), planned_epochs(entry)
    return f"{done} of {planned} epochs" if planned else counted(done, "epoch")


def planned_epochs(entry: RoundEntry) -> int | None:
    """The planned number of epochs over all stages, if it was reported."""
    shown = entry.status.shown
    return shown.progress.epochs if shown and shown.progress else None


def _table(metrics: RunMetrics, curve: LearningCurve, bands: Mapping[str, Band]) -> list[dict[str, Any]]:
    """The epochs as they are in metrics.json, with the baseline's mean, minimum, maximum and count."""
    reference: dict[float, dict[str, Any]] = {}
    for key, band in bands.items():
        for epoch, *values, count in zip(band.epochs, band.mean, band.low, band.high, band.count, strict=True):
            names = (f"baseline_{key}_{what}" for what in ("mean", "min", "max"))
            row = dict(zip(names, map(float, values), strict=True))
            reference.setdefault(float(epoch), {}).update(row, **{f"baseline_{key}_n": int(count)})
    pairs = zip(metrics.epochs, curve.epochs.tolist(), strict=True)
    return [{"stage": row.get("stage"), "epoch": row.get("epoch", epoch), **row, **reference.get(epoch, {})}
            for row, epoch in pairs]  # fmt: skip


def _caption(entry: RoundEntry, curve: LearningCurve, bands: Mapping[str, Band], baseline: Sequence[RoundEntry]) -> str:
    sentences = [f"Learning curves of {entry.path} ({_state(entry)}, {_how_far(entry, curve)})."]
    if bands:
        seeds = max(int(band.count.max()) for band in bands.values())
        runs = counted(seeds, "experiment")
        sentences.append(f"Grey: mean and range of its baseline, group {baseline[0].group} ({runs}).")
        if curve.before:
            sentences.append(f"The baseline is drawn from where stage {curve.stages[-1][0]} begins.")
    else:
        sentences.append("No baseline to compare with.")
    if len(curve.stages) > 1:
        earlier = ", ".join(name for name, _, _ in curve.stages[:-1])
        sentences.append(f"Shaded: {earlier}, before the main training stage.")
    if _resumed(entry):
        sentences.append(f"Resumed after epoch {', '.join(map(str, _resumed(entry)))}.")
    return " ".join(sentences)
