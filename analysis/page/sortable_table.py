"""The table of experiments for the page's script: columns, rows, and the content of each row's dialog."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.gpu_use import gpu_use_of
from analysis.round_summary import ExperimentSummary
from analysis.rounds import early_end
from roundhouse.formatting import date_and_time
from roundhouse.metrics import Declarations, Metric
from roundhouse.model.attempt import EPOCH, STEP, Attempt, Claim
from roundhouse.store.metrics import finite

if TYPE_CHECKING:
    from analysis.page import ReportFigure

FINALS = 6  # final metrics that get a column; the rest are in the dialog
CONFIGS = 12  # config keys that get one


def amount(metric: Metric, value: float | None) -> str:
    """The value of a metric as text, with its unit."""
    if value is None:
        return "unknown"
    return spaced(f"{metric.factor * value:{digits(metric)}}", metric.shown_unit)


def digits(metric: Metric) -> str:
    """How the values of a metric are rounded, as a format."""
    return ".2f" if metric.percent else ".4g"


def spaced(number: str, unit: str) -> str:
    """A number and its unit, which stay on one line."""
    return f"{number}\u00a0{unit}" if unit else number


def table(
    summaries: Sequence[ExperimentSummary], declared: Declarations, curves: Mapping[str | None, ReportFigure]
) -> dict[str, Any]:
    """Columns, rows and details, as plain data for JSON.

    A column has `key`, `label` and `kind` (text, state, number, share, hours, epochs); one without content is left out.
    A row is a value for each column; its details are the further content of its dialog.
    """
    finals = list(dict.fromkeys(name for one in summaries for name in one.metrics.final))
    finals = [name for name in finals if name not in declared.references]
    results = declared.results_in(finals)
    finals.sort(key=lambda name: name not in results)
    varying, shared = _varying(summaries)
    columns, values = _columns(summaries, declared, finals[:FINALS], varying[:CONFIGS])
    return {
        "columns": columns,
        "rows": [list(row) for row in zip(*values, strict=True)],
        "shared": {key: _text(value) for key, value in shared.items()},
        "details": [_details(one, set(varying), curves.get(one.entry.path)) for one in summaries],
    }


def _columns(
    summaries: Sequence[ExperimentSummary], declared: Declarations, finals: Sequence[str], varying: Sequence[str]
) -> tuple[list[dict[str, Any]], list[list[Any]]]:
    """The columns, and for each its values, in the order of the experiments."""
    metrics = list(dict.fromkeys(one.metric for one in summaries if one.metric))
    best = metrics[0] if len(metrics) == 1 else ""
    columns: list[dict[str, Any]] = []
    values: list[list[Any]] = []

    def add(key: str, label: str, kind: str, cells: Iterable[Any]) -> None:
        listed = [_plain(cell) for cell in cells]
        if key in ("path", "state") or any(cell is not None for cell in listed):
            columns.append({"key": key, "label": label, "kind": kind})
            values.append(listed)

    add("path", "experiment", "text", (one.entry.path for one in summaries))
    add("state", "state", "state", (str(one.entry.state) for one in summaries))
    units = {one.unit for one in summaries if one.done or one.planned}
    unit = units.pop() if len(units) == 1 else ""
    done = ([one.done, one.planned] if one.progress else None for one in summaries)
    add("epochs", f"{unit}s" if unit else f"{EPOCH}s or {STEP}s", "epochs", done)
    if not best:
        add("metric", "metric", "text", (one.metric for one in summaries))
    label = f"best {declared.axis(best)}" if best else "best"
    add("best", label, _kind(declared.of(best)), (one.best for one in summaries))
    for name in finals:
        cells = [one.metrics.final.get(name) for one in summaries]
        add(f"final.{name}", declared.axis(name), _kind(declared.of(name)), cells)
    add("hours", "time (h)", "hours", (one.entry.seconds / 3600 if one.entry.spans else None for one in summaries))
    if any(one.entry.experiment.resources.ngpus for one in summaries):
        hours = (one.entry.seconds / 3600 * one.entry.experiment.resources.ngpus for one in summaries)
        add("gpu_hours", "GPU-hours", "hours", (value or None for value in hours))
    add("pace", f"time/{unit or f'{EPOCH} or {STEP}'} (s)", "number", (one.pace for one in summaries))
    add("memory", "peak memory (GB)", "number", map(_memory, summaries))
    uses = [gpu_use_of(one.entry) for one in summaries]
    add("gpu_use", "GPU utilization (%)", "number", (use and use.utilization for use in uses))
    add("gpu_memory", "GPU memory (GB)", "number", (use and _gb(use.memory_mb) for use in uses))
    add("gpu_power", "GPU power (W)", "number", (use and use.power_w for use in uses))
    add("attempts", "attempts", "number", (one.entry.counted_attempts for one in summaries))
    add("group", "group", "text", (one.entry.group for one in summaries))
    for key in varying:
        cells = [one.entry.config.get(key) for one in summaries]
        numbers = all(cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, bool)) for cell in cells)
        shown = cells if numbers else [None if cell is None else _text(cell) for cell in cells]
        add(f"config.{key}", key, "number" if numbers else "text", shown)
    return columns, values


def _memory(one: ExperimentSummary) -> float | None:
    """The most memory that the run has used, in GB; of a run without final numbers, in its epochs so far."""
    reports = [one.metrics.used, *one.metrics.epochs]
    known = [value for value in (finite(report.get("peak_memory_mb")) for report in reports) if value > 0]
    return _gb(max(known, default=None))


def _gb(megabytes: float | None) -> float | None:
    return None if megabytes is None else megabytes / 1000


def _kind(metric: Metric) -> str:
    return "share" if metric.percent else "number"


def _varying(summaries: Sequence[ExperimentSummary]) -> tuple[list[str], dict[str, Any]]:
    """The config keys in which experiments differ, seed included; and the common keys with their values."""
    configs = [one.entry.config for one in summaries]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    shown = {key: {_text(config[key]) if key in config else None for config in configs} for key in keys}
    shared = {key: configs[0][key] for key in keys if len(shown[key]) == 1}
    return [key for key in keys if key not in shared], shared


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    """A JSON value: infinities, NaN and the empty text become None."""
    return None if value == "" or (isinstance(value, float) and not math.isfinite(value)) else value


def _details(one: ExperimentSummary, varying: set[str], curve: ReportFigure | None) -> dict[str, Any]:
    """The content of the dialog: config, all final metrics, attempts, learning curve."""
    declared = one.entry.declared
    shown: dict[str, Any] = {
        "reason": ", ".join(filter(None, [one.entry.reason, *early_end(one.metrics)])),
        "directory": str(one.entry.directory),
        "config": {key: _text(value) for key, value in one.entry.config.items() if key in varying},
        "final": {
            declared.axis(name): f"{declared.of(name).factor * value:{digits(declared.of(name))}}"
            for name, value in one.metrics.final.items()
        },
        "attempts": [_attempt(attempt) for attempt in one.entry.record.attempts],
    }
    if curve:
        shown["curve"] = {
            "title": curve.title, "image": curve.image, "data": curve.data, "caption": curve.caption, "alt": curve.alt,
            "size": curve.size,
        }  # fmt: skip
    return shown


def _attempt(attempt: Attempt) -> list[str]:
    """Number, outcome, reason, host, start (UTC)."""
    claim = attempt.claim
    if attempt.opened.mark is not None:
        outcome = f"{attempt.opened.mark} (no run)"
    elif attempt.closed:
        outcome = str(attempt.cause or "ended")
    else:
        outcome = "running" if claim else "queued"
    return [str(attempt.number), outcome, attempt.why, claim.host if claim else "", _started(claim) if claim else ""]


def _started(claim: Claim) -> str:
    if claim.void or not claim.started:
        return ""
    try:
        return date_and_time(claim.started)
    except (ValueError, OverflowError, OSError):
        return ""
