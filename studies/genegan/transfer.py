"""How well an attribute is transferred, against the paired truth that procedural faces have.

Two directions: `add` gives the attribute to a face without it (Bu), `remove` takes it from a face with it (A0). The
PSNR over a whole face rewards doing nothing, because only a small region differs: it is measured in that region and
outside it. Beside the model stand dummies that need no training:

- identity: the input, unchanged;
- copy: the other input of the model, which has the wanted attribute and is another face;
- paste: the input, with the mean of all real faces of the wanted side in the region that differs. It uses the true
  region, which no model knows, so it is a demanding one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_LEAST_MSE = 1e-12  # PSNR ends at 120 dB instead of infinity
DIRECTIONS = ("add", "remove")
DUMMIES = ("identity", "copy", "paste")

Judge = Callable[[Tensor], Tensor]
"""Whether each image (N, 3, S, S) has the attribute (N,)."""


class Generator(Protocol):
    """What is needed of the model: splitter and joiner."""

    def split(self, images: Tensor) -> tuple[Tensor, Tensor]: ...

    def join(self, background: Tensor, object_part: Tensor | None, size: int) -> Tensor: ...


class Faces(Protocol):
    """The paired truth: the same faces with and without the attribute, uint8, and where they differ (N, S, S)."""

    @property
    def with_attribute(self) -> Tensor: ...

    @property
    def without_attribute(self) -> Tensor: ...

    @property
    def differs(self) -> Tensor: ...


@dataclass(frozen=True)
class Swapped:
    """Outputs in [0, 1] for inputs Au (with the attribute) and B0 (without it), (N, 3, S, S) each."""

    added: Tensor  # Bu
    removed: Tensor  # A0
    with_again: Tensor  # Au', the reconstruction of Au
    without_again: Tensor  # B0'


@torch.no_grad()
def swap(generator: Generator, with_attribute: Tensor, without: Tensor, batch_size: int) -> Swapped:
    """All four outputs of the model for inputs in [0, 1], moved to the device of `generator` by the caller."""
    parts = []
    for a, b in zip(*(torch.split(one, batch_size) for one in (with_attribute, without)), strict=True):
        (background, part), (other, _) = generator.split(a), generator.split(b)
        joined = [(other, part), (background, None), (background, part), (other, None)]
        parts.append([generator.join(back, front, a.shape[-1]) for back, front in joined])
    return Swapped(*(torch.cat(one) for one in zip(*parts, strict=True)))


def psnr(images: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    """Mean over images in [0, 1] of the PSNR, in dB, of all pixels or of those of each image `where` (N, S, S).

    Images without such a pixel do not count; if that is all of them, the result is not a number.
    """
    error = (images.double() - truth.double()).square().mean(1)
    share = torch.ones_like(error) if where is None else where.double()
    pixels = share.sum((1, 2))
    mse = ((error * share).sum((1, 2)) / pixels)[pixels > 0]
    return float((-10 * mse.clamp(min=_LEAST_MSE).log10()).mean())


def partners(count: int) -> Tensor:
    """For each face, the one whose attribute it is given: always another face, and each once."""
    return torch.arange(count).roll(1)


def measures(
    judge: Judge, generator: Generator, faces: Faces, device: torch.device, batch_size: int
) -> dict[str, float]:
    """All measures of a model and of the dummies, by names such as `add_rate` and `remove_inside_identity`.

    Au is the partner of B0. `rate`: the share of outputs that the judge finds on the wanted side. `inside`, `outside`,
    `whole`: PSNR against the truth in the region that differs, outside it, of all pixels. `reconstruction_inside` and
    so on: the same of Au' and B0' against the inputs.
    """
    smiling, others = (one.to(device).float() / 255 for one in (faces.with_attribute, faces.without_attribute))
    differs, order = faces.differs.to(device), partners(len(others)).to(device)
    made = swap(generator, smiling[order], others, batch_size)
    back = torch.argsort(order)  # A0 in the order of the faces it belongs to
    found: dict[str, float] = {}
    for direction, output, inputs, truth, donors in (
        ("add", made.added, others, smiling, smiling[order]),
        ("remove", made.removed[back], smiling, others, others[back]),
    ):
        rows = {"": output, **dummies(inputs, donors, truth, differs)}
        for name, images in rows.items():
            found |= _named(direction, name, _quality(judge, images, truth, differs, direction == "add"))
    again = [(made.with_again[back], smiling), (made.without_again, others)]
    for place, where in (("inside", differs), ("outside", ~differs), ("whole", None)):
        found[f"reconstruction_{place}"] = sum(psnr(images, truth, where) for images, truth in again) / len(again)
    return found


def dummies(inputs: Tensor, donors: Tensor, wanted: Tensor, differs: Tensor) -> dict[str, Tensor]:
    """The outputs of the dummies. `donors`: the other inputs; `wanted`: real faces of the wanted side."""
    pasted = torch.where(differs[:, None], wanted.mean(0, keepdim=True), inputs)
    return dict(zip(DUMMIES, (inputs, donors, pasted), strict=True))


def _quality(judge: Judge, images: Tensor, truth: Tensor, differs: Tensor, wanted: bool) -> dict[str, float]:
    return {
        "rate": float((judge(images) == wanted).double().mean()),
        "inside": psnr(images, truth, differs),
        "outside": psnr(images, truth, ~differs),
        "whole": psnr(images, truth),
    }


def _named(direction: str, dummy: str, values: Mapping[str, float]) -> dict[str, float]:
    ending = f"_{dummy}" if dummy else ""
    return {f"{direction}_{name}{ending}": value for name, value in values.items()}
