"""Study flow_matching: fields and their exact bounds, splits, masks and patches; baselines; measures."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roundhouse.errors import RoundhouseError
from studies.flow_matching import fields, measures
from studies.flow_matching.baselines import (
    baselines,
    choose_width,
    gaussian_field,
    mean_field,
    nearest_field,
    thin_plate_field,
)
from studies.flow_matching.metrics import METRICS
from studies.flow_matching.options import COMPLEXITIES

SEEDS = st.integers(0, 2**32)
EACH_FAMILY = pytest.mark.parametrize("complexity", COMPLEXITIES)
FEW = settings(deadline=None, max_examples=25)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_fields(seed: int, count: int = 3, size: int = 8) -> Tensor:
    return torch.rand(count, size, size, generator=generator(seed))


def observed(truth: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Values and pixels (N, count) of fields (N, size, size)."""
    pixels = fields.draw_pixels(len(truth), truth[0].numel(), count, generator(seed))
    return truth.flatten(1).gather(1, pixels), pixels


# Fields


@EACH_FAMILY
@FEW
@given(seed=SEEDS, size=st.integers(4, 40))
def test_no_field_leaves_0_to_1(complexity: str, seed: int, size: int) -> None:
    drawn = fields.draw_fields(complexity, 40, size, generator(seed))
    assert drawn.shape == (40, size, size) and drawn.dtype == torch.float32
    assert drawn.min() >= 0 and drawn.max() <= 1


@EACH_FAMILY
def test_both_bounds_are_approached(complexity: str) -> None:
    drawn = fields.draw_fields(complexity, 20_000, 32, generator())
    assert drawn.min() < 0.01 and drawn.max() > 0.99
    assert drawn.mean() == pytest.approx(0.5, abs=0.02), "the scale is the same on both sides"


@EACH_FAMILY
def test_nothing_is_clamped(complexity: str) -> None:
    drawn = fields.draw_fields(complexity, 500, 32, generator())
    assert ((drawn == 0) | (drawn == 1)).float().mean() < 1e-3, "a clamped field is flat at 0 or 1"


MEAN_SQUARES = {
    "simple": 1 / 8,
    "multi_frequency": (1 / 2 + 1 / 3) / 2 * (1 - 0.3**3) / (3 * 0.7) / 8,  # n terms of variance E[A^2] / 2 / n^2
    "radial": 1 / 8,
    "interference": 1 / 16,
    "modulated": ((1 + (1 - 0.5**3) / (3 * 0.5) / 2) / 32 + 1 / 8) / 2,
    "composite": (0.4**2 + 2 * 0.3**2) / 8,
}
"""Of a field minus 1/2: sines of random phase have half their squared amplitude, a fourth of it on the scale 0 to 1."""


@EACH_FAMILY
def test_amplitudes_are_those_of_the_formula(complexity: str) -> None:
    drawn = fields.draw_fields(complexity, 4000, 32, generator())
    assert (drawn - 0.5).square().mean() == pytest.approx(MEAN_SQUARES[complexity], rel=0.03)


STEEPEST = {
    "simple": 3 / 2,
    "multi_frequency": 5 / 2,
    "radial": 8 / 2,
    "interference": (6 + 7) / 4,
    "modulated": (7 + 3 * 2) / 2,
}
"""The largest derivative along X of a field on the scale 0 to 1; `composite` has none in its centre."""


@pytest.mark.parametrize("complexity", STEEPEST)
def test_wave_numbers_reach_the_ends_of_their_ranges_and_no_further(complexity: str) -> None:
    drawn = fields.draw_fields(complexity, 4000, 65, generator()).double()
    slopes = drawn.diff(dim=2).abs() / (2 * math.pi / 64)
    assert 0.75 * STEEPEST[complexity] < slopes.max() <= STEEPEST[complexity] + 1e-4


