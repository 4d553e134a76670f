"""The interface between a study and the training loop: `Task` is the study's part, `Context` the loop's."""

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
_CHECK_EVERY = 50  # losses; reading one makes the CPU wait for the device


@dataclass(frozen=True)
class Stage:
    """A part of a run with its own models and optimisers: `train`, or `paraphraser` and then `student`."""

    name: str
    epochs: int


class Stopped(Exception):
    """Raised between two batches when the run must stop. A study must not catch it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Task(Protocol):
    """One training run, implemented by a study. The task computes; the loop does everything else.

    The loop calls `begin_stage` once for each stage, then `train_epoch` and `evaluate` for each of its epochs. To
    resume a run, it calls `begin_stage` for the stages up to the current one, in order, and then `load_state`. So
    `begin_stage` builds models and optimisers, and `state` contains everything that training changes afterwards.
    Optional: an attribute `exact`, False if a repeated run is not bit-identical; a method `close`, called at the end of
    each run, also after errors, for tasks that start processes.
    """

    @property
    def stages(self) -> Sequence[Stage]:
        """The stages in order. `best.pth` and early stopping refer to the last one."""

    @property
    def metric(self) -> str:
        """The main metric: a key of the result of `evaluate` in the last stage."""

    @property
    def mode(self) -> str:
        """`max` or `min`: which value of the main metric is best."""

    def begin_stage(self, context: Context) -> None:
        """Build models and optimisers of the stage. The global generators have been seeded."""

    def train_epoch(self, context: Context) -> Mapping[str, float]:
        """Train for one epoch and return its metrics."""

    def evaluate(self, context: Context) -> Mapping[str, float]:
        """Compute metrics on validation data, never on test data."""

    def state(self) -> dict[str, Any]:
        """Everything that training changes: tensors and plain values, nested in dicts, lists and tuples."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a result of `state`. Its tensors are on the CPU."""

    def best_state(self) -> dict[str, Any]:
        """The content of `best.pth` for the current weights; at the end of an earlier stage, that of `STAGE.pth`."""

    def outputs(self, best: dict[str, Any], context: Context) -> tuple[Mapping[str, np.ndarray], Mapping[str, float]]:
        """Arrays for `outputs.npz`, and final metrics, from the best weights and test data. Called once, at the end.

        The current weights are those of the last epoch.
        """


class Context:
    """One epoch, as the loop passes it to a task: precision, device, random streams, steps, and stop requests.

    `epoch` counts from 0 within the stage; `batch` is the number of batches begun, so it is 1 during the first;
    `accumulate` is the factor by which a batch must be split into more parts than configured, to save memory.
    """

    def __init__(
        self,
        stage: Stage,
        epoch: int,
        seed: int,
        precision: Precision,
        scaler: torch.amp.GradScaler | None = None,
        stop_reason: Callable[[], str | None] = lambda: None,
        accumulate: int = 1,
    ) -> None:
        self.stage = stage
        self.epoch = epoch
        self.precision = precision
        self.accumulate = accumulate
        self.batch = 0
        self._scales: list[torch.Tensor] = []  # with gradient scaling: before the first step, and after each
        self._seed = seed
        self._scaler = scaler
        self._stop_reason = stop_reason
        self._losses: list[tuple[int, torch.Tensor]] = []

    @property
    def device(self) -> torch.device:
        return self.precision.device

    def seed(self, stream: str) -> int:
        """The seed of a named random stream in this epoch: `order`, `augmentation`, ..."""
        return derive_seed(self._seed, stream, self.stage.name, self.epoch)

    def generator(self, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A new generator for the named stream. The same stream gives different numbers on another type of device."""
        return torch.Generator(device).manual_seed(self.seed(stream))

    def numpy_generator(self, stream: str) -> np.random.Generator:
        """A new NumPy generator for the named stream."""
        return np.random.default_rng(self.seed(stream))

    def batches(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and count them in `batch`. Raises `Stopped` before the next one when the run must stop."""
        self.batch = 0
        for item in items:
            if reason := self._stop_reason():
                raise Stopped(reason)
            self.batch += 1
            yield item

    def autocast(self) -> AbstractContextManager[None]:
        """The context for forward passes. Compute losses outside it, in float32."""
        return self.precision.autocast()

    def step(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Backward pass, one optimiser step, gradients set to None; with gradient scaling if the precision needs it."""
        self.watch(loss)
        self.backward(loss)
        self.update(optimizer)
        optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: torch.Tensor) -> None:
        """Only the backward pass: gradients, scaled if the precision needs it, are added to existing ones."""
        if self._scaler is not None:
            loss = self._scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Only the optimiser step, with the gradients of `backward`. It is skipped if they overflowed."""
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
        """Whether each step was taken (not skipped); empty without gradient scaling. Waits for the device."""
        scales = torch.stack(self._scales).tolist() if self._scales else []
        return [after >= before for before, after in zip(scales, scales[1:], strict=False)]

    def watch(self, loss: torch.Tensor) -> None:
        """Check the loss for NaN and infinity within the next 50 losses: an immediate check waits for the device."""
        self._losses.append((self.batch, loss.detach().clone()))
        if len(self._losses) == _CHECK_EVERY:
            self.check_losses()

    def check_losses(self) -> None:
        """RoundhouseError if one of the losses given to `watch` is not finite."""
        if not self._losses:
            return
        finite = torch.stack([loss.float().mean() for _, loss in self._losses]).isfinite().tolist()
        for (batch, loss), good in zip(self._losses, finite, strict=True):
            if not good:
                raise RoundhouseError(
                    f"the loss became {loss.float().mean().item()} in stage {self.stage.name}, epoch {self.epoch + 1}, "
                    f"batch {batch}, at precision {self.precision.name}: try a lower learning rate, gradient clipping "
                    "or precision: fp32, and check the data for NaN"
                )
        self._losses.clear()
