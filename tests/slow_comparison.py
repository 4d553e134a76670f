"""The statistics again, from their definitions: fractions and loops, without the code of the analysis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction


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
