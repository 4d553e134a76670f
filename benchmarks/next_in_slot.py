#!/usr/bin/env python3
"""Time between two experiments in a slot of an allocation: from the end of one until the next one trains.

    python benchmarks/next_in_slot.py [--jobs K] [--round N] [--over M]

A real agent with one slot trains a ResNet8 for an epoch on the digits, K times; its round has N experiments, of which
M with a higher priority have failed permanently. Printed are medians in seconds: from result.json of one to job.json of
the next, from there to its claim, from there until its training knows its device; and of the three together.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from roundhouse.config.round import load_round  # noqa: E402
from roundhouse.engine import allocations  # noqa: E402
from roundhouse.jobs import allocation  # noqa: E402
from roundhouse.model.answers import Identity  # noqa: E402
from roundhouse.model.attempt import Opened, Record  # noqa: E402
from roundhouse.model.causes import Cause  # noqa: E402
from roundhouse.model.experiment import Experiment  # noqa: E402
from roundhouse.store import history, job_group, record  # noqa: E402

STEPS = (record.RESULT, record.JOB, record.CLAIM, record.ENVIRONMENT)
HERE = Identity("slurm", "here", "me")
ROUND = """\
round: r
study: distillation
defaults: {dataset: digits, epochs: 1, batch_size: 64, lr: 0.1, model: ResNet8, method: pure}
resources: {ncpus: 1, walltime: "12:00:00", pack: {slots: 1}}
experiments:
  over: {path: "over/{seed}", grid: {seed: %(over)s}, priority: 1}
  e: {path: "e/{seed}", grid: {seed: %(seeds)s}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--round", type=int, default=1000)
    parser.add_argument("--over", type=int, default=500)
    options = parser.parse_args()
    os.chdir(REPOSITORY)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory(prefix="roundhouse-benchmark-") as folder:
        times = run(Path(folder), options.jobs, options.over, options.round - options.over)
    pairs = zip(times, times[1:], strict=False)
    steps = [(before[record.RESULT], *(after[name] for name in STEPS[1:])) for before, after in pairs]
    for number, name in enumerate(STEPS[1:]):
        print(f"until {name:18} {statistics.median(step[number + 1] - step[number] for step in steps):8.3f}")
    print(f"{'until it trains':24} {statistics.median(step[-1] - step[0] for step in steps):8.3f}")


def run(folder: Path, jobs: int, over: int, others: int) -> list[dict[str, float]]:
    """When each of STEPS was written, for `jobs` experiments, in the order in which one slot ran them."""
    rounds, analysis = folder / "rounds", folder / "analysis"
    rounds.mkdir()
    (rounds / "r.yaml").write_text(ROUND % {"over": list(range(over)), "seeds": list(range(others))})
    experiments = load_round("r", rounds).experiments
    for experiment in experiments:
        if experiment.group == "over":
            fail(folder / "experiments" / "r" / experiment.path, experiment)
    name = record.new_token()
    directory = job_group.directory_of(folder / "experiments" / "r", name)
    directory.mkdir(parents=True)
    like = allocations.Allocation(name, "r", experiments[0].resources, HERE, str(rounds), str(analysis), None)
    allocations.write(directory, like)
    agent = allocation.prepare(directory, "1", time.monotonic())
    times, compact = [], history.compact

    def note(rec: Record) -> None:
        """Note the times before the files are merged into history.json."""
        place = record.attempt_directory(rec.directory, 1)
        times.append({step: (place / step).stat().st_mtime for step in STEPS})
        if len(times) == jobs:
            agent.on_signal(signal.SIGTERM, None)
        compact(rec)

    with patch.object(history, "compact", note):
        agent.run()
    return times[:jobs]


def fail(directory: Path, experiment: Experiment) -> None:
    """Two attempts that ended in an error, which is the retry limit."""
    for number in (1, 2):
        opened = Opened(record.new_token(), asdict(HERE), experiment.config_hash(), {})
        record.open_attempt(directory, number, opened)
        record.void(directory, number, Cause.ERROR, "exit code 1")


if __name__ == "__main__":
    main()
