"""The estimators of the analysis against slow versions (`slow_estimators`), and on cases with known answers."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import slow_estimators as slow
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from analysis import calibration, fidelity, representation
from roundhouse.errors import RoundhouseError

pytestmark = pytest.mark.filterwarnings("error")

Array = NDArray[Any]
SEEDS = st.integers(0, 2**32 - 1)
SAMPLES = st.integers(5, 24)
WIDTHS = st.integers(1, 7)
few = settings(max_examples=40, deadline=None)


def some_logits(seed: int, samples: int, classes: int) -> tuple[Array, Array, Array]:
    """Two networks' logits, float16, some samples of them twice; and labels."""
    generator = np.random.default_rng(seed)
    first, second = generator.normal(0, generator.uniform(0.5, 6), (2, samples, classes)).astype(np.float16)
    twice = generator.integers(0, samples, samples // 2)
    rows = np.concatenate([np.arange(samples), twice])
    return first[rows], second[rows], generator.integers(0, classes, len(rows))


def some_features(seed: int, samples: int, width: int) -> Array:
    """Features as they are saved: float16, not centred, some columns far larger than others."""
    generator = np.random.default_rng(seed)
    scale = np.exp(generator.uniform(-1, 2, width))
    return (generator.normal(generator.normal(0, 3, width), scale, (samples, width))).astype(np.float16)


def changed(x: Array, seed: int) -> Array:
    """Rotated, scaled and shifted."""
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(x.shape[1], x.shape[1])))
    return np.asarray(3.7 * x.astype(np.float64) @ rotation + generator.normal(size=x.shape[1]))


