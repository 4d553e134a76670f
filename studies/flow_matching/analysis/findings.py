"""Findings of a round, as sentences with number and interval, the most important first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analysis.comparison import Interval, mean_interval
from analysis.rounding import fixed, significant, with_interval
from roundhouse.formatting import abbreviated, counted
from studies.flow_matching.analysis.effects import MAIN, PAIR, SINGLE, Effect, Effects, difference
from studies.flow_matching.analysis.projections import CONFOUNDED, CONTROLS, NAMES, combination
from studies.flow_matching.analysis.results import (
    DOCUMENT_BASE,
    GENERALISATION,
    LONGER,
    MEAN_PSNR,
    PSNR,
    FlowResults,
    Setting,
)
from studies.flow_matching.analysis.tables import COSINE_PATH, controls, top_combinations

MOST = 6  # effects of one kind in a sentence


@dataclass(frozen=True)
class Difference:
    """A difference in dB with its interval, NaN where it is unknown."""

    value: float
    interval: Interval

    def __str__(self) -> str:
        return f"{with_interval(self.value, self.interval.low, self.interval.high)} dB"

    @property
    def contains_0(self) -> bool:
        return not (self.interval.low > 0 or self.interval.high < 0)


def findings(results: FlowResults, effects: Effects) -> list[str]:
    """All findings for which the round has data."""
    parts = (
        _against_rbf(results),
        _techniques(effects),
        _pairs(effects),
        _best(results, effects),
        _confounded(results, effects),
        _schedules(results, effects),
        _distances(results, effects),
        _few_steps(results),
        _blocks(results),
        _families(results, effects),
        _longer(results, effects),
    )
    return [sentence for part in parts for sentence in part]


def over_rbf(setting: Setting | None, metric: str) -> Difference | None:
    """A metric of each seed minus the Gaussian RBF on the same test fields."""
    if setting is None:
        return None
    found = [run.final[metric] - run.final["rbf_psnr"] for run in setting.runs
             if metric in run.final and "rbf_psnr" in run.final]  # fmt: skip
    known = [one for one in found if math.isfinite(one)]
    return Difference(sum(known) / len(known), mean_interval(known)) if known else None


def _against_rbf(results: FlowResults) -> Iterator[str]:
    shown = (
        ("the regression", results.regression, PSNR),
        ("the mean of the base's samples", results.base, MEAN_PSNR),
        ("a single sample of the base", results.base, PSNR),
    )
    texts, passed = [], []
    for label, setting, metric in shown:
        found = over_rbf(setting, metric)
        if setting and found:
            texts.append(f"{label} {found} (n {len(setting.values(metric))})")
            if found.interval.low > 0:
                passed.append(label)
    if texts:
        which = (
            f"{' and '.join(passed)} {'is' if len(passed) == 1 else 'are'} above it" if passed else "none is above it"
        )
        head = "**Against the Gaussian RBF**, its width chosen on validation fields"
        yield f"{head}: {'; '.join(texts)}. By the intervals, {which}."


def _techniques(effects: Effects) -> Iterator[str]:
    for kind, what in ((MAIN, "Main effects"), (SINGLE, "Techniques alone")):
        found = [one for one in effects.of(kind).values() if one.shown]
        if found:
            yield f"**{what} that are shown**: {_listed(found)}."
        elif effects.of(kind):
            yield f"**{what}**: none of {len(effects.of(kind))} is shown to differ from 0."


def _pairs(effects: Effects) -> Iterator[str]:
    every = effects.of(PAIR)
    found = [one for one in every.values() if one.shown]
    if found:
        yield f"**Interactions that are shown**, {len(found)} of {len(every)}: {_listed(found)}."
    elif every:
        yield f"**Interactions**: none of {len(every)} is shown to differ from 0."


def _listed(found: Sequence[Effect]) -> str:
    """`+0.9 dB (+0.7 to +1.1) for 2 (multi-scale position encoding)`, the largest first."""
    texts = []
    for one in sorted(found, key=lambda each: -abs(each.value)):
        name = f" ({NAMES[one.techniques[0]].lower()})" if len(one.techniques) == 1 else ""
        text = with_interval(one.value, one.interval.low, one.interval.high)
        texts.append(f"{combination(one.techniques)}{name} {text} dB")
    return abbreviated(texts, MOST, "; ")


def _best(results: FlowResults, effects: Effects) -> Iterator[str]:
    top = top_combinations(results, 1)
    if not top or results.base is None or not results.base.is_measured:
        return
    best, count = top[0], sum(one.is_measured for one in results.versions)
    gain = Difference(*difference(best, results.base, effects.noise, comparisons=count))
    caution = ""
    if len(best.values()) == 1 and effects.noise and count > 1:
        chance = significant(expected_maximum(count) * effects.noise.deviation, 2)
        caution = f" The best of {count} single runs looks better than it is: by noise alone it would be {chance} dB "
        caution += "above the mean of all."
    yield (f"**The best combination** is {best.name} with {fixed(best.mean(), 2)} dB, {gain} over the base (interval "
           f"simultaneous for {counted(count, 'version')}).{caution}")  # fmt: skip


def expected_maximum(count: int) -> float:
    """The expected largest of independent standard normal values, by Blom's approximation."""
    from scipy.special import ndtri

    return float(ndtri((count - 0.375) / (count + 0.25)))


