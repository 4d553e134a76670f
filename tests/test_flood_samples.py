"""Study flood: terrain, forcing, samples and their validation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roundhouse.errors import RoundhouseError
from roundhouse.training.keep import encoded
from studies.flood import forcing, samples, terrain
from studies.flood.options import PATCH
from studies.flood.predictions import from_ring
from studies.flood.samples import (
    DRY,
    RING,
    SPLITS,
    Batch,
    SampleSet,
    Simulated,
    content,
    cut,
    cut_all,
    on_ring,
    split_simulations,
    turn,
)
from studies.flood.validation import faults_of, faults_of_split, validate

SEEDS = st.integers(0, 2**32)
FEW = settings(deadline=None, max_examples=10)
MANY = settings(deadline=None, max_examples=100)
CELLS = 40


def flood(simulation: int = 0, cells: int = CELLS, snapshots: int = 3) -> Simulated:
    """A valid one with random depths, of which about a half are 0."""
    generator = torch.Generator().manual_seed(simulation)
    depths = torch.randn(snapshots, cells, cells, generator=generator).clamp(min=0)
    fine = torch.rand(10 * cells + 1, 10 * cells + 1, generator=generator)
    return Simulated(simulation, fine, depths, 100 * depths.double().sum((1, 2)))


def all_of(found: samples.Samples) -> samples.Batch:
    return found.batch(torch.arange(len(found)))


# Terrain


@pytest.fixture(scope="module")
def drawn() -> terrain.Terrain:
    return terrain.draw(seed=3, cells=24)


def test_a_terrain_has_both_resolutions_and_comes_from_its_seed(drawn: terrain.Terrain) -> None:
    assert drawn.fine.shape == (241, 241) and drawn.fine.dtype == torch.float32
    assert drawn.coarse.shape == drawn.roughness.shape == drawn.land_use.shape == (24, 24)
    again, other = terrain.draw(3, 24), terrain.draw(4, 24)
    assert all(torch.equal(getattr(drawn, name), getattr(again, name)) for name in ("fine", "coarse", "roughness"))
    assert not torch.equal(drawn.fine, other.fine)


def test_a_cell_is_the_mean_of_its_squares(drawn: terrain.Terrain) -> None:
    rows, columns = slice(50, 61), slice(120, 131)
    squares = [drawn.fine[rows, columns][i : i + 2, j : j + 2].double().mean() for i in range(10) for j in range(10)]
    assert drawn.coarse[5, 12].item() == pytest.approx(torch.stack(squares).mean().item(), rel=1e-6)


@pytest.mark.parametrize("orientation", range(8))
def test_the_cells_of_a_turned_bed_are_turned(drawn: terrain.Terrain, orientation: int) -> None:
    turned = terrain.coarsen(turn(drawn.fine.double(), orientation))
    assert (turned - turn(terrain.coarsen(drawn.fine.double()), orientation)).abs().max() < 1e-12


@FEW
@given(seed=SEEDS)
def test_water_can_flow_from_the_inlet_to_the_outlet_in_the_channel(seed: int) -> None:
    found = terrain.draw(seed, 16)
    channel = found.land_use == list(terrain.LAND_USES).index("channel")
    assert channel.any(0).all()  # in every column
    assert len(found.inlet) and channel[found.inlet, 0].all()
    assert found.outlet.tolist() == list(range(16))
    reached = torch.zeros(1, 1, 16, 16)
    reached[0, 0, found.inlet, 0] = 1
    for _ in range(64):
        beside = F.max_pool2d(reached, (3, 1), 1, (1, 0)).maximum(F.max_pool2d(reached, (1, 3), 1, (0, 1)))
        reached = beside * channel
    assert reached[..., -1].any()
    lowest = found.coarse.where(channel, math.inf).amin(0)
    assert (lowest.diff() < 0.5).all()  # no road closes it


def test_roughness_follows_the_land_use(drawn: terrain.Terrain) -> None:
    assert torch.equal(drawn.roughness, torch.tensor([0.03, 0.016, 0.04, 0.1])[drawn.land_use])
    assert drawn.land_use.unique().tolist() == [0, 1, 2, 3]


def test_roads_are_raised() -> None:
    shape = terrain._shape(3)
    with_roads = terrain._bed(shape, terrain._line(241, 240.0), torch.zeros(241, 241))
    without = terrain._bed(replace(shape, roads=()), terrain._line(241, 240.0), torch.zeros(241, 241))
    raised = with_roads - without
    assert raised.min() == 0
    assert raised.max().item() == pytest.approx(max(height for _, _, height in shape.roads))


def test_the_shape_of_a_terrain_does_not_depend_on_the_cells(drawn: terrain.Terrain) -> None:
    larger = terrain.draw(3, 48)
    assert larger.slope == drawn.slope
    share = [each.inlet.double().add(0.5).mean().item() / len(each.coarse) for each in (drawn, larger)]
    assert share[0] == pytest.approx(share[1], abs=1 / 24)


def test_the_relief_has_its_exponent_and_its_scale() -> None:
    """The mean square of a difference over a distance s grows as s^(2 H), and its scale is that of any square."""
    squares = {}
    for points in (129, 257):
        drawn = torch.stack([terrain.relief(seed, points, 1.0) for seed in range(10)])
        for distance in (4, 16):
            difference = drawn[:, distance:] - drawn[:, :-distance]
            squares[points, distance] = difference.square().mean().item()
    assert math.log(squares[257, 16] / squares[257, 4]) / math.log(4) == pytest.approx(2 * terrain.HURST, abs=0.15)
    assert squares[129, 4] == pytest.approx(squares[257, 4], rel=0.1)


def test_a_relief_is_not_periodic() -> None:
    found = terrain.relief(0, 129, 1.0)
    step = (found[:, 1:] - found[:, :-1]).abs().mean()
    assert (found[:, 0] - found[:, -1]).abs().mean() > 4 * step


@pytest.mark.parametrize(("cells", "spacing"), [(7, 10.0), (16, 0.0)])
def test_an_impossible_terrain_is_an_error(cells: int, spacing: float) -> None:
    with pytest.raises(RoundhouseError, match="cells >= 8 and spacing > 0"):
        terrain.draw(0, cells, spacing)


def test_a_preview_is_a_picture(drawn: terrain.Terrain, tmp_path: Path) -> None:
    terrain.preview(drawn, tmp_path / "terrain.png", depth=torch.rand(24, 24))
    assert (tmp_path / "terrain.png").read_bytes().startswith(b"\x89PNG")


# Forcing


@MANY
@given(seed=SEEDS)
def test_an_inflow_has_its_peak_when_it_is_due(seed: int) -> None:
    drawn, numbers = forcing.draw(seed, 4), forcing.draw_hydrograph(seed)
    assert 10 <= drawn.inflow.max() <= 60 and drawn.inflow.min() >= 0
    assert drawn.inflow.max().item() == pytest.approx(numbers.peak)
    assert drawn.times[drawn.inflow.argmax()] == 60 * numbers.minutes_to_peak
    assert drawn.inflow[0].item() == pytest.approx(0.05 * numbers.peak)


@MANY
@given(seed=SEEDS)
def test_a_storm_brings_the_rain_of_its_return_period(seed: int) -> None:
    drawn, storm = forcing.draw(seed, 4), forcing.draw_storm(seed)
    fallen = torch.trapezoid(drawn.rain, drawn.times).item()
    if storm is None:
        assert fallen == 0
    else:
        assert 2 <= storm.return_period <= 100 and storm.duration in range(15, 121, 5) and 0 <= storm.start <= 60
        assert fallen == pytest.approx(60 * storm.duration * forcing.intensity(storm.return_period, storm.duration))


def test_half_of_the_floods_have_rain() -> None:
    assert sum(forcing.draw_storm(seed) is not None for seed in range(400)) == pytest.approx(200, abs=50)


def test_the_intensity_is_that_of_the_formula() -> None:
    assert 3.6e6 * forcing.intensity(10, 60) == pytest.approx(900 * 10**0.2 / 70**0.8)
    assert 3.6e6 * forcing.intensity(10, 60) == pytest.approx(47.7, abs=0.1)


@MANY
@given(seed=SEEDS, hours=st.floats(0.1, 3))
def test_a_longer_forcing_begins_with_the_same_values(seed: int, hours: float) -> None:
    short, long = forcing.draw(seed, hours), forcing.draw(seed, 4)
    rows = len(short.times)
    assert short.times[-1] >= 3600 * hours
    for name in ("times", "inflow", "rain"):
        assert torch.equal(getattr(short, name), getattr(long, name)[:rows])


@pytest.mark.parametrize("hours", [0.0, -1.0, math.inf, math.nan])
def test_impossible_hours_are_an_error(hours: float) -> None:
    with pytest.raises(RoundhouseError, match="hours > 0"):
        forcing.draw(0, hours)


# The split


@MANY
@given(counts=st.tuples(st.integers(1, 90), st.integers(0, 20), st.integers(0, 20)), seed=SEEDS)
def test_a_split_has_its_counts_and_no_simulation_twice(counts: tuple[int, int, int], seed: int) -> None:
    found = split_simulations(*counts, seed=seed)
    assert tuple(len(found[name]) for name in SPLITS) == counts
    assert sorted(number for numbers in found.values() for number in numbers) == list(range(sum(counts)))
    assert found == split_simulations(*counts, seed=seed)


def test_another_seed_gives_another_split() -> None:
    assert split_simulations(84, 18, 18, seed=0) != split_simulations(84, 18, 18, seed=1)


def test_an_impossible_split_is_an_error() -> None:
    with pytest.raises(RoundhouseError, match="'train': 0"):
        split_simulations(0, 1, 1, seed=0)


def test_no_water_of_a_simulation_is_in_two_sets() -> None:
    """Each simulation has its own depth, and stripes of its own height on its bed: they say where a patch comes from.

    Shuffling patches before the split would give each set patches of all simulations.
    """
    one = flood()
    stripes = (torch.arange(len(one.fine)) % 2.0).expand_as(one.fine)
    floods = [
        replace(one, simulation=number, depths=torch.full_like(one.depths, number + 1), fine=stripes * number)
        for number in range(7)
    ]
    split = split_simulations(4, 2, 1, seed=5)
    sets = cut_all(floods, split, stride=4)
    for name, found in sets.items():
        assert found.simulations == split[name]
        assert found.places[:, 0].unique().tolist() == list(range(len(split[name])))
        first_of_each = torch.arange(0, len(found), max(1, len(found) // 24))
        batch = found.batch(first_of_each)
        assert set(batch.depth.unique().tolist()) == {number + 1.0 for number in split[name]}
        heights = (batch.terrain.amax((1, 2, 3)) - batch.terrain.amin((1, 2, 3))).round()
        assert set(heights.tolist()) == {float(number) for number in split[name]}


def test_a_missing_simulation_is_an_error() -> None:
    with pytest.raises(RoundhouseError, match=r"simulations \[1, 2\] of the split are missing"):
        cut_all([flood()], {"train": (0,), "validation": (1, 2), "test": ()})


# Samples


def test_a_sample_has_its_parts() -> None:
    one = flood(snapshots=4)
    found = cut("test", [one], lead=2, stride=8)
    assert len(found) == 2 * 4  # pairs of snapshots, corners
    batch = found.batch(torch.tensor([5, 0]))
    assert [part.shape for part in batch] == [(2, 1, 321, 321), *[(2, 1, 32, 32)] * 3]
    now, later = one.depths[1, 0:32, 8:40], one.depths[3, 0:32, 8:40]
    assert torch.equal(batch.depth[0, 0], now)
    assert torch.equal(batch.target[0, 0], later - now)
    for bed, patch in zip(batch.terrain[:, 0], (one.fine[0:321, 80:401], one.fine[0:321, 0:321]), strict=True):
        torch.testing.assert_close(bed, patch - patch.mean())


def test_the_boundary_is_the_depth_to_come_on_a_ring_of_two_cells() -> None:
    found = cut("train", [flood()], stride=8)
    batch = all_of(found)
    later = batch.depth + batch.target
    ring = torch.ones(32, 32, dtype=torch.bool)
    ring[2:30, 2:30] = False
    assert RING == 2 and ring.sum() == 32**2 - 28**2
    assert (batch.boundary - later)[..., ring].abs().max() < 1e-6
    assert (batch.boundary[..., ~ring] == 0).all()


@pytest.mark.parametrize("orientation", range(8))
def test_a_turned_sample_is_the_sample_of_the_turned_flood(orientation: int) -> None:
    one = flood()
    turned = replace(one, fine=turn(one.fine, orientation), depths=turn(one.depths, orientation))
    found = cut("train", [one], stride=8)
    batch = found.batch((found.places[:, 4] == orientation).nonzero().flatten())
    expected = all_of(cut("test", [turned], stride=8))
    for part, other in zip(batch, expected, strict=True):
        in_order = sorted(range(len(part)), key=lambda index, values=part: values[index].flatten()[:40].tolist())
        other_order = sorted(range(len(other)), key=lambda index, values=other: values[index].flatten()[:40].tolist())
        assert torch.equal(part[in_order], other[other_order])


def test_the_eight_orientations_differ() -> None:
    square = torch.arange(9.0).reshape(3, 3)
    assert torch.equal(turn(square, 0), square)
    assert len({tuple(turn(square, value).flatten().tolist()) for value in range(8)}) == 8


def test_only_samples_for_training_are_turned() -> None:
    found = {name: cut(name, [flood()], stride=8) for name in SPLITS}
    assert len(found["train"]) == 8 * len(found["validation"]) == 8 * len(found["test"])
    assert found["train"].places[:8, 4].tolist() == list(range(8))
    assert not found["test"].places[:, 4].any()


def brightest_at(depth: float, snapshot: int) -> Simulated:
    """All cells dry but one, which is in the first and the second of the four patches with stride 8."""
    one = flood()
    depths = torch.zeros_like(one.depths)
    depths[snapshot, 4, 20] = depth
    return replace(one, depths=depths)


@pytest.mark.parametrize(("snapshot", "pairs"), [(0, {0}), (1, {0, 1}), (2, {1})])
def test_a_patch_is_dropped_if_both_states_are_dry(snapshot: int, pairs: set[int]) -> None:
    found = cut("train", [brightest_at(DRY, snapshot)], stride=8)
    kept = {tuple(place[1:4]) for place in found.places.tolist()}
    assert kept == {(pair, 0, column) for pair in pairs for column in (0, 8)}
    assert found.dropped == 8 - len(kept)  # counted before the turns
    assert len(found) == 8 * len(kept)


def test_a_set_without_water_is_an_error() -> None:
    with pytest.raises(RoundhouseError, match="all 8 patches of the test set are dry"):
        cut("test", [brightest_at(0.99 * DRY, 1)], stride=8)


def test_samples_of_a_simulation_do_not_depend_on_the_others() -> None:
    floods = [flood(number) for number in range(3)]
    together, alone = cut("train", floods, stride=8), cut("train", floods[1:2], stride=8)
    rows = (together.places[:, 0] == 1).nonzero().flatten()
    for part, other in zip(together.batch(rows), all_of(alone), strict=True):
        assert torch.equal(part, other)


def test_cells_beyond_a_patch_do_not_change_it() -> None:
    large = flood(cells=48)
    small = replace(large, fine=large.fine[:401, :401], depths=large.depths[:, :40, :40])
    found = cut("test", [large], stride=8)
    rows = (found.places[:, 2:4] <= 8).all(1).nonzero().flatten()
    for part, other in zip(found.batch(rows), all_of(cut("test", [small], stride=8)), strict=True):
        assert torch.equal(part, other)


# The file of a set


def test_a_set_is_the_same_after_it_was_written(tmp_path: Path) -> None:
    written = cut("train", [flood(4), flood(9)], stride=8)
    (tmp_path / "samples.pth").write_bytes(encoded("samples.pth", content(SampleSet("small", {"train": written}))))
    whole = samples.read(tmp_path / "samples.pth")
    found = whole.splits["train"]
    assert (whole.name, list(whole.splits)) == ("small", ["train"])
    assert found.simulations == (4, 9)
    for name, value in vars(written).items():
        same = torch.equal(value, getattr(found, name)) if isinstance(value, Tensor) else value == getattr(found, name)
        assert same, name


def test_a_changed_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "samples.pth"
    data = bytearray(encoded(path.name, content(SampleSet("small", {"test": cut("test", [flood()])}))))
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RoundhouseError, match="samples.pth is corrupted: its SHA-256 differs"):
        samples.read(path)


# Validation


def changed(
    depth: Callable[[Tensor], Tensor] | None = None, fine: Callable[[Tensor], Tensor] | None = None
) -> Simulated:
    """A flood whose depths (with their balance) or bed are changed."""
    one = flood(6)
    depths = depth(one.depths) if depth else one.depths
    balance = 100 * depths.double().nan_to_num().sum((1, 2))
    return replace(one, depths=depths, fine=fine(one.fine) if fine else one.fine, balance=balance)


def with_value(value: float) -> Callable[[Tensor], Tensor]:
    def put(values: Tensor) -> Tensor:
        values = values.clone()
        values[(1,) * values.dim()] = value
        return values

    return put


FAULTS = {
    "1 values that are NaN or infinite, the first at [1, 1, 1]": changed(depth=with_value(math.nan)),
    "bed has 1 values that are NaN or infinite, the first at [1, 1]": changed(fine=with_value(math.inf)),
    "depths must be in metres": changed(depth=lambda depths: 1000 * depths),
    "the bed lies between": changed(fine=lambda fine: fine + 10_000),
    "slope of up to": changed(fine=lambda fine: 1000 * fine),
    "range of 0.001 m": changed(fine=lambda fine: fine / 1000),
    "1 depths are negative, down to -0.5 m, the first at [1, 1, 1]": changed(depth=with_value(-0.5)),
    "until snapshot 1 the water changed by": replace(flood(6), balance=flood(6).balance * torch.tensor([1, 1.01, 1])),
    "at most 0 % of its cells are wet": changed(depth=lambda depths: depths / 1e6),
    "at most 100 % of its cells are wet": changed(depth=lambda depths: depths + 1),
    "has 1 snapshots, and a lead of 1 needs 2": changed(depth=lambda depths: depths[:1]),
    "has 31 x 31 cells": changed(depth=lambda depths: depths[:, :31, :31], fine=lambda fine: fine[:311, :311]),
    "the bed has [400, 400] points": changed(fine=lambda fine: fine[:400, :400]),
    "the balance has the shape [2]": replace(flood(6), balance=torch.zeros(2)),
    "need 3 dimensions": replace(flood(6), depths=torch.zeros(40, 40)),
    "bed is torch.int64": changed(fine=lambda fine: fine.long()),
}


@pytest.mark.parametrize("message", FAULTS)
def test_each_fault_is_one_message(message: str) -> None:
    found = faults_of(FAULTS[message])
    assert len(found) == 1
    assert found[0].startswith("simulation 6: ") and message in found[0]


def test_valid_floods_have_no_fault() -> None:
    validate({"train": [flood(0), flood(1)], "validation": [flood(2)], "test": []})
    assert faults_of(changed(depth=with_value(-1e-9))) == []  # rounding


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(RoundhouseError) as error:
        validate({"train": [changed(depth=with_value(math.nan)), flood(1)], "test": [flood(1)]})
    _, first, second = str(error.value).splitlines()
    assert "simulation 6: depth has 1 values" in first
    assert "simulations [1] are in the sets train and test" in second


def test_sets_must_be_disjoint() -> None:
    same_bed = replace(flood(8), fine=flood(1).fine)
    assert faults_of_split({"train": [flood(1)], "validation": [flood(2)]}) == []
    assert "simulations [1] are in the sets" in faults_of_split({"train": [flood(1)], "test": [flood(1)]})[0]
    assert "has the terrain of simulation 1" in faults_of_split({"train": [flood(1)], "test": [same_bed]})[0]
    assert "simulations [1] are twice" in faults_of_split({"train": [flood(1), flood(1)]})[0]
    assert "different shapes" in faults_of_split({"train": [flood(1)], "test": [flood(2, snapshots=4)]})[0]


def test_a_drawn_terrain_is_valid() -> None:
    drawn = terrain.draw(0, PATCH)
    depths = (drawn.coarse.mean() - drawn.coarse).clamp(min=0).expand(2, -1, -1)
    assert faults_of(Simulated(0, drawn.fine, depths, 100 * depths.double().sum((1, 2)))) == []


def test_the_ring_alone_tells_a_change_that_is_linear_and_is_worse_for_any_other() -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    linear = 0.1 + 0.01 * rows - 0.02 * columns
    inside = torch.zeros(32, 32)
    inside[RING:-RING, RING:-RING] = 0.5
    depth = torch.rand(2, 1, 32, 32)
    true = torch.stack([linear, linear + inside])[:, None]
    batch = Batch(torch.zeros(2, 1, 321, 321), depth, on_ring(depth + true), true)
    assert torch.allclose(from_ring(batch), linear.expand(2, 1, 32, 32), atol=1e-5)
