"""--why: print everything known about one experiment."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from roundhouse.cli import context
from roundhouse.cli.exit_codes import ExitCode
from roundhouse.cli.output import print_errors
from roundhouse.cli.status import archived_report
from roundhouse.engine import one_pass
from roundhouse.errors import RoundhouseError
from roundhouse.names import nearest
from roundhouse.views.explanation import explain


def run(options: argparse.Namespace, repository: Path) -> ExitCode:
    target = context.load_target(options)
    records = target.archive.records if target.archive.there else target.archive.source
    if target.archive.there:
        report = archived_report(target)
    else:
        session = context.connect(target, options, repository)
        report = one_pass.run_pass(session.context, session.round.experiments, act=False)
    by_path = {status.experiment.path: status for status in report.statuses}
    # A path in the round, or a path of its directory on this host.
    relative = os.path.relpath(os.path.abspath(options.why), records)
    path = next((one for one in (options.why, relative, options.why.strip("/")) if one in by_path), None)
    if path is None:
        raise RoundhouseError(
            f"round {target.round.name} has no experiment {options.why!r}; {nearest(options.why, by_path)}"
        )
    print(explain(by_path[path]))
    print_errors(report.trouble)
    return ExitCode.DONE
