"""Run the user's own command for an attempt."""

from __future__ import annotations

import os
import shlex
import subprocess
from functools import partial

from roundhouse.errors import RoundhouseError
from roundhouse.jobs.worker import ClaimedAttempt
from roundhouse.machine.parent_death import die_with


def run_command(claimed: ClaimedAttempt) -> int:
    """Run the command to its end; returns its exit code (128 + n for a death by signal n)."""
    words = [word.replace("{directory}", str(claimed.place)) for word in claimed.config["command"]]
    earlier = [str(place) for place in claimed.earlier()]
    environ = {
        **os.environ,
        "ROUNDHOUSE_DIRECTORY": str(claimed.place),
        "ROUNDHOUSE_EARLIER": os.pathsep.join(reversed(earlier)),
    }
    if claimed.attempt.opened.pause_at:
        environ["ROUNDHOUSE_PAUSE_AT"] = str(claimed.attempt.opened.pause_at)
    for group, directories in claimed.inputs().items():
        environ[f"ROUNDHOUSE_INPUT_{group.upper().replace('-', '_')}"] = os.pathsep.join(
            str(directory) for directory in directories
        )
    for group, paths in claimed.missing().items():
        environ[f"ROUNDHOUSE_MISSING_{group.upper().replace('-', '_')}"] = os.pathsep.join(paths)
    on_one_line = "\\n".join(shlex.join(words).splitlines())
    print(f"roundhouse: attempt {claimed.number} runs {on_one_line}", flush=True)
    try:
        # It stays in this process group, because the job's shell signals the group and waits for all of it.
        claimed.child = subprocess.Popen(words, env=environ, preexec_fn=partial(die_with, os.getpid()))
    except OSError as error:
        raise RoundhouseError(
            f"{words[0]} cannot be started: {error.strerror}. The command comes from the round file"
        ) from None
    if claimed.stop_reason:
        claimed.child.terminate()  # the signal came before the child existed
    code = claimed.child.wait()
    return 128 - code if code < 0 else code
