"""Which metric chooses between settings, and which one is shown as the result: decided here for all outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.rounds import RoundEntry, RoundRecords, mode_among, modes_in
from roundhouse.metrics import Declarations
from roundhouse.store.metrics import RunMetrics

Member = tuple[RoundEntry, RunMetrics]


@dataclass(frozen=True)
class ResultMetric:
    """`chosen`: the metric by which weights and settings are chosen, such as val_iou; `result`: the final metric that
    belongs to it and is shown, such as test_iou; the same if no run reports one. `mode`: which value is best, min or
    max; None: unknown.
    """

    chosen: str
    result: str
    mode: str | None

    @property
    def sign(self) -> int:
        """1 if higher is better, -1 if lower is better, 0 if unknown."""
        return sign_of(self.mode)


def sign_of(mode: str | None) -> int:
    """1 if higher is better, -1 if lower is better, 0 if unknown."""
    return {"max": 1, "min": -1}.get(mode or "", 0)


def result_metric(
    members: Sequence[Member], declared: Declarations, found: RoundRecords | None = None
) -> ResultMetric | None:
    """The chosen metric and its result for these experiments; None if nothing is declared or reported.

    Completed experiments decide; the others only if none is completed. `found`: the round, of which another group may
    declare the mode.
    """
    runs = [metrics for entry, metrics in members if entry.completed] or [metrics for _, metrics in members]
    names = chosen_and_result(runs, declared)
    if names is None:
        return None
    chosen, result = names
    modes = found.modes if found else modes_in((entry for entry, _ in members), declared)
    return ResultMetric(chosen, result, mode_among(modes, chosen, runs) or mode_among(modes, result, runs))


def result_metrics(members: Sequence[Member], found: RoundRecords) -> dict[str, ResultMetric | None]:
    """By group, what `result_metric` returns for its experiments."""
    by_group: dict[str, list[Member]] = {}
    for member in members:
        by_group.setdefault(member[0].group, []).append(member)
    return {group: result_metric(of, of[0][0].declared, found) for group, of in by_group.items()}


def chosen_and_result(runs: Sequence[RunMetrics], declared: Declarations) -> tuple[str, str] | None:
    """The names of the chosen metric and of its result.

    The chosen metric is the declared main one, if any run reports it or its final metric; else the one that most runs
    choose their weights by; else their first result.
    """
    finals = list(dict.fromkeys(name for one in runs for name in one.final))
    chosen = _chosen(runs, finals, declared)
    if chosen is None:
        return None
    own = declared.final_of(chosen)
    return chosen, own if own in finals or not any(one.value(chosen) is not None for one in runs) else chosen


def _chosen(runs: Sequence[RunMetrics], finals: Sequence[str], declared: Declarations) -> str | None:
    main = declared.main
    if main and (declared.final_of(main) in finals or any(one.value(main) is not None for one in runs)):
        return main
    selected = Counter(one.metric for one in runs if one.metric and one.best is not None)
    if selected:
        return selected.most_common(1)[0][0]
    results = declared.results_in(finals) or [name for name in finals if name not in declared.references]
    return next(iter(results), main)
