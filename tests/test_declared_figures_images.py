"""Grids of maps and pictures by declaration: arrays and kept files of runs."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from declared_figures import Arrays, Config, drawn, file_of, texts_of, write_round
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import AxesImage
from PIL import Image

from analysis import figure_requests, plot_experiments
from analysis.declared.arrays import examples, range_of_colours
from analysis.declared.image_grid import PAGE, Wanted, scale_of, wrapped
from analysis.learning_curves import DrawnFigure
from analysis.rounds import Folders
from roundhouse.errors import RoundhouseError

ROUND = """
round: pictures
apart: [data]
metrics:
  val_rae: {label: validation RAE, mode: min, main: true}
experiments:
  simple: {path: "simple/{data}", grid: {data: [lake, sea]}, config: {net: simple}, command: "true"}
  nets:
    path: "{data}/{net}/{seed}"
    grid: {seed: [0, 1], data: [lake, sea], net: [a, b, c, d, e, f, g, h, i, j, k]}
    command: "true"
    baseline: simple
figures:
  maps: {kind: images, arrays: [truth, error], diverging: [error], samples: [0, 2, 8]}
  settings: {kind: images, arrays: [truth], rows: setting, columns: sample, samples: [1, 0], groups: [nets]}
  across: {kind: images, arrays: [truth, faces], rows: array, columns: setting, samples: [2]}
  faces: {kind: images, arrays: [faces], rows: setting, columns: sample}
  kept: {kind: images, arrays: [grid], rows: setting, columns: sample, file: kept/grid.png}
  two_in_one: {kind: images, arrays: [grid, other], file: kept/grid.png}
  misspelt: {kind: images, arrays: [truht]}
  numbers: {kind: images, arrays: [errors]}
  absent: {kind: images, arrays: [truth], samples: [77]}
  no_colours: {kind: images, arrays: [wild]}
  diverging: {kind: images, arrays: [faces], diverging: [faces]}
  words: {kind: images, arrays: [words]}
  no_file: {kind: images, arrays: [truth], file: kept/none.npz}
