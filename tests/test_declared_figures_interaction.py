"""Effects and interactions: against the base, with their noise, of techniques in a text and of several keys."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from declared_figures import drawn, texts_in, write
from family_rounds import write_family
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import folders_in

from analysis.declared.interaction import Effects, divided
from analysis.learning_curves import DrawnFigure
from roundhouse.errors import RoundhouseError
from roundhouse.figures import Figure

TECHNIQUES = """
metrics: {score: {mode: max, main: true, scale: percent}}
experiments:
  base: {path: "base/{seed}", grid: {seed: [0, 1, 2, 3]}, config: {with: plain}, command: "true"}
  runs:
    path: "{with}/{seed}"
    grid: {seed: [0, 1], with: ["10", "2", "x", "2+10", "2 + x", "2+10+x"]}
    command: "true"
    baseline: base
"""
OF_TECHNIQUES = Figure("interaction", keys=("with",), separator="+")
KEYS = """
metrics: {loss: {mode: min, main: true}}
experiments:
  base: {path: "base/{seed}", grid: {seed: [0, 1]}, config: {width: 8, act: relu}, command: "true"}
  runs:
    path: "{width}/{act}/{seed}"
    grid: {seed: [0, 1], width: [16, 8, 4], act: [relu, tanh]}
    command: "true"
    baseline: base
