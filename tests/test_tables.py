"""The tables of a round: means, bold cells, strict JSON, and valid LaTeX with any name."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY
from synthetic_rounds import SCHEDULER, unsynced, write_mixed

from analysis import load_round, table_rows, tables
from analysis.rounds import Folders, read_round
from roundhouse import files
from roundhouse.config.round import load_round as load_round_file
from roundhouse.model.attempt import Opened
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.store import record

FILES = ["all_results.json", "failed_jobs.json", "performance_matrix.csv", "table.tex"]
WOBBLE = [0.0, 0.004, -0.003, 0.001, -0.002, 0.005, 0.002, -0.004, 0.003, -0.001, 0.006, -0.005]  # of data set and seed
ROUND = """\
round: small
study: distillation
experiments:
  teacher:
    path: "{dataset}/teacher/{seed}"
    grid: {dataset: &datasets DATASETS, seed: &seeds [0, 1, 2]}
    config: {model: large}
  student:
    path: "{dataset}/student/{seed}"
    grid: {dataset: *datasets, seed: *seeds}
    config: {model: small}
  distilled:
    path: "{dataset}/{method}/{alpha}/{seed}"
    grid: {dataset: *datasets, method: [logit, rkd], alpha: [0.25, 0.5], seed: *seeds}
    config: {model: small, teacher: large}
    after: {teacher: {dataset: "{dataset}", seed: "{seed}"}}
    baseline: student
"""
Results = Callable[[Experiment], "Mapping[str, Any] | None"]


def complete(directory: Path, experiment: Experiment, metrics: Mapping[str, Any]) -> None:
    """The record of an experiment that completed in one attempt with these metrics."""
    opened = Opened(record.new_token(), SCHEDULER, experiment.config_hash(), {}, "1")
    record.open_attempt(directory, 1, opened)
    record.write_config(directory, experiment)
    place = record.attempt_directory(directory, 1)
    files.create_exclusive(place / record.CLAIM, {"version": 1, "nonce": "n", "host": "gpu1", "at": 1e9})
    (place / "metrics.json").write_text(json.dumps(metrics))
    record.close(directory, 1, Cause.COMPLETED, "")


def studied(**final: float) -> dict[str, Any]:
    """metrics.json of a study."""
    best = {"epoch": 1, "val_accuracy": 0.5}
    return {"metric": "val_accuracy", "mode": "max", "exact": True, "best": best, "final": final, "used": {},
            "epochs": [{"stage": "train", "epoch": 1, "loss": 1.0}]}  # fmt: skip


def make(folder: Path, results: Results, text: str = ROUND, datasets: str = "[a, b, c, d]") -> Folders:
    """The round `small` in a folder; experiments without results are not begun."""
    place = Folders(folder / "experiments", folder / "rounds", folder / "analysis")
    place.rounds.mkdir(parents=True)
    (place.rounds / "small.yaml").write_text(text.replace("DATASETS", datasets))
    with unsynced():
        for experiment in load_round_file("small", place.rounds).experiments:
            metrics = results(experiment)
            if metrics is not None:
                complete(place.experiments / "small" / experiment.path, experiment, metrics)
    return place


def write(place: Folders, name: str = "small") -> Path:
    """Write a round's tables; returns their folder."""
    folder = place.results(name) / "tables"
    written = tables.write_tables(read_round(name, place), folder)
    assert sorted(path.name for path in written) == FILES and all(path.is_file() for path in written)
    return folder


def noise(experiment: Experiment) -> float:
    """What runs of one data set and seed share, and what differs between rows, small and of either sign."""
    row = [experiment.config.get("method"), experiment.config.get("alpha")]
    shift = [[None, None], ["logit", 0.25], ["logit", 0.5], ["rkd", 0.25], ["rkd", 0.5]].index(row)
    number = int("abcd".index(experiment.config["dataset"]) * 3 + experiment.config["seed"])
    return WOBBLE[number] + WOBBLE[(number + shift) % len(WOBBLE)] * (-1.0 if shift % 2 else 1.0)