"""
RESULTS = {name: 0.1 + 0.07 * ((5 * place) % 11) for place, name in enumerate("abcdefghijk")} | {"simple": 1.0}


def results(config: Config) -> dict[str, Any]:
    value = RESULTS[config["net"]] + 0.001 * config.get("seed", 0)
    return {"metric": "val_rae", "mode": "min", "best": {"val_rae": value}, "final": {"test_rae": value}}


def arrays(config: Config) -> Arrays:
    random = np.random.default_rng(sum(map(ord, str(sorted(config.items())))))
    truth = random.uniform(2, 7, (3, 6, 8))
    truth[0, :2] = np.nan
    return {"truth": truth, "error": random.normal(0, 3, (3, 1, 6, 8)), "faces": random.uniform(-1, 1, (3, 3, 6, 8)),
            "errors": np.ones(9), "wild": random.normal(0, 9, (3, 6, 8, 3)), "words": np.array([[["a"]]])}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    place = write_round(tmp_path_factory.mktemp("pictures"), ROUND, results, arrays)
    for data in ("lake", "sea"):
        for path in [f"simple/{data}", *(f"{data}/{net}/0" for net in "abc")]:
            kept = file_of(place, "pictures", path, "kept/grid.png")
            kept.parent.mkdir()
            Image.fromarray(np.full((10, 20), 51, np.uint8)).save(kept)
    return place


def images_in(made: DrawnFigure) -> list[AxesImage]:
    return [one.images[0] for one in made.figure.axes if one.images]


# ---------------------------------------------------------------------------------------------------- which runs


def test_the_best_settings_of_each_data_set_are_shown_with_the_baseline_by_their_first_seed(place: Folders) -> None:
    made = drawn(place, "pictures", "maps")
    paths = list(dict.fromkeys(row["path"] for row in made.table))
    by_result = sorted("abcdefghijk", key=RESULTS.__getitem__)
    for data in ("lake", "sea"):
        own = [one for one in paths if data in one]
        assert own[-1] == f"simple/{data}"
        assert own[:-1] == [f"{data}/{net}/0" for net in by_result[: len(own) - 1]] and len(own) > 1
    assert f"the best {len(paths) - 2} of 22 settings by mean test RAE, of each data set in turn" in made.caption
    assert f"Not on the page: {24 - len(paths)} further settings." in made.caption
    assert "Each is shown by its first run of 2." in made.caption


def test_every_shown_run_has_its_label_seed_and_result(place: Folders) -> None:
    text = texts_of(drawn(place, "pictures", "maps"))
    assert f"lake, a; seed 0; test RAE {RESULTS['a']:.4g}" in text
    assert "sea, simple (baseline); test RAE 1" in text
    assert {"truth", "error", "example 0", "example 2"} <= set(text.split("\n"))


def test_the_table_has_the_range_of_each_picture(place: Folders) -> None:
    made = drawn(place, "pictures", "maps")
    assert {(one["array"], one["sample"]) for one in made.table} == {
        (array, sample) for array in ("truth", "error") for sample in (0, 2)
    }
    for row in made.table:
        with np.load(file_of(place, "pictures", row["path"])) as saved:
            raw = saved[row["array"]][row["sample"]]
        expected = [np.nanmin(raw), np.nanmax(raw), np.nanmean(raw)]
        assert [row["min"], row["max"], row["mean"]] == pytest.approx(expected)
        assert row["not_finite"] == np.isnan(raw).sum()


def test_an_example_that_no_array_has_is_named(place: Folders) -> None:
    assert "There is no example 8." in drawn(place, "pictures", "maps").caption


def test_runs_without_the_array_are_left_out_and_counted(tmp_path: Path) -> None:
    place = write_round(tmp_path, ROUND, results, lambda config: arrays(config) if config["net"] < "c" else {})
    made = drawn(place, "pictures", "settings")
    assert {row["setting"] for row in made.table} == {f"{data}, {net}" for data in ("lake", "sea") for net in "ab"}
    assert "18 settings without these arrays." in made.caption and "No baseline" in made.caption


# -------------------------------------------------------------------------------------------------- how it is drawn


def test_a_row_has_one_colour_scale_and_errors_one_around_0(place: Folders) -> None:
    made = drawn(place, "pictures", "maps")
    shown = images_in(made)
    for start, row in zip(range(0, len(shown), 2), [one for one in made.table if one["array"] == "truth"], strict=True):
        truth, error = shown[start : start + 2]
        assert truth.get_clim() == pytest.approx((row["min"], row["max"]))
        low, high = error.get_clim()
        assert low == -high
        assert high == pytest.approx(np.abs(np.asarray(error.get_array())).max())
        assert (truth.cmap.name, error.cmap.name) == ("cividis", "RdBu_r")


def test_several_maps_of_a_row_share_its_scale(place: Folders) -> None:
    made = drawn(place, "pictures", "settings")
    shown = images_in(made)
    for start in range(0, len(shown), 2):
        assert shown[start].get_clim() == shown[start + 1].get_clim()
    rows = [made.table[number : number + 2] for number in range(0, len(made.table), 2)]
    expected = [(min(one["min"] for one in row), max(one["max"] for one in row)) for row in rows]
    np.testing.assert_allclose([one.get_clim() for one in shown[::2]], expected)


def test_what_is_not_finite_is_hatched(place: Folders) -> None:
    made = drawn(place, "pictures", "maps")
    first = images_in(made)[0]
    assert np.ma.getmaskarray(first.get_array())[:2].all() and not np.ma.getmaskarray(first.get_array())[2:].any()
    assert first.axes.patch.get_hatch() and "Hatched: no finite value." in made.caption
    assert "Hatched" not in drawn(place, "pictures", "faces").caption


def test_pictures_in_colours_have_no_colour_scale(place: Folders) -> None:
    made = drawn(place, "pictures", "faces")
    assert len(made.figure.axes) == len(images_in(made)) == len(made.table)
    assert "colour scale" not in made.caption
    with np.load(file_of(place, "pictures", "lake/a/0")) as saved:
        raw = np.moveaxis(saved["faces"][0], 0, -1)
    np.testing.assert_allclose(np.asarray(images_in(made)[0].get_array())[..., :3], (raw + 1) / 2)


def test_rows_and_columns_can_be_arrays_and_settings(place: Folders) -> None:
    made = drawn(place, "pictures", "across")
    assert {row["sample"] for row in made.table} == {2}
    settings = list(dict.fromkeys(row["setting"] for row in made.table))
    tops = [round(one.axes.get_position().y0, 3) for one in images_in(made)]
    assert [tops.count(one) for one in dict.fromkeys(tops)] == [len(settings)] * 2
    assert len(settings) > 3 and "of example 2;" in made.caption


def test_a_kept_picture_is_shown_in_its_colours(place: Folders) -> None:
    made = drawn(place, "pictures", "kept")
    assert {row["path"] for row in made.table} == {
        *(f"{data}/{net}/0" for data in ("lake", "sea") for net in "abc"), "simple/lake", "simple/sea"
    }  # fmt: skip
    assert [row["mean"] for row in made.table] == pytest.approx([0.2] * 8)
    assert len(made.figure.axes) == 8 and "There is no example" not in made.caption


def test_a_figure_is_drawn_again_when_a_kept_file_changes(tmp_path: Path) -> None:
    text = ROUND.partition("figures:")[0] + (
        "figures:\n  maps: {kind: images, arrays: [truth], rows: setting, columns: sample, file: kept/maps.npz}\n"
    )
    place = write_round(tmp_path, text, results, arrays, "kept/maps.npz")
    folder = place.results("pictures") / "plots"

    def request() -> figure_requests.FigureRequest:
        found = plot_experiments.read_round("pictures", place)
        return next(one for one in figure_requests.figure_requests(found, folder, ("png",)) if one.declared)

    before = request()
    assert plot_experiments.MetricsCache(plot_experiments.DrawingProgress("pictures")).can_draw(before)
    assert request().key == before.key
    assert not isinstance(plot_experiments.draw(before), str)
    assert (folder / "declared/maps.png").is_file()
    assert {"min", "max", "mean"} <= set(next(csv.DictReader((folder / "declared/maps.csv").open())))
    os.utime(file_of(place, "pictures", "lake/a/0", "kept/maps.npz"), (1, 1))
    assert request().key != before.key


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ("misspelt", "has no array 'truht': did you mean 'truth'?"),
        ("numbers", "has the shape (9,); a map is (N, height, width)"),
        ("absent", "have none of these examples (77)"),
        ("no_colours", "those of a picture in colours are from 0 to 1, from -1 to 1, or from 0 to 255"),
        ("diverging", "is a picture in colours, not a map"),
        ("words", "the array 'words' holds no numbers"),
        ("no_file", "file: no run has a file kept/none.npz"),
        ("two_in_one", "kept/grid.png is one picture: give it one name in arrays (got 2)"),
    ],
)
def test_a_mistake_gives_one_clear_message(place: Folders, figure: str, message: str) -> None:
    with pytest.raises(RoundhouseError, match=re.escape(message)):
        drawn(place, "pictures", figure)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("file", ["outputs.npz", "kept/grid.png"])
def test_a_damaged_file_is_reported_with_its_run(tmp_path: Path, content: bytes, file: str) -> None:
    place = write_round(tmp_path, ROUND, results, arrays)
    path = file_of(place, "pictures", "lake/a/0", file)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(RoundhouseError, match=re.escape(f"{file} of lake/a/0 cannot be read: it is not a valid")):
        drawn(place, "pictures", "kept" if file.endswith(".png") else "maps")


# ------------------------------------------------------------------------------------------------------ pure parts

SIZES = st.integers(1, 5)


@given(SIZES, st.integers(4, 6), st.integers(4, 6), st.lists(st.integers(0, 8), min_size=1, unique=True))
def test_channels_may_be_first_or_last_and_only_existing_examples_are_taken(
    n: int, height: int, width: int, samples: list[int]
) -> None:
    random = np.random.default_rng(n)
    maps, colours = random.random((n, height, width)), random.random((n, 3, height, width))
    expected = [one for one in samples if one < n]
    for given_maps in (maps, maps[:, np.newaxis]):
        found = examples(given_maps, samples, "it")
        assert list(found) == expected
        assert all(np.array_equal(found[one], maps[one]) for one in expected)
    for given_colours in (colours, np.moveaxis(colours, 1, -1)):
        found = examples(given_colours, samples, "it")
        assert all(np.allclose(found[one], np.moveaxis(colours[one], 0, -1)) for one in expected)


@given(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]), st.integers(0, 1000))
def test_the_range_of_colours_is_that_of_the_values(limits: tuple[float, float], seed: int) -> None:
    values = np.random.default_rng(seed).uniform(*limits, (2, 3, 4, 4))
    values.flat[:2] = limits  # both ends occur
    assert range_of_colours(values, "it") == limits
    found = examples(values, [0], "it")[0]
    np.testing.assert_allclose(found, np.moveaxis((values[0] - limits[0]) / (limits[1] - limits[0]), 0, -1))


def test_bytes_are_colours_from_0_to_255_even_if_all_are_dark() -> None:
    assert range_of_colours(np.ones((1, 3, 2, 2), np.uint8), "it") == (0, 255)


@given(st.lists(st.lists(st.floats(-1e9, 1e9) | st.just(np.nan), min_size=1), max_size=4))
def test_a_scale_covers_all_finite_values(lists: list[list[float]]) -> None:
    maps = [np.array(one) for one in lists]
    finite = [one for of in lists for one in of if np.isfinite(one)]
    low, high = scale_of(maps, diverging=False)
    assert (low, high) == ((min(finite), max(finite)) if finite else (0, 1))
    low, high = scale_of(maps, diverging=True)
    assert low == -high and high > 0 and all(abs(one) <= high for one in finite)
    assert not any(finite) or high == max(map(abs, finite))


@given(st.integers(1, 40), st.integers(1, 200), st.integers(1, 200), st.floats(0.05, 20), st.integers(0, 2),
       st.booleans(), st.integers(1, 60))  # fmt: skip
def test_a_layout_fits_on_the_page_and_shows_all_if_it_can(
    columns: int, rows: int, blocks: int, aspect: float, bars: int, in_blocks: bool, letters: int
) -> None:
    headings = ["x" * letters] * blocks if in_blocks else []
    wanted = Wanted(columns, rows, blocks if in_blocks else 1, 1, aspect, 1.5, bars, headings, ["row"], ["column"])
    made = wanted.layout()
    width, height = made.cell
    assert height == pytest.approx(width * aspect)
    assert made.columns >= 1 and made.rows >= 1 and made.blocks >= 1
    assert wanted.width(width, made.columns) <= PAGE[0] + 1e-9
    block = wanted.heading(width, made.columns) + made.rows * wanted.pitch(height)
    assert wanted.head(width) + made.blocks * block + 0.1 <= PAGE[1] + 1e-9
    if columns <= 4 and rows <= 3 and aspect <= 1:
        assert (made.columns, made.rows) == (columns, rows)


@given(st.text("ab _-", max_size=60), st.floats(0.3, 5))
def test_wrapped_text_keeps_its_letters_and_its_width(text: str, inches: float) -> None:
    lines = wrapped(text, inches).split("\n")
    assert max(map(len, lines)) <= max(4, inches / 0.054)
    assert "".join("".join(lines).split()) == "".join(text.split())
