"""Trade-offs: the Pareto front, means and deviations in both directions, the baseline, wrong names."""

from __future__ import annotations

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
from matplotlib.text import Text
from recorded_runs import folders_in

from analysis.declared.tradeoff import LABELLED, pareto_front
from analysis.rounds import read_round
from roundhouse.errors import RoundhouseError
from roundhouse.figures import Figure

ROUND = """
metrics: {score: {mode: max, main: true}, size: {label: size}}
experiments:
  base: {path: "base/{seed}", grid: {seed: [0, 1]}, config: {width: 8, kind: base}, command: "true"}
  runs:
    path: "{kind}/{width}/{seed}"
    grid: {seed: [0, 1, 2], width: [1, 10, 100], kind: [a, b]}
    command: "true"
    baseline: base
"""
MODES = st.sampled_from(["min", "max"])


def measure(config: Mapping[str, Any]) -> dict[str, float]:
    """Kind a is better and larger; noise in both directions."""
    large, seed = config["kind"] == "a", config["seed"]
    size = config["width"] * (1 + large) + 0.01 * seed**2
    return {"score": config["width"] ** 0.5 + large + 0.1 * seed, "size": size, "seconds": 10.0 + seed}


# ---------------------------------------------------------------------------------------------- the front


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6))), MODES, MODES)
def test_the_front_is_what_no_other_point_beats(points: list[tuple[int, int]], x_mode: str, y_mode: str) -> None:
    def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
        costs = [(x if x_mode == "min" else -x, y if y_mode == "min" else -y) for x, y in (one, other)]
        return costs[0] != costs[1] and costs[0][0] <= costs[1][0] and costs[0][1] <= costs[1][1]

    front = pareto_front(points, x_mode, y_mode)
    assert set(front) == {place for place, one in enumerate(points) if not any(beats(other, one) for other in points)}
    assert [points[place][0] for place in front] == sorted(points[place][0] for place in front)


# ---------------------------------------------------------------------------------------------- the figure


def test_the_table_has_mean_and_deviation_in_both_directions(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND, measure), "r", Figure("tradeoff", over="size", by="kind", groups=("runs",)))
    rows = {(row["kind"], row["setting"]): row for row in made.table if row["role"] == "result"}
    assert len(rows) == 6
    for kind in ("a", "b"):
        for width in (1, 10, 100):
            runs = [measure({"kind": kind, "width": width, "seed": seed}) for seed in range(3)]
            row = next(row for (of, label), row in rows.items() if of == kind and f"width {width}," in f"{label},")
            scores, sizes = [one["score"] for one in runs], [one["size"] for one in runs]
            assert [row["mean"], row["sd"]] == pytest.approx([statistics.mean(scores), statistics.stdev(scores)])
            assert [row["size"], row["size_sd"]] == pytest.approx([statistics.mean(sizes), statistics.stdev(sizes)])
            assert row["n"] == 3
    assert "n 2 to 3" in made.caption


def test_the_front_of_the_table_is_that_of_its_means_with_the_baseline(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND, measure), "r", Figure("tradeoff", over="size", groups=("runs",)))
    front = set(pareto_front([(row["size"], row["mean"]) for row in made.table], "min", "max"))
    assert [row["front"] for row in made.table] == ["yes" if place in front else "no" for place in range(7)]
    assert "Grey cross: the baseline, group base." in made.caption
    assert len(texts_in(made)) == len(front)


def test_a_baseline_that_is_among_the_shown_runs_is_marked_and_not_counted_twice(tmp_path: Path) -> None:
    made = drawn(write(tmp_path, ROUND, measure), "r", Figure("tradeoff", over="size"))
    assert [row["role"] for row in made.table].count("baseline") == 1 and len(made.table) == 7


def test_a_cost_and_a_config_key_can_be_on_the_x_axis(tmp_path: Path) -> None:
    place = write(tmp_path, ROUND, measure)
    made = drawn(place, "r", Figure("tradeoff", over="seconds", groups=("runs",)))
    assert {row["seconds"] for row in made.table if row["role"] == "result"} == {11.0}
    assert made.figure.axes[0].get_xlabel() == "time of a run (s)"
    made = drawn(place, "r", Figure("tradeoff", over="width", groups=("runs",)))
    assert {row["width"] for row in made.table} == {1.0, 8.0, 10.0, 100.0}
    assert made.figure.axes[0].get_xscale() == "log"


