"""Findings: the shown differences, merged where they say the same, in the order of their importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.comparison import Comparison
from analysis.rounding import decimals, fixed, significant
from roundhouse.formatting import counted
from studies.distillation.analysis.effects import DISTILLED, MORE_ALPHA, SAME_ALPHA, SHRUNK, ComparisonFamily
from studies.distillation.analysis.measures import Measure
from studies.distillation.analysis.runs import MethodSetting

Results = Mapping[MethodSetting, Comparison]
PRIMARY = "accuracy"
QUESTIONS = (DISTILLED, SAME_ALPHA, SHRUNK, MORE_ALPHA)  # in the order of their importance
TRAINED_ON_IT = ("sp", "nst")  # what these minimise is close to CKA
_AGAINST = {
    DISTILLED: "than that of the {baseline}",
    SAME_ALPHA: "than that of the control with the same alpha",
    SHRUNK: "with a smaller cross entropy and no teacher than that of the {baseline}",
    MORE_ALPHA: "at the largest alpha than at the smallest",
}


@dataclass(frozen=True)
class Finding:
    """Shown differences of one family and one direction."""

    family: ComparisonFamily
    results: Results

    @property
    def is_single_method(self) -> bool:
        return len({setting.method for setting in self.results}) == 1

    def sentence(self, baseline: str) -> str:
        """What is shown, with effects, intervals, pairs and corrected p."""
        measure, total = self.family.measure, len(self.family.results)
        higher = next(iter(self.results.values())).mean > 0
        against = _AGAINST[self.family.question].format(baseline=baseline)
        claim = f"{measure.label[0].upper()}{measure.label[1:]} is {'higher' if higher else 'lower'} {against}"
        effects = _each(self.results, measure) if self.is_single_method else _by_method(self.results, measure)
        pairs = sorted({one.n for one in self.results.values()})
        most = max(one.p_holm for one in self.results.values())
        return (
            f"**{claim}**, in {len(self.results)} of {counted(total, 'comparison')}: {effects}; "
            f"{' to '.join(dict.fromkeys((str(pairs[0]), str(pairs[-1]))))} pairs, "
            f"p {'≤' if len(self.results) > 1 else '='} {significant(most, 2)}.{self._caution()}"
        )

    def _caution(self) -> str:
        trained = [setting.method for setting in self.results if setting.method in TRAINED_ON_IT]
        if not trained or not self.family.measure.column.startswith("cka"):
            return ""
        return (
            f" The objective of {' and '.join(dict.fromkeys(trained))} is close to CKA: this is a check, not evidence."
        )


def findings(families: Sequence[ComparisonFamily]) -> list[Finding]:
    """All that is shown, the most important first: accuracy, then the other measures, each by question.

    A gain or loss in accuracy against the undistilled student is a finding for each method. Other differences of one
    family and direction are one finding.
    """
    made = []
    for one in sorted(families, key=_importance):
        by_key: dict[tuple[bool, str], dict[MethodSetting, Comparison]] = {}
        for setting, result in one.results.items():
            if result.shown:
                method = setting.method if _importance(one) == (False, 0) else ""
                by_key.setdefault((result.mean > 0, method), {})[setting] = result
        found = [Finding(one, results) for results in by_key.values()]
        made += sorted(found, key=lambda each: -max(abs(result.mean) for result in each.results.values()))
    return made


def _importance(one: ComparisonFamily) -> tuple[bool, int]:
    return one.measure.column != PRIMARY, QUESTIONS.index(one.question)


def _each(results: Results, measure: Measure) -> str:
    """The settings of one method: `logit, alpha 0.25: +2.0 (+1.1 to +2.9); 0.5: +1.9 (+1.1 to +2.8) points`."""
    (method,) = {setting.method for setting in results}
    half = min(measure.half_width(one) for one in results.values())
    parts = "; ".join(f"{setting.alpha:g}: {measure.difference(one, half)}" for setting, one in results.items())
    return f"{method}, alpha {parts}{measure.difference_unit}"


def _by_method(results: Results, measure: Measure) -> str:
    """For each method its alphas and the range of its effects, then the range of all intervals."""
    methods: dict[str, list[MethodSetting]] = {}
    for setting in results:
        methods.setdefault(setting.method, []).append(setting)
    parts = []
    for method, settings in methods.items():
        effects = _range([results[one].mean for one in settings], [results[one] for one in settings], measure)
        parts.append(f"{method}, alpha {', '.join(f'{one.alpha:g}' for one in settings)}: {effects}")
    every = list(results.values())
    ends = [end for one in every for end in (one.interval.low, one.interval.high)]
    return f"{'; '.join(parts)}{measure.difference_unit} (intervals within {_range(ends, every, measure)})"


def _range(values: Sequence[float], of: Sequence[Comparison], measure: Measure) -> str:
    """`+0.4 to +0.9`, with the digits of the narrowest interval."""
    half = min(map(measure.half_width, of))
    known = decimals(half, min(values) * measure.factor)
    texts = [fixed(end * measure.factor, known, sign=True) for end in (min(values), max(values))]
    return " to ".join(dict.fromkeys(texts))
