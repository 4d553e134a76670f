"""The simulator of the study flood: cell-steps a second, beside plain NumPy loops and landlab.

`python benchmarks/flood_solver.py`. A cell-step is one cell in one step of the solver. All start from the same water: a
flood of the study after some steps. The plain loop has the same equations and boundaries on arrays of one flood, in
float32; a batch of floods is simulated one after the other. landlab's OverlandFlow (if it is installed) has the same
momentum and caps, in float64, with closed edges and without inflow. They run in one process, in turns, each from the
same start. The output has the medians of the rounds, and ratios.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.flood import floods
from studies.flood.simulation import Simulation, State
from studies.flood.solver import DRY, GRAVITY, Scheme

SCHEME = Scheme()


class Plain:
    """The plain loop for one flood: depth h (H, W), fluxes qx (H, W + 1) and qy (H + 1, W)."""

    def __init__(self, simulation: Simulation, state: State) -> None:
        """A copy of the first flood of a batch."""
        ground, sides, forcing = simulation.ground, simulation.boundaries, simulation.forcing
        self.z, self.n, self.dx = ground.bed[0].numpy(), ground.roughness[0].numpy(), ground.spacing
        self.h, self.qx, self.qy = (tensor[0].numpy().copy() for tensor in (state.depth, state.qx, state.qy))
        self.share, self.slope = sides.left.share[0].numpy(), sides.right.slope[0].numpy()
        self.times, self.inflow, self.rain = (
            table[0].numpy() for table in (forcing.times, forcing.inflow, forcing.rain)
        )
        self.time, self.end = float(state.time[0]), float(forcing.times[0, -1])
        self.faces = [self._faces(self.z, self.n), self._faces(self.z.T, self.n.T)]

    @staticmethod
    def _faces(z: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The higher bed, and g n^2, of the faces inside (H, W - 1)."""
        return np.maximum(z[:, :-1], z[:, 1:]), GRAVITY * ((n[:, :-1] + n[:, 1:]) / 2) ** 2

    def step(self) -> None:
        dt = self._seconds()
        middle = self.time + dt / 2
        inflow, rain = (float(np.interp(middle, self.times, table)) for table in (self.inflow, self.rain))
        h, level = self.h, self.h + self.z
        qx = self._momentum(level, self.qx, *self.faces[0], dt)
        qy = self._momentum(level.T, self.qy.T, *self.faces[1], dt).T
        qx[:, 0] = self.share * (inflow / self.dx)
        out = h[:, -1]
        qx[:, -1] = np.minimum(out ** (5 / 3) * np.sqrt(self.slope) / self.n[:, -1], out * np.sqrt(GRAVITY * out))
        self._limit(qx, qy, dt / self.dx)
        self.h = h + (dt / self.dx) * (qx[:, :-1] - qx[:, 1:] + qy[:-1] - qy[1:]) + dt * rain
        self.qx, self.qy, self.time = qx, qy, self.time + dt

    def _momentum(self, level: np.ndarray, q: np.ndarray, z: np.ndarray, friction: np.ndarray, dt: float) -> np.ndarray:
        """q' of the faces along the rows; those at the ends are 0."""
        flowing = np.maximum(level[:, :-1], level[:, 1:]) - z
        hf = np.maximum(flowing, DRY)
        inner, theta = q[:, 1:-1], SCHEME.theta
        mean = theta * inner + (1 - theta) / 2 * (q[:, :-2] + q[:, 2:])
        push = (GRAVITY * dt / self.dx) * hf * (level[:, 1:] - level[:, :-1])
        new = (mean - push) / (1 + dt * friction * np.abs(inner) / hf ** (7 / 3))
        fastest = hf * np.sqrt(GRAVITY * hf)
        result = np.zeros_like(q)
        result[:, 1:-1] = np.where(flowing > DRY, np.clip(new, -fastest, fastest), 0)
        return result

    def _limit(self, qx: np.ndarray, qy: np.ndarray, ratio: float) -> None:
        """Scale the fluxes out of a cell, in place, where together they would take more than `drained` of its water."""
        leaving = np.maximum(qx[:, 1:], 0) - np.minimum(qx[:, :-1], 0)
        leaving += np.maximum(qy[1:], 0) - np.minimum(qy[:-1], 0)
        wanted, there = ratio * leaving, SCHEME.drained * self.h
        share = np.ones_like(wanted)
        np.divide(there, wanted, out=share, where=wanted > there)
        qx[:, 1:] *= np.where(qx[:, 1:] > 0, share, 1)
        qx[:, :-1] *= np.where(qx[:, :-1] < 0, share, 1)
        qy[1:] *= np.where(qy[1:] > 0, share, 1)
        qy[:-1] *= np.where(qy[:-1] < 0, share, 1)

    def _seconds(self) -> float:
        """The longest step by the depth expected at its end, as in `studies.flood.solver.longest_step`."""
        deepest = float(self.h.max())
        ahead = SCHEME.longest
        if deepest > 0:
            ahead = min(ahead, SCHEME.courant * self.dx / np.sqrt(GRAVITY * deepest))
        inflow, rain = (self._greatest(table, self.time + ahead) for table in (self.inflow, self.rain))
        cubic, square = GRAVITY * (rain + inflow * float(self.share.max()) / self.dx**2), GRAVITY * deepest
        target = (SCHEME.courant * self.dx) ** 2
        seconds = min(ahead, (target / cubic) ** (1 / 3)) if cubic > 0 else ahead
        for _ in range(4):
            excess = (cubic * seconds + square) * seconds**2 - target
            if excess > 0:
                seconds -= excess / ((3 * cubic * seconds + 2 * square) * seconds)
        return float(seconds)

    def _greatest(self, table: np.ndarray, until: float) -> float:
        inside = table[(self.times > self.time) & (self.times < until)]
        return max([*np.interp([self.time, until], self.times, table), *inside])


