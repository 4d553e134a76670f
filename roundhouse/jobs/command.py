"""Run the user's own command for an attempt."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

from roundhouse.errors import RoundhouseError
from roundhouse.jobs.progress import copy_progress
from roundhouse.jobs.time_limit import TimeLimit
from roundhouse.jobs.worker import ClaimedAttempt
from roundhouse.machine.parent_death import die_with


def variables(claimed: ClaimedAttempt) -> dict[str, str]:
    """The environment variables that give the command its directories.

    Leave: an input is not visible, or has changed. RoundhouseError: a path cannot be part of a list.
    """
    earlier = [place for place in reversed(claimed.earlier()) if place.is_dir()]
    found = {"ROUNDHOUSE_DIRECTORY": str(claimed.files), "ROUNDHOUSE_EARLIER": _listed(earlier)}
    if claimed.attempt.opened.pause_at:
        found["ROUNDHOUSE_PAUSE_AT"] = str(claimed.attempt.opened.pause_at)
    for group, directories in claimed.inputs().items():
        found[f"ROUNDHOUSE_INPUT_{group.upper().replace('-', '_')}"] = _listed(directories)
    for group, paths in claimed.missing().items():
        found[f"ROUNDHOUSE_MISSING_{group.upper().replace('-', '_')}"] = _listed(paths)
    return found


def _listed(directories: Iterable[Path | str]) -> str:
    paths = [str(directory) for directory in directories]
    for path in paths:
        if os.pathsep in path:
            raise RoundhouseError(
                f"{path} contains {os.pathsep!r}, which separates the directories that a command gets: "
                "change `path` in the round file, or use another --experiments"
            )
    return os.pathsep.join(paths)


def run_command(claimed: ClaimedAttempt, environment: Mapping[str, str], limit: TimeLimit | None = None) -> int:
    """Run the command to its end, with these variables; returns its exit code (128 + n for a death by signal n)."""
    if limit is not None:
        environment = {**environment, "ROUNDHOUSE_TIME_LEFT": f"{limit.left:.0f}"}
    words = [word.replace("{directory}", str(claimed.files)) for word in claimed.config["command"]]
    on_one_line = "\\n".join(shlex.join(words).splitlines())
    print(f"roundhouse: attempt {claimed.number} runs {on_one_line}", flush=True)
    try:
        # It stays in this process group, because the job's shell signals the group and waits for all of it.
        claimed.child = subprocess.Popen(
            words, env={**os.environ, **environment}, preexec_fn=partial(die_with, os.getpid())
        )
    except OSError as error:
        raise RoundhouseError(
            f"{words[0]} cannot be started: {error.strerror}. The command comes from the round file"
        ) from None
    if claimed.stop_reason:
        claimed.child.terminate()  # the signal came before the child existed
    with copy_progress(claimed), limit.watch() if limit else nullcontext():
        code = claimed.child.wait()
    with suppress(OSError):  # the figures only inform
        claimed.report_gpu_use()
    return 128 - code if code < 0 else code
