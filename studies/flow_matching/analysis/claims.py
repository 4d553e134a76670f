"""Answers to the claims of the document: met, not met, or not shown, each with its number and interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from scipy.stats import spearmanr

from analysis.comparison import Interval
from analysis.rounding import fixed, significant, with_interval
from studies.flow_matching.analysis import projections
from studies.flow_matching.analysis.costs import RoundCosts
from studies.flow_matching.analysis.effects import UNKNOWN, Effects, difference, own_interval
from studies.flow_matching.analysis.projections import PROJECTIONS, combination
from studies.flow_matching.analysis.results import DOCUMENT_BASE, GENERALISATION, STEP, TRAINING, FlowResults, Setting

MET, NOT_MET, NOT_SHOWN = "met", "not met", "not shown"
ABOUT = 1.0  # dB on both sides of a number that the document writes with ~
ABOUT_FACTOR = 0.05  # above an overhead that the document rounds
FIRST, LAST = 3, 102  # the document's versions
GAIN, OVERHEAD = "gain of technique", "overhead of technique"  # kinds of claims that have a table of their own


@dataclass(frozen=True)
class Claim:
    """A claim with its answer. `measured`: the number in words; `value`, `low`, `high`: NaN if there is none."""

    kind: str
    claim: str
    verdict: str
    measured: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


def claims_of(results: FlowResults, effects: Effects, costs: RoundCosts) -> list[Claim]:
    """All claims, in the order of their importance."""
    return [
        *_criteria(results, effects),
        *_base(results, effects),
        *_best(results, effects),
        _order(results, effects),
        *_resources(results, costs),
        *_gains(effects),
        *_overheads(costs),
    ]


def departures(results: FlowResults) -> list[str]:
    """In what the round's base differs from the document's runs: `epochs 12 instead of 100`."""
    config = results.first.config if results.first else {}
    return [f"{key.replace('_', ' ')} {config[key]} instead of {value}" for key, value in projections.SIZE.items()
            if config.get(key, value) != value]  # fmt: skip


# ------------------------------------------------------------------------------------------------ success criteria


def _criteria(results: FlowResults, effects: Effects) -> Iterator[Claim]:
    yield _completion(results)
    yield _useful_singles(results, effects)
    yield _best_gain(results, effects)


def _completion(results: FlowResults) -> Claim:
    planned = [one for one in results.versions if FIRST <= one.version <= LAST]
    done = sum(bool(one.runs) for one in planned)
    failed = sum(not one.runs and all(run.ended for run in one.unfinished) for one in planned)
    least = math.ceil(projections.LEAST_COMPLETED * projections.VERSIONS)
    verdict = NOT_SHOWN
    if done >= least:
        verdict = MET
    elif len(planned) >= projections.VERSIONS and len(planned) - failed < least:
        verdict = NOT_MET
    text = f"{done} completed, {failed} failed or diverged, {len(planned) - done - failed} open"
    if len(planned) < projections.VERSIONS:
        text += f"; the round has {len(planned)} of the {projections.VERSIONS} versions"
    return Claim("success criterion", f"at least {least} of {projections.VERSIONS} versions complete", verdict, text,
                 done)  # fmt: skip


def _useful_singles(results: FlowResults, effects: Effects) -> Claim:
    """Intervals are simultaneous, so that the number of techniques above the limit is right in 95 % of cases."""
    limit, least = projections.SINGLE_GAIN, projections.LEAST_TECHNIQUES
    claim = f"at least {least} techniques alone gain more than {limit:g} dB"
    found = _against_base(results, effects, list(results.singles.values()))
    above = [one for one, (_, interval) in found if interval.low > limit]
    below = [one for one, (_, interval) in found if interval.high <= limit]
    seen = [one for one, (value, _) in found if value > limit]
    verdict = NOT_SHOWN
    if len(above) >= least:
        verdict = MET
    elif len(projections.NUMBERS) - len(below) < least:
        verdict = NOT_MET
    names = f" ({', '.join(combination(one.techniques) for one in seen)})" if seen else ""
    text = f"{len(seen)} of {len(found)} measured gain more than {limit:g} dB{names}"
    text += f"; shown for {len(above)}, excluded for {len(below)}"
    return Claim("success criterion", claim, verdict, text, len(seen))


def _best_gain(results: FlowResults, effects: Effects) -> Claim:
    limit = projections.COMBINATION_GAIN
    claim = f"the best combination gains more than {limit:g} dB"
    found = _against_base(results, effects, [one for one in results.versions if len(one.techniques) > 1])
    if not found:
        return Claim("success criterion", claim, NOT_SHOWN, _nothing(results))
    best, (value, interval) = max(found, key=lambda one: one[1][0])
    verdict = NOT_SHOWN
    if any(one.low > limit for _, (_, one) in found):
        verdict = MET
    elif not _open(results) and all(one.high <= limit for _, (_, one) in found):
        verdict = NOT_MET
    text = f"{best.name}: {_db(value, interval)}, the highest of {len(found)}; simultaneous interval"
    return Claim("success criterion", claim, verdict, text, value, interval.low, interval.high)


Gain = tuple[Setting, tuple[float, Interval]]


def _against_base(results: FlowResults, effects: Effects, settings: list[Setting]) -> list[Gain]:
    """The gains of the measured ones over the base, with simultaneous intervals."""
    base, measured = results.base, [one for one in settings if one.is_measured]
    if base is None or not base.is_measured:
        return []
    return [(one, difference(one, base, effects.noise, comparisons=len(measured))) for one in measured]


def _open(results: FlowResults) -> bool:
    """Whether a version may still get a result."""
    return any(not run.ended for one in results.versions for run in one.unfinished)


# ---------------------------------------------------------------------------------------------- base and best


def _base(results: FlowResults, effects: Effects) -> Iterator[Claim]:
    for complexity, target in projections.BASE_PSNR.items():
        claim = f"v2 reaches about {target:g} dB on {complexity}"
        setting = base_on(results, complexity)
        if setting is None or not setting.is_measured:
            yield Claim("base", claim, NOT_SHOWN, "no completed run of v2 on it")
            continue
        interval = own_interval(setting, effects.noise)
        text = f"{_level(setting.mean(), interval)}, n {len(setting.values())}, {setting.option('epochs')} epochs"
        text += _without_distances(results, complexity)
        yield _in_range("base", claim, setting.mean(), interval, (target - ABOUT, target + ABOUT), text)


def base_on(results: FlowResults, complexity: str) -> Setting | None:
    """v2 on a family of fields: of the group base, else of the generalisation."""
    found = [one for one in results.in_group("base", f"{GENERALISATION}base")
             if one.is_flow and not one.techniques and one.complexity == complexity]  # fmt: skip
    return next((one for one in found if one.is_measured), None)


def _without_distances(results: FlowResults, complexity: str) -> str:
    found = [one for one in results.in_group(DOCUMENT_BASE)
             if not one.techniques and one.complexity == complexity and one.is_measured]  # fmt: skip
    return f"; without the distance term {fixed(found[0].mean(), 2)} dB, n {len(found[0].values())}" if found else ""


def _best(results: FlowResults, effects: Effects) -> Iterator[Claim]:
    name = f"{{{', '.join(map(str, projections.BEST))}}}"
    best = results.with_techniques(projections.BEST)
    others = [one for one in results.versions if one.is_measured and one is not best]
    texts = [
        f"{name} is the best combination",
        f"{name} gains {projections.BEST_GAIN[0]:g} to {projections.BEST_GAIN[1]:g} dB",
        f"{name} reaches {projections.BEST_PSNR[0]:g} to {projections.BEST_PSNR[1]:g} dB on simple",
    ]
    if best is None or not best.is_measured:
        yield from (Claim("best combination", text, NOT_SHOWN, f"{name} has no completed run") for text in texts)
        return
    yield _is_best(texts[0], best, others, results, effects)
    base = results.base
    value, interval = difference(best, base, effects.noise) if base else (math.nan, UNKNOWN)
    yield _in_range("best combination", texts[1], value, interval, projections.BEST_GAIN, _db(value, interval))
    own = own_interval(best, effects.noise)
    text = _level(best.mean(), own)
    if best.complexity == "simple":
        yield _in_range("best combination", texts[2], best.mean(), own, projections.BEST_PSNR, text)
    else:
        yield Claim("best combination", texts[2], NOT_SHOWN, f"{text} on {best.complexity}", best.mean())


def _is_best(claim: str, best: Setting, others: list[Setting], results: FlowResults, effects: Effects) -> Claim:
    if not others:
        return Claim("best combination", claim, NOT_SHOWN, "no other version has a result")
    found = [(one, difference(best, one, effects.noise, comparisons=len(others))) for one in others]
    rank = 1 + sum(value < 0 for _, (value, _) in found)
    rival, (value, interval) = min(found, key=lambda one: one[1][0])
    verdict = NOT_SHOWN
    if any(one.high < 0 for _, (_, one) in found):
        verdict = NOT_MET
    elif not _open(results) and all(one.low > 0 for _, (_, one) in found):
        verdict = MET
    text = f"rank {rank} of {len(others) + 1}; minus {rival.name}: {_db(value, interval)}, simultaneous interval"
    return Claim("best combination", claim, verdict, text, value, interval.low, interval.high)


def _order(results: FlowResults, effects: Effects) -> Claim:
    """The document orders the techniques by projected gain: is any two of them shown to be the other way round?"""
    claim = "the techniques alone rank as projected"
    known = [one for one in PROJECTIONS if one.number in results.singles and results.singles[one.number].is_measured]
    pairs = [(one, other) for one, other in combinations(known, 2) if one.middle != other.middle]
    if not pairs:
        return Claim("order", claim, NOT_SHOWN, "fewer than two techniques are measured alone")
    singles = results.singles
    found = [difference(singles[one.number], singles[other.number], effects.noise, comparisons=len(pairs))[1]
             for one, other in pairs]  # fmt: skip
    reversed_pairs = sum(one.high < 0 for one in found)
    verdict = NOT_SHOWN
    if reversed_pairs:
        verdict = NOT_MET
    elif len(known) == len(PROJECTIONS) and all(one.low > 0 for one in found):
        verdict = MET
    measured = [singles[one.number].mean() for one in known]
    rho = float(spearmanr([one.middle for one in known], measured).statistic) if len(known) > 2 else math.nan
    text = f"{reversed_pairs} of {len(pairs)} pairs are shown to be reversed"
    if math.isfinite(rho):
        text += f"; Spearman's rank correlation of projected and measured gains {fixed(rho, 2)}"
    return Claim("order", claim, verdict, text, rho)


# -------------------------------------------------------------------------------------------------- resources


def _resources(results: FlowResults, costs: RoundCosts) -> Iterator[Claim]:
    other = departures(results)
    low, high = projections.HOURS
    claim = f"all versions take {low:g} to {high:g} hours on {projections.GPUS} GPUs"
    text = "no version has run"
    if math.isfinite(costs.hours):
        text = f"{significant(costs.hours)} hours from the first start to the last end"
        text += f", {significant(costs.run_hours)} hours of runs"
    complete = len(results.versions) >= projections.VERSIONS and not any(one.unfinished for one in results.versions)
    reasons = [] if costs.run_hours > 0 else ["no times are recorded"]
    reasons += [f"{results.gpus} GPUs requested"] if results.gpus != projections.GPUS else []
    reasons += [] if complete else ["versions are missing"]
    reasons += ["another size"] if other else []
    if reasons:
        yield Claim("resources", claim, NOT_SHOWN, f"{text} ({', '.join(reasons)})", costs.hours)
    else:
        yield _in_range("resources", claim, costs.hours, Interval(costs.hours, costs.hours), projections.HOURS, text)
    claim = f"about {projections.CHECKPOINT_GB:g} GB are enough for the checkpoints"
    text = f"{significant(costs.checkpoint_gb)} GB in files .pth of the versions"
    verdict = MET if costs.checkpoint_gb <= projections.CHECKPOINT_GB else NOT_MET
    if not complete or other:
        verdict = NOT_SHOWN
        text += f" ({'another size' if other else 'versions are missing'})"
    yield Claim("resources", claim, verdict, text, costs.checkpoint_gb)
    claim = f"{projections.SLOTS} runs at the same time, 2 on each GPU"
    text = f"at most {costs.parallel} at the same time; {results.slots} slots, {results.gpus} GPUs requested"
    met = costs.parallel >= projections.SLOTS
    right = results.gpus == projections.GPUS
    yield Claim("resources", claim, MET if met and right else NOT_SHOWN, text, costs.parallel)


# ----------------------------------------------------------------------------------------------- each technique


def _gains(effects: Effects) -> Iterator[Claim]:
    for one in PROJECTIONS:
        claim = f"technique {one.number} ({one.name}) alone gains {one.gain[0]:g} to {one.gain[1]:g} dB"
        found = effects.get("single gain", one.number)
        if found is None:
            yield Claim(GAIN, claim, NOT_SHOWN, "not measured: its version or the base has no result")
        else:
            yield _in_range(GAIN, claim, found.value, found.interval, one.gain, _db(found.value, found.interval))


def _overheads(costs: RoundCosts) -> Iterator[Claim]:
    """Technique 1 adds a second phase of training, so its overhead is in the whole training."""
    for one in PROJECTIONS:
        metric = TRAINING if one.number == 1 else STEP
        what = "the training (without drawing its pairs)" if one.number == 1 else "a training step"
        claim = f"technique {one.number} ({one.name}): {what} takes at most {one.overhead:g} times that of the base"
        found = costs.overheads[metric].get(one.number)
        if found is None:
            yield Claim(OVERHEAD, claim, NOT_SHOWN, "not measured: its version or the base has no result")
            continue
        limit, interval = one.overhead + ABOUT_FACTOR, found.interval
        verdict = MET if interval.high <= limit else NOT_MET if interval.low > limit else NOT_SHOWN
        yield Claim(OVERHEAD, claim, verdict, factor_text(found.factor, interval), found.factor, interval.low,
                    interval.high)  # fmt: skip


# ------------------------------------------------------------------------------------------------------- words


def _in_range(kind: str, claim: str, value: float, interval: Interval, limits: tuple[float, float], text: str) -> Claim:
    """Met if the whole interval lies within the limits, not met if none of it does."""
    verdict = NOT_SHOWN
    if interval.low >= limits[0] and interval.high <= limits[1]:
        verdict = MET
    elif interval.high < limits[0] or interval.low > limits[1]:
        verdict = NOT_MET
    return Claim(kind, claim, verdict, text, value, interval.low, interval.high)


def _db(value: float, interval: Interval) -> str:
    return f"{with_interval(value, interval.low, interval.high)} dB"


def _level(value: float, interval: Interval) -> str:
    """`14.2 dB (13.9 to 14.5)`."""
    known = math.isfinite(interval.low)
    return f"{fixed(value, 2)} dB" + (f" ({fixed(interval.low, 2)} to {fixed(interval.high, 2)})" if known else "")


def factor_text(value: float, interval: Interval) -> str:
    """`1.21 (1.15 to 1.28)`."""
    known = math.isfinite(interval.low)
    return f"{fixed(value, 2)}" + (f" ({fixed(interval.low, 2)} to {fixed(interval.high, 2)})" if known else "")


def _nothing(results: FlowResults) -> str:
    return "no combination has a result" if results.base else "the round has no base to compare with"
