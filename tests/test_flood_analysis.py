"""The analysis of a flood round, whole: tables, figures, summary; also of rounds that lack groups, runs or seeds."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flood_rounds import (
    ARCHITECTURES,
    COARSE,
    DUMMY,
    LEVEL,
    OVERFITS,
    RING,
    STILL_FALLING,
    TIME,
    round_text,
    write_round,
)
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import folders_in, record_runs

from analysis.figure_store import FigureStore
from analysis.rounds import Folders, read_round
from analysis.study_figures import draw_figures
from analysis.suite import Suite
from roundhouse.errors import RoundhouseError
from roundhouse.model.experiment import Experiment
from studies.flood.analysis import analyse, costs, names, rae, round_analysis
from studies.flood.analysis.costs import FASTER, OPEN, SLOWER, UNKNOWN, Cost, front, time_at, verdict
from studies.flood.analysis.curves import Point, alike, curve_of
from studies.flood.analysis.figures import figures_of
from studies.flood.analysis.monitor import CONVERGED, DIVERGED, FALLING, OVERFITTING, RULES
from studies.flood.analysis.panels import MOST, panels_of
from studies.flood.analysis.results import DEFAULT_ARCHITECTURE, DEFAULTS, FloodResults, changes, results_of
from studies.flood.analysis.simulations import simulations_table
from studies.flood.analysis.tuning import tuned_of

MOST_LINES = 60


def results(place: Folders, name: str) -> FloodResults:
    return results_of(read_round(name, place))


def analysed(place: Folders, name: str, figures: bool = False) -> tuple[Path, list[str], list[str]]:
    """The folder of results, the problems, and what was noted; of figures the data only, or nothing."""
    notes: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        if not figures:
            patch.setattr(round_analysis, "figures_of", lambda *_: {})
        problems = analyse(read_round(name, place), Suite(place, (), err=notes.append))
    return place.results(name), problems, notes


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "results" / name).open() as file:
        return list(csv.DictReader(file))


def text_of(folder: Path) -> str:
    return (folder / "summary.md").read_text()


def plateau(one: Experiment, metrics: dict[str, Any]) -> dict[str, Any]:
    """A learning rate that falls at an epoch which depends on the seed."""
    for row in metrics["epochs"]:
        row["learning_rate"] *= 0.5 ** (row["epoch"] > 10 + int(one.config["seed"]))
    return metrics


def not_started(path: str) -> bool:
    return path.startswith("D/") or path in ("B/04/lr/lr_0.001_width_1_self_linear/2", "simulations/big/3")


def not_evaluated(path: str) -> bool:
    return path.startswith(("C/09", "D/09")) or (path.startswith("D/") and path.endswith(("/2", "_8")))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The records of all made-up rounds: a complete one, two that are half done, and one with stage A alone."""
    made = folders_in(tmp_path_factory.mktemp("flood"))
    write_round(made, round_text("full"))
    write_round(made, round_text("half"), missing=not_started, diverged=lambda path: path == "A/02/1")
    write_round(made, round_text("late"), missing=not_evaluated, running=lambda path: path == "C/05/2")
    write_round(made, round_text("only_a", (0,), ("A",)), changed=plateau)
    return made


@pytest.fixture(scope="module")
def full(place: Folders) -> Path:
    folder, problems, notes = analysed(place, "full", figures=True)
    assert not problems and not notes
    return folder


@pytest.fixture(scope="module")
def half(place: Folders) -> Path:
    folder, problems, _ = analysed(place, "half", figures=True)
    assert not problems
    return folder


# ------------------------------------------------------------------------------------------- agreement with the study


def test_the_analysis_knows_the_options_of_the_study() -> None:
    options = pytest.importorskip("studies.flood.options")
    known = vars(options.Options())
    assert {key: known[key] for key in DEFAULTS} == DEFAULTS
    assert set(names.ARCHITECTURES) == set(options.ARCHITECTURES) == set(ARCHITECTURES)
    assert names.SETS == options.SETS
    assert (known["architecture"], known["set"]) == (DEFAULT_ARCHITECTURE, names.SETS[0])


