"""Samples: patches of 32 x 32 cells from simulated floods, split by simulation, and the file of a set.

A sample is a patch at two snapshots of one simulation, n and n + lead:

    terrain   (1, 321, 321)  bed in points 1 m apart, minus its mean, m   input
    depth     (1, 32, 32)    h(n), m                                      input
    boundary  (1, 32, 32)    h(n + lead) on the outer 2 cells, else 0, m  input
    target    (1, 32, 32)    h(n + lead) - h(n), m

Patches begin every STRIDE cells, so neighbours overlap, and a training sample occurs in its eight flips and turns. Both
would leak from one set into another if samples were split; so simulations are split, and only then are samples cut from
those of a set. A set holds beds and depths once, with the places of its samples; samples are made when they are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from roundhouse.training import StudyError, choose, derive_seed, read_weights
from studies.flood.kept_files import FIRST
from studies.flood.options import PATCH
from studies.flood.terrain import FINE

SPLITS = ("train", "validation", "test")
STRIDE = 16
"""Cells between the corners of neighbouring patches."""
RING = 2
"""Cells: width of the ring on which the depth at n + lead is an input."""
DRY = 0.01
"""m: a patch in which no depth reaches this, at n or at n + lead, is dropped."""
ORIENTATIONS = 8
"""Flips and turns of a square; 0 leaves it as it is."""

_FORMAT = 1
_POINTS = FINE * PATCH + 1


@dataclass(frozen=True, eq=False)
class Simulated:
    """What samples need of a simulated flood."""

    simulation: int
    """Its number, which the split decides by."""
    fine: Tensor
    """Bed in points 1 m apart, m (10 H + 1, 10 W + 1)."""
    depths: Tensor
    """Depth of the cells at each snapshot, m (S, H, W)."""
    balance: Tensor
    """Water in the area at each snapshot by the recorded balance, m3 (S,): start + inflow + rain - outflow."""
    spacing: float = 10.0
    """Side of a cell, m."""


class Batch(NamedTuple):
    """Samples, as in the head of this file, each with a first dimension B."""

    terrain: Tensor
    depth: Tensor
    boundary: Tensor
    target: Tensor


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a set."""

    split: str
    simulations: tuple[int, ...]
    lead: int
    """Snapshots from input to target."""
    stride: int
    spacing: float
    """Side of a cell, m."""
    dropped: int
    """Dry patches, each counted once: they are dropped before the flips and turns."""
    beds: Tensor
    """Of each simulation, m: float32 (F, 10 H + 1, 10 W + 1)."""
    depths: Tensor
    """Of each simulation and snapshot, m: float32 (F, S, H, W)."""
    places: Tensor
    """Of each sample: row of `beds`, snapshot n, first row and column of the patch, orientation. int64 (N, 5), CPU."""

    def __len__(self) -> int:
        return len(self.places)

    def to(self, device: torch.device) -> Samples:
        """The same with beds and depths on a device, where batches are then made."""
        return replace(self, beds=self.beds.to(device), depths=self.depths.to(device))

    def upright(self) -> Tensor:
        """Indices of the samples that are neither flipped nor turned: int64 (M,)."""
        return (self.places[:, 4] == 0).nonzero().flatten()

    def batch(self, indices: Tensor) -> Batch:
        """The samples of these indices, int64 (B,) on the CPU."""
        places = self.places[indices]
        bed, _, row, column, _ = places.to(self.beds.device).unbind(1)
        beds = self.beds.unfold(1, _POINTS, FINE).unfold(2, _POINTS, FINE)  # views: one patch for each corner
        terrain = _turned(beds[bed, row, column], places[:, 4])
        terrain -= terrain.mean((1, 2), keepdim=True)  # where the zero of the heights lies has no effect on water
        now, later = self.depth_at(indices, 0), self.depth_at(indices, 1)
        return Batch(terrain[:, None], now, on_ring(later), later - now)

    def depth_at(self, indices: Tensor, leads: int) -> Tensor:
        """Depth (B, 1, 32, 32) of the patches of these samples so many leads after their input."""
        places = self.places[indices]
        bed, snapshot, row, column, _ = places.to(self.depths.device).unbind(1)
        depths = self.depths.unfold(2, PATCH, 1).unfold(3, PATCH, 1)
        return _turned(depths[bed, snapshot + leads * self.lead, row, column], places[:, 4])[:, None]


@dataclass(frozen=True, eq=False)
class SampleSet:
    """The samples of a set, by split."""

    name: str
    splits: dict[str, Samples]


