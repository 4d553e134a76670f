"""Run a pass over a round, on a cluster or on the local machine; before it, --retry, --rerun or --accept."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

from roundhouse.cli import context, watch
from roundhouse.cli.exit_codes import ExitCode
from roundhouse.cli.output import exit_code, print_lines, print_report
from roundhouse.cli.parser import AGAIN
from roundhouse.engine import one_pass, run_again
from roundhouse.engine.cluster_facts import record_cluster
from roundhouse.machine.pool import Pool
from roundhouse.schedulers.user import user_name
from roundhouse.store import record
from roundhouse.store.archive import make_directory


def run(options: argparse.Namespace, repository: Path) -> ExitCode:
    session = context.connect(context.load_target(options), options, repository)
    make_directory(session.archive)
    timeout = context.LOCAL_LOCK_TIMEOUT if session.pool else context.LOCK_TIMEOUT
    with context.lock(session.context.experiments, session.round.name, timeout):
        if options.verb in AGAIN:
            _again(session, options)
        if session.pool:
            return _run_local(session, session.pool, options.limit)
        if options.watch is None:
            return _run_pass(session, options.limit)
    return watch.watch(session, options)


def _again(session: context.Session, options: argparse.Namespace) -> None:
    """Let experiments run again, or accept their results, before the pass."""
    experiments, only, verb = session.round.experiments, session.only, options.verb
    statuses = one_pass.run_pass(session.context, experiments, act=False).statuses
    if verb == "retry":
        lines = run_again.retry(statuses, only, named=bool(options.only), keep_files=options.keep_files)
    elif verb == "rerun":
        lines = run_again.rerun(statuses, only, options.force)
    else:
        lines = run_again.accept(statuses, only, user_name())
    print_lines(lines or [f"nothing to {verb}"])
    if verb != "accept" and not options.code and any(experiment.snapshot for experiment in experiments):
        print(f"Experiments that have run keep the code that they ran. For the current code: --{verb} --code current")


def _run_pass(session: context.Session, limit: int | None) -> ExitCode:
    report = one_pass.run_pass(session.context, session.round.experiments, only=session.only, limit=limit)
    print_report(session.round, report, session.context.repository)
    record_cluster(session.context, session.round.name, report)
    return exit_code(report)


def _run_local(session: context.Session, pool: Pool, limit: int | None) -> ExitCode:
    """Run the experiments to their end. A round that is completed needs one pass, and no more modules."""
    experiments = session.round.experiments
    if all(record.read(session.context.directory(experiment)).compacted for experiment in experiments):
        return _run_pass(session, limit)
    from roundhouse.engine.local_loop import run_local

    gc.enable()  # training may last for days
    report, interrupted = run_local(session.context, pool, experiments, session.only, limit)
    print_report(session.round, report, session.context.repository)
    return ExitCode.INTERRUPTED if interrupted else exit_code(report)