"""
OF_KEYS = Figure("interaction", keys=("width", "act"))
NUMBERS = st.floats(-100, 100)


def score(config: Mapping[str, Any]) -> dict[str, float]:
    """10 adds 0.1, 2 adds 0.2, x takes 0.03; 2 and 10 together lose 0.15. Seeds differ by 0.01."""
    names = divided(str(config["with"]), "+")
    value = 0.5 + 0.1 * ("10" in names) + 0.2 * ("2" in names) - 0.03 * ("x" in names)
    return {"score": value - 0.15 * ({"2", "10"} <= names) + 0.01 * config["seed"]}


def loss(config: Mapping[str, Any]) -> dict[str, float]:
    return {"loss": config["width"] ** 0.5 + (config["act"] == "tanh") * config["width"] + 0.1 * config["seed"]}


def cell(made: DrawnFigure, what: str, first: str, second: str | None = None) -> Mapping[str, Any]:
    (found,) = (row for row in made.table if row["what"] == what and (row["first"], row["second"]) == (first, second))
    return found


# ---------------------------------------------------------------------------------------------- pure


@given(st.lists(NUMBERS, min_size=2, max_size=5), NUMBERS)
def test_effects_that_add_up_have_no_interaction(effects: list[float], base: float) -> None:
    names = [str(place) for place in range(len(effects))]
    results = {frozenset[str](): [base]} | {frozenset({name}): [base + one]
                                            for name, one in zip(names, effects, strict=True)}  # fmt: skip
    for (first, one), (second, other) in combinations(zip(names, effects, strict=True), 2):
        results[frozenset({first, second})] = [base + one + other]
    made = Effects(names, results, None)
    for (row, column), (what, term) in made.cells.items():
        assert term is not None and term.half is None and not term.is_noise
        expected = {"interaction": 0.0, "effect of one": effects[row]}.get(what, effects[row] + effects[column])
        assert term.value == pytest.approx(expected, abs=1e-9)


@given(st.sets(st.sampled_from(["1", "2", "10", "low rank", "x-y"])))
def test_techniques_are_read_from_a_text(names: set[str]) -> None:
    assert divided("+".join(names), "+") == names
    assert divided(" + ".join([*names, "0", "none"]), "+") == names


# ---------------------------------------------------------------------------------------------- techniques


def test_effects_and_interactions_of_techniques_equal_those_planted(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, TECHNIQUES, score), "r", OF_TECHNIQUES)
    shift = -1.0  # %: the base has seeds 0 to 3, the others 0 and 1
    for name, value in (("2", 20), ("10", 10), ("x", -3)):
        assert cell(made, "effect of one", name)["value"] == pytest.approx(value + shift)
    assert cell(made, "effect of the pair", "2", "10")["value"] == pytest.approx(15 + shift)
    assert cell(made, "effect of the pair", "2", "x")["value"] == pytest.approx(17 + shift)
    assert cell(made, "interaction", "2", "10")["value"] == pytest.approx(-15 - shift)
    assert cell(made, "interaction", "2", "x")["value"] == pytest.approx(-shift)
    assert made.table[0]["value"] == pytest.approx(51.5)
    assert "Base: 51.5, n 4 (group base)." in made.caption
    assert "2 runs with three factors or more not used." in made.caption
    assert [one.get_text() for one in made.figure.axes[0].get_xticklabels()] == ["2", "10", "x"]


def test_a_difference_whose_interval_contains_0_stands_in_brackets(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, TECHNIQUES, score), "r", OF_TECHNIQUES)
    noise = math.sqrt((3 * statistics.variance([0.0, 1.0, 2.0, 3.0]) + 6 * 0.5) / 9)  # 6 settings have 2 seeds
    one, both = cell(made, "effect of one", "x"), cell(made, "interaction", "2", "x")
    quantile = 2.262157  # of Student's t with 9 degrees of freedom, from a printed table
    assert one["half_of_interval"] == pytest.approx(quantile * noise * math.sqrt(1 / 2 + 1 / 4))
    assert both["half_of_interval"] == pytest.approx(quantile * noise * math.sqrt(3 / 2 + 1 / 4))
    assert (one["within_noise"], both["within_noise"]) == ("no", "yes")
    texts = texts_in(made)
    assert "-4.0" in texts and "[+1.0]" in texts
    assert "pooled over settings, 0.94" in made.caption


def test_a_pair_without_a_run_is_hatched(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, TECHNIQUES, score), "r", OF_TECHNIQUES)
    assert cell(made, "effect of the pair", "10", "x")["value"] is None
    assert texts_in(made).count("no run") == 2  # the effect of the pair, and its interaction
    assert "Hatched" in made.caption


def test_the_noise_is_that_of_other_settings_if_the_base_has_one_seed(tmp_path: Path) -> None:
    place = write(tmp_path, TECHNIQUES.replace("[0, 1, 2, 3]", "[0]"), score)
    made = drawn(place, "r", OF_TECHNIQUES)
    assert made.table[0]["noise"] == pytest.approx(math.sqrt(0.5))
    assert "noise with 6 degrees of freedom" in made.caption


def test_with_one_seed_the_noise_is_said_to_be_unknown(tmp_path: Path) -> None:
    text = TECHNIQUES.replace("[0, 1, 2, 3]", "[0]").replace("[0, 1]", "[0]")
    made = drawn(write(tmp_path, text, score), "r", OF_TECHNIQUES)
    assert "Noise between seeds: unknown" in made.caption
    assert {row.get("within_noise") for row in made.table} == {None}
    assert not any("[" in text for text in texts_in(made))


@pytest.mark.parametrize("empty", ["", "0", "none"])
def test_without_a_baseline_the_base_is_the_set_without_techniques(tmp_path: Path, empty: str) -> None:
    text = TECHNIQUES.replace("    baseline: base\n", "").replace("with: plain", f'with: "{empty}"')
    made = drawn(write(tmp_path, text, score), "r", OF_TECHNIQUES)
    assert cell(made, "effect of one", "2")["value"] == pytest.approx(19)


def test_without_a_base_there_is_one_error(tmp_path: Path) -> None:
    text = TECHNIQUES.replace("    baseline: base\n", "")
    place = write(tmp_path, text, score)
    with pytest.raises(RoundhouseError, match="keys: no run without a factor has a value of score"):
        drawn(place, "r", Figure("interaction", keys=("with",), separator="+", groups=("runs",)))


def test_ten_techniques_with_all_pairs_can_be_printed(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_family("flow", place, lambda path: path.startswith("width"))
    figure = Figure("interaction", keys=("techniques",), separator="+", groups=("base", "versions"))
    made = drawn(place, "flow", figure)
    assert len(made.table) == 1 + 100 and len(texts_in(made)) == 100
    assert "46 runs with three factors or more not used." in made.caption


# ---------------------------------------------------------------------------------------------- several keys


def test_factors_of_several_keys_are_the_values_that_differ_from_the_baseline(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, KEYS, loss), "r", OF_KEYS)
    names = [one.get_text() for one in made.figure.axes[0].get_xticklabels()]
    assert names == ["width=4", "width=16", "act=tanh"]
    assert cell(made, "effect of one", "width=16")["value"] == pytest.approx(4 - math.sqrt(8))
    assert cell(made, "effect of one", "act=tanh")["value"] == pytest.approx(8)
    assert cell(made, "effect of the pair", "width=16", "act=tanh")["value"] == pytest.approx(20 - math.sqrt(8))
    assert cell(made, "interaction", "width=16", "act=tanh")["value"] == pytest.approx(16 - 8)
    assert cell(made, "interaction", "width=4", "act=tanh")["value"] == pytest.approx(4 - 8)
    assert made.table[0]["n"] == 4  # the baseline, and the runs with its values


def test_two_values_of_one_key_exclude_each_other_and_are_not_called_missing(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, KEYS, loss), "r", OF_KEYS)
    assert "no run" not in texts_in(made) and "Hatched" not in made.caption


def test_without_a_baseline_the_first_values_are_the_base(tmp_path: Path) -> None:
    place = write(tmp_path, KEYS.replace("    baseline: base\n", ""), loss)
    made = drawn(place, "r", Figure("interaction", keys=("width", "act"), groups=("runs",)))
    assert cell(made, "effect of one", "width=4")["value"] == pytest.approx(2 - 4)


def test_the_caption_names_other_keys_in_which_the_base_differs(tmp_path: Path) -> None:
    text = KEYS.replace("act: relu}", "act: relu, rate: 1}").replace("    grid: ", "    config: {rate: 2}\n    grid: ")
    made = drawn(write(tmp_path / "both", text, loss), "r", OF_KEYS)
    assert "Effects include" not in made.caption  # a run with the values of the base has rate 2 too

    def without_it(config: Mapping[str, Any]) -> dict[str, float] | None:
        return None if (config["width"], config["act"], config["rate"]) == (8, "relu", 2) else loss(config)

    made = drawn(write(tmp_path / "one", text, without_it), "r", OF_KEYS)
    assert "Effects include that of rate: 2 against 1 in the base." in made.caption


def test_equal_values_and_too_many_factors_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(RoundhouseError, match="all runs have the same values"):
        drawn(write(tmp_path, KEYS, loss), "r", Figure("interaction", keys=("act",), groups=("base",)))
    place = folders_in(tmp_path / "flow")
    write_family("flow", place)
    with pytest.raises(RoundhouseError, match="101 factors are too many for a matrix"):
        drawn(place, "flow", Figure("interaction", keys=("techniques",)))
