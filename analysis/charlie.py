#!/usr/bin/env python3
"""The analysis of experiment charlie: measures, comparisons, figures and a written summary of a distillation round.

It analyses the completed runs and lists what is missing.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd
from threadpoolctl import threadpool_limits

from analysis.cli import add_folders, folders_from, run_script
from analysis.distillation.effects import accuracy_intervals, as_table, families
from analysis.distillation.figure_data import FigureData
from analysis.distillation.measures import BINS, EPOCH, RunMeasures, identity_of, measure_all, similarities
from analysis.distillation.runs import CompletedRuns, runs_of
from analysis.distillation.suite import FIGURES
from analysis.distillation.summary import summary
from analysis.figure_store import FORMATS, FigureStore, StoredFigure, key_of, write_bytes, write_figure
from analysis.rounds import Folders, read_round
from analysis.style import rules
from roundhouse.errors import RoundhouseError


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="charlie.py", description=__doc__)
    parser.add_argument("--round", metavar="NAME", default="charlie", help="a round of the study distillation")
    parser.add_argument("--control", metavar="NAME", help="its control round; default: control for charlie, "
                        "control_smoke for charlie_smoke, and so on")  # fmt: skip
    parser.add_argument(
        "--formats", metavar="LIST", default="png", help=f"comma-separated list of {','.join(FORMATS)}; default: png"
    )
    parser.add_argument(
        "--jobs", metavar="N", type=int, default=os.cpu_count(), help="number of processes; default: one for each core"
    )
    add_folders(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    formats = tuple(options.formats.split(","))
    if not set(formats) <= set(FORMATS):
        raise RoundhouseError(
            f"--formats must be a comma-separated list of {', '.join(FORMATS)} (got {options.formats})"
        )
    if options.jobs < 1:
        raise RoundhouseError(f"--jobs must be >= 1 (got {options.jobs})")
    control = options.control or options.round.replace("charlie", "control")
    try:
        return analyse(folders_from(options).absolute(), options.round, control, formats, options.jobs)
    except BrokenProcessPool:
        print("charlie.py: a worker process was killed, perhaps because memory ran out; try --jobs 1", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"charlie.py: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return 1


def main(argv: list[str] | None = None) -> int:
    return run_script(parser(), argv, run, broken_pipe=1)


def analyse(folders: Folders, name: str, control: str, formats: tuple[str, ...], jobs: int) -> int:
    """Measure, compare, draw and summarise a round, and write the results to its folder. 1 if a figure failed."""
    distilled, controls, without = read_round(name, folders), None, ""
    try:
        controls = read_round(control, folders) if control != name else None
    except RoundhouseError as error:
        without = str(error)
    runs = runs_of(distilled, controls)
    if not runs.methods:
        raise RoundhouseError(f"round {name}: no distilled student is completed yet")
    print(
        f"{name}: {len(runs.runs)} completed runs, {len(runs.students)} settings of students. Measuring ...", flush=True
    )
    # One thread per process: with more threads than cores they wait for each other.
    with ProcessPoolExecutor(jobs, initializer=threadpool_limits, initargs=(1,)) as pool:
        measured = measure_all(runs, pool)
        between = similarities(runs, pool)
    data = figure_data_of(runs, measured, between)
    problems = [text for one in measured for text in one.problems]
    folder = folders.results(name)
    undrawn = draw(data, folder / "figures", formats)
    write_bytes(folder / "figures" / "measures.csv", data.frame.to_csv(index=False).encode())
    write_bytes(folder / "figures" / "comparisons.csv", as_table(data.families).to_csv(index=False).encode())
    write_bytes(folder / "summary.md", summary(data, problems + undrawn).encode())
    for text in (*([without] if without else []), *runs.missing, *problems, *undrawn):
        print(f"charlie.py: {text}", file=sys.stderr)
    print(f"{len(FIGURES) - len(undrawn)} figures with their tables: {folder / 'figures'}")
    print(f"Summary: {folder / 'summary.md'}")
    print(f"To include them in the report: python analysis/report.py --round {name}")
    return 1 if undrawn else 0


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


if __name__ == "__main__":
    sys.exit(main())
