"""How numbers over seeds are written: never without n, and with an interval only where there is one."""

from __future__ import annotations

import math

import pytest

from analysis.comparison import compare
from studies.flood.analysis.texts import UNKNOWN, better, difference, factor, over_seeds, ranged


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), UNKNOWN),
        ((math.nan,), UNKNOWN),
        ((0.41234,), "0.412, n 1"),
        ((0.4, 0.5), "0.400 and 0.500, n 2"),
        ((0.4, 0.5, 0.6), "0.50 (0.25 to 0.75), n 3"),  # 0.1 / sqrt(3) x 4.303 is half of it
        ((0.4, math.nan, 0.5, 0.6), "0.50 (0.25 to 0.75), n 3"),
    ],
)
def test_a_mean_has_its_interval_and_n(values: tuple[float, ...], expected: str) -> None:
    assert over_seeds(values) == expected


def test_a_share_is_written_in_percent() -> None:
    assert over_seeds((0.5, 0.6), percent=True) == "50.0 and 60.0 %, n 2"


@pytest.mark.parametrize(
    ("values", "expected"),
    [((), UNKNOWN), ((0.5,), "0.500"), ((0.5, 0.5), "0.500"), ((0.4, 0.6), "0.500 (0.400 to 0.600)")],
)
def test_a_range_stands_in_brackets_if_there_is_one(values: tuple[float, ...], expected: str) -> None:
    assert ranged(values) == expected


@pytest.mark.parametrize(
    ("values", "text", "ratio", "verdict"),
    [
        ([], UNKNOWN, UNKNOWN, "open"),
        ([-0.1], "-0.100, n 1", "x 0.90, n 1", "open"),
        ([-0.1, -0.2], "-0.200 and -0.100, n 2", "x 0.82 and x 0.90, n 2", "open"),
        ([-0.1, -0.11, -0.12], "-0.110 (-0.135 to -0.085), n 3", "x 0.90 (0.87 to 0.92), n 3", "better"),
        ([0.1, 0.11, 0.12], "+0.110 (+0.085 to +0.135), n 3", "x 1.12 (1.09 to 1.14), n 3", "worse"),
        ([-0.1, 0.1, 0.0], "+0.00 (-0.25 to +0.25), n 3", "x 1.00 (0.78 to 1.28), n 3", "open"),
    ],
)
def test_a_difference_has_an_answer_only_with_an_interval(
    values: list[float], text: str, ratio: str, verdict: str
) -> None:
    found = compare(values)
    assert (difference(found), factor(found), better(found)) == (text, ratio, verdict)
