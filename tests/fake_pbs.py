"""The fixture `fake_pbs`: a fake PBS in a temporary folder, whose commands come first on PATH."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster import run_command, wait_until
from fakes import fakepbs

from roundhouse.schedulers.base import Output

COMMANDS = Path(__file__).parent / "fakes"


@dataclass
class FakePBS:
    """The fake server, as tests use it. `env` is the environment of commands and of runner.py."""

    folder: Path
    env: dict[str, str]
    limit: float = 60  # seconds that a command may take

    @property
    def server(self) -> Any:
        return fakepbs.Server(self.folder)

    def turn(self, **knobs: object) -> None:
        """Set knobs, and reset all others (see fakepbs.KNOBS)."""
        assert knobs.keys() <= fakepbs.KNOBS.keys(), knobs
        new = self.folder / "knobs.new"
        new.write_text(json.dumps(knobs))
        new.replace(self.folder / "knobs.json")

    @property
    def crashed(self) -> bool:
        """Whether a qdel has crashed the server, as it can crash a real one."""
        return (self.folder / "crashed").exists()

    def commands(self) -> list[list[str]]:
        """All commands that were called, in order."""
        return [line.split() for line in (self.folder / "commands").read_text().splitlines()]

    def run(self, argv: Sequence[str]) -> Output:
        return run_command(argv, self.env, self.limit)

    def jobs(self) -> dict[str, dict[str, Any]]:
        jobs: dict[str, dict[str, Any]] = self.server.jobs()
        return jobs

    def state(self, job_id: str) -> str | None:
        """The letter of a job's state; None if the server has forgotten it."""
        job = self.jobs().get(job_id)
        return None if job is None else str(job["job_state"])

    def wait_for_state(self, job_id: str, state: str | None) -> None:
        wait_until(lambda: self.state(job_id) == state, f"{job_id} in state {state}; it is in {self.state(job_id)}")

    def crash(self, job_id: str) -> None:
        """The node crashes: every process of the job is killed, and the server forgets the job."""
        self.server.crash(job_id)

    def rerun(self, job_id: str, orphan: bool = False) -> None:
        """The server restarts the job; with `orphan`, its first processes keep running."""
        self.server.rerun(job_id, orphan=orphan)

    def exceed_memory(self, job_id: str) -> None:
        """The node kills the running job for its memory: SIGTERM, then SIGKILL, and exit status -27."""
        self.server.exceed_memory(job_id)

    def hold(self, job_id: str) -> None:
        """As `qhold`: a queued job becomes held; of an array, only the parent's state shows it."""
        self.server.hold(job_id)

    def release(self, job_id: str) -> None:
        """As `qrls`."""
        self.server.release(job_id)

    def shut_down(self) -> None:
        self.turn(stopped=True)
        jobs = self.jobs().values()
        for job in jobs:
            fakepbs.kill(job.get("supervisor"), signal.SIGKILL)
        for job in jobs:
            for session in job.get("sessions", ()):
                for pid in fakepbs.in_session(session):
                    fakepbs.kill(pid, signal.SIGKILL)


def make_fake_pbs(place: Path) -> FakePBS:
    folder = place / "pbs"
    folder.mkdir()
    # The commands use this Python directly: a version manager's python3 would be slow to start.
    path = f"{COMMANDS}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "FAKE_PBS": str(folder), "PATH": path}
    return FakePBS(folder, env)


@pytest.fixture
def fake_pbs(tmp_path: Path) -> Iterator[FakePBS]:
    """A PBS for one test; its jobs end with the test."""
    fake = make_fake_pbs(tmp_path)
    try:
        yield fake
    finally:
        fake.shut_down()
    assert not fake.crashed, "a qdel has crashed the server"
