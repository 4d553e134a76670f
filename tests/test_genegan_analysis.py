"""The analysis of a GeneGAN round, whole: queue, tables, answers, figures; also of rounds that lack runs or seeds."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from genegan_rounds import faces_text, queue_text, write_round
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import folders_in, record_runs
from rounds_for_tests import REPOSITORY

from analysis.figure_store import FigureStore
from analysis.rounds import Folders, read_round
from analysis.study_figures import draw_figures
from analysis.suite import Suite
from roundhouse.config.round import load_round
from roundhouse.errors import RoundhouseError
from roundhouse.model.plan import State
from studies.genegan.analysis import analyse, round_analysis
from studies.genegan.analysis.answers import answers_of, criteria_of
from studies.genegan.analysis.comparisons import NO, NOT_MEASURED, OPEN, YES, at_equal_seconds, comparisons_of
from studies.genegan.analysis.curve_figures import panels_of
from studies.genegan.analysis.document import PURPOSES, QUESTIONS
from studies.genegan.analysis.figures import figures_of
from studies.genegan.analysis.measures import MEASURES
from studies.genegan.analysis.queue_file import name_of
from studies.genegan.analysis.references import is_near
from studies.genegan.analysis.results import DEFAULTS, Evaluated, GeneganResults, Run, results_of
from studies.genegan.analysis.sample_figures import kept_samples

FEW = ("samples_of_arms", "distance_over_iterations")
INCEPTION = {"extractor": "inception", "weights": "ab", "split": "validation", "size": 64, "images": 500}


def results(place: Folders, name: str) -> GeneganResults:
    return results_of(read_round(name, place))


def answered(found: GeneganResults) -> dict[tuple[str, str, str], str]:
    """By group, group beside it, and measure."""
    made = answers_of(found, comparisons_of(found))
    return {(one.question.group, one.question.against, one.measure): one.verdict for one in made}


def analysed(place: Folders, name: str) -> tuple[Path, list[str], list[str]]:
    """The folder of results, the problems, and what the analysis noted; with two figures, as their data only."""
    notes: list[str] = []

    def two(found: GeneganResults) -> Mapping[str, Any]:
        return {name: one for name, one in figures_of(found).items() if name in FEW}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(round_analysis, "figures_of", two)
        problems = analyse(read_round(name, place), Suite(place, (), err=notes.append))
    return place.results(name), problems, notes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The records of all made-up rounds: complete ones, one of a single seed, and one that is half done."""
    made = folders_in(tmp_path_factory.mktemp("genegan"))
    write_round(made, queue_text("full"), about=INCEPTION)
    write_round(made, faces_text("faces_round"))
    write_round(made, faces_text("single", (0,)))
    write_round(
        made, queue_text("half"), missing=not_started, running=runs_still, diverged=lambda one: one == "EXP01_both/1"
    )
    write_round(made, queue_text("nothing", (0,)), missing=lambda one: one != "EXP00/0", running=lambda one: True)
    return made


def not_started(path: str) -> bool:
    return path.startswith(("EXP04", "EXP05", "EXP06", "EXP07", "vqvae")) or path == "EXP03_random/2"


def runs_still(path: str) -> bool:
    return path.startswith("EXP02") or path == "EXP03_random/1"


@pytest.fixture(scope="module")
def full(place: Folders) -> Path:
    folder, problems, notes = analysed(place, "full")
    assert not problems and not notes
    return folder


@pytest.fixture(scope="module")
def half(place: Folders) -> Path:
    folder, problems, _ = analysed(place, "half")
    assert not problems
    return folder


def sections(folder: Path) -> dict[str, str]:
    """Of queue.md, by the name of the experiment."""
    text = (folder / "results" / "queue.md").read_text()
    parts = text.split("\n## ")[1:]
    return {part.replace(":", " ").split()[0]: part for part in parts}


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "results" / name).open() as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------- agreement with the study


def test_the_analysis_knows_the_defaults_and_file_names_of_the_study() -> None:
    from studies.genegan import checkpoints
    from studies.genegan.options import Options

    options = vars(Options())
    assert {key: list(one) if isinstance(one := options[key], tuple) else one for key in DEFAULTS} == DEFAULTS
    assert name_of(20_000) == checkpoints.name_of(20_000) == "iter_020000"


