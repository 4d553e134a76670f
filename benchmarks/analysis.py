#!/usr/bin/env python3
"""Run time of plot_experiments.py for charlie's 240 experiments. Prints a table.

    python benchmarks/analysis.py [--epochs N] [--jobs N] [--repeat K]

Records are synthetic (tests/synthetic_rounds.py). Each figure is the median over processes; the first run is measured
once. The ratio is to `python -c pass` on the same machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from synthetic_rounds import write_round  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--jobs", type=int, default=2, help="number of processes")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, Linux {platform.release()}"
    )
    print(f"{'':48} {'median s':>9} {'min':>7} {'max':>7} {'ratio':>7}")
    unit = measure("python -c pass", [sys.executable, "-c", "pass"], options.repeat)
    with tempfile.TemporaryDirectory(prefix="roundhouse-benchmark-") as folder:
        base = Path(folder)
        write_round(base / "experiments", "charlie", epochs=options.epochs)
        program = [sys.executable, "analysis/plot_experiments.py", "--jobs", str(options.jobs)]
        argv = [*program, "--experiments", str(base / "experiments"), "--analysis", str(base / "analysis")]
        measure("plot_experiments.py --help", [*program, "--help"], options.repeat, unit)
        measure(f"first run, {options.jobs} processes", argv, 1, unit)
        measure("second run, nothing to draw", argv, options.repeat, unit)
        one = base / "experiments/charlie/cifar10/logit/alpha_0.25/ResNet112_to_ResNet56/0/attempts/1/metrics.json"
        measure("after another epoch of one experiment", argv, options.repeat, unit, changed=one)


def measure(name: str, argv: list[str], repeat: int, unit: float | None = None, changed: Path | None = None) -> float:
    """Print a row; returns the median in seconds. `changed` is a file that is touched before each process."""
    seconds = []
    for _ in range(repeat):
        if changed:
            os.utime(changed)
        started = time.perf_counter()
        subprocess.run(argv, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    ratio = median / (unit or median)
    print(f"{name:48} {median:9.3f} {min(seconds):7.3f} {max(seconds):7.3f} {ratio:7.1f}", flush=True)
    return median


if __name__ == "__main__":
    main()
