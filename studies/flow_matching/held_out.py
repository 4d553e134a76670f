"""Held-out fields: their fixed tasks and noise, and reconstructions of them."""

from __future__ import annotations

from collections.abc import Sequence
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


def reconstruct(model: Sampler, task: Task, x0: Tensor, steps: int, sampler: str) -> Tensor:
    """Samples at all asked points (N, Q), from noise `x0` (N, Q)."""
    at_once = max(1, _TOKENS_AT_ONCE // (task.truth.shape[1] + task.seen.shape[1]))
    parts = [slice(first, first + at_once) for first in range(0, len(task), at_once)]
    return torch.cat([model.sample(task.rows(rows), x0[rows], steps, sampler) for rows in parts])


def reconstruct_in_blocks(
    model: Sampler, task: Task, x0: Tensor, steps: int, sampler: str, blocks: Sequence[Tensor]
) -> Tensor:
    """The same, but the points of a block are sampled without the others; each block has indices of asked points (K,).

    A point in several blocks has its value from the last one.
    """
    whole = torch.empty_like(x0)
    for block in blocks:
        points = block.to(x0.device)
        whole[:, points] = reconstruct(model, task.points(points), x0[:, points], steps, sampler)
    return whole


def scattered_blocks(pixels: int, count: int, draw: torch.Generator) -> list[Tensor]:
    """Random pixels, `count` in each block, which together are all pixels; the last two blocks may overlap."""
    order = torch.randperm(pixels, generator=draw)
    return [order[first : first + count] for first in _starts(pixels, count)]


def square_blocks(size: int, side: int) -> list[Tensor]:
    """Squares of `side` x `side` pixels, row by row, which together cover the field; those at its end may overlap."""
    pixels = torch.arange(size * size).view(size, size)
    starts = _starts(size, side)
    return [pixels[row : row + side, column : column + side].flatten() for row in starts for column in starts]


def _starts(total: int, length: int) -> list[int]:
    """Where parts of this length begin that cover the total."""
    return [*range(0, total - length, length), total - length]
