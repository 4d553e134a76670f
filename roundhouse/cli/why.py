"""--why: print everything known about one experiment."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from roundhouse.cli import context
from roundhouse.cli.exit_codes import ExitCode
from roundhouse.cli.output import print_errors
from roundhouse.cli.status import read_only_report
from roundhouse.errors import RoundhouseError
from roundhouse.names import nearest
from roundhouse.views.explanation import explain


def run(options: argparse.Namespace, repository: Path) -> ExitCode:
    target = context.load_target(options)
    records = target.archive.records if target.archive.there else target.archive.source
    report = read_only_report(target, options, repository)
    by_path = {status.experiment.path: status for status in report.statuses}
    # A path in the round, or a path of its directory on this host.
    relative = os.path.relpath(os.path.abspath(options.why), records)
    path = next((one for one in (options.why, relative, options.why.strip("/")) if one in by_path), None)
    if path is None:
        hint = nearest(options.why, by_path)
        raise RoundhouseError(f"round {target.round.name} has no experiment {options.why!r}; {hint}")
    print(explain(by_path[path]))
    print_errors(report.trouble)
    return ExitCode.DONE
