"""What the commands of studies share: exit codes, types of arguments, and files that are not replaced unasked."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.errors import described

INTERRUPTED = 130
"""As a shell reports a command that Ctrl-C has ended."""


def exit_code_of(work: Callable[[], None]) -> int:
    """0: the work of a command is done; 1: it failed for a reason that is the user's to change; 130: Ctrl-C ended it.

    The reason is on stderr.
    """
    try:
        work()
    except StudyError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(described(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def whole_number(text: str) -> int:
    """An argument of the command line that must be a whole number from 1."""
    return _whole_number_from(1, text)


def whole_number_from_0(text: str) -> int:
    """An argument of the command line that must be a whole number from 0."""
    return _whole_number_from(0, text)


def above_0(text: str) -> float:
    """An argument of the command line that must be a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def make_room(paths: Sequence[Path], replace: bool) -> None:
    """Make the folders of files that a command will write.

    StudyError: two are the same, one is there and `replace` is false, or a file has the name of a folder.
    """
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise StudyError(f"{path} is named twice: give each file its own name")
        if not replace and path.exists():
            raise StudyError(f"{path} exists already: choose another name, or add --force to replace it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise StudyError(f"{path} cannot be written: {path.parent} is a file, not a folder") from error


def _whole_number_from(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
    return int(text)