def split_simulations(train: int, validation: int, test: int, seed: int) -> dict[str, tuple[int, ...]]:
    """The simulations 0 to train + validation + test - 1, drawn for each set. StudyError: a count is not possible."""
    counts = dict(zip(SPLITS, (train, validation, test), strict=True))
    if train < 1 or min(counts.values()) < 0:
        raise StudyError(f"a split needs one or more simulations for training, and no count below 0 (got {counts})")
    generator = torch.Generator().manual_seed(derive_seed("flood", "split", seed))
    order = iter(torch.randperm(sum(counts.values()), generator=generator).tolist())
    return {name: tuple(sorted(next(order) for _ in range(count))) for name, count in counts.items()}


def cut(split: str, floods: Sequence[Simulated], lead: int = 1, stride: int = STRIDE) -> Samples:
    """The samples of the simulations of a set, in their order; those for training in all flips and turns.

    Data must be valid (see `validation`). If a patch does not end at an edge of the area, the cells beyond the last one
    are in no sample. StudyError: no simulation, or no patch with water.
    """
    choose("split", split, SPLITS)
    if lead < 1 or stride < 1 or not floods:
        raise StudyError(f"samples need lead >= 1, stride >= 1 and a simulation (got {lead}, {stride}, {len(floods)})")
    found = [_wet_places(number, flood.depths, lead, stride) for number, flood in enumerate(floods)]
    places = torch.cat([wet for wet, _ in found])
    dropped = sum(dry for _, dry in found)
    if not len(places):
        raise StudyError(f"all {dropped} patches of the {split} set are dry: no depth reaches {DRY} m")
    orientations = torch.arange(ORIENTATIONS if split == "train" else 1)
    return Samples(
        split=split,
        simulations=tuple(flood.simulation for flood in floods),
        lead=lead,
        stride=stride,
        spacing=floods[0].spacing,
        dropped=dropped,
        beds=torch.stack([flood.fine.float() for flood in floods]),
        depths=torch.stack([flood.depths.float() for flood in floods]),
        places=torch.cat(
            [places.repeat_interleave(len(orientations), 0), orientations.repeat(len(places))[:, None]], dim=1
        ),
    )


def cut_all(
    floods: Sequence[Simulated], split: Mapping[str, Sequence[int]], lead: int = 1, stride: int = STRIDE
) -> dict[str, Samples]:
    """The samples of all sets that have simulations. StudyError: a simulation of the split is not among `floods`."""
    known = {flood.simulation: flood for flood in floods}
    missing = sorted({number for numbers in split.values() for number in numbers} - known.keys())
    if missing:
        raise StudyError(f"simulations {missing} of the split are missing: run the simulations first")
    return {
        name: cut(name, [known[number] for number in numbers], lead, stride)
        for name, numbers in split.items()
        if numbers
    }


def on_ring(depth: Tensor) -> Tensor:
    """Depth (..., 32, 32) on the outer RING cells, and 0 inside."""
    result = depth.clone()
    result[..., RING:-RING, RING:-RING] = 0
    return result


def turn(values: Tensor, orientation: int) -> Tensor:
    """Values (..., N, N) in one of the eight orientations: `orientation` % 4 quarter turns, and from 4 on a flip."""
    turned = values.rot90(orientation % 4, (-2, -1))
    return turned.flip(-1) if orientation >= 4 else turned


def content(found: SampleSet) -> dict[str, Any]:
    """The samples as `run.keep` writes them to a file, which then has its own SHA-256."""
    splits = {name: {**vars(one), "simulations": list(one.simulations)} for name, one in found.splits.items()}
    return {"format": _FORMAT, "set": found.name, "splits": splits}


def read(path: Path) -> SampleSet:
    """The samples of a file. RoundhouseError: it is missing, or its content is not what was written."""
    found: dict[str, Any] = read_weights(path)
    if found.get("format") != _FORMAT:
        raise StudyError(f"{path} has no samples of this version: {FIRST}")
    splits = {
        name: Samples(**{**one, "simulations": tuple(one["simulations"])}) for name, one in found["splits"].items()
    }
    return SampleSet(found["set"], splits)


def _wet_places(number: int, depths: Tensor, lead: int, stride: int) -> tuple[Tensor, int]:
    """Places without orientation (N, 4) of the patches of a simulation that are not dry, and how many are dry."""
    wettest = torch.maximum(depths[:-lead], depths[lead:])
    wet = F.max_pool2d(wettest[:, None], PATCH, stride)[:, 0] >= DRY
    snapshot, row, column = wet.nonzero().unbind(1)
    places = torch.stack([torch.full_like(row, number), snapshot, stride * row, stride * column], dim=1)
    return places, wet.numel() - len(places)


def _turned(patches: Tensor, orientation: Tensor) -> Tensor:
    """Each patch (B, N, N) in its orientation (B,), which is on the CPU."""
    result = torch.empty_like(patches)
    for value in range(ORIENTATIONS):
        chosen = (orientation == value).nonzero().flatten().to(patches.device)
        if len(chosen):
            result[chosen] = turn(patches[chosen], value)
    return result
