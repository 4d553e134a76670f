"""The study flood: training samples a second, beside a plain loop with samples cut beforehand.

`python benchmarks/flood_samples.py`. The study keeps beds and depths once, and cuts, flips and turns the samples of a
batch when it is needed. The plain loop is as such projects usually start: all samples in memory in all orientations,
a batch by its indices, `.item()` in each step. Both run in one process, on one device, with the same weights, in turns.
The output has the medians of the rounds and their ratio, of batches alone and of training steps with architecture 02;
and the memory that the samples take.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flow_step import OneStep, seconds

from studies.flood import terrain
from studies.flood.options import Options
from studies.flood.samples import Batch, Samples, Simulated, cut
from studies.flood.surrogates import new_surrogate


class Plain:
    """The plain loop. `cut` has all samples of the set."""

    def __init__(self, options: Options, cut: Batch, network: nn.Module) -> None:
        self.cut, self.network = cut, network
        self.optimiser = torch.optim.Adam(network.parameters(), lr=options.lr)
        self.total = 0.0

    def batch(self, chosen: Tensor) -> Batch:
        chosen = chosen.to(self.cut.depth.device)
        return Batch(*(values[chosen] for values in self.cut))

    def step(self, chosen: Tensor) -> None:
        batch = self.batch(chosen)
        loss = F.l1_loss(self.network(batch.terrain, batch.depth, batch.boundary), batch.target)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.total += loss.item()


class Study:
    """A step of the study, as in its task `training`."""

    def __init__(self, options: Options, samples: Samples, network: nn.Module) -> None:
        self.samples, self.network = samples, network
        self.optimiser = torch.optim.Adam(network.parameters(), lr=options.lr)

    def step(self, chosen: Tensor) -> None:
        batch = self.samples.batch(chosen)
        change = self.network(batch.terrain, batch.depth, batch.boundary)
        OneStep(0).optimise(F.l1_loss(change.float(), batch.target), self.optimiser)


def made_up(count: int, cells: int, snapshots: int = 5) -> Samples:
    """The training samples of floods with terrains of the study and random depths, which cost as much as true ones."""
    generator = torch.Generator().manual_seed(0)
    floods = [
        Simulated(
            number,
            terrain.draw(number, cells).fine,
            torch.rand(snapshots, cells, cells, generator=generator),
            torch.zeros(snapshots),
        )
        for number in range(count)
    ]
    return cut("train", floods)


def cut_beforehand(samples: Samples) -> Batch:
    """All samples of a set."""
    return samples.batch(torch.arange(len(samples)))


def megabytes(*tensors: Tensor) -> float:
    return sum(one.numel() * one.element_size() for one in tensors) / 1e6


def measure(
    options: Options, samples: Samples, whole: Batch, device: torch.device, rounds: int, steps: int
) -> dict[str, float]:
    """Samples a second, medians of the rounds, by name."""
    torch.manual_seed(0)
    network = new_surrogate(options).to(device)
    plain, study = Plain(options, whole, deepcopy(network)), Study(options, samples, network)
    work: dict[str, Callable[[Tensor], Any]] = {
        "plain batches": plain.batch,
        "batches": samples.batch,
        "plain steps": plain.step,
        "steps": study.step,
    }
    found: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):  # the first is not counted
        orders = [torch.randperm(len(samples))[: options.batch_size] for _ in range(steps)]
        for name, one in work.items():
            taken = seconds(lambda number: one(orders[number]), steps, device)  # noqa: B023
            if turn:
                found[name].append(options.batch_size / taken)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="the two versions take turns so many times")
    parser.add_argument("--steps", type=int, default=10, help="batches, or training steps, in a round")
    parser.add_argument("--threads", type=int, default=None, help="default: PyTorch's")
    parser.add_argument("--small", action="store_true", help="48 x 48 cells, width 0.25, batch size 32")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = Options(architecture="02", width=0.25, batch_size=32) if chosen.small else Options(architecture="02")
    samples = made_up(1, 48 if chosen.small else 128).to(device)
    whole = cut_beforehand(samples)
    print(f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    memory = megabytes(samples.beds, samples.depths, samples.places), megabytes(*whole)
    print(
        f"{len(samples)} samples, batch size {options.batch_size}, architecture 02 with width {options.width:g}; "
        f"memory: study {memory[0]:.1f} MB, plain {memory[1]:.1f} MB"
    )
    found = measure(options, samples, whole, device, chosen.rounds, chosen.steps)
    for name in ("batches", "steps"):
        plain, study = found[f"plain {name}"], found[name]
        print(f"{name}, samples/s: plain {plain:.0f}, study {study:.0f}, ratio {study / plain:.2f}")


if __name__ == "__main__":
    main()
