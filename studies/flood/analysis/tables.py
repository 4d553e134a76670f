"""The table of all runs that train, evaluate or solve coarsely, with all their final metrics."""

from __future__ import annotations

from typing import Any

from studies.flood.analysis.convergence import cell, ended
from studies.flood.analysis.results import COARSE, EVALUATION, TRAINING, VAL_LOSS, FloodResults, Run, Setting


def runs_table(results: FloodResults) -> list[dict[str, Any]]:
    """A row for each run, completed or not."""
    shown = [one for one in results.settings if one.task in (TRAINING, EVALUATION, COARSE)]
    return [_row(setting, run) for setting in shown for run in setting.runs]


def _row(setting: Setting, run: Run) -> dict[str, Any]:
    row = {
        "path": run.path, "stage": setting.stage, "group": setting.group, "setting": setting.label,
        "architecture": setting.architecture, "set": setting.flood_set, "seed": run.seed, "state": run.status,
        "epochs": len(run.rows) or "", "ended": ended(run) if setting.task == TRAINING else "",
        "best_epoch": run.metrics.best_epoch or "", "best_val_loss": cell(run.value(VAL_LOSS)),
        "train_seconds": run.metrics.used.get("train_seconds", ""),
    }  # fmt: skip
    return row | dict(run.final)
