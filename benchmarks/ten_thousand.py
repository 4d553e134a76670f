#!/usr/bin/env python3
"""A round of many experiments of a trivial command, as arrays on a private Slurm, from submission to completed.

    python benchmarks/ten_thousand.py [--count N] [--array-size N] [--cpus N] [--pause S] [--base DIR]

Each command appends its path to one file. At the end: was any experiment lost, did any run twice, how long did it take,
how often was the scheduler called? Exits with 1 if any was lost or ran twice. A job is a shell and two starts of
Python, so this takes minutes for each 1,000.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "benchmarks")]

from cluster import CannotStart, start_slurm  # noqa: E402
from measure import Recorder  # noqa: E402

from roundhouse.cli.exit_codes import ExitCode  # noqa: E402
from roundhouse.store import record  # noqa: E402

ROUND = """\
round: many
experiments:
  all:
    path: "{{number}}"
    command: [sh, -c, "echo {{number}} >> {ran}"]
    grid: {{number: {numbers}}}
    resources: {{walltime: "0:10:00", array: true}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="experiments")
    parser.add_argument("--array-size", type=int, default=1001, metavar="N", help="Slurm's MaxArraySize; its default")
    parser.add_argument("--cpus", type=int, default=2 * (os.cpu_count() or 1), metavar="N", help="jobs at once")
    parser.add_argument(
        "--pause", type=float, default=30, metavar="S", help="seconds between passes; at least 5 times a pass"
    )
    parser.add_argument("--base", default=tempfile.gettempdir(), metavar="DIR", help="where the records lie")
    options = parser.parse_args()
    node = f"NodeName={{host}} NodeAddr=127.0.0.1 CPUs={options.cpus} RealMemory={{memory_mb}} State=UNKNOWN"
    try:
        cluster = start_slurm(settings=(f"MaxArraySize={options.array_size}", node))
    except CannotStart as problem:
        print(f"skipped: {problem}")
        return 0
    try:
        with tempfile.TemporaryDirectory(prefix="roundhouse-many-", dir=options.base) as base:
            recorder = Recorder(Path(base, "commands"), cluster.env)
            return run(Path(base), options, recorder)
    finally:
        cluster.shut_down()


def run(base: Path, options: argparse.Namespace, recorder: Recorder) -> int:
    """Submit, repeat passes until all is completed, and print figures. 1 if an experiment was lost or ran twice."""
    ran = base / "ran"
    (base / "rounds").mkdir()
    (base / "rounds" / "many.yaml").write_text(ROUND.format(ran=ran, numbers=list(range(options.count))))
    argv = [sys.executable, str(REPOSITORY / "runner.py"), "--round", "many", "--scheduler", "slurm"]
    for folder in ("rounds", "experiments", "analysis"):
        argv += [f"--{folder}", str(base / folder)]
    print(f"{platform.machine()}, {os.cpu_count()} cores, {options.cpus} jobs at once, load {os.getloadavg()[0]:.1f}")
    recorder.clear()
    passes: list[float] = []
    code, started = ExitCode.WORK_REMAINS, time.monotonic()
    while code == ExitCode.WORK_REMAINS:
        begun = time.monotonic()
        code = subprocess.run(argv, env=recorder.environ, check=False, stdout=subprocess.DEVNULL).returncode
        passes.append(time.monotonic() - begun)
        if len(passes) == 1:
            print(f"{options.count:,} submitted in {passes[0]:.1f} s, {calls_text(recorder.calls())}", flush=True)
        if code == ExitCode.WORK_REMAINS:
            time.sleep(max(options.pause, 5 * passes[-1]))
    took = time.monotonic() - started
    print(f"exit code {code} after {took:.0f} s, {took / options.count * 1000:.0f} ms each")
    print(f"{len(passes)} passes, the longest {max(passes):.1f} s; scheduler calls: {calls_text(recorder.calls())}")
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    return check(ran, base / "experiments" / "many", options.count)


def calls_text(calls: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(calls.items()))


def check(ran: Path, records: Path, count: int) -> int:
    """Check that every experiment ran once and that its record is completed. 0 if so, else 1."""
    times = Counter(ran.read_text().split())
    found = [record.read(records / str(number)) for number in range(count)]
    lost = count - len(times)
    twice = sum(number > 1 for number in times.values())
    incomplete = sum(one.completed is None for one in found)
    print(f"lost {lost}, ran twice {twice}, {count - incomplete:,} records completed")
    further = [f"{attempt.cause}" for one in found for attempt in one.attempts[:-1]]
    if further:
        print(f"{len(further)} needed another attempt: {dict(Counter(further))}")
    return int(bool(lost or twice or incomplete))


if __name__ == "__main__":
    sys.exit(main())
