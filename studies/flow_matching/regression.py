"""The same network as a regressor: it predicts the field in one pass. What a flow costs or gains is seen beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from studies.flow_matching.design import Term
from studies.flow_matching.network import Network
from studies.flow_matching.tasks import ALL, Task


class RegressionModel:
    """z and t are 0; the output is the estimate of the value, with the squared error as its loss."""

    def __init__(self, network: Network, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        self.network, self.autocast = network, autocast

    def with_network(self, network: Network) -> RegressionModel:
        return RegressionModel(network, self.autocast)

    def predict(self, task: Task) -> Tensor:
        """(B, Q)."""
        zeros = torch.zeros_like(task.truth)
        with self.autocast():
            return self.network(task, zeros, zeros[:, 0])  # type: ignore[no-any-return]

    def loss(
        self, task: Task, x0: Tensor, draw: torch.Generator, terms: Sequence[Term] = (), rows: slice = ALL
    ) -> dict[str, Tensor]:
        """`flow` is the squared error, under the name of the flow's loss. `rows`: only these fields of the batch."""
        task = task.rows(rows)
        return {"flow": (self.predict(task) - task.truth).square().mean()}

    @torch.no_grad()
    def sample(self, task: Task, x0: Tensor, steps: int, sampler: str) -> Tensor:
        """The prediction, whatever the noise."""
        return self.predict(task)
