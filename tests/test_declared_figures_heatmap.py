"""Heat maps: means over what the cells hide, missing cells, colours around the baseline, order and digits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from declared_figures import drawn, texts_in, write
from family_rounds import write_family
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from recorded_runs import folders_in

from analysis.declared.values import in_order, text_of
from analysis.learning_curves import DrawnFigure
from analysis.rounding import alike
from analysis.style import DIVERGING, SEQUENTIAL
from roundhouse.figures import Figure

ROUND = """
metrics: {score: {mode: max, main: true, baseline: 0.5}}
experiments:
  base: {path: "base/{seed}", grid: {seed: [0, 1]}, config: {width: 8}, command: "true"}
  runs:
    path: "{width}/{rate}/{kind}/{seed}"
    grid: {seed: [0, 1], width: [100, 2, 10], rate: [0.1, 0.001, 0.01], kind: [a, b]}
    command: "true"
    baseline: base
"""
MAP = Figure("heatmap", keys=("width", "rate"))


def measure(config: Mapping[str, Any]) -> dict[str, float] | None:
    if "rate" not in config:
        return {"score": 1.0 + config["seed"]}
    if (config["width"], config["rate"]) == (2, 0.1):
        return None
    return {"score": math.log10(config["width"] / config["rate"]) + (config["kind"] == "b") + 0.1 * config["seed"]}


def cell(made: DrawnFigure, width: str, rate: str) -> Mapping[str, Any]:
    return next(row for row in made.table if row.get("width") == width and row.get("rate") == rate)


def test_a_cell_is_the_mean_over_seeds_and_the_other_keys(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND, measure), "r", MAP)
    for width in (2, 10, 100):
        for rate in (0.001, 0.01):
            runs = [measure({"width": width, "rate": rate, "kind": kind, "seed": seed})
                    for kind in "ab" for seed in (0, 1)]  # fmt: skip
            row = cell(made, str(width), str(rate))
            assert row["mean"] == pytest.approx(statistics.mean(run["score"] for run in runs if run))
            assert (row["n"], row["settings"], row["sd"]) == (4, "2", None)
    assert "the mean over seeds and what else varies (kind), n 4." in made.caption


def test_the_deviation_over_seeds_is_that_of_one_setting(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND.replace("kind: [a, b]", "kind: [a]"), measure), "r", MAP)
    assert cell(made, "10", "0.01")["sd"] == pytest.approx(statistics.stdev([3.0, 3.1]))
    assert "Each cell is the mean over seeds, n 2." in made.caption


def test_a_missing_cell_is_hatched_and_named(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND, measure), "r", MAP)
    hatched = [one for one in made.figure.axes[0].patches if isinstance(one, Rectangle) and one.get_hatch()]
    assert [(one.get_x(), one.get_y()) for one in hatched] == [(1.5, 1.5)]  # the lowest width, the highest rate
    assert texts_in(made).count("no run") == 1 and "Hatched" in made.caption
    assert (cell(made, "2", "0.1")["mean"], cell(made, "2", "0.1")["n"]) == (None, 0)


def test_a_run_without_a_finite_value_is_told_from_a_missing_run(tmp_path: Path) -> None:
    place = write(tmp_path, ROUND, lambda one: measure(one) or {"score": math.nan})
    assert "no value" in texts_in(drawn(place, "r", MAP))


def test_numbers_are_in_their_order_upwards_and_to_the_right(tmp_path: Path) -> None:
    axes = drawn(write(tmp_path, ROUND, measure), "r", MAP).figure.axes[0]
    assert [one.get_text() for one in axes.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    assert [one.get_text() for one in axes.get_yticklabels()] == ["100", "10", "2"]  # the first row is above
    assert axes.yaxis_inverted()


def test_the_colours_are_centred_on_the_baseline_which_is_stated_and_marked(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND, measure), "r", MAP)
    axes, bar = made.figure.axes
    image = axes.images[0]
    assert image.norm(1.5) == pytest.approx(0.5) and image.cmap.name == DIVERGING.removesuffix("_r")
    assert [line.get_ydata()[0] for line in bar.lines] == [1.5]  # type: ignore[index]
    assert "Blue is better (higher) than the baseline, group base: 1.5 ± 0.71, n 2." in made.caption
    assert "reference (dotted line in the colour bar): 0.5." in made.caption
    assert next(row for row in made.table if row["role"] == "baseline")["mean"] == 1.5


def test_without_a_baseline_the_scale_goes_from_low_to_high(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND.replace("    baseline: base\n", ""), measure), "r", MAP)
    image = made.figure.axes[0].images[0]
    means = [row["mean"] for row in made.table if row["role"] == "result" and row["n"]]
    assert (image.norm.vmin, image.norm.vmax) == pytest.approx((min(means), max(means)))
    assert image.cmap.name == SEQUENTIAL and "No baseline to compare with." in made.caption


def test_values_over_decades_have_a_logarithmic_scale_around_the_baseline(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_family("growth", place, lambda path: path.startswith("16/"))
    made = drawn(
        place, "growth", Figure("heatmap", keys=("width", "density"), metric="connections", groups=("ladder",))
    )
    norm = made.figure.axes[0].images[0].norm
    assert isinstance(norm, LogNorm) and norm(1.92e6) == pytest.approx(0.5)
    assert [row["density"] for row in made.table[:8]] == [
        "5e-07",
        "0.0001",
        "0.001",
        "0.003",
        "0.01",
        "0.03",
        "0.1",
        "0.5",
    ]


def test_many_cells_have_no_numbers_and_can_be_printed(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_family("flow", place)
    made = drawn(place, "flow", Figure("heatmap", keys=("techniques", "width")))
    assert not any(text[0].isdigit() for text in texts_in(made) if text)
    assert len(made.table) == 101 * 6 + 1


@pytest.mark.parametrize("keys", [("width", "rate"), ("kind", "rate")])
def test_one_run_is_drawn(tmp_path: Path, keys: tuple[str, str]) -> None:
    text = ROUND.replace("[100, 2, 10]", "[10]").replace("[0.1, 0.001, 0.01]", "[0.01]").replace("[a, b]", "[a]")
    place = write(tmp_path, text.replace("[0, 1]", "[0]"), measure)
    made = drawn(place, "r", Figure("heatmap", keys=keys))
    assert texts_in(made) == ["3.00"] and "one run, so the noise between seeds is unknown" in made.caption


# ---------------------------------------------------------------------------------------------- order and digits


@given(st.lists(st.one_of(st.integers(-5, 5), st.floats(-5, 5), st.sampled_from(["b", "a"]), st.none())))
def test_values_are_ordered_by_size_and_texts_as_they_come(values: list[Any]) -> None:
    ordered = in_order(values)
    numbers = [float(one) for one in ordered if one not in ("a", "b", "not set")]
    assert numbers == sorted(numbers)
    assert [one for one in ordered if one in ("a", "b")] == list(
        dict.fromkeys(one for one in values if one in ("a", "b"))
    )
    assert set(ordered) == set(map(text_of, values)) and len(ordered) == len(set(ordered))


@given(st.lists(st.floats(-1e7, 1e7), min_size=1))
def test_numbers_are_near_what_is_written_and_zero_has_no_minus(values: list[float]) -> None:
    written = alike(values)
    span = max(values) - min(values) or max(map(abs, values))
    for value in values:
        text = written(value)
        assert not (text.startswith("-") and float(text) == 0)
        assert abs(float(text) - value) <= max(0.01 * span, 0.006 * abs(value)) or abs(value) < 1e-300
