"""Comparisons: exactness against slow versions, false claims under simulated nulls, power, coverage, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import slow_comparison as slow
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.comparison import (
    Interval,
    beats_all,
    bootstrap_mean,
    compare,
    family,
    hierarchical_bootstrap,
    holm,
    interquartile_mean,
    performance_profile,
    sign_flip_test,
    smallest_p,
)
from roundhouse.errors import RoundhouseError

PAIRS = 12
SPREADS = np.repeat([0.1, 0.3, 1.0, 3.0], 3)  # of four data sets, three seeds each
whole_numbers = st.lists(st.integers(-50, 50), min_size=1, max_size=10)
probabilities = st.lists(st.floats(0, 1), max_size=12)


def null_differences(generator: np.random.Generator, count: int) -> np.ndarray:
    """(count, 12): no effect, heavy tails, and a spread for each data set."""
    return generator.standard_t(2, (count, PAIRS)) * SPREADS


# The sign-flip test


@given(whole_numbers)
@settings(deadline=None, max_examples=60)
def test_the_exact_p_value_is_the_share_of_all_signs_that_lead_as_far(differences: list[int]) -> None:
    assert sign_flip_test(differences) == slow.sign_flip_p(differences)


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_scipy(seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 9)) + [[0.6], [0]]
    theirs = stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )  # fmt: skip
    assert sign_flip_test(a - b) == pytest.approx(theirs.pvalue, abs=1e-12)


@given(whole_numbers, st.floats(1e-6, 1e6), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_neither_order_nor_scale_nor_the_side_of_the_baseline_matters(
    differences: list[int], scale: float, chance: Any
) -> None:
    p = sign_flip_test(differences)
    shuffled = list(differences)
    chance.shuffle(shuffled)
    assert sign_flip_test(shuffled) == p
    assert sign_flip_test([scale * one for one in differences]) == p
    assert sign_flip_test([-one for one in differences]) == p


def test_accuracies_in_single_precision_lead_to_the_p_value_of_the_counts() -> None:
    generator = np.random.default_rng(0)
    torn = 0
    for _ in range(100):
        ours = generator.integers(8900, 9100, PAIRS)
        theirs = ours - generator.integers(-10, 40, PAIRS)
        single = (ours / 10_000).astype(np.float32).astype(float) - (theirs / 10_000).astype(np.float32).astype(float)
        assert sign_flip_test(single) == sign_flip_test(ours - theirs)
        torn += len(set(single.tolist())) > len(set((ours - theirs).tolist()))
    assert torn > 30, "rounding makes equal differences unequal"


def test_three_pairs_can_never_show_anything() -> None:
    generator = np.random.default_rng(0)
    assert smallest_p(3) == 0.25
    assert sign_flip_test([1, 1, 1]) == 0.25
    assert min(sign_flip_test(one) for one in generator.normal(5, 1, (200, 3))) == 0.25


@pytest.mark.parametrize("n", [1, 2, 12, 16])
def test_pairs_that_all_agree_reach_the_smallest_p_value(n: int) -> None:
    assert sign_flip_test(np.arange(1.0, n + 1)) == smallest_p(n) == 2 / 2**n


def test_twelve_pairs_reach_below_one_in_two_thousand() -> None:
    assert smallest_p(12) == pytest.approx(0.00049, abs=5e-6)


def test_no_difference_has_a_p_value_of_1_and_no_pair_has_none() -> None:
    assert sign_flip_test([0, 0, 0]) == 1
    assert math.isnan(sign_flip_test([]))
    assert math.isnan(smallest_p(0))


@pytest.mark.parametrize("shift", [0.2, 0.5, 0.8, 1.2])
def test_drawn_signs_come_near_to_all_signs(shift: float) -> None:
    differences = np.random.default_rng(4).normal(shift, 1, PAIRS)
    exact = sign_flip_test(differences)
    with_zeros = np.concatenate([differences, np.zeros(5)])  # too many to enumerate, and of the same p-value
    assert sign_flip_test(with_zeros) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000) + 1e-4)
    assert sign_flip_test(with_zeros) != exact


def test_drawn_signs_never_lead_to_a_p_value_of_0() -> None:
    assert sign_flip_test(np.ones(60), draws=99) == 1 / 100


def test_the_same_seed_leads_to_the_same_numbers() -> None:
    many = np.random.default_rng(0).normal(0.3, 1, 30)
    right = [np.random.default_rng(1).random((3, 50)) < 0.8]
    wrong = [~right[0]]
    for statistic in (
        lambda seed: sign_flip_test(many, seed=seed),
        lambda seed: bootstrap_mean(many, seed=seed),
        lambda seed: hierarchical_bootstrap(right, wrong, seed=seed),
        lambda seed: compare(many, seed=seed).p,
        lambda seed: family({"many": many}, seed=seed)["many"].p,
        lambda seed: family({"many": many}, seed=seed)["many"].interval,
    ):
        assert statistic(3) == statistic(3)
        assert statistic(3) != statistic(4)


# Holm


def test_a_textbook_family() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(probabilities, st.floats(0.001, 0.999))
def test_what_is_below_a_level_is_what_stepping_down_rejects(p_values: list[float], level: float) -> None:
    adjusted = holm(p_values)
    if not any(math.isclose(one, level, rel_tol=1e-9) for one in adjusted):
        assert {index for index, p in enumerate(adjusted) if p <= level} == slow.rejected_by_holm(p_values, level)


@given(probabilities)
def test_adjusted_p_values_are_larger_keep_their_order_and_are_at_most_1(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= one <= 1 for p, one in zip(p_values, adjusted, strict=True))
    in_order = [adjusted[index] for index in np.argsort(p_values, kind="stable")]
    assert in_order == sorted(in_order)


def test_a_test_that_could_not_be_made_does_not_count() -> None:
    first, none, second = holm([0.02, math.nan, 0.04])
    assert [first, second] == holm([0.02, 0.04]) == [0.04, 0.04]
    assert math.isnan(none)
    assert holm([]) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.inf])
def test_what_is_no_p_value_is_refused(wrong: float) -> None:
    with pytest.raises(RoundhouseError, match=rf"p-values must be .* \(got {wrong}\)"):
        holm([0.5, wrong])


# False claims, and missed ones


def test_without_an_effect_one_test_in_twenty_is_below_5_percent() -> None:
    p_values = [sign_flip_test(one) for one in null_differences(np.random.default_rng(0), 2000)]
    assert 0.03 <= np.mean(np.array(p_values) < 0.05) <= 0.065


def test_without_an_effect_drawn_signs_claim_no_more() -> None:
    differences = np.random.default_rng(0).standard_t(2, (1000, 20)) * np.repeat([0.1, 0.3, 1.0, 3.0], 5)
    p_values = [sign_flip_test(one, draws=999) for one in differences]
    assert 0.03 <= np.mean(np.array(p_values) < 0.05) <= 0.065


def test_of_families_without_an_effect_one_in_twenty_makes_any_claim() -> None:
    generator = np.random.default_rng(1)
    claims = [min(holm([sign_flip_test(one) for one in null_differences(generator, 18)])) < 0.05 for _ in range(800)]
    assert 0.02 <= np.mean(claims) <= 0.065


def test_a_baseline_that_all_comparisons_share_leads_to_no_more_claims() -> None:
    generator = np.random.default_rng(2)
    claims = []
    for _ in range(400):
        differences = null_differences(generator, 18) - 2 * null_differences(generator, 1)
        claims.append(min(holm([sign_flip_test(one) for one in differences])) < 0.05)
    assert np.mean(claims) <= 0.065


@pytest.mark.parametrize(("spreads", "share"), [(np.ones(PAIRS), 0.95), (SPREADS, 0.85)], ids=["equal", "unequal"])
def test_an_effect_of_two_standard_deviations_is_found_among_seventeen_nulls(spreads: np.ndarray, share: float) -> None:
    generator = np.random.default_rng(3)
    found = []
    for _ in range(200):
        differences = null_differences(generator, 18)
        differences[7] = generator.normal(2, 1, PAIRS) * spreads
        found.append(holm([sign_flip_test(one) for one in differences])[7] < 0.05)
    assert np.mean(found) >= share


# Comparisons


def test_a_comparison_says_mean_spread_number_and_p_value() -> None:
    differences = [1.0, 2.0, 6.0]
    one = compare(differences)
    assert (one.mean, one.n, one.p, one.p_holm, one.shown) == (3.0, 3, 0.25, 0.25, False)
    assert one.sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert one.interval == bootstrap_mean(differences)


def test_the_members_of_a_family_are_corrected_for_each_other() -> None:
    generator = np.random.default_rng(0)
    differences = {("logit", n): generator.normal(0.5 * n, 1, PAIRS) for n in range(4)}
    found = family(differences)
    assert list(found) == list(differences)
    assert [one.p for one in found.values()] == [sign_flip_test(one) for one in differences.values()]
    assert [one.p_holm for one in found.values()] == holm([one.p for one in found.values()])
    assert [one.shown for one in found.values()] == [one.p_holm < 0.05 for one in found.values()]
    assert {one.shown for one in found.values()} == {True, False}


def test_what_is_shown_alone_need_not_be_in_a_family() -> None:
    differences = np.concatenate([np.ones(6), [-0.1]])  # p = 2 * 2/128
    assert compare(differences).shown
    assert not any(one.shown for one in family({"a": differences, "b": differences}).values())


@pytest.mark.filterwarnings("error")
def test_a_comparison_without_pairs_is_not_shown_and_costs_the_others_nothing() -> None:
    found = family({"none": [], "some": np.ones(PAIRS)})
    assert (found["none"].n, found["none"].shown) == (0, False)
    assert all(math.isnan(one) for one in (found["none"].mean, found["none"].sd, found["none"].p, found["none"].p_holm))
    assert found["some"].p_holm == smallest_p(PAIRS)


@pytest.mark.filterwarnings("error")
def test_one_pair_has_a_mean_but_no_spread() -> None:
    one = compare([0.5])
    assert (one.mean, one.n, one.p, one.shown) == (0.5, 1, 1.0, False)
    assert all(math.isnan(number) for number in (one.sd, one.interval.low, one.interval.high))


# The best of a table

BLOCKS = [(data_set, seed) for data_set in ("cifar10", "cifar100", "svhn", "tinyimagenet") for seed in range(3)]


def row(values: np.ndarray | float) -> dict[tuple[str, int], float]:
    return dict(zip(BLOCKS, np.broadcast_to(values, len(BLOCKS)).tolist(), strict=True))


def test_the_best_row_holds_up_if_it_beats_every_other() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (2, PAIRS))
    assert beats_all(row(1.0), {"a": row(noise[0]), "b": row(noise[1])})


def test_it_does_not_if_one_other_comes_near_or_is_better() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, PAIRS)
    assert not beats_all(row(1.0), {"far": row(0.0), "near": row(1.0 + noise)})
    assert not beats_all(row(1.0), {"far": row(0.0), "better": row(2.0)})


def test_it_does_not_where_there_is_nothing_to_compare_with() -> None:
    assert not beats_all(row(1.0), {})
    assert not beats_all(row(1.0), {"far": row(0.0), "elsewhere": {("mnist", 0): 0.0}})


def test_only_blocks_that_both_have_are_compared() -> None:
    three = dict.fromkeys(BLOCKS[:3], 0.0)
    assert beats_all(row(1.0), {"all": {**row(0.0), ("mnist", 0): 9.0}})
    assert not beats_all(row(1.0), {"three": three}), "three pairs cannot show anything"


def test_more_rows_ask_for_more_evidence() -> None:
    eleven_of_twelve = np.concatenate([np.ones(11), [-0.5]])
    p = sign_flip_test(eleven_of_twelve)
    assert p == 4 / 4096
    few, many = (int(0.05 / p) - 1, int(0.05 / p) + 1)
    assert beats_all(row(eleven_of_twelve), {number: row(0.0) for number in range(few)})
    assert not beats_all(row(eleven_of_twelve), {number: row(0.0) for number in range(many)})


def test_the_highest_of_equals_seldom_holds_up() -> None:
    generator = np.random.default_rng(5)
    claims = []
    for _ in range(300):
        rows = sorted(
            (row(values) for values in generator.normal(0, 1, (2, PAIRS))), key=lambda one: -sum(one.values())
        )
        claims.append(beats_all(rows[0], {"other": rows[1]}))
    assert np.mean(claims) <= 0.08


# Intervals


def test_the_interval_of_three_values_is_their_range_and_holds_the_mean_in_three_of_four_cases() -> None:
    samples = np.random.default_rng(0).normal(size=(600, 3))
    intervals = [bootstrap_mean(one, draws=1000) for one in samples]
    np.testing.assert_allclose([one.low for one in intervals], samples.min(axis=1), rtol=1e-12)
    np.testing.assert_allclose([one.high for one in intervals], samples.max(axis=1), rtol=1e-12)
    assert 0.70 <= np.mean([one.low <= 0 <= one.high for one in intervals]) <= 0.80


def test_the_interval_of_twelve_values_holds_the_mean_about_as_often_as_stated() -> None:
    samples = np.random.default_rng(1).normal(size=(1000, PAIRS))
    intervals = [bootstrap_mean(one, draws=1000, seed=n) for n, one in enumerate(samples)]
    assert 0.88 <= np.mean([one.low <= 0 <= one.high for one in intervals]) <= 0.97


def test_intervals_grow_with_their_level_around_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=PAIRS)
    narrow, wide = (bootstrap_mean(values, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < values.mean() < narrow.high < wide.high


@pytest.mark.parametrize("values", [[], [0.5]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    found = bootstrap_mean(values)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def predictions(
    generator: np.random.Generator, seeds: int, examples: int, of_seeds: float, data_sets: int = 4
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of two settings of equal accuracy: examples are hard for all, and seeds good or bad by `of_seeds`."""
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for _ in range(data_sets):
        hardness = generator.normal(size=examples)
        for setting in found:
            luck = of_seeds * generator.normal(size=(seeds, 1))
            setting.append(hardness + luck + 0.7 * generator.normal(size=(seeds, examples)) < 1)
    return found


