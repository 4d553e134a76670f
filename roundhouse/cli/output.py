"""What the verbs print: the report of a pass, lines, warnings; and the exit code of a report."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from roundhouse.cli.exit_codes import ExitCode
from roundhouse.cli.parser import PROGRAM
from roundhouse.config.round import Round
from roundhouse.engine.report import PassReport
from roundhouse.errors import RoundhouseError
from roundhouse.metrics import Declarations, declared_by
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.views import eta, removed, tables

FILE_WIDTH = 160  # columns of a table that is written to a file or a pipe


def warn(message: str) -> None:
    print(f"{PROGRAM}: {message}", file=sys.stderr)


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def print_errors(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def exit_code(report: PassReport) -> ExitCode:
    """The exit code of a pass with this report."""
    states = {status.action.state for status in report.statuses}
    if report.trouble:
        return ExitCode.SYSTEM_ERROR
    if all(state.ended_well for state in states):
        return ExitCode.DONE
    return ExitCode.WORK_REMAINS if any(map(goes_on, report.statuses)) else ExitCode.FAILED


def print_report(loaded: Round, report: PassReport, repository: Path) -> None:
    """The tables, notes and errors of a pass, the ETA, and a summary. A large round that is done has no tables."""
    statuses = report.statuses
    if len(statuses) <= tables.MANY or exit_code(report) != ExitCode.DONE:
        _print_tables(loaded, statuses, repository)
        print_lines(tables.choices(statuses) + report.notes)
        print_errors(tables.refusals(statuses) + report.trouble)
    print_lines(removed.lines(report.removed))
    print_lines(eta.lines(statuses, time.time()))
    print(tables.summary(loaded.name, statuses, len(loaded.experiments)), flush=True)


def _print_tables(loaded: Round, statuses: Sequence[ExperimentStatus], repository: Path) -> None:
    from roundhouse.views import results
    from roundhouse.views.console import EscapingConsole

    console = EscapingConsole(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    large = len(statuses) > tables.MANY
    if large and any(status.action.state is not State.COMPLETED for status in statuses):
        console.print(tables.groups(statuses))
        print_lines(tables.limits(statuses))
    if (table := tables.table(statuses)).row_count:
        console.print(table)
    if not large and (settings := results.settings_of(statuses)):
        metrics = results.ordered(settings, _declared(loaded, repository))
        shown = results.fitting(settings, metrics, console.width)
        console.print("", results.table(settings, shown), sep="\n")
        print_lines(results.not_shown(len(metrics) - len(shown), loaded.name))


def _declared(loaded: Round, repository: Path) -> list[Declarations]:
    """What each study of a round declares, with the changes of the round file; nothing, if that cannot be read."""
    studies = dict.fromkeys(experiment.study for experiment in loaded.experiments)
    try:
        own = [declared_by(study, repository) for study in studies]
    except RoundhouseError as error:
        warn(f"metrics are shown without declarations: {error}")
        return []
    return [one.updated(loaded.metrics, loaded.apart, loaded.figures) for one in own]
