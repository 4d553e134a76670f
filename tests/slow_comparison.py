"""The statistics again, from their definitions: fractions and loops, without the code of the analysis."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from fractions import Fraction

Table = Sequence[Sequence[bool]]  # by seed, then by test example


def sign_flip_p(differences: Sequence[int]) -> Fraction:
    """Share of all assignments of signs whose sum is as far from 0; whole numbers, so that ties are ties."""
    observed = abs(sum(differences))
    assignments = list(itertools.product((-1, 1), repeat=len(differences)))
    as_far = [
        signs for signs in assignments if abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed
    ]
    return Fraction(len(as_far), len(assignments))


def rejected_by_holm(p_values: Sequence[float], level: float) -> set[int]:
    """Indices. Step down from the smallest: stop at the first that misses `level` / hypotheses left."""
    rejected: set[int] = set()
    for index in sorted(range(len(p_values)), key=lambda one: p_values[one]):
        if p_values[index] * (len(p_values) - len(rejected)) > level:
            break
        rejected.add(index)
    return rejected


def interquartile_mean(values: Sequence[float]) -> float:
    """With each value four times, quartiles fall between values."""
    four_times = sorted(value for value in values for _ in range(4))
    middle = four_times[len(values) : 3 * len(values)]
    return math.fsum(middle) / len(middle)


def resampled(a: Sequence[Table], b: Sequence[Table], draws: int, seed: int) -> list[float]:
    """Differences of accuracy: seeds of each data set drawn, then its examples, one by one."""
    chance = random.Random(seed)
    found = []
    for _ in range(draws):
        by_data_set = []
        for rows_a, rows_b in zip(a, b, strict=True):
            seeds = [chance.randrange(len(rows_a)) for _ in rows_a]
            examples = [chance.randrange(len(rows_a[0])) for _ in rows_a[0]]
            gained = sum(rows_a[row][column] - rows_b[row][column] for row in seeds for column in examples)
            by_data_set.append(gained / len(seeds) / len(examples))
        found.append(sum(by_data_set) / len(by_data_set))
    return sorted(found)
