"""The flow matching study: tokens a second of a training step, and seconds to sample a field.

`python benchmarks/flow_step.py`. The plain version is the same network, as such projects usually start: the distance
term as a matrix of all pairs of tokens, masks drawn field by field, `.item()` in each step. Both run in one process, on
one device, with the same weights, in turns. The output has the medians of the rounds, and their ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from roundhouse.training.optimise import parameters_of
from studies.flow_matching.blocks import Attention
from studies.flow_matching.fields import dataset
from studies.flow_matching.flow import FlowModel
from studies.flow_matching.held_out import HeldOut, reconstruct
from studies.flow_matching.network import Network
from studies.flow_matching.options import Options
from studies.flow_matching.sources import FieldSource
from studies.flow_matching.tasks import task_of
from studies.flow_matching.techniques import design_of
from studies.flow_matching.trainer import Trainer


class PlainAttention(Attention):
    """The same attention, with the distance term as a mask for all pairs of tokens."""

    def forward(self, x: Tensor, at: Tensor) -> Tensor:
        count, tokens, width = x.shape
        query, key, value = self.inward(x).view(count, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        mask = None
        if self.sharpness is not None:
            distances = (at[:, :, None] - at[:, None]).square().sum(-1)
            mask = (-self.sharpness.exp().view(1, -1, 1, 1) * distances[:, None]).to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.outward(mixed.transpose(1, 2).reshape(count, tokens, width))


class OneStep:
    """What a trainer needs of a step of the library."""

    def __init__(self, number: int) -> None:
        self.number = number

    def generator(self, stream: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.number)

    def shard(self, count: int) -> slice:
        return slice(0, count)

    def watch(self, loss: Tensor) -> None:
        pass

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self, optimiser: torch.optim.Optimizer, clip_norm: float | None = None) -> None:
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters_of([optimiser]), clip_norm)
        optimiser.step()

    def optimise(self, loss: Tensor, optimiser: torch.optim.Optimizer, clip_norm: float | None = None) -> None:
        optimiser.zero_grad(set_to_none=True)
        self.backward(loss)
        self.update(optimiser, clip_norm)

    def average(self, **values: Tensor) -> None:
        pass


class Plain:
    """The plain loop."""

    def __init__(self, options: Options, source: FieldSource, network: Network) -> None:
        self.options, self.source, self.network = options, source, network
        self.optimiser = torch.optim.Adam(network.parameters(), lr=options.lr)
        self.total = 0.0

    def step(self) -> None:
        options, device = self.options, self.source.fields.device
        pixels = options.size**2
        chosen = torch.randint(self.source.count, (options.batch_size,))
        seen = torch.stack([torch.randperm(pixels)[: options.observations] for _ in chosen])
        asked = torch.stack([torch.randperm(pixels)[: options.queries] for _ in chosen])
        task = task_of(
            self.source.fields[chosen.to(device)], self.source.coordinates, seen.to(device), asked.to(device)
        )
        noise, t = torch.randn(task.truth.shape, device=device), torch.rand(len(chosen), device=device)
        z = t[:, None] * task.truth + (1 - t[:, None]) * noise
        loss = F.mse_loss(self.network(task, z, t), task.truth - noise)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.total += loss.item()


def seconds(work: Callable[[int], Any], times: int, device: torch.device) -> float:
    """Of one call, the mean of `times`."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for number in range(times):
        work(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def measure(options: Options, device: torch.device, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each round, by name."""
    torch.manual_seed(0)
    design = design_of(options)
    network, plain_network = (Network(options, design).to(device) for _ in range(2))
    for block in plain_network.blocks:
        block.attention.__class__ = PlainAttention
    plain_network.load_state_dict(network.state_dict())
    source = FieldSource(dataset(options.complexity, "train", options.fields, options.size).to(device), options, design)
    model, other = (FlowModel(each, design, contextlib.nullcontext) for each in (network, plain_network))
    trainer, plain = Trainer(model, design, source, options, options.epochs), Plain(options, source, plain_network)
    held_out = HeldOut.load(options, "test", options.test_fields, device)
    x0 = held_out.noise(1, torch.Generator().manual_seed(0))[0]

    work = {
        "plain step": lambda number: plain.step(),
        "step": partial(train, trainer),
        "plain sampling": partial(sample, other, held_out, x0, options),
        "sampling": partial(sample, model, held_out, x0, options),
    }
    found: dict[str, list[float]] = {name: [] for name in work}
    for one in work.values():
        seconds(one, 1, device)
    for _ in range(rounds):
        for name, one in work.items():
            found[name].append(seconds(one, steps if "step" in name else 1, device))
    return found


def measure_techniques(
    options: Options, device: torch.device, rounds: int, steps: int
) -> dict[str, tuple[float, float]]:
    """Seconds of a training step and of sampling the test fields, medians of the rounds, by technique ("": the base).

    Technique 1 is left out: its second phase has the steps of the base.
    """
    held_out = HeldOut.load(options, "test", options.test_fields, device)
    x0 = held_out.noise(1, torch.Generator().manual_seed(0))[0]
    fields = dataset(options.complexity, "train", options.fields, options.size).to(device)
    work: dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]] = {}
    for number in (None, *range(2, 11)):
        chosen = replace(options, techniques="" if number is None else str(number))
        design = design_of(chosen)
        model = FlowModel(Network(chosen, design).to(device), design, contextlib.nullcontext)
        trainer = Trainer(model, design, FieldSource(fields, chosen, design), chosen, chosen.epochs)
        work[chosen.techniques] = (partial(train, trainer), partial(sample, model, held_out, x0, chosen))
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in work}
    for turn in range(rounds + 1):  # the first is not counted
        for name, (step, draw) in work.items():
            times = seconds(step, steps, device), seconds(draw, 1, device)
            for values, one in zip(found[name], times, strict=True):
                values.extend([one] if turn else [])
    return {name: (statistics.median(step), statistics.median(draw)) for name, (step, draw) in found.items()}


def train(trainer: Trainer, number: int) -> None:
    chosen = torch.randint(trainer.source.count, (trainer.batch_size,))
    trainer.step(OneStep(number), chosen, number)  # type: ignore[arg-type]


def sample(model: FlowModel, held_out: HeldOut, x0: Tensor, options: Options, number: int) -> None:
    model.network.eval()
    reconstruct(model, held_out.task, x0, options.sample_steps, options.sampler)
    model.network.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="the two versions take turns so many times")
    parser.add_argument("--steps", type=int, default=10, help="training steps in a round")
    parser.add_argument("--threads", type=int, default=None, help="default: PyTorch's")
    parser.add_argument(
        "--small", action="store_true", help="the size of the round improvements_cpu, not the full size"
    )
    parser.add_argument("--techniques", action="store_true", help="each technique beside the base, instead")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    small: dict[str, Any] = {
        "size": 20, "queries": 49, "batch_size": 16, "d_model": 64, "heads": 4, "num_layers": 3, "sample_steps": 4,
    }  # fmt: skip
    options = Options(test_fields=4, **(small if chosen.small else {}))
    print(f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if chosen.techniques:
        each = measure_techniques(options, device, chosen.rounds, chosen.steps)
        step, draw = each[""]
        for name, times in each.items():
            print(f"{name or 'base':>4}: step {times[0] / step:.2f}, sampling {times[1] / draw:.2f}")
        return
    rounds = measure(options, device, chosen.rounds, chosen.steps)
    found = {name: statistics.median(values) for name, values in rounds.items()}
    tokens = options.batch_size * (options.observations + options.queries)
    plain, study = (tokens / found[name] for name in ("plain step", "step"))
    print(f"training, tokens/s: plain {plain:.0f}, study {study:.0f}, ratio {study / plain:.2f}")
    plain, study = (found[name] / options.test_fields for name in ("plain sampling", "sampling"))
    print(
        f"sampling, s for a field of {options.size**2} pixels ({2 * options.sample_steps - 1} evaluations): "
        f"plain {plain:.3f}, study {study:.3f}, ratio {plain / study:.2f}"
    )


if __name__ == "__main__":
    main()