@pytest.mark.parametrize(("seeds", "of_seeds"), [(3, 0.4), (3, 0.0), (1, 0.0)])
@pytest.mark.parametrize("alike", [False, True], ids=["seeds differ", "seeds alike"])
def test_the_hierarchical_interval_is_that_of_drawing_seeds_and_examples_one_by_one(
    seeds: int, of_seeds: float, alike: bool
) -> None:
    a, b = predictions(np.random.default_rng(6), seeds, 100, of_seeds, data_sets=2)
    if alike:  # then examples alone make the spread, which is smaller if they are not drawn for all seeds together
        a, b = ([np.repeat(one[:1], seeds, axis=0) for one in setting] for setting in (a, b))
    drawn = slow.resampled([one.tolist() for one in a], [one.tolist() for one in b], 2500, seed=0)
    for level in (0.5, 0.8, 0.95):
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        found = hierarchical_bootstrap(a, b, level=level, draws=20_000)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1 / 200 + 0.1 * np.std(drawn))


def test_drawing_kinds_of_columns_is_drawing_columns() -> None:
    right = np.zeros((1, 200), dtype=bool)
    right[0, :30] = True
    found = hierarchical_bootstrap([right], [np.zeros_like(right)], draws=50_000)
    exact = stats.binom(200, 30 / 200).ppf([0.025, 0.975]) / 200
    assert (found.low, found.high) == pytest.approx(tuple(exact), abs=1 / 200)


