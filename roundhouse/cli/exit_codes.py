"""The exit codes of runner.py and their meaning."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """An exit code. `meaning` is printed at the end of `--help`."""

    meaning: str

    def __new__(cls, value: int, meaning: str = "") -> ExitCode:
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    DONE = 0, "all experiments are completed, pruned or diverged, or the action succeeded (--status, --dry-run, ...)"
    USAGE = 2, "usage error: an option, a round file or a site file is wrong"
    WORK_REMAINS = 3, "work remains: call again later, or use --watch"
    FAILED = 4, "nothing more happens automatically; some failed, are blocked or cancelled, or depend on such ones"
    SYSTEM_ERROR = 5, "the scheduler or the file system failed: nothing was lost, call again later"
    INTERRUPTED = 130, "interrupted: jobs on the local machine have saved their state"


def table() -> str:
    """A line for each exit code, as `--help` prints them."""
    return "\n".join(["exit codes:", *(f"  {code:<3d}  {code.meaning}" for code in ExitCode)])
