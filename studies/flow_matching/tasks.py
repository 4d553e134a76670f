"""A batch of the task: what is seen of each field, and which of its points are asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

ALL = slice(None)
"""The rows of a whole batch."""


@dataclass(frozen=True)
class Task:
    """B fields, M observations and Q asked points of each. Coordinates are in [-1, 1], values in [0, 1]."""

    seen_at: Tensor  # (B, M, 2)
    seen: Tensor  # (B, M)
    asked_at: Tensor  # (B, Q, 2)
    truth: Tensor  # (B, Q): the values at the asked points
    side: int | None = None  # the asked points are a square of this side, row by row; None: they are scattered

    def __len__(self) -> int:
        return len(self.seen)

    def rows(self, chosen: slice | Tensor) -> Task:
        """Some of the fields."""
        return replace(
            self,
            seen_at=self.seen_at[chosen],
            seen=self.seen[chosen],
            asked_at=self.asked_at[chosen],
            truth=self.truth[chosen],
        )

    def points(self, chosen: Tensor) -> Task:
        """The asked points with these indices (K,), as scattered ones."""
        return replace(self, asked_at=self.asked_at[:, chosen], truth=self.truth[:, chosen], side=None)

    def to(self, device: torch.device) -> Task:
        seen, asked = (self.seen_at.to(device), self.seen.to(device)), (self.asked_at.to(device), self.truth.to(device))
        return Task(*seen, *asked, self.side)


def task_of(fields: Tensor, coordinates: Tensor, seen: Tensor, asked: Tensor, side: int | None = None) -> Task:
    """The task of `fields` (B, pixels) with indices of pixels: `seen` (B, M) and `asked` (B, Q)."""
    return Task(coordinates[seen], fields.gather(1, seen), coordinates[asked], fields.gather(1, asked), side)
