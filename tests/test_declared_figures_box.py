"""Box plots by declaration: a metric over runs, or an array over the examples of all seeds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from declared_figures import Arrays, Config, drawn, file_of, texts_of, write_round
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.patches import Rectangle

from analysis.declared.box import _layout
from analysis.declared.box_data import Box, best
from analysis.learning_curves import DrawnFigure
from analysis.result_metric import sign_of
from analysis.rounds import Folders
from roundhouse.errors import RoundhouseError

SEEDS = 6
ROUND = """
round: boxes
apart: [data]
metrics:
  val_hit: {label: validation hit rate, mode: max, scale: percent, main: true, baseline: 0.1}
  wide: {label: error}
experiments:
  simple: {path: "simple/{data}", grid: {data: [lake, sea]}, config: {net: simple}, command: "true"}
  nets:
    path: "{data}/{net}/{depth}/{seed}"
    grid: {seed: [0, 1, 2, 3, 4, 5], data: [lake, sea], net: [wide, narrow], depth: [3]}
    command: "true"
    baseline: simple
  deep:
    path: "deep/{data}/{net}/{depth}/{seed}"
    grid: {seed: [0, 1], data: [lake], net: [wide], depth: [9]}
    command: "true"
figures:
  runs: {kind: box, by: net, groups: [nets]}
  settings: {kind: box, groups: [nets, deep]}
  pooled: {kind: box, by: net, groups: [nets, deep]}
  examples: {kind: box, array: wide, by: net, threshold: 0.001, groups: [nets]}
  shares: {kind: box, metric: val_hit, by: net, threshold: 0.5, groups: [nets]}
  misspelt: {kind: box, array: widee, by: net}
  maps: {kind: box, array: maps, by: net}
  words: {kind: box, array: words, by: net}
  unknown: {kind: box, metric: val_hat, by: net}
