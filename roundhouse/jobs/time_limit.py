"""The `time_limit` of a command: how long it may run, over all its jobs, and how it is ended then.

At the limit the command gets SIGINT, as by Ctrl-C, then SIGTERM, then SIGKILL. The time that it has used is kept in
progress.json, and the next attempt that continues with its files continues to count there.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from roundhouse.errors import RoundhouseError
from roundhouse.formatting import walltime
from roundhouse.jobs.worker import ClaimedAttempt
from roundhouse.model.exit_codes import JobExitCode
from roundhouse.store import carried, record

GRACE = 300.0  # seconds from SIGINT to SIGTERM; ROUNDHOUSE_GRACE changes it
TERM_GRACE = 30.0  # seconds from SIGTERM to SIGKILL
_LEAST = 60.0  # seconds until SIGINT in a later attempt: a program that is still starting cannot end cleanly
_SAVED_EVERY = 30.0  # seconds: what a killed job may lose of the time that is counted
_SHELLS = {"ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "ksh93", "mksh", "sh", "tcsh", "zsh"}
_MEANT = {JobExitCode.MEMORY, JobExitCode.GPU_MEMORY, JobExitCode.RUNG, JobExitCode.DIVERGED}


class TimeLimit:
    """The time limit of one attempt's command. `reached`: it ended the command, or has begun to."""

    def __init__(self, claimed: ClaimedAttempt, seconds: int, grace: float, after_sigterm: float = TERM_GRACE) -> None:
        self.reached = False
        self._claimed, self._seconds = claimed, seconds
        self._used_before, self._started = _used_before(claimed), math.nan
        self._grace, self._after_sigterm = grace, after_sigterm
        claimed.report(time_used=self._used_before)  # also if this job is killed before it has counted anything
        used = f", of which {walltime(round(self._used_before))} are used" if self._used_before else ""
        print(f"roundhouse: time limit {walltime(seconds)}{used}", flush=True)

    @classmethod
    def of(cls, claimed: ClaimedAttempt) -> TimeLimit | None:
        """That of the attempt's command; None if it has none. RoundhouseError: ROUNDHOUSE_GRACE is not a number."""
        seconds = claimed.config.get("time_limit")
        return None if seconds is None else cls(claimed, int(seconds), _grace())

    @property
    def left(self) -> float:
        """Seconds left when the command starts."""
        return max(0.0, self._seconds - self._used_before)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count the time while the block runs, in which the command ends, and end the command at the limit."""
        self._started, ended = time.monotonic(), threading.Event()
        thread = threading.Thread(target=self._count, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._save()

    def exit_code(self, code: int) -> int:
        """What the exit code of a command means that the limit has ended. RoundhouseError: that it did not end cleanly.

        If the scheduler, too, has requested a stop, another attempt follows, unless the command has completed.
        """
        if code == JobExitCode.COMPLETED or code in _MEANT:
            return code
        if self._claimed.stop_reason:
            return JobExitCode.STOPPED
        raise RoundhouseError(
            f"the time limit of {walltime(self._seconds)} was reached, and the command ended with exit code {code}: "
            "it must handle SIGINT (KeyboardInterrupt in Python), write its results, and exit with 0"
        )

    def _count(self, ended: threading.Event) -> None:
        first = self.left if not self._used_before else max(self.left, min(_LEAST, self._seconds / 10))
        for seconds, number in (
            (first, signal.SIGINT),
            (self._grace, signal.SIGTERM),
            (self._after_sigterm, signal.SIGKILL),
        ):
            if self._wait(seconds, ended) or (self._claimed.stop_reason and not self.reached):
                return  # it has ended, or is about to: then another attempt follows
            self.reached = True
            self._signal(number)

    def _wait(self, seconds: float, ended: threading.Event) -> bool:
        """Wait this long, and save the time used meanwhile; whether the command has ended."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if ended.wait(min(left, _SAVED_EVERY, self._seconds / 20)):
                return True
            self._save()
        return ended.is_set()

    def _save(self) -> None:
        try:
            self._claimed.report(time_used=round(self._used_before + time.monotonic() - self._started, 1))
        except OSError as error:
            print(f"roundhouse: the time used could not be saved: {error}", file=sys.stderr, flush=True)

    def _signal(self, number: signal.Signals) -> None:
        child = self._claimed.child
        if child is None:
            return
        limit, name = f"the time limit of {walltime(self._seconds)}", number.name
        why = f"{limit} was reached" if number is signal.SIGINT else "it did not end"
        print(f"roundhouse: {why}: the command gets {name}", flush=True)
        programs = programs_of(child.pid, number)
        child.send_signal(number)  # does nothing once it has ended
        for pid in programs:
            if pid != child.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)


def _used_before(claimed: ClaimedAttempt) -> float:
    """The seconds used by the attempt whose files this one continues with, and by those that that one continued."""
    source = (carried.read(claimed.directory, claimed.number) or carried.Carried()).source
    attempts = record.read(claimed.directory).attempts
    return sum(one.progress.time_used for one in attempts if one.number == source and one.progress)


def _grace() -> float:
    written = os.environ.get("ROUNDHOUSE_GRACE", "")
    try:
        seconds = float(written or GRACE)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise RoundhouseError(f"ROUNDHOUSE_GRACE must be a number of seconds (got {written!r})")
    return seconds


def programs_of(pid: int, number: signal.Signals) -> list[int]:
    """A process and, if it is a shell, the programs for which it waits.

    A shell handles SIGINT only once its program has ended. Of the programs, those that do not handle SIGINT (such as
    `tee`) are left out, as long as others do: without it, the others could not print any more.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        children = process.children() if Path(process.exe()).name in _SHELLS else []
    except psutil.Error:
        return [pid]
    handling = [child for child in children if number is not signal.SIGINT or _handles(child.pid, number)]
    return [pid, *(found for child in handling or children for found in programs_of(child.pid, number))]


def _handles(pid: int, number: signal.Signals) -> bool:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")), 0)
    return bool(caught >> (number - 1) & 1)
