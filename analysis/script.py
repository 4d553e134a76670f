"""What the scripts share: the options that name folders, and an end in a line, whatever goes wrong."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.rounds import Place
from roundhouse.errors import RoundhouseError


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add --experiments, --rounds and --analysis."""
    for name in ("experiments", "rounds", "analysis"):
        parser.add_argument(f"--{name}", metavar="DIR", type=Path, default=getattr(Place(), name))


def place_from(options: argparse.Namespace) -> Place:
    """The folders that these options name, as they were written."""
    return Place(options.experiments, options.rounds, options.analysis)


def carry_out(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    work: Callable[[argparse.Namespace], int],
    unread: int = 0,
) -> int:
    """Do a script's work as its options ask, and tell what goes wrong in a line. Returns the exit code.

    It is what `work` returns; 2 after an error; 130 after Ctrl-C; `unread` if nobody reads on, as after `| head`.
    """
    options = parser.parse_args(argv)
    try:
        code = work(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python flushes at its end goes nowhere
        return unread
    except (RoundhouseError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