"""


def random_of(config: Config) -> np.random.Generator:
    return np.random.default_rng(sum(map(ord, str(sorted(config.items())))))


def results(config: Config) -> dict[str, Any]:
    value = float(random_of(config).uniform(0.3, 0.9))
    if config["net"] == "narrow" and config["data"] == "sea":
        value = float("nan")
    return {"metric": "val_hit", "mode": "max", "best": {"val_hit": value}, "final": {"test_hit": value}}


def arrays(config: Config) -> Arrays:
    random = random_of(config)
    wide = 10.0 ** random.uniform(-6, 0, 50)
    wide[:3] = [np.nan, np.inf, -np.inf]
    return {"wide": wide, "maps": random.random((3, 4, 4)), "words": np.array(["a", "b"])}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return write_round(tmp_path_factory.mktemp("boxes"), ROUND, results, arrays)


def row_of(made: DrawnFigure, data: str, label: str, key: str = "net") -> dict[str, Any]:
    return dict(next(one for one in made.table if one["data_set"] == data and one[key] == label))


def boxes_in(made: DrawnFigure) -> int:
    found = [one for axes in made.figure.axes for one in axes.patches if isinstance(one, Rectangle)]
    return len(found)


def test_the_table_has_median_and_quartiles_of_the_final_metric_over_seeds_in_the_shown_unit(place: Folders) -> None:
    made = drawn(place, "boxes", "runs")
    raw = [results({"seed": seed, "data": "lake", "net": "wide", "depth": 3})["final"]["test_hit"]
           for seed in range(SEEDS)]  # fmt: skip
    row = row_of(made, "lake", "wide")
    expected = 100 * np.quantile(raw, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    assert [row[key] for key in ("min", "p5", "q1", "median", "q3", "p95", "max")] == pytest.approx(expected)
    assert (row["n"], row["unit"], row["value"]) == (SEEDS, "%", "test_hit")


def test_values_that_are_not_finite_are_missing_and_the_caption_says_how_many(place: Folders) -> None:
    made = drawn(place, "boxes", "runs")
    assert row_of(made, "sea", "narrow")["n"] == 0
    assert "6 of 24 runs without a value" in made.caption
    assert "sea, narrow: no value" in made.alt


def test_the_baseline_is_a_grey_row_and_the_declared_reference_a_line(place: Folders) -> None:
    made = drawn(place, "boxes", "runs")
    row = row_of(made, "lake", "simple (baseline)")
    assert (row["role"], row["n"]) == ("baseline", 1)
    assert "Grey: simple, the baseline." in made.caption
    assert {"simple (baseline): median", "reference 10 %"} <= set(texts_of(made).split("\n"))


def test_below_five_values_there_are_points_and_no_quartiles(place: Folders) -> None:
    made = drawn(place, "boxes", "settings")
    few, many = row_of(made, "lake", "wide, depth 9", "setting"), row_of(made, "lake", "wide, depth 3", "setting")
    assert few["n"] == 2 and "q1" not in few
    assert many["n"] == SEEDS and many["q1"] <= many["median"] <= many["q3"]
    assert boxes_in(made) == 3  # of the four with six seeds, one has no finite value
    assert "fewer than 5 values" in made.caption


def test_runs_that_differ_in_another_key_are_taken_together_and_the_caption_says_so(place: Folders) -> None:
    made = drawn(place, "boxes", "pooled")
    assert row_of(made, "lake", "wide")["n"] == SEEDS + 2
    assert "Runs that differ in depth are taken together." in made.caption
    assert "taken together" not in drawn(place, "boxes", "settings").caption


def test_an_array_is_pooled_over_examples_and_seeds_and_the_share_below_the_threshold_is_stated(place: Folders) -> None:
    made = drawn(place, "boxes", "examples")
    raw = np.concatenate([arrays({"seed": seed, "data": "sea", "net": "narrow", "depth": 3})["wide"]
                          for seed in range(SEEDS)])  # fmt: skip
    finite = raw[np.isfinite(raw)]
    row = row_of(made, "sea", "narrow")
    assert (row["n"], row["not_finite"], row["runs"]) == (len(finite), 3 * SEEDS, SEEDS)
    assert [row["q1"], row["median"], row["q3"]] == pytest.approx(np.quantile(finite, [0.25, 0.5, 0.75]))
    share = np.mean(finite < 0.001)
    assert row["share_below"] == pytest.approx(share)
    assert f"{100 * share:.3g} %" in texts_of(made) and "< 0.001" in texts_of(made)
    assert f"{3 * (4 * SEEDS + 2)} values that are not finite are left out" in made.caption


def test_six_decades_have_a_logarithmic_axis_that_is_the_same_for_all_data_sets(place: Folders) -> None:
    made = drawn(place, "boxes", "examples")
    assert [one.get_xscale() for one in made.figure.axes] == ["log", "log"]
    assert len({one.get_xlim() for one in made.figure.axes}) == 1
    assert {one.get_xscale() for one in drawn(place, "boxes", "runs").figure.axes} == {"linear"}


def test_a_threshold_is_given_in_the_unit_of_the_values_and_drawn_in_the_one_that_is_shown(place: Folders) -> None:
    made = drawn(place, "boxes", "shares")
    row = row_of(made, "lake", "wide")
    assert row["threshold"] == 50 and row["share_below"] in {n / SEEDS for n in range(SEEDS + 1)}
    assert "threshold 50 %" in texts_of(made)


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ("misspelt", "has no array 'widee': did you mean 'wide'?"),
        ("maps", "array: maps of .* has the shape (3, 4, 4); it must have one value for each example, (N,)"),
        ("words", "the array 'words' holds no numbers"),
        ("unknown", "no run has the metric 'val_hat': did you mean"),
    ],
)
def test_a_mistake_gives_one_clear_message(place: Folders, figure: str, message: str) -> None:
    with pytest.raises(RoundhouseError, match=message.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")):
        drawn(place, "boxes", figure)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_a_damaged_file_is_reported_with_its_run(tmp_path: Path, content: bytes) -> None:
    place = write_round(tmp_path, ROUND, results, arrays)
    file_of(place, "boxes", "lake/wide/3/4").write_bytes(content)
    with pytest.raises(RoundhouseError, match=re.escape("outputs.npz of lake/wide/3/4 cannot be read")):
        drawn(place, "boxes", "examples")


# ------------------------------------------------------------------------------------------------------ pure parts

numbers = st.floats(-1e6, 1e6)


@given(st.lists(numbers, min_size=1, max_size=30), numbers)
def test_the_share_below_a_limit_is_a_count_and_quantiles_are_in_order(values: list[float], limit: float) -> None:
    box = Box("result", np.sort(np.array(values)), 0, 1)
    assert box.below(limit) * box.n == pytest.approx(sum(one < limit for one in values))
    assert min(values) == box.at(0) <= box.at(0.25) <= box.at(0.5) <= box.at(0.75) <= box.at(1) == max(values)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=400), st.integers(1, 9))
def test_the_panels_fit_on_the_page(lengths: list[int], data_sets: int) -> None:
    labels = ["x" * one for one in lengths]
    columns, per_panel = _layout(labels, data_sets)
    assert 1 <= per_panel <= len(labels) and 1 <= columns <= 7
    rows = 1 if data_sets == 1 else -(-data_sets // columns)
    assert rows * (0.17 * per_panel + 0.85) <= 8.7 or per_panel == 1


@given(st.dictionaries(st.text("abcdef", min_size=1), numbers, min_size=1, max_size=20), st.integers(1, 25),
       st.sampled_from(["min", "max", None]))  # fmt: skip
def test_the_boxes_that_are_shown_are_the_baseline_and_the_best(
    medians: dict[str, float], most: int, mode: str | None
) -> None:
    boxes = {label: Box("result", np.array([one]), 0, 1) for label, one in medians.items()}
    boxes["the baseline"] = Box("baseline", np.array([0.0]), 0, 1)
    shown = best({"": boxes}, most, sign_of(mode))
    assert len(shown) == min(most, len(boxes)) and shown[0] == "the baseline"
    if mode is None:
        assert shown[1:] == list(medians)[: most - 1]
        return
    sign = 1 if mode == "min" else -1
    left_out = [sign * one for label, one in medians.items() if label not in shown]
    assert all(sign * medians[label] <= min(left_out) for label in shown[1:] if left_out)
