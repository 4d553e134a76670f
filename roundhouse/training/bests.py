"""The best weights of a run: which metric decides about them, and when they are replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roundhouse.training.reproducibility import snapshot
from roundhouse.training.state import EPOCH, STEP, State, better
from roundhouse.training.tracking import state_of


@dataclass(frozen=True)
class BestRule:
    """One best: the weights are written to `file` when the metric improves; without a metric, at the end."""

    file: str
    metric: str | None
    mode: str
    weights: Mapping[str, Any]


def best_now(state: State, rule: BestRule, value: float | None) -> dict[str, Any]:
    """The present weights as the best ones."""
    last = state.history[-1] if state.history else {}
    position = {key: last[key] for key in (EPOCH, STEP) if key in last}
    weights = {name: snapshot(state_of(part)) for name, part in rule.weights.items()}
    return {**position, "value": value, "state": weights}


def update_bests(state: State, rules: Mapping[str, BestRule], metrics: Mapping[str, float], min_delta: float) -> None:
    """Replace the bests of the metrics that have improved. Early stopping follows the first rule, with `min_delta`."""
    for place, rule in enumerate(rules.values()):
        if rule.metric is None or rule.metric not in metrics:
            continue
        value = metrics[rule.metric]
        best = state.bests.get(rule.file)
        if better(value, None if best is None else best["value"], rule.mode):
            state.bests[rule.file] = best_now(state, rule, value)
        if place == 0 and better(value, state.reference, rule.mode, min_delta):
            state.reference, state.stale = value, 0
        elif place == 0:
            state.stale += 1