def test_simple_fields_are_plane_waves() -> None:
    """Their second difference is proportional to the field: -2 (1 - cos(k h)) (f - 1/2), with one k per axis."""
    drawn = fields.draw_fields("simple", 20, 33, generator()).double() - 0.5
    for axis in (1, 2):
        low, middle, high = (drawn.narrow(axis, start, 31) for start in (0, 1, 2))
        factor = ((low + high) * middle).sum((1, 2)) / middle.square().sum((1, 2))
        assert torch.allclose(low + high, factor[:, None, None] * middle, atol=1e-5)
        k = torch.acos(factor / 2) / (2 * math.pi / 32)
        assert k.min() >= 1 and k.max() <= 3


def test_radial_fields_depend_on_the_distance_from_the_centre_only() -> None:
    drawn = fields.draw_fields("radial", 10, 9, generator())
    for turned in (drawn.rot90(1, (1, 2)), drawn.mT, drawn.flip(1)):
        assert torch.allclose(drawn, turned, atol=1e-6)


def test_wave_numbers_of_amplitude_modulation_end_at_7() -> None:
    """With km at a crest, the derivative along X is up to (1 + m) kc / 4 on the scale 0 to 1, and nowhere larger."""
    drawn = fields.draw_fields("modulated", 4000, 65, generator()).double()
    by_amplitude = drawn[(drawn.amax((1, 2)) < 0.97) & (drawn.amin((1, 2)) > 0.03)]
    slopes = by_amplitude.diff(dim=2).abs() / (2 * math.pi / 64)
    assert 3 < slopes.max() <= 3.5


def test_half_of_the_modulated_fields_are_modulated_in_phase() -> None:
    """These reach both bounds; those that are modulated in amplitude reach (1 + m) / 2 of them, m < 1."""
    drawn = fields.draw_fields("modulated", 2000, 64, generator())
    whole = (drawn.amax((1, 2)) > 0.995) & (drawn.amin((1, 2)) < 0.005)
    assert 0.45 < whole.float().mean() < 0.55


@EACH_FAMILY
def test_a_split_is_the_same_at_each_call_and_grows_by_later_fields(complexity: str) -> None:
    few, many = (fields.dataset(complexity, "train", count, 8) for count in (10, 3000))
    assert torch.equal(few, many[:10])
    assert len(torch.unique(many.flatten(1), dim=0)) == 3000


@EACH_FAMILY
def test_splits_have_no_field_in_common(complexity: str) -> None:
    together = torch.cat([fields.dataset(complexity, split, 100, 8) for split in fields.SPLITS])
    assert len(torch.unique(together.flatten(1), dim=0)) == 300


def test_another_size_shows_the_same_field_on_another_grid() -> None:
    coarse, fine = (fields.dataset("composite", "test", 5, size) for size in (9, 17))
    assert torch.allclose(coarse, fine[:, ::2, ::2], atol=1e-6)


def test_coordinates_are_the_corners_and_what_lies_between_row_by_row() -> None:
    places = fields.coordinates(3)
    assert places.tolist() == [[x, y] for y in (-1, 0, 1) for x in (-1, 0, 1)]


def test_fields_lie_on_the_grid_of_the_coordinates() -> None:
    grid = fields._grid(5)
    places = (fields.coordinates(5).double() + 1) * math.pi
    assert torch.allclose(grid.x.flatten(), places[:, 0], atol=1e-6)
    assert torch.allclose(grid.y.flatten(), places[:, 1], atol=1e-6)


def test_an_unknown_family_or_split_is_refused() -> None:
    with pytest.raises(RoundhouseError, match="complexity"):
        fields.draw_fields("simpel", 1, 8, generator())
    with pytest.raises(RoundhouseError, match="split"):
        fields.dataset("simple", "tests", 1, 8)


# Pixels


@FEW
@given(seed=SEEDS, pixels=st.integers(1, 60), share=st.floats(0, 1))
def test_drawn_pixels_are_different_ones_of_the_grid(seed: int, pixels: int, share: float) -> None:
    count = max(1, round(share * pixels))
    drawn = fields.draw_pixels(7, pixels, count, generator(seed))
    assert drawn.shape == (7, count) and drawn.dtype == torch.int64
    assert all(len(set(row)) == count and set(row) <= set(range(pixels)) for row in drawn.tolist())


