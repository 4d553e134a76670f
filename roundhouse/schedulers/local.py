"""The local machine as a scheduler: a pool of slots. Its answers are read from the process table, and never fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from roundhouse.environ import for_local_jobs
from roundhouse.machine import pool
from roundhouse.model.answers import Identity, Job, Jobs, JobState, Refused, Scope, SubmitAnswer, Submitted, Unclear
from roundhouse.model.experiment import Resources
from roundhouse.schedulers.base import Run
from roundhouse.schedulers.user import user_name


class Local:
    """The methods of `base.Scheduler` for the local machine. A job's ID is its token, which is never used again."""

    kind = "local"
    grace = 2.0

    def __init__(self, slots: pool.Pool) -> None:
        self.pool = slots

    def identity(self, run: Run) -> Identity:
        return Identity("local", f"{os.uname().nodename}/{_machine_id()}", user_name(), _boot_id())

    def submit(self, run: Run, script: Path, name: str, need: Resources | None = None) -> SubmitAnswer:
        need = need or Resources()
        if why := self.pool.layout.refusal(need):
            return Refused(why)
        try:
            started = self.pool.start(script, name, need, self._environ())
        except OSError as error:
            return Unclear(f"bash could not be started: {error}")
        if not started:
            return Refused("all slots of the local machine are in use", later=True, scope=Scope.ALL)
        return Submitted(name)

    def _environ(self) -> Mapping[str, str]:
        return for_local_jobs(os.environ)

    def query(self, run: Run, ids: Collection[str], names: Collection[str], since: float | None = None) -> Jobs:
        self.pool.reap()
        running = self.pool.running.union(pool.live())
        return Jobs(tuple(Job(token, token, JobState.RUNNING) for token in running))

    def array_limit(self, run: Run, queue: str | None) -> int:
        return 1

    def cancel(self, run: Run, ids: Iterable[str]) -> list[str]:
        complaints = []
        running = pool.live()
        for token in ids:
            pids, _ = running.get(token, ([], ""))
            lost = pool.has_lost_its_shell(pids)
            for pid in pids if lost else pids[:1]:  # the shell passes the signal on
                try:
                    os.kill(pid, signal.SIGKILL if lost else signal.SIGTERM)
                except ProcessLookupError:
                    continue
                except OSError as error:
                    complaints.append(f"cannot send a signal to process {pid} of job {token}: {error}")
        return complaints


def _machine_id() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            return Path(path).read_text().strip()
        except OSError:
            continue
    return ""


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import psutil

        return str(int(psutil.boot_time()))
