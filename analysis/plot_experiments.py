#!/usr/bin/env python3
"""Draw what is out of date: learning curves of each experiment, overviews of each group. Records are only read."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.gallery import FORMATS, Gallery, Picture, file_name, key_of, write_picture
from analysis.processes import in_processes
from analysis.rounds import Entry, Metrics, Place, RoundRecords, find_rounds, measured, read_round
from analysis.script import add_folders, carry_out, place_from
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import counted

EPILOG = """\
Figures go to analysis/experiment_NAME/plots, each with its data as CSV, and with an index, gallery.json. Formats that
were drawn once are kept up to date. Figures of experiments that are not in the round any more are removed.

exit codes:
  0  all figures are up to date
  1  a record could not be read, or a figure not be drawn: it is named on standard error; the others are there
  2  usage: an option is wrong, or there is no such round
  130  interrupted: what was drawn is kept
"""
CURVES, RESULTS, LEARNING = "curves", "results", "learning"
MOST_JOBS = 8  # if nobody says: a login node has many cores, and other users
SAVED_EVERY = 5.0  # seconds between two writings of the index
TOLD_EVERY = 50  # figures between two lines of progress where no terminal is


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plot_experiments.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--round", metavar="NAME", nargs="+", help="these rounds, archived ones too; default: all below experiments/"
    )
    parser.add_argument("--formats", metavar="LIST", type=_formats, default=("png",),
                        help=f"of {','.join(FORMATS)}, with commas between; default: png")  # fmt: skip
    parser.add_argument("--jobs", metavar="N", type=_count, default=_cores(),
                        help="processes that draw; default: one for each core, at most 8")  # fmt: skip
    add_folders(parser)
    return parser


def _cores() -> int:
    return min(MOST_JOBS, len(os.sched_getaffinity(0)))


def _formats(text: str) -> tuple[str, ...]:
    asked = {one.strip().lower() for one in text.split(",")}
    unknown = asked - set(FORMATS)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown)) or 'nothing'}: choose from {', '.join(FORMATS)}")
    return tuple(one for one in FORMATS if one in asked)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of processes: say 1 or more")
    return int(text)


def work(options: argparse.Namespace) -> int:
    place = place_from(options).absolute()
    names = list(dict.fromkeys(options.round or find_rounds(place)))
    for name in names:
        place.records(name)
    if not names:
        print(f"no rounds in {place.experiments}: nothing to draw")
    problems = 0
    for name in names:
        told = Told(name, sys.stderr)
        problems += len(refresh(name, place, options.formats, options.jobs, told))
        print(told.summary())
    return 1 if problems else 0


def main(argv: Sequence[str] | None = None) -> int:
    return carry_out(parser(), argv, work, unread=1)


# ---------------------------------------------------------------------------------------------- what is to be drawn


Shown = tuple[tuple[Entry, tuple[Entry, ...]], ...]  # experiments, each with those of its baseline


@dataclass(frozen=True, slots=True)
class Wanted:
    """A figure: where it goes, and the experiments in it."""

    folder: Path
    name: str
    kind: str
    key: str
    formats: tuple[str, ...]
    shown: Shown

    @property
    def subject(self) -> str | None:
        return self.shown[0][0].path if self.kind == CURVES else None


def wanted(found: RoundRecords, folder: Path, formats: tuple[str, ...]) -> list[Wanted]:
    """All figures that a round may have, whether there is anything to draw in them yet or not."""
    beside = {one.path: tuple(found.baseline_of(one)) for one in found.entries}
    facts = {one.path: _facts(one) for one in found.entries}
    made: list[tuple[str, str, Shown]] = []
    for entry in found.entries:
        shown = ((entry, beside[entry.path]),)
        made.append((f"curves/{file_name(entry.path)}", CURVES, shown))
    for group, entries in found.groups.items():
        of_group = tuple((entry, beside[entry.path]) for entry in entries)
        made += [(f"overviews/{file_name(group)}_{kind}", kind, of_group) for kind in (RESULTS, LEARNING)]
    return [Wanted(folder, name, kind, _key(kind, shown, facts), formats, shown) for name, kind, shown in made]


def _facts(entry: Entry) -> str:
    """What figures show of an experiment besides its metrics."""
    progress = [one.progress and (one.progress.epochs, one.progress.started_epoch) for one in entry.row.record.runs]
    return f"{entry.path} {entry.state} {entry.setting} {entry.config.get('seed')} {progress}"


def _key(kind: str, shown: Shown, facts: dict[str, str]) -> str:
    entries = {one.path: one for entry, beside in shown for one in (entry, *beside)}
    pairs = [f"{entry.path}: {[one.path for one in beside]}" for entry, beside in shown]
    files = [one.metrics_file for one in entries.values() if one.metrics_file]
    return key_of(files, kind, *pairs, *(facts[path] for path in entries))


class Reader:
    """Reads each experiment's metrics once at most, and tells of those that cannot be read."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._read: dict[str, Metrics] = {}

    def metrics(self, entry: Entry) -> Metrics:
        """Its metrics; none where they cannot be read."""
        if entry.path not in self._read:
            self._read[entry.path] = Metrics()
            try:
                self._read[entry.path] = entry.metrics()
            except (RoundhouseError, OSError) as error:
                self._told.problem(f"{entry.path} is passed over: {error}")
        return self._read[entry.path]

    def can_draw(self, figure: Wanted) -> bool:
        """Whether there is anything to show in it."""
        metrics = [self.metrics(entry) for entry, _ in figure.shown]
        if figure.kind == RESULTS:
            return any(one.final or one.best is not None for one in metrics)
        return any(measured(one.epochs) for one in metrics)


