"""Each arm beside its baseline: differences of runs with the same seed, with intervals, corrected for all arms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from analysis.comparison import Comparison, family
from studies.genegan.analysis.measures import EQUAL_SECONDS, MEASURES, Measure
from studies.genegan.analysis.results import DISTANCE, Arm, GeneganResults, Run

YES, NO, OPEN, NOT_MEASURED = "yes", "no", "open", "not measured"


@dataclass(frozen=True)
class Compared:
    """An arm beside another one in a measure. `own`, `other`: the values of the pairs, in the same order.

    `comparison`: of the differences own - other; of a measure with `factor`, of the differences of the logarithms.
    """

    arm: Arm
    against: Arm
    measure: Measure
    own: tuple[float, ...]
    other: tuple[float, ...]
    comparison: Comparison

    @property
    def value(self) -> float:
        return self._shown(self.comparison.mean)

    @property
    def low(self) -> float:
        return self._shown(self.comparison.interval.low)

    @property
    def high(self) -> float:
        return self._shown(self.comparison.interval.high)

    @property
    def singles(self) -> tuple[float, ...]:
        """The differences or ratios themselves, if there are too few for an interval."""
        return tuple(map(self._shown, self.comparison.singles))

    def _shown(self, value: float) -> float:
        return math.exp(value) if self.measure.factor else value

    @property
    def answer(self) -> str:
        """Whether the arm is better: `open` if the interval contains no difference, or if there is none."""
        if not self.own:
            return NOT_MEASURED
        interval = self.comparison.interval
        sign = 1 if self.measure.mode == "max" else -1
        low, high = sorted((sign * interval.low, sign * interval.high))
        return YES if low > 0 else NO if high < 0 else OPEN

    @property
    def own_mean(self) -> float:
        return statistics.fmean(self.own) if self.own else math.nan

    @property
    def other_mean(self) -> float:
        return statistics.fmean(self.other) if self.other else math.nan


Comparisons = Mapping[tuple[str, str, str], Compared]
"""By labels of the arm and of the other arm, and the name of the measure."""


def comparisons_of(results: GeneganResults) -> Comparisons:
    """All arms beside their baselines. A family, for Holm's correction, is a measure with all of its arms."""
    made: dict[tuple[str, str, str], Compared] = {}
    arms = [(arm, other) for arm in results.gans for other in results.against.get(arm.label, ())]
    for name, measure in MEASURES.items():
        values = {(arm.label, other.label): pairs_of(arm, other, name) for arm, other in arms}
        differences = {key: [_difference(measure, own, other) for own, other in pairs] for key, pairs in values.items()}
        found = family(differences)
        for arm, other in arms:
            pairs = values[arm.label, other.label]
            own, others = (tuple(one[place] for one in pairs) for place in (0, 1))
            made[arm.label, other.label, name] = Compared(
                arm, other, measure, own, others, found[arm.label, other.label]
            )
    return made


def _difference(measure: Measure, own: float, other: float) -> float:
    return math.log(own / other) if measure.factor else own - other


def pairs_of(arm: Arm, other: Arm, name: str) -> list[tuple[float, float]]:
    """The values of both arms for each seed and data set of which both have a completed run with a value."""
    measure = MEASURES[name]
    partners = {(one.entry.data_set, one.seed): one for one in other.completed}
    found = []
    for run in arm.completed:
        partner = partners.get((run.entry.data_set, run.seed))
        if partner is None or (measure.is_distance and partner.evaluated != run.evaluated):
            continue
        pair = at_equal_seconds(run, partner) if name == EQUAL_SECONDS else (run.value(name), partner.value(name))
        if all(map(math.isfinite, pair)):
            found.append(pair)
    return found


def at_equal_seconds(run: Run, other: Run) -> tuple[float, float]:
    """The validation distances of two runs after the training time of the one that ended first."""
    ends = [one.series(DISTANCE)[-1][0] * one.seconds_per_iteration for one in (run, other) if one.series(DISTANCE)]
    if len(ends) < 2:
        return math.nan, math.nan
    return run.distance_at(min(ends)), other.distance_at(min(ends))
