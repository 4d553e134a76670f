"""What a study hands the loop (`Task`), and what the loop offers a study while it computes (`Context`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from roundhouse.errors import RoundhouseError
from roundhouse.training.precision import Precision
from roundhouse.training.reproducibility import derive_seed

Item = TypeVar("Item")
_CHECK_EVERY = 50  # losses; looking at one makes the CPU wait for the device


@dataclass(frozen=True)
class Stage:
    """A stretch of epochs with one purpose: `train`, or `paraphraser` and then `student`."""

    name: str
    epochs: int


class Stopped(Exception):
    """Raised between two batches when the run must stop. A study lets it pass."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Task(Protocol):
    """One training run, as its study describes it. It computes; the loop does all else.

    A run calls `begin_stage` once for each stage, then `train_epoch` and `evaluate` for each of its epochs. A resumed
    run calls `begin_stage` for the stages up to the current one, in order, and then `load_state`: so `begin_stage`
    builds models and optimisers, and all that training changes afterwards is in `state`. A task that cannot be repeated
    bit for bit has an attribute `exact` that is False; one that starts processes has a method `close`, called at the
    end, whatever the end.
    """

    @property
    def stages(self) -> Sequence[Stage]:
        """In order. `best.pth` is chosen, and early stopping counts, in the last one."""

    @property
    def metric(self) -> str:
        """The main metric: a key of what `evaluate` returns in the last stage."""

    @property
    def mode(self) -> str:
        """Whether the best value of the main metric is its `max` or its `min`."""

    def begin_stage(self, context: Context) -> None:
        """Build what the stage needs. Global generators are seeded for it."""

    def train_epoch(self, context: Context) -> Mapping[str, float]:
        """Train for one epoch and return its metrics."""

    def evaluate(self, context: Context) -> Mapping[str, float]:
        """Metrics on validation data, never on test data."""

    def state(self) -> dict[str, Any]:
        """All that training changes: tensors and plain values, nested in dicts, lists and tuples."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned. Its tensors are on the CPU."""

    def best_state(self) -> dict[str, Any]:
        """What `best.pth` is to hold for the present weights; at the end of a stage before the last, `STAGE.pth`."""

    def outputs(self, best: dict[str, Any], context: Context) -> tuple[Mapping[str, np.ndarray], Mapping[str, float]]:
        """Arrays for `outputs.npz`, and final metrics, from the best weights and test data. Called once, at the end.

        The present weights are those of the last epoch.
        """


class Context:
    """One epoch's surroundings: where and how to compute, its randomness, and the loop's ear between batches."""

    def __init__(
        self,
        stage: Stage,
        epoch: int,
        seed: int,
        precision: Precision,
        scaler: torch.amp.GradScaler | None = None,
        halted: Callable[[], str | None] = lambda: None,
        accumulate: int = 1,
    ) -> None:
        self.stage = stage
        self.epoch = epoch  # within the stage, from 0
        self.precision = precision
        self.accumulate = accumulate  # in how many times as many parts a batch is to be computed, for want of memory
        self.batch = 0  # batches begun, so the first is 1
        self._scales: list[torch.Tensor] = []  # with gradient scaling: before the first step, and after each
        self._seed = seed
        self._scaler = scaler
        self._halted = halted
        self._losses: list[tuple[int, torch.Tensor]] = []

    @property
    def device(self) -> torch.device:
        return self.precision.device

    def seed(self, stream: str) -> int:
        """The seed of a named stream of random numbers in this epoch: `order`, `augmentation`, ..."""
        return derive_seed(self._seed, stream, self.stage.name, self.epoch)

    def generator(self, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh generator for the named stream. The same stream on another device draws other numbers."""
        return torch.Generator(device).manual_seed(self.seed(stream))

    def numpy_generator(self, stream: str) -> np.random.Generator:
        """The same for NumPy."""
        return np.random.default_rng(self.seed(stream))

    def batches(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, one by one, as long as the run may go on; it raises `Stopped` when it may not."""
        self.batch = 0
        for item in items:
            if reason := self._halted():
                raise Stopped(reason)
            self.batch += 1
            yield item

    def autocast(self) -> AbstractContextManager[None]:
        """Run forward passes in it; compute losses outside, in float32."""
        return self.precision.autocast()

    def step(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Backward pass, one step, gradients cleared; with gradient scaling where the precision needs it."""
        self.watch(loss)
        self.backward(loss)
        self.update(optimizer)
        optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: torch.Tensor) -> None:
        """Only the backward pass: gradients, scaled where the precision needs it, are added to what is there."""
        if self._scaler is not None:
            loss = self._scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Only the step, by the gradients that `backward` has left. Where they overflowed, it changes nothing."""
        if self._scaler is None:
            optimizer.step()
            return
        if not self._scales:
            self._scales.append(self._scale())
        self._scaler.step(optimizer)
        self._scaler.update()
        self._scales.append(self._scale())

    def _scale(self) -> torch.Tensor:
        # get_scale() would make the CPU wait for the device in each step.
        scale = self._scaler._get_scale_async() if self._scaler is not None else None
        assert scale is not None
        return scale.clone()

    @property
    def steps(self) -> list[bool]:
        """With gradient scaling: whether each step was taken. Waits for the device."""
        scales = torch.stack(self._scales).tolist() if self._scales else []
        return [after >= before for before, after in zip(scales, scales[1:], strict=False)]

    def watch(self, loss: torch.Tensor) -> None:
        """Have the loss checked for NaN and infinity, soon: not at once, so that the device is not waited for."""
        self._losses.append((self.batch, loss.detach().clone()))
        if len(self._losses) == _CHECK_EVERY:
            self.check_losses()

    def check_losses(self) -> None:
        """RoundhouseError if a loss that was watched is not finite."""
        if not self._losses:
            return
        finite = torch.stack([loss.float().mean() for _, loss in self._losses]).isfinite().tolist()
        for (batch, loss), good in zip(self._losses, finite, strict=True):
            if not good:
                raise RoundhouseError(
                    f"the loss became {loss.float().mean().item()} in stage {self.stage.name}, epoch {self.epoch + 1}, "
                    f"batch {batch}, at precision {self.precision.name}: try a lower learning rate, gradient clipping, "
                    "or precision fp32, and look for NaN in the data"
                )
        self._losses.clear()
