"""What the analysis scripts share: the options for folders, and errors reported in one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.rounds import Folders
from roundhouse.errors import RoundhouseError
from roundhouse.terminal import escape_unencodable

# Figures are only written to files. The backend of the calling shell, such as that of a notebook, may not exist in this
# environment, and then importing matplotlib fails. It is set before matplotlib is imported, also for worker processes.
os.environ["MPLBACKEND"] = "agg"


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add --experiments, --rounds and --analysis."""
    for name, content in {"experiments": "records", "rounds": "round files", "analysis": "results"}.items():
        where = f"directory of the {content}; default: {name}/ of the repository"
        parser.add_argument(f"--{name}", metavar="DIR", type=Path, default=getattr(Folders(), name), help=where)


def folders_from(options: argparse.Namespace) -> Folders:
    """The folders given by these options."""
    return Folders(options.experiments, options.rounds, options.analysis)


def run_script(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    command: Callable[[argparse.Namespace], int],
    broken_pipe: int = 0,
) -> int:
    """Parse the options and run `command` with them. An error is printed in one line. Returns the exit code.

    It is what `command` returns; 2 after an error; 130 after Ctrl-C; `broken_pipe` if the output is closed (`| head`).
    """
    escape_unencodable()
    options = parser.parse_args(argv)
    try:
        code = command(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discards what Python flushes at exit
        return broken_pipe
    except (RoundhouseError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