def test_what_an_evaluation_keeps_is_what_the_analysis_reads(place: Folders, tmp_path: Path) -> None:
    from studies.genegan.evaluation import Evaluation, Setting
    from studies.genegan.extractors import Extractor

    setting = Setting("celeba", "Smiling", "validation", 128, 5000)
    evaluation: Any = SimpleNamespace(setting=setting, extractor=Extractor("inception", 2048, "6726", lambda one: one))
    write_round(folders_in(tmp_path), faces_text("one", (0,)), about=Evaluation.facts(evaluation))
    assert results(folders_in(tmp_path), "one").evaluated == [Evaluated("inception", "6726", 128, 5000)]
    assert str(Evaluated("inception", "6726", 128, 5000)) == "FID @128, N 5000"


def test_every_group_of_the_queue_has_a_purpose_and_every_question_its_groups() -> None:
    groups = {one.group for one in load_round("genegan", REPOSITORY / "rounds").experiments}
    assert groups <= set(PURPOSES)
    assert {name for one in QUESTIONS for name in (one.group, one.against)} <= groups | {"r1", "wgan", "wgan_ten"}
    assert {name for one in QUESTIONS for name in one.measures} <= set(MEASURES)


# -------------------------------------------------------------------------------------------------------- queue.md


def test_the_queue_has_a_section_for_each_experiment_in_order(full: Path) -> None:
    found = sections(full)
    names = [*list(PURPOSES)[:9], "vqvae", "EXP06a", "EXP06b", "EXP07_r1"]
    assert list(found) == names
    assert "The runs of EXP00: same config and seed." in found["EXP06a"]
    for name in names:
        if name != "EXP06a":
            assert "(DONE)" in found[name] and f"--round full --only '{name}/*'" in found[name]


def test_the_queue_has_iterations_losses_checkpoints_samples_and_both_distances(full: Path) -> None:
    text = sections(full)["EXP00"]
    for wanted in ("last iteration: seed 0: 598; seed 1: 587; seed 2: 594", "last losses: critics", "generator",
                   "checkpoints kept: seed 0: iter_000500, iter_000598;", "samples: 18 pictures",
                   "FID @64, N 500", "iter_000100 (validation): added 29.9", "removed 25.9", "best weights (test)",
                   "KID, best weights (test)", "(n 3)"):  # fmt: skip
        assert wanted in text
    head = (full / "results" / "queue.md").read_text().partition("\n## ")[0]
    assert "(floor) added 1.50, removed 1.50" in head and "(identity) added 45.0" in head
    assert "nan" not in (full / "results" / "queue.md").read_text()


def test_the_queue_of_a_half_finished_round_has_the_state_of_each_run(half: Path) -> None:
    found = sections(half)
    assert "(2 done, 1 diverged)" in found["EXP01_both"]
    assert "`EXP01_both/1`: diverged: the loss is not finite, at iteration 200" in found["EXP01_both"]
    assert "(3 running)" in found["EXP02_all"] and "(running)" in found["EXP02_all"]
    assert "(1 done, 1 running, 1 pending)" in found["EXP03_random"]
    assert "(3 pending, RUN NEXT)" in found["EXP04_group"] and "none yet" in found["EXP04_group"]
    assert sum("RUN NEXT" in one for one in found.values()) == 1
    assert "last iteration, 539, 538 (validation)" in found["EXP01_both"], "the diverged run is in no mean"


def test_the_name_fid_needs_the_standard_weights(place: Folders, tmp_path: Path) -> None:
    assert {one.distance_name for one in results(place, "full").evaluated} == {"FID"}
    assert results(place, "half").distance_name == "FD (small)"
    for extractor, name in (("auto", "FD (auto)"), ("inception", "FID")):
        own = folders_in(tmp_path / extractor)
        write_round(own, queue_text("one", (0,), extractor=extractor), missing=lambda one: one != "EXP00/0")
        assert results(own, "one").distance_name == name


# ----------------------------------------------------------------------------------------------- tables and answers


