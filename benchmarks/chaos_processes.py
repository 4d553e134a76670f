"""The processes of a run of chaos.py: which are alive, of which kind, and how to kill one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KINDS = ("runner", "shell", "python", "command", "agent", "supervisor")
ALLOCATION = "roundhouse.jobs.allocation"


@dataclass(frozen=True)
class Victim:
    """A process. `started`: its start in clock ticks since boot; with `pid` it identifies the process."""

    pid: int
    started: str
    kind: str
    what: str  # the end of its command line

    def kill(self) -> bool:
        """SIGKILL; False if it had ended before. A process that was given the same ID later is never killed."""
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if _stat(self.pid)[2] != self.started:
                    return False
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
            finally:
                os.close(handle)
        return False


def alive(mark: str, spool: str = "") -> Iterator[Victim]:
    """The processes with this variable (NAME=VALUE) in their environment, or of jobs in Slurm's folder `spool`."""
    words_of: dict[int, list[str]] = {}
    parents: dict[int, int] = {}
    own: list[tuple[int, str]] = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            words = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")[:-1]
            ours = mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        state, parent, started = _stat(pid)
        words_of[pid], parents[pid] = words, parent
        if pid != os.getpid() and state not in ("Z", "X") and (ours or (spool and any(spool in one for one in words))):
            own.append((pid, started))
    for pid, started in own:
        parent = parents[pid]
        kind = _kind(words_of[pid], words_of.get(parent, []), words_of.get(parents.get(parent, 0), []))
        if kind:
            yield Victim(pid, started, kind, " ".join(words_of[pid][-2:])[-100:])


def _kind(words: list[str], parent: list[str], grandparent: list[str]) -> str:
    """One of KINDS; empty for others, such as the subshells and small commands of a job's shell."""
    if len(words) < 2 or (words == parent and ALLOCATION not in words):
        return ""  # words of the parent: a fork that has not become its own program yet
    program = Path(words[1]).name
    if _is_shell(words):
        return "" if _is_shell(parent) else "shell"
    if ALLOCATION in words:  # the agent, its fork that supervises a preloaded training, or that training
        if _is_shell(parent):
            return "supervisor"
        if ALLOCATION not in parent:
            return "agent"
        return "python" if _is_shell(grandparent) else ""  # else it is about to become a shell
    return {"chaos_runner.py": "runner", "train.py": "python", "chaos_train.py": "command"}.get(program, "")


def _is_shell(words: list[str]) -> bool:
    return len(words) > 1 and words[0].endswith("bash") and words[1].endswith(("/job.sh", "/slurm_script"))


def _stat(pid: int) -> tuple[str, int, str]:
    """State, parent and start time; of a process that has ended, the state X."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return "X", 0, ""
    return fields[0], int(fields[1]), fields[19]
