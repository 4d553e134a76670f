#!/usr/bin/env python3
"""Run the analysis that the study of a round offers: statistics, figures and a summary that only this study needs.

A study offers one if it has a package studies/NAME/analysis with a function analyse(found, suite).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from roundhouse import missing_package

    missing_package.report_in_one_line()

from analysis.cli import add_folders, folders_from, run_script
from analysis.figure_store import FORMATS, key_of, write_bytes
from analysis.rounds import REPOSITORY, Folders, RoundRecords, read_round
from roundhouse import study_modules
from roundhouse.errors import RoundhouseError
from roundhouse.model.status import goes_on

STATE = "suite.json"  # in a round's results: what the analysis was made from, with which options


@dataclass(frozen=True)
class Suite:
    """What the analysis of a study gets besides the round. Its results belong into `folders.results(NAME)`.

    The report shows `figures/`, as a `FigureStore`, and `summary.md` there. `options`: of the study's own, by name.
    `out`: prints progress, and `err` what is missing; without them, nothing is printed.
    """

    folders: Folders
    formats: tuple[str, ...] = ("png",)
    jobs: int = 1
    options: Mapping[str, str] = field(default_factory=dict)
    out: Callable[[str], None] | None = None
    err: Callable[[str], None] | None = None

    def say(self, text: str) -> None:
        """Report progress."""
        if self.out:
            self.out(text)

    def note(self, text: str) -> None:
        """Report what is missing, and is no error."""
        if self.err:
            self.err(text)


def suites_of(found: RoundRecords) -> dict[str, ModuleType]:
    """The analysis packages of the studies of a round, by study. RoundhouseError: one cannot be imported."""
    studies = dict.fromkeys(one.experiment.study for one in found.entries if one.experiment.study)
    loaded = {study: study_modules.load(REPOSITORY, study, "analysis") for study in studies}
    return {study: module for study, module in loaded.items() if module}


def run_suites(found: RoundRecords, suite: Suite) -> tuple[list[str], list[str]]:
    """Run the analysis of each study of a round. Returns problems that they report, and failures; a line each.

    Without failures, what they were made from is recorded. RoundhouseError: a study refuses, since the round is not one
    that its analysis can use, or its package cannot be imported.
    """
    problems: list[str] = []
    failures: list[str] = []
    for study, module in suites_of(found).items():
        try:
            problems += module.analyse(found, suite)
        except RoundhouseError:
            raise
        except BrokenProcessPool:
            failures.append("a worker process was killed, perhaps because memory ran out; try --jobs 1")
        except OSError as error:
            failures.append(f"{error.filename or 'the system'}: {error.strerror or error}")
        except (Exception, SystemExit) as error:  # an error in a study must not stop the generic figures
            failures.append(study_modules.failure(study, "analysis", error))
    if not failures:
        _record(found, suite)
    return problems, failures


# ------------------------------------------------------------------------------------- as a part of the other scripts


def update(found: RoundRecords, folders: Folders, formats: tuple[str, ...], jobs: int) -> list[str]:
    """Run the analyses of a round if they are out of date and all its experiments have ended. Returns failures.

    Until then, only a call of the script runs them, since they may take long. The formats and options of the newest run
    are kept. That a study refuses the round, or reports a problem with its data, is no failure: the script prints it.
    """
    if any(goes_on(one.status) for one in found.entries):
        return []
    state = _state(folders.results(found.name))
    formats = tuple(one for one in FORMATS if one in {*formats, *state.get("formats", ())})
    suite = Suite(folders, formats, jobs, state.get("options", {}))
    try:
        if not suites_of(found) or state.get("key") == _key(found, suite):
            return []
    except RoundhouseError as error:
        return [str(error)]
    try:
        return run_suites(found, suite)[1]
    except RoundhouseError:
        _record(found, suite)
        return []


def _state(results: Path) -> Mapping[str, Any]:
    """What was recorded about the newest run; empty if there is none, or if it is unreadable."""
    try:
        state = json.loads((results / STATE).read_bytes())
        usable = all(isinstance(state[key], kind) for key, kind in (("key", str), ("formats", list), ("options", dict)))
        return state if usable else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _record(found: RoundRecords, suite: Suite) -> None:
    state = {"version": 1, "key": _key(found, suite), "formats": suite.formats, "options": dict(suite.options)}
    write_bytes(suite.folders.results(found.name) / STATE, json.dumps(state, indent=1).encode())


def _key(found: RoundRecords, suite: Suite) -> str:
    """A key that changes with the code of the analyses, and with the records of this round and of others they read."""
    code: list[Path] = []
    rounds = [found]
    for study, module in suites_of(found).items():
        code += sorted((REPOSITORY / study_modules.FOLDER / study / "analysis").rglob("*.py"))
        for name in getattr(module, "other_rounds", lambda suite, name: [])(suite, found.name):
            try:
                rounds.append(read_round(name, suite.folders))
            except RoundhouseError:
                continue  # it has no records yet
    entries = [entry for one in rounds for entry in one.entries]
    files = [file for one in entries for file in (one.metrics_file, one.outputs_file) if file]
    return key_of([*code, *files], repr(suite.formats), *(f"{one.path} {one.state} {one.setting}" for one in entries))


# --------------------------------------------------------------------------------------------------------- the script


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --formats, --jobs and the folders."""
    parser.add_argument(
        "--formats", metavar="LIST", default="png", help=f"comma-separated list of {','.join(FORMATS)}; default: png"
    )
    parser.add_argument(
        "--jobs", metavar="N", type=int, default=os.cpu_count(), help="number of processes; default: one for each core"
    )
    add_folders(parser)


def run_round(options: argparse.Namespace, prog: str, needs: str | None = None, **own: str) -> int:
    """Run the analyses of `options.round`, with options of the study's own. Returns the exit code.

    RoundhouseError: an option is wrong, there is no such round, a study refuses it, or it is not of the study `needs`.
    """
    formats = tuple(options.formats.split(","))
    if not set(formats) <= set(FORMATS):
        raise RoundhouseError(
            f"--formats must be a comma-separated list of {', '.join(FORMATS)} (got {options.formats})"
        )
    if options.jobs < 1:
        raise RoundhouseError(f"--jobs must be >= 1 (got {options.jobs})")

    def out(text: str) -> None:
        print(text, flush=True)

    def err(text: str) -> None:
        print(f"{prog}: {text}", file=sys.stderr, flush=True)

    folders = folders_from(options).absolute()
    found = read_round(options.round, folders)
    studies = dict.fromkeys(one.experiment.study for one in found.entries if one.experiment.study)
    if needs and needs not in studies:
        raise RoundhouseError(f"round {options.round} is not of the study {needs}, which this analysis needs")
    if not suites_of(found):
        whose = f"study {', '.join(studies)} has" if studies else "it has no study, and so"
        out(f"{options.round}: {whose} no analysis of its own (studies/NAME/analysis)")
        return 0
    problems, failures = run_suites(found, Suite(folders, formats, options.jobs, own, out, err))
    for text in (*problems, *failures):
        err(text)
    return 1 if problems or failures else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="suite.py", description=str(__doc__).split("\n\n")[0])
    made.add_argument("--round", metavar="NAME", required=True, help="a round, archived or not")
    add_options(made)
    return made


def run(options: argparse.Namespace) -> int:
    return run_round(options, "suite.py")


def main(argv: list[str] | None = None) -> int:
    return run_script(parser(), argv, run, broken_pipe=1)


if __name__ == "__main__":
    sys.exit(main())