def test_planted_effects_are_found(place: Folders) -> None:
    found = answered(results(place, "full"))
    assert found["EXP03_random", "EXP00", "generator_variance"] == NO
    assert found["EXP03_random", "EXP00", "iterations_per_second"] == YES
    assert found["EXP06b", "EXP00", "generator_variance"] == YES
    assert found["EXP06b", "EXP00", "distance_at_equal_seconds"] == YES
    assert found["EXP01_object", "EXP00", "test_distance"] == YES
    assert found["EXP02_all", "EXP00", "test_distance"] == NO
    assert found["EXP04_group", "EXP00", "test_distance"] == OPEN
    assert found["EXP07_r1", "EXP04_group", "test_distance"] == YES


def test_each_arm_stands_beside_its_baseline_paired_by_seed(full: Path) -> None:
    runs = {row["path"]: row for row in rows(full, "results.csv")}
    assert len(runs) == 36
    found = rows(full, "arms.csv")
    arms = {row["arm"] for row in found}
    assert arms == set(PURPOSES) - {"EXP00", "EXP00_twice", "vqvae", "r1", "wgan", "wgan_ten"}
    assert {row["measure"] for row in found} == set(MEASURES)
    row = next(row for row in found if (row["arm"], row["measure"]) == ("EXP01_object", "test_add_fd"))
    values = [float(runs[f"EXP01_object/{seed}"]["test_add_fd"]) - float(runs[f"EXP00/{seed}"]["test_add_fd"])
              for seed in range(3)]  # fmt: skip
    half_width = 4.302653 * np.std(values, ddof=1) / 3**0.5  # Student's t with 2 degrees of freedom
    assert float(row["difference"]) == pytest.approx(np.mean(values))
    assert float(row["low_95"]) == pytest.approx(np.mean(values) - half_width)
    assert (row["n"], row["p"], row["p_holm"]) == ("3", "0.25", "1.0")
    speed = next(row for row in found if (row["arm"], row["measure"]) == ("EXP03_random", "iterations_per_second"))
    assert speed["kind"] == "ratio" and float(speed["difference"]) == pytest.approx(2.9, rel=0.05)


def test_the_summary_answers_every_question_and_says_why_the_document_is_not_comparable(full: Path) -> None:
    text = (full / "summary.md").read_text()
    asked = [one.text for one in QUESTIONS if one.group != "EXP00_twice" and not one.against.startswith("wgan")]
    assert all(one in text for one in asked)
    for wanted in ("34.68", "13.87", "31,318", "torchvision's Inception-v3", "training data", "(b)", "98.0 %",
                   "sizes 32, 48, 64 instead of 64, 96, 128", "training of the VQVAE"):  # fmt: skip
        assert wanted in text
    assert "nan" not in text


def test_a_half_finished_round_leaves_answers_open_or_not_measured(place: Folders, half: Path) -> None:
    found = answered(results(place, "half"))
    assert found["EXP03_random", "EXP00", "iterations_per_second"] == OPEN, "one pair has no interval"
    assert found["EXP01_both", "EXP00", "test_distance"] == OPEN
    assert found["EXP07_r1", "EXP04_group", "test_distance"] == NOT_MEASURED
    assert found["EXP01_object", "EXP00", "test_distance"] == YES
    text = (half / "summary.md").read_text()
    assert "x 2.91, n 1" in text and "EXP01_both 1 of 3" in text
    assert "EXP03_random: 2 runs without a result (1 running, 1 pending)" in text


def test_with_a_single_seed_nothing_is_answered(place: Folders) -> None:
    folder, problems, _ = analysed(place, "single")
    assert not problems
    assert set(answered(results(place, "single")).values()) == {OPEN}
    assert {row["low_95"] for row in rows(folder, "arms.csv")} == {""}
    assert "± " not in (folder / "results" / "queue.md").read_text().partition("\n## ")[2]


def test_a_round_in_which_nothing_is_completed_is_analysed(place: Folders) -> None:
    folder, problems, notes = analysed(place, "nothing")
    assert not problems
    assert set(answered(results(place, "nothing")).values()) == {NOT_MEASURED}
    assert "EXP00: 1 run without a result (1 running)" in notes
    assert "distance_over_iterations" in FigureStore.of(folder / "figures").figures


