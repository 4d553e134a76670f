"""Effects of techniques: planted ones are found, none is claimed where there is none, and intervals hold the truth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from flow_rounds import TEN, Truth, settings, versions
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from analysis.comparison import half_width, holm, student_p
from studies.flow_matching.analysis.effects import (
    MAIN,
    PAIR,
    SEEDS,
    SINGLE,
    Effects,
    difference,
    effects_of,
    matched_pairs,
)
from studies.flow_matching.analysis.results import Run, Setting

CPU = [*range(3, 13), 43, 44, 46, 48, 50, 53]  # the versions of the round for a CPU


def simulated(truth: Truth, count: int, **shape: object) -> Iterator[Effects]:
    random = np.random.default_rng(5)
    for _ in range(count):
        yield effects_of(settings(truth, random, **shape))  # type: ignore[arg-type]


def exact(truth: Truth, only: list[int] | None = None) -> dict[tuple[str, tuple[int, ...]], float]:
    """All effects without noise."""
    silent = Truth(truth.base, truth.single, truth.pairs, 0.0)
    found = effects_of(settings(silent, np.random.default_rng(0), only=only))
    return {(one.kind, one.techniques): one.value for one in found.effects}


def with_psnr(techniques: tuple[int, ...], *values: float) -> Setting:
    runs = tuple(Run(str(n), n, {"test_psnr": one}, 1.0, 1.0, (), ()) for n, one in enumerate(values))
    return Setting("versions" if techniques else "base", 2, techniques, {}, runs, ())


# ------------------------------------------------------------------------------------------------------ the design


def test_the_made_up_versions_are_those_of_the_document() -> None:
    sets = versions()
    assert list(sets) == list(range(3, 104))
    assert len(set(sets.values())) == 101
    known = {
        3: (1,), 13: (1, 2), 57: (9, 10), 58: (1, 2, 3), 68: (1, 2, 6), 76: (1, 2, 7), 83: (2, 3, 6), 90: (2, 3, 7),
        93: (1, 2, 3, 4), 98: (1, 2, 3, 4, 5), 99: (1, 2, 3, 4, 5, 7), 100: TEN[:9], 103: TEN,
    }  # fmt: skip
    assert {version: sets[version] for version in known} == known


def test_every_effect_of_the_full_round_is_estimable() -> None:
    (found,) = simulated(Truth(), 1)
    assert not found.not_estimable
    assert Counter(one.kind for one in found.effects) == {MAIN: 10, PAIR: 45, SINGLE: 10}


# ------------------------------------------------------------------------------------------------- claims under a null


@pytest.mark.parametrize(
    "shape",
    [{}, {"shared": 0.3}, {"base_seeds": 2}, {"only": CPU, "seeds": 3}, {"only": list(range(3, 58))}],
    ids=["one seed each", "seeds have a common shift", "two seeds of the base", "for a CPU", "pairs only"],
)
def test_nothing_is_claimed_under_a_null_in_at_most_5_percent_of_rounds(shape: dict[str, object]) -> None:
    rounds = 100 if shape else 200
    wrong = sum(any(one.shown for one in found.effects) for found in simulated(Truth(), rounds, **shape))
    assert wrong <= 0.05 * rounds


def test_without_correction_most_null_rounds_would_have_a_claim() -> None:
    wrong = sum(any(one.p < 0.05 for one in found.effects) for found in simulated(Truth(), 30))
    assert wrong > 15


def test_one_run_of_each_setting_shows_nothing_without_lack_of_fit() -> None:
    (found,) = simulated(Truth(single={2: 5.0}), 1, base_seeds=1, only=list(range(3, 13)))
    assert found.noise is None
    assert found.effects
    assert not any(one.shown or math.isfinite(one.interval.low) for one in found.effects)


# ----------------------------------------------------------------------------------------------------- planted effects

PLANTED = Truth(single={2: 0.8, 5: -0.6}, pairs={(6, 7): 1.0, (1, 2): -0.8}, noise=0.15)


def test_planted_main_effects_and_interactions_are_found_and_no_others() -> None:
    truth, shown, rounds = exact(PLANTED), Counter[tuple[str, tuple[int, ...]]](), 60
    for found in simulated(PLANTED, rounds):
        shown.update((one.kind, one.techniques) for one in found.effects if one.shown)
    for wanted in ((MAIN, (2,)), (MAIN, (5,)), (PAIR, (6, 7)), (PAIR, (1, 2))):
        assert shown[wanted] >= 0.95 * rounds, wanted
    wrong = [key for key in shown.elements() if abs(truth[key]) < 1e-9]
    assert len(wrong) <= 0.05 * rounds


def test_intervals_contain_the_truth() -> None:
    truth = exact(PLANTED)
    inside = [one.interval.low <= truth[one.kind, one.techniques] <= one.interval.high
              for found in simulated(PLANTED, 40) for one in found.effects]  # fmt: skip
    assert 0.94 <= np.mean(inside) <= 0.99


def test_interactions_of_three_count_as_noise_and_make_intervals_wider() -> None:
    """Versions of one seed whose deviations no pair explains: the seeds of the base alone would be too sure."""
    random = np.random.default_rng(3)
    made = settings(Truth(noise=0.02), random)
    bent = [one if len(one.techniques) < 3 else with_psnr(one.techniques, 14 + 0.6 * random.standard_normal())
            for one in made]  # fmt: skip
    found = effects_of(bent)
    assert found.seed_noise is not None and found.noise is not None and found.noise.source != SEEDS
    assert found.noise.deviation > 5 * found.seed_noise.deviation
    assert not any(one.shown for one in found.effects)


# ---------------------------------------------------------------------------------------------------------- exactness


@hypothesis_settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(TEN), st.floats(-2, 2), max_size=10),
       st.dictionaries(st.sampled_from(list(combinations(TEN, 2))), st.floats(-2, 2), max_size=6))  # fmt: skip
def test_without_noise_every_coefficient_is_recovered(
    single: dict[int, float], pairs: dict[tuple[int, int], float]
) -> None:
    truth = Truth(single=single, pairs=pairs)
    found = exact(truth)
    sets = list(versions().values())
    for pair in combinations(TEN, 2):
        assert found[PAIR, pair] == pytest.approx(pairs.get(pair, 0.0), abs=1e-6)
    for one in TEN:
        assert found[SINGLE, (one,)] == pytest.approx(single.get(one, 0.0), abs=1e-6)
        changes = [truth.psnr(having) - truth.psnr(tuple(set(having) - {one})) for having in sets if one in having]
        assert found[MAIN, (one,)] == pytest.approx(np.mean(changes), abs=1e-6)


def test_what_the_runs_do_not_determine_is_reported_and_not_guessed() -> None:
    base, pair = with_psnr((), 10.0, 10.2, 9.8), with_psnr((1, 2), 13.0)
    found = effects_of([base, pair, with_psnr((3,), 11.0)])
    assert set(found.not_estimable) == {(MAIN, (1,)), (MAIN, (2,)), (PAIR, (1, 2))}
    assert [(one.kind, one.techniques) for one in found.effects] == [(MAIN, (3,)), (SINGLE, (3,))]


def test_a_setting_with_more_seeds_weighs_more() -> None:
    few = effects_of([with_psnr((), 10.0, 10.2), with_psnr((1,), 11.0), with_psnr((1, 2), 11.0)])
    many = effects_of(
        [with_psnr((), 10.0, 10.2, 10.0, 10.2), with_psnr((1,), 11.0, 11.0, 11.2), with_psnr((1, 2), 11.0)]
    )
    assert width(many, SINGLE, 1) < width(few, SINGLE, 1)


def width(found: Effects, kind: str, *techniques: int) -> float:
    one = found.get(kind, *techniques)
    assert one is not None
    return one.interval.high - one.interval.low


@hypothesis_settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_settings_does_not_matter(seed: int) -> None:
    random = np.random.default_rng(seed)
    made = settings(PLANTED, random, only=list(range(3, 40)))
    shuffled = [made[place] for place in random.permutation(len(made))]
    one, other = ({(each.kind, each.techniques): each.value for each in effects_of(given).effects}
                  for given in (made, shuffled))  # fmt: skip
    assert one.keys() == other.keys()
    assert all(one[key] == pytest.approx(other[key], abs=1e-8) for key in one)


# ------------------------------------------------------------------------------------------------------- matched pairs


def test_matched_pairs_differ_in_one_technique() -> None:
    made = settings(PLANTED, np.random.default_rng(0))
    pairs = matched_pairs(made)
    for one in pairs:
        assert {*one.having.techniques} == {*one.lacking.techniques} | {one.technique}
        assert one.value == one.having.mean() - one.lacking.mean()
    count = Counter(one.technique for one in pairs)
    sets = {(), *versions().values()}
    for technique in TEN:
        expected = sum(technique in one and tuple(sorted({*one} - {technique})) in sets for one in sets)
        assert count[technique] == expected > 9


def test_the_interval_of_matched_pairs_follows_from_the_runs_of_their_settings() -> None:
    base, one, two, both = (with_psnr(techniques, *values) for techniques, values in (
        ((), (10.0, 10.2)), ((1,), (11.0,)), ((2,), (10.5,)), ((1, 2), (11.7,))))  # fmt: skip
    found = effects_of([base, one, two, both])
    value, interval = found.matched_mean(1)
    assert value == pytest.approx(((11.0 - 10.1) + (11.7 - 10.5)) / 2)
    assert found.noise is not None
    error = found.noise.deviation * math.sqrt((1 / 2 + 1 + 1 + 1) / 4)
    assert (interval.high - interval.low) / 2 == pytest.approx(half_width(error, found.noise.freedom))


def test_a_difference_without_a_result_is_unknown() -> None:
    value, interval = difference(with_psnr((1,)), with_psnr((), 10.0), None)
    assert math.isnan(value) and math.isnan(interval.low)


# ------------------------------------------------------------------------------------------------- shared statistics


def test_p_by_students_t_agrees_with_the_interval() -> None:
    for freedom in (1, 4, 50):
        assert student_p(half_width(1.0, freedom), 1.0, freedom) == pytest.approx(0.05)
    assert student_p(0.0, 0.0, 3) == 1.0
    assert student_p(0.1, 0.0, 3) == 0.0
    assert half_width(1.0, 50, 10) == pytest.approx(half_width(1.0, 50) * 2.937 / 2.009, rel=1e-3)
    assert holm([student_p(3.0, 1.0, 50)] * 3)[0] == pytest.approx(3 * student_p(3.0, 1.0, 50))
