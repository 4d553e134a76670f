"""--why: print everything known about one experiment."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from roundhouse.cli import context
from roundhouse.cli.exit_codes import ExitCode
from roundhouse.cli.output import print_errors
from roundhouse.cli.status import read_only_report
from roundhouse.engine.removed import with_recorded_config
from roundhouse.errors import RoundhouseError
from roundhouse.names import nearest
from roundhouse.views.explanation import explain
from roundhouse.views.removed import explanation


def run(options: argparse.Namespace, repository: Path) -> ExitCode:
    target = context.load_target(options)
    records = target.archive.records if target.archive.there else target.archive.source
    report = read_only_report(target, options, repository)
    by_path = {status.experiment.path: status for status in report.statuses}
    removed = {one.path: one for one in report.removed}
    # A path in the round, or a path of its directory on this host.
    relative = os.path.relpath(os.path.abspath(options.why), records)
    path = next((one for one in (options.why, relative, options.why.strip("/")) if one in {**by_path, **removed}), None)
    if path is None:
        hint = nearest(options.why, [*by_path, *removed])
        raise RoundhouseError(f"round {target.round.name} has no experiment {options.why!r}; {hint}")
    if path in removed:
        print(explain(with_recorded_config(removed[path].status), explanation(removed[path])))
    else:
        print(explain(by_path[path]))
    print_errors(report.trouble)
    return ExitCode.DONE
