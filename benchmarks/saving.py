"""The share of the time that durable checkpoints cost if epochs are short: `python benchmarks/saving.py`.

The same run twice, in turns in one process: saved after each epoch, and saved only by time (`save_each_epoch: false`).
An epoch is a pause, as while a GPU computes, so only saving takes time of the processor. The state has the size of a
ResNet56 with momentum and its best weights. A slow file system is emulated: each `fsync` takes so many milliseconds
more. The table has the medians of the rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from roundhouse.settings import Settings
from roundhouse.training import Run
from roundhouse.training.execute import Attempt, Hooks, execute

SETTINGS = Settings(device="cpu")
SHAPE = (856, 1000)  # as many weights as a ResNet56 for CIFAR-100 has


@contextmanager
def slower_fsync(milliseconds: float) -> Iterator[list[float]]:
    """Each `os.fsync` takes longer by so much. Yields the times of the calls."""
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(time.monotonic())
        time.sleep(milliseconds / 1000)
        real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
    try:
        yield calls
    finally:
        os.fsync = real


def study(run: Run, epochs: int, seconds: float) -> None:
    """Each epoch is one step after a pause, and improves the metric, so the best weights are written too."""
    weights = torch.nn.Parameter(torch.rand(SHAPE, generator=run.generator("weights")))
    module = torch.nn.ParameterDict({"weights": weights})
    optimiser = torch.optim.SGD([weights], lr=0.1, momentum=0.9)
    run.track(module=module, optimiser=optimiser)
    run.best("quality", weights={"module": module})
    for epoch in run.epochs(epochs):
        for step, _ in epoch.batches([None]):
            time.sleep(seconds)
            step.optimise(weights.square().mean(), optimiser)
        run.record(quality=float(epoch.index))


def timed(folder: Path, settings: Settings, epochs: int, seconds: float) -> float:
    """Seconds of a run in a new directory."""
    hooks = Hooks(lambda session: None, lambda session: None, lambda: None)
    with tempfile.TemporaryDirectory(prefix="roundhouse-saving-", dir=folder) as here:
        began = time.perf_counter()
        execute(lambda run: study(run, epochs, seconds), settings, Attempt(Path(here)), hooks)
        return time.perf_counter() - began


def measure(folder: Path, delay: float, epochs: int, seconds: float, rounds: int) -> tuple[float, float, float]:
    """Seconds for an epoch saved each time, and saved by time; and how often fsync is called more for each epoch."""
    each, seldom, extra = [], [], 0
    with slower_fsync(delay) as calls:
        for _ in range(rounds):
            before = len(calls)
            each.append(timed(folder, SETTINGS, epochs, seconds))
            between = len(calls)
            seldom.append(timed(folder, replace(SETTINGS, save_each_epoch=False), epochs, seconds))
            extra += between - before - (len(calls) - between)
    return statistics.median(each) / epochs, statistics.median(seldom) / epochs, extra / rounds / (epochs - 1)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--folder", type=Path, default=Path("."), help="where to write, on the file system in question")
    made.add_argument("--delays", nargs="+", type=float, default=[0, 5, 20, 100], metavar="MS", help="for each fsync")
    made.add_argument("--seconds", type=float, default=1.0, help="of training in an epoch")
    made.add_argument("--epochs", type=int, default=10)
    made.add_argument("--rounds", type=int, default=3, help="number of times that the two take turns")
    return made


def main() -> None:
    chosen = parser().parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, torch {torch.__version__}, Python {platform.python_version()}, load "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; epochs of {chosen.seconds:g} s, medians of "
        f"{chosen.rounds} rounds of {chosen.epochs} epochs, in {chosen.folder.resolve()}\n"
    )
    headings = ("fsync takes more", "fsync calls for an epoch", "s for an epoch, saved each", "saved by time")
    print(f"| {' | '.join(headings)} | ratio | share |\n|{'---|' * 6}")
    for delay in chosen.delays:
        each, seldom, calls = measure(chosen.folder, delay, chosen.epochs, chosen.seconds, chosen.rounds)
        share = 100 * (1 - seldom / each)
        times = f"{each:.3f} | {seldom:.3f} | {each / seldom:.3f}"
        print(f"| {delay:g} ms | {calls:.1f} | {times} | {share:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
