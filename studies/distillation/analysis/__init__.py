"""The analysis of a distillation round: measures of each run, comparisons, figures, a written summary.

Loaded only for an analysis: it needs matplotlib and pandas, which a job must not load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.rounds import RoundRecords
    from analysis.suite import Suite


def other_rounds(suite: Suite, name: str) -> list[str]:
    """The rounds that the analysis of a round reads too: its control round, control_smoke for charlie_smoke."""
    control = suite.options.get("control") or name.replace("charlie", "control")
    return [control] if control != name else []


def analyse(found: RoundRecords, suite: Suite) -> list[str]:
    """Write figures/ and summary.md of a round; see `round_analysis.analyse`."""
    from studies.distillation.analysis import round_analysis  # not at the top: it loads matplotlib and pandas

    return round_analysis.analyse(found, other_rounds(suite, found.name), suite)
