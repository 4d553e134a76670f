"""The analysis of a flow matching round, whole: files, answers, figures, summary; also of rounds that lack groups."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flow_rounds import PLANTED, Truth, metrics_of, round_text, versions, write_round
from recorded_runs import folders_in, record_runs

from analysis.figure_store import FigureStore
from analysis.rounds import Folders, read_round
from analysis.suite import Suite
from roundhouse.config.round import load_round
from roundhouse.errors import RoundhouseError
from roundhouse.model.causes import Cause
from studies.flow_matching.analysis import analyse
from studies.flow_matching.analysis.claims import MET, NOT_MET, NOT_SHOWN, claims_of
from studies.flow_matching.analysis.costs import RoundCosts, costs_of, most_at_once
from studies.flow_matching.analysis.effects import effects_of
from studies.flow_matching.analysis.figures import FIGURES
from studies.flow_matching.analysis.projections import NAMES, SIZE
from studies.flow_matching.analysis.results import DEFAULTS, results_of, techniques_in
from studies.flow_matching.options import TECHNIQUES, Options, parse_techniques

CPU = [*range(3, 13), 43, 44, 46, 48, 50, 53]
HEADER = "Version,Techniques,Best_PSNR,Final_PSNR,Training_Time,Complexity"


def analysed(place: Folders, name: str, *formats: str) -> tuple[Path, list[str]]:
    """The folder of results of a round, and what the analysis noted. Without formats, figures have their data only."""
    notes: list[str] = []
    problems = analyse(read_round(name, place), Suite(place, formats, err=notes.append))
    assert not problems
    return place.results(name), notes


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folders, Path]:
    """A complete round, but for the runs that are selected."""
    place = folders_in(tmp_path_factory.mktemp("flow"))
    write_round(place, round_text())
    return place, analysed(place, "flow", "png")[0]


def half(path: str) -> bool:
    return hash_of(path) % 3 > 0 or path.startswith("longer")


def hash_of(path: str) -> int:
    return sum(map(ord, path)) * 7


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / "results" / name).read_text())


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "results" / name).open() as file:
        return list(csv.DictReader(file))


def answers(folder: Path) -> dict[str, str]:
    return {row["claim"]: row["verdict"] for row in rows(folder, "claims.csv")}


# ------------------------------------------------------------------------------------------- agreement with the study


def test_the_analysis_knows_the_techniques_and_defaults_of_the_study() -> None:
    assert NAMES == TECHNIQUES
    options = vars(Options())
    assert {key: options[key] for key in DEFAULTS} == DEFAULTS
    assert {key: options[key] for key in SIZE} == SIZE


@pytest.mark.parametrize("text", ["", "1", "1+2+7", "10+1", "2, 3"])
def test_techniques_are_read_as_the_study_reads_them(text: str) -> None:
    assert techniques_in(text) == parse_techniques(text)


# ------------------------------------------------------------------------------------------------- the document's files


def test_all_results_have_the_documents_keys_and_more(full: tuple[Folders, Path]) -> None:
    found = read(full[1], "all_results.json")
    assert list(found) == [f"v{version}" for version in versions()]
    one = found["v13"]
    assert (one["version"], one["techniques"], one["complexity"], one["n"]) == (13, [1, 2], "simple", 1)
    assert one["training_time"] == pytest.approx(120, rel=0.1)
    assert one["interval"][0] < one["best_psnr"] < one["interval"][1]
    assert one["final_psnr"] == pytest.approx(one["best_psnr"] - 0.05)
    assert one["baseline"]["n"] == 5
    assert one["gain_db"] == pytest.approx(one["best_psnr"] - one["baseline"]["best_psnr"])


def test_the_performance_matrix_begins_as_in_the_document_and_has_the_unit_of_time(
    full: tuple[Folders, Path],
) -> None:
    text = (full[1] / "results" / "performance_matrix.csv").read_text()
    assert text.startswith(f"{HEADER},Time_Unit,")
    row = rows(full[1], "performance_matrix.csv")[10]
    assert (row["Version"], row["Techniques"], row["Time_Unit"]) == ("v13", "1+2", "min")
    assert float(row["Training_Time"]) == pytest.approx(2, rel=0.1)


def test_the_ranking_is_sorted_by_the_average_and_has_the_main_effect_beside_it(full: tuple[Folders, Path]) -> None:
    ranking = read(full[1], "technique_ranking.json")
    averages = [one["avg_improvement_db"] for one in ranking]
    assert averages == sorted(averages, reverse=True)
    assert {one["technique_id"]: one["technique_name"] for one in ranking} == TECHNIQUES
    by_number = {one["technique_id"]: one for one in ranking}
    sets = versions().values()
    for number, one in by_number.items():
        assert one["num_samples"] == sum(number in techniques for techniques in sets)
    # Technique 1 does next to nothing, but stands beside 2 often: its average is confounded, its main effect is not.
    assert by_number[1]["avg_improvement_db"] > 0.4
    assert by_number[1]["main_effect_db"] == pytest.approx(0.1, abs=0.15)
    assert by_number[2]["main_effect_shown"]
    assert not by_number[6]["main_effect_shown"]


def test_correlations_stand_beside_the_one_hot_table_with_a_warning(full: tuple[Folders, Path]) -> None:
    found = rows(full[1], "interactions.csv")
    kinds = [row["kind"] for row in found]
    assert kinds == ["version"] * 101 + ["correlation", "companions"]
    v13 = next(row for row in found if row["version"] == "v13")
    assert [v13[f"tech_{number}"] for number in range(1, 11)] == ["1", "1"] + ["0"] * 8
    assert "companions" in found[-2]["note"] and -1 <= float(found[-2]["tech_1"]) <= 1
    assert float(found[-1]["tech_1"]) > float(found[-1]["tech_8"])


def test_the_plan_has_slots_and_waves(full: tuple[Folders, Path]) -> None:
    plan = read(full[1], "execution_plan.json")
    assert (plan["gpus"], plan["slots"], plan["per_gpu"], plan["runs"]) == (4, 8, 2, 101)
    assert plan["waves"][0] == [f"v{version}/0" for version in range(3, 11)]
    assert [len(wave) for wave in plan["waves"]] == [8] * 12 + [5]
    times = [one["training_time"] for one in read(full[1], "all_results.json").values()]
    assert plan["hours"] == pytest.approx(13 * statistics.median(times) / 3600)
    listed = read(full[1], "combinations.json")
    assert [one["version"] for one in listed] == list(versions())
    assert listed[0]["technique_names"] == ["Rectified flow"]


@pytest.mark.parametrize("part", ["full", "half", "cpu"])
def test_the_files_can_be_read_as_the_document_reads_them(
    full: tuple[Folders, Path], tmp_path: Path, part: str
) -> None:
    if part == "full":
        folder = full[1]
    else:
        place = folders_in(tmp_path / "round")
        text = round_text(part) if part == "half" else round_text(part, (0, 1, 2), CPU)
        write_round(place, text, half if part == "half" else lambda path: path.startswith("longer"))
        folder, _ = analysed(place, part)
    results, ranking = read(folder, "all_results.json"), read(folder, "technique_ranking.json")
    gains = [one["avg_improvement_db"] for one in ranking]
    assert gains == sorted(gains, reverse=True)
    assert all(isinstance(one["technique_id"], int) and f"{one['avg_improvement_db']:+.2f}" for one in ranking[:3])
    ordered = sorted(results, key=lambda name: results[name]["final_psnr"], reverse=True)
    assert [results[name]["version"] for name in ordered] == [int(name[1:]) for name in ordered]
    one_hot = [{f"t{n}": n in one["techniques"] for n in TECHNIQUES} for one in results.values()]
    table = pd.DataFrame(one_hot).assign(psnr=[one["final_psnr"] for one in results.values()])
    correlations = table.astype(float).corr()["psnr"]
    assert len(correlations) == 11 and correlations.notna().sum() > 1
    matrix = pd.read_csv(folder / "results" / "performance_matrix.csv", dtype={"Techniques": str})
    assert {row.Version for row in matrix.itertuples()} <= {f"v{number}" for number in range(2, 104)}


# ----------------------------------------------------------------------------------------------------------- answers


def test_every_claim_of_the_document_has_an_answer(full: tuple[Folders, Path]) -> None:
    found = answers(full[1])
    assert len(found) == 33
    assert found["at least 90 of 100 versions complete"] == MET
    assert found["at least 3 techniques alone gain more than 2 dB"] == NOT_MET
    assert found["the best combination gains more than 8 dB"] == NOT_MET
    assert found["v2 reaches about 35 dB on simple"] == NOT_MET
    assert found["v2 reaches about 32 dB on radial"] == NOT_MET
    assert found["{1, 2, 3, 4, 5} is the best combination"] == NOT_MET
    assert set(found.values()) <= {MET, NOT_MET, NOT_SHOWN}
    kinds = [row["kind"] for row in rows(full[1], "claims.csv")]
    assert kinds.count("gain of technique") == kinds.count("overhead of technique") == 10


GENEROUS = Truth(14.0, dict.fromkeys(range(1, 11), 2.0) | {1: 6.5, 2: 5.5, 3: 4.5, 4: 4.0, 5: 3.5}, {}, 0.1)


def settled(truth: Truth, text: str, place: Folders, missing: Callable[[str], bool]) -> dict[str, str]:
    """The answers in a made-up round."""
    write_round(place, text, missing, truth)
    found = results_of(read_round("r", place))
    effects = effects_of(found.measured, found.replicated)
    return {one.claim: one.verdict for one in claims_of(found, effects, costs_of(found, read_round("r", place)))}


def without_follow_ups(path: str) -> bool:
    return path.startswith(("longer", "generalisation", "document", "control", "logit"))


def test_what_is_reached_is_met(tmp_path: Path) -> None:
    found = settled(GENEROUS, round_text("r"), folders_in(tmp_path), without_follow_ups)
    assert found["at least 3 techniques alone gain more than 2 dB"] == MET
    assert found["the best combination gains more than 8 dB"] == MET
    assert found["technique 1 (Rectified flow) alone gains 5 to 8 dB"] == MET
    assert found["technique 3 (Consistency loss): a training step takes at most 1.1 times that of the base"] == MET
    (reflow,) = (verdict for claim, verdict in found.items() if claim.startswith("technique 1 (Rectified flow): the"))
    assert reflow == NOT_MET
    assert found["{1, 2, 3, 4, 5} gains 10 to 15 dB"] == NOT_MET


def test_runs_that_are_missing_leave_answers_open(tmp_path: Path) -> None:
    found = settled(
        PLANTED, round_text("r"), folders_in(tmp_path), lambda path: not path.startswith(("v2/", "v3/", "v4/", "v13/"))
    )
    assert found["at least 90 of 100 versions complete"] == NOT_SHOWN
    assert found["at least 3 techniques alone gain more than 2 dB"] == NOT_SHOWN
    assert found["the best combination gains more than 8 dB"] == NOT_SHOWN
    assert found["{1, 2, 3, 4, 5} is the best combination"] == NOT_SHOWN
    assert found["technique 1 (Rectified flow) alone gains 5 to 8 dB"] == NOT_MET
    assert found["all versions take 30 to 40 hours on 4 GPUs"] == NOT_SHOWN


def test_noise_leaves_answers_open(tmp_path: Path) -> None:
    loud = Truth(14.0, {1: 6.5, 2: 2.2, 3: 2.1, 4: 1.9}, {}, 2.0)
    found = settled(loud, round_text("r", only=CPU), folders_in(tmp_path), without_follow_ups)
    assert found["at least 3 techniques alone gain more than 2 dB"] == NOT_SHOWN
    assert found["technique 1 (Rectified flow) alone gains 5 to 8 dB"] == NOT_SHOWN


def test_another_size_than_the_documents_is_said(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_round(
        place, round_text("r", (0, 1, 2), CPU).replace("epochs: 100", "epochs: 12, size: 16"), without_follow_ups
    )
    folder, _ = analysed(place, "r")
    written = (folder / "summary.md").read_text()
    assert "size 16 instead of 32; epochs 12 instead of 100" in written
    assert answers(folder)["at least 90 of 100 versions complete"] == NOT_SHOWN
    assert "16 of the 100 versions" in written


# -------------------------------------------------------------------------------------------------------------- costs


def test_the_most_runs_at_the_same_time() -> None:
    assert most_at_once([]) == 0
    assert most_at_once([(0, 1), (1, 2), (2, 3)]) == 1
    assert most_at_once([(0, 4), (1, 2), (1, 3), (3, 4)]) == 3


def test_overheads_are_ratios_to_the_base(full: tuple[Folders, Path]) -> None:
    found = read_round("flow", full[0])
    costs: RoundCosts = costs_of(results_of(found), found)
    steps = costs.overheads["step_seconds"]
    assert steps[6].factor == pytest.approx(1.3, rel=0.1)
    assert steps[6].interval.low < 1.3 < steps[6].interval.high
    assert costs.overheads["train_seconds"][1].factor == pytest.approx(1.5, rel=0.1)
    assert costs.parallel == 8
    times = [one["training_time"] for one in read(full[1], "all_results.json").values()]
    assert costs.run_hours == pytest.approx(sum(times) / 3600)


# ------------------------------------------------------------------------------------------------- figures and summary


def test_all_figures_are_drawn_with_their_data_and_a_caption(full: tuple[Folders, Path]) -> None:
    store = FigureStore.of(full[1] / "figures")
    assert set(store.figures) == set(FIGURES) - {"longer"}
    for name, one in store.figures.items():
        assert (store.folder / f"{name}.png").stat().st_size > 10_000
        assert len((store.folder / f"{name}.csv").read_text().splitlines()) > 2
        assert one.caption.endswith(".")


def test_the_summary_has_results_beside_their_baselines(full: tuple[Folders, Path]) -> None:
    text = (full[1] / "summary.md").read_text()
    for wanted in ("Gaussian RBF, width chosen on validation fields | | 14.90", "the same network as a regression",
                   "mean of the samples", "2 (multi-scale position encoding)", "looks better than it is"):  # fmt: skip
        assert wanted in text
    shown = text.partition("**Main effects that are shown**")[2].partition("\n")[0]
    assert "6 (self-conditioning)" not in shown
    assert "nan" not in text


def test_a_confounded_technique_is_compared_with_its_control_too(full: tuple[Folders, Path]) -> None:
    found = {(row["techniques"], row["against"]) for row in rows(full[1], "controls.csv")}
    for technique, control in (("1", "control_steps"), ("4", "control_patch"), ("9", "control_schedule")):
        assert {(technique, "base"), (technique, control), (f"none ({control})", "base")} <= found
    assert ("8 (logit-normal)", "8 (cosine path)") in found


def test_the_checklist_is_ticked_where_all_runs_are_completed(full: tuple[Folders, Path]) -> None:
    lines = (full[1] / "results" / "checklist.md").read_text().splitlines()[2:]
    assert [line[:5] for line in lines] == ["- [x]"] * 3 + ["- [ ]", "- [x]", "- [ ]"]
    assert "100 completed, 0 failed" in lines[0]
    assert "0 of 10 runs completed" in lines[3]
    assert "36 of 36 runs completed" in lines[4]


# ------------------------------------------------------------------------------------- rounds that lack something


def test_a_round_without_a_base_is_analysed(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    text = """
round: one
study: flow_matching
experiments:
  e:
    path: "v{version}/{seed}"
    grid: {seed: [0]}
    config: {version: 42, techniques: "1,2,3", complexity: radial, epochs: 20, locality: distance}
