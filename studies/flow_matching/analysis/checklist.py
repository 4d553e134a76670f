"""The document's checklist after completion, filled in from the round: what is done, what is open, with numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.rounding import fixed
from studies.flow_matching.analysis.claims import Claim
from studies.flow_matching.analysis.effects import Effects
from studies.flow_matching.analysis.projections import combination
from studies.flow_matching.analysis.results import GENERALISATION, LONGER, FlowResults, Setting
from studies.flow_matching.analysis.tables import top_combinations, top_techniques


def checklist(results: FlowResults, effects: Effects, claims: Sequence[Claim]) -> str:
    """checklist.md: a line for each point; it is ticked if all of its runs are completed."""
    completion = claims[0]
    best = top_combinations(results, 10)
    longer = results.in_group(LONGER)
    families = [one for one in results.settings if one.group.startswith(GENERALISATION)]
    ranked = [
        f"{combination(one.techniques)} {fixed(one.value, 2, sign=True)} dB" for one in top_techniques(effects, 3)
    ]
    names = ", ".join(one.name for one in best)
    points = (
        (_done(results.versions), f"success rate: {completion.measured} (`all_results.json`, `failed_jobs.json`)"),
        (_done(results.singles.values()),
         f"technique ranking: {', '.join(ranked) or 'nothing is measured yet'} (`technique_ranking.json`)"),
        (_done(results.versions), f"top 10 combinations: {names or 'nothing is measured yet'} (`all_results.json`)"),
        (_done(longer) and LONGER not in results.undecided,
         f"best combinations trained longer: {_progress(results, longer, LONGER)} (group `{LONGER}`)"),
        (_done(families) and not any(one.startswith(GENERALISATION) for one in results.undecided),
         f"generalisation: {_progress(results, families, GENERALISATION)} (groups `{GENERALISATION}*`)"),
        (False, "results written into the study's README (by you)"),
    )  # fmt: skip
    lines = [f"- [{'x' if done else ' '}] {text}" for done, text in points]
    return "\n".join([f"# Round {results.name}: after completion", "", *lines]) + "\n"


def _done(settings: Iterable[Setting]) -> bool:
    """Whether there are such settings, and each has a result of all its runs."""
    every = list(settings)
    return bool(every) and all(one.is_measured and not one.unfinished for one in every)


def _progress(results: FlowResults, settings: Sequence[Setting], group: str) -> str:
    """`3 of 10 runs completed`; those whose setting is not selected yet count too."""
    waiting = sum(count for name, count in results.undecided.items() if name.startswith(group))
    total = sum(len(one.paths) for one in settings) + waiting
    return f"{sum(len(one.runs) for one in settings)} of {total} runs completed" if total else "not in this round"
