"""What tuning gained: each tuned setting beside the untuned one of its architecture, in pairs of equal seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from analysis.comparison import Comparison, compare, holm
from studies.flood.analysis.convergence import cell
from studies.flood.analysis.results import VAL_LOSS, FloodResults, Setting

TEST_RAE = "test_rae"


@dataclass(frozen=True)
class Tuned:
    """A tuned setting of stage B. `key`: what it changes; `loss`: of the logarithms of the best validation loss,
    tuned - untuned, `rae`: of the median relative absolute error of the test data.
    """

    setting: Setting
    untuned: Setting
    key: str
    loss: Comparison
    rae: Comparison


def tuned_of(results: FloodResults, stage: str = "B") -> list[Tuned]:
    """All tuned settings of a stage; the tests of their losses are one family."""
    made = []
    for one in results.trained.get(stage, ()):
        beside = results.untuned.get(one.architecture)
        if beside is None or beside is one or not one.changed:
            continue
        key = ", ".join(one.changed)
        made.append(Tuned(one, beside, key, paired(one, beside, VAL_LOSS, math.log), paired(one, beside, TEST_RAE)))
    adjusted = holm([one.loss.p for one in made])
    return [replace(one, loss=replace(one.loss, p_holm=p)) for one, p in zip(made, adjusted, strict=True)]


def paired(one: Setting, other: Setting, name: str, scale: Callable[[float], float] = float) -> Comparison:
    """The differences one - other of a measure, for each seed of which both have a completed run with a value."""
    values = {run.seed: run.value(name) for run in other.completed}
    pairs = [(run.value(name), values[run.seed]) for run in one.completed if run.seed in values]
    usable = [pair for pair in pairs if all(map(math.isfinite, pair)) and (scale is float or min(pair) > 0)]
    return compare([scale(own) - scale(reference) for own, reference in usable])


def best_by_key(tuned: list[Tuned]) -> Mapping[tuple[str, str], Tuned]:
    """By key and architecture: the setting with the lowest mean validation loss."""
    made: dict[tuple[str, str], Tuned] = {}
    for one in sorted(tuned, key=lambda one: one.setting.mean(VAL_LOSS)):
        if math.isfinite(one.setting.mean(VAL_LOSS)):
            made.setdefault((one.key, one.setting.architecture), one)
    return made


def table(tuned: list[Tuned]) -> list[dict[str, Any]]:
    """A row for each tuned setting. `loss_factor`: tuned / untuned; `rae_difference`: tuned - untuned."""
    return [
        {
            "setting": one.setting.label, "architecture": one.setting.architecture, "key": one.key,
            "value": ", ".join(map(str, one.setting.changed.values())), "pairs": one.loss.n,
            "val_loss": cell(one.setting.mean(VAL_LOSS)), "untuned_val_loss": cell(one.untuned.mean(VAL_LOSS)),
            "loss_factor": cell(math.exp(one.loss.mean)), "factor_low_95": cell(math.exp(one.loss.interval.low)),
            "factor_high_95": cell(math.exp(one.loss.interval.high)), "p": cell(one.loss.p),
            "p_holm": cell(one.loss.p_holm), "test_rae": cell(one.setting.mean(TEST_RAE)),
            "untuned_test_rae": cell(one.untuned.mean(TEST_RAE)), "rae_difference": cell(one.rae.mean),
            "rae_low_95": cell(one.rae.interval.low), "rae_high_95": cell(one.rae.interval.high),
        }
        for one in tuned
    ]  # fmt: skip
