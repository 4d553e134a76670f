#!/usr/bin/env python3
"""Draw the figures that are out of date: learning curves of each experiment, overviews of each group."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from roundhouse import missing_package

    missing_package.report_in_one_line()

from analysis import suite
from analysis.cli import add_folders, folders_from, run_script
from analysis.figure_requests import CURVES, RESULTS, FigureRequest, entries_in, figure_requests
from analysis.figure_store import FORMATS, FigureStore, StoredFigure, write_figure
from analysis.processes import in_processes
from analysis.rounds import (
    Folders,
    RoundEntry,
    find_rounds,
    measured_keys,
    newest_file,
    read_round,
)
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import counted
from roundhouse.store.metrics import RunMetrics

EPILOG = """\
Records are only read. Figures are written to analysis/experiment_NAME/plots, each with its data as CSV, and listed in
gallery.json. A format that was drawn once is kept up to date. Figures of experiments that are no longer in the round
are removed. Once all experiments of a round have ended, the analysis that its study offers is run too (see suite.py).

exit codes:
  0  all figures are up to date. Records of experiments that are no longer in the round file are left out, with a note
  1  some records could not be read or some figures not be drawn: standard error names them; the others are drawn
  2  usage error: an option is wrong, or there is no such round
  130  interrupted: the figures drawn so far are kept