# ---------------------------------------------------------------------------------------------- a round


def refresh(
    name: str,
    place: Place,
    formats: tuple[str, ...] = ("png",),
    jobs: int | None = None,
    told: Told | None = None,
) -> list[str]:
    """Draw what is out of date of a round, in `jobs` processes. Returns what had to be passed over, a line for each.

    RoundhouseError: there are no records of such a round, or the folder of its figures cannot be written.
    """
    told = told or Told(name)
    try:
        found = read_round(name, place)
    except OSError as error:
        return told.problem(f"{error.filename} cannot be read: {error.strerror}")
    for problem in found.problems:
        told.problem(problem)
    gallery, reader = Gallery.of(place.results(name) / "plots"), Reader(told)
    figures = wanted(found, gallery.folder, formats)
    stale = [one for one in figures if not gallery.is_current(one.name, one.key, formats)]
    todo = [_in_all_formats(one, gallery) for one in stale if reader.can_draw(one)]
    try:
        _bring_up_to_date(gallery, {one.name for one in figures}, todo, jobs or _cores(), told)
    except OSError as error:
        raise RoundhouseError(f"{error.filename or gallery.folder} cannot be written: {error.strerror}") from None
    told.there = Counter(one.kind == CURVES for one in figures if one.name in gallery.pictures)
    return told.problems


def _bring_up_to_date(gallery: Gallery, known: set[str], todo: Sequence[Wanted], jobs: int, told: Told) -> None:
    """Remove what is gone, draw what is to do, and keep the index, whatever ends this."""
    changed = _forget(gallery, known)
    if todo:
        gallery.folder.mkdir(parents=True, exist_ok=True)
    told.total, saved = len(todo), time.monotonic()
    drawing = in_processes(todo, jobs, draw)
    try:
        for figure, outcome in drawing:
            told.step()
            if isinstance(outcome, Picture):
                gallery.pictures[outcome.name] = outcome
                changed = True
            else:
                told.failure(f"{figure.name} is not drawn: {outcome}")
            if changed and time.monotonic() - saved > SAVED_EVERY:
                gallery.save()
                saved = time.monotonic()
    finally:
        drawing.close()
        told.clear()
        if changed:
            gallery.save()


