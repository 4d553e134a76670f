"""Study flood: the simulator against landlab's OverlandFlow, which has the same equations (de Almeida et al. 2012).

Away from the edges of the domain, both compute the same numbers but for rounding. They differ in this:

- At a face beside an edge, landlab's mean of the neighbouring fluxes leaves out a closed face, or one beyond the edge,
  and gives its weight to the other neighbour. Here a closed face is a neighbour with q = 0, and the flux of a face on
  the edge is its own neighbour beyond. With theta = 1 there is no mean. For theta < 1, a ring of dry nodes 99 m high
  gives landlab faces that are open, and have q = 0.
- landlab's step follows from the present depth alone, without rain; at most the interval that it is asked for. So
  rain is compared with steps of 1 s on both sides.
- A face is dry below 1e-6 m in landlab, and below 1e-5 m here; a landlab without water stands still, rain or not. Its
  Froude cap is an option (`steep_slopes`), with another limiter of what leaves a cell; here both always act. So the
  water is deep enough for none of them to act: rain begins on a film of 2 mm.
- Roughness belongs to the faces in landlab: it is given the mean of both cells, as here. `h_init` = 0: landlab else
  adds a film of water.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

if sys.version_info < (3, 11):
    pytest.skip("landlab 2.9.2, the last for Python 3.10, has another OverlandFlow", allow_module_level=True)
if os.environ.get("CI") != "true":  # there, a package that is missing is an error
    pytest.importorskip("landlab", reason="landlab is not installed (pip install '.[test]')")

from landlab import RasterModelGrid
from landlab.components import OverlandFlow

from studies.flood.boundaries import Boundaries, closed, fixed_stage
from studies.flood.simulation import Simulation, constant
from studies.flood.solver import GRAVITY, Scheme, make_ground

SPACING = 10.0


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def simulation(bed: Tensor, roughness: Tensor, rain: float, sides: Boundaries, scheme: Scheme) -> Simulation:
    forcing = constant(*(bed.new_full((len(bed),), each) for each in (0.0, rain)))
    return Simulation(make_ground(bed, roughness, SPACING), sides, forcing, scheme)


def grid_of(bed: Tensor, depth: Tensor, roughness: Tensor) -> Any:
    """landlab's nodes (H + 2, W + 2) of cells (1, H, W): a ring of dry nodes 99 m high lies around them."""
    grid = RasterModelGrid((bed.shape[1] + 2, bed.shape[2] + 2), xy_spacing=SPACING)
    for name, values, around in (("topographic__elevation", bed, 99.0), ("surface_water__depth", depth, 0.0)):
        grid.add_field(name, np.pad(values[0].numpy(), 1, constant_values=around).ravel(), at="node")
    grid.add_field("roughness", np.pad(roughness[0].numpy(), 1, mode="edge").ravel(), at="node")
    return grid


def flow_on(grid: Any, theta: float, rain: float = 0.0) -> Any:
    roughness = grid.map_mean_of_link_nodes_to_link("roughness")
    return OverlandFlow(grid, h_init=0.0, mannings_n=roughness, g=GRAVITY, theta=theta, rainfall_intensity=rain)


def depths_in(grid: Any) -> np.ndarray:
    """Of the cells (H, W)."""
    return grid.at_node["surface_water__depth"].reshape(grid.shape)[1:-1, 1:-1]


def waves(theta: float, edges_are_closed: bool) -> float:
    """The largest difference of depths after a minute, in m: waves of decimetres, 1 to 3 m deep, in a rough basin."""
    bed = uniform(4, 1, 12, 15)
    depth, roughness = 2 + uniform(5, 1, 12, 15) - bed, 0.02 + 0.04 * uniform(6, 1, 12, 15)
    grid = grid_of(bed, depth, roughness)
    if edges_are_closed:
        grid.set_closed_boundaries_at_grid_edges(True, True, True, True)
    flow_on(grid, theta).run_one_step(dt=60.0)
    basin = simulation(bed, roughness, 0.0, closed(bed), Scheme(theta=theta))
    ours = basin.advance(basin.start(depth), 60.0).depth[0].numpy()
    assert np.abs(ours - depth[0].numpy()).max() > 0.1
    return float(np.abs(ours - depths_in(grid)).max())


def rain_on_a_plane(theta: float) -> np.ndarray:
    """Differences of depths in m (H, W) after ten minutes of rain on a plane above a lake of a fixed level."""
    stage, film, rain, minutes = 0.02, 2e-3, 2e-4, 10  # m; m; m/s
    bed = (0.1 * torch.arange(20, 0, -1, dtype=torch.float64)).repeat(1, 6, 1)
    depth, roughness = torch.full_like(bed, film), 0.02 + 0.04 * uniform(7, 1, 6, 20)
    grid = grid_of(bed, depth, roughness)
    for name, values in (("topographic__elevation", bed[0, :, -1]), ("surface_water__depth", stage)):
        grid.at_node[name].reshape(grid.shape)[1:-1, -1] = values
    flow = flow_on(grid, theta, rain)
    for _ in range(60 * minutes):
        flow.run_one_step(dt=1.0)
    sides = replace(closed(bed), right=fixed_stage(bed[:, :, -1] + stage))
    plane = simulation(bed, roughness, rain, sides, Scheme(theta=theta, longest=1.0))
    end = plane.advance(plane.start(depth), 60.0 * minutes)
    assert end.steps.item() == 60 * minutes and end.depth.max() > 0.05
    return np.abs(end.depth[0].numpy() - depths_in(grid))


@pytest.mark.parametrize("theta", [0.8, 1.0])
def test_waves_in_a_basin_are_those_of_landlab(theta: float) -> None:
    assert waves(theta, edges_are_closed=False) < 1e-12


def test_edges_that_landlab_closes_change_waves_by_centimetres() -> None:
    assert 1e-3 < waves(0.8, edges_are_closed=True) < 0.03
    assert waves(1.0, edges_are_closed=True) < 1e-12


def test_rain_runs_off_a_plane_as_in_landlab() -> None:
    """With theta = 0.8, the flux into the lake has another mean: 2 mm of 8 cm in the last cell, and no effect above."""
    assert rain_on_a_plane(1.0).max() < 1e-12
    damped = rain_on_a_plane(0.8)
    assert damped.max() < 2e-3 and damped[:, :-5].max() < 1e-6
