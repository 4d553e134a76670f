#!/usr/bin/env python3
"""Start-up time of a job in an allocation: with its own Python process, and with a preloaded one, in turns.

    python benchmarks/start_up.py [--repeat K]

The job is real: its shell claims an attempt, and the study trains a ResNet8 for an epoch on the digits. Printed are
medians, in seconds: from the start of the shell until the training knows its device (its inputs are checked, and what
ran is recorded), until its end, and the ratio of the two ways. What is loaded first stays in the system's cache:
the first job of each kind is not counted.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from roundhouse.config.site import Site  # noqa: E402
from roundhouse.engine.context import PassContext  # noqa: E402
from roundhouse.jobs.preload import preload  # noqa: E402
from roundhouse.machine import pool  # noqa: E402
from roundhouse.model.attempt import Opened  # noqa: E402
from roundhouse.model.experiment import Experiment, Resources  # noqa: E402
from roundhouse.store import record  # noqa: E402

CONFIG = {"dataset": "digits", "epochs": 1, "batch_size": 64, "lr": 0.1, "model": "ResNet8", "method": "pure"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, Linux {platform.release()}"
    )
    began = time.perf_counter()
    ways = {"a Python of its own": pool.launch, "preloaded": preload(REPOSITORY, ["distillation"], 1)}
    print(f"loaded once, in {time.perf_counter() - began:.2f} s")
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="roundhouse-benchmark-") as folder:
        for number in range(options.repeat + 1):
            for way, launch in ways.items():
                took[way].append(run(Path(folder), f"{way.replace(' ', '_')}/{number}", launch))
    print(f"{'':24} {'until it trains':>16} {'until its end':>16}")
    medians = [[statistics.median(column) for column in zip(*took[way][1:], strict=True)] for way in ways]
    for way, median in zip(ways, medians, strict=True):
        print(f"{way:24} {median[0]:16.3f} {median[1]:16.3f}")
    print(f"{'ratio':24} {medians[0][0] / medians[1][0]:16.1f} {medians[0][1] / medians[1][1]:16.1f}")


def run(folder: Path, path: str, launch: pool.Launch) -> tuple[float, float]:
    """One job to its end: seconds from its start until it trains, and until it has ended."""
    experiment = Experiment("benchmark", "e", path, "distillation", CONFIG, Resources())
    scheduler: Any = SimpleNamespace(kind="local")
    nowhere: Any = None
    place = PassContext(folder, REPOSITORY, Site(), scheduler, nowhere, sys.executable)
    directory, token = place.directory(experiment), record.new_token()
    record.open_attempt(directory, 1, Opened(token, {"kind": "local"}, experiment.config_hash(), {}))
    record.write_config(directory, experiment)
    attempt = record.attempt_directory(directory, 1)
    script = attempt / record.SCRIPT
    script.write_text(place.script(experiment, 1, token))
    slots = pool.make_pool(slots=1, cores=1, home=f"{token} ", launch=launch)
    began = time.time()
    assert slots.start(script, token, experiment.resources)
    while not slots.reap():
        time.sleep(0.005)
    ended = time.time()
    result = record.read(directory).newest
    assert result is not None and str(result.cause) == "completed", (attempt / record.LOG).read_text()
    return (attempt / record.ENVIRONMENT).stat().st_mtime - began, ended - began


if __name__ == "__main__":
    main()
