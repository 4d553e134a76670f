"""From a round to its results: the queue, tables, figures, summary."""

from __future__ import annotations

from analysis.figure_store import csv_of, write_bytes
from analysis.rounds import RoundRecords
from analysis.study_figures import draw_figures
from analysis.suite import Suite
from roundhouse.formatting import counted
from studies.genegan.analysis.answers import answers_of
from studies.genegan.analysis.comparisons import comparisons_of
from studies.genegan.analysis.figures import figures_of
from studies.genegan.analysis.queue_file import queue
from studies.genegan.analysis.results import results_of
from studies.genegan.analysis.summary import SummaryData, missing_in, summary
from studies.genegan.analysis.tables import arms_table, runs_table


def analyse(found: RoundRecords, suite: Suite) -> list[str]:
    """Write figures/, results/ and summary.md of a round. Returns a line for each problem.

    RoundhouseError: the round has no experiment of this study.
    """
    results = results_of(found)
    comparisons = comparisons_of(results)
    answers = answers_of(results, comparisons)
    folder = suite.folders.results(found.name)
    files = {
        "queue.md": queue(results).encode(),
        "results.csv": csv_of(runs_table(results)),
        "arms.csv": csv_of(arms_table(comparisons)),
    }
    for name, content in files.items():
        write_bytes(folder / "results" / name, content)
    without, problems = draw_figures(figures_of(results), folder / "figures", suite.formats)
    missing = [*missing_in(results), *(f"figure {name}: no run has the data for it" for name in without)]
    write_bytes(folder / "summary.md", summary(SummaryData(results, comparisons, answers, missing)).encode())
    for text in missing:
        suite.note(text)
    done = sum(len(one.completed) for one in results.arms)
    total = sum(len(one.runs) for one in results.arms)
    suite.say(f"{found.name}: {done} of {counted(total, 'run')} completed, {counted(len(answers), 'answer')}")
    suite.say(f"Files: {folder / 'results'}")
    suite.say(f"Figures with their tables: {folder / 'figures'}")
    suite.say(f"Summary: {folder / 'summary.md'}")
    return problems