def test_distances_of_different_extractors_are_not_compared(tmp_path: Path) -> None:
    own = folders_in(tmp_path)
    write_round(own, faces_text("mixed"))
    for path in (own.experiments / "mixed/r1").glob("*/attempts/1/kept"):
        (path / "evaluation.json").write_text('{"extractor": "inception", "weights": "ab", "size": 32, "images": 500}')
    found = results(own, "mixed")
    (problem,) = found.problems
    assert "FID @32, N 500" in problem and "FD (small) @32, N 500" in problem
    answers = answered(found)
    assert answers["r1", "wgan", "test_distance"] == NOT_MEASURED
    assert answers["r1", "wgan", "test_add_rate"] == YES


def test_an_unreadable_file_about_the_evaluation_is_a_problem_in_one_line(tmp_path: Path) -> None:
    own = folders_in(tmp_path)
    write_round(own, faces_text("broken", (0,)))
    (own.experiments / "broken/r1/0/attempts/1/kept/evaluation.json").write_text('{"extractor": ')
    found = results(own, "broken")
    assert len(found.problems) == 1 and "r1/0" in found.problems[0] and "evaluation.json" in found.problems[0]
    assert found.evaluated == [Evaluated("small", "", 32, 500)]


def test_a_round_of_another_study_is_refused(tmp_path: Path) -> None:
    text = 'round: r\nexperiments: {e: {path: "{seed}", grid: {seed: [0]}, command: "true"}}\n'
    record_runs(folders_in(tmp_path), text, {"0": {"a": 1.0}})
    with pytest.raises(RoundhouseError, match="genegan"):
        analyse(read_round("r", folders_in(tmp_path)), Suite(folders_in(tmp_path)))


# ---------------------------------------------------------------------------------------------- acceptance on faces


@pytest.mark.parametrize(
    ("change", "not_met"),
    [
        ({}, set()),
        ({"test_add_inside": 10.9}, {("a", "add")}),  # below identity
        ({"test_remove_inside_copy": 30.0}, {("a", "remove")}),
        ({"test_remove_rate": 0.79}, {("b", "remove")}),
        ({"test_add_outside": 20.0, "test_reconstruction_outside": 23.1}, {("c", "add")}),
    ],
    ids=lambda one: str(*one) if len(one) == 1 else "",
)
def test_acceptance_needs_every_seed(place: Folders, change: dict[str, float], not_met: set[tuple[str, str]]) -> None:
    (arm,) = results(place, "faces_round").in_group("r1")
    for run in arm.runs:
        assert isinstance(run.final, dict)
        run.final["test_reconstruction_outside"] = 25.0
    last = arm.runs[-1].final
    assert isinstance(last, dict)
    last.update(change)
    found = {(one.letter, one.direction): one for one in criteria_of(arm)}
    assert len(found) == 6
    assert {key for key, one in found.items() if one.verdict == NO} == not_met
    assert all(one.met == 2 for key, one in found.items() if key in not_met)


def test_without_a_completed_run_acceptance_is_not_measured(place: Folders) -> None:
    (arm,) = results(place, "half").in_group("EXP02_all")
    assert {one.verdict for one in criteria_of(arm)} == {NOT_MEASURED}


# ----------------------------------------------------------------------------------------------------------- figures


def test_figures_are_drawn_with_their_data_and_a_caption(place: Folders) -> None:
    assert not analyse(read_round("faces_round", place), Suite(place))
    folder = place.results("faces_round")
    store = FigureStore.of(folder / "figures")
    assert set(store.figures) == {
        "samples_of_arms", "distance_of_arms", "distance_over_iterations", "distance_over_seconds", "kernel_distance",
        "losses", "transfer_rate", "inside", "outside", "samples/r1", "samples/wgan", "samples/wgan_ten",
    }  # fmt: skip
    for name, one in store.figures.items():
        assert (store.folder / f"{name}.png").stat().st_size > 5_000
        assert len((store.folder / f"{name}.csv").read_text().splitlines()) > 1
        assert one.caption.endswith(".")
    assert "FD (small) @32, N 500" in store.figures["distance_over_iterations"].caption


