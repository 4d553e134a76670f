"""--dry-run: print what a pass would do and why, and write the job scripts to a temporary directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from roundhouse.cli import context
from roundhouse.cli.exit_codes import ExitCode
from roundhouse.cli.output import print_errors, print_lines, warn
from roundhouse.engine import dry_run, one_pass
from roundhouse.engine.disk_needed import DiskNeeded, disk_needed
from roundhouse.engine.report import PassReport
from roundhouse.errors import RoundhouseError, described
from roundhouse.views import removed, tables


def run(options: argparse.Namespace, repository: Path) -> ExitCode:
    session = context.connect(context.load_target(options), options, repository)
    loaded, place = session.round, session.context
    report = one_pass.run_pass(place, loaded.experiments, act=False, only=session.only, limit=options.limit)
    try:
        folder, jobs = dry_run.write(report.planned, place.experiments / loaded.name)
    except OSError as error:
        folder, jobs = None, []
        warn(f"the job scripts were not written: {described(error)}")
    notes = dry_run.notes(report.planned)
    print_lines([*map(tables.planned, report.statuses), *jobs, *notes, *report.notes])
    print_lines(removed.lines(report.removed))
    print_errors(tables.refusals(report.statuses) + report.trouble)
    space = _disk_needed(session, report)
    if space.warning:
        warn(space.warning)
    print_lines([space.line] if space.line else [])
    print(tables.summary(loaded.name, report.statuses, len(loaded.experiments)))
    through = f"through {place.scheduler.kind} (site {place.site.name})"
    more = dry_run.followers(report.statuses, report.planned, options.limit)
    scripts = f" Scripts: {folder}" if folder else ""
    print(f"{dry_run.summary(report.planned)} would be submitted {through}{more}.{scripts}")
    return ExitCode.SYSTEM_ERROR if report.trouble else ExitCode.DONE


def _disk_needed(session: context.Session, report: PassReport) -> DiskNeeded:
    place = session.context
    try:
        return disk_needed(place.repository, place.experiments, report.statuses, report.planned)
    except (RoundhouseError, OSError) as error:
        why = described(error) if isinstance(error, OSError) else error
        return DiskNeeded(warning=f"the disk space that is needed is not known: {why}")
