"""Runs scheduler commands, each under a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence

from roundhouse.schedulers.base import Output, Run
from roundhouse.schedulers.environment import for_scheduler


def runner(limit: float) -> Run:
    """A function that runs one command for at most `limit` seconds, and never raises because of its result.

    The command gets the environment of this process without the variables that change its behaviour; see
    `environment.for_scheduler`.
    """

    def run(argv: Sequence[str]) -> Output:
        words = tuple(argv)
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=for_scheduler(os.environ),
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C at the terminal must not interrupt a submission
            )
        except OSError as error:
            return Output(words, None, "", f"cannot be started: {error.strerror}")
        try:
            stdout, stderr = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            return Output(words, None, stdout, f"no answer within {limit:.0f} s. {stderr}".strip())
        return Output(words, process.returncode, stdout, stderr)

    return run