def test_the_study_declares_what_the_analysis_reads() -> None:
    declared = pytest.importorskip("studies.flood.metrics").METRICS
    assert {"loss", "val_loss", "learning_rate", costs.ERROR, costs.TIME, *costs.OTHERS} <= {*declared}


# ------------------------------------------------------------------------------------------- settings and their labels


def test_settings_are_known_by_stage_task_and_what_they_change(place: Folders) -> None:
    found = results(place, "full")
    assert {stage: len(ones) for stage, ones in found.trained.items()} == {"A": 7, "B": 13, "C": 7}
    assert [one.label for one in found.trained["A"]] == list(ARCHITECTURES)
    assert {one.label for one in found.trained["B"]} == {
        "05 lr 0.0003", "05 lr 0.001", "05 width 0.5", "05 width 2", "05 downsampler alternating",
        "05 downsampler bicubic", "04 lr 0.0003", "04 lr 0.001", "04 width 0.5", "04 width 2",
        "04 attention projection", "04 last leaky_relu", "04 last tanh",
    }  # fmt: skip
    assert [one.label for one in found.trained["C"]] == ["02", "03", "04 lr 0.001", "05", "07", "08", "09"]
    assert [one.label for one in found.coarse] == ["coarse 2", "coarse 4", "coarse 8"]
    assert {len(one.runs) for ones in found.trained.values() for one in ones} == {3}


def test_a_round_with_other_groups_is_read_by_task_and_architecture(tmp_path: Path) -> None:
    text = """
round: own
study: flood
experiments:
  mine_wide: {path: "mine/04/{width}/{seed}", grid: {seed: [0, 1], width: [1, 2]}, config: {task: training, architecture: "04", set: small}}
  score: {path: "score/{seed}", grid: {seed: [0, 1]}, config: {task: evaluation, architecture: "04", set: big}}
"""  # noqa: E501
    place = folders_in(tmp_path)
    write_round(place, text)
    found = results(place, "own")
    assert [one.label for one in found.trained["mine"]] == ["04", "04 width 2"]
    assert [one.architecture for one in found.evaluated] == ["04"]
    folder, problems, _ = analysed(place, "own")
    assert not problems and "nan" not in text_of(folder)
    assert len(rows(folder, "costs.csv")) == 3


