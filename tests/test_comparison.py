"""Comparisons: exactness against slow versions, false claims under simulated nulls, coverage, power, bad input."""

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
    INTERVAL,
    LEAST_VALUES,
    Comparison,
    Interval,
    beats_all,
    compare,
    detectable,
    family,
    holm,
    least_pairs,
    mean_interval,
    pairs_needed,
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
    for statistic in (
        lambda seed: sign_flip_test(many, seed=seed),
        lambda seed: compare(many, seed=seed).p,
        lambda seed: family({"many": many}, seed=seed)["many"].p,
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
    assert one.interval == mean_interval(differences)


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


def covered(samples: np.ndarray, mean: float = 0.0) -> float:
    """Share of the samples (count, n) whose interval contains the mean of their distribution."""
    intervals = [mean_interval(one) for one in samples]
    return float(np.mean([one.low <= mean <= one.high for one in intervals]))


@pytest.mark.parametrize("n", [3, 4, 6, 12])
def test_the_interval_contains_the_mean_as_often_as_it_says(n: int) -> None:
    generator = np.random.default_rng(n)
    assert 0.93 <= covered(generator.normal(3.0, 2.0, (4000, n)), 3.0) <= 0.97
    assert 0.93 <= covered(generator.standard_t(3, (4000, n))) <= 0.98, "heavy tails"
    assert 0.86 <= covered(generator.exponential(1.0, (4000, n)), 1.0) <= 0.93, "a strong skew: too narrow, as stated"


def test_where_data_sets_differ_in_spread_or_effect_it_covers_the_mean_over_these_data_sets() -> None:
    generator = np.random.default_rng(0)
    assert 0.93 <= covered(generator.normal(size=(4000, PAIRS)) * SPREADS) <= 0.99
    effects = np.repeat([-1.0, 0.0, 0.0, 1.0], 3)
    assert covered(generator.normal(size=(4000, PAIRS)) + effects) >= 0.97, "wider than necessary"
    others = np.repeat(generator.normal(size=(4000, 4)), 3, axis=1)
    assert covered(generator.normal(size=(4000, PAIRS)) + others) <= 0.85, "not an interval for other data sets"


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=12))
def test_the_interval_is_that_of_scipys_test_and_symmetric_around_the_mean(values: list[float]) -> None:
    found = mean_interval(values)
    assert found.low + found.high == pytest.approx(2 * np.mean(values), abs=1e-6)
    if np.ptp(values) > 1e-6:
        theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.6]])
def test_too_few_values_have_no_interval(values: list[float]) -> None:
    assert len(values) < LEAST_VALUES
    assert np.isnan([mean_interval(values).low, mean_interval(values).high]).all()


def test_the_name_of_the_interval_states_method_level_and_least_number() -> None:
    assert INTERVAL == "95 % interval of the mean (Student's t, from 3 values on)"


@pytest.mark.parametrize(("values", "singles"), [([0.5], [0.5]), ([3.0, -1.0], [-1.0, 3.0]), ([1.0, 2.0, 3.0], [])])
def test_pairs_without_an_interval_are_known_singly(values: list[float], singles: list[float]) -> None:
    assert compare(values).singles == pytest.approx(singles)


# Power


def observed(mean: float, sd: float = 1.0, n: int = PAIRS) -> Comparison:
    return Comparison(mean, sd, n, 1.0, Interval(0, 0), 1.0, False)


@pytest.mark.parametrize(("comparisons", "pairs"), [(1, 6), (3, 7), (6, 8), (18, 10)])
def test_the_fewest_pairs_are_those_whose_smallest_p_survives_the_correction(comparisons: int, pairs: int) -> None:
    assert least_pairs(comparisons) == pairs
    for n, is_shown in ((pairs - 1, False), (pairs, True)):
        members = {number: np.ones(n) if number == 0 else np.resize([1.0, -1.0], n) for number in range(comparisons)}
        assert family(members)[0].shown == is_shown


@pytest.mark.parametrize(("mean", "comparisons"), [(1.0, 1), (0.6, 1), (1.5, 3), (2.0, 18), (1.0, 18)])
def test_the_estimated_number_of_pairs_shows_the_difference_in_about_four_of_five_cases(
    mean: float, comparisons: int
) -> None:
    n, generator = int(pairs_needed(observed(mean), comparisons)), np.random.default_rng(0)
    found = [sign_flip_test(generator.normal(mean, 1, n)) * comparisons < 0.05 for _ in range(300)]
    assert 0.7 <= np.mean(found) <= 0.95


@pytest.mark.parametrize("comparisons", [1, 3])
def test_a_detectable_difference_is_shown_in_about_four_of_five_cases(comparisons: int) -> None:
    mean, generator = detectable(observed(0.0), comparisons), np.random.default_rng(1)
    found = [sign_flip_test(generator.normal(mean, 1, PAIRS)) * comparisons < 0.05 for _ in range(300)]
    assert 0.7 <= np.mean(found) <= 0.9
    assert pairs_needed(observed(1.001 * mean), comparisons) == PAIRS


@given(st.floats(0.05, 50), st.floats(0.01, 10), st.integers(1, 200))
@settings(deadline=None)
def test_more_pairs_are_needed_for_less_effect_more_spread_and_more_comparisons(
    mean: float, sd: float, comparisons: int
) -> None:
    pairs = pairs_needed(observed(mean, sd), comparisons)
    assert pairs >= least_pairs(comparisons)
    assert pairs == pairs_needed(observed(-mean, sd), comparisons)
    assert pairs >= pairs_needed(observed(2 * mean, sd), comparisons)
    assert pairs <= pairs_needed(observed(mean, 2 * sd), comparisons)
    assert pairs <= pairs_needed(observed(mean, sd), 2 * comparisons)


def test_power_is_not_estimated_from_nothing() -> None:
    assert pairs_needed(observed(0.0), 1) == pairs_needed(observed(0.0, 0.0), 1) == math.inf
    assert pairs_needed(observed(1.0, 0.0), 18) == 10
    assert math.isnan(pairs_needed(observed(1.0, n=2), 1))
    assert math.isnan(detectable(observed(1.0, n=2), 1))
    assert math.isnan(detectable(observed(1.0, n=9), 18)), "9 pairs cannot show anything among 18 comparisons"


# Profiles


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
        (mean_interval, "values"),
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
