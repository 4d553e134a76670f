"""Held-out fields: their fixed tasks and noise, and reconstructions of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from studies.flow_matching.fields import coordinates, dataset, evaluation_masks
from studies.flow_matching.options import Options
from studies.flow_matching.tasks import Task, task_of

_TOKENS_AT_ONCE = 65_536
"""Tokens of one forward pass in sampling. It bounds the memory, and changes results only by rounding."""


class Sampler(Protocol):
    """A FlowModel or a RegressionModel."""

    def sample(self, task: Task, x0: Tensor, steps: int, sampler: str) -> Tensor: ...


@dataclass(frozen=True)
class HeldOut:
    """Fields of one split. The observed pixels are the same in every run, and all pixels are asked for."""

    fields: Tensor  # (N, size, size)
    seen: Tensor  # (N, M): indices of the observed pixels
    task: Task

    @classmethod
    def load(cls, options: Options, split: str, count: int, device: torch.device) -> HeldOut:
        fields = dataset(options.complexity, split, count, options.size)
        seen = evaluation_masks(options.complexity, split, count, options.size, options.observations)
        asked = torch.arange(options.size**2).expand(count, -1)
        task = task_of(fields.flatten(1), coordinates(options.size), seen, asked, options.size)
        return cls(fields.to(device), seen.to(device), task.to(device))

    def noise(self, samples: int, draw: torch.Generator) -> Tensor:
        """(samples, N, pixels)."""
        return torch.randn(samples, *self.task.truth.shape, generator=draw).to(self.fields.device)


def reconstruct(model: Sampler, task: Task, x0: Tensor, steps: int, sampler: str, block: int | None = None) -> Tensor:
    """Samples at all asked points (N, Q), from noise `x0`. `block`: sample this many points of a field at once."""
    points = task.truth.shape[1]
    width = points if block is None else block
    found = []
    for rows in _parts(len(task), max(1, _TOKENS_AT_ONCE // (width + task.seen.shape[1]))):
        parts = [
            model.sample(
                task.rows(rows).points(columns) if block else task.rows(rows), x0[rows, columns], steps, sampler
            )
            for columns in _parts(points, width)
        ]
        found.append(torch.cat(parts, dim=1))
    return torch.cat(found)


def _parts(total: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, total)) for first in range(0, total, size))
