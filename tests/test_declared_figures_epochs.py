"""Several metrics by epoch or step in one panel, by declaration: values, axes, events, many lines."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from declared_figures import Config, drawn, texts_of, write_round
from hypothesis import given
from hypothesis import strategies as st

from analysis.declared.epochs import EVENTS_AT_MOST, Panel, marks_of, places_of
from analysis.declared.epochs_data import ACROSS, LINES_AT_MOST, shares
from analysis.learning_curves import DrawnFigure
from analysis.rounds import Folders
from roundhouse.errors import RoundhouseError

ROUND = """
round: curves
metrics:
  val_hit: {label: validation hit rate, mode: max, scale: percent, main: true}
  cost: {label: cost of training, unit: nats}
  val_cost: {label: validation cost, unit: nats}
  size: {label: size, unit: units}
  grown: {label: units grown, curve: false}
  cut: {label: units cut, curve: false}
experiments:
  simple: {path: "simple/{seed}", grid: {seed: [0, 1]}, config: {net: simple, rate: 0}, command: "true"}
  nets:
    path: "{net}/{rate}/{seed}"
    grid: {seed: [0, 1, 2], net: [a, b, c], rate: [1, 2]}
    command: "true"
    baseline: simple
  many: {path: "many/{net}/{seed}", grid: {seed: [0], net: [NETS], rate: [1]}, command: "true"}
  stepped: {path: "stepped/{seed}", grid: {seed: [0, 1], net: [a], rate: [1]}, command: "true"}
figures:
  two: {kind: epochs, metrics: [val_hit, size], events: [grown, cut], by: net, groups: [nets]}
  one_axis: {kind: epochs, metrics: [cost, val_cost], by: net, groups: [nets]}
  three: {kind: epochs, metrics: [val_hit, size, cost], by: net, groups: [nets]}
  settings: {kind: epochs, metrics: [cost], groups: [nets]}
  many: {kind: epochs, metrics: [val_hit], groups: [many]}
  mixed: {kind: epochs, metrics: [cost], by: net, groups: [nets, stepped]}
  misspelt: {kind: epochs, metrics: [cost, val_cots], by: net}
  no_event: {kind: epochs, metrics: [cost], events: [gronw], by: net}
