"""The analysis of a flood round: learning curves, convergence, errors beside both baselines, costs, and a summary.

Loaded only for an analysis: it needs matplotlib, which a job must not load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.rounds import RoundRecords
    from analysis.suite import Suite


def analyse(found: RoundRecords, suite: Suite) -> list[str]:
    """Write figures/, results/ and summary.md of a round; see `round_analysis.analyse`."""
    from studies.flood.analysis import round_analysis  # not at the top: it loads matplotlib

    return round_analysis.analyse(found, suite)
