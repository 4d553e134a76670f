"""The written summary, about one page: question, design, baselines, findings, projections, claims, what is missing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analysis.rounding import fixed, significant, with_interval, with_spread
from analysis.study_summary import missing_lines
from roundhouse.formatting import abbreviated, counted
from studies.flow_matching.analysis.claims import GAIN, NOT_SHOWN, OVERHEAD, Claim, departures
from studies.flow_matching.analysis.costs import RoundCosts
from studies.flow_matching.analysis.effects import MAIN, SINGLE, Effect, Effects
from studies.flow_matching.analysis.findings import findings
from studies.flow_matching.analysis.projections import PROJECTIONS, combination
from studies.flow_matching.analysis.results import MEAN_PSNR, PSNR, REFERENCES, FlowResults, Setting
from studies.flow_matching.analysis.tables import projected_and_measured, top_combinations, top_techniques

MOST_MISSING = 10
PROJECTED = ("technique", "gain projected", "alone", "main effect", "overhead projected", "step", "sample", "training",
             "rank projected", "rank alone", "rank by main effect")  # fmt: skip
REFERENCE_NAMES = dict(zip(REFERENCES, (
    "mean of the observations", "nearest observation", "thin-plate RBF",
    "Gaussian RBF, width chosen on validation fields", "Gaussian RBF, width chosen on the test fields",
), strict=True))  # fmt: skip


@dataclass(frozen=True)
class SummaryData:
    """What the summary is written from. `missing`: a line each."""

    results: FlowResults
    effects: Effects
    costs: RoundCosts
    claims: Sequence[Claim]
    missing: Sequence[str]


def summary(data: SummaryData) -> str:
    """summary.md of a round."""
    sections = {
        "Question and design": _design(data),
        "Baselines": _baselines(data.results),
        "Findings": _findings(data),
        "Projected beside measured": _projected(data),
        "Best techniques and combinations": _top(data),
        "Claims of the document": _claims(data),
        "Not shown": _not_shown(data),
        "Missing": missing_lines(data.missing, MOST_MISSING),
    }
    lines = [f"# Round {data.results.name}: results"]
    for title, section in sections.items():
        lines += ["", f"## {title}", "", *section]
    return "\n".join(lines) + "\n"


def _design(data: SummaryData) -> Iterator[str]:
    results, effects = data.results, data.effects
    base = results.base
    yield (
        "Which of ten techniques improve a flow matching model that reconstructs a field from a few observations, "
        "alone and together, and do they reach what the document projects?"
    )
    yield ""
    done = sum(one.is_measured for one in results.versions)
    seeds = [len(one.values()) for one in results.versions if one.is_measured]
    versions = f"{done} of {counted(len(results.versions), 'version')} with a result"
    versions += f", {_range(seeds)} each" if seeds else ""
    family = results.first.complexity if results.first else ""
    yield (
        f"{versions}; the base (v2) has {counted(len(base.values()) if base else 0, 'run')}. PSNR in dB on held-out "
        f"{family} fields, of single samples if nothing else is said. Effects are fitted by least squares on all "
        "versions: a *main effect* is what adding a technique changes on average over the versions that have it, an "
        "*interaction* how far a pair differs from the sum of its two effects."
    )
    yield ""
    if effects.noise:
        yield (
            f"The standard deviation of a run is {significant(effects.noise.deviation, 2)} dB ({effects.noise.source}; "
            f"{counted(effects.noise.freedom, 'degree')} of freedom). In parentheses: 95 % intervals by this noise; "
            "of a setting's own PSNR, by its seeds if it has three or more. An effect is *shown* if p < 0.05 by "
            f"Student's t after Holm's correction over all {len(effects.effects)} effects."
        )
    else:
        yield "The noise between runs is unknown, since each setting has one: no effect can be shown."
    if other := departures(results):
        yield ""
        yield (f"**The round is not of the document's size**: {'; '.join(other)}. All answers hold for this size only.")


def _range(counts: Sequence[int]) -> str:
    """`1 run`, `1 to 3 runs`."""
    least = f"{min(counts)} to " if min(counts) < max(counts) else ""
    return f"{least}{counted(max(counts), 'run')}"


def _baselines(results: FlowResults) -> Iterator[str]:
    yield "| | single samples | mean of the samples, or one prediction |"
    yield "|---|---|---|"
    for metric, name in REFERENCE_NAMES.items():
        value = results.reference(metric)
        if math.isfinite(value):
            yield f"| {name} | | {fixed(value, 2)} |"
    plain = [one for one in results.in_group("document_base") if not one.techniques]
    best = top_combinations(results, 1)
    shown = [("the same network as a regression", results.regression), ("base (v2)", results.base),
             *(("base without the distance term", one) for one in plain),
             *((f"best version, {one.name}", one) for one in best)]  # fmt: skip
    for name, one in shown:
        if one and one.is_measured:
            single = "" if not one.is_flow else _spread(one, PSNR)
            yield f"| {name} | {single} | {_spread(one, MEAN_PSNR if one.values(MEAN_PSNR) else PSNR)} |"
    yield ""
    yield "Mean ± standard deviation (number of runs) over seeds."


def _spread(one: Setting, metric: str) -> str:
    values = one.values(metric)
    if not values:
        return "--"
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    text = with_spread(statistics.fmean(values), deviation) if len(values) > 1 else fixed(values[0], 2)
    return f"{text} ({len(values)})"


def _findings(data: SummaryData) -> Iterator[str]:
    found = findings(data.results, data.effects)
    yield from (f"{number}. {text}" for number, text in enumerate(found, 1))
    if not found:
        yield "None yet: no run that could be compared is completed."


def _projected(data: SummaryData) -> Iterator[str]:
    rows = projected_and_measured(data.results, data.effects, data.costs, data.claims)
    yield f"| {' | '.join(PROJECTED)} |"
    yield f"|{'---|' * len(PROJECTED)}"
    for one, row in zip(PROJECTIONS, rows, strict=True):
        effects = (data.effects.get(kind, one.number) for kind in (SINGLE, MAIN))
        cells = [
            f"{one.number} {one.name}", f"{one.gain[0]:g} to {one.gain[1]:g}", *map(_effect, effects),
            f"{one.overhead:g}", *(_factor(row[f"{name}_factor"]) for name in ("step", "sample", "training")),
            row["projected_rank"], row["rank_alone"] or "--", row["rank_by_main_effect"] or "--",
        ]  # fmt: skip
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""
    yield (
        "Gains in dB, with an asterisk if shown; overheads: time of a training step, of sampling a field and of all "
        "training steps (for technique 1 without drawing its pairs), as a factor of the base's "
        "(`results/projected_and_measured.csv` has their intervals)."
    )


def _effect(one: Effect | None) -> str:
    if one is None:
        return "--"
    return f"{with_interval(one.value, one.interval.low, one.interval.high)}{'*' * one.shown}"


def _factor(value: float | str) -> str:
    return fixed(value, 2) if isinstance(value, float) else "--"


def _top(data: SummaryData) -> Iterator[str]:
    three = [f"{combination(one.techniques)} {fixed(one.value, 2, sign=True)} dB"
             for one in top_techniques(data.effects, 3)]  # fmt: skip
    ten = [f"{one.name} {fixed(one.mean(), 2)}" for one in top_combinations(data.results, 10)]
    yield f"Top 3 techniques alone: {', '.join(three) or 'none is measured yet'}."
    yield ""
    yield f"Top 5 combinations (dB, mean over seeds): {', '.join(ten[:5]) or 'none is measured yet'}."
    if len(ten) > 5:
        yield ""
        yield f"Then, to the top 10: {', '.join(ten[5:])}."
    count = sum(one.is_measured for one in data.results.versions)
    if count > 1:
        yield ""
        yield (
            f"The best of {count} versions looks better than it is, since it has the highest sum of effect and noise. "
            "What remains of it shows in runs with other seeds, as in the groups longer and generalisation_best."
        )


def _claims(data: SummaryData) -> Iterator[str]:
    yield "| claim | answer | measured |"
    yield "|---|---|---|"
    for one in data.claims:
        if one.kind not in (GAIN, OVERHEAD):
            yield f"| {one.claim} | {one.verdict} | {one.measured} |"
    for kind, what in ((GAIN, "the gain of each technique alone is as projected"),
                       (OVERHEAD, "the overhead of each technique is at most as projected")):  # fmt: skip
        found = [one for one in data.claims if one.kind == kind]
        parts = []
        for verdict in dict.fromkeys(one.verdict for one in found):
            numbers = [PROJECTIONS[place].number for place, one in enumerate(found) if one.verdict == verdict]
            parts.append(f"{verdict}: {', '.join(map(str, numbers))}")
        verdicts = {one.verdict for one in found}
        yield f"| {what} | {verdicts.pop() if len(verdicts) == 1 else 'differs'} | {'; '.join(parts)} (table above) |"
    yield ""
    yield (
        "*Not shown*: the noise, or runs that are missing, leave it open. `results/claims.csv` has all "
        f"{len(data.claims)} answers with their intervals."
    )


def _not_shown(data: SummaryData) -> Iterator[str]:
    effects = data.effects
    hidden = [one for one in effects.effects if not one.shown]
    known = [one for one in hidden if math.isfinite(one.interval.low)]
    open_claims = [one for one in data.claims if one.verdict == NOT_SHOWN]
    parts = f"{len(hidden)} of {counted(len(effects.effects), 'effect')}"
    yield f"{parts} and {len(open_claims)} of {len(data.claims)} claims."
    if known:
        yield ""
    for kind in dict.fromkeys(one.kind for one in known):
        halves = [(one.interval.high - one.interval.low) / 2 for one in known if one.kind == kind]
        usual = significant(statistics.median(halves), 2)
        yield f"- {kind}s: an interval reaches {usual} dB to each side (median of {len(halves)})."
    yield ""
    yield (
        "Effects of a technique that come from what it changes besides (training time, query pattern, schedule) are "
        "separated only where its control has run. Interactions of three and more techniques are not estimated; they "
        "count as noise. Noise is taken as normal: with one run of a version an outlier looks like an effect, so what "
        "is shown should be repeated with other seeds. All fields are synthetic."
    )


def missing_in(results: FlowResults, effects: Effects) -> list[str]:
    """What the round lacks or could not be read, a line each."""
    lines = list(results.problems)
    if results.base is None or not results.base.is_measured:
        lines.append("base: no completed run, so no gain is known")
    by_group: dict[str, list[str]] = {}
    for one in results.settings:
        by_group.setdefault(one.group, []).extend(run.state for run in one.unfinished)
    for group, states in by_group.items():
        if states:
            kinds = ", ".join(f"{states.count(state)} {state.replace('_', ' ')}" for state in dict.fromkeys(states))
            lines.append(f"group {group or 'without a name'}: {counted(len(states), 'run')} without a result ({kinds})")
    lines += [f"group {group}: {counted(count, 'run')} whose setting is not selected yet"
              for group, count in results.undecided.items()]  # fmt: skip
    if effects.not_estimable:
        names = [f"{kind} {combination(techniques)}" for kind, techniques in effects.not_estimable]
        lines.append(f"not determined by the versions that have a result: {abbreviated(names, 8)}")
    lines += _not_comparable(results)
    return lines


def _not_comparable(results: FlowResults) -> Iterator[str]:
    """Settings with techniques in a group of versions that differ from the base in more than that."""
    if results.base is None:
        return
    for group in dict.fromkeys(one.group for one in results.versions):
        for one in results.in_group(group):
            if one not in results.versions and (keys := one.differs_from(results.base)):
                yield f"{group}: {one.name} differs from the base in {', '.join(keys)}: it is no version"
