"""Measure processes: wall time, processor time, peak memory, system calls, calls of scheduler commands."""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SCHEDULER_COMMANDS = ("sbatch", "squeue", "scontrol", "sacct", "scancel")

PATIENCE = 300  # time limit in seconds for a process


class TooSlow(Exception):
    """A process exceeded the time limit."""


def nothing() -> None:
    """No preparation before a run."""


@dataclass(frozen=True)
class TimedProcess:
    """One process to measure, which works on `experiments` experiments.

    `before` restores the state before a run. `until`: for a process that does not end in time; it is stopped when this
    becomes true.
    """

    name: str
    tool: str
    argv: Sequence[str]
    experiments: int
    environ: Mapping[str, str]
    directory: Path
    before: Callable[[], object] = nothing
    until: Callable[[], bool] | None = None
    remark: str = ""
    once: bool = False  # slow: measured once, and never under strace


@dataclass(frozen=True)
class Figures:
    """Measurements of several runs. Times in seconds; memory in MB, of the largest process; calls of the last run."""

    wall: list[float]
    processor: list[float]
    memory: float
    scheduler_calls: Counter[str]
    system_calls: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.wall)


@dataclass
class Recorder:
    """A folder with wrappers of scheduler commands that log each call. `answers` replaces some commands."""

    folder: Path
    real: Mapping[str, str]  # the environment in which the true commands are found
    answers: Mapping[str, str] = field(default_factory=dict)  # command -> what the wrapper does instead, in shell

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        for command in SCHEDULER_COMMANDS:
            found = shutil.which(command, path=self.real["PATH"])
            does = self.answers.get(command, f'exec {found} "$@"' if found else "exit 127")
            wrapper = self.folder / command
            # Printing the version does not query the scheduler.
            noted = f'[ "$1" = --version ] || echo {command} >> {self.folder}/calls'
            wrapper.write_text(f"#!/bin/sh\n{noted}\n{does}\n")
            wrapper.chmod(0o755)

    @property
    def environ(self) -> dict[str, str]:
        # Without PYTHONDONTWRITEBYTECODE and similar: modules must not be compiled again in each process.
        usual = {name: value for name, value in self.real.items() if not name.startswith("PYTHON")}
        return {**usual, "PATH": f"{self.folder}:{self.real['PATH']}"}

    def clear(self) -> None:
        (self.folder / "calls").write_text("")

    def calls(self) -> Counter[str]:
        """How often each command was called since `clear`."""
        return Counter((self.folder / "calls").read_text().split())


def measure(work: TimedProcess, recorder: Recorder, repeat: int, trace: bool) -> Figures:
    """Run it `repeat` times, and once more under strace to count system calls, those of its children included.

    Without futex: under strace, threads wait far more often.
    """
    wall, processor, memory = [], [], 0.0
    for _ in range(1 if work.once else repeat):
        work.before()
        recorder.clear()
        took, used, peak = _run(work, list(work.argv))
        wall.append(took)
        processor.append(used)
        memory = max(memory, peak)
    calls, counted = recorder.calls(), None
    if trace and not work.once and work.until is None and shutil.which("strace"):
        work.before()
        summary = recorder.folder / "strace"
        _run(work, [shutil.which("strace") or "", "-f", "-c", "-e", "trace=!futex", "-o", str(summary), *work.argv])
        total = re.search(r"^\s*100\.00\s.*?\s(\d+)(?:\s+\d+)?\s+total$", summary.read_text(), re.MULTILINE)
        counted = int(total[1]) if total else None
    return Figures(wall, processor, memory, calls, counted)


# Starts a process and prints its resource usage. It is small, because a child inherits its parent's peak memory.
LAUNCHER = """\
import os, sys, time
started = time.perf_counter()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
print(pid, flush=True)
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, status)
"""


def _run(work: TimedProcess, argv: list[str]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak memory in MB of a process and its children."""
    stderr = work.directory / "stderr"
    started = time.perf_counter()
    with stderr.open("wb") as errors:
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, *argv],
            cwd=work.directory, env=dict(work.environ), stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        assert launcher.stdout is not None
        pid, reached = int(launcher.stdout.readline()), 0.0
        while work.until is not None and launcher.poll() is None and not reached:
            time.sleep(0.05)
            if work.until() or time.perf_counter() - started > PATIENCE:
                reached = time.perf_counter() - started
                os.kill(pid, signal.SIGKILL)
        fields = launcher.communicate()[0].split()
    took, used, peak, code = (
        float(fields[0]),
        float(fields[1]),
        float(fields[2]),
        os.waitstatus_to_exitcode(int(fields[3])),
    )
    if code not in (0, 3) and not reached:  # 3: "work remains" of runner.py
        last = stderr.read_text(errors="replace")[-2000:]
        raise SystemExit(f"{work.tool}: {' '.join(argv)} exited with {code}: {last}")
    if reached > PATIENCE:
        raise TooSlow(f"not within {PATIENCE} s")
    return reached or took, used, peak


class MarkdownTable:
    """A Markdown table, printed row by row. `ratio`: to the first tool with the same workload in the same place."""

    HEADINGS = (
        "work",
        "with",
        "records",
        "s (min to max)",
        "ratio",
        "processor s",
        "MB",
        "system calls each",
        "scheduler calls",
    )

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], float] = {}
        print(f"| {' | '.join(self.HEADINGS)} |")
        print(f"|{'---|' * len(self.HEADINGS)}", flush=True)

    def row(self, work: TimedProcess, place: str, figures: Figures) -> None:
        ratio = figures.median / self._first.setdefault((work.name, place), figures.median)
        spread = f" ({min(figures.wall):.2f} to {max(figures.wall):.2f})" if len(figures.wall) > 1 else " (one run)"
        each = f"{figures.system_calls / work.experiments:.1f}" if figures.system_calls else ""
        calls = ", ".join(f"{number} {name}" for name, number in sorted(figures.scheduler_calls.items()))
        tool = f"{work.tool}: {work.remark}" if work.remark else work.tool
        cells = (f"{figures.median:.2f}{spread}", f"{ratio:.1f}", f"{statistics.median(figures.processor):.2f}")
        print(f"| {' | '.join([work.name, tool, place, *cells, f'{figures.memory:.0f}', each, calls])} |", flush=True)

    def cannot(self, name: str, tool: str, why: str) -> None:
        print(f"| {name} | {tool} | | cannot: {why} {'| ' * 5}|", flush=True)
