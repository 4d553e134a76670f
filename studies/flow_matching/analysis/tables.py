"""Tables of the results: projected beside measured, the best combinations, all effects, controls, settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.comparison import Interval
from studies.flow_matching.analysis.claims import GAIN, OVERHEAD, Claim
from studies.flow_matching.analysis.costs import RoundCosts
from studies.flow_matching.analysis.effects import MAIN, SINGLE, Effect, Effects, difference, own_interval
from studies.flow_matching.analysis.files import average_improvement
from studies.flow_matching.analysis.projections import CONTROLS, PROJECTIONS, combination
from studies.flow_matching.analysis.results import (
    LAST_PSNR,
    LOGIT_NORMAL,
    MEAN_PSNR,
    REFERENCES,
    SAMPLE,
    SECONDS,
    STEP,
    TRAINING,
    FlowResults,
    Setting,
)

COSINE_PATH, LOGIT = "8 (cosine path)", "8 (logit-normal)"  # the two forms of technique 8
Rows = list[dict[str, Any]]
MEASURES = (
    "test_psnr", LAST_PSNR, MEAN_PSNR, "chunked_psnr", "euler1_psnr", "euler2_psnr", "euler4_psnr", "straightness",
    "test_mse", "test_mae", "test_relative_l2", "test_correlation", "test_spectral_error", *REFERENCES, STEP, SAMPLE,
    TRAINING, SECONDS, "network_parameters",
)  # fmt: skip


def tables(results: FlowResults, effects: Effects, costs: RoundCosts, claims: Sequence[Claim]) -> Mapping[str, Rows]:
    """All tables by file name. Those without a row are left out."""
    made = {
        "projected_and_measured.csv": projected_and_measured(results, effects, costs, claims),
        "effects.csv": effects_table(effects),
        "matched_pairs.csv": matched_table(effects),
        "controls.csv": controls(results, effects),
        "settings.csv": settings_table(results, effects),
        "claims.csv": [vars(one) for one in claims],
    }
    return {name: rows for name, rows in made.items() if rows}


def projected_and_measured(results: FlowResults, effects: Effects, costs: RoundCosts, claims: Sequence[Claim]) -> Rows:
    """A row for each technique, in the document's order. Ranks: of the middle of the projected gain, of the gain alone
    and of the main effect; a technique that is not measured has none.
    """
    mains, singles = ({one.number: effects.get(kind, one.number) for one in PROJECTIONS} for kind in (MAIN, SINGLE))
    single_ranks, main_ranks = _ranks(singles), _ranks(mains)
    answers = {kind: [one for one in claims if one.kind == kind] for kind in (GAIN, OVERHEAD)}
    rows = []
    for place, one in enumerate(PROJECTIONS):
        single, main = singles[one.number], mains[one.number]
        rows.append({
            "technique": one.number, "name": one.name, "projected_gain_low": one.gain[0],
            "projected_gain_high": one.gain[1], **_columns("gain", single), **_columns("main_effect", main),
            "average_improvement": _known(average_improvement(results, one.number)),
            "gain_as_projected": answers[GAIN][place].verdict, "projected_overhead": one.overhead,
            **_overhead("step", costs, STEP, one.number), **_overhead("sample", costs, SAMPLE, one.number),
            **_overhead("training", costs, TRAINING, one.number),
            "overhead_as_projected": answers[OVERHEAD][place].verdict, "projected_rank": place + 1,
            "rank_alone": single_ranks.get(one.number), "rank_by_main_effect": main_ranks.get(one.number),
        })  # fmt: skip
    return rows


def _ranks(found: Mapping[int, Effect | None]) -> dict[int, int]:
    values = {number: one.value for number, one in found.items() if one}
    order = sorted(values, key=lambda number: -values[number])
    return {number: place for place, number in enumerate(order, 1)}


def _columns(name: str, one: Effect | None) -> dict[str, Any]:
    value, interval = (one.value, one.interval) if one else (math.nan, Interval(math.nan, math.nan))
    return {name: _known(value), f"{name}_low": _known(interval.low), f"{name}_high": _known(interval.high),
            f"{name}_shown": "" if one is None else "yes" if one.shown else "no"}  # fmt: skip


def _overhead(name: str, costs: RoundCosts, metric: str, technique: int) -> dict[str, Any]:
    one = costs.overheads[metric].get(technique)
    names = (f"{name}_factor", f"{name}_factor_low", f"{name}_factor_high")
    values = (one.factor, one.interval.low, one.interval.high) if one else (math.nan,) * 3
    return {key: _known(value) for key, value in zip(names, values, strict=True)}


def top_techniques(effects: Effects, most: int) -> list[Effect]:
    """The techniques with the largest gain alone."""
    return sorted(effects.of(SINGLE).values(), key=lambda one: -one.value)[:most]


def top_combinations(results: FlowResults, most: int) -> list[Setting]:
    """The versions with the highest PSNR, mean over seeds."""
    return sorted((one for one in results.versions if one.is_measured), key=lambda one: -one.mean())[:most]


def effects_table(effects: Effects) -> Rows:
    """A row for each main effect, interaction and single gain, in dB; those that are not estimable have no number."""
    rows = [{"kind": one.kind, "techniques": combination(one.techniques), "value": one.value,
             "low_95": _known(one.interval.low), "high_95": _known(one.interval.high), "n": one.n, "p": _known(one.p),
             "p_holm": _known(one.p_holm), "shown": "yes" if one.shown else "no"}
            for one in effects.effects]  # fmt: skip
    return rows + [{"kind": kind, "techniques": combination(techniques), "shown": "not estimable"}
                   for kind, techniques in effects.not_estimable]  # fmt: skip


def matched_table(effects: Effects) -> Rows:
    """A row for each two versions that differ in one technique."""
    return [{"technique": one.technique, "with": one.having.name, "without": one.lacking.name,
             "psnr_with": one.having.mean(), "psnr_without": one.lacking.mean(), "difference": one.value,
             "n_with": len(one.having.values()), "n_without": len(one.lacking.values())}
            for one in effects.matched]  # fmt: skip


def controls(results: FlowResults, effects: Effects) -> Rows:
    """The confounded techniques against the base and against their control, and technique 8 in its other form."""
    rows = []
    for technique, group in CONTROLS.items():
        control, single = results.control(group), results.singles.get(technique)
        rows += _compared(results.base, single, "base", technique, effects)
        rows += _compared(control, single, group, technique, effects)
        rows += _compared(results.base, control, "base", f"none ({group})", effects)
    other = results.control(LOGIT_NORMAL)
    rows += _compared(results.base, results.singles.get(8), "base", COSINE_PATH, effects)
    rows += _compared(results.base, other, "base", LOGIT, effects)
    rows += _compared(results.singles.get(8), other, COSINE_PATH, LOGIT, effects)
    return rows


def _compared(other: Setting | None, one: Setting | None, against: str, what: int | str, effects: Effects) -> Rows:
    if one is None or other is None or not (one.is_measured and other.is_measured):
        return []
    value, interval = difference(one, other, effects.noise)
    return [{"techniques": str(what), "against": against, "difference": value, "low_95": _known(interval.low),
             "high_95": _known(interval.high), "n": len(one.values()), "n_against": len(other.values())}]  # fmt: skip


def settings_table(results: FlowResults, effects: Effects) -> Rows:
    """A row for each setting of the round: the mean over seeds of all that it reports."""
    rows = []
    for one in results.settings:
        interval = own_interval(one, effects.noise)
        rows.append({
            "group": one.group, "version": one.label, "techniques": combination(one.techniques),
            "method": one.option("method"), "complexity": one.complexity, "epochs": one.option("epochs"),
            "locality": one.option("locality"), "n": len(one.values()), "unfinished": len(one.unfinished),
            "psnr_low_95": _known(interval.low), "psnr_high_95": _known(interval.high),
            **{metric: _known(one.mean(metric)) for metric in MEASURES},
        })  # fmt: skip
    return rows


def _known(value: float) -> float | str:
    """A number, or an empty cell."""
    return value if math.isfinite(value) else ""