def test_drawing_seeds_is_drawing_rows() -> None:
    good_and_bad = np.array([[True] * 50, [False] * 50])
    none = np.zeros_like(good_and_bad)
    assert hierarchical_bootstrap([good_and_bad], [none], level=0.4) == Interval(0.5, 0.5), "half of all draws"
    assert hierarchical_bootstrap([good_and_bad], [none], level=0.6) == Interval(0.0, 1.0), "a quarter each"
    assert hierarchical_bootstrap([good_and_bad], [good_and_bad]) == Interval(0.0, 0.0), "seeds are paired"


def test_every_data_set_counts_the_same_whatever_its_size() -> None:
    ones, none = np.ones((3, 10), dtype=bool), np.zeros((2, 1000), dtype=bool)
    assert hierarchical_bootstrap([ones, none], [~ones, none]) == Interval(0.5, 0.5)
    assert hierarchical_bootstrap([~ones, none], [ones, none]) == Interval(-0.5, -0.5)


@pytest.mark.parametrize(
    ("seeds", "of_seeds", "least", "most"), [(3, 0.3, 0.78, 0.95), (3, 0.0, 0.96, 1.0), (1, 0.0, 0.90, 0.99)]
)
def test_the_hierarchical_interval_holds_the_truth_about_as_often_as_stated(
    seeds: int, of_seeds: float, least: float, most: float
) -> None:
    generator = np.random.default_rng(7)
    held = []
    for number in range(250):
        a, b = predictions(generator, seeds, 400, of_seeds)
        found = hierarchical_bootstrap(a, b, draws=300, seed=number)
        held.append(found.low <= 0 <= found.high)
    assert least <= np.mean(held) <= most


