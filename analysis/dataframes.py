"""Rounds as pandas DataFrames: a row for each experiment, or for each of its epochs or recorded steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.gpu_use import columns_of
from analysis.result_metric import ResultMetric, result_metrics
from analysis.rounds import Folders, RoundEntry, RoundRecords, early_end, metrics_of, read_round
from roundhouse.model.attempt import EPOCH, STEP
from roundhouse.store import history
from roundhouse.store.metrics import RunMetrics

HEAD = ("path", "group", "study", "state", "cause", "reason")
NO_EPOCHS = ["path", "stage", "epoch"]


def load_round(name: str, folders: Folders | None = None) -> pd.DataFrame:
    """A round as a DataFrame: a row for each experiment, started or not, in the order of the round file.

    Columns: `path`, `group`, `study`, `state`, `cause`, `reason`; the keys of the config by their names, with
    `config_` in front where a name is taken; the final metrics by their names; `attempts` (without markers), `unit`
    (epoch or step, what the run counts), `epochs_done`, `epochs_planned`, `steps_done`, `steps_planned`, `metric_name`,
    `best`, `result_name` (the metric shown as the result of its group), `result`; `started`, `ended` (UTC), `hours`,
    `gpu_hours`, `seconds_per_epoch`, `seconds_per_step`, `peak_memory_mb`; `host`, `device`, `commit`, `exact`,
    `ended_early` (why training ended early), `directory`; if any run has them, `gpu_utilization` (per cent),
    `gpu_memory_mb`, `gpu_power_w`. Unknown values are NaN or None. `frame.attrs["problems"]`
    lists what could not be read, `frame.attrs["notes"]` what else was left out. RoundhouseError: no records of such a
    round.
    """
    return frame_of(read_round(name, folders))


def load_metrics(name: str, folders: Folders | None = None) -> pd.DataFrame:
    """The metrics of all epochs (or steps) of all experiments of a round.

    Columns: `path`, `stage`, `epoch` or `step` or both, and the measured keys, NaN where an entry lacks one.
    """
    return epochs_of(read_round(name, folders))


def frame_of(found: RoundRecords) -> pd.DataFrame:
    """`load_round` for a round that is already loaded."""
    problems = list(found.problems)
    heads, configs, finals, facts = [], [], [], []
    members = [(entry, metrics_of(entry, problems)) for entry in found.entries]
    shown = result_metrics(members, found)
    for entry, metrics in members:
        known = facts_of(entry, metrics, shown[entry.group])
        heads.append({key: known.pop(key) for key in HEAD})
        facts.append(known)
        configs.append(entry.config)
        finals.append({key: value for key, value in metrics.final.items() if key not in HEAD and key not in known})
    taken = {*HEAD, *(key for one in (*facts, *finals) for key in one)}
    named = [{f"config_{key}" if key in taken else key: value for key, value in one.items()} for one in configs]
    rows = zip(heads, named, finals, facts, strict=True)
    columns = dict.fromkeys(key for part in (heads, named, finals, facts) for one in part for key in one)
    frame: pd.DataFrame = pd.DataFrame([{**a, **b, **c, **d} for a, b, c, d in rows], columns=list(columns))
    frame.attrs |= {"problems": problems, "notes": list(found.notes)}
    return frame


def epochs_of(found: RoundRecords) -> pd.DataFrame:
    """`load_metrics` for a round that is already loaded."""
    problems = list(found.problems)
    rows: list[dict[str, Any]] = []
    for entry in found.entries:
        rows += [{"path": entry.path, **epoch} for epoch in metrics_of(entry, problems).epochs]
    frame: pd.DataFrame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=NO_EPOCHS)
    frame.attrs |= {"problems": problems, "notes": list(found.notes)}
    return frame


def facts_of(entry: RoundEntry, metrics: RunMetrics, shown_as: ResultMetric | None) -> dict[str, Any]:
    """The columns of one experiment without its config and its final metrics. `shown_as`: the metric of its result."""
    shown, environments = entry.status.shown, history.environments(entry.directory)
    environment: Mapping[str, Any] = environments.get(shown.number, {}) if shown else {}
    progress = shown.progress if shown else None
    steps = progress.counter(STEP) if progress else None
    spans, unit = entry.spans, progress.unit if progress else EPOCH
    whole = [one for one in metrics.epochs if unit == EPOCH and one.get("partial") is not True]
    seconds = [one["seconds"] for one in whole if isinstance(one.get("seconds"), (int, float))]
    completed = entry.record.completed
    return {
        "path": entry.path,
        "group": entry.group,
        "study": entry.experiment.study,
        "state": str(entry.state),
        "cause": str(shown.cause) if shown and shown.cause else None,
        "reason": entry.reason,
        "attempts": len(entry.record.runs),
        "unit": unit,
        "epochs_done": progress.epoch if progress else len(whole),
        "epochs_planned": progress.epochs if progress else None,
        "steps_done": progress.step if progress else None,
        "steps_planned": steps.planned if steps else None,
        "metric_name": (progress.metric_name if progress else None) or metrics.metric,
        "best": progress.best if progress else metrics.best,
        "result_name": shown_as.result if shown_as else None,
        "result": metrics.value(shown_as.result) if shown_as else None,
        "started": moment(spans[0][0] if spans else None),
        "ended": moment(spans[-1][1] if spans and completed else None),
        "hours": entry.seconds / 3600,
        "gpu_hours": entry.gpu_hours,
        "seconds_per_epoch": float(pd.Series(seconds).median()) if seconds else float("nan"),
        "seconds_per_step": steps.seconds if steps and steps.seconds is not None else float("nan"),
        "peak_memory_mb": metrics.used.get("peak_memory_mb", float("nan")),
        "host": environment.get("host"),
        "device": environment.get("model") or environment.get("device"),
        "commit": environment.get("commit"),
        "exact": metrics.exact,
        "ended_early": ", ".join(early_end(metrics)) or None,
        "directory": str(entry.directory),
        **columns_of(entry),
    }


def moment(seconds: float | None) -> pd.Timestamp | None:
    """A time in seconds since 1970 as a date in UTC; None if there is none, or if it is out of range."""
    try:
        return pd.Timestamp(seconds, unit="s", tz="UTC") if seconds and math.isfinite(seconds) else None
    except (ValueError, OverflowError):
        return None
