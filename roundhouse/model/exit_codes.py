"""Exit codes of train.py, and what a job's shell records for each. Job scripts get their table from here."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from roundhouse.model.causes import Cause


class JobExitCode(IntEnum):
    """How train.py ended. Any other code is an error."""

    COMPLETED = 0
    ERROR = 1
    NOT_MINE = 70  # the claim does not, or no longer, belong to this job: it exits and records nothing
    MEMORY = 71
    INPUT = 72
    GPU_MEMORY = 73  # the GPU's: more memory for the job would not help
    STOPPED = 75  # stopped at a safe point on request; a later attempt resumes from the checkpoint
    WALLTIME = 76  # stopped on its own before the end of the walltime, with a checkpoint
    INPUT_CHANGED = 77  # an input differs from the recorded one: another attempt cannot help, only --retry
    RUNG = 78  # paused at a rung, with a checkpoint; it is resumed or pruned later
    DIVERGED = 79  # the training diverged: no retry can help, and the metrics so far are its result
    STUCK = 80  # the attempts before reached their walltime and left nothing that this one could continue from


@dataclass(frozen=True, slots=True)
class Ending:
    """What result.json says of an exit code. `final`: no retry can help."""

    cause: Cause
    why: str
    final: bool = False


ENDINGS: Mapping[JobExitCode, Ending] = {
    JobExitCode.MEMORY: Ending(Cause.MEMORY, "memory ran out"),
    JobExitCode.INPUT: Ending(Cause.INPUT, "an input was not visible on this node"),
    JobExitCode.GPU_MEMORY: Ending(Cause.MEMORY, "the GPU's memory ran out"),
    JobExitCode.WALLTIME: Ending(Cause.WALLTIME, "stopped before the end of the walltime"),
    JobExitCode.INPUT_CHANGED: Ending(
        Cause.ERROR, "an input changed since the first attempt; --retry uses the present one", final=True
    ),
    JobExitCode.RUNG: Ending(Cause.RUNG, "paused for a comparison with its group"),
    JobExitCode.DIVERGED: Ending(Cause.DIVERGED, "the training diverged", final=True),
    JobExitCode.STUCK: Ending(
        Cause.ERROR,
        "the walltime was reached twice in a row without a changed file or reported progress: save the state in "
        "{directory}, report epochs or steps in progress.json, or raise walltime; then --retry",
        final=True,
    ),
}
"""Exit codes that name the cause. What the others mean depends on the signals that the shell received."""

_FATAL = ("ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "PIPE", "XCPU", "XFSZ", "SYS")
_SIGNALS = {128 + signal.Signals[f"SIG{name}"]: f"SIG{name}" for name in _FATAL}


def with_signal_name(why: str, exit_code: object) -> str:
    """The explanation of a result, in which an exit code of a process that a signal killed is named.

    The signals are those that end a process with an error of its own. A code above 128 is not always a signal.
    """
    name = _SIGNALS.get(exit_code) if isinstance(exit_code, int) else None
    return f"{why} ({name})" if name and why == f"exit code {exit_code}" else why


RESERVED = frozenset(range(JobExitCode.NOT_MINE, max(JobExitCode) + 1))
COMMAND_MAY_RETURN = frozenset({JobExitCode.STOPPED, JobExitCode.MEMORY, JobExitCode.GPU_MEMORY, JobExitCode.DIVERGED})
"""Those of the reserved codes that keep their meaning when the user's own command returns them."""
