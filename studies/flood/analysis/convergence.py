"""Convergence of every training: a row for each run, a figure for each stage, a sentence for each setting."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from analysis import style
from analysis.learning_curves import DrawnFigure
from roundhouse.formatting import counted
from roundhouse.model.plan import State
from studies.flood.analysis import monitor
from studies.flood.analysis.monitor import RULES, Convergence
from studies.flood.analysis.results import LOSS, VAL_LOSS, FloodResults, Run, Setting

Rows = list[dict[str, Any]]
ALL_EPOCHS = "all epochs"
MARKS = {monitor.CONVERGED: "o", monitor.FALLING: "v", monitor.OVERFITTING: "^", monitor.DIVERGED: "X",
         monitor.TOO_SHORT: "s"}  # fmt: skip
COLUMNS = (
    ("best epoch / epochs", "best_share"),
    ("gap / validation loss (%)", "relative_gap"),
    ("trend (% per epoch)", "trend"),
)


def convergence_of(run: Run) -> Convergence | None:
    """Of the epochs that it has recorded; None: it has none."""
    pairs = [(row.get(LOSS), row.get(VAL_LOSS)) for row in run.rows if LOSS in row and VAL_LOSS in row]
    if not pairs:
        return None
    training, validation = zip(*((_number(one), _number(other)) for one, other in pairs), strict=True)
    return monitor.monitor(training, validation, diverged=run.state is State.DIVERGED)


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def ended(run: Run) -> str:
    """Why a training stopped: `early stopping`, `all epochs`, why it diverged, or its state if it goes on."""
    if run.state is State.DIVERGED:
        return str(run.metrics.diverged.get("why") or "diverged")
    if not run.completed:
        return run.status
    return run.metrics.ended or ALL_EPOCHS


def table(results: FloodResults) -> Rows:
    """A row for each training that has recorded an epoch. Losses and gaps in m; shares and slopes as they are."""
    return [_row(setting, run, found) for settings in results.trained.values() for setting in settings
            for run in setting.runs if (found := convergence_of(run))]  # fmt: skip


def _row(setting: Setting, run: Run, found: Convergence) -> dict[str, Any]:
    return {
        "stage": setting.stage, "setting": setting.label, "architecture": setting.architecture, "seed": run.seed,
        "path": run.path, "state": run.status, "epochs": found.epochs, "ended": ended(run),
        "verdict": found.verdict, "best_epoch": found.best_epoch or "", "best_validation_loss": cell(found.best),
        "gap_at_best": cell(found.gap_at_best), "gap_at_end": cell(found.gap_at_end),
        "relative_gap_at_best": cell(found.relative_gap), "window": found.window,
        "trend_per_epoch": cell(found.trend), "trend_error": cell(found.trend_error), "rise": cell(found.rise),
        "training_rise": cell(found.training_rise),
    }  # fmt: skip


def cell(value: float) -> float | str:
    """A number, or an empty cell."""
    return value if math.isfinite(value) else ""


# --------------------------------------------------------------------------------------------------------- the figure


def figure(results: FloodResults, stage: str) -> DrawnFigure | None:
    """A row for each setting, a mark for each seed: best epoch, gap, and trend of the validation loss."""
    shown = [(one, found) for one in results.trained[stage]
             if (found := [made for run in one.runs if (made := convergence_of(run))])]  # fmt: skip
    if not shown:
        return None
    height = 1.0 + 0.19 * len(shown)
    drawn, places = style.panels(3, width=style.PRINT_WIDTH / 3, height=height, share_y=True)
    for axes, (label, name) in zip(places, COLUMNS, strict=True):
        for place, (_, found) in enumerate(shown):
            for number, one in enumerate(found):
                _mark(axes, name, place + 0.16 * (number - (len(found) - 1) / 2), one)
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        if name != "best_share":
            axes.axvline(0, color=style.BASELINE, linewidth=0.8)
    places[0].set_xlim(0, 1.04)
    places[0].set_yticks(range(len(shown)), [one.label for one, _ in shown])
    places[0].set_ylim(len(shown) - 0.5, -0.5)
    style.legend_below(drawn, places, row=0.17)
    rows = [row for row in table(results) if row["stage"] == stage]
    caption = (
        "A mark for each seed; its shape is the verdict. Gap: validation minus training loss, at the best epoch "
        "(filled) and at the end (open), as a share of the best validation loss. Trend: slope of the validation loss "
        f"over the last window. {RULES}"
    )
    return DrawnFigure(drawn, rows, f"Convergence of stage {stage}", caption)


def _mark(axes: Axes, name: str, place: float, one: Convergence) -> None:
    marker = MARKS[one.verdict]
    colour = style.COLOURS[list(MARKS).index(one.verdict)]
    look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "linestyle": ""}
    if name == "best_share":
        axes.plot([one.best_epoch / one.epochs], [place], label=one.verdict, **look)
    elif name == "trend":
        axes.plot([100 * one.trend], [place], label=one.verdict, **look)
    else:
        axes.plot([100 * one.relative_gap], [place], label=one.verdict, **look)
        axes.plot([100 * one.gap_at_end / one.best], [place], **{**look, "markerfacecolor": "white"})


# ------------------------------------------------------------------------------------------------------ the sentences


def sentence(settings: Sequence[Setting]) -> str:
    """How the trainings of an architecture went, a part for each stage; empty if none has recorded an epoch."""
    return "; ".join(part for one in settings if (part := _part(one)))


def _part(setting: Setting) -> str:
    """`C (lr 0.0003): 2 of 3 converged, 1 overfitting; best epoch 80 to 98 of 120; gap 12 % (8 to 15); ended: ..`"""
    found = [(run, made) for run in setting.runs if (made := convergence_of(run))]
    if not found:
        return ""
    verdicts = Counter(one.verdict for _, one in found)
    ways = Counter(ended(run) for run, _ in found)
    best, epochs = [one.best_epoch for _, one in found], [one.epochs for _, one in found]
    gaps = [100 * one.relative_gap for _, one in found if math.isfinite(one.relative_gap)]
    parts = [
        ", ".join(f"{count} of {len(found)} {verdict}" for verdict, count in verdicts.most_common()),
        f"best epoch {_range(best)} of {_range(epochs)}",
    ]
    if gaps:
        spread = f" ({min(gaps):.0f} to {max(gaps):.0f})" if len(gaps) > 1 else ""
        parts.append(f"gap {statistics.fmean(gaps):.0f} %{spread}")
    parts.append("ended by " + ", ".join(way if len(ways) == 1 else f"{way} ({count})" for way, count in ways.items()))
    changed = ", ".join(f"{key} {value}" for key, value in setting.changed.items())
    return f"{setting.stage}{f' ({changed})' if changed else ''}: {', '.join(parts)}"


def _range(values: Sequence[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def overview(results: FloodResults) -> str:
    """`Of 42 trainings, 40 converged, 2 still falling.`"""
    rows = table(results)
    verdicts = Counter(row["verdict"] for row in rows)
    return f"Of {counted(len(rows), 'training')}: " + ", ".join(f"{n} {one}" for one, n in verdicts.most_common())