def test_before_a_selection_is_made_its_runs_are_known_by_their_path(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_round(place, round_text("new", (0,), ("A", "B_best")), missing=lambda path: path != "A/02/0")
    found = results(place, "new")
    assert {one.architecture for one in found.trained["B"]} == {""}
    assert len({one.label for one in found.trained["B"]}) == 6
    folder, problems, notes = analysed(place, "new")
    assert not problems
    assert "B_best: 6 runs without a result (6 pending)" in notes
    assert "B_best: 6 runs" in text_of(folder)


@given(st.dictionaries(st.sampled_from([*DEFAULTS]), st.integers(2, 5)), st.integers(1, 9))
def test_a_setting_is_what_its_config_changes(changed: dict[str, int], seed: int) -> None:
    noise = {"seed": seed, "set": "big", "epochs": seed, "rank": 1, "task": "training"}
    assert changes({**noise, **changed}, {}) == changed
    assert changes({**DEFAULTS, **noise}, {"seed": 0}) == {}
    assert set(changes({}, changed)) == set(changed)


# ---------------------------------------------------------------------------------------------------------- tables


def test_every_training_has_a_row_about_its_convergence(full: Path) -> None:
    found = rows(full, "convergence.csv")
    assert len(found) == 81
    verdicts = {one: {row["verdict"] for row in found if row["architecture"] == one} for one in ARCHITECTURES}
    assert verdicts[OVERFITS] == {OVERFITTING} and verdicts[STILL_FALLING] == {FALLING}
    assert all(CONVERGED in ones for one, ones in verdicts.items() if one not in (OVERFITS, STILL_FALLING))
    assert {row["ended"] for row in found if row["architecture"] == OVERFITS} == {"early stopping"}
    assert {row["ended"] for row in found if row["architecture"] == "02"} == {"all epochs"}
    row = next(row for row in found if row["path"] == "A/05/0")
    assert int(row["best_epoch"]) > 20 and float(row["gap_at_best"]) > 0 and row["window"] == "8"


def test_errors_are_pooled_over_seeds_and_compared_by_seed(full: Path) -> None:
    found = [row for row in rows(full, "rae.csv") if (row["stage"], row["setting"]) == ("D", "05")]
    assert {(row["set"], row["split"]) for row in found} == {
        (one, split) for one in names.SETS for split in names.SPLITS
    }
    own = {row["seed"]: row for row in found if (row["set"], row["split"]) == ("big", "test")}
    assert set(own) == {"0", "1", "2", "all"}
    medians = [float(own[seed]["median"]) for seed in "012"]
    assert own["all"]["samples"] == str(3 * 41), "a sample in which nothing changes is NaN, and no error"
    assert float(own["all"]["mean_of_medians"]) == pytest.approx(np.mean(medians))
    half_width = 4.302653 * np.std(medians, ddof=1) / 3**0.5  # Student's t with 2 degrees of freedom
    assert float(own["all"]["low_95"]) == pytest.approx(np.mean(medians) - half_width, rel=1e-5)
    assert own["all"]["dropped"] == "2.0" and own["0"]["dropped"] == "2.0"


def test_persistence_is_a_row_of_each_split(full: Path) -> None:
    found = [row for row in rows(full, "rae.csv") if row["setting"] == names.PERSISTENCE]
    assert len(found) == 6 and {row["median"] for row in found} == {"1.0"}


def test_costs_have_both_baselines_and_the_planted_numbers(full: Path) -> None:
    found = {row["model"]: row for row in rows(full, "costs.csv")}
    assert set(found) == {*ARCHITECTURES, *(f"coarse {one}" for one in COARSE), "persistence", "fine solver"}
    for one in ARCHITECTURES:
        assert float(found[one]["time_ratio"]) == pytest.approx(TIME[one], rel=0.3)
        assert float(found[one]["test_rae"]) == pytest.approx(LEVEL[one], rel=0.1)
        assert found[one]["n"] == "3"
    assert {found[one]["device"] for one in (*ARCHITECTURES, "coarse 2")} == {"CPU"}
    assert (found["coarse 4"]["time_ratio"], found["coarse 4"]["test_rae"]) == ("0.02", "0.45")
    assert found["05"]["beside_coarse"] == FASTER and found["07"]["beside_coarse"] == SLOWER
    assert found["03"]["beside_coarse"] == OPEN, "its error is above that of the coarsest solver, and it is faster"


def test_the_worst_simulation_of_each_set_is_named(full: Path) -> None:
    small, big = rows(full, "simulations.csv")
    assert (small["set"], small["completed"], small["worst_simulation"]) == ("small", "3", "simulations/small/2")
    assert (float(big["worst_mass_error"]), big["worst_simulation"]) == (-4e-15, "simulations/big/3")
    assert big["smallest_depth_in"] == "simulations/big/3"
    assert (float(big["steps_least"]), float(big["steps_most"])) == (3600, 3603)
    samples = {(row["set"], row["split"]): row for row in rows(full, "samples.csv")}
    assert float(samples["big", "validation"]["dummy_loss"]) == DUMMY["validation"]
    assert float(samples["big", "test"]["ring_rae"]) == RING


def test_what_the_ring_alone_tells_stands_beside_the_networks(full: Path) -> None:
    summary = (full / "summary.md").read_text()
    assert "Beside persistence (RAE 1; ring alone 0.750), big test set" in summary
    assert "| ring alone |  | 0.750 |" in summary


def test_tuning_is_measured_in_pairs_of_seeds(place: Folders, full: Path) -> None:
    runs = {row["path"]: row for row in rows(full, "runs.csv")}
    found = {row["setting"]: row for row in rows(full, "tuning.csv")}
    path = "B/04/lr/lr_0.001_width_1_self_linear"
    logs = [math.log(float(runs[f"{path}/{seed}"]["best_val_loss"]) / float(runs[f"A/04/{seed}"]["best_val_loss"]))
            for seed in range(3)]  # fmt: skip
    assert float(found["04 lr 0.001"]["loss_factor"]) == pytest.approx(math.exp(np.mean(logs)))
    assert float(found["04 lr 0.001"]["factor_high_95"]) < 1 < float(found["04 width 0.5"]["factor_low_95"])
    assert (found["04 lr 0.001"]["key"], found["04 lr 0.001"]["pairs"]) == ("lr", "3")
    assert found["05 lr 0.001"]["untuned_val_loss"] == found["05 width 2"]["untuned_val_loss"]
    half = {one.setting.label: one for one in tuned_of(results(place, "half"))}
    assert half["04 lr 0.001"].loss.n == 2 and half["04 width 2"].loss.n == 3


# --------------------------------------------------------------------------------------------------------- summary


def test_the_summary_says_what_was_planted(full: Path) -> None:
    text = text_of(full)
    assert "the best of C by validation loss, 05" in text
    assert "The interval is below 1 for 05, 08, 07, 04, 03 (5 of 7)" in text
    assert "faster at equal error, for every seed: 05; not faster: 04, 07, 08, 09; open" in text
    assert "Best 4 of C by mean validation loss: 05, 04, 08, 07" in text and "in both: 05, 04, 07" in text
    assert "Ranking of A by mean validation loss (m): 05 " in text and "persistence 0.0600" in text
    assert "- lr: 04 0.001: validation loss x 0.80 (" in text
    assert "- attention: 04 projection" in text and "- downsampler: 05 " in text and "- last: 04 " in text
    assert "| 04 convolutions with attention | lr 0.001 |" in text
    assert "3 of 3 overfitting" in text and "ended by early stopping" in text
    for one in ARCHITECTURES:
        assert f"\n- {one}: A: " in text
    assert "simulations/big/3" in text and "3,600 to 3,603 steps" in text


def test_no_summary_is_longer_than_a_page_or_has_an_unknown_number(place: Folders, full: Path, half: Path) -> None:
    for folder in (full, half, analysed(place, "only_a")[0]):
        text = text_of(folder)
        assert len(text.splitlines()) <= MOST_LINES
        assert "nan" not in text and "inf " not in text and "?" not in text.partition("## Findings")[2]


def test_a_half_finished_round_claims_only_what_was_measured(place: Folders, half: Path) -> None:
    text, found = text_of(half), results(place, "half")
    assert "Ranking of A by mean validation loss (m) so far, with 20 of 21 runs" in text
    assert "Best 4 of C by mean validation loss so far, with 15 of 21 runs: 05, 08, 07, 03" in text
    assert "the best of C by validation loss, 05" in text and "Beside the coarse solver" not in text
    assert "05 is better than 08, 04, 07, 03, 09. Not ranked, since a run diverged: 02 (1 of 3)." in text
    assert "1 of 3 diverged" in text and "the loss is not finite (1)" in text
    assert (
        "A: 1 run without a result (1 diverged)" in text and "C: 6 runs without a result (3 blocked, 3 pending)" in text
    )
    assert not found.evaluated[0].completed and not (half / "results" / "costs.csv").exists()
    assert simulations_table(found)[1]["completed"] == 3
    row = next(row for row in rows(half, "convergence.csv") if row["path"] == "A/02/1")
    assert (row["verdict"], row["state"], row["epochs"]) == (DIVERGED, "diverged", "13")


def test_a_round_whose_evaluation_is_half_done_has_findings_with_their_n(place: Folders) -> None:
    folder, problems, _ = analysed(place, "late")
    text = text_of(folder)
    assert not problems
    assert "The interval is below 1 for none (0 of 6); 3 seeds are needed" in text
    assert (
        "| 09 " not in text
        and "| coarse 8 " not in text
        and "| 05 classic UNet | untuned | 0.50" in text
        and ", n 2 |" in text
    )
    assert {row["model"] for row in rows(folder, "costs.csv")} >= {"coarse 2", "coarse 4", "05"}
    states = {row["path"]: row for row in rows(folder, "convergence.csv")}
    assert (states["C/05/2"]["state"], states["C/05/2"]["ended"]) == ("running", "running")
    assert len(text.splitlines()) <= MOST_LINES


def test_with_a_single_seed_there_is_no_interval_and_no_order_is_claimed(place: Folders) -> None:
    folder, problems, _ = analysed(place, "only_a")
    text = text_of(folder)
    assert not problems
    assert "not shown to be better than any other (n 1)" in text
    assert {row["low_95"] for row in rows(folder, "rae.csv")} == {""}
    assert not (folder / "results" / "tuning.csv").exists()


def test_a_round_of_another_study_is_refused(tmp_path: Path) -> None:
    text = 'round: r\nexperiments: {e: {path: "{seed}", grid: {seed: [0]}, command: "true"}}\n'
    record_runs(folders_in(tmp_path), text, {"0": {"a": 1.0}})
    with pytest.raises(RoundhouseError, match="flood"):
        analyse(read_round("r", folders_in(tmp_path)), Suite(folders_in(tmp_path)))


# --------------------------------------------------------------------------------------------------------- figures


def test_every_figure_has_its_data_and_a_caption(full: Path) -> None:
    store = FigureStore.of(full / "figures")
    assert set(store.figures) == {
        "error_against_time", "rollouts", "rae/all_sets", "learning/learning_rate",
        *(f"{kind}{stage}{end}" for stage in "ABC" for kind, end in (
            ("learning/", ""), ("learning/", "_seeds"), ("convergence/", ""), ("rae/", ""))),
        *(f"maps/{one}" for one in ARCHITECTURES),
    }  # fmt: skip
    for name, one in store.figures.items():
        assert len((store.folder / f"{name}.csv").read_text().splitlines()) > 1
        assert one.caption.endswith(".")
    assert RULES in store.figures["convergence/A"].caption


def test_figures_are_drawn(place: Folders, tmp_path: Path) -> None:
    found = results(place, "only_a")
    known = figures_of(found, rae.all_errors(found, []))
    few = {name: known[name] for name in ("learning/A", "convergence/A", "maps/05")}
    without, problems = draw_figures(few, tmp_path, ("png",))
    assert not without and not problems
    for name in FigureStore.of(tmp_path).figures:
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000


def figure_rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "figures" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_learning_curves_stand_beside_persistence_of_their_split(full: Path) -> None:
    for stage in "ABC":
        lines = {row["metric"]: float(row["mean"]) for row in figure_rows(full, f"learning/{stage}")
                 if row["setting"] == names.PERSISTENCE}  # fmt: skip
        assert lines == {f"{split} loss": value for split, value in DUMMY.items()}


def test_tuned_settings_are_drawn_beside_the_untuned_one_of_their_architecture(place: Folders) -> None:
    found = results(place, "full")
    panels = panels_of(found, "B")
    assert {one.title for one in panels} == {"05: lr", "05: width", "05: downsampler", "04: lr", "04: width",
                                            "04: attention", "04: last"}  # fmt: skip
    for one in panels:
        assert one.untuned is found.untuned[one.title[:2]]
    shown = [setting.label for one in panels for setting in one.settings]
    assert sorted(shown) == sorted(one.label for one in found.trained["B"])
    for stage in "ABC":
        assert all(len(one.settings) <= MOST for one in panels_of(found, stage))


def test_a_rate_that_follows_the_loss_of_each_seed_is_drawn_with_its_range(place: Folders, tmp_path: Path) -> None:
    write_round(folders_in(tmp_path), round_text("plateau", (0, 1), ("A",)), changed=plateau)
    (setting, *_) = results(folders_in(tmp_path), "plateau").trained["A"]
    points = {one.epoch: one for one in curve_of(setting, "learning_rate")}
    assert (points[10].low, points[10].high) == (1e-4, 1e-4)
    assert (points[11].low, points[11].high) == (5e-5, 1e-4)
    assert (points[12].low, points[12].high) == (5e-5, 5e-5)


def test_settings_of_equal_rates_share_a_line(full: Path) -> None:
    found = figure_rows(full, "learning/learning_rate")
    lines = {row["settings"] for row in found if row["stage"] == "B"}
    assert lines >= {"04 lr 0.0003; 05 lr 0.0003", "04 lr 0.001; 05 lr 0.001"} and len(lines) == 3


def test_maps_show_best_median_and_worst_with_their_errors(full: Path) -> None:
    found = figure_rows(full, "maps/05")
    assert [row["sample"] for row in found] == ["best", "median", "worst"]
    assert [float(row["rae"]) for row in found] == pytest.approx([0.05, 0.4, 1.5])
    assert {row["path"] for row in found} == {"D/05/0"}
    for row in found:
        assert float(row["mean_absolute_error"]) == pytest.approx(
            float(row["rae"]) * float(row["mean_absolute_change"])
        )


def test_without_stage_d_maps_are_of_the_last_stage_that_is_completed(half: Path) -> None:
    assert {row["path"] for row in figure_rows(half, "maps/05")} == {"C/05/0"}
    (path,) = {row["path"] for row in figure_rows(half, "maps/02")}
    assert path == "A/02/0", "with a diverged seed it is not chosen for stage C"


def test_damaged_arrays_are_one_problem_and_stop_nothing(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_round(place, round_text("broken", (0,), ("A",)))
    (place.experiments / "broken/A/05/0/attempts/1/outputs.npz").write_bytes(b"no arrays")
    folder, problems, _ = analysed(place, "broken", figures=True)
    assert [one for one in problems if "outputs.npz of A/05/0" in one] and len(problems) == 2
    row = next(row for row in rows(folder, "rae.csv") if (row["setting"], row["split"]) == ("05", "test"))
    assert float(row["median"]) == pytest.approx(LEVEL["05"], rel=0.1), "the final metric is still known"
    assert "maps/04" in FigureStore.of(folder / "figures").figures


# -------------------------------------------------------------------------------------------------- error against time

POINTS = st.lists(st.tuples(st.floats(1e-4, 1), st.floats(1e-2, 2)), min_size=1, max_size=6)


def a_cost(*points: tuple[float, float]) -> Cost:
    setting: Any = None
    return Cost(setting, points)


@given(POINTS)
def test_no_point_of_a_front_is_beaten(points: Sequence[tuple[float, float]]) -> None:
    kept = front(points)
    assert set(kept) <= set(points)
    for time, error in points:
        assert any(other <= time and lower <= error for other, lower in kept)
    assert [time for time, _ in kept] == sorted(time for time, _ in kept)
    assert [error for _, error in kept] == sorted((error for _, error in kept), reverse=True)


@given(POINTS, st.floats(1e-3, 3), st.floats(1e-3, 3))
def test_a_lower_error_never_takes_less_time(points: Sequence[tuple[float, float]], one: float, other: float) -> None:
    low, high = sorted((one, other))
    (at_least, at_most), (least, most) = time_at(high, points), time_at(low, points)
    assert at_least <= least * (1 + 1e-9) and at_most <= most * (1 + 1e-9)


def test_between_two_coarse_solvers_the_time_is_interpolated_in_logarithms() -> None:
    points = [(0.01, 0.8), (0.04, 0.2)]
    assert time_at(0.4, points) == pytest.approx((0.02, 0.02))
    assert time_at(0.8, points) == pytest.approx((0.01, 0.01))
    assert time_at(0.9, points) == (0.0, 0.01)
    assert time_at(0.1, points) == (0.04, 1.0)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.005, 0.4)] * 2, FASTER),
        ([(0.005, 0.4)], OPEN),  # one seed
        ([(0.05, 0.4)] * 2, SLOWER),
        ([(0.019, 0.4), (0.021, 0.4)], OPEN),  # seeds disagree
        ([(0.03, 0.1)] * 2, FASTER),  # more exact than the finest coarse solver, which takes longer
        ([(0.5, 0.1)] * 2, OPEN),
        ([(2.0, 0.1)] * 3, SLOWER),  # slower than the fine solver
        ([(0.02, 0.9)] * 2, SLOWER),  # a coarse solver is faster and more exact
        ([(0.005, 0.9)] * 2, OPEN),
        ([], UNKNOWN),
    ],
)
def test_a_surrogate_is_faster_only_at_equal_error_and_for_every_seed(
    points: list[tuple[float, float]], expected: str
) -> None:
    coarse = [a_cost((0.01, 0.8)), a_cost((0.04, 0.2))]
    assert verdict(a_cost(*points), coarse) == expected
    assert verdict(a_cost(*points), []) == UNKNOWN


