"""A task with two stages that trains in milliseconds, for tests of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from roundhouse.settings import Settings
from roundhouse.training import Context, Stage
from roundhouse.training.loop import Outcome, TrainingProgress, run

SETTINGS = Settings(seed=3, device="cpu", precision="fp32")
BATCHES = 4


class SmallTask:
    """First an autoencoder, then a head with an optimiser of its own; both draw from generators and global state."""

    metric = "distance"
    mode = "min"

    def __init__(self, epochs: tuple[int, int] = (2, 3)) -> None:
        self.stages = (Stage("autoencoder", epochs[0]), Stage("head", epochs[1]))
        self.parts: dict[str, Any] = {}

    def begin_stage(self, context: Context) -> None:
        module = torch.nn.Linear(4, 4 if context.stage.name == "autoencoder" else 2)
        self.parts[context.stage.name] = module
        self.parts[context.stage.name + " optimizer"] = torch.optim.Adam(module.parameters(), lr=0.05)

    def train_epoch(self, context: Context) -> dict[str, float]:
        name = context.stage.name
        for batch in context.batches(torch.randn(BATCHES, 8, 4, generator=context.generator("data"))):
            noise = torch.from_numpy(np.random.rand(8, 4)).float() + torch.rand(8, 4)
            with context.autocast():
                made = self.parts[name](batch + 0.01 * noise)
            loss = self.loss(F.mse_loss(made.float(), batch[:, : made.shape[1]]), context)
            context.step(loss, self.parts[name + " optimizer"])
        return {"loss": loss.item()}

    def loss(self, loss: torch.Tensor, context: Context) -> torch.Tensor:
        """Tests override it."""
        return loss

    @torch.no_grad()
    def evaluate(self, context: Context) -> dict[str, float]:
        wanted = torch.eye(4)[: 4 if context.stage.name == "autoencoder" else 2]
        return {"distance": F.mse_loss(self.parts[context.stage.name].weight, wanted).item()}

    def state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])

    def best_state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items() if "optimizer" not in name}

    def outputs(self, best: dict[str, Any], context: Context) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        for _ in context.batches(range(BATCHES)):
            pass
        weights = {name: part["weight"].numpy() for name, part in best.items()}
        return weights, {"test_sum": sum(float(weight.sum()) for weight in weights.values())}


class StopAfter:
    """A stop function: returns None `calls` times, then `preempted`."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> str | None:
        self.left -= 1
        return "preempted" if self.left < 0 else None


def train(
    directory: Path,
    task: Any = None,
    settings: Settings = SETTINGS,
    earlier: list[Path] | None = None,
    stop: Any = lambda: None,
    reports: list[TrainingProgress] | None = None,
) -> Outcome:
    """Run a task, by default a new SmallTask, in `directory`, which is created."""
    directory.mkdir(parents=True, exist_ok=True)
    report = (lambda progress: None) if reports is None else reports.append
    return run(task or SmallTask(), settings, directory, earlier or [], report, stop)