def planted(gains: Mapping[tuple[str, float], float]) -> Results:
    """Accuracies of 0.8, more for these methods and alphas, and much more for teachers."""

    def results(experiment: Experiment) -> Mapping[str, Any]:
        config = experiment.config
        gain = gains.get((config.get("method", ""), config.get("alpha", 0.0)), 0.0)
        gain += 0.1 * (experiment.group == "teacher")
        return studied(test_accuracy=0.8 + gain + noise(experiment), chance_accuracy=0.1)

    return results


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    """performance_matrix.csv, by group and setting."""
    with (folder / "performance_matrix.csv").open(newline="") as file:
        return {f"{row['group']} {row['setting']}".strip(): row for row in csv.DictReader(file)}


def cells_of(folder: Path) -> list[list[str]]:
    """The rows of table.tex, its head first."""
    text = (folder / "table.tex").read_text()
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r" \\"))] for line in rows]


def row(folder: Path, name: str) -> list[str]:
    """The one row of table.tex whose setting holds this."""
    found = [cells for cells in cells_of(folder) if name in cells[1]]
    assert len(found) == 1, found
    return found[0]


def body(folder: Path) -> str:
    return (folder / "table.tex").read_text().split(r"\toprule")[1].split(r"\bottomrule")[0]


def note(folder: Path) -> str:
    return (folder / "table.tex").read_text().split(r"\footnotesize")[1]


def by_hand(experiment: Experiment) -> Mapping[str, Any] | None:
    if experiment.group == "teacher":
        return studied(test_accuracy=0.9, chance_accuracy=0.25)
    if experiment.group == "student":
        return studied(test_accuracy=[0.5, 0.6, 0.7][experiment.config["seed"]], chance_accuracy=0.25)
    if experiment.config["method"] == "rkd":
        return None
    if experiment.config["alpha"] == 0.5:
        return studied(test_accuracy=0.4) if experiment.config["seed"] == 0 else None
    return studied(test_accuracy=[0.25, 0.5, 0.75][experiment.config["seed"]])


def test_means_standard_deviations_and_counts_are_those_computed_by_hand(tmp_path: Path) -> None:
    cells = rows_of(write(make(tmp_path, by_hand, datasets="[a, b]")))
    student, one, none = (
        cells["student student"],
        cells["distilled logit, alpha 0.5"],
        cells["distilled rkd, alpha 0.25"],
    )
    assert float(student["a_mean"]) == pytest.approx(0.6) and float(student["a_sd"]) == pytest.approx(0.1)
    assert float(cells["distilled logit, alpha 0.25"]["b_sd"]) == pytest.approx(0.25)
    assert (student["b_n"], one["a_n"], none["a_n"]) == ("3", "1", "0")
    assert one["a_sd"] == "" and none["a_mean"] == none["a_sd"] == none["mean_over_data_sets"] == ""
    assert float(student["mean_over_data_sets"]) == pytest.approx(0.6)


def test_the_matrix_has_a_row_a_setting_and_columns_for_each_data_set_and_the_baseline_and_chance(
    tmp_path: Path,
) -> None:
    folder = write(make(tmp_path, by_hand, datasets="[a, b]"))
    cells = rows_of(folder)
    assert list(cells) == [
        "teacher teacher", "student student", "distilled logit, alpha 0.25", "distilled logit, alpha 0.5",
        "distilled rkd, alpha 0.25", "distilled rkd, alpha 0.5", "chance",
    ]  # fmt: skip
    assert list(cells["chance"]) == [
        "group", "setting", "role", "model", "teacher", "method", "alpha", "metric", "a_mean", "a_sd", "a_n", "b_mean",
        "b_sd", "b_n", "mean_over_data_sets",
    ]  # fmt: skip
    assert [one["role"] for one in cells.values()] == ["", "baseline", "", "", "", "", "chance"]
    assert cells["chance"]["a_mean"] == "0.25" and cells["chance"]["a_n"] == ""
    assert cells["distilled rkd, alpha 0.5"]["method"] == "rkd" and cells["distilled rkd, alpha 0.5"]["alpha"] == "0.5"