def test_every_pixel_is_drawn_equally_often() -> None:
    drawn = fields.draw_pixels(20_000, 16, 4, generator())
    for column in drawn.T:
        assert column.bincount(minlength=16).sub(1250).abs().max() < 200, "5 standard deviations are 171"


def test_masks_are_fixed_and_grow_with_the_number_of_fields_and_of_observations() -> None:
    mask = fields.evaluation_masks("simple", "test", 10, 8, 12)
    assert torch.equal(mask, fields.evaluation_masks("simple", "test", 20, 8, 15)[:10, :12])
    assert not torch.equal(mask, fields.evaluation_masks("simple", "validation", 10, 8, 12))
    assert len(torch.unique(mask, dim=0)) == 10


@FEW
@given(seed=SEEDS, size=st.integers(1, 9), data=st.data())
def test_patches_are_squares_inside_the_grid_row_by_row(seed: int, size: int, data: st.DataObject) -> None:
    side = data.draw(st.integers(1, size))
    drawn = fields.draw_patches(5, size, side, generator(seed))
    assert drawn.shape == (5, side * side) and drawn.dtype == torch.int64
    for row in drawn.tolist():
        top, left = divmod(row[0], size)
        assert top + side <= size and left + side <= size
        assert row == [(top + down) * size + left + right for down in range(side) for right in range(side)]


def test_a_patch_can_lie_anywhere() -> None:
    corners = fields.draw_patches(2000, 5, 3, generator())[:, 0]
    assert set(corners.tolist()) == {5 * row + column for row in range(3) for column in range(3)}


# Baselines


@FEW
@given(seed=SEEDS, count=st.integers(1, 20))
def test_baselines_reproduce_the_observations(seed: int, count: int) -> None:
    values, pixels = observed(random_fields(seed), count, seed)
    for field in (
        nearest_field(values, pixels, 8),
        thin_plate_field(values, pixels, 8),
        gaussian_field(values, pixels, 8, 0.2),
    ):
        assert field.shape == (3, 8, 8)
        assert torch.allclose(field.flatten(1).gather(1, pixels), values.double(), atol=1e-5)


def test_the_mean_is_that_of_the_observations() -> None:
    values, pixels = observed(random_fields(0), 5, 0)
    assert torch.allclose(mean_field(values, pixels, 8), values.double().mean(1)[:, None, None].expand(3, 8, 8))


