"""Study flood: the simulator against exact solutions, symmetries, conservation of mass, and exact resume."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roundhouse.errors import RoundhouseError
from studies.flood.boundaries import Boundaries, Side, closed, fixed_stage, free_outfall, inflow
from studies.flood.simulation import Forcing, Simulation, State, constant, table
from studies.flood.solver import GRAVITY, Scheme, by_depth, critical_flux, longest_step, make_ground, step, still

SEEDS = st.integers(0, 2**32)
FEW = settings(deadline=None, max_examples=8)
MANY = settings(deadline=None, max_examples=200)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def simulation(
    bed: Tensor,
    roughness: float | Tensor = 0.03,
    spacing: float = 10.0,
    forcing: tuple[float, float] | Forcing = (0.0, 0.0),
    **sides: Side,
) -> Simulation:
    """Closed, without forcing, unless something else is given."""
    roughness = roughness if isinstance(roughness, Tensor) else torch.full_like(bed, roughness)
    if isinstance(forcing, tuple):
        forcing = constant(*(bed.new_full((len(bed),), each) for each in forcing))
    return Simulation(make_ground(bed, roughness, spacing), replace(closed(bed), **sides), forcing)


def mixed(seed: int, count: int = 1, height: int = 8, width: int = 9) -> tuple[Simulation, Tensor]:
    """A rough bed with every kind of boundary, inflow, rain, and water on a part of the cells."""
    draw = iter(uniform(seed, 12, count, max(height, width) + 1, max(height, width) + 1))
    bed = 3 * next(draw)[:, :height, :width]
    depth = (2 * next(draw)[:, :height, :width] - 1).clamp(min=0)
    roughness = 0.02 + 0.1 * next(draw)[:, :height, :width]
    free = free_outfall(0.01 * next(draw)[:, :height, 0])
    stage = 4 * next(draw)[:, :width, 0] - 1
    stage = torch.where(next(draw)[:, :width, 0] < 0.5, stage, torch.nan)
    times = torch.tensor([0.0, 100.0, 900.0], dtype=torch.float64).repeat(count, 1)
    numbers = next(draw).flatten(1)
    forcing = Forcing(times, 20 * numbers[:, :3], 1e-5 * numbers[:, 1:4])
    weights = inflow(next(draw)[:, :height, 0])
    return simulation(bed, roughness, forcing=forcing, left=weights, right=free, top=fixed_stage(stage)), depth


# Exact solutions


@FEW
@given(seed=SEEDS, eighths=st.integers(0, 96))
def test_a_lake_on_a_rough_bed_stays_exactly_at_rest(seed: int, eighths: int) -> None:
    bed = 10 * uniform(seed, 2, 6, 7)
    level = torch.full_like(bed, eighths / 8)
    lake = simulation(bed, top=fixed_stage(level[:, 0]))
    start = lake.start((level - bed).clamp(min=0))
    end = lake.advance(start, 100.0, at_most=10)
    assert ((end.steps == 10) | (end.time == 100)).all()
    assert not end.qx.any() and not end.qy.any() and torch.equal(end.depth, start.depth)


@FEW
@given(seed=SEEDS, level=st.floats(0, 12))
def test_in_float32_a_lake_moves_by_less_than_rounding(seed: int, level: float) -> None:
    bed = (10 * uniform(seed, 2, 6, 7)).float()
    lake = simulation(bed)
    end = lake.advance(lake.start((level - bed).clamp(min=0)), 100.0, at_most=20)
    assert end.depth.dtype == end.qx.dtype == torch.float32
    assert max(end.qx.abs().max(), end.qy.abs().max()) < 1e-4


def test_water_on_a_plane_takes_normal_depth() -> None:
    """Manning: h = (q n / sqrt(S0))^(3/5), here at Froude numbers of .33 and .81."""
    slopes, roughness, q = torch.tensor([1e-3, 8e-3], dtype=torch.float64), 0.03, 1.5
    bed = (slopes[:, None, None] * 10 * torch.arange(20, 0, -1)).repeat(1, 3, 1)
    weights, outfall = inflow(torch.ones_like(bed[:, :, 0])), free_outfall(slopes[:, None].repeat(1, 3))
    plane = simulation(bed, roughness, forcing=(q * 30, 0), left=weights, right=outfall)
    end = plane.advance(plane.start(), 1300.0)
    expected = (q * roughness / slopes.sqrt()) ** (3 / 5)
    froude = q / (expected * (GRAVITY * expected).sqrt())
    assert froude[0] < 0.35 and 0.8 < froude[1] < 1
    assert torch.allclose(end.depth, expected[:, None, None].expand_as(bed), rtol=1e-6)
    assert torch.allclose(end.qx, torch.tensor(q, dtype=torch.float64), rtol=1e-6)


@pytest.mark.parametrize(("dx", "inlet", "tolerance"), [(50.0, 0.0, 0.03), (25.0, -12.5, 0.02)])
def test_a_wetting_front_follows_hunters_solution(dx: float, inlet: float, tolerance: float) -> None:
    """Hunter et al. (2005), flat bed, constant u: h(x, t) = [(7/3) n^2 u^2 (u t - x)]^(3/7).

    The depth outside is the exact one at `inlet`. The error is that of the front, which runs ahead by about a cell.
    """
    u, n, end, time = 0.29, 0.01, 3600.0, 0.0
    bed = torch.zeros(1, 1, round(1500 / dx), dtype=torch.float64)
    ground, scheme, none = make_ground(bed, torch.full_like(bed, n), dx), Scheme(), bed.new_zeros(1)
    centres = dx * (torch.arange(bed.shape[2], dtype=torch.float64) + 0.5)

    def exact(x: Tensor, time: float) -> Tensor:
        return (7 / 3 * n**2 * u**2 * (u * time - x).clamp(min=0)) ** (3 / 7)

    water, outside = still(bed), bed.new_full((1, 1), inlet)
    while time < end:
        deepest = torch.maximum(water.depth.max(), exact(outside, time + 5)).flatten()
        seconds = torch.from_numpy(by_depth(deepest.numpy(), dx, scheme)).clamp(max=end - time)
        time += seconds.item()
        sides = replace(closed(bed), left=fixed_stage(exact(outside, time)))
        water, _, _ = step(ground, sides, scheme, water, seconds, none, none)
    expected = exact(centres, end)
    errors = (water.depth[0, 0] - expected) / expected.max()
    assert errors.square().mean().sqrt() < tolerance
    assert errors[centres < u * end - 200].abs().max() < 0.02


def test_water_rises_to_a_fixed_stage_and_falls_to_it() -> None:
    bed = uniform(0, 2, 5, 6)
    box = simulation(bed, roughness=0.2, right=fixed_stage(torch.full_like(bed[:, :, 0], 2.0)))
    depth = torch.stack([torch.zeros_like(bed[0]), 3 - bed[1]])
    level = box.advance(box.start(depth), 600.0).depth + bed
    assert torch.allclose(level, torch.tensor(2.0, dtype=torch.float64), atol=5e-3)


def test_the_first_step_on_a_dry_bed_expects_the_stage_outside() -> None:
    bed = torch.zeros(1, 5, 5, dtype=torch.float64)
    box = simulation(bed, left=fixed_stage(torch.full_like(bed[:, 0], 5.0)))
    state = box.advance(box.start(), 100.0, at_most=1)
    assert state.time.item() == pytest.approx(0.7 * 10 / math.sqrt(GRAVITY * 5))


def test_the_inflow_is_the_integral_of_the_hydrograph() -> None:
    times = torch.tensor([[0.0, 100.0, 300.0, 400.0]], dtype=torch.float64)
    hydrograph = torch.tensor([[0.0, 40.0, 10.0, 0.0]], dtype=torch.float64)
    forcing = Forcing(times, hydrograph, torch.full_like(times, 1e-5))
    bed = torch.zeros(1, 8, 8, dtype=torch.float64)
    box = simulation(bed, forcing=forcing, bottom=inflow(torch.eye(8, dtype=torch.float64)[:1]))
    balance = box.balance(box.advance(box.start(), 600.0))
    assert balance.inflow.item() == pytest.approx(2000 + 5000 + 500, rel=1e-3)
    assert balance.rain.item() == pytest.approx(6400 * 1e-5 * 600, rel=1e-12)


def test_water_below_the_bed_outside_lets_water_fall_out_as_a_level_at_the_bed_does() -> None:
    bed = uniform(1, 1, 4, 5)
    ends = []
    for stage in (bed[:, :, 0], bed[:, :, 0] - 50):
        box = simulation(bed, left=fixed_stage(stage))
        ends.append(box.advance(box.start(2 - bed), 100.0).depth)
    assert torch.equal(*ends) and ends[0].sum() < (2 - bed).sum()


def test_no_flux_is_faster_than_critical() -> None:
    """A dam that breaks above a cliff: without the cap, the slope of the level would drive it beyond."""
    bed = torch.tensor([[[9.0, 9.0, 0.0, 0.0]]], dtype=torch.float64)
    dam = simulation(bed, roughness=0.01)
    state = dam.start(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]], dtype=torch.float64))
    fastest = []
    for _ in range(5):
        depth = state.depth[0, 0, 1]
        state = dam.advance(state, 60.0, at_most=1)
        fastest.append((state.qx[0, 0, 2] / critical_flux(depth)).item())
    assert max(fastest) == pytest.approx(1, rel=1e-9)


# Mass and positivity


@FEW
@given(seed=SEEDS)
def test_a_closed_basin_keeps_its_mass(seed: int) -> None:
    _, depth = mixed(seed, 3)
    basin = simulation(3 * uniform(seed + 1, *depth.shape))
    end = basin.advance(basin.start(depth), 300.0, at_most=30)
    balance = basin.balance(end)
    assert (end.depth != depth).any()
    assert (balance.error.abs() <= 1e-12 * end.initial).all()
    assert not balance.inflow.any() and not balance.outflow.any()


@FEW
@given(seed=SEEDS)
def test_all_water_is_in_the_table_of_mass(seed: int) -> None:
    flood, depth = mixed(seed, 3)
    balance = flood.balance(flood.advance(flood.start(depth), 300.0, at_most=30))
    assert (balance.inflow > 0).all() and (balance.outflow > 0).all() and (balance.rain > 0).all()
    assert (balance.error.abs() <= 1e-12 * (balance.stored + balance.inflow + balance.outflow)).all()


def test_no_depth_is_negative_in_a_thousand_floods() -> None:
    flood, depth = mixed(7, 1000)
    state = flood.start(depth)
    for _ in range(40):
        state = flood.advance(state, 600.0, at_most=1)
        assert state.depth.min() >= 0 and state.depth.isfinite().all()


@FEW
@given(seed=SEEDS, height=st.integers(1, 6), width=st.integers(1, 6))
def test_no_depth_is_negative_on_any_grid(seed: int, height: int, width: int) -> None:
    flood, depth = mixed(seed, 2, height, width)
    end = flood.advance(flood.start(depth), 600.0, at_most=40)
    assert end.depth.min() >= 0


def test_an_inflow_on_a_dry_bed_does_not_blow_up() -> None:
    bed = 0.02 * torch.arange(16, 0, -1, dtype=torch.float64).repeat(1, 16, 1) + uniform(3, 1, 16, 16)
    river = inflow(torch.eye(16, dtype=torch.float64)[8:9])
    outfall = free_outfall(torch.full_like(river.share, 2e-3))
    flood = simulation(bed, forcing=(60.0, 0.0), left=river, right=outfall)
    state = flood.start()
    deepest = []
    for _ in range(60):
        state = flood.advance(state, 600.0, at_most=1)
        deepest.append(state.depth.max().item())
    assert flood.advance(flood.start(), 600.0, at_most=1).time < 4
    final = flood.advance(state, 600.0).depth.max().item()
    assert max(deepest) < 1.5 * final < 6


@MANY
@given(depth=st.floats(0, 50), rise=st.floats(0, 2), spacing=st.floats(0.5, 100))
def test_a_step_is_as_long_as_the_depth_at_its_end_allows(depth: float, rise: float, spacing: float) -> None:
    scheme = Scheme()
    h, r = (np.array([each]) for each in (depth, rise))
    seconds = longest_step(h, r, spacing, scheme).item()
    expected = depth + rise * seconds
    allowed = scheme.courant * spacing / math.sqrt(GRAVITY * expected) if expected else math.inf
    assert seconds == pytest.approx(min(allowed, scheme.longest), rel=1e-7)


# Symmetry, batches, resume


def turned(side: Boundaries) -> Boundaries:
    """By 90 degrees counterclockwise, as torch.rot90 does it."""
    return Boundaries(left=reversed_side(side.top), right=reversed_side(side.bottom), top=side.right, bottom=side.left)


def mirrored(side: Boundaries) -> Boundaries:
    """Left to right, as flip(-1) does it."""
    return Boundaries(side.right, side.left, reversed_side(side.top), reversed_side(side.bottom))


def reversed_side(side: Side) -> Side:
    return Side(side.stage.flip(1), side.share.flip(1), side.slope.flip(1))


@pytest.mark.parametrize(
    ("move_sides", "move"),
    [(turned, lambda x: x.rot90(1, (1, 2))), (mirrored, lambda x: x.flip(2))],
    ids=["turned", "mirrored"],
)
def test_a_turned_or_mirrored_flood_has_turned_or_mirrored_results(
    move_sides: Callable[[Boundaries], Boundaries], move: Callable[[Tensor], Tensor]
) -> None:
    flood, depth = mixed(5, 4)
    ground = make_ground(move(flood.ground.bed), move(flood.ground.roughness), flood.ground.spacing)
    other = replace(flood, ground=ground, boundaries=move_sides(flood.boundaries))
    end, other_end = flood.advance(flood.start(depth), 120.0), other.advance(other.start(move(depth)), 120.0)
    assert (move(end.depth) - other_end.depth).abs().max() < 1e-10
    assert not torch.allclose(end.depth, depth, atol=0.1)


def test_a_flood_in_a_batch_is_the_flood_alone() -> None:
    flood, depth = mixed(6, 3)
    together = flood.advance(flood.start(depth), 200.0)
    assert len(set(together.steps.tolist())) > 1
    for index in range(3):
        alone = single(flood, index)
        end = alone.advance(alone.start(depth[index : index + 1]), 200.0)
        assert end.steps[0] == together.steps[index]
        for name, tensor in end.tensors().items():
            assert torch.allclose(tensor[0], together.tensors()[name][index], rtol=1e-12, atol=1e-12), name


def single(flood: Simulation, index: int) -> Simulation:
    one = slice(index, index + 1)

    def side(of: Side) -> Side:
        return Side(of.stage[one], of.share[one], of.slope[one])

    ground, sides = flood.ground, flood.boundaries
    return Simulation(
        make_ground(ground.bed[one], ground.roughness[one], ground.spacing),
        Boundaries(side(sides.left), side(sides.right), side(sides.top), side(sides.bottom)),
        Forcing(*(table[one] for table in (flood.forcing.times, flood.forcing.inflow, flood.forcing.rain))),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_flood_restored_in_the_middle_is_the_same_bit_by_bit(dtype: torch.dtype) -> None:
    flood, depth = mixed(8, 3)
    ground = make_ground(flood.ground.bed.to(dtype), flood.ground.roughness.to(dtype), 10.0)
    flood = replace(flood, ground=ground)
    whole = list(flood.snapshots(flood.start(depth.to(dtype)), 60.0, 180.0))
    half = flood.advance(flood.advance(flood.start(depth.to(dtype)), 60.0), 120.0, at_most=7)
    assert (half.time < 120).all()
    file = io.BytesIO()
    torch.save(half.tensors(), file)
    file.seek(0)
    rest = list(flood.snapshots(State.restored(torch.load(file, weights_only=True)), 60.0, 180.0))
    assert [float(state.time[0]) for state in whole] == [60, 120, 180]
    assert len(rest) == 2
    for one, other in zip(whole[1:], rest, strict=True):
        assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


def test_a_flood_that_is_at_the_time_waits_unchanged_for_the_others() -> None:
    flood, depth = mixed(9, 3)
    state = replace(flood.advance(flood.start(depth), 50.0), time=torch.tensor([50.0, 45.0, 40.0]).double())
    end = flood.advance(state, 50.0)
    assert (end.time == 50).all() and (end.steps[1:] > state.steps[1:]).all()
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor[0], end.tensors()[name][0]), name
    assert torch.equal(flood.advance(end, 20.0).time, end.time)


# Forcing, errors, table


def test_a_forcing_is_linear_and_constant_outside() -> None:
    times, rain = torch.tensor([[0.0, 10.0, 20.0]]).double(), torch.tensor([[1.0, 3.0, 0.0]]).double()
    forcing = Forcing(times, 2 * rain, rain)
    for time, value in [(-5, 1), (0, 1), (5, 2), (10, 3), (15, 1.5), (20, 0), (99, 0)]:
        assert [each.item() for each in forcing.at(np.array([float(time)]))] == pytest.approx([2 * value, value])
    start, end = np.array([5.0]), np.array([19.0])
    assert [each.item() for each in forcing.greatest(start, end)] == [6, 3]
    assert [each.item() for each in forcing.greatest(start, start)] == [4, 2]


def test_what_is_wrong_is_refused() -> None:
    ones = torch.ones(1, 4, dtype=torch.float64)
    with pytest.raises(RoundhouseError, match="more than one"):
        Side(ones, ones, 0 * ones)
    with pytest.raises(RoundhouseError, match="positive sum"):
        inflow(0 * ones)
    with pytest.raises(RoundhouseError, match="increase"):
        Forcing(ones, ones, ones)
    with pytest.raises(RoundhouseError, match="T >= 2"):
        Forcing(ones[:, :1], ones[:, :1], ones[:, :1])
    with pytest.raises(RoundhouseError, match="not a state"):
        State.restored({"depth": ones})
    flood, depth = mixed(1)
    with pytest.raises(RoundhouseError, match=r"floods \[0\]"):
        flood.advance(replace(flood.start(depth), depth=depth * torch.nan), 10.0)
    with pytest.raises(RoundhouseError, match="finite and >= 0"):
        flood.start(depth - 5)
    with pytest.raises(RoundhouseError, match="as the bed is"):
        flood.start(depth.float())
    with pytest.raises(RoundhouseError, match="one dtype"):
        make_ground(depth, depth.float(), 10.0)
    with pytest.raises(RoundhouseError, match="must be > 0"):
        make_ground(depth, 0 * depth, 10.0)
    with pytest.raises(RoundhouseError, match=">= 0"):
        free_outfall(-ones)


def test_the_table_of_mass_has_a_line_for_each_state() -> None:
    flood, depth = mixed(2)
    states = [flood.start(depth), *flood.snapshots(flood.start(depth), 36.0, 72.0)]
    lines = table([flood.balance(state) for state in states]).splitlines()
    assert lines[0].split() == ["hours", "stored", "m3", "inflow", "m3", "rain", "m3", "outflow", "m3", "error", "m3"]
    assert [line.split()[0] for line in lines[1:]] == ["0.00", "0.01", "0.02"]
    assert float(lines[2].split()[1]) == pytest.approx(states[1].depth.sum().item() * 100, abs=0.05)
