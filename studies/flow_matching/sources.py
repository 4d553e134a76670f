"""What a phase trains on: tasks with their noise, drawn anew in each step, or pairs that were coupled before."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from roundhouse.training import Step
from studies.flow_matching.design import Design
from studies.flow_matching.fields import coordinates, draw_pixels
from studies.flow_matching.options import Options
from studies.flow_matching.tasks import Task, task_of


class Source(Protocol):
    @property
    def count(self) -> int:
        """The examples of an epoch."""

    def order(self, draw: torch.Generator) -> Tensor:
        """The examples of an epoch, in random order (count,)."""

    def batch(self, chosen: Tensor, step: Step) -> tuple[Task, Tensor]:
        """The tasks of examples (B,), and the noise at their asked points (B, Q)."""


class FieldSource:
    """Fields whose observations, asked points and noise are drawn anew in each step."""

    def __init__(self, fields: Tensor, options: Options, design: Design) -> None:
        """`fields` (N, size, size), on the device of the run."""
        self.fields, self.options, self.design = fields.flatten(1), options, design
        self.coordinates = coordinates(options.size).to(fields.device)

    @property
    def count(self) -> int:
        return len(self.fields)

    def order(self, draw: torch.Generator) -> Tensor:
        return torch.randperm(len(self.fields), generator=draw)

    def batch(self, chosen: Tensor, step: Step) -> tuple[Task, Tensor]:
        return self.draw(chosen, step.generator("masks"), step.generator("noise"))

    def draw(self, chosen: Tensor, masks: torch.Generator, noise: torch.Generator) -> tuple[Task, Tensor]:
        seen = draw_pixels(len(chosen), self.options.size**2, self.options.observations, masks)
        asked, side = self.design.queries(len(chosen), masks)
        x0 = torch.randn(asked.shape, generator=noise)
        chosen, seen, asked, x0 = (one.to(self.fields.device, non_blocking=True) for one in (chosen, seen, asked, x0))
        return task_of(self.fields[chosen], self.coordinates, seen, asked, side), x0


class PairSource:
    """Fixed tasks with the noise that belongs to each. An epoch has `count` of them."""

    def __init__(self, task: Task, x0: Tensor, count: int) -> None:
        self.task, self.x0, self.count = task, x0, count

    def order(self, draw: torch.Generator) -> Tensor:
        return torch.randperm(len(self.x0), generator=draw)[: self.count]

    def batch(self, chosen: Tensor, step: Step) -> tuple[Task, Tensor]:
        chosen = chosen.to(self.x0.device, non_blocking=True)
        return self.task.rows(chosen), self.x0[chosen]
