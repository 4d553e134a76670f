"""Child processes that end when their parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded at import, because it is called between fork and exec


def die_with_parent() -> None:
    """Request that the kernel kills this process (SIGKILL) when its parent dies. Linux only.

    To the kernel, the parent is the *thread* that started this process. The request survives exec; processes forked by
    this process do not inherit it.
    """
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with(parent: int) -> None:
    """`die_with_parent`, without a gap after the fork: exit if the parent, with this process ID, is dead already."""
    die_with_parent()
    if os.getppid() != parent:
        os._exit(127)


def start_group(parent: int) -> None:
    """Called first in a job of an allocation: lead a new process group, and die with the agent, whose ID is `parent`.

    The process stays in the agent's session, because PBS measures and kills a job by its session.
    """
    os.setpgid(0, 0)
    die_with(parent)
