#!/usr/bin/env python3
"""Run a round of experiments: look, decide, act, report. Safe to repeat at any time, from cron too."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent

EXIT_CODES = """\
exit codes:
  0  all experiments are completed or pruned (with --status, --dry-run, --why, --schema, --cancel: it was told or done)
  2  usage: an option, a round file or a site file is wrong
  3  work remains: call again later, or use --watch
  4  nothing more will happen by itself, and something failed, is blocked, or was cancelled
  5  the scheduler or the disk failed: nothing was lost, call again later
  130  interrupted: what ran here saved its place
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runner.py", description=__doc__, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--round", metavar="NAME", help="the round to run: rounds/NAME.yaml")
    what = parser.add_argument_group("what to do, if not just a pass").add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="tell what would happen and why; submit nothing")
    what.add_argument("--status", action="store_true", help="show how the round stands; change nothing")
    what.add_argument("--why", metavar="PATH", help="tell everything known about one experiment")
    what.add_argument("--cancel", action="store_true", help="cancel experiments: no job starts, those that run stop")
    what.add_argument(
        "--retry",
        action="store_true",
        help="give failed and cancelled experiments another try (pruned ones only with --only); then pass",
    )
    what.add_argument(
        "--archive", action="store_true", help="put the finished round away, into analysis/experiment_NAME/"
    )
    what.add_argument("--schema", action="store_true", help="print the JSON Schema of round files, for editors")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=float,
        nargs="?",
        const=True,
        help="pass again and again until nothing is left to do; without SECONDS, the pause follows what happens",
    )
    parser.add_argument("--only", metavar="GLOB", help="only experiments whose path matches, such as 'cifar10/*'")
    parser.add_argument("--force", action="store_true", help="with --archive: also if it was halted before its end")
    parser.add_argument("--limit", metavar="N", type=int, help="submit at most N jobs")
    parser.add_argument(
        "--code", choices=["current"], help="with snapshot: true: also what has run goes on with the present code"
    )
    parser.add_argument("--json", action="store_true", help="with --status: one object per experiment")
    parser.add_argument(
        "--scheduler", choices=["auto", "cluster", "pbs", "slurm", "local"], help="default: the site's, or what is here"
    )
    parser.add_argument("--site", metavar="NAME", help="sites/NAME.yaml; default: the site whose hosts match this one")
    parser.add_argument(
        "--jobs-per-gpu",
        metavar="K",
        type=int,
        help="on this machine: so many jobs share a GPU; default: the round's `per_gpu`, or 1",
    )
    parser.add_argument("--experiments", metavar="DIR", type=Path, default=REPOSITORY / "experiments")
    parser.add_argument("--rounds", metavar="DIR", type=Path, default=REPOSITORY / "rounds")
    parser.add_argument("--analysis", metavar="DIR", type=Path, default=REPOSITORY / "analysis")
    return parser


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        # Only now: --help and mistakes in usage need none of it.
        from roundhouse.cli import commands

        return commands.main(options, REPOSITORY)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
