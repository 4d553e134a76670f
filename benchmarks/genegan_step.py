"""The GeneGAN study: images a second of a training step, beside a plain loop of the same networks.

`python benchmarks/genegan_step.py`. The plain loop is as such projects usually start: images in memory, a pass of each
network for each kind of image, losses as in the paper, `.item()` in each step. A step is one of the critics and one of
the generator, at all sizes. Both run in one process, on one device, with the same weights, in turns. The output has the
medians of the rounds, and their ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flow_step import OneStep, seconds

from studies.genegan.images import Batch, Images, load, make_feed
from studies.genegan.networks import WITH, WITHOUT, Critics, Generator
from studies.genegan.options import Options
from studies.genegan.players import Players, optimiser_of

Pair = tuple[Tensor, Tensor]  # images with the attribute, and without it


class Plain:
    """The plain loop, for one image of each size in and out."""

    def __init__(self, options: Options, generator: Generator, critics: Critics) -> None:
        self.options, self.generator, self.critics = options, generator, critics
        self.optimisers = optimiser_of(generator, options), optimiser_of(critics, options)
        self.total = 0.0

    def step(self, draw: Callable[[], dict[int, Pair]]) -> None:
        of_generator, of_critics = self.optimisers
        self._update(of_critics, self._mean({size: self._critic_loss(*pair) for size, pair in draw().items()}))
        if self.options.objective == "wgan":
            for parameter in self.critics.parameters():
                parameter.data.clamp_(-self.options.clip, self.options.clip)
        loss = self._mean({size: self._generator_loss(*pair) for size, pair in draw().items()})
        decay = sum(one.square().mean() for one in self.generator.parameters() if one.ndim >= 4)
        self._update(of_generator, loss + self.options.l2 * decay)

    def _update(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        self.total += loss.item()

    def _mean(self, losses: dict[int, Tensor]) -> Tensor:
        return torch.stack([self.options.weights_of_sizes[size] * loss for size, loss in losses.items()]).sum()

    def _critic_loss(self, au: Tensor, b0: Tensor) -> Tensor:
        size = au.shape[-1]
        with torch.no_grad():
            (a, u), (b, _) = self.generator.split(au), self.generator.split(b0)
            bu, a0 = self.generator.join(b, u, size), self.generator.join(a, None, size)
        loss = torch.zeros((), device=au.device)
        for real, made, which in ((au, bu, WITH), (b0, a0, WITHOUT)):
            if self.options.objective == "wgan":
                loss = loss + self.critics(made, which).mean() - self.critics(real, which).mean()
                continue
            real = real.clone().requires_grad_()
            scores = self.critics(real, which)
            (slope,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
            loss = loss + F.softplus(self.critics(made, which)).mean() + F.softplus(-scores).mean()
            loss = loss + self.options.r1 / 2 * slope.square().sum((1, 2, 3)).mean()
        return loss

    def _generator_loss(self, au: Tensor, b0: Tensor) -> Tensor:
        size, options, join = au.shape[-1], self.options, self.generator.join
        (a, u), (b, e) = self.generator.split(au), self.generator.split(b0)
        au_again, b0_again, bu, a0 = join(a, u, size), join(b, None, size), join(b, u, size), join(a, None, size)
        scores = self.critics(bu, WITH), self.critics(a0, WITHOUT)
        adversarial = [(-one if options.objective == "wgan" else F.softplus(-one)).mean() for one in scores]
        rebuilt = (au - au_again).abs().mean() + (b0 - b0_again).abs().mean()
        parallelogram = (au + b0 - bu - a0).abs().mean()
        loss = e.abs().mean() + adversarial[0] + adversarial[1]
        return loss + options.reconstruction * rebuilt + options.parallelogram * parallelogram


class Study:
    """A step of the study: its feed, and its players."""

    def __init__(self, options: Options, generator: Generator, critics: Critics) -> None:
        self.players = Players(generator, critics, options, contextlib.nullcontext)

    def step(self, batches: Iterator[Batch]) -> None:
        for train in (self.players.train_critics, self.players.train_generator):
            train(OneStep(0), next(batches), None)  # type: ignore[arg-type]


def drawn(options: Options, images: Images) -> dict[int, Pair]:
    """A batch of the plain loop: images are chosen at random and mirrored, and the same at all sizes."""
    found: dict[int, list[Tensor]] = {size: [] for size in options.sizes}
    for side in (True, False):
        chosen = torch.randint(images.count(side), (options.batch_size,))
        mirrored = torch.rand(options.batch_size, device=images.device)[:, None, None, None] < 0.5
        for size, pair in found.items():
            batch = images.batch(chosen, side, size)
            pair.append(torch.where(mirrored, batch.flip(3), batch))
    return {size: (one, other) for size, (one, other) in found.items()}


def measure(options: Options, device: torch.device, rounds: int, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of a step in each round: of the plain loop, and of the study."""
    torch.manual_seed(0)
    generator, critics = Generator(options).to(device), Critics(options).to(device)
    plain, study = Plain(options, deepcopy(generator), deepcopy(critics)), Study(options, generator, critics)
    images = load(options, None, "train", device)
    batches = make_feed(options, images, lambda step: [options.sizes] * 2, 0).batches(0)
    work: tuple[Callable[[int], Any], ...] = (
        lambda number: plain.step(lambda: drawn(options, images)),
        lambda number: study.step(batches),
    )
    found: tuple[list[float], list[float]] = ([], [])
    for one in work:
        seconds(one, 1, device)
    for _ in range(rounds):
        for values, one in zip(found, work, strict=True):
            values.append(seconds(one, steps, device))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="the two versions take turns so many times")
    parser.add_argument("--steps", type=int, default=10, help="training steps in a round")
    parser.add_argument("--threads", type=int, default=None, help="default: PyTorch's")
    parser.add_argument("--r1", action="store_true", help="the objective r1 with group norm, not wgan")
    parser.add_argument("--small", action="store_true", help="32 pixels, width 32, batch size 16, not the full size")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    small: dict[str, Any] = {"sizes": (32,), "width": 32, "batch_size": 16}
    objective: dict[str, Any] = {"objective": "r1", "norm": "group"}
    options = Options(images=1000, feed="device", **(small if chosen.small else {}), **(objective if chosen.r1 else {}))
    print(f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    found = measure(options, device, chosen.rounds, chosen.steps)
    images = 2 * 2 * options.batch_size * len(options.sizes)  # on two sides, for critics and generator
    plain, study = (images / statistics.median(values) for values in found)
    print(f"{options.objective}, images/s: plain {plain:.0f}, study {study:.0f}, ratio {study / plain:.2f}")


if __name__ == "__main__":
    main()
