"""Parallel coordinates: ranks, axes of numbers and texts, the baseline, and labels that do not overlap."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from declared_figures import drawn, texts_in, write
from family_rounds import write_family
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from recorded_runs import folders_in

from analysis.declared.parallel import LINE, apart, spread_out
from analysis.learning_curves import DrawnFigure
from roundhouse.figures import Figure

ROUND = """
metrics: {loss: {mode: min, main: true}}
experiments:
  base: {path: "base/{seed}", grid: {seed: [0, 1]}, config: {width: 8, act: relu}, command: "true"}
  runs:
    path: "{width}/{act}/{seed}"
    grid: {seed: [0, 1, 2], width: [16, 2, 4, 8, 1], act: [tanh, relu]}
    command: "true"
    baseline: base
"""
BOTH = Figure("parallel", keys=("width", "act"), groups=("runs",))
POSITIONS = st.lists(st.floats(0, 1), max_size=20)


def loss(config: Mapping[str, Any]) -> dict[str, float]:
    return {"loss": 10 + abs(config["width"] - 5) + (config["act"] == "tanh") * 0.5 + 0.1 * config["seed"]}


def lines_of(made: DrawnFigure) -> list[NDArray[np.float64]]:
    """Where the line of each setting crosses the three axes; nan where it does not."""
    return [y for _, y in _settings(made)]


def _settings(made: DrawnFigure) -> list[tuple[Line2D, NDArray[np.float64]]]:
    pairs = [(one, np.asarray(one.get_ydata(), dtype=float)) for one in made.figure.axes[0].lines]
    return [(one, y) for one, y in pairs if len(y) == 3]


# ---------------------------------------------------------------------------------------------- pure


@given(POSITIONS)
def test_labels_keep_their_distance_and_order_near_their_positions(positions: list[float]) -> None:
    made = spread_out(positions, 0.05)
    order = sorted(range(len(made)), key=lambda place: (positions[place], place))
    gaps = [made[high] - made[low] for low, high in zip(order, order[1:], strict=False)]
    assert all(gap >= 0.05 - 1e-9 for gap in gaps)
    assert all(-1e-9 <= one <= 1 + 1e-9 for one in made)
    if all(positions[high] - positions[low] >= 0.05 for low, high in zip(order, order[1:], strict=False)):
        assert made == positions


@given(POSITIONS)
def test_texts_that_would_overlap_are_left_out_and_the_first_stays(positions: list[float]) -> None:
    kept = apart(positions)
    assert kept[:1] == positions[:1]
    assert all(abs(one - other) >= LINE for place, one in enumerate(kept) for other in kept[:place])
    assert all(any(abs(one - other) < LINE for other in kept) for one in positions)


# ---------------------------------------------------------------------------------------------- the figure


def test_the_table_ranks_the_means_over_seeds(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND, loss), "r", BOTH)
    rows = [row for row in made.table if row["role"] == "result"]
    for row in rows:
        values = [loss({**row, "seed": seed})["loss"] for seed in range(3)]
        assert [row["mean"], row["sd"], row["n"]] == pytest.approx(
            [statistics.mean(values), statistics.stdev(values), 3]
        )
    ranked = sorted(rows, key=lambda row: row["mean"])
    assert [row["rank"] for row in ranked] == list(range(1, 11))
    assert (ranked[0]["width"], ranked[0]["act"]) == (4, "relu")
    assert "1: width 4, relu" in texts_in(made)
    assert "the best 5, by the lowest loss" in made.caption


def test_the_baseline_is_dashed_and_without_a_rank(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND, loss), "r", BOTH)
    (base,) = (row for row in made.table if row["role"] == "baseline")
    assert (base["mean"], base["n"], base["rank"]) == (pytest.approx(13.05), 2, None)
    dashed = [one for one, _ in _settings(made) if one.get_linestyle() == "--"]
    assert len(dashed) == 1 and dashed[0].get_color() == "black" and len(lines_of(made)) == 11
    assert "Dashed: the baseline, group base (13.05)." in made.caption


def test_a_key_that_was_swept_by_factors_has_a_logarithmic_axis(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND, loss), "r", BOTH)
    heights = sorted({round(float(y[0]), 6) for y in lines_of(made)})
    assert heights == [0, 0.25, 0.5, 0.75, 1]  # 1, 2, 4, 8, 16


def test_a_key_that_was_swept_in_equal_steps_has_a_linear_axis(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND.replace("[16, 2, 4, 8, 1]", "[2, 4, 6, 8, 10]"), loss), "r", BOTH)
    heights = sorted({round(float(y[0]), 6) for y in lines_of(made)})
    assert heights == [0, 0.25, 0.5, 0.75, 1]


def test_lines_through_one_text_do_not_coincide_and_stay_near_it(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND, loss), "r", BOTH)
    heights = sorted(float(y[1]) for one, y in _settings(made) if one.get_linestyle() == "-")
    relu, tanh = heights[:5], heights[5:]  # the first value is above
    assert len(set(heights)) == 10
    assert max(relu) < 0.5 < min(tanh) and all(0 <= one <= 1 for one in heights)


def test_without_a_mode_no_setting_is_best(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND.replace("mode: min, ", ""), loss), "r", BOTH)
    assert {row["rank"] for row in made.table} == {None}
    assert "No best setting: nothing declares" in made.caption and "lowest and highest: " in made.alt


def test_a_run_without_one_of_the_keys_has_a_gap_there(tmp_path: Path) -> None:
    text = ROUND + '  old: {path: "old/{seed}", grid: {seed: [0]}, config: {width: 2}, command: "true"}\n'
    place = write(tmp_path, text, lambda one: loss({"act": "relu", **one}))
    made = drawn(place, "r", Figure("parallel", keys=("width", "act"), groups=("runs", "old")))
    assert sum(math.isnan(y[1]) for y in lines_of(made)) == 1


def test_one_key_and_one_setting_are_drawn(tmp_path: Path) -> None:
    text = ROUND.replace("[16, 2, 4, 8, 1]", "[4]").replace("[tanh, relu]", "[tanh]").replace("[0, 1, 2]", "[0]")
    made = drawn(write(tmp_path, text.replace("    baseline: base\n", ""), loss), "r", Figure("parallel", keys=("act",),
                 groups=("runs",)))  # fmt: skip
    assert len(made.table) == 1 and "1: runs" in texts_in(made)
    assert "one run each" in made.caption and "the best 1," in made.caption


def test_keys_without_an_axis_that_vary_too_are_named(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND, loss), "r", Figure("parallel", keys=("act",)))
    assert "Also varying, without an axis: width." in made.caption


def test_each_data_set_has_its_panel(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_family("flood", place)
    made = drawn(place, "flood", Figure("parallel", keys=("arch",)))
    assert [one.get_title() for one in made.figure.axes] == ["small", "big"]
    ranks = {name: [row["rank"] for row in made.table if row["data_set"] == name and row["role"] == "result"]
             for name in ("small", "big")}  # fmt: skip
    assert {name: sorted(found) for name, found in ranks.items()} == {"small": [*range(1, 8)], "big": [*range(1, 8)]}


def test_more_than_a_hundred_settings_can_be_printed(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_family("flow", place)
    made = drawn(place, "flow", Figure("parallel", keys=("techniques", "width")))
    assert len(made.table) == 120
    assert len(texts_in(made)) < 60  # the 101 sets are not all written


def test_twelve_keys_can_be_printed(tmp_path: Path) -> None:
    keys = [f"long_key_{place}" for place in range(12)]
    grid = ", ".join(f"{key}: [{1 + place}, {10 * (1 + place)}]" for place, key in enumerate(keys[:7]))
    rest = ", ".join(f"{key}: text" for key in keys[7:])
    path = "-".join(f"{{{key}}}" for key in keys[:7])
    group = f'{{path: "{path}", grid: {{{grid}}}, config: {{{rest}}}, command: "true"}}'
    text = f"metrics: {{loss: {{mode: min, main: true}}}}\nexperiments: {{runs: {group}}}\n"
    place = write(tmp_path, text, lambda one: {"loss": sum(float(one[key]) for key in keys[:7])})
    made = drawn(place, "r", Figure("parallel", keys=tuple(keys)))
    assert [row["mean"] for row in made.table if row["rank"] == 1] == [sum(range(1, 8))]