def test_latex_has_percent_and_marks_single_seeds_and_missing_cells(tmp_path: Path) -> None:
    folder = write(make(tmp_path, by_hand, datasets="[a, b]"))
    assert cells_of(folder)[0] == ["Group", "Setting", r"a (\%)", r"b (\%)", r"Mean (\%)"]
    assert row(folder, "baseline") == ["student", "baseline", *[r"60.00 $\pm$ 10.00 (3)"] * 2, "60.00"]
    assert row(folder, "logit, alpha 0.5")[1:] == ["logit, alpha 0.5", "40.00 ($n=1$)", "40.00 ($n=1$)", "40.00"]
    assert row(folder, "rkd, alpha 0.25")[2:] == ["--", "--", "--"]
    assert row(folder, "chance") == ["", "chance", "25.00", "25.00", "--"]
    assert "20 of 36 experiments are completed" in note(folder)


def test_mean_and_deviation_have_equal_decimals_and_a_zero_has_no_sign(tmp_path: Path) -> None:
    text = """
        round: small
        metrics: {gain: {scale: SCALE}}
        experiments: {all: {path: "{x}/{seed}", grid: {x: [1, 2], seed: [0, 1]}, command: "true"}}
    """

    def cell(scale: str) -> list[str]:
        place = make(
            tmp_path / scale,
            lambda one: {"gain": [[-2e-5, -1e-5], [27.3, 28.1]][one.config["x"] - 1][one.config["seed"]]},
            textwrap.dedent(text).replace("SCALE", scale),
        )
        return [cells[2] for cells in cells_of(write(place))[1:]]

    assert cell("percent")[0] == r"0.00 $\pm$ 0.00 (2)"
    assert cell("db") == [r"$-$1.5e$-$05 $\pm$ 7.071e$-$06 (2)", r"27.70 $\pm$ 0.57 (2)"]


def test_a_round_without_data_sets_has_one_column_named_after_its_metric(tmp_path: Path) -> None:
    text = "round: small\nexperiments: {all: {path: 'x_{x}/{seed}', grid: {x: [1, 2], seed: [0, 1]}, command: 'true'}}"
    folder = write(make(tmp_path, lambda one: {"speed": 10.0 * one.config["x"] + one.config["seed"]}, text))
    cells = rows_of(folder)
    assert list(cells) == ["all x 1", "all x 2"]
    assert cells["all x 2"]["metric"] == "speed" and cells["all x 2"]["speed_mean"] == "20.5"
    assert cells_of(folder)[0] == ["Group", "Setting", "speed"]
    assert "it is unknown whether higher or lower is better" in note(folder)


@pytest.mark.parametrize("with_file", [True, False], ids=["round file", "records alone"])
def test_seeds_and_data_sets_share_a_row_though_the_command_names_both(tmp_path: Path, with_file: bool) -> None:
    text = """
        round: small
        apart: [dataset]
        experiments:
          all:
            path: "{dataset}/{lr}/{seed}"
            grid: {dataset: [a, b], lr: [0.1, 0.2], seed: [0, 1]}
            command: "train --data {dataset} --lr {lr} --seed {seed} --to {directory}"
          other: {path: "other/{seed}", grid: {seed: [0, 1]}, config: {dataset: a, lr: 0.1}, command: "try {seed}"}
    """
    place = make(tmp_path, lambda one: {"loss": one.config["lr"] + one.config["seed"]}, textwrap.dedent(text))
    if not with_file:
        (place.rounds / "small.yaml").unlink()
        assert set(rows_of(write(place))) >= {"all a, lr 0.2", "all b, lr 0.2"}, "nothing declares what is kept apart"
        return
    cells = rows_of(write(place))
    assert set(cells) == {"all lr 0.1", "all lr 0.2", "other other"}, "groups are apart even where configs are equal"
    assert [cells["all lr 0.2"][f"{one}_n"] for one in "ab"] == ["2", "2"]
    assert cells["all lr 0.2"]["a_mean"] == "0.7"
    found = read_round("small", place)
    assert sorted(Counter(one.setting for one in found.entries).values()) == [2, 2, 2, 2, 2]


def test_an_experiment_that_is_not_completed_is_left_out_of_means_though_it_has_metrics(tmp_path: Path) -> None:
    place = make(tmp_path, by_hand, datasets="[a]")
    (place.experiments / "small/a/student/2/attempts/1" / record.RESULT).unlink()
    cells = rows_of(write(place))["student student"]
    assert cells["a_n"] == "2" and float(cells["a_mean"]) == pytest.approx(0.55)


