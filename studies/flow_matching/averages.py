"""A moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from studies.flow_matching.network import Network


class MovingAverage(nn.Module):
    """An exponential moving average whose decay in update k = 0, 1, ... is min(decay, (1 + k) / (10 + k)).

    The warm-up lets it leave the random weights of the start: with a fixed 0.9999, 85 % of them would be left after
    1,600 updates.
    """

    network: Network
    updates: torch.Tensor

    def __init__(self, network: Network, decay: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))  # on the CPU: read in each step

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Take one step towards the weights of `network`, of which it is a copy."""
        k = int(self.updates)
        decay = min(self.decay, (1 + k) / (10 + k))
        for average, weight in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        self.updates += 1