def calibrated(samples: int, classes: int, seed: int) -> tuple[Array, Array]:
    """Logits, and labels that come out as often as the logits say: the largest of logits plus Gumbel noise."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (samples, classes))
    return logits, (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)


# Against the slow versions


@few
@given(SEEDS, SAMPLES, st.integers(2, 6))
def test_fidelity_is_what_loops_over_samples_give(seed: int, samples: int, classes: int) -> None:
    student, teacher, labels = some_logits(seed, samples, classes)
    assert fidelity.accuracy(student, labels) == pytest.approx(slow.accuracy(student, labels))
    assert fidelity.agreement(student, teacher) == pytest.approx(slow.agreement(student, teacher))
    assert fidelity.mean_kl(teacher, student) == pytest.approx(slow.mean_kl(teacher, student), rel=1e-9)


@few
@given(SEEDS, SAMPLES, st.integers(2, 6), st.integers(1, 60))
def test_calibration_is_what_loops_over_samples_and_bins_give(seed: int, samples: int, classes: int, bins: int) -> None:
    logits, _, labels = some_logits(seed, samples, classes)
    width, mass = slow.bins_of_equal_width(logits, labels, bins), slow.bins_of_equal_mass(logits, labels, bins)
    assert calibration.ece(logits, labels, bins) == pytest.approx(slow.gap(width), abs=1e-12)
    assert calibration.adaptive_ece(logits, labels, bins) == pytest.approx(slow.gap(mass), abs=1e-12)
    assert calibration.nll(logits, labels) == pytest.approx(slow.nll(logits, labels), rel=1e-9)
    assert calibration.brier(logits, labels) == pytest.approx(slow.brier(logits, labels), rel=1e-9)


@few
@given(SEEDS, SAMPLES, st.integers(2, 6), st.integers(1, 60))
def test_a_reliability_diagram_counts_each_sample_once(seed: int, samples: int, classes: int, bins: int) -> None:
    logits, _, labels = some_logits(seed, samples, classes)
    diagram = calibration.reliability(logits, labels, bins)
    for b, members in enumerate(slow.bins_of_equal_width(logits, labels, bins)):
        assert diagram.count[b] == len(members)
        assert (diagram.lower[b], diagram.upper[b]) == pytest.approx((b / bins, (b + 1) / bins))
        means = np.mean(members, axis=0) if members else (np.nan, np.nan)
        assert (diagram.confidence[b], diagram.accuracy[b]) == pytest.approx(tuple(means), nan_ok=True)
    gaps = diagram.count * np.abs(diagram.accuracy - diagram.confidence)
    assert np.nansum(gaps) / len(labels) == pytest.approx(calibration.ece(logits, labels, bins), abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(SEEDS, SAMPLES, st.integers(2, 5))
def test_a_fitted_temperature_is_where_the_slope_of_the_nll_is_zero(seed: int, samples: int, classes: int) -> None:
    logits, _, labels = some_logits(seed, samples, classes)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(slow.temperature(logits, labels), rel=1e-4)


@few
@given(SEEDS, SAMPLES, WIDTHS, WIDTHS)
def test_cka_is_that_of_kernel_matrices_centred_or_not(seed: int, samples: int, p: int, q: int) -> None:
    x, y = some_features(seed, samples, p), some_features(seed + 1, samples, q)
    found = representation.cka(x, y)
    assert found == pytest.approx(slow.cka(x, y), abs=1e-5), "features that are not centred cost the slow one digits"
    assert found == pytest.approx(slow.cka(x, y, slow.hsic_of_szekely), abs=1e-6)
    centred = (one.astype(np.float64) - one.mean(axis=0, dtype=np.float64) for one in (x, y))
    assert found == pytest.approx(slow.cka(*centred), abs=1e-7)


@few
@given(SEEDS, SAMPLES, WIDTHS, WIDTHS)
def test_procrustes_is_the_distance_that_the_best_rotation_leaves(seed: int, samples: int, p: int, q: int) -> None:
    x, y = some_features(seed, samples, p), some_features(seed + 1, samples, q)
    assert representation.procrustes(x, y) == pytest.approx(slow.procrustes(x, y), abs=1e-9)


@few
@given(SEEDS, SAMPLES, WIDTHS, st.integers(1, 4), st.booleans())
def test_neighbours_are_those_of_sorted_distances(seed: int, samples: int, p: int, k: int, on_a_grid: bool) -> None:
    x, y = some_features(seed, samples, p), some_features(seed + 1, samples, p)
    if on_a_grid:  # where most distances are equal to others, and many are 0
        x, y = np.sign(x - x.mean(axis=0)), np.sign(y - y.mean(axis=0)) * np.float16(3)
        x[0], y[0] = 0, 0
    found, other = representation.neighbours(x, k), representation.neighbours(y, k)
    assert found.tolist() == slow.neighbours(x, k)
    expected = slow.knn_overlap(slow.neighbours(x, k), slow.neighbours(y, k))
    assert representation.knn_overlap(found, other) == pytest.approx(expected)


@few
@given(SEEDS, SAMPLES, WIDTHS, st.sampled_from([0.5, 0.9, 0.95, 1.0]))
def test_the_spread_of_variance_is_that_of_singular_values(seed: int, samples: int, p: int, share: float) -> None:
    x = some_features(seed, samples, p)
    assert representation.participation_ratio(x) == pytest.approx(slow.participation_ratio(x), rel=1e-9)
    assert representation.components_for(x, share) == slow.components_for(x, share)


@few
@given(SEEDS, SAMPLES, st.integers(2, 7), st.integers(2, 5))
def test_class_means_are_what_loops_over_classes_give(seed: int, samples: int, p: int, classes: int) -> None:
    x = some_features(seed, samples, p)
    labels = np.random.default_rng(seed).permutation(np.arange(samples) % classes)
    found = representation.class_means(x, labels)
    ratio, cosine = slow.class_means(x, labels)
    assert found.variance_ratio == pytest.approx(ratio, rel=1e-7)
    assert found.cosine == pytest.approx(cosine, abs=1e-7)


@few
@given(SEEDS, SAMPLES, st.integers(3, 7), st.integers(3, 7), st.integers(1, 3))
def test_principal_angles_are_those_of_projectors(seed: int, samples: int, p: int, q: int, dimensions: int) -> None:
    x, y = some_features(seed, samples, p), some_features(seed + 1, samples, q)
    found = representation.principal_angles(x, y, dimensions)
    assert found == pytest.approx(slow.principal_angles(x, y, dimensions), abs=1e-5)
    assert (np.diff(found) >= 0).all()


# Fidelity and calibration where the answer is known


def test_a_student_with_its_teachers_logits_has_no_divergence_and_full_agreement() -> None:
    logits, _, _ = some_logits(0, 50, 7)
    assert fidelity.mean_kl(logits, logits) == 0
    assert fidelity.agreement(logits, logits) == 1


def test_a_number_added_to_all_logits_of_a_sample_changes_nothing() -> None:
    student, teacher, labels = (one.astype(np.float64) for one in some_logits(1, 50, 7))
    shifted = student + np.linspace(-300, 300, len(student))[:, None]
    labels = labels.astype(np.int64)
    assert fidelity.mean_kl(teacher, shifted) == pytest.approx(fidelity.mean_kl(teacher, student))
    assert fidelity.mean_kl(shifted, teacher) == pytest.approx(fidelity.mean_kl(student, teacher))
    assert calibration.nll(shifted, labels) == pytest.approx(calibration.nll(student, labels))


def test_divergence_is_from_the_teacher_to_the_student() -> None:
    sure, even = np.log([[0.98, 0.01, 0.01]]), np.zeros((1, 3))
    towards = 0.98 * math.log(0.98 * 3) + 0.02 * math.log(0.01 * 3)
    assert fidelity.mean_kl(sure, even) == pytest.approx(towards)
    assert fidelity.mean_kl(even, sure) == pytest.approx(sum(math.log(1 / 3 / p) for p in (0.98, 0.01, 0.01)) / 3)


def test_among_equal_logits_the_lowest_class_is_predicted() -> None:
    assert fidelity.correct(np.array([[1, 2, 2], [3, 3, 3]]), np.array([1, 2])).tolist() == [True, False]


@pytest.mark.parametrize("classes", [2, 10, 200])
def test_uniform_predictions_have_the_nll_and_brier_of_chance(classes: int) -> None:
    logits, labels = np.full((classes, classes), 7, np.float16), np.arange(classes)
    assert calibration.nll(logits, labels) == pytest.approx(math.log(classes))
    assert calibration.brier(logits, labels) == pytest.approx(1 - 1 / classes)
    assert calibration.ece(logits, labels) == pytest.approx(0, abs=1e-12)
    assert fidelity.accuracy(logits, labels) == pytest.approx(1 / classes)


def test_a_sure_network_has_no_error_where_right_and_all_of_it_where_wrong() -> None:
    labels = np.arange(100) % 10
    logits = (500 * np.eye(10)[labels]).astype(np.float16)
    for error in (calibration.ece, calibration.adaptive_ece, calibration.brier, calibration.nll):
        assert error(logits, labels) == 0
    wrong = (labels + 1) % 10
    assert calibration.ece(logits, wrong) == calibration.adaptive_ece(logits, wrong) == 1
    assert calibration.brier(logits, wrong) == 2
    assert calibration.nll(logits, wrong) == 500


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    diagram = calibration.reliability(np.zeros((3, 2)), np.array([0, 0, 1]), bins=4)
    assert diagram.count.tolist() == [0, 3, 0, 0]
    assert diagram.accuracy[1] == pytest.approx(2 / 3)
    assert np.isnan(diagram.accuracy[[0, 2, 3]]).all()


def test_bins_of_equal_mass_do_not_depend_on_the_order_of_samples() -> None:
    logits, _, labels = some_logits(3, 101, 3)
    order = np.random.default_rng(0).permutation(len(labels))
    found = calibration.adaptive_ece(logits[order], labels[order])
    assert found == pytest.approx(calibration.adaptive_ece(logits, labels), abs=1e-12)


def test_bins_of_equal_mass_see_what_bins_of_equal_width_average_away() -> None:
    """Wrong of the least sure sixth only; all claims are between 0.8 and 0.85: in one wide bin, in 5 even ones."""
    confidence = np.linspace(0.801, 0.849, 100)
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    labels = np.where(np.arange(100) < 17, 1, 0)
    assert calibration.ece(logits, labels, 5) < 0.01
    assert calibration.adaptive_ece(logits, labels, 5) > 0.2


def test_the_ece_of_a_calibrated_network_is_its_floor() -> None:
    logits, _ = calibrated(600, 6, 0)
    generator = np.random.default_rng(1)
    drawn = np.array([calibration.ece(logits, slow.drawn_labels(logits, generator)) for _ in range(40)])
    floor = calibration.ece_floor(logits, draws=400)
    assert abs(drawn.mean() - floor) < 4 * drawn.std() * math.sqrt(1 / 40 + 1 / 400)
    assert floor > 0.01


def test_an_even_chance_is_in_the_same_bin_for_any_even_number_of_bins() -> None:
    even = np.zeros((1, 2)), np.array([0])
    for bins in range(2, 400, 2):
        assert calibration.reliability(*even, bins).count[bins // 2 - 1] == 1


def test_the_floor_falls_with_more_samples_and_is_the_same_for_a_seed() -> None:
    logits, _ = calibrated(10000, 6, 0)
    assert calibration.ece_floor(logits) < 0.5 * calibration.ece_floor(logits[:1000])
    assert calibration.ece_floor(logits, seed=3) == calibration.ece_floor(logits, seed=3)
    assert calibration.ece_floor(logits, seed=3) != calibration.ece_floor(logits, seed=4)


@pytest.mark.parametrize("planted", [0.5, 1.0, 2.0])
def test_the_temperature_of_a_network_that_claims_too_much_or_little_is_found(planted: float) -> None:
    logits, labels = calibrated(20000, 10, 2)
    claimed = logits * planted
    assert calibration.fit_temperature(claimed, labels) == pytest.approx(planted, rel=0.03)


def test_temperature_takes_an_over_confident_network_down_to_the_floor() -> None:
    logits, labels = calibrated(10000, 10, 4)
    test, validation = slice(0, 5000), slice(5000, None)
    fitted = calibration.fit_temperature(3 * logits[validation], labels[validation])
    cooled = calibration.scaled(3 * logits[test], fitted)
    floor = calibration.ece_floor(cooled)
    assert calibration.ece(3 * logits[test], labels[test]) > 10 * floor
    assert calibration.ece(cooled, labels[test]) < 2 * floor


@few
@given(SEEDS, st.floats(0.01, 100))
def test_temperature_never_changes_a_prediction(seed: int, temperature: float) -> None:
    logits, _, labels = some_logits(seed, 20, 5)
    cooled = calibration.scaled(logits, temperature)
    assert (fidelity.correct(cooled, labels) == fidelity.correct(logits, labels)).all()
    assert (cooled.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_a_temperature_without_an_optimum_is_a_bound_and_one_without_effect_is_1() -> None:
    labels = np.arange(20) % 4
    right = np.eye(4)[labels]
    assert calibration.fit_temperature(0.1 * right, labels) == calibration.COLDEST
    assert calibration.fit_temperature(-right, labels) == calibration.HOTTEST
    assert calibration.fit_temperature(np.ones((20, 4)), labels) == 1
    assert calibration.fit_temperature(60000 * right, labels) == 1


def test_the_largest_numbers_of_float16_give_finite_results() -> None:
    generator = np.random.default_rng(0)
    student, teacher = generator.choice([-65504, -60000, 0, 6e-8, 60000], (2, 40, 5)).astype(np.float16)
    labels = generator.integers(0, 5, 40)
    found: list[float] = [fidelity.accuracy(student, labels), fidelity.mean_kl(teacher, student)]
    found += [one(student, labels) for one in (calibration.ece, calibration.adaptive_ece, calibration.nll)]
    found += [calibration.brier(student, labels), calibration.ece_floor(student, draws=3)]
    found += [calibration.fit_temperature(student, labels), representation.cka(student, teacher)]
    found += [representation.procrustes(student, teacher), representation.participation_ratio(student)]
    found += [representation.class_means(student, labels).variance_ratio]
    found += representation.principal_angles(student, teacher, 3).tolist()
    assert np.isfinite(found).all()
    assert fidelity.mean_kl(teacher, student) > 1000


# Representation where the answer is known


def test_independent_features_wider_than_samples_have_no_unbiased_cka_but_nearly_all_of_the_biased_one() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 128, 4096))
    assert abs(representation.cka(x, y)) < 0.02
    assert slow.biased_cka(x, y) > 0.9


def test_the_unbiased_cka_of_independent_features_is_0_on_average() -> None:
    found = [representation.cka(*np.random.default_rng(seed).normal(size=(2, 20, 30))) for seed in range(300)]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(300)
    assert min(found) < 0


@pytest.mark.parametrize("width", [3, 16, 64])
def test_a_rotated_scaled_and_shifted_copy_is_the_same_representation(width: int) -> None:
    x = some_features(width, 200, width)
    y = changed(x, 1)
    assert representation.cka(x, y) == pytest.approx(1)
    assert representation.procrustes(x, y) == pytest.approx(0, abs=1e-9)
    assert representation.knn_overlap(representation.neighbours(x), representation.neighbours(y)) == 1
    assert representation.principal_angles(x, y, 3) == pytest.approx(0, abs=1e-7)
    assert representation.participation_ratio(x) == pytest.approx(representation.participation_ratio(y))
    labels = np.arange(200) % 7
    assert representation.class_means(x, labels).variance_ratio == pytest.approx(
        representation.class_means(y, labels).variance_ratio
    )


def test_a_copy_with_columns_of_zeros_is_the_same_representation() -> None:
    x = some_features(5, 100, 8)
    wider = np.hstack([x, np.zeros((100, 24), np.float16)])
    assert representation.cka(x, wider) == pytest.approx(1)
    assert representation.procrustes(x, wider) == pytest.approx(0, abs=1e-9)
    assert representation.principal_angles(x, wider, 4) == pytest.approx(0, abs=1e-7)


def test_a_copy_with_its_samples_shuffled_is_unrelated() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(600, 16))
    y = x[generator.permutation(600)]
    assert abs(representation.cka(x, y)) < 0.03
    assert representation.procrustes(x, y) > 1.5
    assert representation.principal_angles(x, y, 3).min() > 1.2
    overlap = representation.knn_overlap(representation.neighbours(x), representation.neighbours(y))
    assert overlap == pytest.approx(representation.knn_chance(600), abs=0.01)


def test_all_distances_are_the_same_from_both_sides() -> None:
    x, y = some_features(1, 80, 6), some_features(2, 80, 9)
    assert representation.cka(x, y) == pytest.approx(representation.cka(y, x))
    assert representation.procrustes(x, y) == pytest.approx(representation.procrustes(y, x))
    assert representation.principal_angles(x, y, 4) == pytest.approx(representation.principal_angles(y, x, 4))


@pytest.mark.parametrize("dimensions", [1, 5, 20])
def test_the_effective_rank_of_equal_variance_is_the_number_of_dimensions(dimensions: int) -> None:
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(10000, dimensions))
    turned, _ = np.linalg.qr(generator.normal(size=(64, 64)))
    x = hidden @ turned[:dimensions] + 5
    assert representation.participation_ratio(x) == pytest.approx(dimensions, rel=0.01)
    assert representation.components_for(x, 0.99) == dimensions
    assert representation.components_for(x, 1.0) == dimensions


def test_components_are_counted_by_their_share_of_the_variance() -> None:
    x = np.repeat(np.vstack([np.diag([8.0, 4.0, 2.0, 1.0]), -np.diag([8.0, 4.0, 2.0, 1.0])]), 5, axis=0)
    held = np.cumsum([64, 16, 4, 1]) / 85
    assert [representation.components_for(x, one) for one in held] == [1, 2, 3, 4]
    assert [representation.components_for(x, one + 0.001) for one in held[:3]] == [2, 3, 4]


def test_collapsed_classes_are_points_at_equal_angles() -> None:
    labels = np.array([0] * 5 + [1] * 9 + [2] * 2 + [3] * 7)
    found = representation.class_means(np.eye(4)[labels] + 2, labels)
    assert found.variance_ratio == pytest.approx(0, abs=1e-12)
    assert found.cosine == pytest.approx(-1 / 3)


def test_classes_that_features_do_not_know_have_much_more_variance_within_than_between() -> None:
    generator = np.random.default_rng(0)
    found = representation.class_means(generator.normal(size=(2000, 16)), generator.integers(0, 10, 2000))
    assert found.variance_ratio == pytest.approx(2000 / 9, rel=0.3)


def test_a_planted_angle_between_subspaces_is_found() -> None:
    points = np.random.default_rng(0).normal(size=(50, 4))
    basis, _ = np.linalg.qr(points - points.mean(axis=0))
    angle = 1e-9
    x = basis[:, :2] * [5, 3]
    y = np.stack([basis[:, 0] * math.cos(angle) + basis[:, 2] * math.sin(angle), 0.5 * basis[:, 3]], axis=1)
    assert representation.principal_angles(x, y, 2) == pytest.approx([angle, math.pi / 2], rel=1e-5)


def test_neighbours_fit_into_little_memory_in_more_than_one_part() -> None:
    x = np.random.default_rng(0).normal(size=(5500, 4)).astype(np.float16)
    assert 5500**2 * 8 > 200e6
    tracemalloc.start()
    found = representation.neighbours(x, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6
    for sample in (0, 2750, 5499):
        distance = ((x.astype(np.float64) - x[sample].astype(np.float64)) ** 2).sum(axis=1)
        assert [one for one in np.argsort(distance, kind="stable") if one != sample][:3] == found[sample].tolist()


# Input that has no answer

LOGITS, LABELS = some_logits(0, 20, 4)[0], some_logits(0, 20, 4)[2]
FEATURES = some_features(0, 30, 4)
WITH_LABELS: list[Callable[[Array, Array], Any]] = [
    fidelity.accuracy, fidelity.correct, calibration.ece, calibration.adaptive_ece, calibration.nll, calibration.brier,
    calibration.reliability, calibration.fit_temperature,
]  # fmt: skip
OF_LOGITS: list[Callable[[Array], Any]] = [
    fidelity.log_probabilities,
    calibration.ece_floor,
    lambda logits: calibration.scaled(logits, 2.0),
    lambda logits: fidelity.agreement(logits, LOGITS),
    lambda logits: fidelity.agreement(LOGITS, logits),
    lambda logits: fidelity.mean_kl(logits, LOGITS),
    lambda logits: fidelity.mean_kl(LOGITS, logits),
    *[lambda logits, one=one: one(logits, LABELS) for one in WITH_LABELS],
]
OF_FEATURES: list[Callable[[Array], Any]] = [
    lambda x: representation.cka(x, FEATURES),
    lambda x: representation.cka(FEATURES, x),
    lambda x: representation.procrustes(x, FEATURES),
    lambda x: representation.procrustes(FEATURES, x),
    lambda x: representation.principal_angles(x, FEATURES, 1),
    lambda x: representation.principal_angles(FEATURES, x, 1),
    lambda x: representation.neighbours(x, 2),
    representation.participation_ratio,
    lambda x: representation.components_for(x, 0.9),
    lambda x: representation.class_means(x, np.arange(len(x)) % 2),
]


def with_one(values: Array, bad: float) -> Array:
    found = values.copy()
    found[3, 1] = bad
    return found


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_never_yields_a_number(bad: float) -> None:
    for estimate in OF_LOGITS:
        with pytest.raises(RoundhouseError, match="NaN or infinite"):
            estimate(with_one(LOGITS, bad))
    for estimate in OF_FEATURES:
        with pytest.raises(RoundhouseError, match="1 of 120 values are NaN or infinite"):
            estimate(with_one(FEATURES, bad))


@pytest.mark.parametrize("values", [LOGITS[0], LOGITS[:0], LOGITS[:, :0], LOGITS.astype(str), LOGITS[None]])
def test_what_is_no_table_of_numbers_is_refused(values: Array) -> None:
    for estimate in OF_LOGITS + OF_FEATURES:
        with pytest.raises(RoundhouseError):
            estimate(values)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[1:], "must be 30 whole numbers"),
        (LABELS.astype(float), "must be 30 whole numbers"),
        (LABELS[:, None], "must be 30 whole numbers"),
        (LABELS - 4, "numbered from 0"),
        (LABELS + 4, "no column in logits of 4 classes"),
    ],
)
def test_labels_that_do_not_fit_the_logits_are_refused(labels: Array, message: str) -> None:
    for estimate in WITH_LABELS:
        with pytest.raises(RoundhouseError, match=message):
            estimate(LOGITS, labels)


def test_networks_seen_on_different_samples_are_not_compared() -> None:
    for compare in (fidelity.agreement, fidelity.mean_kl):
        with pytest.raises(RoundhouseError, match="same samples"):
            compare(LOGITS, LOGITS[1:])
    for distance in (representation.cka, representation.procrustes):
        with pytest.raises(RoundhouseError, match="30 samples in x and 29 in y"):
            distance(FEATURES, FEATURES[1:])
    with pytest.raises(RoundhouseError, match="29 samples in x and 30 in y"):
        representation.principal_angles(FEATURES[1:], FEATURES, 1)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.full((30, 4), 0.1, np.float16), "the same for every sample"),
        (np.full((30, 4), 0.1), "the same for every sample"),
        (FEATURES[:3], "3 samples are too few"),
    ],
)
def test_features_of_a_collapsed_network_or_of_too_few_samples_are_refused(features: Array, message: str) -> None:
    for estimate in OF_FEATURES:
        with pytest.raises(RoundhouseError, match=message):
            estimate(features)


CASES: list[tuple[Callable[[], Any], str]] = [
    (lambda: calibration.fit_temperature(LOGITS[:0], LABELS[:0]), "no validation samples"),
    (lambda: calibration.ece(LOGITS, LABELS, 0), r"bins must be >= 1 \(got 0"),
    (lambda: calibration.adaptive_ece(LOGITS, LABELS, 0), r"bins must be >= 1 \(got 0"),
    (lambda: calibration.reliability(LOGITS, LABELS, -1), r"bins must be >= 1 \(got -1"),
    (lambda: calibration.ece_floor(LOGITS, bins=0), r"bins must be >= 1 \(got 0"),
    (lambda: calibration.ece_floor(LOGITS, draws=0), r"draws must be >= 1 \(got 0\)"),
    (lambda: calibration.scaled(LOGITS, 0.0), r"temperature must .* \(got 0.0\)"),
    (lambda: calibration.scaled(LOGITS, math.nan), r"temperature must .* \(got nan\)"),
    (lambda: fidelity.log_probabilities(LOGITS[:, :1]), "at least two columns"),
    (lambda: representation.cka(np.eye(5), FEATURES[:5]), "equally far"),
    (lambda: representation.neighbours(FEATURES, 0), "k must be 1 to 29"),
    (lambda: representation.neighbours(FEATURES, 30), "k must be 1 to 29"),
    (lambda: representation.knn_chance(10, 10), "k must be 1 to 9"),
    (lambda: representation.knn_overlap(np.zeros((4, 2), int), np.zeros((4, 3), int)), "same samples and k"),
    (lambda: representation.components_for(FEATURES, 0.0), "share of 0.0"),
    (lambda: representation.components_for(FEATURES, 1.1), "share of 1.1"),
    (lambda: representation.components_for(FEATURES, math.nan), "share of nan"),
    (lambda: representation.class_means(FEATURES, np.zeros(30, int)), "one class only"),
    (lambda: representation.class_means(FEATURES, np.zeros(29, int)), "must be 30 whole numbers"),
    (lambda: representation.class_means(np.arange(6.0)[:, None], np.arange(6) // 2), "equals that of all samples"),
    (lambda: representation.class_means(np.arange(4.0)[:, None], np.array([0, 1, 1, 0])), "equals that of all"),
    (lambda: representation.principal_angles(FEATURES, FEATURES, 5), "has 4 dimensions; 5"),
    (lambda: representation.principal_angles(FEATURES, np.outer(np.arange(30), [1, 2]), 2), "features y: has 1"),
    (lambda: representation.principal_angles(FEATURES, FEATURES, 0), "0 principal dimensions"),
]


@pytest.mark.parametrize(("ask", "message"), CASES, ids=[message for _, message in CASES])
def test_an_undefined_value_is_an_error_in_one_line(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(RoundhouseError, match=message) as reported:
        ask()
    assert "\n" not in str(reported.value)
