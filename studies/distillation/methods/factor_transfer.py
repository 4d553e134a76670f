"""Factor transfer: a paraphraser encodes the teacher's last map into factors; the student's translator follows them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studies.distillation.losses import unit
from studies.distillation.methods.attention_transfer import attention_map
from studies.distillation.methods.base import Method, Shapes, Stage
from studies.distillation.models import Features
from studies.distillation.options import Options


def factor_loss(student: Tensor, teacher: Tensor, form: str = "whole") -> Tensor:
    """mean |N(F_s) - N(F_t)|, N(F) the factor of a sample, flattened and of length 1.

    Kim, Park, Kwak (2018), arXiv 1802.04977, with p = 1. Factors (B, m, H, W) of translator and paraphraser. Weight
    500: elements of a unit vector decrease as 1 / sqrt(m * H * W), so the weight grows with the root of the image area.
    `form`: `whole`, as in the paper; `map`: the mean over channels of the factor's squares, as in attention transfer.
    """
    direction = attention_map if form == "map" else _whole
    return (direction(student) - direction(teacher.detach())).abs().mean()


def _whole(factor: Tensor) -> Tensor:
    return unit(factor.float().flatten(1), 1)


def reconstruction_loss(picture: Tensor, target: Tensor, kind: str) -> Tensor:
    """Mean absolute (`l1`) or squared (`mse`) difference of maps (B, C, H, W)."""
    measure = F.l1_loss if kind == "l1" else F.mse_loss
    return measure(picture.float(), target.detach().float())


class Paraphraser(nn.Module):
    """From maps of `channels` to `factors` channels and back, at the same height and width."""

    def __init__(self, channels: int, factors: int, norm: bool) -> None:
        super().__init__()
        self.encoder = _convolutions(channels, channels, factors, factors, norm=norm)
        self.decoder = _convolutions(factors, factors, channels, channels, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        picture: Tensor = self.decoder(self.encoder(x))
        return picture


def _convolutions(*channels: int, norm: bool = True) -> nn.Sequential:
    """3x3 convolutions, each with batch normalisation, or else a bias, and leaky ReLU.

    They replace the paper's transposed ones too: with stride 1 these are the same operation with a mirrored kernel.
    """
    layers: list[nn.Module] = []
    for entering, leaving in zip(channels, channels[1:], strict=False):
        layers.append(nn.Conv2d(entering, leaving, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(leaving), nn.LeakyReLU(0.1)] if norm else [nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class FactorTransfer(Method):
    """On stage 3. The paraphraser is trained on the teacher in a stage before, and frozen afterwards.

    Options: paraphraser_epochs, factor_rate (k of the paper: m = k * channels of the teacher), paraphraser_norm,
    reconstruction, factor.
    """

    published = 500.0

    def __init__(self, options: Options, shapes: Shapes) -> None:
        super().__init__(options, shapes)
        self.require_equal_maps("stage3")
        self.size_factor = math.sqrt(shapes.area)
        leading, following = shapes.teacher["stage3"][0], shapes.student["stage3"][0]
        factors = max(1, round(leading * options.factor_rate))
        self.paraphraser = Paraphraser(leading, factors, options.paraphraser_norm).eval()
        self.translator = _convolutions(following, following, factors, factors)

    @classmethod
    def preparation(cls, options: Options) -> Stage | None:
        return Stage("paraphraser", options.paraphraser_epochs)

    def preparation_loss(self, student: Features | None, teacher: Features) -> Tensor:
        target = teacher.stage3.float()
        self.paraphraser.train(self.training)
        picture = self.paraphraser(target)
        self.paraphraser.eval()
        return reconstruction_loss(picture, target, self.options.reconstruction)

    def train(self, mode: bool = True) -> FactorTransfer:
        """The paraphraser stays in eval mode, except while `preparation_loss` trains it."""
        super().train(mode)
        self.paraphraser.eval()
        return self

    def distance(self, student: Features, teacher: Features, labels: Tensor) -> Tensor:
        with torch.no_grad():
            factor = self.paraphraser.encoder(teacher.stage3.float())
        return factor_loss(self.translator(student.stage3.float()), factor, self.options.factor)

    def trained(self, stage: str) -> Iterable[nn.Parameter]:
        return (self.paraphraser if stage == "paraphraser" else self.translator).parameters()