""".replace("NETS", ", ".join(f"n{number:02}" for number in range(20)))
EPOCHS = 40


def rows_of(config: Config) -> list[dict[str, Any]]:
    """40 epochs. Net c reports no val_hit; `grown` happens at every second epoch, `cut` at 5 and, in seed 1, at 6."""
    shift = sum(map(ord, str(sorted(config.items())))) % 7
    rows = []
    for epoch in range(1, EPOCHS + 1):
        row = {"epoch": epoch, "cost": 3.0 / epoch + shift, "val_cost": 4.0 / epoch + shift,
               "val_hit": 0.9 - 0.5 / epoch - 0.01 * shift, "size": 10.0 ** (6 * epoch / EPOCHS),
               "grown": 3 if epoch % 2 == 0 else 0,
               "cut": -1 if epoch == 5 + (config["seed"] == 1) else 0}  # fmt: skip
        if config["net"] == "c":
            del row["val_hit"]
        rows.append(row)
    return rows


def results(config: Config) -> dict[str, Any]:
    rows = rows_of(config)
    best = max((one["val_hit"] for one in rows if "val_hit" in one), default=None)
    if config["net"].startswith("n"):
        best = (7 * int(config["net"][1:])) % 20 / 20
    return {"metric": "val_hit", "mode": "max", "best": {"val_hit": best}, "epochs": rows}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return write_round(tmp_path_factory.mktemp("curves"), ROUND, results)


def values(made: DrawnFigure, role: str, label: str, metric: str, key: str = "net") -> list[Mapping[str, Any]]:
    return [one for one in made.table if (one["role"], one[key], one["metric"]) == (role, label, metric)]


def test_the_table_has_mean_and_range_over_seeds_in_the_shown_unit(place: Folders) -> None:
    made = drawn(place, "curves", "two")
    found = values(made, "result", "a", "val_hit")
    runs = [rows_of({"seed": seed, "net": "a", "rate": rate}) for seed in range(3) for rate in (1, 2)]
    for number, row in enumerate(found):
        expected = [100 * run[number]["val_hit"] for run in runs]
        assert [row["mean"], row["min"], row["max"]] == pytest.approx(
            [statistics.fmean(expected), min(expected), max(expected)]
        )
        assert (row["epoch"], row["n"], row["unit"]) == (number + 1, 6, "%")
    assert len(found) == EPOCHS
    assert "Mean and range over runs, n 6" in made.caption and "differ in rate are taken together" in made.caption


def test_the_baseline_is_grey_and_in_the_table(place: Folders) -> None:
    made = drawn(place, "curves", "two")
    found = values(made, "baseline", "simple (baseline)", "size")
    assert [one["n"] for one in found] == [2] * EPOCHS
    assert "Grey: simple, the baseline" in made.caption and "simple (baseline)" in texts_of(made)


def test_a_metric_that_some_have_not_measured_is_missing_there_alone(place: Folders) -> None:
    made = drawn(place, "curves", "two")
    assert not values(made, "result", "c", "val_hit") and values(made, "result", "c", "size")
    assert "No validation hit rate: c." in made.caption


# ------------------------------------------------------------------------------------------------------------ axes


def test_two_units_have_a_left_and_a_right_axis(place: Folders) -> None:
    made = drawn(place, "curves", "two")
    left, right = made.figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("validation hit rate (%)", "size (units)")
    assert (left.get_yscale(), right.get_yscale()) == ("linear", "log")
    assert {"validation hit rate (left)", "size (right)"} <= set(texts_of(made).split("\n"))


def test_metrics_with_one_unit_share_an_axis(place: Folders) -> None:
    made = drawn(place, "curves", "one_axis")
    assert len(made.figure.axes) == 1
    assert made.figure.axes[0].get_ylabel() == "cost (nats)"
    lines = [line for line in made.figure.axes[0].lines if np.size(line.get_xdata()) == EPOCHS]
    styles = {line.get_linestyle() for line in lines}
    assert len(styles) == 2


def test_three_units_are_above_each_other_with_one_axis_of_epochs(place: Folders) -> None:
    made = drawn(place, "curves", "three")
    axes = made.figure.axes
    assert len(axes) == 3
    assert len({one.get_xlim() for one in axes}) == 1
    assert [one.get_xlabel() for one in axes] == ["", "", "epoch"]


def test_more_than_four_lines_become_small_multiples_with_equal_axes(place: Folders) -> None:
    made = drawn(place, "curves", "settings")
    assert [one.get_title() for one in made.figure.axes] == [
        f"{net}, rate {rate}" for net in "abc" for rate in (1, 2)
    ]  # fmt: skip
    assert len({one.get_ylim() for one in made.figure.axes}) == 1


def test_of_many_settings_the_best_are_shown_and_the_rest_is_counted(place: Folders) -> None:
    made = drawn(place, "curves", "many")
    best = sorted(range(20), key=lambda number: (7 * number) % 20)[-12:]
    assert [one.get_title() for one in made.figure.axes] == [f"n{number:02}" for number in sorted(best)]
    assert len({one.get_ylim() for one in made.figure.axes}) == 1
    assert "8 further lines have no place; shown are the best by mean validation hit rate." in made.caption
    assert "One run each, so the noise between seeds is unknown" in made.caption
    assert "No baseline to compare with." in made.caption


def test_runs_that_count_steps_are_not_mixed_with_those_that_count_epochs(tmp_path: Path) -> None:
    place = write_round(tmp_path, ROUND, results)
    for seed in range(2):
        path = place.experiments / f"curves/stepped/{seed}/attempts/1/metrics.json"
        path.write_text('{"version": 1, "epochs": [{"step": 100, "cost": 777.0}]}')
    made = drawn(place, "curves", "mixed")
    assert "2 runs that count another unit are left out." in made.caption
    assert max(row["max"] for row in made.table) < 777 and all("step" not in row for row in made.table)


# ---------------------------------------------------------------------------------------------------------- events


def test_events_are_where_their_metric_is_not_0_in_any_run(place: Folders) -> None:
    made = drawn(place, "curves", "two")
    found = {(one["metric"], one["epoch"]): one["n"] for one in made.table if one["role"] == "event"}
    assert {at for name, at in found if name == "grown"} == set(range(2, EPOCHS + 1, 2))
    assert {at: n for (name, at), n in found.items() if name == "cut"} == {5: 12, 6: 6}
    assert {"units grown", "units cut"} <= set(texts_of(made).split("\n"))
    assert "Vertical marks: units grown, units cut not 0 in any of the runs." in made.caption


def test_at_most_thirty_marks_are_drawn_and_the_others_counted(tmp_path: Path) -> None:
    def always(config: Config) -> dict[str, Any]:
        return {**results(config), "epochs": [one | {"grown": 1} for one in rows_of(config)]}

    made = drawn(write_round(tmp_path, ROUND, always), "curves", "two")
    vertical = [one for one in made.figure.axes[0].lines if np.array_equal(one.get_ydata(), [0, 1])]
    assert len(vertical) == EVENTS_AT_MOST
    assert f"the first {EVENTS_AT_MOST} of each panel, {EPOCHS + 2 - EVENTS_AT_MOST} further ones" in made.caption
    assert sum(one["role"] == "event" for one in made.table) == EPOCHS + 2


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ("misspelt", "metrics: no run has measured 'val_cots': did you mean 'val_cost'?"),
        ("no_event", "events: no run has measured 'gronw': did you mean 'grown'?"),
    ],
)
def test_a_mistake_gives_one_clear_message(place: Folders, figure: str, message: str) -> None:
    with pytest.raises(RoundhouseError, match=re.escape(message)):
        drawn(place, "curves", figure)


# ------------------------------------------------------------------------------------------------------ pure parts


@given(st.integers(0, 60), st.integers(1, 12))
def test_every_line_is_in_one_panel_and_no_panel_has_too_many(count: int, panels: int) -> None:
    labels = [str(number) for number in range(count)]
    made = shares(labels, panels)
    assert [one for of in made for one in of] == labels
    assert all(1 <= len(of) <= LINES_AT_MOST for of in made)
    if LINES_AT_MOST < count <= panels:
        assert len(made) == count
    if count <= LINES_AT_MOST:
        assert len(made) <= 1


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_a_data_set_begins_a_new_row_and_no_place_is_taken_twice(sizes: list[int]) -> None:
    panels = [Panel(f"set {number}", {}, {}, "", {}) for number, size in enumerate(sizes) for _ in range(size)]
    places = places_of(panels)
    assert len(set(places)) == len(panels) and max(column for _, column in places) < ACROSS
    for panel, before, (row, column), (row_before, column_before) in zip(
        panels[1:], panels, places[1:], places, strict=False
    ):
        if panel.data_set != before.data_set:
            assert (row, column) == (row_before + 1, 0)
        else:
            assert (row, column) in {(row_before, column_before + 1), (row_before + 1, 0)}


def test_marks_are_in_the_order_of_their_positions() -> None:
    panel = Panel("", {}, {}, "", {"b": {3: 1, 1: 2}, "a": {2: 1}})
    assert marks_of(panel) == [(1, "b"), (2, "a"), (3, "b")]
