"""The second baseline: the same solver on a coarser grid, with the same terrain, forcing and true depth at the start.

For each window of one lead, the depth of the simulation is averaged over squares of cells, the solver runs on them, and
each cell gets the change of the square that it lies in. Water is at rest at the start of a window, as the depth alone
does not say how it moves; within minutes it does.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from studies.flood.floods import Flood, coarsened, coarser, simulation_of
from studies.flood.options import PATCH
from studies.flood.samples import Samples
from studies.flood.simulation import Simulation, State

REPEATS = 5
"""Times that are measured, of a solver or a surrogate; the fastest one counts."""


def windows(flood: Flood, lead: int, factor: int) -> tuple[Simulation, State]:
    """A batch of all windows of a flood on the coarser grid, each at its start; factor 1: the grid of the flood."""
    ground = coarser(flood.terrain, factor) if factor > 1 else flood.terrain
    count = len(flood.depths) - lead
    simulation = simulation_of(ground, flood.forcing, flood.depths.dtype, flood.times[:count])
    return simulation, simulation.start(coarsened(flood.depths[:count], factor))


def coarse_changes(flood: Flood, lead: int, factor: int) -> Tensor:
    """The changes of the depth that it predicts for the windows of a flood, m (S - lead, H, W)."""
    simulation, start = windows(flood, lead, factor)
    change = simulation.advance(start, flood.interval * lead).depth - start.depth
    return change.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def patches(changes: list[Tensor], samples: Samples) -> Tensor:
    """The changes (N, 32, 32) of the upright samples, from those of the windows of each flood of the set."""
    places = samples.places[samples.upright()]
    found = [changes[flood].unfold(1, PATCH, 1).unfold(2, PATCH, 1) for flood in range(len(changes))]
    return torch.stack(
        [found[flood][snapshot, row, column] for flood, snapshot, row, column, _ in places.tolist()]
    ).float()


def seconds_for_patch(flood: Flood, lead: int, factor: int, part: float = 0.05) -> float:
    """Computing time of one lead for as many cells as a sample has, in s, on this host: a part of the lead is timed.

    All windows of the flood are one batch, as a surrogate's samples are, and the fastest of several times counts, as
    for a surrogate.
    """
    simulation, state = windows(flood, lead, factor)
    seconds = part * flood.interval * lead
    state = simulation.advance(state, seconds)  # from rest, the first steps are not the usual ones
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        simulation.advance(state, 2 * seconds)
        found.append(time.perf_counter() - began)
    cells = flood.depths[:1].numel() * len(state.depth)
    return min(found) / part * PATCH**2 / cells
