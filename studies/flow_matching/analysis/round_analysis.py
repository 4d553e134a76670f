"""From a round to its results: effects of techniques, files, figures, summary."""

from __future__ import annotations

from analysis.figure_store import csv_of, write_bytes
from analysis.rounds import RoundRecords
from analysis.suite import Suite
from roundhouse.formatting import counted
from studies.flow_matching.analysis.checklist import checklist
from studies.flow_matching.analysis.claims import claims_of
from studies.flow_matching.analysis.costs import costs_of
from studies.flow_matching.analysis.effects import effects_of
from studies.flow_matching.analysis.figure_data import FigureData
from studies.flow_matching.analysis.figures import draw
from studies.flow_matching.analysis.files import document_files
from studies.flow_matching.analysis.results import results_of
from studies.flow_matching.analysis.summary import SummaryData, missing_in, summary
from studies.flow_matching.analysis.tables import tables


def analyse(found: RoundRecords, suite: Suite) -> list[str]:
    """Write figures/, results/ and summary.md of a round. Returns a line for each problem.

    RoundhouseError: the round has no experiment of this study.
    """
    results = results_of(found)
    effects = effects_of(results.measured, results.replicated)
    costs = costs_of(results, found)
    claims = claims_of(results, effects, costs)
    folder = suite.folders.results(found.name)
    files = document_files(results, effects, found)
    files |= {name: csv_of(rows) for name, rows in tables(results, effects, costs, claims).items()}
    files["checklist.md"] = checklist(results, effects, claims).encode()
    for name, content in files.items():
        write_bytes(folder / "results" / name, content)
    without, problems = draw(FigureData(results, effects), folder / "figures", suite.formats)
    missing = [*missing_in(results, effects), *(f"figure {name}: no run has the data for it" for name in without)]
    write_bytes(folder / "summary.md", summary(SummaryData(results, effects, costs, claims, missing)).encode())
    for text in missing:
        suite.note(text)
    done = sum(len(one.runs) for one in results.settings)
    versions = f"{sum(one.is_measured for one in results.versions)} of {counted(len(results.versions), 'version')}"
    suite.say(f"{found.name}: {counted(done, 'completed run')}, {versions} with a result")
    suite.say(f"Files: {folder / 'results'}")
    suite.say(f"Figures with their tables: {folder / 'figures'}")
    suite.say(f"Summary: {folder / 'summary.md'}")
    return problems
