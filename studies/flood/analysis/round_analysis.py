"""From a flood round to its results: tables, figures, summary."""

from __future__ import annotations

from typing import Any

from analysis.figure_store import csv_of, write_bytes
from analysis.rounds import RoundRecords
from analysis.study_figures import draw_figures
from analysis.suite import Suite
from roundhouse.formatting import counted
from studies.flood.analysis import convergence, costs, rae, simulations, tuning
from studies.flood.analysis.figures import figures_of
from studies.flood.analysis.results import FloodResults, results_of
from studies.flood.analysis.summary import SummaryData, missing_in, summary
from studies.flood.analysis.tables import runs_table


def analyse(found: RoundRecords, suite: Suite) -> list[str]:
    """Write figures/, results/ and summary.md of a round. Returns a line for each problem.

    RoundhouseError: the round has no experiment of this study.
    """
    results = results_of(found)
    problems: list[str] = []
    errors = rae.all_errors(results, problems)
    tuned = tuning.tuned_of(results)
    folder = suite.folders.results(found.name)
    for name, rows in _tables(results, errors, tuned).items():
        write_bytes(folder / "results" / name, csv_of(rows))
    without, failures = draw_figures(figures_of(results, errors), folder / "figures", suite.formats)
    missing = [*missing_in(results), *(f"figure {name}: no run has the data for it" for name in without)]
    write_bytes(folder / "summary.md", summary(SummaryData(results, tuned, [*problems, *missing])).encode())
    for text in missing:
        suite.note(text)
    done = sum(len(one.completed) for one in results.settings)
    total = sum(len(one.runs) for one in results.settings)
    suite.say(f"{found.name}: {done} of {counted(total, 'run')} completed, {counted(len(tuned), 'tuned setting')}")
    suite.say(f"Tables: {folder / 'results'}")
    suite.say(f"Figures with their tables: {folder / 'figures'}")
    suite.say(f"Summary: {folder / 'summary.md'}")
    return problems + failures


def _tables(
    results: FloodResults, errors: list[rae.SettingErrors], tuned: list[tuning.Tuned]
) -> dict[str, list[dict[str, Any]]]:
    """By file name; those without a row are left out."""
    made = {
        "runs.csv": runs_table(results),
        "convergence.csv": convergence.table(results),
        "rae.csv": rae.table(errors, results),
        "tuning.csv": tuning.table(tuned),
        "costs.csv": costs.table(results),
        "simulations.csv": simulations.simulations_table(results),
        "samples.csv": simulations.samples_table(results),
    }
    return {name: rows for name, rows in made.items() if rows}
