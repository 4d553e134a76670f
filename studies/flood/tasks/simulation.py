"""The task `simulation`: one flood, from a dry bed, with a snapshot of the depth at equal intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from roundhouse.training import Run
from studies.flood.floods import Flood, content, draw, simulation_of
from studies.flood.kept_files import SIMULATION
from studies.flood.options import Options
from studies.flood.samples import DRY
from studies.flood.simulation import Simulation, State
from studies.flood.tasks.inputs import Inputs, check_whole

SOLVER_STEPS = 250  # in a step of the run; a stop waits for its end, some tenths of a second
SAVE_EVERY = 20  # steps of the run: some seconds


class Progress:
    """Where a simulation is, and what it has shown so far: all that a checkpoint needs."""

    def __init__(self, simulation: Simulation) -> None:
        self.state = simulation.start()
        self.depths = [self.state.depth[0]]
        self.balance, self.steps = [_expected(self.state)], [self.state.steps[0]]
        self.smallest = self.state.depth.new_zeros(())

    def advance(self, simulation: Simulation, interval: float) -> bool:
        """At most SOLVER_STEPS steps of the solver, up to the next snapshot. Returns whether it was reached."""
        until = interval * len(self.depths)
        self.state = simulation.advance(self.state, until, at_most=SOLVER_STEPS)
        self.smallest = torch.minimum(self.smallest, self.state.depth.min())
        if bool((self.state.time < until).any()):
            return False
        self.depths.append(self.state.depth[0])
        self.balance.append(_expected(self.state))
        self.steps.append(self.state.steps[0])
        return True

    def state_dict(self) -> dict[str, object]:
        """Of this object: tensors, and lists of tensors."""
        return {**vars(self), "state": self.state.tensors()}

    def load_state_dict(self, saved: dict[str, object]) -> None:
        """Undoes `state_dict`."""
        vars(self).update({**saved, "state": State.restored(saved["state"])})  # type: ignore[arg-type]


def simulate(run: Run, options: Options, inputs: Inputs) -> None:
    """Simulate the flood whose number in its set is the config's seed. There are no inputs."""
    ground, table = draw(options.set, run.config_seed, options.cells, options.hours)
    simulation = simulation_of(ground, table, torch.float64 if options.double else torch.float32)
    interval, progress = 60.0 * options.snapshot_minutes, Progress(simulation)
    run.track(progress=progress)
    for _ in run.steps(None, save_every=SAVE_EVERY, until=lambda: len(progress.depths) == options.snapshots):
        if progress.advance(simulation, interval):
            balance = simulation.balance(progress.state)
            error, water = float(balance.error), float(progress.balance[-1])
            hours = float(progress.state.time) / 3600
            run.record(
                simulated_hours=hours, volume=float(balance.stored), mass_error=abs(error) / water if water else 0.0
            )
    check_whole(run)
    depths = torch.stack(progress.depths)
    flood = Flood(
        set=options.set,
        number=run.config_seed,
        terrain=ground,
        forcing=table,
        times=interval * torch.arange(len(depths), dtype=torch.float64),
        depths=depths,
        balance=torch.stack(progress.balance),
        steps=torch.stack(progress.steps),
    )
    run.keep(SIMULATION, content(flood))
    run.finish({"depth": depths, "bed": ground.coarse}, results(simulation, progress, depths))


def results(simulation: Simulation, progress: Progress, depths: Tensor) -> dict[str, float]:
    """The final metrics: shares as numbers from 0 to 1, depths in m."""
    error = float(simulation.balance(progress.state).error)
    return {
        "mass_error": abs(error) / float(progress.balance[-1]),
        "smallest_depth": float(progress.smallest),
        "deepest": float(depths.max()),
        "wet_share": float((depths >= DRY).double().mean((1, 2)).max()),
        "solver_steps": float(progress.steps[-1]),
    }


def _expected(state: State) -> Tensor:
    """Water by the balance, m3."""
    return (state.initial + state.inflow + state.rain - state.outflow)[0]