def _confounded(results: FlowResults, effects: Effects) -> Iterator[str]:
    rows = {(row["techniques"], row["against"]): row for row in controls(results, effects)}
    for technique, group in CONTROLS.items():
        against = rows.get((str(technique), group))
        if against:
            texts = [f"{_of(against)} dB against its control"]
            if base := rows.get((str(technique), "base")):
                texts.insert(0, f"{_of(base)} dB against the base")
            if control := rows.get((f"none ({group})", "base")):
                texts.append(f"the control {_of(control)} dB against the base")
            yield f"**Technique {technique}** is confounded, since {CONFOUNDED[technique]}: {', '.join(texts)}."


def _schedules(results: FlowResults, effects: Effects) -> Iterator[str]:
    for row in controls(results, effects):
        if row["against"] == COSINE_PATH:
            yield f"**Technique 8 in its other form**, logit-normal minus cosine path: {_of(row)} dB."


def _of(row: dict[str, object]) -> str:
    low, high = (float(str(row[key])) if row[key] != "" else math.nan for key in ("low_95", "high_95"))
    return with_interval(float(str(row["difference"])), low, high)


def _distances(results: FlowResults, effects: Effects) -> Iterator[str]:
    plain = next((one for one in results.in_group(DOCUMENT_BASE) if not one.techniques), None)
    base = results.base
    if plain and base and plain.is_measured and base.is_measured:
        change = Difference(*difference(plain, base, effects.noise))
        mean = results.reference("mean_psnr")
        yield (f"**Without the distance term** in the attention the base reaches {fixed(plain.mean(), 2)} dB, {change} "
               f"from the base; the mean of the observations has {fixed(mean, 2)} dB.")  # fmt: skip


def _few_steps(results: FlowResults) -> Iterator[str]:
    base, reflow = results.base, results.singles.get(1)
    if base and reflow and base.values("euler1_psnr") and reflow.values("euler1_psnr"):
        pairs = (("in the base", base), ("with reflow", reflow))
        losses = {label: one.mean("euler1_psnr") - one.mean() for label, one in pairs}
        straight = ", ".join(significant(one.mean("straightness")) for _, one in pairs)
        texts = [f"{fixed(loss, 2, sign=True)} dB {label}" for label, loss in losses.items()]
        yield (
            f"**One Euler step** instead of the full sampler changes single samples by {' and '.join(texts)}; "
            f"deviation from a straight trajectory {straight}."
        )


def _blocks(results: FlowResults) -> Iterator[str]:
    base = results.base
    found = [run.final["chunked_psnr"] - run.final[PSNR] for run in base.runs
             if "chunked_psnr" in run.final and PSNR in run.final] if base else []  # fmt: skip
    if found:
        change = Difference(sum(found) / len(found), mean_interval(found))
        yield f"**Sampling in blocks** of as many points as in training, not all at once, changes the base by {change}."


def _families(results: FlowResults, effects: Effects) -> Iterator[str]:
    bases = {one.complexity: one for one in results.in_group(f"{GENERALISATION}base") if one.is_measured}
    for part in ("best", "document"):
        found = [
            one for one in results.in_group(f"{GENERALISATION}{part}") if one.is_measured and one.complexity in bases
        ]
        if found:
            texts = [
                f"{one.complexity} {Difference(*difference(one, bases[one.complexity], effects.noise))}"
                for one in found
            ]
            name = combination(found[0].techniques)
            yield f"**On all families**, {part} ({name}) minus the base: {'; '.join(texts)}."


def _longer(results: FlowResults, effects: Effects) -> Iterator[str]:
    found = [one for one in results.in_group(LONGER) if one.is_measured]
    if found and results.base and results.base.is_measured:
        best = max(found, key=lambda one: one.mean())
        gain = Difference(*difference(best, results.base, effects.noise))
        yield (f"**Trained longer** ({best.option('epochs')} epochs), the best of {len(found)} is {best.name} with "
               f"{fixed(best.mean(), 2)} dB, {gain} over the base with {results.base.option('epochs')}.")  # fmt: skip
