"""Run a pass over a round, on a cluster or on the local machine; with --retry, retry failed experiments first."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

from roundhouse.cli import context, watch
from roundhouse.cli.exit_codes import ExitCode
from roundhouse.cli.output import exit_code, print_lines, print_report
from roundhouse.engine import one_pass, user_actions
from roundhouse.machine.pool import Pool
from roundhouse.store import record
from roundhouse.store.archive import make_directory


def run(options: argparse.Namespace, repository: Path) -> ExitCode:
    session = context.connect(context.load_target(options), options, repository)
    make_directory(session.archive)
    timeout = context.LOCAL_LOCK_TIMEOUT if session.pool else context.LOCK_TIMEOUT
    with context.lock(session.context.experiments, session.round.name, timeout):
        if options.retry:
            _retry(session, options)
        if session.pool:
            return _run_local(session, session.pool, options.limit)
        if options.watch is None:
            return _run_pass(session, options.limit)
    return watch.watch(session, options)


def _retry(session: context.Session, options: argparse.Namespace) -> None:
    """Allow another attempt of experiments that failed or were cancelled."""
    experiments = session.round.experiments
    report = one_pass.run_pass(session.context, experiments, act=False)
    selected = [status for status in report.statuses if session.only(status.experiment)]
    print_lines(user_actions.retry(selected, named=bool(options.only)) or ["nothing to retry"])
    if not options.code and any(experiment.snapshot for experiment in experiments):
        print("Experiments that have run keep the code that they ran. For the current code: --retry --code current")


def _run_pass(session: context.Session, limit: int | None) -> ExitCode:
    report = one_pass.run_pass(session.context, session.round.experiments, only=session.only, limit=limit)
    print_report(session.round, report)
    return exit_code(report)


def _run_local(session: context.Session, pool: Pool, limit: int | None) -> ExitCode:
    """Run the experiments to their end. A round that is completed needs one pass, and no more modules."""
    experiments = session.round.experiments
    if all(record.read(session.context.directory(experiment)).compacted for experiment in experiments):
        return _run_pass(session, limit)
    from roundhouse.engine.local_loop import run_local

    gc.enable()  # training may last for days
    report, interrupted = run_local(session.context, pool, experiments, session.only, limit)
    print_report(session.round, report)
    return ExitCode.INTERRUPTED if interrupted else exit_code(report)
