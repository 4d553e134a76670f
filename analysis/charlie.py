#!/usr/bin/env python3
"""The suite for experiment charlie: measures, comparisons, figures and a written summary of a distillation round.

It runs on whatever is completed, and says what is missing.
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

from analysis import style
from analysis.distillation.effects import accuracy_intervals, as_table, families
from analysis.distillation.material import Material
from analysis.distillation.measures import BINS, EPOCH, Measured, measure_all, place_of, similarities
from analysis.distillation.runs import Runs, runs_of
from analysis.distillation.suite import FIGURES
from analysis.distillation.summary import summary
from analysis.gallery import FORMATS, Gallery, Picture, key_of, write_bytes, write_picture
from analysis.rounds import Place, read_round
from analysis.script import add_folders, carry_out, place_from
from roundhouse.errors import RoundhouseError


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="charlie.py", description=__doc__)
    parser.add_argument("--round", metavar="NAME", default="charlie", help="a round of the study distillation")
    parser.add_argument("--control", metavar="NAME", help="its control round; default: control for charlie, "
                        "control_smoke for charlie_smoke, and so on")  # fmt: skip
    parser.add_argument("--formats", metavar="LIST", default="png", help=f"of {','.join(FORMATS)}; default: png")
    parser.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count(), help="processes; default: one a core")
    add_folders(parser)
    return parser


def work(options: argparse.Namespace) -> int:
    formats = tuple(options.formats.split(","))
    if not set(formats) <= set(FORMATS):
        raise RoundhouseError(f"--formats {options.formats!r}: write one or more of {', '.join(FORMATS)}, with commas")
    if options.jobs < 1:
        raise RoundhouseError(f"--jobs {options.jobs} makes no sense")
    control = options.control or options.round.replace("charlie", "control")
    try:
        return run(place_from(options).absolute(), options.round, control, formats, options.jobs)
    except BrokenProcessPool:
        print("charlie.py: a process that measured was killed, perhaps for memory; try --jobs 1", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"charlie.py: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return 1


def main(argv: list[str] | None = None) -> int:
    return carry_out(parser(), argv, work, unread=1)


def run(place: Place, name: str, control: str, formats: tuple[str, ...], jobs: int) -> int:
    """Do all of it, and write it to the round's folder. 1 if a figure could not be drawn."""
    distilled, beside, without = read_round(name, place), None, ""
    try:
        beside = read_round(control, place) if control != name else None
    except RoundhouseError as error:
        without = str(error)
    runs = runs_of(distilled, beside)
    if not runs.methods:
        raise RoundhouseError(f"round {name}: none of its distilled students is completed yet")
    print(
        f"{name}: {len(runs.runs)} completed runs, {len(runs.students)} settings of students. Measuring ...", flush=True
    )
    # One thread each: the arrays are small, and more threads than cores only wait for each other.
    with ProcessPoolExecutor(jobs, initializer=threadpool_limits, initargs=(1,)) as pool:
        measured = measure_all(runs, pool)
        between = similarities(runs, pool)
    material = material_of(runs, measured, between)
    problems = [told for one in measured for told in one.problems]
    folder = place.results(name)
    undrawn = draw(material, folder / "figures", formats)
    write_bytes(folder / "figures" / "measures.csv", material.frame.to_csv(index=False).encode())
    write_bytes(folder / "figures" / "comparisons.csv", as_table(material.families).to_csv(index=False).encode())
    write_bytes(folder / "summary.md", summary(material, problems + undrawn).encode())
    for told in (*([without] if without else []), *runs.missing, *problems, *undrawn):
        print(f"charlie.py: {told}", file=sys.stderr)
    print(f"{len(FIGURES) - len(undrawn)} figures with their tables: {folder / 'figures'}")
    print(f"Summary: {folder / 'summary.md'}")
    print(f"To have them in the report: python analysis/report.py --round {name}")
    return 1 if undrawn else 0


def material_of(runs: Runs, measured: list[Measured], between: pd.DataFrame) -> Material:
    """All that figures and summary are made from."""
    frame = pd.DataFrame([one.row for one in measured])
    place = ("method", "alpha", "dataset", "seed")
    bins = pd.DataFrame([{**place_of(one.run), **row} for one in measured for row in one.bins], columns=[*place, *BINS])
    epochs = pd.DataFrame(
        [{**place_of(one.run), **row} for one in measured for row in one.epochs], columns=[*place, *EPOCH]
    )
    return Material(runs, frame, between, families(frame, runs), accuracy_intervals(runs, measured), epochs, bins)


def draw(material: Material, folder: Path, formats: tuple[str, ...]) -> list[str]:
    """Draw every figure. What cannot be drawn is told, and the others are."""
    gallery, problems = Gallery(folder, {}), []
    for one in FIGURES:
        picture = Picture(one.name, one.title, f"{one.caption}{material.caveat}", key_of([]), formats)
        try:
            with style.rules():
                figure, table = one.draw(material)
                if not table:
                    needs = ", ".join(one.needs)
                    problems.append(f"figure {one.name} is not drawn: 0 runs have what it is about (from {needs})")
                    continue
                write_picture(folder, picture, figure, table)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            problems.append(f"figure {one.name} could not be drawn from what is there: {type(error).__name__}: {error}")
            continue
        gallery.pictures[one.name] = picture
    gallery.save()
    return problems


if __name__ == "__main__":
    sys.exit(main())
