"""The ResNets of He et al. (2015, arXiv 1512.03385, section 4.2): 6n+2 layers with 16, 32 and 64 channels."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roundhouse.training import choose
from studies.distillation.options import BLOCKS


class Features(NamedTuple):
    """The features of a batch of B images of H x W pixels."""

    logits: Tensor  # (B, classes)
    stage1: Tensor  # (B, 16, H, W)
    stage2: Tensor  # (B, 32, H/2, W/2)
    stage3: Tensor  # (B, 64, H/4, W/4)
    pooled: Tensor  # (B, 64)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; a 1x1 convolution adapts the shortcut if the shape changes."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(leaving)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(leaving)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or entering != leaving:
            conv = nn.Conv2d(entering, leaving, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(leaving))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A ResNet of 6n+2 layers for small images of any even size."""

    def __init__(self, blocks: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.stage1 = _stage(blocks, 16, 16, 1)
        self.stage2 = _stage(blocks, 16, 32, 2)
        self.stage3 = _stage(blocks, 32, 64, 2)
        self.head = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Features:
        """From normalised images (B, channels, H, W)."""
        stage1 = self.stage1(F.relu(self.norm(self.conv(x))))
        stage2 = self.stage2(stage1)
        stage3 = self.stage3(stage2)
        # Adaptive pooling has no deterministic backward pass on CUDA; the mean has.
        pooled = stage3.mean((2, 3))
        return Features(self.head(pooled), stage1, stage2, stage3, pooled)


def _stage(blocks: int, entering: int, leaving: int, stride: int) -> nn.Sequential:
    first = ResidualBlock(entering, leaving, stride)
    return nn.Sequential(first, *(ResidualBlock(leaving, leaving, 1) for _ in range(blocks - 1)))


def build_model(name: str, classes: int, channels: int, device: torch.device) -> ResNet:
    """The network `name`, with weights from the global generator. StudyError: no such network."""
    model = ResNet(BLOCKS[choose("model", name, BLOCKS)], classes, channels)
    return model.to(memory_format=torch.channels_last).to(device)


@torch.no_grad()
def shapes_of(model: ResNet, image: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of the network's `Features` for one image (channels, H, W), by name, without the batch."""
    where = next(model.parameters())
    features = model.eval()(torch.zeros(1, *image, device=where.device))
    return {name: tuple(value.shape[1:]) for name, value in features._asdict().items()}
