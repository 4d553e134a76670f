"""From a round to its results: measure the runs, compare, draw, summarise."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
from threadpoolctl import threadpool_limits

from analysis.comparison import mean_interval
from analysis.figure_store import FigureStore, StoredFigure, key_of, write_bytes, write_figure
from analysis.rounds import RoundRecords, read_round
from analysis.style import rules
from analysis.suite import Suite
from roundhouse.errors import RoundhouseError
from studies.distillation.analysis.effects import as_table, families
from studies.distillation.analysis.figure_data import FigureData
from studies.distillation.analysis.figures import FIGURES
from studies.distillation.analysis.measures import (
    BINS,
    EPOCH,
    MEASURES,
    RunMeasures,
    accuracy_mismatches,
    identity_of,
    measure_all,
    similarities,
)
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
    problems = [*accuracy_mismatches(data.frame), *(text for one in measured for text in one.problems)]
    folder = suite.folders.results(name)
    undrawn = draw(data, folder / "figures", suite.formats)
    notes = [*problems, *undrawn, *runs.missing]
    tables = {
        "measures": data.frame,
        "settings": settings_table(data),
        "comparisons": as_table(data.families),
        "missing": pd.DataFrame({"missing": notes}),
    }
    for stem, table in tables.items():
        write_bytes(folder / "figures" / f"{stem}.csv", table.to_csv(index=False).encode())
    write_bytes(folder / "summary.md", summary(data, notes).encode())
    for text in (*([without] if without else []), *runs.missing, *problems):
        suite.note(text)
    drawn = sum(len(list(one.drawings(data))) for one in FIGURES) - len(undrawn)
    suite.say(f"{drawn} figures with their tables: {folder / 'figures'}")
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
    return FigureData(runs, frame, between, families(frame, runs), epochs, bins)


def settings_table(data: FigureData) -> pd.DataFrame:
    """A row for each setting, data set and measure: seeds, mean, standard deviation, interval of the mean."""
    rows = []
    for keys, found in data.frame.groupby(["method", "alpha", "dataset"], sort=False, dropna=False):
        for column in MEASURES:
            values = found[column].dropna()
            interval = mean_interval(values)
            rows.append({**dict(zip(("method", "alpha", "dataset"), keys, strict=True)), "measure": column,
                         "seeds": len(values), "mean": values.mean(), "sd": values.std(), "low_95": interval.low,
                         "high_95": interval.high})  # fmt: skip
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def draw(data: FigureData, folder: Path, formats: tuple[str, ...]) -> list[str]:
    """Draw all figures. Returns a line for each figure that cannot be drawn."""
    store, problems = FigureStore(folder, {}), []
    for kind in FIGURES:
        for one in kind.drawings(data):
            picture = StoredFigure(one.name, one.title, f"{kind.caption}{data.caveat}", key_of([]), formats)
            try:
                with rules():
                    figure, table = one.draw()
                    if not table:
                        needs = ", ".join(kind.needs)
                        problems.append(f"figure {one.name} is not drawn: 0 runs have the data that it needs ({needs})")
                        continue
                    write_figure(folder, picture, figure, table)
            except (KeyError, ValueError, IndexError, TypeError) as error:
                why = f"{type(error).__name__}: {error}"
                problems.append(f"figure {one.name} cannot be drawn from this data: {why}")
                continue
            store.figures[one.name] = picture
    store.save()
    return problems
