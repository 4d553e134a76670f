"""One number of a run: from what the record keeps of it, else from its metrics.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roundhouse import files
from roundhouse.model.attempt import Attempt
from roundhouse.store import record

_FILE = "metrics.json"


def result_of(directory: Path, attempt: Attempt, metric: str) -> float | None:
    """What a completed attempt of the experiment in `directory` says of a metric. NaN: no finite number. None: nothing.

    It is the final metric of that name; else the best value, if that is the metric; else from metrics.json a number at
    its top, or the value in the epoch of the best weights (without one: in the last epoch).
    """
    told = attempt.progress
    if told and metric in told.final:
        return _number(told.final[metric])
    if told and metric == told.metric_name and told.best is not None:
        return _number(told.best)
    content = _content(directory, attempt)
    for part in (content, content.get("final")):
        if isinstance(part, Mapping) and metric in part:
            return _number(part[metric])
    best = content.get("best")
    number = best.get("epoch") if isinstance(best, Mapping) else None
    epochs = _epochs(content)
    taken = [one for one in epochs if one.get("epoch") == number] or epochs[-1:]
    return _number(taken[0][metric]) if taken and metric in taken[0] else None


def value_at(directory: Path, attempt: Attempt, metric: str, epoch: int) -> float | None:
    """An attempt's metric after so many epochs; where it tells no such epoch, its last word. NaN and None as above."""
    content = _content(directory, attempt)
    epochs = _epochs(content)
    for one in [one for one in epochs if one.get("epoch") == epoch] or epochs[-1:]:
        if metric in one:
            return _number(one[metric])
    if metric in content:
        return _number(content[metric])
    told = attempt.progress
    if told and metric == told.metric_name and told.metric is not None:
        return _number(told.metric)
    return result_of(directory, attempt, metric)


def names_of(directory: Path, attempt: Attempt) -> list[str]:
    """The metrics that `result_of` may find."""
    told, content = attempt.progress, _content(directory, attempt)
    names = [*told.final, *([told.metric_name] if told.metric_name else [])] if told else []
    final = content.get("final")
    for part in (content, final if isinstance(final, Mapping) else {}, *_epochs(content)[-1:]):
        names += [key for key, value in part.items() if math.isfinite(_number(value))]
    return list(dict.fromkeys(names))


def _content(directory: Path, attempt: Attempt) -> Mapping[str, Any]:
    """metrics.json; empty if it is not there or cannot be understood."""
    try:
        content = json.loads(files.read_bytes(record.attempt_directory(directory, attempt.number) / _FILE) or b"")
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _epochs(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    epochs = content.get("epochs")
    return [one for one in epochs if isinstance(one, dict)] if isinstance(epochs, list) else []


def _number(value: Any) -> float:
    """A finite number, or NaN."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if plain else math.nan
