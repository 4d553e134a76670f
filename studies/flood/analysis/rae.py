"""Relative absolute errors (RAE) of all settings on all splits: from final metrics, and from the arrays of samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.comparison import mean_interval
from analysis.saved_arrays import arrays_in
from roundhouse.errors import RoundhouseError
from studies.flood.analysis.convergence import cell
from studies.flood.analysis.names import PERSISTENCE, SETS, SPLITS
from studies.flood.analysis.results import COARSE, EVALUATION, TRAINING, FloodResults, Run, Setting

Floats = NDArray[np.float64]
ENDINGS = ("lower", "upper", "below", "dropped")


@dataclass(frozen=True)
class SeedErrors:
    """The errors of one run on one split. `values` (N,): of each sample in which something changes."""

    run: Run
    values: Floats
    median: float
    lower: float
    upper: float
    below: float
    dropped: float


@dataclass(frozen=True)
class SettingErrors:
    """The errors of a setting on one split of one set, of each seed."""

    setting: Setting
    flood_set: str
    split: str
    seeds: tuple[SeedErrors, ...]

    @property
    def medians(self) -> list[float]:
        return [one.median for one in self.seeds if math.isfinite(one.median)]

    @property
    def pooled(self) -> Floats:
        """The samples of all seeds together: each sample counts once for each seed."""
        return np.concatenate([one.values for one in self.seeds]) if self.seeds else np.empty(0)


def quartiles(values: Floats) -> tuple[float, float, float, float]:
    """Median, lower and upper quartile of values (N,), and the share below 1; NaN for none."""
    if not len(values):
        return (math.nan,) * 4
    lower, median, upper = (float(one) for one in np.quantile(values, (0.25, 0.5, 0.75)))
    return median, lower, upper, float((values < 1).mean())


def all_errors(results: FloodResults, problems: list[str]) -> list[SettingErrors]:
    """Of all settings with a completed run, on all splits that it has. Unreadable arrays are lines in `problems`."""
    made = []
    for setting in results.settings:
        for flood_set, split, metric, array in _places(setting):
            seeds = [found for run in setting.completed if (found := _of_run(run, metric, array, problems))]
            if seeds:
                made.append(SettingErrors(setting, flood_set, split, tuple(seeds)))
    return made


def _places(setting: Setting) -> Iterator[tuple[str, str, str, str]]:
    """Set, split, name of the final metric and name of the array, of what this task measures."""
    if setting.task == TRAINING:
        yield from ((setting.flood_set, split, f"{split}_rae", f"{split}_rae") for split in SPLITS)
    elif setting.task == EVALUATION:
        yield from ((one, split, f"{one}_{split}_rae", f"{one}_{split}_rae") for one in SETS for split in SPLITS)
    elif setting.task == COARSE:
        yield setting.flood_set, "test", "test_rae", f"{setting.flood_set}_test_rae"


def _of_run(run: Run, metric: str, array: str, problems: list[str]) -> SeedErrors | None:
    """None: the run has neither the metric nor the array. Where a metric is missing, the array gives it."""
    values = _array(run, array, problems)
    median, lower, upper, below = quartiles(values)
    found = {name: run.value(f"{metric}_{name}") for name in ENDINGS}
    measured = {"lower": lower, "upper": upper, "below": below, "dropped": math.nan}
    known = {name: value if math.isfinite(value) else measured[name] for name, value in found.items()}
    final = run.value(metric)
    if not math.isfinite(final) and not len(values):
        return None
    return SeedErrors(run, values, final if math.isfinite(final) else median, **known)


def _array(run: Run, name: str, problems: list[str]) -> Floats:
    """The finite values of an array (N,) of a run; empty if it has none."""
    if run.entry.outputs_file is None:
        return np.empty(0)
    try:
        with arrays_in(run.entry.outputs_file, f"outputs.npz of {run.path}") as saved:
            found = np.asarray(saved[name], dtype=np.float64).ravel() if name in saved else np.empty(0)
    except RoundhouseError as error:
        if str(error) not in problems:
            problems.append(str(error))
        return np.empty(0)
    return found[np.isfinite(found)]


# ---------------------------------------------------------------------------------------------------------- the table


def table(errors: Sequence[SettingErrors], results: FloodResults) -> list[dict[str, Any]]:
    """A row for each seed, and one for all seeds together, of each setting and split; then persistence.

    For all seeds: `median`, quartiles and `below` are of the pooled samples; `mean_of_medians` is over seeds, with its
    95 % interval, by which settings are compared. `dropped` is the same for every seed: what is true decides.
    """
    rows = [row for one in errors for row in (*(_seed_row(one, seed) for seed in one.seeds), _all_row(one))]
    sets = dict.fromkeys((one.flood_set, one.split) for one in errors)
    return rows + [{"stage": "", "setting": PERSISTENCE, "set": flood_set, "split": split, "median": 1.0, "lower": 1.0,
                    "upper": 1.0, "below": 0.0} for flood_set, split in sets]  # fmt: skip


def _head(one: SettingErrors) -> dict[str, Any]:
    setting = one.setting
    return {"stage": setting.stage, "setting": setting.label, "architecture": setting.architecture,
            "set": one.flood_set, "split": one.split}  # fmt: skip


def _seed_row(one: SettingErrors, seed: SeedErrors) -> dict[str, Any]:
    shown = {name: cell(getattr(seed, name)) for name in ("median", "lower", "upper", "below", "dropped")}
    return {**_head(one), "seed": seed.run.seed, "samples": len(seed.values) or "", **shown}


def _all_row(one: SettingErrors) -> dict[str, Any]:
    median, lower, upper, below = quartiles(one.pooled)
    medians = one.medians
    interval = mean_interval(medians)
    dropped = [seed.dropped for seed in one.seeds if math.isfinite(seed.dropped)]
    return {
        **_head(one), "seed": "all", "samples": len(one.pooled) or "", "median": cell(median), "lower": cell(lower),
        "upper": cell(upper), "below": cell(below), "dropped": max(dropped, default=""), "seeds": len(one.seeds),
        "mean_of_medians": cell(statistics.fmean(medians)) if medians else "", "low_95": cell(interval.low),
        "high_95": cell(interval.high),
    }  # fmt: skip