# Means and profiles


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_the_interquartile_mean_is_that_of_the_middle_half(values: list[float]) -> None:
    assert interquartile_mean(values) == pytest.approx(slow.interquartile_mean(values), abs=1e-9)
    assert interquartile_mean(values[::-1]) == interquartile_mean(values)


def test_where_quartiles_fall_between_values_it_is_the_trimmed_mean() -> None:
    values = np.random.default_rng(0).normal(size=PAIRS)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_one_disaster_among_four_does_not_reach_the_interquartile_mean() -> None:
    assert interquartile_mean([0.0, 0.90, 0.92, 0.94]) == pytest.approx(0.91)
    assert math.isnan(interquartile_mean([]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.lists(st.floats(0, 1), max_size=20))
def test_a_profile_falls_from_all_runs_to_none(scores: list[float], thresholds: list[float]) -> None:
    thresholds = [-1.0, *sorted(thresholds), 2.0]
    profile = performance_profile(scores, thresholds)
    assert (profile[0], profile[-1]) == (1, 0)
    assert np.all(np.diff(profile) <= 0)
    assert profile.tolist() == [sum(score >= one for score in scores) / len(scores) for one in thresholds]


def test_a_run_at_the_threshold_has_reached_it_and_no_runs_have_no_profile() -> None:
    assert performance_profile([0.5, 0.7], [0.5, 0.6, 0.7]).tolist() == [1.0, 0.5, 0.5]
    assert np.isnan(performance_profile([], [0.5])).all()


# Bad input


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("call", "what"),
    [
        (sign_flip_test, "differences"),
        (compare, "differences"),
        (bootstrap_mean, "values"),
        (interquartile_mean, "values"),
        (lambda values: performance_profile(values, [0.5]), "scores"),
        (lambda values: performance_profile([0.5], values), "thresholds"),
        (lambda values: family({"fine": [1.0], "sp 0.5": values}), "differences of sp 0.5"),
        (lambda values: beats_all(dict(enumerate(values)), {"sp": {1: 0.0, 2: 0.0, 0: 0.0}}), "differences of sp"),
    ],
)
def test_a_number_that_is_none_is_refused_by_name(call: Callable[[list[float]], Any], what: str, wrong: float) -> None:
    with pytest.raises(RoundhouseError, match=f"^{what}: number 2 is {wrong}: leave unknown values out"):
        call([0.1, 0.2, wrong])


def test_a_table_in_place_of_a_row_is_refused() -> None:
    with pytest.raises(RoundhouseError, match=r"differences: must be one row of numbers \(got shape \(4, 3\)\)"):
        sign_flip_test(np.ones((4, 3)))


RIGHT = np.ones((3, 10), dtype=bool)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [], "a has 0 data sets"),
        ([RIGHT, RIGHT], [RIGHT], "a has 2 data sets and b 1"),
        ([RIGHT, RIGHT], [RIGHT, RIGHT[:2]], r"data set 1: a is \(3, 10\) and b \(2, 10\)"),
        ([RIGHT[0]], [RIGHT[0]], "data set 0"),
        ([RIGHT[:, :0]], [RIGHT[:, :0]], "not empty"),
        ([RIGHT.astype(float)], [RIGHT], "float64 and bool: both must be booleans"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(a: list[np.ndarray], b: list[np.ndarray], message: str) -> None:
    with pytest.raises(RoundhouseError, match=message):
        hierarchical_bootstrap(a, b)
