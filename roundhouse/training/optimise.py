"""Backward passes and optimiser steps: gradient scaling, clipping, and the check that losses are finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch

from roundhouse.errors import RoundhouseError
from roundhouse.training import checkpoint
from roundhouse.training.ranks import ALONE, Ranks

_CHECK_EVERY = 50  # losses; reading one makes the CPU wait for the device
WINDOW = 50  # steps that are counted together, at least, when skipped ones are counted

Optimisers = torch.optim.Optimizer | Iterable[torch.optim.Optimizer]


class Place(NamedTuple):
    """Where a loss or a metric belongs. `step`: the steps that were complete before it, over all loops."""

    step: int
    where: str  # stage head, epoch 2, batch 3
    what: str = "the loss"  # or: metric fid
    number: int = 0  # of the losses of one step


class NotFinite(BaseException):
    """A loss or a metric is NaN or infinite. Not an Exception, so that a study does not catch it."""

    def __init__(self, place: Place, value: float) -> None:
        super().__init__(f"{place.what} became {value} in {place.where}")
        self.place = place


class NotReproduced(RoundhouseError):
    """A loss that was not finite is finite when the same step is computed again."""

    def __init__(self, expected: Place) -> None:
        super().__init__(
            f"{expected.what} was not finite in {expected.where}, but is when it is computed again from the last "
            "checkpoint: not reproducible, suspect the hardware (or kernels that are not deterministic)"
        )


class FiniteCheck:
    """Collects losses, and checks them at most 50 losses later, since each check waits for the device.

    `expected`: the place at which a loss was not finite before, in a replay that confirms it.
    """

    def __init__(self, expected: Place | None = None, ranks: Ranks = ALONE) -> None:
        self.expected = expected
        self._ranks = ranks
        self._equal = 0  # losses in a row that were the same in all processes
        self._pending: list[tuple[Place, torch.Tensor]] = []

    def watch(self, place: Place, loss: torch.Tensor) -> None:
        """Check the loss within the next 50. NotFinite: one of those before is not finite."""
        self._pending.append((place, loss.detach().clone()))
        if place == self.expected:
            self.check()
            raise NotReproduced(place)
        if len(self._pending) == _CHECK_EVERY:
            self.check()

    def check(self) -> None:
        """NotFinite: one of the losses given to `watch` is not finite, in this process or in another one."""
        if not self._pending:
            return
        own = torch.stack([loss.float().mean() for _, loss in self._pending]).tolist()
        each = self._ranks.gather("losses", own)
        if any(len(losses) != len(own) for losses in each):
            raise RoundhouseError(
                "the processes of this run have watched different numbers of losses: call step.watch equally often in "
                "all, once in each step if a batch is computed in parts"
            )
        for (place, _), losses in zip(self._pending, zip(*each, strict=True), strict=True):
            for loss in losses:
                if not math.isfinite(loss):
                    raise NotFinite(place, loss)
        self._report_equal(each)
        self._pending.clear()

    def _report_equal(self, each: list[list[float]]) -> None:
        """Warn once if all processes have the same losses: then they seem to train on the same samples."""
        before = self._equal
        self._equal = before + len(each[0]) if all(one == each[0] for one in each) else 0
        if len(each) > 1 and self._ranks.first and before < _CHECK_EVERY <= self._equal:
            checkpoint.warn(
                f"{self._equal} losses in a row are the same in all processes: they seem to train on the same samples; "
                "divide each batch with step.shard, see docs/several_processes.md"
            )

    def metric(self, place: Place, value: float) -> None:
        """NotFinite: the metric is not finite."""
        if not math.isfinite(value):
            raise NotFinite(place, value)
        if place == self.expected:
            raise NotReproduced(place)

    def passed(self, step: int) -> None:
        """NotReproduced: so many steps are complete, and the expected loss was not among them."""
        if self.expected is not None and step > self.expected.step:
            self.check()
            raise NotReproduced(self.expected)


class Optimisation:
    """The optimiser steps of a run. Without gradient scaling they are PyTorch's own."""

    def __init__(self, scaler: torch.amp.GradScaler | None, checks: FiniteCheck, ranks: Ranks = ALONE) -> None:
        self.scaler = scaler
        self.checks = checks
        self._ranks = ranks
        self.recent: list[bool] = []  # with scaling: whether each of the latest optimiser steps was taken
        self.unchecked = 0  # how many of `recent` were added since the last `check_skipped`
        self._scales: list[tuple[torch.Tensor, torch.Tensor]] = []  # before and after each update of the scale
        self._stepped: list[torch.optim.Optimizer] = []  # since the scale was updated

    def backward(self, loss: torch.Tensor) -> None:
        """Only the backward pass: gradients, scaled if the precision needs it, are added to existing ones."""
        self.settle()
        self.scaled_backward(loss)

    def scaled_backward(self, loss: torch.Tensor) -> None:
        """`backward` for code that is captured in a graph: without the update of the scale."""
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self, optimisers: Optimisers, clip_norm: float | None = None, weight: float = 1.0) -> None:
        """Only the steps of the optimisers, with the means of the gradients over the processes.

        One is skipped if they overflowed. `clip_norm`: the largest norm of all gradients of these optimisers together.
        `weight`: see `Ranks.average_gradients`.
        """
        each = listed(optimisers)
        self._ranks.average_gradients(parameters_of(each), weight)
        if self.scaler is not None and any(one in self._stepped for one in each):
            self.settle()
        if clip_norm is not None:
            if self.scaler is not None:
                for one in each:
                    self.scaler.unscale_(one)
            torch.nn.utils.clip_grad_norm_(parameters_of(each), clip_norm)
        for one in each:
            if self.scaler is None:
                one.step()
            else:
                self.scaler.step(one)
                self._stepped.append(one)

    def settle(self) -> None:
        """Update the scale after the optimiser steps that belong to one backward pass, so that all use the same."""
        if self.scaler is None or not self._stepped:
            return
        before = self._scale()
        self.scaler.update()
        self._scales.append((before, self._scale()))
        self._stepped.clear()

    def _scale(self) -> torch.Tensor:
        # get_scale() would make the CPU wait for the device in each step.
        scale = self.scaler._get_scale_async() if self.scaler is not None else None
        assert scale is not None
        return scale.clone()

    def count_unchecked(self) -> int:
        """How many steps were made since the last `check_skipped`."""
        return self.unchecked + len(self._scales) + bool(self._stepped)

    def collect(self) -> None:
        """Add to `recent` which steps were taken since the last call. Waits for the device."""
        self.settle()
        pairs = torch.stack([torch.stack(pair) for pair in self._scales]).tolist() if self._scales else []
        self._scales.clear()
        self.recent.extend(after >= before for before, after in pairs)
        self.unchecked += len(pairs)

    def check_skipped(self, limit: float, where: str, precision: str) -> None:
        """RoundhouseError if scaling skipped more than the share `limit` of the steps since the last check, or all.

        Of fewer than 50 steps, it also counts those before, because the first steps are skipped until the scale is low
        enough.
        """
        self.collect()
        new, self.unchecked = self.recent[len(self.recent) - self.unchecked :], 0
        if not new:
            return
        del self.recent[: -max(len(new), WINDOW)]
        skipped, steps = self.recent.count(False), len(self.recent)
        if not any(new) or (steps >= WINDOW and skipped > limit * steps):
            raise RoundhouseError(
                f"{skipped} of the last {steps} optimiser steps were skipped, up to {where}, because gradients "
                f"overflowed at precision {precision}: compute the loss in float32 outside autocast, look for a square "
                "root or a division at 0, or set precision: fp32 or bf16"
            )


def listed(optimisers: Optimisers) -> list[torch.optim.Optimizer]:
    """One optimiser or several, as a list."""
    return [optimisers] if isinstance(optimisers, torch.optim.Optimizer) else list(optimisers)


def parameters_of(optimisers: Iterable[torch.optim.Optimizer]) -> list[torch.Tensor]:
    """All parameters that the optimisers update."""
    return [one for optimiser in optimisers for group in optimiser.param_groups for one in group["params"]]
