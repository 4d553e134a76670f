"""Runs each part as a process of its own, and ends it at its time limit, so that the whole keeps its budget."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpu_checks.report import FAILED, SKIPPED, Row, read, shortened

LEAST = 10.0  # seconds in which a part can do something
GRACE = 5.0  # seconds that a part has to end after SIGTERM


@dataclass(frozen=True)
class Part:
    """A part of the check, with the most seconds that it may take."""

    name: str
    seconds: float
    what: str


@dataclass(frozen=True)
class Runner:
    """Starts the parts. `command`: what starts one, with its name, its seconds, and the file for its rows added."""

    command: Sequence[str]
    folder: Path
    budget: float
    began: float

    @property
    def left(self) -> float:
        return self.budget - (time.monotonic() - self.began)

    def run(self, part: Part, show: Callable[[Row], None]) -> list[Row]:
        """The rows of a part, each shown as soon as it is there."""
        limit = min(part.seconds, self.left - 2 * GRACE)
        if limit < min(LEAST, part.seconds):
            rows = [Row(part.name, part.what, SKIPPED, "no time left")]
            show(rows[0])
            return rows
        file, log = self.folder / f"{part.name}.rows", self.folder / f"{part.name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self.command, part.name, f"{limit:.1f}", str(file)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
            try:
                rows = _follow(process, file, time.monotonic() + limit, show)
            finally:
                late = _end(process)
        rows += _show(read(file)[len(rows) :], show)
        if late:
            rows += _show([Row(part.name, part.what, SKIPPED, f"ended at its time limit of {limit:.0f} s")], show)
        elif process.returncode:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            text = f"exit code {process.returncode}: {shortened(' '.join(last))}"
            rows += _show([Row(part.name, part.what, FAILED, text)], show)
        return rows


def _follow(process: subprocess.Popen[bytes], file: Path, until: float, show: Callable[[Row], None]) -> list[Row]:
    rows: list[Row] = []
    while process.poll() is None and time.monotonic() < until:
        rows += _show(read(file)[len(rows) :], show)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    return rows


def _show(rows: list[Row], show: Callable[[Row], None]) -> list[Row]:
    for row in rows:
        show(row)
    return rows


def _end(process: subprocess.Popen[bytes]) -> bool:
    """End the part's process group, which is its session; returns whether the part itself still ran."""
    late = process.poll() is None
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    return late


def command_for(script: Path, device: str) -> list[str]:
    """What starts one part of the check."""
    return [sys.executable, str(script), "--device", device, "--part"]
