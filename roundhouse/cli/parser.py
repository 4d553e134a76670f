"""The options of runner.py, their ranges, and which of them can be combined."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from roundhouse.cli.exit_codes import table

PROGRAM = "runner.py"
DESCRIPTION = (
    "Run one pass over a round of experiments: query the scheduler, decide, submit, report. "
    "It is safe to repeat at any time, also from cron."
)
PASS = "run"  # the verb if no option names another one
VERBS = ("dry_run", "status", "why", "cancel", "retry", "rerun", "accept", "archive", "schema")

AGAIN = ("retry", "rerun", "accept")  # these precede a pass; the others replace it

# The verbs with which an option is valid; options that are not listed are valid with each verb.
VALID_WITH = {
    "watch": (PASS, *AGAIN),
    "only": (PASS, "dry_run", "status", "cancel", *AGAIN),
    "limit": (PASS, "dry_run", *AGAIN),
    "code": (PASS, "dry_run", *AGAIN),
    "json": ("status",),
    "keep_files": ("retry",),
    "force": ("archive", "rerun"),
}
UPPER_BOUND = 10**7  # of numbers


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with code 2, and `--limit must be >= 0 (got -1)` instead of `argument --limit: must be ...`."""
        super().error(message.removeprefix("argument ").replace(": must be ", " must be ", 1))


def parse(argv: list[str] | None, repository: Path) -> argparse.Namespace:
    """The options of one call; `verb` is one of VERBS, or PASS. SystemExit 2: they are wrong; 0: --help was given."""
    parser = make_parser(repository)
    options = parser.parse_args(argv)
    options.verb = next((verb for verb in VERBS if getattr(options, verb)), PASS)
    for name, verbs in VALID_WITH.items():
        if getattr(options, name) not in (None, False) and options.verb not in verbs:
            names = ["a pass" if verb == PASS else _option(verb) for verb in verbs]
            valid = " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
            given = "" if options.verb == PASS else f" (got {_option(options.verb)})"
            parser.error(f"{_option(name)} is only valid with {valid}{given}")
    if options.verb == "rerun" and options.only is None:
        parser.error("--rerun requires --only GLOB, such as 'cifar10/*'; '*' selects all experiments")
    if not options.round and options.verb != "schema":
        parser.error("--round NAME is required: it names the round file rounds/NAME.yaml")
    return options


def make_parser(repository: Path) -> argparse.ArgumentParser:
    """The parser; default folders are those of `repository`."""
    parser = _Parser(
        prog=PROGRAM,
        usage="%(prog)s --round NAME [options]",
        description=DESCRIPTION,
        epilog=table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--round", metavar="NAME", help="the round to run: rounds/NAME.yaml")
    group = parser.add_argument_group("what to do; without one of these options: a pass")
    verb = group.add_mutually_exclusive_group().add_argument
    verb("--dry-run", action="store_true", help="print what a pass would do and why; submit nothing")
    verb("--status", action="store_true", help="show the status of the round; change nothing")
    verb("--why", metavar="PATH", help="print everything known about one experiment")
    verb("--cancel", action="store_true", help="cancel experiments: none starts, running ones stop")
    retry = "retry failed and cancelled experiments, also with a corrected config; a pass follows"
    verb("--retry", action="store_true", help=retry)
    rerun = "with --only: run completed experiments again; their results stay. A pass follows"
    verb("--rerun", action="store_true", help=rerun)
    accept = "keep completed results although the round file has changed; a pass follows"
    verb("--accept", action="store_true", help=accept)
    verb("--archive", action="store_true", help="move the finished round to analysis/experiment_NAME/")
    verb("--schema", action="store_true", help="print the JSON Schema of round files, for editors")
    watch = "repeat the pass until nothing is left to do; without SECONDS, the pause is 30 s to 10 min"
    add("--watch", metavar="SECONDS", type=_number(float, 1), nargs="?", const=True, help=watch)
    add("--only", metavar="GLOB", help="only experiments whose path matches, such as 'cifar10/*'")
    keep = "with --retry: after a change of the config, resume from what was written with the old one"
    add("--keep-files", action="store_true", help=keep)
    force = "with --archive: also if the round is not finished; with --rerun: also if the result is in use"
    add("--force", action="store_true", help=force)
    add("--limit", metavar="N", type=_number(int, 0), help="submit at most N jobs in a pass")
    code = "with snapshot: true in the round file: also experiments that have run use the current code"
    add("--code", choices=["current"], help=code)
    add("--json", action="store_true", help="with --status: print one JSON object per experiment")
    scheduler = "default: that of the site, else the one found on this host"
    add("--scheduler", choices=["auto", "cluster", "pbs", "slurm", "local"], help=scheduler)
    add("--site", metavar="NAME", help="sites/NAME.yaml; default: the site whose `hosts` match")
    jobs = "on the local machine: K jobs share a GPU; default: the round's `per_gpu`, or 1"
    add("--jobs-per-gpu", metavar="K", type=_number(int, 1), help=jobs)
    for folder, content in {"experiments": "records", "rounds": "round files", "analysis": "archived rounds"}.items():
        where = f"directory of the {content}; default: {folder}/ of the repository"
        add(f"--{folder}", metavar="DIR", type=Path, default=repository / folder, help=where)
    return parser


def _number(kind: type[int] | type[float], least: int) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {what} (got {text!r})") from None
        if not value >= least:  # nan, too
            raise argparse.ArgumentTypeError(f"must be >= {least} (got {text})")
        if value >= UPPER_BOUND:
            raise argparse.ArgumentTypeError(f"must be < {UPPER_BOUND:,} (got {text})")
        return value

    return parse


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
