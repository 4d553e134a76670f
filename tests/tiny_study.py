"""Two tiny studies that use every part of the training API, one by steps and one by epochs; and a way to run them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roundhouse.settings import Settings
from roundhouse.training import Epoch, Run, Value
from roundhouse.training.execute import Attempt, Hooks, Outcome, Start, execute

SETTINGS = Settings(seed=5, device="cpu", precision="fp32")
GROWS_AT = 8  # steps


class Growing(nn.Module):
    """A network with one hidden layer that gains a neuron when `grow` is called."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self._build(width)

    def _build(self, width: int) -> None:
        self.hidden, self.out = nn.Linear(2, width), nn.Linear(width, 1)

    def rebuild(self, state: dict[str, Tensor]) -> None:
        self._build(len(state["hidden.weight"]))

    def grow(self) -> None:
        before = {name: value.clone() for name, value in self.state_dict().items()}
        self._build(len(before["hidden.weight"]) + 1)
        with torch.no_grad():
            self.hidden.weight[:-1], self.hidden.bias[:-1] = before["hidden.weight"], before["hidden.bias"]
            self.out.weight[:, :-1] = before["out.weight"]
            self.out.bias.copy_(before["out.bias"])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.tanh(self.hidden(x)))
        return out


@dataclass
class Clock:
    """A clock that only the study advances."""

    now: float = 1000.0

    def advance(self, seconds: float = 1.0) -> None:
        self.now += seconds


