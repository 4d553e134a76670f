"""--retry: allow another attempt of experiments that failed or were cancelled; a pass follows."""

from __future__ import annotations

import argparse

from roundhouse.cli.context import Session
from roundhouse.cli.output import print_lines
from roundhouse.engine import one_pass, user_actions


def retry(session: Session, options: argparse.Namespace) -> None:
    """Set the markers. The lock of the round must be held."""
    report = one_pass.run_pass(session.context, session.round.experiments, act=False)
    selected = [status for status in report.statuses if session.only(status.experiment)]
    print_lines(user_actions.retry(selected, pruned=bool(options.only)) or ["nothing to retry"])
    if not options.code and any(experiment.snapshot for experiment in session.round.experiments):
        print("Experiments that have run keep the code that they ran. For the current code: --retry --code current")
