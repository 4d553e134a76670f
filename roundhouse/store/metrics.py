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
from roundhouse.model.attempt import EPOCH, STEP, Attempt
from roundhouse.store.carried import result_file
from roundhouse.store.json_fields import mode_in

_FILE = "metrics.json"


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """The content of metrics.json. `epochs`: what was recorded, each with its epoch or step, or both; a metric may be
    missing in some. `final`, `used`: numbers of the whole run. `ended`: why training ended early, if it did;
    `diverged`: with `step` and `why`, if it diverged.
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
    diverged: Mapping[str, Any] = field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """The final metric of this name; else the best value, if that is the metric; else what was recorded of it:
        the value at the epoch or step of the best weights, or the last one.
        """
        if metric in self.final:
            return self.final[metric]
        if metric == self.metric and self.best is not None:
            return self.best
        best = {EPOCH: self.best_epoch, STEP: self.best_step}
        return _recorded(self.epochs, {unit: at for unit, at in best.items() if at is not None}, metric)


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
            best_epoch=best.get(EPOCH),
            best_step=best.get(STEP),
            exact=bool(content.get("exact", True)),
            final=numbers_in(content.get("final") or {}),
            used=numbers_in(content.get("used") or {}),
            epochs=_epochs(content),
            ended=str(content.get("ended") or ""),
            diverged=dict(content.get("diverged") or {}),
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise RoundhouseError(f"{path} is unreadable: it is not a JSON object of metrics") from None


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
    its top level, or the value at the epoch or step of the best weights; if there is none, the last one recorded.
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
    return _recorded(_epochs(content), best if isinstance(best, Mapping) else {}, metric)


def _recorded(epochs: Sequence[Mapping[str, Any]], best: Mapping[str, Any], metric: str) -> float | None:
    """The value at the epoch or step of the best weights; if there is none, the last one recorded."""
    unit = EPOCH if EPOCH in best else STEP
    entries = [one for one in epochs if metric in one]
    chosen = [one for one in entries if unit in best and one.get(unit) == best[unit]] or entries
    return finite(chosen[-1][metric]) if chosen else None


def value_at(directory: Path, attempt: Attempt, metric: str, position: int) -> float | None:
    """The last value of an attempt's metric at or before this position, in the unit of the run. NaN and None as above.

    If none was recorded by then: a number at the top level of metrics.json, the `metric` of progress.json, or as above.
    """
    content = _content(directory, attempt)
    entries = _epochs(content)
    own = attempt.progress.unit if attempt.progress else EPOCH
    unit = next((one for one in (own, EPOCH, STEP) if any(one in entry for entry in entries)), own)
    reached = [one for one in entries if metric in one and finite(one.get(unit, position)) <= position]
    if reached:
        return finite(reached[-1][metric])
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
    for part in (content, final if isinstance(final, Mapping) else {}, *_epochs(content)):
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
