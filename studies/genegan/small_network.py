"""A small convolutional network and its training from a seed, for features and for the classifier of the attribute."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SIDE = 6  # the side of the last map is at most this
_AT_ONCE = 100


class SmallNetwork(nn.Module):
    """Images (N, 3, S, S) to features (N, `features`) and, through a linear layer, outputs.

    Images are uint8, or values in [0, 1]; those of another size are brought to the size of the network.
    """

    def __init__(self, size: int, width: int, features: int, outputs: int) -> None:
        super().__init__()
        self.size = size
        channels = [3, width]
        while size > 2 * _SIDE:
            size = (size + 1) // 2
            channels.append(2 * width)
        size = (size + 1) // 2
        layers: list[nn.Module] = []
        for entering, leaving in pairwise(channels):
            layers += [nn.Conv2d(entering, leaving, 3, stride=2, padding=1), nn.GroupNorm(8, leaving), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * size**2, features))
        self.head = nn.Linear(features, outputs)

    def features(self, images: Tensor) -> Tensor:
        found: Tensor = self.body(2 * _resized(images, self.size) - 1)
        return found

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.features(images).relu())
        return outputs


def built(seed: int, size: int, width: int, features: int, outputs: int) -> SmallNetwork:
    """A network with weights from a seed; the global generators stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return SmallNetwork(size, width, features, outputs)


def fit(
    network: SmallNetwork,
    images: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    batch_size: int,
    seed: int,
) -> None:
    """Train with Adam on uint8 images (N, 3, size, size); batches follow from the seed."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
    network.train()
    for _ in range(steps):
        rows = torch.randint(len(images), (batch_size,), generator=generator).to(images.device)
        optimiser.zero_grad()
        loss(network(images[rows]), targets[rows]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    network.eval().requires_grad_(False)


@torch.no_grad()
def in_parts(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """`function` of images, of a bounded number at once."""
    return torch.cat([function(one) for one in torch.split(images, _AT_ONCE)])


def _resized(images: Tensor, size: int) -> Tensor:
    """Values in [0, 1] at this size: larger images are averaged over areas, smaller ones enlarged."""
    values = images.float() / 255 if images.dtype == torch.uint8 else images
    if values.shape[-1] > size:
        return F.interpolate(values, size=(size, size), mode="area")
    if values.shape[-1] < size:
        return F.interpolate(values, size=(size, size), mode="bilinear", align_corners=False)
    return values
