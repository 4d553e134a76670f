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

from roundhouse.training import Run

BATCHES = 4


def train(run: Run, options: Any, inputs: Mapping[str, Sequence[Path]], data: Path | None) -> None:
    """A linear layer learns the identity. Its noise comes from the run's streams and from global generators."""
    path = str(Path(sys.argv[1]).relative_to(os.environ[EXPERIMENTS]))
    journal = Journal(path, int(os.environ["ROUNDHOUSE_ATTEMPT"]))
    journal.hold()
    journal.note("start")
    module = torch.nn.Linear(4, 4)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    run.track(module=module, optimizer=optimizer)
    run.best("distance", mode="min", weights={"module": module})
    for epoch in run.epochs(options.epochs):
        journal.note("saved", epoch=epoch.index)  # the library has saved all epochs before this one
        for step, batch in epoch.batches(torch.randn(BATCHES, 8, 4, generator=epoch.generator("data"))):
            time.sleep(options.seconds / BATCHES)
            noise = torch.from_numpy(np.random.rand(8, 4)).float() + torch.rand(8, 4)
            loss = F.mse_loss(module(batch + 0.01 * noise), batch)
            step.optimise(loss, optimizer)
            step.average(loss=loss)
        run.record(distance=F.mse_loss(module.weight.detach(), torch.eye(4)).item())
    weight = module.weight.detach().numpy()
    journal.note("end", hash=hashlib.sha256(np.ascontiguousarray(weight).tobytes()).hexdigest())
    run.finish({"weight": weight}, {"sum": float(weight.sum())})