# ----------------------------------------------------------------------------------------------------------- curves


def test_a_curve_ends_where_the_first_seed_ends(tmp_path: Path) -> None:
    def shorter(one: Experiment, metrics: dict[str, Any]) -> dict[str, Any]:
        return {**metrics, "epochs": metrics["epochs"][: 20 + 5 * int(one.config["seed"])]}

    place = folders_in(tmp_path)
    write_round(place, round_text("short", (0, 1), ("A",)), changed=shorter)
    (setting, *_) = results(place, "short").trained["A"]
    points = curve_of(setting, "val_loss")
    assert [one.epoch for one in points] == list(range(1, 21)) and {one.n for one in points} == {2}
    assert all(one.low <= one.mean <= one.high for one in points)


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.tuples(st.integers(1, 5), st.sampled_from([0.1, 0.2])))
)
def test_equal_curves_are_together_and_each_label_is_shown_once(given_curves: Mapping[str, tuple[int, float]]) -> None:
    curves = [(label, [Point(epoch, value, value, value, 1) for epoch in range(1, length + 1)])
              for label, (length, value) in given_curves.items()]  # fmt: skip
    found = alike(curves)
    assert sorted(label for labels, _ in found for label in labels) == sorted(given_curves)
    assert len(found) == len({value for _, value in given_curves.values()})
    for labels, points in found:
        assert len(points) == max(given_curves[one][0] for one in labels)


def test_a_round_with_one_flood_and_nothing_else_is_analysed(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_round(place, round_text("nothing", (0,)), missing=lambda path: path != "simulations/small/0")
    folder, problems, notes = analysed(place, "nothing", figures=True)
    assert not problems and any(one.startswith("A: 7 runs without a result") for one in notes)
    text = text_of(folder)
    assert "1 of " in text and "## Findings" not in text and "1 of 3 simulations" in text


def test_a_config_without_keys_has_the_options_defaults(tmp_path: Path) -> None:
    text = (
        'round: plain\nstudy: flood\nexperiments: {mine: {path: "mine/{seed}", grid: {seed: [0]}, config: {lr: 0.1}}}\n'
    )
    place = folders_in(tmp_path)
    write_round(place, text)
    (setting,) = results(place, "plain").trained["mine"]
    assert (setting.architecture, setting.flood_set, setting.label) == ("04", "small", "04")
