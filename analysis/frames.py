"""Rounds as pandas DataFrames: a row for each experiment, or for each of its epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.rounds import Entry, Metrics, Place, RoundRecords, metrics_of, read_round
from roundhouse.store import record
from roundhouse.views import measured

HEAD = ("path", "group", "study", "state", "cause", "reason")
NO_EPOCHS = ["path", "stage", "epoch"]


def load_round(name: str, place: Place | None = None) -> pd.DataFrame:
    """A round as a DataFrame, a row for each experiment, in the order of the round file; those not begun too.

    Columns: `path`, `group`, `study`, `state`, `cause`, `reason`; the keys of the config by their names, with
    `config_` in front where a name is taken; `attempts` (runs, marks apart), `epochs_done`, `epochs_planned`,
    `metric_name`, `best`; the final metrics by their names; `started`, `ended` (UTC), `hours`, `gpu_hours`,
    `seconds_per_epoch`, `peak_memory_mb`; `host`, `device`, `commit`, `exact`, `directory`. What is not known is NaN
    or None. `frame.attrs["problems"]` lists what could not be read. RoundhouseError: no records of such a round.
    """
    return frame_of(read_round(name, place))


def load_metrics(name: str, place: Place | None = None) -> pd.DataFrame:
    """The metrics of all epochs of all experiments of a round: `path`, `stage`, `epoch`, and whatever was measured."""
    return epochs_of(read_round(name, place))


def frame_of(found: RoundRecords) -> pd.DataFrame:
    """`load_round` of a round that has been read."""
    problems = list(found.problems)
    heads, configs, finals, facts = [], [], [], []
    for entry in found.entries:
        metrics = metrics_of(entry, problems)
        told = facts_of(entry, metrics)
        heads.append({key: told.pop(key) for key in HEAD})
        facts.append(told)
        configs.append(entry.config)
        finals.append({key: value for key, value in metrics.final.items() if key not in HEAD and key not in told})
    taken = {*HEAD, *(key for one in (*facts, *finals) for key in one)}
    named = [{f"config_{key}" if key in taken else key: value for key, value in one.items()} for one in configs]
    rows = zip(heads, named, finals, facts, strict=True)
    columns = dict.fromkeys(key for part in (heads, named, finals, facts) for one in part for key in one)
    frame: pd.DataFrame = pd.DataFrame([{**a, **b, **c, **d} for a, b, c, d in rows], columns=list(columns))
    frame.attrs["problems"] = problems
    return frame


def epochs_of(found: RoundRecords) -> pd.DataFrame:
    """`load_metrics` of a round that has been read."""
    problems = list(found.problems)
    rows: list[dict[str, Any]] = []
    for entry in found.entries:
        rows += [{"path": entry.path, **epoch} for epoch in metrics_of(entry, problems).epochs]
    frame: pd.DataFrame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=NO_EPOCHS)
    frame.attrs["problems"] = problems
    return frame


def facts_of(entry: Entry, metrics: Metrics) -> dict[str, Any]:
    """What is known of one experiment besides its config and its final metrics."""
    row = entry.row
    shown, environments = row.shown, record.environments(entry.directory)
    environment: Mapping[str, Any] = environments.get(shown.number, {}) if shown else {}
    progress = shown.progress if shown else None
    spans = spans_of(entry)
    seconds = [one["seconds"] for one in metrics.epochs if isinstance(one.get("seconds"), (int, float))]
    completed = row.record.completed
    return {
        "path": entry.path,
        "group": entry.group,
        "study": row.experiment.study,
        "state": str(entry.state),
        "cause": str(shown.cause) if shown and shown.cause else None,
        "reason": entry.reason,
        "attempts": len(row.record.runs),
        "epochs_done": progress.epoch if progress else len(metrics.epochs),
        "epochs_planned": progress.epochs if progress else None,
        "metric_name": (progress.metric_name if progress else None) or metrics.metric,
        "best": progress.best if progress else metrics.best,
        "started": moment(spans[0][0] if spans else None),
        "ended": moment(spans[-1][1] if spans and completed else None),
        "hours": sum(end - start for start, end in spans) / 3600,
        "gpu_hours": sum(end - start for start, end in spans) / 3600 * row.experiment.resources.ngpus,
        "seconds_per_epoch": float(pd.Series(seconds).median()) if seconds else float("nan"),
        "peak_memory_mb": metrics.used.get("peak_memory_mb", float("nan")),
        "host": environment.get("host"),
        "device": environment.get("model") or environment.get("device"),
        "commit": environment.get("commit"),
        "exact": metrics.exact,
        "directory": str(entry.directory),
    }


def spans_of(entry: Entry) -> list[tuple[float, float]]:
    """When its attempts ran: (start, end) in seconds since 1970. The end of one that is open is its last sign of life.

    An attempt whose job left no result counts to the moment at which a pass closed it, an upper bound.
    """
    return measured.spans(entry.row.record)


def moment(seconds: float | None) -> pd.Timestamp | None:
    """A time in seconds since 1970, as a date in UTC; None for none, and for what is no date."""
    try:
        return pd.Timestamp(seconds, unit="s", tz="UTC") if seconds and math.isfinite(seconds) else None
    except (ValueError, OverflowError):
        return None
