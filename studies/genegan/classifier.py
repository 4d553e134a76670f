"""An independent judge of the attribute: a small classifier, trained from a seed on procedural faces of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from roundhouse.training import derive_seed
from studies.genegan import faces
from studies.genegan.cache import Value, cached, folder_of
from studies.genegan.small_network import SmallNetwork, built, fit, in_parts

_RECIPE = {"version": 1, "width": 16, "features": 32, "images": 4000, "held_out": 1000, "steps": 300, "batch": 64}
"""Increase the version when the training changes."""
_LARGEST = 64  # larger images are judged at this size


@dataclass(frozen=True)
class Classifier:
    """`accuracy`: the share of held-out real faces, half of them with the attribute, that it judges correctly."""

    network: SmallNetwork
    accuracy: float

    def __call__(self, images: Tensor) -> Tensor:
        """Whether each image (N, 3, S, S), uint8 or in [0, 1], has the attribute (N,)."""
        return in_parts(self.network, images)[:, 0] > 0


def classifier(size: int, device: torch.device, data: Path | None = None) -> Classifier:
    """The classifier for procedural faces of this size. Neither its training faces nor its held-out ones train GANs.

    It is trained once on a CPU, in less than a minute, and kept in the data directory.
    """
    size = min(size, _LARGEST)
    state = cached(folder_of(data), "classifier", {**_RECIPE, "size": size}, lambda: _train(size))
    accuracy = float(state.pop("accuracy"))
    network = _untrained(size)
    network.load_state_dict(state)
    return Classifier(network.to(device).eval().requires_grad_(False), accuracy)


def trained(images: Tensor, has_attribute: Tensor, held_out: tuple[Tensor, Tensor], steps: int) -> Classifier:
    """A classifier of uint8 images (N, 3, S, S), with its accuracy on others; from fixed seeds."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs[:, 0], targets)

    network = _untrained(images.shape[-1])
    fit(network, images, has_attribute.float(), loss, steps, _RECIPE["batch"], derive_seed("classifier", 1))
    others, truth = held_out
    judged = Classifier(network, 0.0)(others)
    return Classifier(network, float((judged == truth).float().mean()))


def _train(size: int) -> Value:
    count, held_out = _RECIPE["images"], _RECIPE["held_out"]
    images, truth = _faces("classifier", count, size)
    found = trained(images, truth, _faces("classifier held out", held_out, size), _RECIPE["steps"])
    return {**found.network.state_dict(), "accuracy": torch.tensor(found.accuracy)}


def _faces(split: str, count: int, size: int) -> tuple[Tensor, Tensor]:
    smiling = torch.arange(count) % 2 == 0
    return faces.draw(split, count, size, smiling), smiling


def _untrained(size: int) -> SmallNetwork:
    return built(derive_seed("classifier", 0), size, _RECIPE["width"], _RECIPE["features"], outputs=1)
