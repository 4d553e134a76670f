"""A study for several processes: dropout, batch normalisation, a network that grows, random numbers of all kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tiny_study import Growing
from torch import Tensor, nn

from roundhouse.settings import Settings
from roundhouse.training import Run, Step, Value
from roundhouse.training.execute import Attempt, Hooks, Outcome, execute
from roundhouse.training.ranks import ALONE, Ranks

SETTINGS = Settings(seed=3, device="cpu", precision="fp32")
SAMPLES, BATCH = 40, 8


class Network(Growing):
    """The same with three inputs, and with batch normalisation and dropout if it is `noisy`."""

    def __init__(self, noisy: bool, width: int = 4) -> None:
        self.noisy = noisy
        super().__init__(width)

    def _build(self, width: int) -> None:
        self.hidden, self.out = nn.Linear(3, width), nn.Linear(width, 1)
        self.norm = nn.BatchNorm1d(width) if self.noisy else nn.Identity()
        self.dropout = nn.Dropout(0.3 if self.noisy else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(self.dropout(torch.tanh(self.norm(self.hidden(x)))))
        return made


@dataclass
class Parallel:
    """The study, by epochs. `on_step`: called in each step, with the run and the number of the step."""

    epochs: int = 3
    noisy: bool = True
    grows: bool = False
    batch: int = BATCH
    on_step: Callable[[Run, Step, int], None] = lambda run, step, number: None

    def __call__(self, run: Run) -> None:
        self.network, grown, total = Network(self.noisy), Value(0), Value(0)
        run.track(network=self.network, grown=grown, total=total)
        run.prepare(self.network)
        optimiser = torch.optim.Adam(self.network.parameters(), lr=0.02)
        run.track(optimiser=optimiser)
        run.best("val_loss", mode="min", weights={"network": self.network})
        x = torch.randn(SAMPLES, 3, generator=run.generator("x"))
        y = x.sum(1, keepdim=True).sin()
        offset = run.once("offset", lambda: {"value": float(torch.rand(()))})["value"]
        for epoch in run.epochs(self.epochs):
            self.network.train()
            order = torch.randperm(SAMPLES, generator=epoch.generator("order"))
            for step, chosen in epoch.batches(torch.split(order, self.batch)):
                noise = torch.randn(len(chosen), 1, generator=step.generator("noise")) + float(np.random.rand())
                part = step.shard(len(chosen))
                prediction = self.network(x[chosen[part]]) + offset
                loss = F.mse_loss(prediction, y[chosen[part]] + 0.01 * noise[part])
                step.optimise(loss, optimiser, clip_norm=1.0)
                step.average(loss=loss)
                total.value += 1
                if self.grows and total.value == 7:
                    # The mean over the part of one process says nothing of the others'.
                    if run.reduce(prediction.detach().mean(), "max") > -100:
                        self.network.grow()
                        run.prepare(self.network)
                        grown.value += 1
                        optimiser = torch.optim.Adam(self.network.parameters(), lr=0.02)
                        run.track(optimiser=optimiser)
                self.on_step(run, step, total.value)
            self.network.eval()
            with torch.no_grad():
                run.record(val_loss=F.mse_loss(self.network(x), y))
        run.load_best()
        with torch.no_grad():
            made = self.network(x)
        run.finish({"prediction": made.numpy()}, {"test_loss": F.mse_loss(made, y)})


def attempt(
    study: Callable[[Run], Any],
    directory: Path,
    ranks: Ranks = ALONE,
    earlier: tuple[Path, ...] = (),
    settings: Settings = SETTINGS,
    stop: Callable[[], str | None] = lambda: None,
) -> Outcome:
    """One attempt of one process."""
    directory.mkdir(parents=True, exist_ok=True)
    hooks = Hooks(lambda session: None, lambda session: None, stop if ranks.first else lambda: None)
    return execute(study, settings, Attempt(directory, earlier), hooks, ranks)
