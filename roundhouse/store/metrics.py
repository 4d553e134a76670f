"""One metric of a run: from the record, or else from its metrics.json."""

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
    """A metric of a completed attempt of the experiment in `directory`. NaN: not a finite number. None: not reported.

    It is the final metric of that name; else the best value, if it is of that metric; else, from metrics.json, a number
    at the top level, or the value in the epoch of the best weights (or in the last epoch, if that is not known).
    """
    progress = attempt.progress
    if progress and metric in progress.final:
        return _number(progress.final[metric])
    if progress and metric == progress.metric_name and progress.best is not None:
        return _number(progress.best)
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
    """An attempt's metric after `epoch` epochs, or else the latest value. NaN and None as for `result_of`."""
    content = _content(directory, attempt)
    epochs = _epochs(content)
    for one in [one for one in epochs if one.get("epoch") == epoch] or epochs[-1:]:
        if metric in one:
            return _number(one[metric])
    if metric in content:
        return _number(content[metric])
    progress = attempt.progress
    if progress and metric == progress.metric_name and progress.metric is not None:
        return _number(progress.metric)
    return result_of(directory, attempt, metric)


def names_of(directory: Path, attempt: Attempt) -> list[str]:
    """The metrics that `result_of` can find."""
    progress, content = attempt.progress, _content(directory, attempt)
    names = [*progress.final, *([progress.metric_name] if progress.metric_name else [])] if progress else []
    final = content.get("final")
    for part in (content, final if isinstance(final, Mapping) else {}, *_epochs(content)[-1:]):
        names += [key for key, value in part.items() if math.isfinite(_number(value))]
    return list(dict.fromkeys(names))


def _content(directory: Path, attempt: Attempt) -> Mapping[str, Any]:
    """metrics.json; empty if it is absent or cannot be parsed."""
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
