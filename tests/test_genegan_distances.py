"""Distances between sets of images: closed forms, plain references, and what must not change them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roundhouse.training import StudyError
from studies.genegan import extractors
from studies.genegan.distances import Statistics, distance, floor, frechet, interval, kid


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(count: int, dimension: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dimension, generator=generator(seed))


def a_covariance(dimension: int, seed: int) -> Tensor:
    rows = normal(3 * dimension, dimension, seed).double()
    return rows.T @ rows / len(rows)


def correlated(count: int, dimension: int, seed: int) -> Tensor:
    return normal(count, dimension, seed) @ normal(dimension, dimension, seed + 100) + normal(1, dimension, seed + 200)


# Frechet distance


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_of_unit_gaussians_it_is_the_squared_distance_of_the_means(dimension: int, seed: int) -> None:
    mean, zero, unit = normal(1, dimension, seed)[0].double(), torch.zeros(dimension), torch.eye(dimension)
    assert frechet(zero, unit, mean, unit) == pytest.approx(float(mean.square().sum()), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_of_covariances_that_commute_it_is_that_of_the_roots_of_their_eigenvalues(dimension: int, seed: int) -> None:
    """Both are diagonal in one basis, so the distance is the sum of (sqrt a - sqrt b)^2."""
    basis = torch.linalg.qr(normal(dimension, dimension, seed).double())[0]
    a, b = torch.rand(2, dimension, generator=generator(seed)).double() + 0.01
    one, other = (basis @ values.diag() @ basis.T for values in (a, b))
    zero = torch.zeros(dimension)
    assert frechet(zero, one, zero, other) == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), abs=1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("rank", [2, 8])
def test_a_distribution_has_no_distance_to_itself_even_if_its_covariance_is_singular(rank: int, scale: float) -> None:
    rows = (normal(50, rank) @ normal(rank, 8, 1) * scale).double()
    mean, covariance = rows.mean(0), rows.T.cov()
    spread = float(covariance.trace())
    assert frechet(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-10 * spread)
    moved = mean + (spread / 8) ** 0.5  # also where rounding makes the distance too small, which is never below 0
    assert frechet(mean, covariance, moved, covariance) == pytest.approx(spread, rel=1e-10, abs=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 10), st.integers(0, 1000))
def test_it_is_symmetric_and_equals_the_plain_formula_with_a_matrix_root(dimension: int, seed: int) -> None:
    one, other = a_covariance(dimension, seed), a_covariance(dimension, seed + 1)
    m, n = normal(2, dimension, seed).double()
    root = scipy.linalg.sqrtm(one.numpy() @ other.numpy()).real
    plain = float((m - n).square().sum()) + np.trace(one.numpy() + other.numpy() - 2 * root)
    assert frechet(m, one, n, other) == pytest.approx(plain, rel=1e-8, abs=1e-8)
    assert frechet(n, other, m, one) == pytest.approx(frechet(m, one, n, other), rel=1e-8, abs=1e-8)


def test_with_no_more_images_than_features_it_is_refused_with_numbers() -> None:
    enough, few = Statistics.of(normal(9, 8)), Statistics.of(normal(8, 8))
    assert distance(enough, enough) == pytest.approx(0, abs=1e-9)
    with pytest.raises(StudyError, match="8 features needs more than 8 images on each side, and there are 8"):
        distance(enough, few)


# Statistics in batches


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 700), st.data())
def test_statistics_equal_those_of_all_rows_whatever_the_batch_size(count: int, data: st.DataObject) -> None:
    rows = correlated(count, 3, seed=count)
    batch = data.draw(st.integers(1, count))
    in_batches, at_once = Statistics(3), Statistics.of(rows)
    for part in rows.split(batch):
        in_batches.update(part)
    assert in_batches.count == at_once.count == count
    assert torch.equal(in_batches.mean, at_once.mean)
    assert torch.allclose(at_once.mean, rows.double().mean(0), rtol=1e-12)
    if count > 3:
        assert torch.equal(in_batches.covariance, at_once.covariance)
        assert torch.allclose(at_once.covariance, rows.double().T.cov(), rtol=1e-9, atol=1e-12)


def test_statistics_can_be_read_before_all_rows_have_come() -> None:
    rows, statistics = correlated(600, 2, seed=5), Statistics(2)
    for part in rows.split(100):
        statistics.update(part)
        assert torch.isfinite(statistics.covariance).all()
    assert torch.equal(statistics.covariance, Statistics.of(rows).covariance)


def test_a_large_mean_does_not_spoil_the_covariance() -> None:
    rows = normal(1000, 4).double()
    assert torch.allclose(Statistics.of(rows + 1e6).covariance, rows.T.cov(), rtol=1e-6, atol=1e-8)


# Interval and floor


def test_the_interval_covers_the_spread_of_repeated_samples() -> None:
    """The standard error of one pair of samples is about the standard deviation of the distance over many pairs."""
    pairs = [(normal(400, 4, k), normal(400, 4, k + 500) * 1.3 + 0.4) for k in range(40)]
    values = [interval(x, y, 10, generator()) for x, y in pairs]
    spread = float(torch.tensor([one.value for one in values]).std())
    error = sum(one.error for one in values) / len(values)
    assert 0.7 * spread < error < 1.4 * spread
    assert all(one.low <= one.value <= one.high for one in values)
    assert values[0].value == pytest.approx(distance(*map(Statistics.of, pairs[0])), rel=1e-9)


def test_the_floor_is_small_beside_the_distance_of_different_sets_and_falls_with_their_size() -> None:
    small, large = floor(normal(200, 4), generator()), floor(normal(4000, 4), generator())
    assert 0 < large < small < distance(Statistics.of(normal(200, 4)), Statistics.of(normal(200, 4, 1) + 1))
    with pytest.raises(StudyError, match="more than 4 images on each side, and there are 4"):
        floor(normal(8, 4), generator())


# Kernel distance


def plain_kid(x: Tensor, y: Tensor) -> float:
    """By its definition, one pair of rows after the other."""

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a.double() @ b.double()) / len(a) + 1) ** 3

    n = range(len(x))
    within = [kernel(s[i], s[j]) for s in (x, y) for i in n for j in n if i != j]
    between = [kernel(a, b) for a in x for b in y]
    return sum(within) / (len(x) * (len(x) - 1)) - 2 * sum(between) / len(x) ** 2


def test_kid_of_all_rows_equals_its_definition() -> None:
    x, y = normal(7, 3), normal(7, 3, 1) + 1
    mean, sd = kid(x, y, subsets=3, size=7, generator=generator())
    assert mean == pytest.approx(plain_kid(x, y), rel=1e-9)
    assert sd == pytest.approx(0, abs=1e-9)


def test_kid_is_unbiased_for_small_n_and_follows_its_generator() -> None:
    values = [kid(normal(20, 3, k), normal(20, 3, k + 1000), 1, 20, generator())[0] for k in range(300)]
    mean, error = np.mean(values), np.std(values) / len(values) ** 0.5
    assert abs(mean) < 4 * error
    x, y = normal(50, 3), normal(50, 3, 1)
    assert kid(x, y, 5, 10, generator(3)) == kid(x, y, 5, 10, generator(3)) != kid(x, y, 5, 10, generator(4))


def test_kid_of_too_large_subsets_is_refused() -> None:
    with pytest.raises(StudyError, match="subsets of 11 images: there are 10 and 20; use 2 to 10"):
        kid(normal(10, 3), normal(20, 3), 5, 11, generator())


# The reference implementation


def test_both_equal_torch_fidelity_on_the_same_features() -> None:
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed (pip install '.[fidelity]')")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = correlated(300, 16, 0).double(), correlated(300, 16, 1).double()
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (x, y)), verbose=False)
    ours = distance(Statistics.of(x), Statistics.of(y))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    kernel = kid_features_to_metric(x, y, kid_subsets=2, kid_subset_size=300, verbose=False)
    assert kid(x, y, 2, 300, generator())[0] == pytest.approx(kernel["kernel_inception_distance_mean"], rel=1e-9)


def test_the_standard_network_of_torch_fidelity_gives_2048_features_of_images_in_0_to_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights instead of the published ones, which this host may be unable to download."""
    inception = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is not installed"
    )
    torch.manual_seed(0)
    path = extractors.weights_path(tmp_path)
    path.parent.mkdir(parents=True)
    torch.save({}, path)
    monkeypatch.setattr(extractors, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, weights: None)
    network = extractors.extractor(extractors.chosen("auto", 5000, tmp_path), torch.device("cpu"), tmp_path)
    assert (network.name, network.distance_name, network.kernel_name) == ("inception", "FID", "KID")
    images = torch.rand(2, 3, 32, 32, generator=generator())
    features = network(images)
    assert features.shape == (2, network.dimension) == (2, 2048)
    assert features.isfinite().all() and not torch.equal(features[0], features[1])
    assert torch.allclose(network(images[:1]), features[:1], atol=1e-5), "an image's features depend on no other image"