@FEW
@given(seed=SEEDS, count=st.integers(1, 10))
def test_nearest_is_that_of_a_search_one_by_one(seed: int, count: int) -> None:
    values, pixels = observed(random_fields(seed, size=6), count, seed)
    found = nearest_field(values, pixels, 6)
    for n in range(3):
        for row in range(6):
            for column in range(6):
                squared = [(p // 6 - row) ** 2 + (p % 6 - column) ** 2 for p in pixels[n].tolist()]
                assert found[n, row, column] == values[n, squared.index(min(squared))].double()


@FEW
@given(seed=SEEDS, slopes=st.tuples(*[st.floats(-2, 2)] * 3))
def test_thin_plates_continue_an_affine_field_exactly(seed: int, slopes: tuple[float, float, float]) -> None:
    places = fields.coordinates(8).double()
    field = (slopes[0] + slopes[1] * places[:, 0] + slopes[2] * places[:, 1]).reshape(1, 8, 8)
    values, pixels = observed(field, 12, seed)
    if torch.linalg.matrix_rank(torch.cat([places[pixels[0]], torch.ones(12, 1)], dim=1)) == 3:
        assert torch.allclose(thin_plate_field(values, pixels, 8), field, atol=1e-5)


def test_a_thin_plate_is_r_squared_log_r() -> None:
    """The system of kernel and affine part, written out for one field."""
    values, pixels = observed(random_fields(3, count=1), 6, 3)
    points = torch.stack([pixels[0] // 8, pixels[0] % 8], dim=1).double() * 2 / 7 - 1
    every = torch.stack([torch.arange(64) // 8, torch.arange(64) % 8], dim=1).double() * 2 / 7 - 1

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        distance = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.where(distance > 0, distance.square() * distance.clamp(min=1e-9).log(), 0.0)

    affine = torch.cat([torch.ones(6, 1), points], dim=1)
    system = torch.cat(
        [torch.cat([kernel(points, points), affine], dim=1), torch.cat([affine.T, torch.zeros(3, 3)], dim=1)]
    )
    weights = torch.linalg.solve(system, torch.cat([values[0].double(), torch.zeros(3)]))
    by_hand = torch.cat([kernel(every, points), torch.ones(64, 1), every], dim=1) @ weights
    assert torch.allclose(thin_plate_field(values, pixels, 8).flatten(), by_hand, atol=1e-6)


def test_a_gaussian_has_the_width_in_coordinates() -> None:
    """With two observations, the kernel's system is 2 x 2 and solved by hand."""
    pixels, values = torch.tensor([[0, 12]]), torch.tensor([[1.0, 0.0]])
    places = fields.coordinates(5).double()
    kernel = torch.exp(-torch.cdist(places, places[pixels[0]]).square() / (2 * 0.7**2))
    weights = torch.linalg.solve(kernel[pixels[0]], torch.tensor([0.5, -0.5], dtype=torch.float64))
    assert torch.allclose(gaussian_field(values, pixels, 5, 0.7).flatten(), kernel @ weights + 0.5, atol=1e-6)


def test_very_wide_kernels_stay_finite() -> None:
    values, pixels = observed(random_fields(0), 30, 0)
    assert gaussian_field(values, pixels, 8, 16.0).isfinite().all()


@pytest.mark.parametrize("pixels", [[[5]], [[0, 1]], [[0, 9, 18, 27]]], ids=["one", "two", "collinear"])
def test_few_or_collinear_observations_have_a_finite_thin_plate(pixels: list[list[int]]) -> None:
    values = torch.linspace(0.2, 0.8, len(pixels[0]))[None]
    field = thin_plate_field(values, torch.tensor(pixels), 8)
    assert field.isfinite().all() and field.abs().max() < 10
    if len(pixels[0]) == 1:
        assert torch.allclose(field, torch.full_like(field, 0.2))


def some_baselines(complexity: str, size: int = 16, count: int = 30):
    def split(name: str) -> tuple[Tensor, Tensor]:
        return fields.dataset(complexity, name, count, size), fields.evaluation_masks(complexity, name, count, size, 51)

    return *split("test"), *split("validation")


def test_a_gaussian_rbf_beats_the_others_on_smooth_fields_and_the_oracle_is_at_least_as_good() -> None:
    found = baselines(*some_baselines("simple"))
    metrics = found.metrics
    assert set(metrics) == {"mean_psnr", "nearest_psnr", "thin_plate_psnr", "rbf_psnr", "rbf_oracle_psnr"}
    assert max(metrics["mean_psnr"], metrics["nearest_psnr"]) + 1 < metrics["thin_plate_psnr"] < metrics["rbf_psnr"] - 1
    assert metrics["rbf_psnr"] <= metrics["rbf_oracle_psnr"] + 1e-9
    assert found.width.inside and found.rbf.shape == (30, 16, 16)
    assert measures.psnr(found.rbf, some_baselines("simple")[0]).mean() == pytest.approx(metrics["rbf_psnr"], abs=1e-3)


def test_the_width_is_chosen_on_validation_fields_only() -> None:
    test, test_pixels, validation, pixels = some_baselines("simple")
    other = torch.rand(test.shape, generator=generator())
    assert (
        baselines(test, test_pixels, validation, pixels).width
        == baselines(other, test_pixels, validation, pixels).width
    )


def test_the_chosen_width_is_the_best_of_its_neighbours() -> None:
    _, _, truth, pixels = some_baselines("composite")
    chosen, values = choose_width(truth, pixels), truth.flatten(1).gather(1, pixels)

    def quality(width: float) -> float:
        return float(measures.psnr(gaussian_field(values, pixels, 16, width), truth).mean())

    assert quality(chosen.width) == chosen.psnr
    assert all(quality(chosen.width * 2 ** (step / 4)) <= chosen.psnr for step in (-4, -2, -1, 1, 2, 4))


def test_a_best_width_at_the_limit_is_reported() -> None:
    noise = torch.rand(20, 8, 8, generator=generator())
    _, pixels = observed(noise, 20, 0)
    chosen = choose_width(noise, pixels)
    assert not chosen.inside and chosen.width < 2 / 7, "for noise, the mean beside the observations is best"


# Measures


@FEW
@given(seed=SEEDS)
def test_equal_fields_have_no_error(seed: int) -> None:
    truth = random_fields(seed)
    assert (measures.psnr(truth, truth) == 120).all()
    for measure in (measures.mse, measures.mae, measures.relative_l2, measures.spectral_error):
        assert (measure(truth, truth) == 0).all()
    assert torch.allclose(measures.correlation(truth, truth), torch.ones(3, dtype=torch.float64))


@FEW
@given(seed=SEEDS, shift=st.floats(0.01, 0.5))
def test_a_shift_has_a_known_error_and_changes_neither_correlation_nor_spectrum(seed: int, shift: float) -> None:
    truth = random_fields(seed).double()
    moved = truth + shift
    assert torch.allclose(measures.mse(moved, truth), torch.tensor(shift**2, dtype=torch.float64))
    assert torch.allclose(measures.mae(moved, truth), torch.tensor(shift, dtype=torch.float64))
    assert torch.allclose(measures.psnr(moved, truth), torch.tensor(-20 * math.log10(shift), dtype=torch.float64))
    expected = shift * 8 / truth.flatten(1).square().sum(1).sqrt()
    assert torch.allclose(measures.relative_l2(moved, truth), expected)
    assert torch.allclose(measures.correlation(moved, truth), torch.ones(3, dtype=torch.float64))
    assert (measures.spectral_error(moved, truth) < 1e-9).all()


def test_errors_are_means_over_the_pixels() -> None:
    truth, prediction = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    prediction[0, 1, 2] = -0.5
    assert measures.mae(prediction, truth) == 0.5 / 16 and measures.mse(prediction, truth) == 0.25 / 16


def test_each_field_has_its_own_value() -> None:
    truth = torch.zeros(2, 4, 4)
    prediction = torch.stack([torch.full((4, 4), 0.1), torch.full((4, 4), 0.01)])
    assert torch.allclose(measures.psnr(prediction, truth), torch.tensor([20.0, 40.0], dtype=torch.float64))
    assert measures.all_measures(prediction, truth)["test_psnr"] == pytest.approx(30), "the mean of PSNR, not of MSE"


@pytest.mark.parametrize("constant", ["prediction", "truth", "both"])
def test_a_constant_field_has_finite_measures_and_no_correlation(constant: str) -> None:
    flat, field = torch.full((3, 8, 8), 0.3), random_fields(0)
    prediction, truth = (flat if constant in (name, "both") else field for name in ("prediction", "truth"))
    assert (measures.correlation(prediction, truth).abs() < 1e-9).all()
    assert all(value.isfinite() for value in measures.all_measures(prediction, truth).values())


def test_correlation_is_that_of_pearson_and_its_sign_counts() -> None:
    one, other = random_fields(1), random_fields(2)
    expected = [torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] for a, b in zip(one, other, strict=True)]
    assert torch.allclose(measures.correlation(one, other), torch.stack(expected).double(), atol=1e-5)
    assert torch.allclose(measures.correlation(1 - one, one), torch.full((3,), -1.0, dtype=torch.float64))


def test_the_spectral_error_sees_amplitudes_and_not_places() -> None:
    truth = random_fields(0)
    assert (measures.spectral_error(truth.roll((2, 3), (1, 2)), truth) < 1e-6).all(), (
        "a cyclic shift changes phases only"
    )
    assert torch.allclose(measures.spectral_error(truth * 0.5, truth), torch.full((3,), 0.5, dtype=torch.float64))
    flat = torch.full_like(truth, 0.5)
    assert torch.allclose(measures.spectral_error(flat, truth), torch.ones(3, dtype=torch.float64))


def test_the_names_are_those_of_the_final_metrics() -> None:
    assert set(measures.all_measures(random_fields(0), random_fields(1))) <= set(METRICS)
