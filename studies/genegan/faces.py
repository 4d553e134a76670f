"""Procedural faces: simple portraits from known factors, of which one, the curve of the mouth, is the attribute.

The factors of a face follow from its split and its number alone, so every run has the same faces, a face can be drawn
at any size, and it can be drawn with and without a smile. Those two drawings are the truth for an attribute transfer.
A place in the picture is (x, y) in [-1, 1], x to the right and y down; features are in units of the head's half width.
Each shape is a signed distance (negative inside), from which follows how much of a pixel it covers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from roundhouse.training import derive_seed

_SMILES, _OTHERS = (0.5, 1.0), (-0.35, 0.1)
"""The curve of a smiling mouth, and of another: 0 is flat, and a negative one has its corners down."""
_VISIBLE = 8  # levels of 255 by which a pixel must differ in some channel
_AT_ONCE = 1 << 16  # pixels that are computed together: their arrays fit into the cache of a core

_RANGES = {
    "right": (-0.1, 0.1), "down": (-0.04, 0.12), "head": (0.5, 0.62), "tilt": (-0.14, 0.14), "height": (1.16, 1.34),
    "skin": (0.0, 1.0), "warmth": (-0.03, 0.03),
    "hair": (0.0, 1.0), "red": (0.0, 1.0), "grey": (-0.6, 1.0), "volume": (1.08, 1.24), "length": (-0.4, 1.3),
    "fringe": (-0.75, -0.5), "parting": (-0.35, 0.35),
    "eyes_apart": (0.36, 0.46), "eyes_up": (-0.26, -0.1), "eye": (0.14, 0.19), "open": (0.35, 0.85),
    "gaze": (-0.3, 0.3), "iris": (0.0, 1.0), "brow": (0.16, 0.26), "brow_tilt": (-0.25, 0.25), "nose": (0.12, 0.26),
    "mouth": (0.32, 0.48), "mouth_down": (0.5, 0.66), "lips": (0.055, 0.095), "lip_red": (0.0, 1.0),
    "curve": (0.0, 1.0),
    "back_red": (0.15, 0.9), "back_green": (0.15, 0.9), "back_blue": (0.15, 0.9), "back_slope": (-0.15, 0.15),
    "shirt_red": (0.1, 0.9), "shirt_green": (0.1, 0.9), "shirt_blue": (0.1, 0.9),
    "light": (0.0, 0.16), "light_from": (0.0, 2 * math.pi), "exposure": (0.88, 1.06),
}  # fmt: skip
"""Factors, uniform between these limits."""

Factors = dict[str, Tensor]


@dataclass(frozen=True)
class Pairs:
    """The same faces with and without a smile, uint8 (N, 3, size, size), and where they differ (N, size, size)."""

    with_attribute: Tensor
    without_attribute: Tensor
    differs: Tensor


def factors(split: str, count: int) -> Factors:
    """The factors of the first `count` faces of a split, each (count,), float32. `curve` is still in [0, 1]."""
    generator = torch.Generator().manual_seed(derive_seed("procedural faces", split))
    rows = torch.rand(count, len(_RANGES), generator=generator, dtype=torch.float64)  # row by row, whatever the count
    limits = zip(_RANGES.items(), rows.unbind(1), strict=True)
    return {name: (low + (high - low) * column).float() for (name, (low, high)), column in limits}


def draw(split: str, count: int, size: int, smiling: Tensor) -> Tensor:
    """The first `count` faces of a split, uint8 (count, 3, size, size); `smiling` (count,) says which of them smile."""
    step = max(1, _AT_ONCE // size**2)
    parts = -(
        -count // step
    )  # the last one is computed in full, too: the last bits of a sum depend on an array's shape
    found = factors(split, parts * step)
    smiles = F.pad(smiling.cpu(), (0, parts * step - count))
    low, high = (torch.where(smiles, yes, no) for yes, no in zip(_SMILES, _OTHERS, strict=True))
    found["curve"] = low + (high - low) * found["curve"]
    images = torch.empty(parts * step, 3, size, size, dtype=torch.uint8)
    for first in range(0, len(images), step):
        part = {name: value[first : first + step, None, None] for name, value in found.items()}
        images[first : first + step] = _portrait(part, size).mul_(255).add_(0.5)
    return images[:count]


def pairs(split: str, count: int, size: int) -> Pairs:
    """The first `count` faces of a split with and without a smile, and the pixels in which the two visibly differ.

    That region is widened by a pixel, by two from 96 pixels on, since a transfer may be right but a little aside.
    """
    smiling, others = (draw(split, count, size, torch.full((count,), value)) for value in (True, False))
    differs = (smiling.short() - others.short()).abs().amax(1) > _VISIBLE
    aside = max(1, size // 48)
    wider = F.max_pool2d(differs[:, None].float(), 2 * aside + 1, stride=1, padding=aside)
    return Pairs(smiling, others, wider[:, 0] > 0)


def _portrait(f: Factors, size: int) -> Tensor:
    """Faces with these factors, each (N, 1, 1): values in [0, 1], (N, 3, size, size)."""
    line = (2 * torch.arange(size) + 1) / size - 1
    x, y = line[None, None, :], line[None, :, None]
    canvas = _Canvas(_colour(f, "back") + (f["back_slope"] * y)[:, None], pixel=2 / size / f["head"])
    right, down = (x - f["right"]) / f["head"], (y - f["down"]) / f["head"]
    cos, sin = f["tilt"].cos(), f["tilt"].sin()
    across, along = cos * right + sin * down, cos * down - sin * right  # in the head's own directions
    _hair_behind_and_shirt(canvas, f, across, along, right, down)
    canvas.paint(_ellipse(across, along, 1.0, f["height"]), _skin(f))
    _features(canvas, f, across, along)
    _mouth(canvas, f, across, along)
    _fringe(canvas, f, across, along)
    light = f["exposure"] + f["light"] * (f["light_from"].cos() * x + f["light_from"].sin() * y)
    return canvas.image.mul_(light[:, None]).clamp_(0, 1)


class _Canvas:
    """Pictures on which shapes are painted one over another."""

    def __init__(self, image: Tensor, pixel: Tensor) -> None:
        """`pixel`: the side of a pixel in the units of the distances (N, 1, 1)."""
        self._per_pixel = 1 / pixel
        self.image = image.expand(-1, -1, image.shape[2], image.shape[2]).contiguous()

    def paint(self, distance: Tensor, colour: Tensor) -> None:
        """Cover a shape with a colour (N, 3, 1, 1); pixels on its edge in part."""
        share = (distance * -self._per_pixel).add_(0.5).clamp_(0, 1)
        self.image.lerp_(colour.expand_as(self.image), share[:, None].expand_as(self.image))


def _hair_behind_and_shirt(
    canvas: _Canvas, f: Factors, across: Tensor, along: Tensor, right: Tensor, down: Tensor
) -> None:
    """What is behind the head: hair around it, which hangs down as far as it is long, neck and shoulders."""
    cap = _ellipse(across, along + 0.06, f["volume"], f["volume"] * f["height"])
    hanging = torch.maximum(across.abs() - f["volume"], -along)
    canvas.paint(torch.minimum(cap, hanging).maximum(along - f["length"]), _hair(f))
    canvas.paint(torch.maximum(right.abs() - 0.45, 0.6 - down), _skin(f) * 0.86)
    canvas.paint(_ellipse(right, down - 2.6, 1.7, 1.15), _colour(f, "shirt"))


def _features(canvas: _Canvas, f: Factors, across: Tensor, along: Tensor) -> None:
    """Eyes, brows and nose. The face is symmetric, so the distance from the middle serves for both sides."""
    beside, above = across.abs() - f["eyes_apart"], along - f["eyes_up"]
    eye = _ellipse(beside, above, f["eye"], f["eye"] * f["open"])
    canvas.paint(eye - 0.035, _skin(f) * 0.55)
    canvas.paint(eye, torch.tensor([0.97, 0.97, 0.95])[None, :, None, None])
    to_iris = across - across.sign() * f["eyes_apart"] - f["gaze"] * f["eye"]
    round_iris = torch.hypot(to_iris, above) - 0.6 * f["eye"]
    canvas.paint(torch.maximum(round_iris, eye), _between(f["iris"], (0.16, 0.09, 0.05), (0.2, 0.38, 0.5)))
    lifted = above + f["eye"] + f["brow"] * 0.7 + f["brow_tilt"] * beside
    canvas.paint(torch.hypot((beside.abs() - 0.17).clamp_(min=0), lifted) - 0.05, _hair(f) * 0.75)
    nose = torch.hypot(across, (along - 0.12 - f["nose"] / 2).abs().sub_(f["nose"] / 2).clamp_(min=0))
    canvas.paint(nose - 0.05, _skin(f) * 0.8)


def _mouth(canvas: _Canvas, f: Factors, across: Tensor, along: Tensor) -> None:
    """Lips along a parabola, thinner at the corners; only its curve depends on the attribute."""
    wide = f["mouth"]
    place = (across / wide).clamp_(-1, 1)
    rise = 0.62 * f["curve"] * wide  # of the corners above the middle
    slope = 2 * rise * place / wide
    off = (along - f["mouth_down"] - rise * (0.5 - place.square())) / (1 + slope.square()).sqrt_()
    distance = torch.hypot(off, across - place * wide) - f["lips"] * (1 - 0.35 * place.square())
    canvas.paint(distance, _between(f["lip_red"], (0.5, 0.1, 0.12), (0.76, 0.1, 0.2)))


def _fringe(canvas: _Canvas, f: Factors, across: Tensor, along: Tensor) -> None:
    """Hair over the forehead, lower at the sides and parted somewhere."""
    top = _ellipse(across, along + 0.03, 1.03, 1.03 * f["height"])
    line = f["fringe"] + 0.5 * (across - f["parting"]).square()
    canvas.paint(torch.maximum(top, along - line), _hair(f))


def _ellipse(x: Tensor, y: Tensor, wide: Tensor | float, high: Tensor | float) -> Tensor:
    """About the distance from an ellipse with these half axes; exact on its edge."""
    u, v = x / wide, y / high
    ratio = (u.square() + v.square()).add_(1e-6).sqrt_()
    gradient = ((u / wide).square() + (v / high).square()).add_(1e-6).sqrt_()
    return ratio * (ratio - 1).div_(gradient)


def _colour(f: Factors, name: str) -> Tensor:
    return torch.stack([f[f"{name}_{channel}"] for channel in ("red", "green", "blue")], dim=1)


def _between(share: Tensor, first: tuple[float, float, float], last: tuple[float, float, float]) -> Tensor:
    """A colour between two, for a share (N, 1, 1) of the second."""
    start, end = (torch.tensor(colour)[None, :, None, None] for colour in (first, last))
    return torch.lerp(start, end, share[:, None])


def _skin(f: Factors) -> Tensor:
    warm = torch.cat([f["warmth"], torch.zeros_like(f["warmth"]), -f["warmth"]], dim=1)[..., None]
    return _between(f["skin"], (0.97, 0.83, 0.73), (0.57, 0.39, 0.28)) + warm


def _hair(f: Factors) -> Tensor:
    dark, light = (
        _between(f["red"], *ends)
        for ends in (((0.1, 0.07, 0.05), (0.32, 0.13, 0.06)), ((0.85, 0.7, 0.4), (0.75, 0.4, 0.18)))
    )
    coloured = torch.lerp(dark, light, f["hair"][:, None].square())
    return torch.lerp(coloured, torch.full_like(coloured, 0.75), (f["grey"][:, None] - 0.6).clamp(min=0) * 2)
