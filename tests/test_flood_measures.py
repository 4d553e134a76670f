"""Measures of predicted floods: each against plain loops over Python floats, and what it must do in special cases."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from studies.flood.measures import (
    STILL,
    WET,
    changes,
    critical_success_index,
    depth_after,
    depth_errors,
    dummy_loss,
    front_differences,
    front_offsets,
    mass_errors,
    quantiles,
    relative_errors,
    root_mean_square_error,
    summarise,
)

SPACING = 10.0
CLOSE = 1e-12


@st.composite
def depths(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Predicted and true depths (N, H, W), partly dry, in float32 or float64: puddles, or water with one shore."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    fields = [torch.randn(shape, generator=generator) for _ in range(2)]
    if draw(st.booleans()):
        rows, columns = torch.arange(shape[1])[:, None] - 4, torch.arange(shape[2]) - 4
        fields = [one[:, :1, :1] * rows + one[:, -1:, -1:] * columns + one[:, :1, -1:] for one in fields]
    fields = [one.clamp(min=0).to(dtype) for one in fields]
    if draw(st.booleans()):
        fields[1][0] = 0  # a dry sample
    return fields[0], fields[1]


def cells_of(field: Tensor) -> dict[tuple[int, int], float]:
    return {(i, j): float(field[i, j]) for i in range(field.shape[0]) for j in range(field.shape[1])}


def same(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, rel=CLOSE, abs=CLOSE, nan_ok=True)


def loop_relative(p: Tensor, t: Tensor) -> float:
    wrong = total = 0.0
    for cell, value in cells_of(t).items():
        wrong += abs(value - cells_of(p)[cell])
        total += abs(value)
    return wrong / total if total else math.nan


def loop_mass(p: Tensor, t: Tensor) -> float:
    volume, wanted = sum(cells_of(p).values()), sum(cells_of(t).values())
    return (volume - wanted) / wanted if wanted else math.nan


def loop_front(field: Tensor) -> set[frozenset[tuple[int, int]]]:
    """Faces of the front, each as its two cells."""
    wet = {cell: value >= WET for cell, value in cells_of(field).items()}
    pairs = [(one, (one[0] + di, one[1] + dj)) for one in wet for di, dj in ((0, 1), (1, 0))]
    return {frozenset(pair) for pair in pairs if pair[1] in wet and wet[pair[0]] != wet[pair[1]]}


def differing(p: Tensor, t: Tensor) -> set[tuple[int, int]]:
    return {cell for cell, value in cells_of(t).items() if (value >= WET) != (cells_of(p)[cell] >= WET)}


def loop_offset(p: Tensor, t: Tensor) -> float:
    faces = len(loop_front(t))
    return len(differing(p, t)) * SPACING**2 / (faces * SPACING) if faces else math.nan


def loop_differences(p: Tensor, t: Tensor) -> float:
    at_front = {cell for face in loop_front(p) | loop_front(t) for cell in face}
    near = {
        (i, j) for i, j in cells_of(t) if any(abs(i - other[0]) <= 2 and abs(j - other[1]) <= 2 for other in at_front)
    }
    return len(differing(p, t) & near) / len(near) if near else math.nan


@pytest.mark.parametrize(
    ("measure", "loop"),
    [
        (relative_errors, loop_relative),
        (mass_errors, loop_mass),
        (lambda p, t: front_offsets(p, t, SPACING), loop_offset),
        (front_differences, loop_differences),
    ],
    ids=["relative", "mass", "front_offsets", "front_differences"],
)
@settings(max_examples=30, deadline=None)
@given(fields=depths())
def test_a_measure_of_each_sample_agrees_with_plain_loops(measure, loop, fields) -> None:  # type: ignore[no-untyped-def]
    predicted, true = fields
    expected = [loop(p, t) for p, t in zip(predicted, true, strict=True)]
    for shaped in (lambda x: x, lambda x: x[:, None]):
        found = measure(shaped(predicted), shaped(true))
        assert found.dtype == torch.float64 and found.shape == (len(true),)
        assert all(map(same, found.tolist(), expected))


@settings(max_examples=30, deadline=None)
@given(fields=depths(), threshold=st.sampled_from([0.05, 0.3, 1.0]))
def test_measures_of_a_whole_set_agree_with_plain_loops(fields: tuple[Tensor, Tensor], threshold: float) -> None:
    pairs = [(float(p), float(t)) for p, t in zip(fields[0].flatten(), fields[1].flatten(), strict=True)]
    hits = sum(p >= threshold and t >= threshold for p, t in pairs)
    misses = sum(p < threshold <= t for p, t in pairs)
    alarms = sum(t < threshold <= p for p, t in pairs)
    assert same(root_mean_square_error(*fields), math.sqrt(sum((p - t) ** 2 for p, t in pairs) / len(pairs)))
    assert same(dummy_loss(fields[1]), sum(abs(t) for _, t in pairs) / len(pairs))
    assert same(critical_success_index(*fields, threshold), hits / n if (n := hits + misses + alarms) else math.nan)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(0, 1e4), min_size=1, max_size=30), share=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_a_quantile_agrees_with_that_of_torch(values: list[float], share: float) -> None:
    expected = torch.tensor(values, dtype=torch.float64).quantile(share)
    assert quantiles(torch.tensor(values, dtype=torch.float64), [share]) == [pytest.approx(float(expected), rel=1e-9)]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-5, 1e5))
def test_persistence_has_a_relative_error_of_exactly_1(seed: int, scale: float) -> None:
    true = scale * torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(seed))
    assert relative_errors(torch.zeros_like(true), true).tolist() == [1.0, 1.0, 1.0]


def test_samples_in_which_nothing_changes_are_dropped_and_counted() -> None:
    true = torch.ones(5, 2, 2)
    true[1] = 0
    true[3] = STILL * torch.tensor([[1, -1], [0, 0.5]])
    predicted = true * torch.tensor([0.5, 1, 0.01, 1, 3])[:, None, None]
    predicted[1] = 7
    assert changes(true).tolist() == [True, False, True, False, True]
    found = summarise(predicted, true)
    assert (found.samples, found.dropped) == (3, 2)
    assert found.median == pytest.approx(0.99) and found.below == pytest.approx(2 / 3)
    assert (found.lower, found.upper) == (pytest.approx(0.745), pytest.approx(1.495))


def test_persistence_is_not_below_itself() -> None:
    true = torch.tensor([1.0, -2.0]).reshape(2, 1, 1)
    found = summarise(torch.zeros_like(true), true)
    assert (found.median, found.below) == (1, 0)


def test_a_set_without_a_change_has_no_numbers_but_a_count() -> None:
    found = summarise(torch.ones(4, 1, 2, 2), torch.zeros(4, 1, 2, 2))
    assert (found.samples, found.dropped) == (0, 4)
    assert all(math.isnan(one) for one in (found.median, found.lower, found.upper, found.below))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_prediction_that_is_not_finite_is_not_hidden(bad: float) -> None:
    true = torch.ones(3, 4, 4)
    true[:, :, :2] = 0
    predicted = true.clone()
    predicted[1, 0, 0] = bad
    assert not summarise(predicted, true).upper < 1
    found = depth_errors(predicted, true, SPACING)
    values = [found.rmse, *found.csi, found.mass, found.absolute_mass, found.front, found.front_states]
    assert all(math.isnan(one) for one in values)
    assert math.isnan(front_differences(predicted, true)[1]) and math.isnan(front_offsets(predicted, true, SPACING)[1])
    assert math.isnan(critical_success_index(predicted, true, 0.3))


def shore(columns: int) -> Tensor:
    """(1, 12, 12): the first columns are wet."""
    return (torch.arange(12) < columns).float().expand(1, 12, 12)


@pytest.mark.parametrize("columns", [2, 5, 6, 7, 11])
def test_the_offset_of_a_straight_front_is_its_distance_in_metres(columns: int) -> None:
    for turned in (lambda x: x, lambda x: x.mT, lambda x: 1 - x):
        found = front_offsets(turned(shore(columns)), turned(shore(6)), SPACING)
        assert found.tolist() == [SPACING * abs(columns - 6)]


def test_a_missing_front_and_one_too_many_count_near_the_front() -> None:
    for turned in (lambda x: x, lambda x: x.mT, lambda x: 1 - x):
        found = [front_differences(turned(shore(one)), turned(shore(6))).item() for one in (6, 0, 12, 2)]
        assert found == [0, 0.5, 0.5, pytest.approx(4 / 9)]
    assert front_differences(shore(6), shore(0)).tolist() == [0.5]
    assert front_differences(shore(0), shore(12)).isnan().tolist() == [True]


def test_a_perfect_prediction_has_no_error() -> None:
    true = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(1)) - 0.5
    true = true.clamp(min=0)
    found = depth_errors(true, true, SPACING, thresholds=(0.05, 0.3))
    assert (found.rmse, found.csi, found.mass, found.absolute_mass) == (0, (1, 1), 0, 0)
    assert (found.front, found.front_states) == (0, 0)


def test_errors_of_mass_cancel_over_the_set_but_not_in_their_absolute_mean() -> None:
    true, predicted = torch.ones(2, 3, 3), torch.ones(2, 3, 3)
    predicted[0], predicted[1] = 1.5, 0.5
    found = depth_errors(predicted, true, SPACING)
    assert (found.mass, found.absolute_mass) == (0, 0.5)


def test_a_depth_is_never_negative() -> None:
    assert depth_after(torch.tensor([1.0, 2.0]), torch.tensor([-3.0, -0.5])).tolist() == [0.0, 1.5]
