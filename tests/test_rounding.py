"""Rounding: digits follow the spread, nothing is rounded away, and no zero has a sign."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.rounding import decimals, fixed, significant, with_interval, with_spread

numbers = st.floats(-1e6, 1e6)
spreads = st.floats(1e-6, 1e6)


@pytest.mark.parametrize(
    ("mean", "spread", "text"),
    [
        (19.9412, 0.0312, "19.94 ± 0.03"),
        (93.1, 0.1049, "93.10 ± 0.10"),
        (71.333, 0.29, "71.33 ± 0.29"),
        (70.7, 0.36, "70.7 ± 0.4"),
        (0.95, 0.0996, "0.95 ± 0.10"),
        (12345.6, 321.0, "12346 ± 321"),
        (0.0001, 0.02, "0.000 ± 0.020"),
        (-0.0001, 0.02, "0.000 ± 0.020"),
        (54.6, 0.0, "54.60 ± 0.00"),
        (54.6, math.nan, "54.60 ± ?"),
        (math.nan, math.nan, "? ± ?"),
    ],
)
def test_the_digits_of_a_mean_are_those_of_its_spread(mean: float, spread: float, text: str) -> None:
    assert with_spread(mean, spread) == text


@given(numbers, spreads)
def test_rounding_moves_a_number_by_at_most_half_of_its_spread(value: float, spread: float) -> None:
    shown = fixed(value, decimals(spread))
    assert abs(float(shown) - value) <= 0.5 * spread * (1 + 1e-9) or float(shown) == round(value)
    assert float(fixed(spread, decimals(spread))) > 0 or spread < 0.5


@given(numbers, st.integers(0, 8))
def test_no_zero_has_a_sign_and_a_sign_never_contradicts_the_number(value: float, places: int) -> None:
    for text in (fixed(value, places), fixed(value, places, sign=True)):
        assert not (text.startswith("-") and float(text) == 0)
        assert float(text) * value >= 0


def test_an_interval_stands_behind_its_mean_and_an_unknown_one_is_left_out() -> None:
    assert with_interval(2, 1.14, 2.86) == "+2.0 (+1.1 to +2.9)"
    assert with_interval(2, 1.14, 2.86, spread=0.26) == "+2.00 (+1.14 to +2.86)"
    assert with_interval(-0.058, -2.67, 2.55) == "-0.1 (-2.7 to +2.5)"
    assert with_interval(1e-17, -0.0026, 0.0026) == "+0.0000 (-0.0026 to +0.0026)"
    assert with_interval(1.23, math.nan, math.nan) == "+1.230"


@pytest.mark.parametrize(
    ("value", "text"), [(0.10912, "0.109"), (65.54, "65.5"), (1240.4, "1240"), (0.0, "0.00"), (math.nan, "?")]
)
def test_significant_digits_without_an_exponent(value: float, text: str) -> None:
    assert significant(value) == text
