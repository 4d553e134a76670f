"""Convergence and overfitting from the losses of a training: the verdicts and what they rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.flood.analysis import monitor
from studies.flood.analysis.monitor import (
    CONVERGED,
    DIVERGED,
    FALLING,
    OVERFITTING,
    TOO_SHORT,
    level,
    trend,
    window_of,
)  # fmt: skip

EPOCHS = np.arange(1, 101)
SETTLED = 0.02 + 0.08 * np.exp(-EPOCHS / 8)
NOISE = np.exp(0.005 * np.random.default_rng(0).standard_normal(100))
LOSSES = st.lists(st.floats(1e-3, 10), min_size=1, max_size=60)


def verdict(training: Sequence[float] | np.ndarray, validation: Sequence[float] | np.ndarray) -> str:
    return monitor.monitor(list(training), list(validation)).verdict


@pytest.mark.parametrize(
    ("training", "validation", "expected"),
    [
        (SETTLED * NOISE, 1.2 * SETTLED * NOISE[::-1], CONVERGED),
        (0.1 * np.exp(-EPOCHS / 60) * NOISE, 0.12 * np.exp(-EPOCHS / 60) * NOISE, FALLING),
        (SETTLED * 0.99**EPOCHS, SETTLED * (1 + 0.01 * np.maximum(0, EPOCHS - 40)), OVERFITTING),
        (np.append(SETTLED[:50], np.full(50, np.nan)), SETTLED, DIVERGED),
        (SETTLED + 0.01 * EPOCHS, SETTLED + 0.01 * EPOCHS, DIVERGED),
        (SETTLED[:4], SETTLED[:4], TOO_SHORT),
        ([], [], TOO_SHORT),
    ],
    ids=["settled", "slow", "rises", "not a number", "grows", "four epochs", "none"],
)
def test_a_verdict_follows_from_the_curves(training: np.ndarray, validation: np.ndarray, expected: str) -> None:
    assert verdict(training, validation) == expected


def test_a_validation_loss_that_rises_with_the_training_loss_is_no_overfitting() -> None:
    rises = SETTLED * (1 + 0.01 * np.maximum(0, EPOCHS - 40))
    assert verdict(SETTLED, rises) == OVERFITTING
    assert verdict(rises, rises) == DIVERGED


def test_a_rise_by_chance_at_one_epoch_is_no_overfitting() -> None:
    spike = SETTLED.copy()
    spike[60] *= 0.7  # one lucky epoch is the best, and all others are far above it
    found = monitor.monitor(list(SETTLED), list(spike))
    assert found.best_epoch == 61 and found.verdict == CONVERGED


def test_gaps_and_the_best_epoch_are_read_from_the_curves() -> None:
    found = monitor.monitor([0.5, 0.3, 0.2, 0.1, 0.1, 0.05], [0.6, 0.4, 0.25, 0.3, 0.35, 0.45])
    assert (found.epochs, found.best_epoch, found.best) == (6, 3, 0.25)
    assert found.gap_at_best == pytest.approx(0.05) and found.gap_at_end == pytest.approx(0.4)
    assert found.relative_gap == pytest.approx(0.2)


def test_a_run_that_was_ended_because_it_diverged_has_diverged() -> None:
    assert monitor.monitor(list(SETTLED), list(SETTLED), diverged=True).verdict == DIVERGED


def test_the_best_epoch_is_among_the_finite_ones() -> None:
    found = monitor.monitor([1.0, 1.0, 1.0], [math.nan, 2.0, 3.0])
    assert found.best_epoch == 2 and found.verdict == DIVERGED
    assert monitor.monitor([1.0], [math.nan]).best_epoch == 0


@given(st.integers(1, 1000))
def test_the_window_is_a_fifth_of_the_epochs_within_its_limits(epochs: int) -> None:
    window = window_of(epochs)
    assert 1 <= window <= min(epochs, monitor.MOST)
    if epochs >= monitor.LEAST:
        assert window >= monitor.LEAST
    if 25 <= epochs <= 140:
        assert abs(window - epochs / 5) <= 0.5


@given(st.floats(0.1, 10), st.floats(-0.01, 0.01), st.integers(3, 40))
def test_the_trend_of_a_line_is_its_slope_relative_to_its_level(start: float, slope: float, n: int) -> None:
    values = start * (1 + slope * (np.arange(n, dtype=np.float64) - (n - 1) / 2))
    found, error = trend(values)
    assert found == pytest.approx(slope, abs=1e-9) and error == pytest.approx(0, abs=1e-9)


def test_the_error_of_a_trend_is_that_of_repeated_noise() -> None:
    random = np.random.default_rng(1)
    found = [trend(1 + 0.05 * random.standard_normal(20)) for _ in range(400)]
    slopes, errors = (np.array([one[place] for one in found]) for place in (0, 1))
    assert errors.mean() == pytest.approx(slopes.std(), rel=0.1)


@given(LOSSES, LOSSES, st.floats(1e-3, 1e3))
def test_the_unit_of_the_losses_does_not_change_a_verdict(train: list[float], valid: list[float], unit: float) -> None:
    one = monitor.monitor(train, valid)
    other = monitor.monitor([unit * value for value in train], [unit * value for value in valid])
    assert other.best_epoch == one.best_epoch or other.best == pytest.approx(unit * one.best)
    if abs(one.rise - monitor.RISES) > 1e-6 and len(train) > 2:
        assert other.gap_at_end == pytest.approx(unit * one.gap_at_end, rel=1e-6, abs=1e-9 * unit)
        assert other.rise == pytest.approx(one.rise, rel=1e-6, abs=1e-9)


@given(LOSSES, st.data())
def test_a_level_is_the_mean_of_a_whole_window_that_holds_the_epoch(values: list[float], data: st.DataObject) -> None:
    place, window = data.draw(st.integers(0, len(values) - 1)), data.draw(st.integers(1, len(values)))
    windows = [np.mean(values[first : first + window]) for first in range(len(values) - window + 1)
               if first <= place < first + window]  # fmt: skip
    assert any(math.isclose(level(np.array(values), place, window), one, rel_tol=1e-9) for one in windows)


@given(st.floats(0.8, 0.999), st.integers(5, 200))
def test_a_loss_that_falls_to_its_end_is_still_falling(ratio: float, epochs: int) -> None:
    losses = ratio ** np.arange(epochs)
    found = monitor.monitor(list(losses), list(losses))
    assert found.rise == pytest.approx(0, abs=1e-12)
    assert found.verdict == (FALLING if -found.trend * found.window >= monitor.FALLS else CONVERGED)


@given(LOSSES, LOSSES)
def test_every_training_has_a_verdict(train: list[float], valid: list[float]) -> None:
    found = monitor.monitor(train, valid)
    assert found.verdict in (CONVERGED, FALLING, OVERFITTING, DIVERGED, TOO_SHORT)
    assert found.epochs == min(len(train), len(valid))
    assert found.best == min(valid[: found.epochs])
