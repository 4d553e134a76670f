#!/usr/bin/env python3
"""Make the report of a round: a directory with an HTML page to open from disk; it needs no server and no network."""

from __future__ import annotations

import argparse
import json
import os
import re
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
    from roundhouse import missing_package

    missing_package.report_in_one_line()

from analysis import gpu_use, round_summary
from analysis.cli import add_folders, folders_from, run_script
from analysis.figure_store import FigureStore, StoredFigure, write_bytes
from analysis.page import ReportFigure, ReportPage, png_size, render, utc_time
from analysis.plot_experiments import DrawingProgress, refresh
from analysis.rounds import Folders, RoundRecords, read_round
from analysis.tables import write_tables
from roundhouse.errors import RoundhouseError

STATE = "state.json"  # the snapshot that the next report is compared with
PAGE = "index.html"
FIGURE_FOLDERS = ("figures", "plots")  # the suite's figures first: they answer the round's questions
TABLES = ("all_results.json", "performance_matrix.csv", "failed_jobs.json", "table.tex")


@dataclass(frozen=True, slots=True)
class PreviousReport:
    """The previous report: when it was made, its snapshot, and the files that it put into its folder."""

    since: str
    experiments: dict[str, dict[str, Any]]
    files: list[str]


def make_report(
    name: str, folders: Folders, out: Path | None = None, progress: DrawingProgress | None = None
) -> tuple[Path, list[str]]:
    """Update the plots and tables of a round, and make its report in `out`. Returns the page, and problems.

    A browser that reads meanwhile sees the previous report or this one: files are replaced atomically, the page last.
    Records are only read. RoundhouseError: there are no records of such a round, or the report cannot be written.
    """
    folders.records(name)
    folder = out or folders.results(name) / "report"
    try:
        problems = refresh(name, folders, progress=progress)
        found = read_round(name, folders)
        problems += _make_tables(found, folders)
        return folder / PAGE, _write(found, folders, folder, problems)
    except OSError as error:
        raise RoundhouseError(f"the report cannot be written: {error.filename or folder}: {error.strerror}") from None


def _write(found: RoundRecords, folders: Folders, folder: Path, problems: list[str]) -> list[str]:
    """Write the report's folder. Returns all problems."""
    generated = datetime.now(timezone.utc)
    summaries, unreadable = round_summary.summaries_of(found)
    problems = [*unreadable, *_not_in(problems, unreadable)]
    last, now = _previous_report(folder), round_summary.snapshot(summaries)
    results = folders.results(found.name)
    copied: list[str] = []
    figures = list(_figures(results, folder, copied))
    tables = [one for one in (f"tables/{name}" for name in TABLES) if _copy(results / one, folder, one)]
    page = ReportPage(
        name=found.name,
        generated=generated,
        records=found.directory,
        file=found.file,
        summaries=summaries,
        declared=found.declared,
        counts=round_summary.counts(summaries),
        usage=round_summary.usage(summaries, resources_known=found.file is not None),
        remaining_time=round_summary.remaining_time(summaries),
        failures=round_summary.failures(summaries),
        rankings=round_summary.rankings(found, summaries),
        changes=round_summary.changes(last.since, last.experiments, now) if last else None,
        figures=figures,
        tables=tables,
        summary=_summary(results),
        problems=problems,
        folders=(folders.experiments, folders.rounds, folders.analysis),
        notes=found.notes,
        advice=gpu_use.advice(found.entries),
    )
    write_bytes(folder / PAGE, render(page))
    ours = [*copied, *tables]
    for path in set(last.files if last else ()) - set(ours):
        _remove(folder, path)
    state = {"version": 1, "since": utc_time(generated), "experiments": now, "files": ours}
    write_bytes(folder / STATE, json.dumps(state, indent=1).encode())
    return problems


# ------------------------------------------------------------------------------------------------- contents


def _make_tables(found: RoundRecords, folders: Folders) -> list[str]:
    try:
        write_tables(found, folders.results(found.name) / "tables")
    except RoundhouseError as error:
        return [f"tables: {error}"]
    return []


def _not_in(more: Iterable[str], reported: Sequence[str]) -> list[str]:
    """The problems of `more` that are not among the reported ones; the part after the first `: ` is compared."""
    return [
        one for one in dict.fromkeys(more) if not any((one.partition(": ")[2] or one) in other for other in reported)
    ]


def _figures(results: Path, folder: Path, copied: list[str]) -> Iterator[ReportFigure]:
    """The figures of all folders, copied into the report; the paths of the copies are added to `copied`."""
    for kind in FIGURE_FOLDERS:
        figures = list(FigureStore.of(results / kind).figures.values())
        if kind == "plots":  # whose index is in the order of drawing
            figures.sort(key=lambda one: (_section(kind, one), _numbers_as_numbers(one.title)))
        for stored in figures:
            ending = next((one for one in ("png", "svg", "pdf") if one in stored.formats), None)
            if ending is None:
                continue
            files = [f"{stored.name}.{one}" for one in (ending, "csv")]
            image, data = (f"figures/{kind}/{one}" for one in files)
            if not all(_copy(results / kind / one, folder, f"figures/{kind}/{one}") for one in files):
                continue
            copied += [image, data]
            alt = stored.alt or f"{stored.title}. {stored.caption}"
            section, size = _section(kind, stored), png_size(folder / image)
            yield ReportFigure(section, stored.title, stored.caption, alt, image, data, stored.subject, size)


def _section(kind: str, stored: StoredFigure) -> str:
    """The heading of a figure: the words of its folder in the store; without one, whose analysis drew it."""
    folder, _, _ = stored.name.rpartition("/")
    words = re.sub(r"[/_-]+", " ", folder)
    return words[:1].upper() + words[1:] or ("Analysis of the study" if kind == "figures" else "Plots")


def _numbers_as_numbers(text: str) -> list[tuple[str, float]]:
    """A sort key by which part 2 comes before part 10, and alpha 0.5 before alpha 0.75."""
    return [(words, float(number or 0)) for words, number in re.findall(r"(\D*)(\d+(?:\.\d+)?)?", text)]


def _summary(results: Path) -> str | None:
    try:
        return (results / "summary.md").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


# ---------------------------------------------------------------------------------------------------- files of a report


def _copy(source: Path, folder: Path, path: str) -> bool:
    """Copy a file into the report atomically, unless it is there already. False: there is no such file."""
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
    """Remove a file that an earlier report put into the folder, but never one outside the folder."""
    target = (folder / path).resolve()
    if target.is_relative_to(folder.resolve()) and target.is_file():
        target.unlink()


def _previous_report(folder: Path) -> PreviousReport | None:
    """The previous report in this folder; None if there is none, or if its state file is unreadable."""
    try:
        state = json.loads((folder / STATE).read_bytes())
        experiments = {
            str(path): {"state": str(one["state"]), "best": one["best"], "attempts": int(one["attempts"])}
            for path, one in state["experiments"].items()
        }
        return PreviousReport(str(state["since"]), experiments, [str(path) for path in state["files"]])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


# -------------------------------------------------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="report.py", description=__doc__)
    made.add_argument("--round", metavar="NAME", required=True, help="a round, archived or not")
    made.add_argument("--out", metavar="DIR", type=Path, help="default: analysis/experiment_NAME/report")
    add_folders(made)
    return made


def run(options: argparse.Namespace) -> int:
    progress = DrawingProgress(options.round, sys.stderr)
    page, problems = make_report(options.round, folders_from(options).absolute(), options.out, progress)
    for problem in _not_in(problems, progress.problems):
        print(f"{options.round}: {problem}", file=sys.stderr)
    print(page)
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_script(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
