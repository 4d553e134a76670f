"""The metrics of a run: all of metrics.json, or one of them from the record and metrics.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Attempt
from roundhouse.store.carried import result_file
from roundhouse.store.json_fields import mode_in

_FILE = "metrics.json"


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """The content of metrics.json. `epochs`: a mapping for each entry; `final`, `used`: numbers of the whole run.

    `ended`: why training ended early. `diverged`: why and at which step it diverged. Empty: it did not.
    """

    metric: str | None = None
    mode: str | None = None  # which value of `metric` is best, min or max; None: not declared
    best: float | None = None
    best_epoch: int | None = None
    best_step: int | None = None
    exact: bool = True
    final: Mapping[str, float] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)
    epochs: Sequence[Mapping[str, Any]] = ()
    ended: str = ""
    diverged: str = ""


def read_metrics(path: Path) -> RunMetrics:
    """A metrics.json written by a study or by a command. RoundhouseError: it is not a JSON object of metrics.

    A command's file may hold anything: the numbers at its top level are its results.
    """
    try:
        content = _parsed(path)
        if not isinstance(content.get("epochs"), list):
            final, main = numbers_in(content), str(content.get("metric"))
            declared = RunMetrics(main, mode_in(content), final[main]) if main in final else RunMetrics()
            return replace(declared, final=final)
        best, metric = content.get("best") or {}, content.get("metric")
        if not isinstance(metric, (str, type(None))):
            raise ValueError
        return RunMetrics(
            metric=metric,
            mode=mode_in(content),
            best=numbers_in(best).get(str(metric)),
            best_epoch=best.get("epoch"),
            best_step=best.get("step"),
            exact=bool(content.get("exact", True)),
            final=numbers_in(content.get("final") or {}),
            used=numbers_in(content.get("used") or {}),
            epochs=_epochs(content),
            ended=str(content.get("ended") or ""),
            diverged=_divergence(content.get("diverged") or {}),
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise RoundhouseError(f"{path} is unreadable: it is not a JSON object of metrics") from None


def _divergence(reported: Mapping[str, Any]) -> str:
    """`step 1200: the loss is nan`; empty if nothing is reported."""
    parts = [f"step {reported['step']}"] if "step" in reported else []
    return ": ".join([*parts, *([str(reported["why"])] if reported.get("why") else [])])


def numbers_in(values: Mapping[str, Any]) -> dict[str, float]:
    """The items whose value is a number, NaN and infinities included."""
    return {
        key: value for key, value in values.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def finite(value: Any) -> float:
    """A finite number as it is; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:  # an integer that no float can hold
        return math.nan


def result_of(directory: Path, attempt: Attempt, metric: str) -> float | None:
    """A metric of a completed attempt of the experiment in `directory`. NaN: not a finite number. None: not reported.

    It is the final metric of that name; else the best value, if that is the metric; else from metrics.json a number at
    its top level, or the value in the epoch of the best weights (without one: in the last epoch).
    """
    progress = attempt.progress
    if progress and metric in progress.final:
        return finite(progress.final[metric])
    if progress and metric == progress.metric_name and progress.best is not None:
        return finite(progress.best)
    content = _content(directory, attempt)
    for part in (content, content.get("final")):
        if isinstance(part, Mapping) and metric in part:
            return finite(part[metric])
    best = content.get("best")
    number = best.get("epoch") if isinstance(best, Mapping) else None
    epochs = _epochs(content)
    taken = [one for one in epochs if one.get("epoch") == number] or epochs[-1:]
    return finite(taken[0][metric]) if taken and metric in taken[0] else None


def value_at(directory: Path, attempt: Attempt, metric: str, epoch: int) -> float | None:
    """An attempt's metric after `epoch` epochs; if that epoch is missing, the last value. NaN and None as above."""
    content = _content(directory, attempt)
    epochs = _epochs(content)
    for one in [one for one in epochs if one.get("epoch") == epoch] or epochs[-1:]:
        if metric in one:
            return finite(one[metric])
    if metric in content:
        return finite(content[metric])
    progress = attempt.progress
    if progress and metric == progress.metric_name and progress.metric is not None:
        return finite(progress.metric)
    return result_of(directory, attempt, metric)


def names_of(directory: Path, attempt: Attempt) -> list[str]:
    """The names of all metrics that `result_of` can return."""
    progress, content = attempt.progress, _content(directory, attempt)
    names = [*progress.final, *([progress.metric_name] if progress.metric_name else [])] if progress else []
    final = content.get("final")
    for part in (content, final if isinstance(final, Mapping) else {}, *_epochs(content)[-1:]):
        names += [key for key, value in part.items() if math.isfinite(finite(value))]
    return list(dict.fromkeys(names))


def _content(directory: Path, attempt: Attempt) -> Mapping[str, Any]:
    """metrics.json that an attempt wrote; empty if it is absent or unreadable."""
    try:
        path = result_file(directory, attempt, _FILE)
        return _parsed(path) if path else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _parsed(path: Path) -> dict[str, Any]:
    content = json.loads(files.read_bytes(path) or b"")
    if not isinstance(content, dict):
        raise ValueError
    return content


def _epochs(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    epochs = content.get("epochs")
    return [one for one in epochs if isinstance(one, dict)] if isinstance(epochs, list) else []