def _in_all_formats(figure: Wanted, gallery: Gallery) -> Wanted:
    """With the formats in which it was drawn before, since these would be out of date."""
    before = gallery.pictures[figure.name].formats if figure.name in gallery.pictures else ()
    formats = tuple(one for one in FORMATS if one in {*figure.formats, *before})
    return Wanted(figure.folder, figure.name, figure.kind, figure.key, formats, figure.shown)


def _forget(gallery: Gallery, known: set[str]) -> bool:
    """Remove the figures of experiments and groups that are gone; files that the index does not name are left alone."""
    gone = [one for one in gallery.pictures.values() if one.name not in known]
    for one in gone:
        for ending in (*one.formats, "csv"):
            (gallery.folder / f"{one.name}.{ending}").unlink(missing_ok=True)
        del gallery.pictures[one.name]
    return bool(gone)


class Told:
    """What the user is told of one round: a line that counts, or some where no terminal is; problems; a summary.

    Without a stream nothing is written.
    """

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self.name, self._stream = name, stream
        self.total, self.done, self.failed = 0, 0, 0
        self.problems: list[str] = []
        self.there: Counter[bool] = Counter()  # figures: are they curves?

    def step(self) -> None:
        """A figure is done, one way or the other."""
        self.done += 1
        line = f"{self.name}: {self.done} of {self.total} figures drawn"
        if self._stream and self._stream.isatty():
            print(f"\r\033[K{line}", end="", file=self._stream, flush=True)
        elif self.done % TOLD_EVERY == 0 and self.done < self.total:
            self._line(line)

    def clear(self) -> None:
        """Remove the line that counts."""
        if self._stream and self.done and self._stream.isatty():
            print("\r\033[K", end="", file=self._stream, flush=True)

    def problem(self, text: str) -> list[str]:
        """Something had to be passed over. Returns all that had to be."""
        self.problems.append(text)
        self.clear()
        self._line(f"{self.name}: {text}")
        return self.problems

    def _line(self, text: str) -> None:
        if self._stream:
            print(text, file=self._stream, flush=True)

    def failure(self, text: str) -> None:
        """A figure could not be drawn."""
        self.failed += 1
        self.problem(text)

    def summary(self) -> str:
        """One line: what is there, and what was done."""
        curves, overviews = self.there[True], self.there[False]
        count = f"{counted(curves, 'curve')} and {counted(overviews, 'overview')}"
        made, failed = self.done - self.failed, f", {self.failed} failed" if self.failed else ""
        if self.total:
            return f"{self.name}: {count}; {made} drawn, {max(0, curves + overviews - made)} up to date{failed}"
        return f"{self.name}: {f'{count}, all up to date' if curves + overviews else 'nothing to draw yet'}"


# ---------------------------------------------------------------------------------------------- drawing


def draw(figure: Wanted) -> Picture | str:
    """Draw one figure, in a process of its own. Returns what went wrong, as text, if something did."""
    import warnings

    from analysis import curves, overviews
    from analysis.style import rules

    warnings.filterwarnings("ignore", message="Glyph .* missing from")  # then there is a box in its place
    try:
        with rules():
            if figure.kind == CURVES:
                made = curves.draw(*figure.shown[0])
            else:
                made = (overviews.results if figure.kind == RESULTS else overviews.learning)(figure.shown)
            picture = Picture(figure.name, made.title, made.caption, figure.key, figure.formats, figure.subject)
            write_picture(figure.folder, picture, made.figure, made.table)
    except OSError as error:
        return f"{error.filename or figure.folder}: {error.strerror or error}"
    except RoundhouseError as error:
        return str(error)
    except Exception as error:  # one figure that cannot be drawn is no reason not to draw the others
        return f"{type(error).__name__}: {error}"
    return picture


if __name__ == "__main__":
    sys.exit(main())
