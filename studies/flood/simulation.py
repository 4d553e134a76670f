"""Floods from their ground, boundaries and forcing: a state that advances to a given time, snapshots, mass balance.

A simulation is a batch of floods with clocks of their own: each takes the steps that it would take alone. Nothing is
random. A state holds all that the next step needs, so one that is saved and restored between two steps continues bit by
bit as if nothing had happened, provided that it advances to the same times: the last step before each is shortened to
end there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from roundhouse.errors import RoundhouseError as StudyError
from studies.flood.boundaries import Boundaries
from studies.flood.solver import Array, Ground, Scheme, Water, by_depth, longest_step, step, still


@dataclass(frozen=True)
class Forcing:
    """Tables over time for each flood: `times` in s, `inflow` in m3/s, `rain` in m/s; all (B, T), T >= 2, float64.

    Linear between the times, constant before the first and after the last.
    """

    times: Tensor
    inflow: Tensor
    rain: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(table.shape) for table in (self.times, self.inflow, self.rain)]
        if len(set(shapes)) > 1 or len(shapes[0]) != 2 or shapes[0][1] < 2:
            raise StudyError(f"times, inflow and rain must have one shape (B, T) with T >= 2 (got {shapes})")
        if not (self.times.diff(dim=1) > 0).all() or not (self.inflow >= 0).all() or not (self.rain >= 0).all():
            raise StudyError("the times of a forcing must increase, and its inflow and rain must be >= 0")

    @cached_property
    def _tables(self) -> list[tuple[Array, tuple[Array, Array]]]:
        """Of each flood: its times, and its inflow and rain."""
        tables = (each.cpu().numpy() for each in (self.times, self.inflow, self.rain))
        return [(times, (inflow, rain)) for times, inflow, rain in zip(*tables, strict=True)]

    def at(self, time: Array) -> tuple[Array, Array]:
        """Inflow and rain (B,) at times (B,)."""
        found = [
            [np.interp(one, times, table) for table in tables]
            for one, (times, tables) in zip(time, self._tables, strict=True)
        ]
        inflow, rain = np.array(found).T
        return inflow, rain

    def greatest(self, start: Array, end: Array) -> tuple[Array, Array]:
        """The greatest inflow and the greatest rain (B,) from times `start` to `end`, each (B,)."""
        found = []
        for first, last, (times, tables) in zip(start, end, self._tables, strict=True):
            inside = slice(times.searchsorted(first, "right"), times.searchsorted(last, "left"))
            found.append([max(*np.interp((first, last), times, table), *table[inside]) for table in tables])
        inflow, rain = np.array(found).T
        return inflow, rain


def constant(inflow: Tensor, rain: Tensor) -> Forcing:
    """The same inflow and rain, each (B,), at all times."""
    inflow, rain = (each.double()[:, None].repeat(1, 2) for each in (inflow, rain))
    return Forcing(torch.tensor([0.0, 1.0]).to(inflow).repeat(len(inflow), 1), inflow, rain)


@dataclass(frozen=True)
class State:
    """Where each flood is. Tensors (B, ...): the water; `time` in s and `steps` so far; and volumes in m3.

    `initial` is the stored volume at the start; `inflow` (through edges), `rain` and `outflow` are sums since then.
    Time and volumes are float64 whatever the dtype of the water, and on the CPU whatever its device.
    """

    depth: Tensor
    qx: Tensor
    qy: Tensor
    time: Tensor
    steps: Tensor
    initial: Tensor
    inflow: Tensor
    rain: Tensor
    outflow: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """To save; `State.restored` undoes it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def restored(tensors: Mapping[str, Tensor]) -> State:
        names = {field.name for field in fields(State)}
        if set(tensors) != names:
            raise StudyError(f"not a state of a simulation: it must hold {', '.join(sorted(names))}")
        return State(**tensors)


@dataclass(frozen=True)
class Balance:
    """Mass of each flood (B,) in m3 at `time` in s: error = stored - (initial + inflow + rain - outflow)."""

    time: Tensor
    stored: Tensor
    inflow: Tensor
    rain: Tensor
    outflow: Tensor
    error: Tensor


