"""A study with two loops that trains in milliseconds, for tests of the training library."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from roundhouse.settings import Settings
from roundhouse.training import Epoch, Run, Step
from roundhouse.training.execute import Attempt, Hooks, Outcome, execute
from roundhouse.training.optimise import FiniteCheck, Optimisation
from roundhouse.training.precision import Precision, choose_precision
from roundhouse.training.progress import progress_of
from roundhouse.training.session import Session
from roundhouse.training.state import LoopState, State
from roundhouse.training.tracking import Tracked

SETTINGS = Settings(seed=3, device="cpu", precision="fp32")
BATCHES = 4


class SmallStudy:
    """First an autoencoder, then a head with an optimiser of its own; both draw from generators and global state.

    Tests override its methods.
    """

    mode = "min"
    tracked: dict[str, Any] = {}  # parts of a subclass

    def __init__(self, epochs: tuple[int, int] = (2, 3)) -> None:
        self.epochs = {"autoencoder": epochs[0], "head": epochs[1]}
        self.modules: dict[str, torch.nn.Linear] = {}

    def __call__(self, run: Run) -> None:
        run.planned(sum(self.epochs.values()))
        for name, epochs in self.epochs.items():
            optimizer = self.begin(run, name)
            for epoch in run.epochs(epochs, name=name):
                self.train_epoch(run, epoch, optimizer)
                run.record(**self.evaluate(epoch))
            if name == "autoencoder":
                run.keep("autoencoder.pth", self.modules[name].state_dict())
        run.load_best()
        for _ in run.pausable(range(BATCHES)):
            pass
        weights = {name: module.weight.detach().numpy() for name, module in self.modules.items()}
        run.finish(weights, {"test_sum": sum(float(weight.sum()) for weight in weights.values())})

    def begin(self, run: Run, name: str) -> torch.optim.Adam:
        """Build and track what the loop `name` trains."""
        run.seed_globals(name)
        module = torch.nn.Linear(4, 4 if name == "autoencoder" else 2)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
        run.track(**{name: module, f"{name}_optimizer": optimizer}, **self.tracked)
        self.modules[name] = module
        if name == "head":
            run.best("distance", mode=self.mode, weights=dict(self.modules))
        return optimizer

    def train_epoch(self, run: Run, epoch: Epoch, optimizer: torch.optim.Adam) -> None:
        for step, batch in epoch.batches(torch.randn(BATCHES, 8, 4, generator=epoch.generator("data"))):
            noise = torch.from_numpy(np.random.rand(8, 4)).float() + torch.rand(8, 4)
            with run.autocast():
                made = self.modules[epoch.stage](batch + 0.01 * noise)
            loss = self.loss(F.mse_loss(made.float(), batch[:, : made.shape[1]]), epoch, step)
            step.optimise(loss, optimizer)
            step.average(loss=loss)

    def loss(self, loss: torch.Tensor, epoch: Epoch, step: Step) -> torch.Tensor:
        return loss

    @torch.no_grad()
    def evaluate(self, epoch: Epoch) -> dict[str, float]:
        module = self.modules[epoch.stage]
        return {"distance": F.mse_loss(module.weight, torch.eye(4)[: len(module.weight)]).item()}


class StopAfter:
    """A stop function: returns None `calls` times, then `preempted`."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> str | None:
        self.left -= 1
        return "preempted" if self.left < 0 else None


def train(
    directory: Path,
    study: Callable[[Run], None] | None = None,
    settings: Settings = SETTINGS,
    earlier: Sequence[Path] = (),
    *,
    stop: Callable[[], str | None] = lambda: None,
    stop_at: int | None = None,
    reports: list[dict[str, Any]] | None = None,
    of_another_config: Sequence[Path] = (),
) -> Outcome:
    """Run a study, by default a new SmallStudy, in `directory`, which is created.

    `stop_at`: it is requested to stop once so many steps, over all loops, are complete.
    """
    directory.mkdir(parents=True, exist_ok=True)
    sessions: list[Session] = []

    def report(session: Session) -> None:
        sessions.append(session)
        if reports is not None:
            reports.append(progress_of(session))

    def stop_now() -> str | None:
        if stop_at is not None and sessions and sessions[-1].state.step >= stop_at:
            return "preempted"
        return stop()

    attempt = Attempt(directory, earlier, of_another_config)
    return execute(study or SmallStudy(), settings, attempt, Hooks(report, lambda session: None, stop_now))


def train_until_finished(
    root: Path, calls: int, settings: Settings = SETTINGS, study: type[SmallStudy] = SmallStudy
) -> tuple[Outcome, Path]:
    """Run attempts until one finishes: the first stops after `calls` calls of `stop`, each next one 3 calls later."""
    earlier: list[Path] = []
    while True:
        here = root / str(len(earlier) + 1)
        outcome = train(here, study(), settings, earlier, stop=StopAfter(calls))
        if outcome.finished:
            return outcome, here
        earlier.append(here)
        calls += 3


def single_epoch(
    index: int = 0, seed: int = 0, stage: str = "train", precision: str = "fp32", device: str = "cpu"
) -> Epoch:
    """An epoch outside a run, for parts that need only its position: feeds and passes."""
    where = torch.device(device)
    chosen = Precision(precision, where) if device == "cpu" else choose_precision(precision, where)
    scaler = torch.amp.GradScaler(device) if chosen.scaled else None
    hooks = Hooks(lambda session: None, lambda session: None, lambda: None)
    optimisation = Optimisation(scaler, FiniteCheck())
    session = Session(with_settings(seed=seed), chosen, Path(), hooks, State(), Tracked({}), optimisation)
    return Epoch(session, LoopState(done=index), stage)


def single_step(precision: str = "fp32", device: str = "cpu") -> Step:
    """A step outside a run, in its body."""
    session = single_epoch(precision=precision, device=device)._session
    session.running = step = Step(session, 0, "train", 0, 0)
    return step


def with_settings(**changes: Any) -> Settings:
    return dataclasses.replace(SETTINGS, **changes)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def metrics_of(directory: Path) -> dict[str, Any]:
    """metrics.json without times and memory use."""
    metrics: dict[str, Any] = json.loads((directory / "metrics.json").read_text())
    assert metrics.pop("used").keys() == {"seconds", "train_seconds", "peak_memory_mb"}
    for record in metrics["epochs"]:
        assert record.pop("seconds") >= 0
        assert record.pop("peak_memory_mb") > 0
    return metrics


def comparable(outcome: Outcome) -> Outcome:
    """An outcome without the hash of the checkpoint, which contains times."""
    artifacts = {name: digest for name, digest in outcome.artifacts.items() if name != "checkpoint.pth"}
    return dataclasses.replace(outcome, artifacts=artifacts)
