"""A study for chaos.py that trains in milliseconds, with the checkpoints and random streams of real studies."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from chaos_journal import EXPERIMENTS, Journal

from roundhouse.training import Context, Stage


def build(config: Mapping[str, Any], inputs: Mapping[str, Sequence[Path]], device: Any, data: Path | None) -> Task:
    path = str(Path(sys.argv[1]).relative_to(os.environ[EXPERIMENTS]))
    journal = Journal(path, int(os.environ["ROUNDHOUSE_ATTEMPT"]))
    journal.hold()
    journal.note("start")
    return Task(journal, int(config["epochs"]), float(config["seconds"]))


class Task:
    """A linear layer that learns the identity. Its noise comes from the loop's streams and from global generators."""

    metric, mode = "distance", "min"

    def __init__(self, journal: Journal, epochs: int, seconds: float) -> None:
        self.journal, self.seconds = journal, seconds
        self.stages = [Stage("train", epochs)]

    def begin_stage(self, context: Context) -> None:
        self.module = torch.nn.Linear(4, 4)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=0.05)

    def train_epoch(self, context: Context) -> dict[str, float]:
        self.journal.note("saved", epoch=context.epoch)  # the loop has saved all epochs before this one
        time.sleep(self.seconds)
        for batch in context.batches(torch.randn(4, 8, 4, generator=context.generator("data"))):
            noise = torch.from_numpy(np.random.rand(8, 4)).float() + torch.rand(8, 4)
            loss = F.mse_loss(self.module(batch + 0.01 * noise), batch)
            context.step(loss, self.optimizer)
        return {"loss": loss.item()}

    def evaluate(self, context: Context) -> dict[str, float]:
        return {"distance": F.mse_loss(self.module.weight.detach(), torch.eye(4)).item()}

    def state(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])

    def best_state(self) -> dict[str, Any]:
        return self.module.state_dict()

    def outputs(self, best: dict[str, Any], context: Context) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        weight = self.module.weight.detach().numpy()
        self.journal.note("end", hash=hashlib.sha256(np.ascontiguousarray(weight).tobytes()).hexdigest())
        return {"weight": weight}, {"sum": float(weight.sum())}