def test_where_no_test_accuracy_is_recorded_the_metric_that_chose_the_weights_is_reported(tmp_path: Path) -> None:
    cells = rows_of(write(make(tmp_path, lambda one: studied(), datasets="[a]")))["student student"]
    assert (cells["metric"], cells["a_mean"], cells["a_n"]) == ("val_accuracy", "0.5", "3")


def test_a_clear_winner_over_twelve_pairs_is_bold_in_its_name_and_its_mean_and_nowhere_else(tmp_path: Path) -> None:
    folder = write(make(tmp_path, planted({("logit", 0.5): 0.05})))
    cells = row(folder, "logit, alpha 0.5")
    assert cells[1] == r"\textbf{logit, alpha 0.5}" and cells[-1].startswith(r"\textbf{")
    assert body(folder).count(r"\textbf") == 2, "3 pairs of one data set show nothing"
    assert "Holm" in note(folder)


def test_two_settings_that_are_alike_are_not_bold_however_far_above_the_rest(tmp_path: Path) -> None:
    folder = write(make(tmp_path, planted({("logit", 0.5): 0.05, ("rkd", 0.5): 0.05})))
    assert r"\textbf" not in body(folder)
    assert "no row is shown to beat all its rivals" in note(folder)


def test_a_baseline_that_beats_all_is_bold_and_a_method_that_ties_with_it_is_not(tmp_path: Path) -> None:
    losses = {(method, alpha): -0.05 for method in ("logit", "rkd") for alpha in (0.25, 0.5)}
    folder = write(make(tmp_path / "one", planted(losses)))
    assert row(folder, "baseline")[1] == r"\textbf{baseline}"
    folder = write(make(tmp_path / "two", planted({**losses, ("rkd", 0.5): 0.0})))
    assert r"\textbf" not in body(folder)


def test_three_pairs_show_nothing_however_large_the_difference_and_the_note_states_it(tmp_path: Path) -> None:
    folder = write(make(tmp_path, planted({("logit", 0.5): 0.1}), datasets="[a]"))
    assert r"\textbf" not in body(folder)
    assert "no difference can be shown with 3 pairs" in note(folder)


def test_many_seeds_of_one_data_set_mark_its_column(tmp_path: Path) -> None:
    def results(experiment: Experiment) -> Mapping[str, Any]:
        gain = 0.05 * (experiment.config.get("method") == "logit" and experiment.config["alpha"] == 0.5)
        return studied(test_accuracy=0.8 + gain + WOBBLE[experiment.config["seed"]])

    text = ROUND.replace("[0, 1, 2]", str(list(range(12))))
    folder = write(make(tmp_path, results, text, datasets="[a, b]"))
    assert all(cell.startswith(r"\textbf{") for cell in row(folder, "logit, alpha 0.5")[1:])
    assert body(folder).count(r"\textbf") == 4


def test_a_teacher_is_no_rival_of_students_and_never_bold(tmp_path: Path) -> None:
    found = read_round("small", make(tmp_path, planted({})))
    (contest,) = table_rows.comparison_groups(table_rows.RoundResults.of(found))
    assert {line.group for line in contest} == {"student", "distilled"} and len(contest) == 5


def test_a_setting_without_results_is_no_rival_and_one_with_few_must_be_beaten_on_these_few(tmp_path: Path) -> None:
    winner = planted({("logit", 0.5): 0.05})
    folder = write(make(tmp_path / "none", lambda one: None if one.config.get("method") == "rkd" else winner(one)))
    assert r"\textbf{logit, alpha 0.5}" in body(folder)

    def few(one: Experiment) -> Mapping[str, Any] | None:
        return None if one.config.get("method") == "rkd" and one.config["dataset"] != "a" else winner(one)

    assert r"\textbf" not in body(write(make(tmp_path / "few", few)))


