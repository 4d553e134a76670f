"""--watch: repeat the pass until nothing is left to do, each time over the round file as it is then."""

from __future__ import annotations

import argparse
import time

from roundhouse.cli import context
from roundhouse.cli.exit_codes import ExitCode
from roundhouse.cli.output import exit_code, print_report
from roundhouse.config.round import Round, load_round
from roundhouse.engine import one_pass
from roundhouse.engine.cluster_facts import record_cluster
from roundhouse.errors import Busy


def watch(session: context.Session, options: argparse.Namespace) -> ExitCode:
    from roundhouse.engine.watch import Latest, NoPass, Passed, Watch, say

    def read() -> Round:
        loaded = load_round(options.round, options.rounds).at(session.context.site.retry)
        context.check_studies(loaded, session.context.repository)
        context.selector(loaded, options.only, session.archive)
        return loaded

    def next_pass() -> Passed:
        current = latest.reload()
        only = context.selector(current, options.only, session.archive)
        try:
            with context.lock(session.context.experiments, current.name):
                began = time.monotonic()
                report = one_pass.run_pass(session.context, current.experiments, only=only, limit=options.limit)
                took = time.monotonic() - began
        except (Busy, OSError) as error:
            raise NoPass(str(error)) from None
        record_cluster(session.context, current.name, report)
        code = exit_code(report)
        over, failed = code in (ExitCode.DONE, ExitCode.FAILED), code == ExitCode.SYSTEM_ERROR
        return Passed(current, report, took, code, over=over, failed=failed)

    def show(passed: Passed) -> None:
        print_report(passed.round, passed.report, session.context.repository)

    latest = Latest(session.round, read)
    every = None if options.watch is True else options.watch
    try:
        return ExitCode(Watch(next_pass, show, every).run())
    except KeyboardInterrupt:
        say("The watch has ended; the jobs continue. The same command resumes it.")
        return ExitCode.INTERRUPTED
