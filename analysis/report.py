#!/usr/bin/env python3
"""Make the report of a round: one folder that opens from disk in any browser, without a server or a network."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis import standing
from analysis.gallery import Gallery, write_bytes
from analysis.page import Figure, Report, moment, png_size, render
from analysis.plot_experiments import Told, refresh
from analysis.rounds import Place, RoundRecords, read_round
from analysis.script import add_folders, carry_out, place_from
from analysis.tables import write_tables
from roundhouse.errors import RoundhouseError

STATE = "state.json"  # what the next report compares itself with
PAGE = "index.html"
GALLERIES = ("figures", "plots")  # the suite's figures first: they are what a round was for
TABLES = ("all_results.json", "performance_matrix.csv", "failed_jobs.json", "table.tex")


@dataclass(frozen=True, slots=True)
class Last:
    """What the last report left: when it was made, the snapshot of it, and the files that it put into its folder."""

    since: str
    experiments: dict[str, dict[str, Any]]
    files: list[str]


def report(name: str, place: Place, out: Path | None = None, told: Told | None = None) -> tuple[Path, list[str]]:
    """Bring plots and tables of a round up to date, and make its report in `out`. Returns the page, and problems.

    `told`: what the user is told while figures are drawn.

    A browser that looks meanwhile sees the last report or this one: files are replaced whole, the page after all that
    it shows. Records are only read. RoundhouseError: there are no records of such a round, or no room for the report.
    """
    place.records(name)
    folder = out or place.results(name) / "report"
    try:
        problems = refresh(name, place, told=told)
        found = read_round(name, place)
        problems += _tabled(found, place)
        return folder / PAGE, _written(found, place, folder, problems)
    except OSError as error:
        raise RoundhouseError(f"the report cannot be written: {error.filename or folder}: {error.strerror}") from None


def _written(found: RoundRecords, place: Place, folder: Path, problems: list[str]) -> list[str]:
    """Write the report's folder. Returns all that is wrong with what it tells."""
    generated = datetime.now(timezone.utc)
    known, unreadable = standing.known_of(found)
    problems = [*unreadable, *_besides(problems, unreadable)]
    last, now = _last(folder), standing.snapshot(known)
    results = place.results(found.name)
    copied: list[str] = []
    figures = list(_figures(results, folder, copied))
    tables = [one for one in (f"tables/{name}" for name in TABLES) if _copy(results / one, folder, one)]
    page = Report(
        name=found.name,
        generated=generated,
        records=found.directory,
        file=found.file,
        known=known,
        counts=standing.counts(known),
        use=standing.use(known, resources_known=found.file is not None),
        prospect=standing.prospect(known),
        failures=standing.failures(known),
        leaders=standing.leaders(found, known),
        changes=standing.changes(last.since, last.experiments, now) if last else None,
        figures=figures,
        tables=tables,
        summary=_summary(results),
        problems=problems,
    )
    write_bytes(folder / PAGE, render(page))
    ours = [*copied, *tables]
    for path in set(last.files if last else ()) - set(ours):
        _remove(folder, path)
    told = {"version": 1, "since": moment(generated), "experiments": now, "files": ours}
    write_bytes(folder / STATE, json.dumps(told, indent=1).encode())
    return problems


# ------------------------------------------------------------------------------------------------- what it is made of


def _tabled(found: RoundRecords, place: Place) -> list[str]:
    try:
        write_tables(found, place.results(found.name) / "tables")
    except RoundhouseError as error:
        return [f"tables: {error}"]
    return []


def _besides(more: Iterable[str], told: Sequence[str]) -> list[str]:
    """What is not told yet: others put what is wrong with a file in other words, but name the file alike."""
    return [one for one in dict.fromkeys(more) if not any((one.partition(": ")[2] or one) in other for other in told)]


def _figures(results: Path, folder: Path, copied: list[str]) -> Iterator[Figure]:
    """The figures of all galleries, copied into the report; the paths of the copies are added to `copied`."""
    for kind in GALLERIES:
        pictures = list(Gallery.of(results / kind).pictures.values())
        if kind == "plots":  # which stand there in the order in which they were drawn
            pictures.sort(key=lambda one: one.title)
        for picture in pictures:
            ending = next((one for one in ("png", "svg") if one in picture.formats), None)
            if ending is None:
                continue  # a browser shows no PDF among other things
            files = [f"{picture.name}.{one}" for one in (ending, "csv")]
            image, data = (f"figures/{kind}/{one}" for one in files)
            if not all(_copy(results / kind / one, folder, f"figures/{kind}/{one}") for one in files):
                continue
            copied += [image, data]
            size = png_size(folder / image)
            yield Figure(picture.title, picture.caption, image, data, picture.subject, size)


def _summary(results: Path) -> str | None:
    try:
        return (results / "summary.md").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


# ---------------------------------------------------------------------------------------------------- files of a report


def _copy(source: Path, folder: Path, path: str) -> bool:
    """Copy a file into the report, whole, unless it is there already. False: there is no such file."""
    target = folder / path
    try:
        stat = source.stat()
        if target.is_file() and (target.stat().st_size, target.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return True
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".draft-{uuid.uuid4().hex}")
        try:
            shutil.copy2(source, draft)
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)
    except FileNotFoundError:
        return False
    return True


def _remove(folder: Path, path: str) -> None:
    """Remove a file that an earlier report put into the folder; never one outside it, whatever its list says."""
    target = (folder / path).resolve()
    if target.is_relative_to(folder.resolve()) and target.is_file():
        target.unlink()


def _last(folder: Path) -> Last | None:
    """The last report in this folder; None if there is none, or if what it left cannot be understood."""
    try:
        told = json.loads((folder / STATE).read_bytes())
        experiments = {
            str(path): {"state": str(one["state"]), "best": one["best"], "attempts": int(one["attempts"])}
            for path, one in told["experiments"].items()
        }
        return Last(str(told["since"]), experiments, [str(path) for path in told["files"]])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


# -------------------------------------------------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="report.py", description=__doc__)
    made.add_argument("--round", metavar="NAME", required=True, help="the round, archived or not")
    made.add_argument("--out", metavar="DIR", type=Path, help="default: analysis/experiment_NAME/report")
    add_folders(made)
    return made


def work(options: argparse.Namespace) -> int:
    told = Told(options.round, sys.stderr)
    page, problems = report(options.round, place_from(options).absolute(), options.out, told)
    for problem in _besides(problems, told.problems):
        print(f"{options.round}: {problem}", file=sys.stderr)
    print(page)
    return 0


def main(argv: list[str] | None = None) -> int:
    return carry_out(parser(), argv, work)


if __name__ == "__main__":
    sys.exit(main())
