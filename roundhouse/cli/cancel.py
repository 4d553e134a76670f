"""--cancel: cancel experiments that are not over."""

from __future__ import annotations

import argparse
from pathlib import Path

from roundhouse.cli import context
from roundhouse.cli.exit_codes import ExitCode
from roundhouse.cli.output import print_errors, print_lines
from roundhouse.engine import one_pass, user_actions
from roundhouse.store.archive import make_directory


def run(options: argparse.Namespace, repository: Path) -> ExitCode:
    """Without the lock, which a process in the foreground holds until it ends."""
    session = context.connect(context.load_target(options), options, repository)
    make_directory(session.archive)
    experiments = session.round.experiments
    before = one_pass.run_pass(session.context, experiments, act=False)
    selected = [status for status in before.statuses if session.only(status.experiment)]
    selected += [one.status for one in before.removed if one.is_open and session.only(one.status.experiment)]
    cancelled, failed = user_actions.cancel(session.context, selected)
    print_lines(cancelled if cancelled or failed else ["nothing to cancel: all experiments have ended"])
    report = one_pass.run_pass(session.context, experiments, only=session.only, limit=0)
    print_errors(failed + report.trouble)
    return ExitCode.SYSTEM_ERROR if failed or report.trouble else ExitCode.DONE