"""
MOST_JOBS = 8  # by default: a login node has many cores, and other users
SAVED_EVERY = 5.0  # seconds between two writes of the index
REPORT_EVERY = 50  # figures between two lines of progress if the output is not a terminal


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plot_experiments.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--round", metavar="NAME", nargs="+", help="rounds, archived or not; default: all below experiments/"
    )
    parser.add_argument("--formats", metavar="LIST", type=_formats, default=("png",),
                        help=f"comma-separated list of {','.join(FORMATS)}; default: png")  # fmt: skip
    parser.add_argument("--jobs", metavar="N", type=_count, default=_cores(),
                        help="number of processes; default: one for each core, at most 8")  # fmt: skip
    add_folders(parser)
    return parser


def _cores() -> int:
    return min(MOST_JOBS, len(os.sched_getaffinity(0)))


def _formats(text: str) -> tuple[str, ...]:
    requested = {one.strip().lower() for one in text.split(",")}
    unknown = requested - set(FORMATS)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown)) or 'nothing'}: choose from {', '.join(FORMATS)}")
    return tuple(one for one in FORMATS if one in requested)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1 (got {text})")
    return int(text)


def run(options: argparse.Namespace) -> int:
    folders = folders_from(options).absolute()
    names = list(dict.fromkeys(options.round or find_rounds(folders)))
    for name in names:
        folders.records(name)
    if not names:
        print(f"no rounds in {folders.experiments}: nothing to draw")
    problems = 0
    for name in names:
        progress = DrawingProgress(name, sys.stderr)
        problems += len(refresh(name, folders, options.formats, options.jobs, progress))
        print(progress.summary())
    return 1 if problems else 0


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(parser(), argv, run, broken_pipe=1)


class MetricsCache:
    """Reads the metrics of each experiment at most once, and reports those that cannot be read."""

    def __init__(self, progress: DrawingProgress) -> None:
        self._progress = progress
        self._read: dict[str, RunMetrics] = {}

    def metrics(self, entry: RoundEntry) -> RunMetrics:
        """Its metrics; none if they cannot be read."""
        if entry.path not in self._read:
            self._read[entry.path] = RunMetrics()
            try:
                self._read[entry.path] = entry.metrics()
            except (RoundhouseError, OSError) as error:
                self._progress.problem(f"{entry.path} is skipped: {error}")
        return self._read[entry.path]

    def can_draw(self, figure: FigureRequest) -> bool:
        """Whether there is data for it."""
        if figure.declared and (figure.declared.kind == "images" or figure.declared.array):
            of_running = figure.declared.kind == "images"
            return any(entry.completed or (of_running and newest_file(entry.record, figure.declared.file))
                       for entry, _ in figure.shown)  # fmt: skip
        metrics = [(entry, self.metrics(entry)) for entry in entries_in(figure)]
        if figure.declared and figure.declared.kind != "epochs":
            completed = [one for entry, one in metrics if entry.completed]
            return any(one.final or one.best is not None or one.epochs for one in completed)
        if figure.kind == RESULTS:
            return any(one.final or one.best is not None for _, one in metrics)
        return any(measured_keys(one.epochs, entry.declared) for entry, one in metrics)


# ---------------------------------------------------------------------------------------------- updating a round


def refresh(
    name: str,
    folders: Folders,
    formats: tuple[str, ...] = ("png",),
    jobs: int | None = None,
    progress: DrawingProgress | None = None,
) -> list[str]:
    """Draw the outdated figures of a round in `jobs` processes. Returns the problems, a line for each.

    RoundhouseError: there are no records of such a round, or the folder of its figures is not writable.
    """
    progress = progress or DrawingProgress(name)
    try:
        found = read_round(name, folders)
    except OSError as error:
        return progress.problem(f"{error.filename} cannot be read: {error.strerror}")
    for note in found.notes:
        progress.note(note)
    for problem in found.problems:
        progress.problem(problem)
    store, cache = FigureStore.of(folders.results(name) / "plots"), MetricsCache(progress)
    figures = figure_requests(found, store.folder, formats)
    stale = [one for one in figures if not store.is_current(one.name, one.key, formats)]
    todo = [_in_all_formats(one, store) for one in stale if cache.can_draw(one)]
    try:
        _draw_all(store, {one.name for one in figures}, todo, jobs or _cores(), progress)
    except OSError as error:
        raise RoundhouseError(f"{error.filename or store.folder} cannot be written: {error.strerror}") from None
    for problem in suite.update(found, folders, formats, jobs or _cores()):
        progress.problem(problem)
    progress.existing = Counter(one.kind == CURVES for one in figures if one.name in store.figures)
    return progress.problems


def _draw_all(
    store: FigureStore, known: set[str], todo: Sequence[FigureRequest], jobs: int, progress: DrawingProgress
) -> None:
    """Remove obsolete figures, draw the outdated ones, and save the index even if this is interrupted."""
    changed = _remove_obsolete(store, known)
    if todo:
        store.folder.mkdir(parents=True, exist_ok=True)
    progress.total, saved = len(todo), time.monotonic()
    drawing = in_processes(todo, jobs, draw)
    try:
        for figure, outcome in drawing:
            progress.step()
            if isinstance(outcome, StoredFigure):
                store.figures[outcome.name] = outcome
                changed = True
            else:
                progress.failure(f"figure {figure.name} is not drawn: {outcome}")
            if changed and time.monotonic() - saved > SAVED_EVERY:
                store.save()
                saved = time.monotonic()
    finally:
        drawing.close()
        progress.clear()
        if changed:
            store.save()


def _in_all_formats(figure: FigureRequest, store: FigureStore) -> FigureRequest:
    """The request with the formats in which the figure exists already, which are out of date too."""
    before = store.figures[figure.name].formats if figure.name in store.figures else ()
    formats = tuple(one for one in FORMATS if one in {*figure.formats, *before})
    return replace(figure, formats=formats)


def _remove_obsolete(store: FigureStore, known: set[str]) -> bool:
    """Remove figures of experiments and groups that no longer exist. Files that are not in the index are kept."""
    obsolete = [one for one in store.figures.values() if one.name not in known]
    for one in obsolete:
        for ending in (*one.formats, "csv"):
            (store.folder / f"{one.name}.{ending}").unlink(missing_ok=True)
        del store.figures[one.name]
    return bool(obsolete)


class DrawingProgress:
    """Progress output for one round: a counter line (a few lines without a terminal), problems, and a summary.

    Without a stream nothing is printed.
    """

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self.name, self._stream = name, stream
        self.total, self.done, self.failed = 0, 0, 0
        self.problems: list[str] = []
        self.existing: Counter[bool] = Counter()  # figures, by whether they are learning curves

    def step(self) -> None:
        """A figure has been drawn or has failed."""
        self.done += 1
        line = f"{self.name}: {self.done} of {self.total} figures drawn"
        if self._stream and self._stream.isatty():
            print(f"\r\033[K{line}", end="", file=self._stream, flush=True)
        elif self.done % REPORT_EVERY == 0 and self.done < self.total:
            self._line(line)

    def clear(self) -> None:
        """Remove the counter line."""
        if self._stream and self.done and self._stream.isatty():
            print("\r\033[K", end="", file=self._stream, flush=True)

    def note(self, text: str) -> None:
        """Report what is no problem."""
        self.clear()
        self._line(f"{self.name}: {text}")

    def problem(self, text: str) -> list[str]:
        """Report a problem. Returns all problems so far."""
        self.problems.append(text)
        self.note(text)
        return self.problems

    def _line(self, text: str) -> None:
        if self._stream:
            print(text, file=self._stream, flush=True)

    def failure(self, text: str) -> None:
        """A figure could not be drawn."""
        self.failed += 1
        self.problem(text)

    def summary(self) -> str:
        """One line: how many figures exist, and how many were drawn."""
        curves, overviews = self.existing[True], self.existing[False]
        count = f"{counted(curves, 'curve')} and {counted(overviews, 'overview')}"
        made, failed = self.done - self.failed, f", {self.failed} failed" if self.failed else ""
        if self.total:
            return f"{self.name}: {count}; {made} drawn, {max(0, curves + overviews - made)} up to date{failed}"
        return f"{self.name}: {f'{count}, all up to date' if curves + overviews else 'nothing to draw yet'}"


# ---------------------------------------------------------------------------------------------- drawing


def draw(figure: FigureRequest) -> StoredFigure | str:
    """Draw one figure, in a worker process. Returns an error message if it fails."""
    import warnings

    from analysis import group_learning, group_results, learning_curves
    from analysis.declared import draw as declared
    from analysis.style import rules

    warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box is drawn instead
    try:
        with rules():
            if figure.kind == CURVES:
                made = learning_curves.draw(*figure.shown[0])
            elif figure.declared:
                made = declared.draw(Path(figure.name).name, figure.declared, figure.shown)
            else:
                of_group = group_results.results if figure.kind == RESULTS else group_learning.learning
                made = of_group(figure.shown, figure.part)
            stored = StoredFigure(
                figure.name, made.title, made.caption, figure.key, figure.formats, figure.subject, made.alt
            )
            write_figure(figure.folder, stored, made.figure, made.table)
    except OSError as error:
        return f"{error.filename or figure.folder}: {error.strerror or error}"
    except RoundhouseError as error:
        return str(error)
    except Exception as error:  # one figure that cannot be drawn must not prevent the others
        return f"{type(error).__name__}: {error}"
    return stored


if __name__ == "__main__":
    sys.exit(main())
