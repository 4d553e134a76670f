"""One call of runner.py: parse the options, run the module of the action, turn errors into a message and exit code."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from pathlib import Path

from roundhouse.cli.exit_codes import ExitCode
from roundhouse.cli.parser import AGAIN, PASS, PROGRAM, parse
from roundhouse.errors import Busy, RoundhouseError, described
from roundhouse.terminal import escaped_output

MODULES = dict.fromkeys(AGAIN, PASS)  # the module of an action, if its name differs: these precede a pass


def main(repository: Path, argv: list[str] | None = None) -> int:
    """Run one call. Returns the exit code; SystemExit: --help, or wrong options."""
    with escaped_output():
        return _main(repository, argv)


def _main(repository: Path, argv: list[str] | None) -> int:
    options = parse(argv, repository)
    gc.disable()  # a pass over a large round creates almost only objects that stay; collection costs an eighth of it
    try:
        # Imported only now: --help and wrong options need no verb.
        verb = import_module(f"roundhouse.cli.{MODULES.get(options.verb, options.verb)}")
        code: ExitCode = verb.run(options, repository)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except RoundhouseError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return ExitCode.WORK_REMAINS if isinstance(error, Busy) else ExitCode.USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing reads the output: no error at exit
        return ExitCode.SYSTEM_ERROR
    except OSError as error:
        print(f"{PROGRAM}: {described(error)}", file=sys.stderr)
        return ExitCode.SYSTEM_ERROR