def test_a_row_must_win_each_contest_that_it_is_in() -> None:
    low, middle, high = (
        table_rows.TableRow(str(value), "", "", {}, {("a", str(seed)): value for seed in range(12)}, frozenset())
        for value in (0.1, 0.2, 0.3)
    )
    assert table_rows.winners([[low, middle]], 1, ["a"]) == {"0.2"}
    assert table_rows.winners([[low, middle], [middle, high]], 1, ["a"]) == {"0.3"}


def test_where_less_is_better_the_lowest_is_bold(tmp_path: Path) -> None:
    def results(experiment: Experiment) -> Mapping[str, Any]:
        value = 0.8 + noise(experiment) - 0.05 * (experiment.config.get("alpha") == 0.25)
        value -= 0.05 * (experiment.config.get("method") == "rkd" and experiment.config["alpha"] == 0.25)
        return {**studied(), "metric": "val_loss", "mode": "min", "best": {"epoch": 1, "val_loss": value}}

    folder = write(make(tmp_path, results))
    assert row(folder, "rkd, alpha 0.25")[1] == r"\textbf{rkd, alpha 0.25}"
    assert cells_of(folder)[0][2] == "a (nats)", "a loss has no percent"


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_makes_nothing_bold(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    folder = write(make(tmp_path, lambda one: studied(test_accuracy=0.8 + 0.01 * random.standard_normal())))
    assert r"\textbf" not in body(folder)


def unescaped(text: str) -> str:
    """What LaTeX prints for text that was escaped."""
    for cells, sign in {r"\textbackslash{}": "\0", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^",
                       r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|"}.items():  # fmt: skip
        text = text.replace(cells, sign)
    for sign in "[]*":
        text = text.replace(f"{{{sign}}}", sign)
    return re.sub(r"\\([_%&#${}])", r"\1", text).replace("\0", "\\")


@given(st.text(alphabet=st.sampled_from("a1 _%&#${}~^\\<>|[]*é\n"), max_size=12))
def test_escaped_text_prints_as_it_was_and_its_braces_balance(text: str) -> None:
    cells = tables.escaped(text)
    assert unescaped(cells) == text.replace("\n", " ")
    bare = re.sub(r"\\.", "", cells.replace(r"\text", "text"))
    assert bare.count("{") == bare.count("}") and not set(bare) & set("_%&#$~^\\\n")


HOSTILE = r"""
round: small
apart: [dataset]
experiments:
  odd_group:
    path: "{number}_{short}/{seed}"
    grid: {number: [0, 1], seed: [0, 1]}
    zip:
      short: [p, q]
      dataset: ['100% & $x_1$', "a,b\"c\n#{~^\\}"]
      name: ['\input{x}', '[2ex] <&> =1+1']
    command: "true"
"""


def test_names_that_mean_something_to_latex_or_csv_are_reported_as_they_are(tmp_path: Path) -> None:
    folder = write(make(tmp_path, lambda one: {"the_%_rate": 0.5}, HOSTILE))
    head, *rows = cells_of(folder)
    text = (folder / "table.tex").read_text()
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns and all(len(cells) == len(columns[1]) == 5 for cells in [head, *rows])
    bare = re.sub(r"\\[\\_%&#${}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert [unescaped(cell) for cell in head[2:4]] == ["100% & $x_1$", 'a,b"c #{~^\\}']
    assert r"\input" not in text
    cells = rows_of(folder)
    assert {one["name"] for one in cells.values()} == {r"\input{x}", "[2ex] <&> =1+1"}
    assert 'a,b"c\n#{~^\\}_mean' in next(iter(cells.values()))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_latex_compiles_the_table(tmp_path: Path) -> None:
    folder = write(make(tmp_path, lambda one: {"the_%_rate": 0.5}, HOSTILE))
    head, foot = r"\documentclass{article}\usepackage{booktabs}\begin{document}", r"\end{document}"
    (folder / "all.tex").write_text(head + (folder / "table.tex").read_text() + foot)
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    ran = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_a_config_key_that_is_also_a_column_gets_a_name_of_its_own(tmp_path: Path) -> None:
    text = "round: small\nexperiments:\n  all:\n    path: '{metric}'\n    grid: {metric: [p, q]}\n    command: 'true'\n"
    cells = rows_of(write(make(tmp_path, lambda one: {"speed": 1.0}, text)))
    assert [(one["config_metric"], one["metric"]) for one in cells.values()] == [("p", "speed"), ("q", "speed")]


def test_results_that_are_no_numbers_are_reported_and_left_out_of_means_and_null_in_json(tmp_path: Path) -> None:
    def results(experiment: Experiment) -> Mapping[str, Any]:
        value = {0: 0.5, 1: math.nan, 2: math.inf}[experiment.config["seed"]]
        return studied(test_accuracy=value, test_loss=1e300)

    place = make(tmp_path, results, datasets="[a]")
    cells = rows_of(write(place))["student student"]
    assert (cells["a_n"], cells["a_mean"]) == ("1", "0.5")
    content = strict(place.results("small") / "tables/all_results.json")
    finals = {one["path"]: one["final"]["test_accuracy"] for one in content["experiments"]}
    assert finals["a/student/0"] == 0.5 and finals["a/student/1"] is None and finals["a/student/2"] is None
    assert "a/student/1: test_accuracy is nan: left out of all means" in content["problems"]


def strict(path: Path) -> Any:
    """A file of JSON, without NaN and Infinity, which are none."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_round_that_has_no_result_yet_has_tables_that_state_it(tmp_path: Path) -> None:
    place = make(tmp_path, lambda one: None, datasets="[a]")
    (place.experiments / "small").mkdir(parents=True)
    folder = write(place)
    assert all(one["a_n"] == "0" for one in rows_of(folder).values())
    assert {cell for cells in cells_of(folder)[1:] for cell in cells[2:]} == {"--"}
    assert "there is nothing to compare" in note(folder) and "0 of 18" in note(folder)
    assert strict(folder / "failed_jobs.json")["jobs"] == []


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folder = tmp_path_factory.mktemp("mixed")
    place = Folders(folder / "experiments", folder / "rounds", folder / "analysis")
    write_mixed(place.experiments, place.rounds, epochs=4, examples=60)
    return place


def test_failed_jobs_are_those_that_failed_are_blocked_were_cancelled_or_ran_again(mixed: Folders) -> None:
    content = strict(write(mixed, "mixed") / "failed_jobs.json")
    frame = load_round("mixed", mixed)
    expected = frame[frame.state.isin(["failed", "blocked", "cancelled"]) | (frame.attempts > 1)]
    cells = {one["path"]: one for one in content["jobs"]}
    assert list(cells) == list(expected.path) and len(cells) >= 4
    failed = next(one for one in cells.values() if one["state"] == "failed")
    assert failed["cause"] == "error" and failed["requeued"] == 1 and "illegal memory access" in failed["log"]
    assert "illegal memory access" in failed["reason"]
    first, second = failed["attempts"]
    assert (first["number"], second["number"]) == (1, 2) and first["cause"] == "error" and first["why"]
    assert first["job_id"] and first["host"].startswith("gpu") and first["scheduler"] == "slurm"
    assert pd.Timestamp(first["started"]) < pd.Timestamp(first["ended"]) < pd.Timestamp(second["started"])
    again = next(one for one in cells.values() if one["state"] == "completed")
    assert [one["cause"] for one in again["attempts"]] == ["walltime", "completed"]
    blocked = next(one for one in cells.values() if one["state"] == "blocked")
    assert "history.json" in blocked["reason"] and blocked["attempts"] == []


def test_all_results_agree_with_the_dataframe(mixed: Folders) -> None:
    content = strict(write(mixed, "mixed") / "all_results.json")
    frame = load_round("mixed", mixed)
    assert (content["version"], content["round"]) == (1, "mixed")
    assert [one["path"] for one in content["experiments"]] == list(frame.path)
    for one, (_, seen) in zip(content["experiments"], frame.iterrows(), strict=True):
        for key in set(one) & set(frame.columns) - {"path", "attempts", "started", "ended"}:
            assert one[key] == seen[key] or (one[key] is None and pd.isna(seen[key])), (one["path"], key)
        for key in ("started", "ended"):
            assert pd.isna(seen[key]) if one[key] is None else pd.Timestamp(one[key]) == seen[key]
        assert all(seen[key] == value for key, value in one["config"].items())
        assert all(seen[key] == value for key, value in one["final"].items())
        assert sum(attempt["mark"] is None for attempt in one["attempts"]) == seen["attempts"]
        assert all((mixed.experiments / "mixed" / path).is_file() for path in one["files"].values())
    problems = [one.replace(f"{mixed.experiments / 'mixed'}/", "") for one in frame.attrs["problems"]]
    assert content["problems"] == problems


def test_all_results_name_the_baselines_and_the_files_of_each_experiment(mixed: Folders) -> None:
    cells = {one["path"]: one for one in strict(write(mixed, "mixed") / "all_results.json")["experiments"]}
    distilled = next(one for one in cells.values() if one["group"] == "distilled" and one["state"] == "completed")
    assert [cells[path]["group"] for path in distilled["baseline"]] == ["student"] * 3
    assert set(distilled["files"]) == {"metrics", "outputs", "weights"}
    assert distilled["files"]["weights"].startswith(f"{distilled['path']}/attempts/")
    assert list(distilled["after"]) == ["teacher"]


def test_a_second_call_writes_the_same_bytes_and_no_other_file(mixed: Folders) -> None:
    before = {path.name: path.read_bytes() for path in write(mixed, "mixed").iterdir()}
    after = {path.name: path.read_bytes() for path in write(mixed, "mixed").iterdir()}
    assert before == after and sorted(after) == FILES


def test_a_log_that_cannot_be_read_is_reported_and_skipped(mixed: Folders, tmp_path: Path) -> None:
    experiments = tmp_path / "experiments"
    shutil.copytree(mixed.experiments, experiments, symlinks=True)
    place = Folders(experiments, mixed.rounds, tmp_path / "analysis")
    failed = load_round("mixed", place).query("state == 'failed'").iloc[0]
    log = Path(failed.directory) / "attempts" / str(failed.attempts) / "out.log"
    log.unlink()
    log.mkdir()
    folder = write(place, "mixed")
    cells = {one["path"]: one for one in strict(folder / "failed_jobs.json")["jobs"]}
    assert cells[failed.path]["log"] == "out.log cannot be read: Is a directory"
    assert len(cells) >= 4


def test_tables_of_a_round_whose_file_is_gone_are_made_from_its_records(mixed: Folders, tmp_path: Path) -> None:
    place = Folders(mixed.experiments, tmp_path / "rounds", tmp_path / "analysis")
    cells = rows_of(write(place, "mixed"))
    assert any(name.startswith("distilled logit") for name in cells)
    assert not any(one["role"] == "baseline" for one in cells.values()), "only the file names baselines"


def call(place: Folders, name: str, analysis: Path) -> subprocess.CompletedProcess[str]:
    options = ["--experiments", place.experiments, "--rounds", place.rounds, "--analysis", analysis]
    words = map(str, [sys.executable, REPOSITORY / "analysis" / "tables.py", "--round", name, *options])
    return subprocess.run(list(words), capture_output=True, text=True, check=False)


def test_the_script_writes_tables_prints_their_names_and_reports_what_was_skipped(
    mixed: Folders, tmp_path: Path
) -> None:
    ran = call(mixed, "mixed", tmp_path)
    printed = [Path(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0 and sorted(path.name for path in printed) == FILES
    assert all(path.is_file() and path.parent == tmp_path / "experiment_mixed/tables" for path in printed)
    assert "metrics.json is unreadable" in ran.stderr and "Traceback" not in ran.stderr


def test_the_script_answers_an_unknown_round_with_one_line_and_the_nearest_name(mixed: Folders, tmp_path: Path) -> None:
    ran = call(mixed, "mixd", tmp_path)
    assert ran.returncode == 2 and ran.stdout == "" and len(ran.stderr.splitlines()) == 1
    assert ran.stderr.startswith("tables.py: ") and "did you mean 'mixed'?" in ran.stderr
    assert not list(tmp_path.iterdir())


def test_the_script_says_in_one_line_that_it_cannot_write(mixed: Folders, tmp_path: Path) -> None:
    ran = call(mixed, "mixed", mixed.rounds / "mixed.yaml")
    assert ran.returncode == 2 and "Traceback" not in ran.stderr and "mixed.yaml" in ran.stderr
