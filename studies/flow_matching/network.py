"""The network: a transformer over tokens of what is seen and of what is asked for."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from studies.flow_matching.blocks import Block
from studies.flow_matching.design import Design
from studies.flow_matching.options import Options
from studies.flow_matching.tasks import Task

TIME_CHANNELS = 256
_LONGEST = 10_000  # period of the slowest sinusoid of t, in units of 1/1000


class Network(nn.Module):
    """Predicts a value at each asked point, from the observations, z_t there, and t.

    A token is the Fourier features of its point, with the observed value or with z_t (and the estimate of x1, if the
    design has one). All tokens attend to each other. Dropout acts on the outputs of the branches, not on attention.
    """

    frequencies: Tensor

    def __init__(self, options: Options, design: Design) -> None:
        super().__init__()
        width = options.d_model
        self.register_buffer("frequencies", design.frequencies())
        features = 2 * self.frequencies.shape[1]
        self.seen, self.asked = (
            nn.Linear(features + 1, width),
            nn.Linear(features + 1 + design.estimate.channels, width),
        )
        self.time = nn.Sequential(nn.Linear(TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))
        hidden, layers = options.feedforward or 4 * width, options.num_layers
        near = options.locality == "distance"
        self.blocks = nn.ModuleList(
            Block(width, options.heads, hidden, options.dropout, near, design.norm, design.drop(layer, layers))
            for layer in range(layers)
        )
        self.norm = design.norm(width)
        self.output = nn.Linear(width, 1)

    def forward(self, task: Task, z: Tensor, t: Tensor, estimate: Tensor | None = None) -> Tensor:
        """`z` and `estimate` (B, Q), `t` (B,) -> (B, Q)."""
        condition = self.time(sinusoids(t))
        channels = [z] if estimate is None else [z, estimate]
        seen = self.seen(torch.cat([self.features(task.seen_at), task.seen[..., None]], dim=-1))
        asked = self.asked(torch.cat([self.features(task.asked_at), torch.stack(channels, dim=-1)], dim=-1))
        tokens = torch.cat([seen, asked + condition[:, None]], dim=1).float()  # what blocks add to stays in float32
        at = torch.cat([task.seen_at, task.asked_at], dim=1)
        for block in self.blocks:
            tokens = block(tokens, at, condition)
        last, _ = self.norm(tokens[:, task.seen.shape[1] :], condition)
        return self.output(last)[..., 0].float()  # type: ignore[no-any-return]

    def features(self, at: Tensor) -> Tensor:
        """Fourier features of points (B, N, 2) -> (B, N, 2F): cosines and sines of 2 pi B^T x (Tancik et al. 2020).

        A matrix product would be in bf16 under autocast, where phases of several turns are wrong by tenths of a radian.
        """
        across, down = self.frequencies
        phases = 2 * math.pi * (at[..., :1] * across + at[..., 1:] * down)
        return torch.cat([phases.cos(), phases.sin()], dim=-1)


def sinusoids(t: Tensor) -> Tensor:
    """Sinusoids of 1000 t, with periods from 2 pi to 10,000 times that: (B,) -> (B, 256) (Vaswani et al. 2017)."""
    half = TIME_CHANNELS // 2
    rates = torch.exp(-math.log(_LONGEST) * torch.arange(half, device=t.device) / half)
    phases = 1000 * t[:, None] * rates
    return torch.cat([phases.cos(), phases.sin()], dim=-1)