@dataclass(frozen=True)
class Simulation:
    """The inflow of the forcing comes in where the boundaries have a share of it; its rain falls everywhere."""

    ground: Ground
    boundaries: Boundaries
    forcing: Forcing
    scheme: Scheme = Scheme()

    def start(self, depth: Tensor | None = None) -> State:
        """Water at rest of the given depth (B, H, W); dry if None. StudyError: not a depth of this simulation."""
        bed = self.ground.bed
        water = still(torch.zeros_like(bed) if depth is None else depth)
        if water.depth.shape != bed.shape or water.depth.dtype != bed.dtype:
            raise StudyError(f"the depth must be {tuple(bed.shape)} {bed.dtype}, as the bed is")
        if not water.depth.isfinite().all() or not (water.depth >= 0).all():
            raise StudyError("the depth at the start must be finite and >= 0")
        none = torch.zeros(len(water.depth), dtype=torch.float64)
        steps, initial = none.long(), self._volume(water.depth).cpu()
        return State(water.depth, water.qx, water.qy, none, steps, initial, none, none, none)

    def advance(self, state: State, until: float, at_most: int | None = None) -> State:
        """Every flood at the time `until` in s; after `at_most` steps, wherever they are then.

        Steps are whole ones but the last, which ends exactly at `until`. Floods that are there wait unchanged.
        StudyError: a depth that is not finite.
        """
        bounds = self.boundaries.deepest(self.ground.bed), self.boundaries.greatest_share()
        outside, share = (each.double().cpu().numpy() for each in bounds)
        taken = 0
        while taken != at_most and bool((state.time < until).any()):
            state = self._step(state, until, outside, share)
            taken += 1
        wrong = (~state.depth.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if wrong:
            raise StudyError(f"floods {wrong} of the batch have depths that are not finite; check bed and forcing")
        return state

    def snapshots(self, state: State, interval: float, until: float) -> Iterator[State]:
        """The states at the multiples of `interval` s after the given one, up to `until`; not the given one itself."""
        number = 1
        while number * interval <= until:
            if bool((state.time < number * interval).any()):
                state = self.advance(state, number * interval)
                yield state
            number += 1

    def balance(self, state: State) -> Balance:
        stored = self._volume(state.depth).cpu()
        error = stored - (state.initial + state.inflow + state.rain - state.outflow)
        return Balance(state.time, stored, state.inflow, state.rain, state.outflow, error)

    def _step(self, state: State, until: float, outside: Array, share: Array) -> State:
        time = state.time.numpy()
        left = np.maximum(until - time, 0)
        seconds = np.minimum(self._seconds(state, outside, share), left)
        inflow, rain = self.forcing.at(time + seconds / 2)  # exact for forcing that is linear within the step
        given = torch.from_numpy(np.stack([seconds, inflow, rain])).to(state.depth)  # what the water gets
        water = Water(state.depth, state.qx, state.qy)
        water, entered, gone = step(self.ground, self.boundaries, self.scheme, water, *given)
        fallen = given[0].double() * given[2].double() * self._area()
        volumes = torch.stack([entered, fallen, gone]).cpu()
        return State(
            water.depth,
            water.qx,
            water.qy,
            torch.from_numpy(np.where((left > 0) & (seconds == left), until, time + seconds)),
            state.steps + torch.from_numpy(seconds > 0),
            state.initial,
            state.inflow + volumes[0],
            state.rain + volumes[1],
            state.outflow + volumes[2],
        )

    def _seconds(self, state: State, outside: Array, share: Array) -> Array:
        """The longest step (B,), with the greatest forcing until the end that the present depth alone would allow."""
        spacing, time = self.ground.spacing, state.time.numpy()
        deepest = np.maximum(state.depth.flatten(1).amax(1).double().cpu().numpy(), outside)
        inflow, rain = self.forcing.greatest(time, time + by_depth(deepest, spacing, self.scheme))
        return longest_step(deepest, rain + inflow * share / spacing**2, spacing, self.scheme)

    def _area(self) -> float:
        return self.ground.bed[0].numel() * self.ground.spacing**2

    def _volume(self, depth: Tensor) -> Tensor:
        return depth.double().sum((1, 2)) * self.ground.spacing**2


def table(balances: Sequence[Balance], flood: int = 0) -> str:
    """Mass balance of one flood of the batch as text, a line for each state; volumes in m3."""
    names = [field.name for field in fields(Balance) if field.name != "time"]
    lines = ["".join([f"{'hours':>7}", *(f"{name + ' m3':>16}" for name in names)])]
    for balance in balances:
        volumes = [float(getattr(balance, name)[flood]) for name in names[:-1]]
        numbers = [*(f"{volume:16.1f}" for volume in volumes), f"{float(balance.error[flood]):16.2e}"]
        lines.append("".join([f"{float(balance.time[flood]) / 3600:7.2f}", *numbers]))
    return "\n".join(lines)
