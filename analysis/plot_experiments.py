#!/usr/bin/env python3
"""Draw the figures that are out of date: learning curves of each experiment, overviews of each group."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from roundhouse import missing_package

    missing_package.report_in_one_line()

from analysis import suite
from analysis.cli import add_folders, folders_from, run_script
from analysis.figure_store import FORMATS, FigureStore, StoredFigure, file_name, key_of, write_figure
from analysis.group_panels import FIGURES_AT_MOST, GroupPanels
from analysis.processes import in_processes
from analysis.rounds import (
    Folders,
    RoundEntry,
    RoundRecords,
    WithBaseline,
    find_rounds,
    measured_keys,
    newest_file,
    read_round,
)
from roundhouse.errors import RoundhouseError
from roundhouse.figures import Figure
from roundhouse.formatting import counted
from roundhouse.names import similar_to
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
CURVES, RESULTS, LEARNING, DECLARED = "curves", "results", "learning", "declared"
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


# ---------------------------------------------------------------------------------------------- which figures


Shown = tuple[WithBaseline, ...]


@dataclass(frozen=True, slots=True)
class FigureRequest:
    """A figure to draw: its place, and the experiments in it, each with its baseline.

    `part`: which of the figures of its kind, if a group has several; `declared`: if it is declared.
    """

    folder: Path
    name: str
    kind: str
    key: str
    formats: tuple[str, ...]
    shown: Shown
    part: int = 0
    declared: Figure | None = None

    @property
    def subject(self) -> str | None:
        return self.shown[0][0].path if self.kind == CURVES else None


def figure_requests(found: RoundRecords, folder: Path, formats: tuple[str, ...]) -> list[FigureRequest]:
    """All figures that a round can have, whether there is data for them yet or not."""
    baseline = {one.path: tuple(found.baseline_of(one)) for one in found.entries}
    declared = {id(one.declared): key_of([], repr(one.declared)) for one in found.entries}
    facts = {one.path: f"{_facts(one)} {declared[id(one.declared)]}" for one in found.entries}
    made: list[tuple[str, str, Shown, int]] = []
    for entry in found.entries:
        shown = ((entry, baseline[entry.path]),)
        made.append((f"curves/{file_name(entry.path)}", CURVES, shown, 0))
    for group, entries in found.groups.items():
        of_group = tuple((entry, baseline[entry.path]) for entry in entries)
        panels = GroupPanels(of_group)
        for kind, figures in ((RESULTS, panels.results), (LEARNING, panels.learning)):
            for part in range(min(len(figures), FIGURES_AT_MOST)):
                name = f"overviews/{file_name(group)}_{kind}{f'_{part + 1}' if part else ''}"
                made.append((name, kind, of_group, part))
    requests = [
        FigureRequest(folder, name, kind, _key(kind, shown, facts), formats, shown, part)
        for name, kind, shown, part in made
    ]
    everything = tuple((entry, baseline[entry.path]) for entry in found.entries)
    for name, figure in _declared_figures(found):
        own = [file for one in found.entries if (file := newest_file(one.record, figure.file))]
        key = key_of(own, _key(f"{DECLARED} {figure!r}", everything, facts))
        requests.append(FigureRequest(folder, f"declared/{name}", DECLARED, key, formats, everything, declared=figure))
    return requests


def _declared_figures(found: RoundRecords) -> Iterator[tuple[str, Figure]]:
    """The declared figures of a round, by name.

    The study, or the round that this one extends, may declare some for rounds with other config keys and groups. A key
    that is similar to an existing one is a slip, which is reported when the figure is drawn.
    """
    keys = {key for entry in found.entries for key in entry.config}
    for name, figure in found.declared.figures.items():
        missing = [key for _, key in figure.config_keys if key not in keys]
        of_others = bool(figure.groups) and not any(group in found.groups for group in figure.groups)
        if not of_others and (not missing or any(similar_to(key, keys) for key in missing)):
            yield name, figure


def _facts(entry: RoundEntry) -> str:
    """What figures show of an experiment in addition to its metrics."""
    progress = [one.progress and (one.progress.unit, one.progress.counter()) for one in entry.record.runs]
    return f"{entry.path} {entry.state} {entry.setting} {entry.config.get('seed')} {progress}"


def _key(kind: str, shown: Shown, facts: dict[str, str]) -> str:
    entries = {one.path: one for entry, baseline in shown for one in (entry, *baseline)}
    pairs = [f"{entry.path}: {[one.path for one in baseline]}" for entry, baseline in shown]
    files = [file for one in entries.values() for file in (one.metrics_file, one.outputs_file) if file]
    return key_of(files, kind, *pairs, *(facts[path] for path in entries))


def entries_in(figure: FigureRequest) -> list[RoundEntry]:
    """The experiments that a figure shows, without baselines: those of its part."""
    if figure.kind in (CURVES, DECLARED):
        return [entry for entry, _ in figure.shown]
    panels = GroupPanels(figure.shown)
    figures = panels.results if figure.kind == RESULTS else panels.learning
    return [entry for panel in figures[figure.part] for entry in panel.entries]


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
