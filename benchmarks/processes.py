"""Time of a training step in two processes (gloo, CPUs), against one process and against DistributedDataParallel.

    python benchmarks/processes.py [--rounds K] [--steps N] [--networks NAME ...]

All ways train on the same batches in float32, in turns, with one thread in each process. "One process" computes the
whole batch, "two processes" half of it each, both through the library; DistributedDataParallel is a plain loop with
half of it each. "Without messages" are two processes that do not exchange the three messages of a step, in which
process 0 says what all do (save or stop, update, end). Each turn is a run of its own, of which the first steps are not
timed. Printed are the medians of the turns. Two processes have two cores, and one process has one: at best, the ratio
of both is 0.5.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from roundhouse.settings import Settings
from roundhouse.training import Run
from roundhouse.training.execute import Attempt, Hooks, execute, prepare
from roundhouse.training.ranks import ALONE, Ranks, connect, disconnect

SETTINGS = Settings(device="cpu", precision="fp32", processes=2)
UNTIMED = 3  # first steps of a turn
MESSAGES = ("safe point", "gradients", "end")  # of each step
ONE, TWO, SILENT, PLAIN = "one process", "two processes", "without messages", "DistributedDataParallel"


class Work(NamedTuple):
    """A network, and the shape of its batches."""

    network: Callable[[], nn.Module]
    batch: tuple[int, ...]


def _convolutions() -> nn.Module:
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128 * 64, 10)]
    return nn.Sequential(*layers)


def _layers(width: int, hidden: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)
    )


NETWORKS = {
    "small": Work(lambda: _layers(16, 64), (64, 16)),
    "convolutions": Work(_convolutions, (64, 3, 32, 32)),
    "wide": Work(lambda: _layers(512, 1024), (128, 512)),
}


class Silent(Ranks):
    """Processes that take the same decisions in each step without exchanging them."""

    def agree(self, what: str, value: Any) -> Any:
        return value if what in MESSAGES else super().agree(what, value)


@dataclass
class Turn:
    """One training of a network from its first weights, on the same batches whichever way."""

    work: Work
    steps: int
    began: float = 0.0
    seconds: float = 0.0  # of a step
    weights: list[Tensor] = field(default_factory=list)  # at the end

    def start(self) -> tuple[nn.Module, torch.optim.Optimizer, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        model = self.work.network()
        inputs = torch.randn(self.work.batch, generator=generator)
        labels = torch.randint(10, (len(inputs),), generator=generator)
        return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), inputs, labels

    def timed(self, steps: Iterator[Any]) -> Iterator[Any]:
        for number, step in enumerate(steps):
            if number == UNTIMED:
                self.began = time.perf_counter()
            yield step

    def end(self, model: nn.Module) -> None:
        self.seconds = (time.perf_counter() - self.began) / self.steps
        self.weights = [one.detach().clone() for one in model.parameters()]

    def study(self, run: Run) -> None:
        model, optimiser, inputs, labels = self.start()
        run.prepare(model)
        run.track(model=model, optimiser=optimiser)
        for step in self.timed(run.steps(self.steps + UNTIMED, save_every=1 << 30)):
            part = step.shard(len(inputs))
            step.optimise(F.cross_entropy(model(inputs[part]), labels[part]), optimiser)
        self.end(model)
        run.finish()

    def plain(self, ranks: Ranks) -> None:
        model, optimiser, inputs, labels = self.start()
        wrapped, (part, _) = DistributedDataParallel(model), ranks.share(len(inputs))
        for _ in self.timed(iter(range(self.steps + UNTIMED))):
            loss = F.cross_entropy(wrapped(inputs[part]), labels[part])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self.end(model)


def measure(ranks: Ranks, work: Work, steps: int, rounds: int, folder: Path) -> dict[str, list[Turn]]:
    """The turns of each way, alternating. Process 1 waits while process 0 trains alone."""
    turns: dict[str, list[Turn]] = {ONE: [], TWO: [], SILENT: [], PLAIN: []}
    silent = Silent(ranks.rank, ranks.count, ranks.channels, ranks.facts)
    hooks = Hooks(lambda session: None, lambda session: None, lambda: None)
    for number in range(rounds):
        for way, done in turns.items():
            ranks.gather("turn", None)
            turn = Turn(work, steps)
            if way == PLAIN:
                turn.plain(ranks)
            elif way != ONE or ranks.first:
                place = folder / way / str(number)
                place.mkdir(parents=True, exist_ok=True)
                execute(turn.study, SETTINGS, Attempt(place), hooks, {ONE: ALONE, TWO: ranks, SILENT: silent}[way])
            done.append(turn)
    return turns


def take_part(rank: int, channel: Connection, options: argparse.Namespace) -> list[tuple[str, dict[str, list[Turn]]]]:
    """Measure as process 0 or 1. Process 0 prints a row for each network."""
    torch.set_num_threads(1)
    ranks, measured = connect(rank, [channel], prepare(SETTINGS).device), []
    try:
        for name in options.networks:
            with tempfile.TemporaryDirectory(prefix="roundhouse-benchmark-") as own:
                folder = ranks.agree("folder", Path(own))
                turns = measure(ranks, NETWORKS[name], options.steps, options.rounds, folder)
                ranks.gather("measured", None)
            measured.append((name, turns))
            if ranks.first:
                print(row(name, turns), flush=True)
    finally:
        disconnect(ranks)
    return measured


def row(name: str, turns: dict[str, list[Turn]]) -> str:
    """A row of the table: times in ms."""
    one, two, silent, plain = (1000 * statistics.median(turn.seconds for turn in each) for each in turns.values())
    parameters = sum(weight.numel() for weight in turns[TWO][0].weights)
    times = f"{one:.2f} | {two:.2f} | {plain:.2f} | {silent:.2f}"
    batch = NETWORKS[name].batch[0]
    return f"| {name} | {parameters:,} | {batch} | {times} | {two / one:.2f} | {two / plain:.2f} | {two - silent:.2f} |"


def run(options: argparse.Namespace) -> list[tuple[str, dict[str, list[Turn]]]]:
    """Start process 1, and take part as process 0."""
    context = multiprocessing.get_context("spawn")
    channel, its_channel = context.Pipe()
    other = context.Process(target=take_part, args=(1, its_channel, options), daemon=True)
    other.start()
    its_channel.close()
    measured = take_part(0, channel, options)
    other.join()
    return measured


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="number of times that the ways alternate")
    parser.add_argument("--steps", type=int, default=100, help="timed steps in a turn")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS), metavar="NAME")
    options = parser.parse_args(words)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; torch "
        f"{torch.__version__}, Python {platform.python_version()}; gloo, float32, one thread in each process; medians "
        f"of {options.rounds} turns of {options.steps} steps; times of a step in ms\n"
    )
    headings = ["network", "parameters", "batch", ONE, TWO, PLAIN, SILENT, "two / one", "two / DDP", "messages"]
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    run(options)


if __name__ == "__main__":
    main()
