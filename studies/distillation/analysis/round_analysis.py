"""From a round to its results: measure the runs, compare, draw, summarise."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
from threadpoolctl import threadpool_limits

from analysis.figure_store import FigureStore, StoredFigure, key_of, write_bytes, write_figure
from analysis.rounds import RoundRecords, read_round
from analysis.style import rules
from analysis.suite import Suite
from roundhouse.errors import RoundhouseError
from studies.distillation.analysis.effects import accuracy_intervals, as_table, families
from studies.distillation.analysis.figure_data import FigureData
from studies.distillation.analysis.figures import FIGURES
from studies.distillation.analysis.measures import BINS, EPOCH, RunMeasures, identity_of, measure_all, similarities
from studies.distillation.analysis.runs import CompletedRuns, runs_of
from studies.distillation.analysis.summary import summary


def analyse(found: RoundRecords, controls: Sequence[str], suite: Suite) -> list[str]:
    """Measure, compare, draw and summarise a round, with its control round if that has records.

    Returns a line for each figure that cannot be drawn. RoundhouseError: the round is not one that can be analysed.
    """
    name, control, without = found.name, None, ""
    try:
        control = next((read_round(one, suite.folders) for one in controls), None)
    except RoundhouseError as error:
        without = str(error)
    runs = runs_of(found, control)
    if not runs.methods:
        raise RoundhouseError(f"round {name}: no distilled student is completed yet")
    suite.say(f"{name}: {len(runs.runs)} completed runs, {len(runs.students)} settings of students. Measuring ...")
    # One thread per process: with more threads than cores they wait for each other.
    with ProcessPoolExecutor(suite.jobs, initializer=threadpool_limits, initargs=(1,)) as pool:
        measured = measure_all(runs, pool)
        between = similarities(runs, pool)
    data = figure_data_of(runs, measured, between)
    problems = [text for one in measured for text in one.problems]
    folder = suite.folders.results(name)
    undrawn = draw(data, folder / "figures", suite.formats)
    write_bytes(folder / "figures" / "measures.csv", data.frame.to_csv(index=False).encode())
    write_bytes(folder / "figures" / "comparisons.csv", as_table(data.families).to_csv(index=False).encode())
    write_bytes(folder / "summary.md", summary(data, problems + undrawn).encode())
    for text in (*([without] if without else []), *runs.missing, *problems):
        suite.note(text)
    suite.say(f"{len(FIGURES) - len(undrawn)} figures with their tables: {folder / 'figures'}")
    suite.say(f"Summary: {folder / 'summary.md'}")
    suite.say(f"To include them in the report: python analysis/report.py --round {name}")
    return undrawn


def figure_data_of(runs: CompletedRuns, measured: list[RunMeasures], between: pd.DataFrame) -> FigureData:
    """The data for figures and summary."""
    frame = pd.DataFrame([one.row for one in measured])
    folders = ("method", "alpha", "dataset", "seed")
    bins = pd.DataFrame(
        [{**identity_of(one.run), **row} for one in measured for row in one.bins], columns=[*folders, *BINS]
    )
    epochs = pd.DataFrame(
        [{**identity_of(one.run), **row} for one in measured for row in one.epochs], columns=[*folders, *EPOCH]
    )
    return FigureData(runs, frame, between, families(frame, runs), accuracy_intervals(runs, measured), epochs, bins)


def draw(data: FigureData, folder: Path, formats: tuple[str, ...]) -> list[str]:
    """Draw all figures. Returns a line for each figure that cannot be drawn."""
    store, problems = FigureStore(folder, {}), []
    for one in FIGURES:
        picture = StoredFigure(one.name, one.title, f"{one.caption}{data.caveat}", key_of([]), formats)
        try:
            with rules():
                figure, table = one.draw(data)
                if not table:
                    needs = ", ".join(one.needs)
                    problems.append(f"figure {one.name} is not drawn: 0 runs have the data that it needs ({needs})")
                    continue
                write_figure(folder, picture, figure, table)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            problems.append(f"figure {one.name} cannot be drawn from this data: {type(error).__name__}: {error}")
            continue
        store.figures[one.name] = picture
    store.save()
    return problems