"""
    place.rounds.mkdir(parents=True)
    (place.rounds / "one.yaml").write_text(text)
    (experiment,) = load_round("one", place.rounds).experiments
    record_runs(place, text, {experiment.path: metrics_of({**experiment.config, "techniques": "1+2+3"})})
    folder, notes = analysed(place, "one")
    found = read(folder, "all_results.json")
    assert found["v42"]["techniques"] == [1, 2, 3]
    assert found["v42"]["baseline"] is None and found["v42"]["gain_db"] is None
    assert "base: no completed run, so no gain is known" in notes
    assert read(folder, "technique_ranking.json") == []


def test_a_round_in_which_nothing_is_completed_is_analysed(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_round(place, round_text("r", only=CPU), lambda path: path != "v2/0")
    folder, _ = analysed(place, "r")
    assert read(folder, "all_results.json") == {}
    assert (folder / "results" / "performance_matrix.csv").read_text().startswith(HEADER)
    assert set(answers(folder).values()) == {NOT_SHOWN}


def test_versions_that_diverged_or_failed_are_listed_with_the_reason(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    text = round_text("r", only=CPU)
    write_round(place, text, lambda path: without_follow_ups(path) or path.startswith(("v3/", "v4/")))
    content: dict[str, Any] = {"version": 1, "epochs": [], "diverged": {"step": 12, "why": "the loss is not finite"}}
    record_runs(place, text, {"v3/0": content}, cause=Cause.DIVERGED)
    folder, _ = analysed(place, "r")
    (failed,) = read(folder, "failed_jobs.json")
    assert (failed["version"], failed["techniques"], failed["state"]) == ("v3", [1], "diverged")
    assert "step 12" in failed["reason"] and "not finite" in failed["reason"]
    assert "v3" not in read(folder, "all_results.json")
    (claim,) = (row for row in rows(folder, "claims.csv") if "versions complete" in row["claim"])
    assert claim["measured"].startswith("14 completed, 1 failed or diverged, 1 open")


def test_seeds_of_controls_count_for_the_noise_too(full: tuple[Folders, Path]) -> None:
    found = results_of(read_round("flow", full[0]))
    groups = {"base", "versions", "control_steps", "control_patch", "control_schedule", "logit_normal"}
    assert {one.group for one in found.replicated} == groups
    noise = effects_of(found.measured, found.replicated).seed_noise
    assert noise is not None and noise.freedom == 4 + 3 * 2


def test_another_config_than_the_bases_is_no_version(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    more = '  wide: {path: "wide/{seed}", grid: {seed: [0]}, config: {version: 3, techniques: "1", d_model: 256}}\n'
    write_round(place, round_text("r", only=CPU) + more, without_follow_ups)
    found = results_of(read_round("r", place))
    assert {one.group for one in found.versions} == {"versions"}
    assert all(one.group != "logit_normal" for one in found.versions)
    assert [one.group for one in found.settings if one.config.get("d_model") == 256] == ["wide"]


def test_a_round_of_another_study_is_refused(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    text = 'round: r\nexperiments: {e: {path: "{seed}", grid: {seed: [0]}, command: "true"}}\n'
    record_runs(place, text, {"0": {"a": 1.0}})
    with pytest.raises(RoundhouseError, match="flow_matching"):
        analyse(read_round("r", place), Suite(place))


def test_json_has_null_and_no_nan(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_round(place, round_text("r", only=CPU), lambda path: not path.startswith(("v2/0", "v3/")))
    folder, _ = analysed(place, "r")
    (one,) = read(folder, "all_results.json").values()
    assert one["interval"] == [None, None] and math.isfinite(one["gain_db"])