@pytest.mark.parametrize(("over", "answer"), [("secnds", "seconds"), ("sise", "size"), ("widht", "width")])
def test_a_wrong_name_is_answered_with_the_nearest_cost_metric_or_key(tmp_path: Path, over: str, answer: str) -> None:
    place = write(tmp_path, ROUND, measure)
    with pytest.raises(RoundhouseError, match=f"over: '{over}' is no cost.*did you mean '{answer}'"):
        drawn(place, "r", Figure("tradeoff", over=over))


def test_without_a_mode_there_is_no_front_and_the_caption_says_why(tmp_path: Path) -> None:
    place = write(tmp_path, ROUND.replace("mode: max, ", ""), measure)
    made = drawn(place, "r", Figure("tradeoff", over="size"))
    assert {row["front"] for row in made.table} == {""}
    assert "No Pareto front: nothing declares whether the lowest or the highest score is best." in made.caption


def test_where_more_of_the_x_axis_is_better_the_front_turns(tmp_path: Path) -> None:
    place = write(tmp_path, ROUND.replace("{label: size}", "{label: size, mode: max}"), measure)
    made = drawn(place, "r", Figure("tradeoff", over="size", groups=("runs",)))
    assert [row["setting"] for row in made.table if row["front"] == "yes"] == ["width 100, a"]


def test_a_text_on_the_x_axis_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RoundhouseError, match="over: no run has a number as kind"):
        drawn(write(tmp_path, ROUND, measure), "r", Figure("tradeoff", over="kind"))


def test_runs_without_one_of_the_two_values_are_left_out(tmp_path: Path) -> None:
    place = write(tmp_path, ROUND, lambda one: {**measure(one), **({"size": float("nan")} if one["seed"] == 2 else {})})
    made = drawn(place, "r", Figure("tradeoff", over="size", groups=("runs",)))
    assert {row["n"] for row in made.table} == {2}


def test_the_mode_that_runs_report_for_the_validation_metric_holds_for_the_test_metric(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_family("growth", place, lambda path: "0.1" not in path)
    text = (place.rounds / "growth.yaml").read_text().replace("mode: max, ", "")
    (place.rounds / "growth.yaml").write_text(text)
    assert read_round("growth", place).declared.of("test_accuracy").mode is None
    made = drawn(place, "growth", Figure("tradeoff", over="connections", by="width"))
    assert "highest test accuracy" in made.caption


def test_each_data_set_has_its_panel_and_front(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_family("flood", place)
    made = drawn(place, "flood", Figure("tradeoff", over="seconds_per_map", by="arch"))
    assert [one.get_title() for one in made.figure.axes] == ["small", "big"]
    for name in ("small", "big"):
        rows = [row for row in made.table if row["data_set"] == name]
        front = pareto_front([(row["seconds_per_map"], row["mean"]) for row in rows], "min", "min")
        assert [place for place, row in enumerate(rows) if row["front"] == "yes"] == sorted(front)


def test_labels_of_the_front_cover_neither_each_other_nor_points(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_family("growth", place)
    made = drawn(place, "growth", Figure("tradeoff", over="density", by="width"))
    (axes,) = made.figure.axes
    renderer = made.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [Text.get_window_extent(one, renderer) for one in axes.texts]
    front = [row for row in made.table if row["front"] == "yes"]
    assert 4 <= len(boxes) == len(front)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    points = [axes.transData.transform((row["density"], row["mean"])) for row in made.table]
    assert not any(box.contains(*point) for box in boxes for point in points)


def test_a_front_of_many_settings_has_no_labels(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_family("growth", place)
    made = drawn(place, "growth", Figure("tradeoff", over="connections", by="width"))
    assert [row["front"] for row in made.table].count("yes") > LABELLED and not texts_in(made)


def test_one_setting_with_one_seed_is_drawn(tmp_path: Path) -> None:
    text = ROUND.replace("[1, 10, 100]", "[10]").replace("[a, b]", "[a]").replace("[0, 1, 2]", "[0]")
    place = write(tmp_path, text.replace("    baseline: base\n", ""), measure)
    made = drawn(place, "r", Figure("tradeoff", over="size", groups=("runs",)))
    assert [(row["sd"], row["size_sd"], row["n"], row["front"]) for row in made.table] == [(None, None, 1, "yes")]
    assert "one run each" in made.caption and "No baseline to compare with." in made.caption


def test_more_settings_than_colours_look_the_same_and_the_caption_says_so(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_family("flow", place)
    made = drawn(place, "flow", Figure("tradeoff", over="parameters", by="techniques"))
    assert "101 values are too many for colours" in made.caption
    assert len(made.figure.legends[0].get_texts()) == 3  # the baseline, the settings, the front
    assert len(made.table) == 120
