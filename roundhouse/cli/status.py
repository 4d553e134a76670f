"""--status: show the status of a round; change nothing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from roundhouse.cli import context
from roundhouse.cli.exit_codes import ExitCode
from roundhouse.cli.output import print_errors, print_report, warn
from roundhouse.engine import offline, one_pass
from roundhouse.engine.report import PassReport
from roundhouse.model.removed import compare_with_round
from roundhouse.views import removed
from roundhouse.views.status_json import as_dict


def run(options: argparse.Namespace, repository: Path) -> ExitCode:
    target = context.load_target(options)
    report = read_only_report(target, options, repository)
    report.statuses = [status for status in report.statuses if target.only(status.experiment)]
    report.removed = [one for one in report.removed if target.only(one.status.experiment)]
    if options.json:
        rows = [*map(as_dict, report.statuses), *map(removed.as_json, report.removed)]
        print(json.dumps(rows, indent=1))
        print_errors(report.trouble)
    else:
        print_report(target.round, report, repository)
    return ExitCode.SYSTEM_ERROR if report.trouble else ExitCode.DONE


def read_only_report(target: context.Target, options: argparse.Namespace, repository: Path) -> PassReport:
    """What a pass that changes nothing finds. Of an archived round no scheduler has a job: its records say it all."""
    if not target.archive.there:
        session = context.connect(target, options, repository)
        return one_pass.run_pass(session.context, session.round.experiments, act=False, only=session.only)
    warn(f"round {target.round.name} was archived, into {target.archive.folder}")
    experiments, directory = target.round.experiments, target.archive.records
    directories = {one.path: directory / one.path for one in experiments}
    statuses = offline.statuses(experiments, directories)
    unlisted = offline.removed(target.round.name, experiments, directory)
    return PassReport(list(statuses.values()), compare_with_round(unlisted, statuses))
