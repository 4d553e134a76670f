"""Processes that end with the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded here, since it is called between fork and exec


def die_with_parent() -> None:
    """Have the kernel kill this process when the process that started it dies.

    To the kernel, the parent is the *thread* that started this process. The request survives an exec; what this process
    forks does not inherit it.
    """
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with(parent: int) -> None:
    """The same, from the moment of the fork: exit if the parent, whose ID this is, has died already."""
    die_with_parent()
    if os.getppid() != parent:
        os._exit(127)


def bind(parent: int) -> None:
    """What a child of an allocation's agent does first: lead a process group, and die with the agent.

    It stays in the agent's session, since PBS measures and kills a job by its session.
    """
    os.setpgid(0, 0)
    die_with(parent)
