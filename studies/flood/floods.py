"""A flood of a set: terrain and forcing from its number, the simulation that follows from them, and its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from roundhouse.training import StudyError, derive_seed, read_weights
from studies.flood import forcing, terrain
from studies.flood.boundaries import closed, free_outfall, inflow
from studies.flood.forcing import ForcingTable
from studies.flood.kept_files import FIRST
from studies.flood.samples import Simulated
from studies.flood.simulation import Forcing, Simulation
from studies.flood.solver import make_ground
from studies.flood.terrain import Terrain

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Flood:
    """A simulated flood. The snapshots are at equal intervals, the first one at the start."""

    set: str
    number: int
    terrain: Terrain
    forcing: ForcingTable
    times: Tensor
    """Of the snapshots, s: float64 (S,)."""
    depths: Tensor
    """Of the cells at each snapshot, m (S, H, W)."""
    balance: Tensor
    """Water in the area by the recorded balance, m3: float64 (S,); start + inflow + rain - outflow."""
    steps: Tensor
    """Of the solver until each snapshot: int64 (S,)."""

    @property
    def interval(self) -> float:
        """Between the snapshots, s."""
        return float(self.times[1] - self.times[0])

    def simulated(self) -> Simulated:
        """What samples need of it."""
        return Simulated(self.number, self.terrain.fine, self.depths, self.balance, self.terrain.spacing)


def draw(set_name: str, number: int, cells: int, hours: float) -> tuple[Terrain, ForcingTable]:
    """Terrain and forcing of a flood of a set."""
    seed = derive_seed("flood", "set", set_name, number)
    return terrain.draw(seed, cells), forcing.draw(seed, hours)


def simulation_of(
    ground: Terrain, table: ForcingTable, dtype: torch.dtype = torch.float32, starts: Tensor | None = None
) -> Simulation:
    """The simulation of a flood: inflow through the inlet, free outfall through the outlet.

    As a batch of 1; or with `starts`, times (B,) in s, as a batch whose clocks begin at 0 when the flood is there.
    """
    starts = torch.zeros(1, dtype=torch.float64) if starts is None else starts
    count = len(starts)
    bed, roughness = (field.to(dtype).repeat(count, 1, 1) for field in (ground.coarse, ground.roughness))
    weights, slope = torch.zeros_like(bed[:, :, 0]), torch.zeros_like(bed[:, :, -1])
    weights[:, ground.inlet] = 1
    slope[:, ground.outlet] = ground.slope
    return Simulation(
        make_ground(bed, roughness, ground.spacing),
        replace(closed(bed), left=inflow(weights), right=free_outfall(slope)),
        Forcing(table.times - starts[:, None], table.inflow.repeat(count, 1), table.rain.repeat(count, 1)),
    )


def coarser(ground: Terrain, factor: int) -> Terrain:
    """The terrain on cells `factor` times as wide, with the means of bed and roughness. `fine` stays as it is."""
    return replace(
        ground,
        coarse=coarsened(ground.coarse, factor),
        roughness=coarsened(ground.roughness, factor),
        land_use=ground.land_use[::factor, ::factor],
        inlet=torch.unique(ground.inlet // factor),
        outlet=torch.arange(len(ground.coarse) // factor),
        spacing=ground.spacing * factor,
    )


def coarsened(field: Tensor, factor: int) -> Tensor:
    """Means of squares of cells: (..., H, W) -> (..., H / factor, W / factor)."""
    height, width = field.shape[-2:]
    means = F.avg_pool2d(field.reshape(-1, 1, height, width), factor)
    return means.reshape(*field.shape[:-2], height // factor, width // factor)


def content(flood: Flood) -> dict[str, Any]:
    """The flood as `run.keep` writes it to a file, which then has its own SHA-256."""
    return {"format": _FORMAT, **vars(flood), "terrain": vars(flood.terrain), "forcing": vars(flood.forcing)}


def read(path: Path) -> Flood:
    """A flood from its file. RoundhouseError: it is missing, or its content is not what was written."""
    found: Mapping[str, Any] = read_weights(path)
    if found.get("format") != _FORMAT:
        raise StudyError(f"{path} has no simulation of this version: {FIRST}")
    parts = {name: value for name, value in found.items() if name != "format"}
    return Flood(**{**parts, "terrain": Terrain(**parts["terrain"]), "forcing": ForcingTable(**parts["forcing"])})