@dataclass
class Tiny:
    """The study: two optimisers, EMA, a layer that grows, a sparse metric, kept files and whole checkpoints."""

    steps: int = 18
    epochs: int = 4
    batches: int = 5
    save_every: int | None = None
    clock: Clock | None = None
    on_step: Callable[[int], None] = lambda index: None  # called in each step, after its computation
    seen: list[tuple[str, int]] = field(default_factory=list)

    def begin(self, run: Run) -> None:
        """Build and track everything."""
        self.net = Growing()
        self.critic = nn.Linear(1, 1)
        self.ema = torch.zeros(1)
        self.grown = Value(0)
        run.track(net=self.net, grown=self.grown)
        self.first = torch.optim.Adam(self.net.parameters(), lr=0.05)
        self.second = torch.optim.SGD(self.critic.parameters(), lr=0.05, momentum=0.9)
        run.track(critic=self.critic, first=self.first, second=self.second, ema=self.ema)
        run.best("error", mode="min", weights={"net": self.net, "kind": "tiny"})
        run.best("error_of_ema", mode="min", weights={"ema": self.ema}, file="best_ema.pth")

    def update(self, run: Run, step: Any, inputs: Tensor, total: int) -> None:
        """One step: the critic and the network are trained on different losses; globals are drawn from too."""
        noise = torch.randn(len(inputs), 1) + float(np.random.rand())
        for k in range(2):
            guess = self.critic(torch.randn(4, 1, generator=step.generator("critic", k)))
            step.optimise(guess.square().mean() + 0.1 * guess.mean(), self.second)
        loss = F.mse_loss(self.net(inputs) + 0.01 * noise, inputs.sum(1, keepdim=True))
        step.optimise(loss + 0.01 * self.critic(self.net(inputs)).square().mean(), self.first, clip_norm=0.5)
        with torch.no_grad():
            self.ema.lerp_(self.net.out.bias, 0.1)
        if total == GROWS_AT:
            self.net.grow()
            self.grown.value += 1
            self.first = torch.optim.Adam(self.net.parameters(), lr=0.05)
            run.track(first=self.first)
        step.average(loss=loss)
        if self.clock is not None:
            self.clock.advance()
        self.seen.append((type(step).__name__, total))
        self.on_step(total)

    def measure(self, run: Run) -> dict[str, float]:
        with torch.no_grad():
            points = torch.randn(16, 2, generator=run.generator("validation"))
            error = F.mse_loss(self.net(points), points.sum(1, keepdim=True)).item()
        return {"error": error, "error_of_ema": error + float(self.ema.abs())}

    def finish(self, run: Run) -> None:
        run.load_best()
        points = torch.randn(8, 2, generator=run.generator("test"))
        with torch.no_grad():
            outputs = self.net(points)
        run.finish({"outputs": outputs}, {"test_error": F.mse_loss(outputs, points.sum(1, keepdim=True)).item()})

    def by_steps(self, run: Run) -> None:
        self.begin(run)
        offset = run.once("offset", lambda: torch.rand(2))
        for step in run.steps(self.steps, save_every=self.save_every):
            inputs = torch.randn(6, 2, generator=step.generator("batch")) + offset
            self.update(run, step, inputs, step.index)
            if step.every(4):
                with run.untimed():
                    if self.clock is not None:
                        self.clock.advance(100)
                    run.record(**self.measure(run))
                run.keep(f"samples_{step.index}.npy", self.net(inputs).detach().numpy())
            if step.every(6):
                run.keep_checkpoint(last=2)
        self.finish(run)

    def by_epochs(self, run: Run) -> None:
        self.begin(run)
        warm_up = nn.Linear(2, 1)
        optimiser = torch.optim.SGD(warm_up.parameters(), lr=0.1)
        run.seed_globals("warm_up")
        run.track(warm_up=warm_up, warm_up_optimiser=optimiser)
        for epoch in run.epochs(2, name="warm_up"):
            for step, inputs in epoch.batches(self.feed(epoch)):
                step.optimise(warm_up(inputs).square().mean(), optimiser)
                if self.clock is not None:
                    self.clock.advance()
                self.on_step(100 * epoch.index + step.index)
        run.release("warm_up_optimiser")
        shift = torch.rand(2)  # from the global generator, between two loops
        scale = run.once("scale", lambda: {"scale": warm_up.weight.detach().abs().sum().item()})["scale"]
        run.keep("warm_up.json", {"scale": scale, "next": torch.rand(1).item()})
        for epoch in run.epochs(self.epochs):
            for step, inputs in epoch.batches(self.feed(epoch)):
                self.update(run, step, inputs * scale + shift, epoch.index * self.batches + step.index)
            run.keep("newest.npy", epoch.numpy_generator("newest").random(3))
            if epoch.index % 2:
                if self.clock is not None:
                    self.clock.advance(100)
                run.record(**self.measure(run))
                run.keep_checkpoint(last=1)
        self.finish(run)

    def feed(self, epoch: Epoch) -> Iterator[Tensor]:
        """Batches that also depend on the global generator, which the steps draw from in between."""
        generator = epoch.generator("order")
        for _ in range(self.batches):
            yield torch.randn(6, 2, generator=generator)


def run_tiny(
    study: Callable[[Run], None],
    directory: Path,
    settings: Settings = SETTINGS,
    earlier: list[Path] | None = None,
    stop: Callable[[], str | None] = lambda: None,
    start: Start | None = None,
) -> Outcome:
    """One attempt of a study in `directory`, which is created."""
    directory.mkdir(parents=True, exist_ok=True)
    hooks = Hooks(lambda session: None, lambda session: None, stop)
    return execute(study, settings, Attempt(directory, earlier or [], (), start), hooks)


def result_of(directory: Path, outcome: Outcome) -> dict[str, Any]:
    """Everything that must be equal for two runs: hashes, metrics, files. Without times and memory."""
    metrics = json.loads((directory / "metrics.json").read_text())
    del metrics["used"]
    for entry in metrics["epochs"]:
        del entry["seconds"], entry["peak_memory_mb"]
    files = {
        name: digest for name, digest in outcome.artifacts.items() if name.startswith(("best", "kept/", "outputs"))
    }
    names = sorted(outcome.artifacts)
    return {"hash": outcome.final_hash, "reason": outcome.reason, "position": outcome.position, "exact": outcome.exact,
            "final": dict(outcome.metrics), "metrics": metrics, "files": files, "names": names}  # fmt: skip
