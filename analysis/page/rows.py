"""The table of experiments as the page's script draws it: columns, rows, and what a row's dialog tells."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.standing import Known
from roundhouse.formatting import date_and_time
from roundhouse.model.attempt import Attempt, Claim

if TYPE_CHECKING:
    from analysis.page import Figure

FINALS = 6  # final metrics that get a column; the rest are in the dialog
CONFIGS = 12  # config keys that get one


def is_share(name: str) -> bool:
    """Whether a metric of this name is a share of 1, to be told in percent."""
    return name.endswith("accuracy")


def amount(name: str, value: float | None) -> str:
    """A metric's value for people, with its unit."""
    if value is None:
        return "not known"
    return f"{100 * value:.2f}\u00a0%" if is_share(name) else f"{value:.4g}"


def table(known: Sequence[Known], curves: Mapping[str | None, Figure]) -> dict[str, Any]:
    """Columns, rows and details, as plain data for JSON.

    A column has `key`, `label`, `kind` (text, state, number, share, epochs) and `low`, whether a small screen leaves
    it out. A row is a value for each column; its details are what its dialog tells besides.
    """
    finals = list(dict.fromkeys(name for one in known for name in one.metrics.final if name != "chance_accuracy"))
    finals.sort(key=lambda name: not name.startswith("test_"))
    varying, shared = _varying(known)
    columns, values = _columns(known, finals[:FINALS], varying[:CONFIGS])
    return {
        "columns": columns,
        "rows": [[_plain(cell) for cell in row] for row in zip(*values, strict=True)],
        "shared": {key: _text(value) for key, value in shared.items()},
        "details": [_details(one, set(varying), curves.get(one.entry.path)) for one in known],
    }


def _columns(
    known: Sequence[Known], finals: Sequence[str], varying: Sequence[str]
) -> tuple[list[dict[str, Any]], list[list[Any]]]:
    """The columns, and for each its values, in the order of the experiments."""
    metrics = list(dict.fromkeys(one.metric for one in known if one.metric))
    best = metrics[0] if len(metrics) == 1 else ""
    columns: list[dict[str, Any]] = []
    values: list[list[Any]] = []

    def add(key: str, label: str, kind: str, cells: Iterable[Any], low: bool = True) -> None:
        listed = list(cells)
        if key in ("path", "state") or any(cell is not None for cell in listed):
            columns.append({"key": key, "label": label, "kind": kind, "low": low})
            values.append(listed)

    add("path", "experiment", "text", (one.entry.path for one in known), False)
    add("state", "state", "state", (str(one.entry.state) for one in known), False)
    add("epochs", "epochs", "epochs", ([one.done, one.planned] if one.progress else None for one in known), False)
    if not best:
        add("metric", "metric", "text", (one.metric for one in known))
    add("best", f"best {_told(best)}".strip(), _kind(best), (one.best for one in known), False)
    for name in finals:
        add(f"final.{name}", _told(name), _kind(name), (one.metrics.final.get(name) for one in known),
            name != finals[0])  # fmt: skip
    add("hours", "time (h)", "hours", (one.seconds / 3600 if one.spans else None for one in known))
    if any(one.entry.row.experiment.resources.ngpus for one in known):
        hours = (one.seconds / 3600 * one.entry.row.experiment.resources.ngpus for one in known)
        add("gpu_hours", "GPU-hours", "hours", (value or None for value in hours))
    add("pace", "time/epoch (s)", "number", (one.pace for one in known))
    add("attempts", "attempts", "number", (one.attempts for one in known))
    add("group", "group", "text", (one.entry.group for one in known))
    for key in varying:
        cells = [one.entry.config.get(key) for one in known]
        numbers = all(cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, bool)) for cell in cells)
        told = cells if numbers else [None if cell is None else _text(cell) for cell in cells]
        add(f"config.{key}", key, "number" if numbers else "text", told)
    return columns, values


def _told(name: str) -> str:
    return f"{name.replace('_', ' ')}{' (%)' if is_share(name) else ''}"


def _kind(name: str) -> str:
    return "share" if is_share(name) else "number"


def _varying(known: Sequence[Known]) -> tuple[list[str], dict[str, Any]]:
    """Config keys in which experiments differ, the seed too, and those that all share, with their value."""
    configs = [one.entry.config for one in known]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    told = {key: {_text(config[key]) if key in config else None for config in configs} for key in keys}
    shared = {key: configs[0][key] for key in keys if len(told[key]) == 1}
    return [key for key in keys if key not in shared], shared


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    """What JSON can tell: infinities and NaN are not known."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _details(one: Known, varying: set[str], curve: Figure | None) -> dict[str, Any]:
    """Besides its row: config, all final metrics, attempts, learning curve."""
    told: dict[str, Any] = {
        "reason": one.entry.reason,
        "directory": str(one.entry.directory),
        "config": {key: _text(value) for key, value in one.entry.config.items() if key in varying},
        "final": {
            _told(name): amount(name, value).removesuffix("\u00a0%") for name, value in one.metrics.final.items()
        },
        "attempts": [_attempt(attempt) for attempt in one.entry.row.record.attempts],
    }
    if curve:
        told["curve"] = {"image": curve.image, "data": curve.data, "caption": curve.caption, "size": curve.size}
    return told


def _attempt(attempt: Attempt) -> list[str]:
    """Number, what became of it, why, host, start (UTC)."""
    claim = attempt.claim
    if attempt.opened.mark is not None:
        became = f"{attempt.opened.mark} (no run)"
    elif attempt.closed:
        became = str(attempt.cause or "ended")
    else:
        became = "running" if claim else "queued"
    return [str(attempt.number), became, attempt.why, claim.host if claim else "", _started(claim) if claim else ""]


def _started(claim: Claim) -> str:
    if claim.void or not claim.started:
        return ""
    try:
        return date_and_time(claim.started)
    except (ValueError, OverflowError, OSError):
        return ""
