"""Validation of simulated floods before training: each fault is one message, with the simulation and what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations

from torch import Tensor

from roundhouse.training import StudyError
from studies.flood.options import PATCH
from studies.flood.samples import DRY, Simulated
from studies.flood.terrain import FINE

DEEPEST = 30.0
"""m: a larger depth is taken for another unit."""
BED = (-500.0, 9000.0)
"""m: heights of land."""
RELIEF = 0.05
"""m: a bed with a smaller range is taken for another unit."""
STEEPEST = 10.0
"""m for each m: a steeper bed is taken for another unit."""
NEGATIVE = 1e-6
"""m: rounding in float32; a depth below -NEGATIVE is a fault."""
MASS = 1e-4
"""Largest difference from the balance, as a share of the largest volume: float32 rounds in each of many steps."""
WET = (0.002, 0.999)
"""Least and largest share of cells with a depth of DRY or more, at the snapshot where it is largest."""


def validate(sets: Mapping[str, Sequence[Simulated]], lead: int = 1) -> None:
    """Check the simulations of all sets. StudyError: with all faults, each in a line."""
    faults = [fault for floods in sets.values() for flood in floods for fault in faults_of(flood, lead)]
    faults += faults_of_split(sets)
    if faults:
        raise StudyError("\n".join(["the simulations cannot be used for training:", *faults]))


def faults_of(flood: Simulated, lead: int = 1) -> list[str]:
    """The faults of a simulation. Values are checked if the shapes are right, and their sizes if all are finite."""
    faults = (
        _shapes(flood, lead) or _not_finite(flood) or [*_units(flood), *_negative(flood), *_mass(flood), *_wet(flood)]
    )
    return [f"simulation {flood.simulation}: {fault}" for fault in faults]


def faults_of_split(sets: Mapping[str, Sequence[Simulated]]) -> list[str]:
    """Simulations in two sets, by number or by terrain, or twice in one; and floods of unequal shape."""
    found = []
    for (one, floods), (other, others) in combinations(sets.items(), 2):
        shared = sorted({flood.simulation for flood in floods} & {flood.simulation for flood in others})
        if shared:
            found.append(f"simulations {shared} are in the sets {one} and {other}: split by simulation")
    owners: dict[str, tuple[str, int]] = {}
    for name, floods in sets.items():
        for flood in floods:
            before = owners.setdefault(_digest(flood.fine), (name, flood.simulation))
            if before[0] != name and before[1] != flood.simulation:
                found.append(
                    f"simulation {flood.simulation} of the set {name} has the terrain of simulation {before[1]} of the "
                    f"set {before[0]}: give each simulation its own seed"
                )
        numbers = [flood.simulation for flood in floods]
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        if twice:
            found.append(f"simulations {twice} are twice in the set {name}: list each of them once")
    shapes = {tuple(flood.depths.shape) for floods in sets.values() for flood in floods}
    if len(shapes) > 1:
        found.append(
            f"depths have different shapes {sorted(shapes)}: simulate all floods with the same cells and hours"
        )
    return found


def _shapes(flood: Simulated, lead: int) -> list[str]:
    depths, fine, balance = flood.depths, flood.fine, flood.balance
    if depths.dim() != 3:
        return [f"depths have the shape {list(depths.shape)}, and need 3 dimensions: snapshots, rows, columns"]
    snapshots, rows, columns = depths.shape
    found = []
    if snapshots <= lead:
        found.append(f"it has {snapshots} snapshots, and a lead of {lead} needs {lead + 1}: simulate for longer")
    if min(rows, columns) < PATCH:
        found.append(f"it has {rows} x {columns} cells, and a patch needs {PATCH} x {PATCH}: use more cells")
    if fine.shape != (FINE * rows + 1, FINE * columns + 1):
        found.append(
            f"the bed has {list(fine.shape)} points, and {rows} x {columns} cells need "
            f"{[FINE * rows + 1, FINE * columns + 1]}"
        )
    if balance.shape != (snapshots,):
        found.append(f"the balance has the shape {list(balance.shape)}, and {snapshots} snapshots need [{snapshots}]")
    for name, values in _named(flood):
        if not values.is_floating_point():
            found.append(f"{name} is {values.dtype}, and must be a floating-point type")
    return found


def _not_finite(flood: Simulated) -> list[str]:
    found = []
    for name, values in _named(flood):
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            found.append(f"{name} has {len(bad)} values that are NaN or infinite, the first at {bad[0].tolist()}")
    return found


def _units(flood: Simulated) -> list[str]:
    found = []
    deepest = flood.depths.max().item()
    if deepest > DEEPEST:
        found.append(f"the largest depth is {deepest:.4g} m, above {DEEPEST:g} m: depths must be in metres")
    low, high = flood.fine.min().item(), flood.fine.max().item()
    if low < BED[0] or high > BED[1]:
        found.append(
            f"the bed lies between {low:.4g} and {high:.4g} m: heights must be in metres, {BED[0]:g} to {BED[1]:g}"
        )
    steepest = max(flood.fine.diff(dim=side).abs().max().item() for side in (0, 1)) * FINE / flood.spacing
    if steepest > STEEPEST or high - low < RELIEF:
        found.append(
            f"the bed has a range of {high - low:.4g} m and a slope of up to {steepest:.4g}: heights must be in "
            f"metres, with a range of at least {RELIEF:g} and slopes of at most {STEEPEST:g}"
        )
    return found


def _negative(flood: Simulated) -> list[str]:
    below = (flood.depths < -NEGATIVE).nonzero()
    if not len(below):
        return []
    lowest = flood.depths.min().item()
    return [
        f"{len(below)} depths are negative, down to {lowest:.4g} m, the first at {below[0].tolist()}: simulate it again"
    ]


def _mass(flood: Simulated) -> list[str]:
    """The change of the volume since the first snapshot, beside that of the balance."""
    volumes = flood.depths.double().sum((1, 2)) * flood.spacing**2
    balance = flood.balance.double()
    error = ((volumes - volumes[0]) - (balance - balance[0])).abs()
    limit = MASS * max(balance.abs().max().item(), volumes.abs().max().item())
    worst = int(error.argmax())
    if error[worst] <= limit:
        return []
    return [
        f"until snapshot {worst} the water changed by {volumes[worst] - volumes[0]:.6g} m3, and by the balance by "
        f"{balance[worst] - balance[0]:.6g} m3: they may differ by {limit:.3g} m3; simulate it again"
    ]


def _wet(flood: Simulated) -> list[str]:
    share = (flood.depths >= DRY).double().mean((1, 2)).max().item()
    if WET[0] <= share <= WET[1]:
        return []
    return [
        f"at most {100 * share:.3g} % of its cells are wet ({DRY:g} m or more), and {100 * WET[0]:g} to "
        f"{100 * WET[1]:g} % are plausible: check inflow, rain and boundaries"
    ]


def _named(flood: Simulated) -> list[tuple[str, Tensor]]:
    return [("depth", flood.depths), ("bed", flood.fine), ("balance", flood.balance)]


def _digest(values: Tensor) -> str:
    whole = values.detach().cpu().float().contiguous().numpy()
    return hashlib.sha256(whole.tobytes()).hexdigest()