def landlab_flow(simulation: Simulation, state: State) -> Any:
    """landlab's component for the first flood of a batch, with closed edges and the flood's water."""
    from landlab import RasterModelGrid
    from landlab.components import OverlandFlow

    ground = simulation.ground
    height, width = ground.bed.shape[1:]
    grid = RasterModelGrid((height + 2, width + 2), xy_spacing=ground.spacing)
    grid.set_closed_boundaries_at_grid_edges(True, True, True, True)
    for name, values in (("topographic__elevation", ground.bed), ("surface_water__depth", state.depth)):
        grid.add_field(name, np.pad(values[0].double().numpy(), 1, mode="edge").ravel(), at="node")
    grid.add_field("roughness", np.pad(ground.roughness[0].double().numpy(), 1, mode="edge").ravel(), at="node")
    roughness = grid.map_mean_of_link_nodes_to_link("roughness")
    return OverlandFlow(grid, mannings_n=roughness, g=GRAVITY, theta=SCHEME.theta, steep_slopes=True)


def seconds(work: Callable[[], Any], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        work()
    return time.perf_counter() - began


def start(cells: int, count: int, dtype: torch.dtype, before: int) -> tuple[Simulation, State]:
    """A batch of `count` times the same flood, after `before` steps from a dry bed."""
    ground, table = floods.draw("small", 0, cells, 4.0)
    simulation = floods.simulation_of(ground, table, dtype, torch.zeros(count, dtype=torch.float64))
    return simulation, simulation.advance(simulation.start(), torch.inf, at_most=before)


def measure(cells: int, count: int, rounds: int, steps: int, before: int) -> dict[str, float]:
    """Cell-steps a second, medians of the rounds, by name."""
    simulation, state = start(cells, count, torch.float32, before)
    found: dict[str, list[float]] = {}

    def add(name: str, work: Callable[[], Any], times: int, cell_steps: int) -> None:
        found.setdefault(name, []).append(cell_steps / seconds(work, times))

    for turn in range(rounds + 1):
        add("study", lambda: simulation.advance(state, torch.inf, at_most=steps), 1, steps * count * cells**2)
        plain = [Plain(simulation, state) for _ in range(count)]
        add("numpy", lambda: [one.step() for one in plain], steps, steps * count * cells**2)  # noqa: B023
        if importlib.util.find_spec("landlab"):
            flow = landlab_flow(simulation, state)
            add("landlab", flow.run_one_step, steps, steps * cells**2)
        if not turn:
            found.clear()  # the first is not counted
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="the versions take turns so many times")
    parser.add_argument("--steps", type=int, default=100, help="steps of the solver in a round")
    parser.add_argument("--before", type=int, default=2000, help="steps from a dry bed to the start")
    parser.add_argument("--threads", type=int, default=1, help="of all libraries; default: 1")
    parser.add_argument("--small", action="store_true", help="64 x 64 cells only, after 200 steps")
    chosen = parser.parse_args()
    sizes, before = ((64,), 200) if chosen.small else ((64, 128), chosen.before)
    torch.set_num_threads(chosen.threads)
    print(f"{platform.machine()}, {chosen.threads} threads, torch {torch.__version__}, NumPy {np.__version__}")
    for cells in sizes:
        for count in (1, 8):
            with threadpool_limits(chosen.threads):
                found = measure(cells, count, chosen.rounds, chosen.steps, before)
            speeds = ", ".join(f"{name} {value / 1e6:.2f}" for name, value in found.items())
            ratios = ", ".join(
                f"{found['study'] / value:.2f} x {name}" for name, value in found.items() if name != "study"
            )
            print(
                f"{cells} x {cells} cells, batch {count}: million cell-steps/s: {speeds}; study = {ratios}", flush=True
            )


if __name__ == "__main__":
    main()