def test_arms_are_shown_on_test_images_if_all_have_them_else_on_validation_images(full: Path, half: Path) -> None:
    captions = [FigureStore.of(one / "figures").figures["samples_of_arms"].caption for one in (full, half)]
    assert "test images, with the best weights" in captions[0] and "Without" not in captions[0]
    assert "validation images" in captions[1]
    assert "Without samples: EXP04_group, EXP05_square, EXP05_inverse, EXP06b, EXP07_r1." in captions[1]


def test_every_arm_is_in_a_panel_beside_its_baseline(place: Folders) -> None:
    found = results(place, "full")
    panels = panels_of(found)
    shown = [arm.label for one in panels for arm in one.arms]
    assert sorted(shown) == sorted(one.label for one in found.gans if one.label != "EXP00")
    for panel in panels:
        assert panel.baseline is not None
        assert all(panel.baseline in found.against[arm.label] for arm in panel.arms)
    assert len(panels_of(results(place, "faces_round"))) == 1


def test_a_kept_picture_is_divided_into_faces(place: Folders) -> None:
    run = results(place, "faces_round").gans[0].runs[0]
    samples = kept_samples(run, f"kept/samples/{name_of(100)}.png")
    assert samples.shape == (8, 6, 16, 16, 3)
    assert np.allclose(samples[:, 0, 0, 0, 0] * 255, 120 + 15 * np.arange(8)), "rows are faces"


def test_a_damaged_picture_is_one_problem_and_stops_nothing(tmp_path: Path) -> None:
    own = folders_in(tmp_path)
    write_round(own, faces_text("broken", (0,)))
    for file in (own.experiments / "broken/r1/0/attempts/1/kept/samples").iterdir():
        file.write_bytes(b"no picture")
    wanted = figures_of(results(own, "broken"))
    chosen = {name: wanted[name] for name in ("samples/r1", "samples/wgan")}
    without, (problem,) = draw_figures(chosen, tmp_path / "figures", ())
    assert (
        not without
        and problem.startswith("figure samples/r1 cannot be drawn")
        and "r1/0" in problem
        and "\n" not in problem
    )
    assert list(FigureStore.of(tmp_path / "figures").figures) == ["samples/wgan"]


# ------------------------------------------------------------------------------------------------------- properties

STEPS = st.lists(st.integers(1, 1000), min_size=1, max_size=8, unique=True).map(sorted)


def a_run(steps: Sequence[int], value: Callable[[int], float], seconds: float) -> Run:
    rows = [{"step": step, "distance": value(step)} for step in steps]
    entry: Any = None
    return Run(entry, 0, State.COMPLETED, "", rows, {}, seconds, Evaluated("small", "", 32, 10))


@given(STEPS, st.floats(1, 1e5), st.floats(0, 1))
def test_between_evaluations_the_distance_is_on_a_line(steps: Sequence[int], seconds: float, share: float) -> None:
    run = a_run(steps, lambda step: 100.0 - 0.05 * step, seconds)
    first, last = steps[0], steps[-1]
    step = first + share * (last - first)
    assert run.distance_at(step * run.seconds_per_iteration) == pytest.approx(100 - 0.05 * step, rel=1e-6)
    assert math.isnan(run.distance_at(1.01 * seconds + 1))


@given(STEPS, STEPS, st.floats(1, 100), st.floats(1, 100))
def test_at_equal_seconds_is_the_end_of_the_run_that_ended_first(
    steps: Sequence[int], others: Sequence[int], seconds: float, other_seconds: float
) -> None:
    run, other = a_run(steps, float, seconds), a_run(others, float, other_seconds)
    values = at_equal_seconds(run, other)
    assert at_equal_seconds(other, run) == pytest.approx(values[::-1], nan_ok=True)
    ended_first = 0 if seconds <= other_seconds else 1
    assert values[ended_first] == pytest.approx((steps, others)[ended_first][-1])
    if not math.isnan(values[1 - ended_first]):
        assert values[1 - ended_first] <= (others, steps)[ended_first][-1] + 1e-6


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), st.data())
def test_a_line_within_the_values_is_drawn_and_one_far_from_them_is_not(values: list[float], data: Any) -> None:
    assert is_near(data.draw(st.floats(min(values), max(values))), values)
    assert not is_near(1000 * max(values), values)
