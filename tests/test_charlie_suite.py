"""Charlie's suite: on really trained records shipped small, on a charlie with planted effects, on unreadable files."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import slow_estimators as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from matplotlib.text import Text
from rounds_for_tests import REPOSITORY, snapshot
from shipped_rounds import ARCHIVE, TEST_IMAGES, unpack
from small_study import train as run_training
from synthetic_rounds import write_charlie

from analysis import charlie, representation, style
from analysis.comparison import INTERVAL, Comparison, Interval, mean_interval
from analysis.figure_store import FORMATS, StoredFigure, write_figure
from analysis.rounds import Folders, read_round
from roundhouse.settings import Settings
from roundhouse.training import read_options
from studies.distillation import train as distillation
from studies.distillation.analysis import figures, round_analysis
from studies.distillation.analysis.effects import (
    DISTILLED,
    MORE_ALPHA,
    SAME_ALPHA,
    SHRUNK,
    ComparisonFamily,
    as_table,
    families,
)
from studies.distillation.analysis.expectations import CHECKS, contradictions
from studies.distillation.analysis.findings import Finding, findings
from studies.distillation.analysis.measures import MEASURES, accuracy_mismatches, similarities
from studies.distillation.analysis.run_figures import LEAST_IN_BIN, _reliability_of
from studies.distillation.analysis.runs import (
    FIELDS,
    TEACHER,
    Block,
    CompletedRun,
    CompletedRuns,
    MethodSetting,
    runs_of,
)
from studies.distillation.data import Split, load
from studies.distillation.options import Options

DATASETS = ["cifar10", "cifar100", "svhn", "tinyimagenet"]


def names_on(*datasets: str) -> list[str]:
    """The names of all figures of a round with these data sets."""
    return [
        name
        for one in figures.FIGURES
        for name in ([f"{one.name}_{dataset}" for dataset in datasets] if one.for_each_data_set else [one.name])
    ]


NAMES = names_on("digits")
PLANTED = {
    ("logit", 0.25): 2.0,
    ("logit", 0.5): 2.0,
    ("logit", 0.75): 2.0,
    ("fitnets", 0.5): 1.5,
    ("fitnets", 0.75): 1.5,
}
NULLS = ["attention_transfer", "factor_transfer", "rkd", "nst"]
ALPHAS = (0.25, 0.5, 0.75)
LOGIT = "digits/logit/alpha_{}/ResNet20_to_ResNet8/{}"


@dataclass(frozen=True)
class Outcome:
    """The exit code, output and folder of a run of the suite."""

    code: int
    out: str
    err: str
    folder: Path

    @cached_property
    def summary(self) -> str:
        return (self.folder / "summary.md").read_text()

    @cached_property
    def gallery(self) -> dict[str, dict[str, Any]]:
        reported = json.loads((self.folder / "figures" / "gallery.json").read_text())
        return {one["name"]: one for one in reported["pictures"]}

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / "figures" / f"{name}.csv")

    def section(self, title: str) -> str:
        """The text of a section of the summary."""
        found = re.split(r"^## ", self.summary, flags=re.MULTILINE)
        return next(one for one in found if one.startswith(title))


def words(place: Path, name: str, *more: str) -> list[str]:
    reported = [f"--{one}={place / one}" for one in ("experiments", "rounds", "analysis")]
    return [f"--round={name}", "--jobs=2", *reported, *more]


def analyse(place: Path, name: str, *more: str) -> Outcome:
    """Run the suite on the records in a folder. Python warnings are errors."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        for kind in (RuntimeWarning, UserWarning, FutureWarning):
            warnings.simplefilter("error", kind)
        code = charlie.main(words(place, name, *more))
    return Outcome(code, out.getvalue(), err.getvalue(), place / "analysis" / f"experiment_{name}")


def refused(outcome: Outcome) -> str:
    """The one line that says why nothing was done."""
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    return outcome.err


Part = Callable[[Callable[[str], bool]], Path]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped")
    unpack(folder)
    return folder


@pytest.fixture
def part(shipped: Path, tmp_path: Path) -> Part:
    """Makes a place with the shipped records that are chosen by path; the others have no records."""
    return lambda keep: copy(shipped, tmp_path, keep)


def copy(shipped: Path, target: Path, keep: Callable[[str], bool]) -> Path:
    shutil.copytree(shipped / "rounds", target / "rounds")
    (target / "experiments").mkdir()
    for config in shipped.rglob("config.yaml"):
        path = config.parent.relative_to(shipped)
        if keep(str(path)):
            shutil.copytree(config.parent, target / path, symlinks=True)
    return target


def is_small(path: str) -> bool:
    """Whether the analysis of one method needs it: 6 runs of it, both teachers, plain students, all controls."""
    return "/logit/" in path or "/pure/" in path or "/control/" in path


@pytest.fixture(scope="module")
def smoke(shipped: Path) -> Outcome:
    before = snapshot(shipped / "experiments")
    found = analyse(shipped, "charlie_smoke")
    assert snapshot(shipped / "experiments") == before, "records are left as they were"
    return found


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """All 288 runs of charlie and control with the effects of `synthetic_rounds.DEFAULT` planted."""
    place = tmp_path_factory.mktemp("synthetic")
    write_charlie(place / "experiments", epochs=2, examples=400)
    shutil.copytree(REPOSITORY / "rounds", place / "rounds")
    return analyse(place, "charlie")


# Really trained records, shipped small


def test_the_shipped_records_are_small_and_have_no_weights(shipped: Path) -> None:
    assert ARCHIVE.stat().st_size < 1.6e6
    place = Folders(shipped / "experiments", shipped / "rounds", shipped / "analysis")
    for name, count in (("charlie_smoke", 40), ("control_smoke", 8)):
        found = read_round(name, place)
        assert [str(one.state) for one in found.entries] == ["completed"] * count
        assert found.problems == ()
    assert not list(shipped.rglob("*.pth"))


def test_the_suite_draws_every_figure_of_really_trained_runs_and_misses_nothing(smoke: Outcome) -> None:
    assert (smoke.code, smoke.err.count("\n")) == (0, 1), "nothing but the number of images"
    assert (len(NAMES), len(names_on(*DATASETS))) == (13, 31)
    assert list(smoke.gallery) == NAMES
    made = {path.name for path in (smoke.folder / "figures").iterdir()}
    tables = {"measures.csv", "settings.csv", "comparisons.csv", "missing.csv", "gallery.json"}
    assert made == {f"{name}.{ending}" for name in NAMES for ending in ("png", "csv")} | tables
    assert len(smoke.table("measures")) == 48


def test_two_pairs_show_nothing_have_no_interval_and_the_summary_says_how_many_are_needed(smoke: Outcome) -> None:
    found = smoke.table("comparisons")
    assert not found["shown"].any()
    assert found[["low_95", "high_95", "pairs_needed", "detectable"]].isna().all(axis=None)
    assert "No difference is shown, in 495 comparisons." in smoke.section("Findings")
    row = r"^\| distilled student, undistilled student \| 18 of 18 \| 2 \| .* \(pairs: .*\) \| at least 10 \| none \|$"
    assert re.search(row, smoke.section("Not shown"), re.MULTILINE)
    for name in ("accuracy_gain", "fidelity", "similarity_digits"):
        assert smoke.table(name)["low_95"].isna().all(), "single values, and no interval"


def test_an_accuracy_that_is_not_that_of_the_saved_outputs_is_reported(smoke: Outcome, synthetic: Outcome) -> None:
    rows = smoke.table("measures")
    apart = (rows["accuracy"] - rows["reported_accuracy"]).abs()
    assert set(rows["test_images"]) == {TEST_IMAGES}, (
        "the shipped outputs have fewer images than the runs were tested on"
    )
    for text in (smoke.err, smoke.section("Missing")):
        assert (
            f"digits: in {(apart > 1e-6).sum()} of 48 runs the accuracy of the test images in outputs.npz is not"
            in text
        )
    assert f"| {100 * apart.max():.2f} |" in smoke.section("Baselines")
    assert "| 1000; " not in synthetic.section("Baselines")
    assert "| test images; standard error of one accuracy (points) | 400; 1.3 | " in synthetic.section("Baselines")
    assert "| largest deviation from the run's own test_accuracy (points) | 0.00 | 0.00 |" in synthetic.section(
        "Baselines"
    )


def test_rounding_of_the_saved_logits_is_no_mismatch() -> None:
    row = {"run": "r/one", "dataset": "digits", "accuracy": 0.90, "test_images": 100.0}
    frame = pd.DataFrame([
        {**row, "reported_accuracy": 0.92, "tied_images": 0.02},
        {**row, "reported_accuracy": float(np.float32(0.9)), "tied_images": 0.0},
        {**row, "reported_accuracy": np.nan, "tied_images": 0.0},
    ])  # fmt: skip
    assert accuracy_mismatches(frame) == []
    (line,) = accuracy_mismatches(frame.assign(tied_images=0.01))
    assert "in 1 of 3 runs" in line
    assert "Most in r/one: 90.00 % of 100 images, reported 92.00 %" in line


@pytest.mark.parametrize("path", [LOGIT.format(0.5, 1), "digits/pure/ResNet8/0"])
def test_measures_are_what_slow_definitions_find_in_the_outputs(smoke: Outcome, shipped: Path, path: str) -> None:
    row = smoke.table("measures").set_index("run").loc[f"charlie_smoke/{path}"]
    records = shipped / "experiments" / "charlie_smoke"
    own = dict(np.load(records / path / "attempts/1/outputs.npz"))
    led = dict(np.load(records / f"digits/pure/ResNet20/{path[-1]}/attempts/1/outputs.npz"))
    assert len(own["labels"]) == TEST_IMAGES
    temperature = slow.temperature(own["validation_logits"], own["validation_labels"])
    counts = np.bincount(own["labels"])
    metrics = json.loads((records / path / "attempts/1/metrics.json").read_text())
    expected = {
        "accuracy": slow.accuracy(own["logits"], own["labels"]),
        "chance": counts.max() / counts.sum(),
        "agreement": slow.agreement(own["logits"], led["logits"]),
        "kl": slow.mean_kl(led["logits"], own["logits"]),
        "ece": slow.gap(slow.bins_of_equal_width(own["logits"], own["labels"], 15)),
        "adaptive_ece": slow.gap(slow.bins_of_equal_mass(own["logits"], own["labels"], 15)),
        "nll": slow.nll(own["logits"], own["labels"]),
        "brier": slow.brier(own["logits"], own["labels"]),
        "temperature": temperature,
        "nll_scaled": slow.nll(own["logits"].astype(float) / temperature, own["labels"]),
        **{f"cka_{layer}": slow.cka(own[layer], led[layer]) for layer in ("stage1", "stage2", "pooled", "logits")},
        "procrustes": slow.procrustes(own["pooled"], led["pooled"]),
        "knn": slow.knn_overlap(slow.neighbours(own["pooled"], 10), slow.neighbours(led["pooled"], 10)),
        "angle": slow.principal_angles(own["pooled"], led["pooled"], 10).mean(),
        "participation": slow.participation_ratio(own["pooled"]),
        "components_95": slow.components_for(own["pooled"], 0.95),
        "variance_ratio": slow.class_means(own["pooled"], own["labels"])[0],
        "class_cosine": slow.class_means(own["pooled"], own["labels"])[1],
        "seconds": metrics["used"]["seconds"],
    }
    assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    ratios = [one["gradient_ratio"] for one in metrics["epochs"] if one.get("gradient_ratio") is not None]
    assert row["gradient_ratio"] == pytest.approx(np.median(ratios) if ratios else np.nan, nan_ok=True)


# A charlie with planted effects


def accuracies(synthetic: Outcome, question: str) -> pd.DataFrame:
    found = synthetic.table("comparisons")
    chosen = found[(found["measure"] == "accuracy") & (found["question"] == question)]
    return chosen.set_index(["method", "alpha"])


def test_planted_gains_are_shown_with_their_size_and_planted_nulls_are_not(synthetic: Outcome) -> None:
    assert (synthetic.code, synthetic.err) == (0, "")
    found = accuracies(synthetic, DISTILLED)
    assert set(found.index[found["shown"]]) == set(PLANTED)
    assert {key: found.loc[key, "difference"] * 100 for key in PLANTED} == pytest.approx(PLANTED, abs=0.5)
    assert set(found["pairs"]) == {12}
    assert len(found) == 18
    assert found.loc[NULLS, "difference"].abs().max() < 0.005


def test_each_planted_gain_is_a_finding_and_no_null_is(synthetic: Outcome) -> None:
    claim = (
        r"^\d+\. \*\*Test accuracy is (\w+) than that of the undistilled student\*\*, in \d of 18 comparisons: (.*)$"
    )
    reported = re.findall(claim, synthetic.section("Findings"), re.MULTILINE)
    assert [direction for direction, _ in reported] == ["higher", "higher"]
    stated = {}
    for _, text in reported:
        method = text.split(",")[0]
        for alpha, gain, low, high in re.findall(r"([\d.]+): (\S+) \((\S+) to (\S+)\)", text):
            stated[method, float(alpha)] = float(gain)
            assert 0 < float(low) < float(gain) < float(high)
        assert "12 pairs, p ≤ 0.0088." in text
    assert stated == pytest.approx(PLANTED, abs=0.5)
    assert "| distilled student, undistilled student | 13 of 18 | 12 | " in synthetic.section("Not shown")


def test_the_summary_is_one_page(synthetic: Outcome) -> None:
    lines = synthetic.summary.splitlines()
    assert len(lines) <= 60
    assert 5 <= len(re.findall(r"^\d+\. ", synthetic.summary, re.MULTILINE)) <= 10
    assert INTERVAL in synthetic.summary
    assert "-0.00 " not in synthetic.summary
    numbered = re.findall(r"^\d+\. \*\*(.*?)\*\*", synthetic.summary, re.MULTILINE)
    kinds = [claim.startswith("Test accuracy") for claim in numbered]
    assert kinds == sorted(kinds, reverse=True), "accuracy first"
    assert "Nothing: none of 8 checks" in synthetic.section("Against expectation")


def test_summary_tables_and_figures_have_the_same_interval(synthetic: Outcome) -> None:
    compared = accuracies(synthetic, DISTILLED)
    drawn = synthetic.table("accuracy_gain").query("panel == 'pooled'").set_index(["method", "alpha"])
    rows = synthetic.table("measures").set_index(["method", "alpha", "dataset", "seed"])["accuracy"].sort_index()
    own = rows.loc[("logit", 0.5)] - rows.loc[("control", 0.0)]
    interval = mean_interval(own)
    for found, factor in ((compared, 1), (drawn, 100)):
        ends = found.loc[("logit", 0.5), ["low_95", "high_95"]].astype(float) / factor
        assert tuple(ends) == pytest.approx((interval.low, interval.high))
    (stated,) = re.findall(
        r"logit, alpha 0.25: .*?; 0.5: (\S+) \((\S+) to (\S+)\); 0.75: ", synthetic.section("Findings")
    )
    expected = [100 * one for one in (own.mean(), interval.low, interval.high)]
    assert [float(one) for one in stated] == pytest.approx(expected, abs=0.05)
    on_one = synthetic.table("accuracy_gain").query("panel == 'svhn'").set_index(["method", "alpha"])
    three = mean_interval(own.loc["svhn"])
    ends = on_one.loc[("logit", 0.5), ["low_95", "high_95"]].astype(float) / 100
    assert tuple(ends) == pytest.approx((three.low, three.high))


def test_what_comes_to_resemble_the_teacher_is_shown_by_cka_and_by_procrustes(synthetic: Outcome) -> None:
    found = synthetic.table("comparisons").set_index(["question", "measure", "method", "alpha"]).sort_index()
    for method in ("attention_transfer", "fitnets"):
        for alpha in ALPHAS:
            nearer, distance = (found.loc[(DISTILLED, one, method, alpha)] for one in ("cka_pooled", "procrustes"))
            assert (nearer["shown"], distance["shown"]) == (True, True)
            assert nearer["difference"] > 0.05
            assert distance["difference"] < -0.05
    assert not found.loc[(DISTILLED, "cka_pooled", ["rkd", "nst"]), "shown"].any()


def a_result(mean: float, *, shown: bool = True) -> Comparison:
    return Comparison(mean, 0.05, 12, 0.0005, Interval(mean - 0.1, mean + 0.1), 0.009, shown)


def test_what_nst_is_trained_on_is_not_evidence() -> None:
    reported = {}
    for method, measure in (("nst", "cka_pooled"), ("logit", "cka_pooled"), ("nst", "procrustes")):
        results = {MethodSetting(method, 0.5): a_result(0.2)}
        family = ComparisonFamily(MEASURES[measure], DISTILLED, results)
        reported[method, measure] = Finding(family, results).sentence("undistilled student")
    assert [key for key, text in reported.items() if "this is a check, not evidence" in text] == [("nst", "cka_pooled")]


def test_findings_are_of_one_direction_accuracy_first_and_the_largest_gain_first() -> None:
    gains = {("rkd", 0.5): 0.01, ("rkd", 0.75): -0.04, ("logit", 0.5): 0.02, ("logit", 0.75): 0.03, ("nst", 0.5): None}
    results = {
        MethodSetting(*key): a_result(gain or 0.5, shown=gain is not None) for key, gain in gains.items()
    }  # fmt: skip
    kinds = [("kl", DISTILLED), ("accuracy", SHRUNK), ("accuracy", DISTILLED)]
    found = findings([ComparisonFamily(MEASURES[measure], question, results) for measure, question in kinds])
    described = [(one.family.measure.column, one.family.question, [str(key) for key in one.results]) for one in found]
    both = ["rkd, alpha 0.5", "logit, alpha 0.5", "logit, alpha 0.75"]
    assert described == [
        ("accuracy", DISTILLED, ["rkd, alpha 0.75"]),
        ("accuracy", DISTILLED, ["logit, alpha 0.5", "logit, alpha 0.75"]),
        ("accuracy", DISTILLED, ["rkd, alpha 0.5"]),
        ("accuracy", SHRUNK, ["rkd, alpha 0.75"]),
        ("accuracy", SHRUNK, both),
        ("kl", DISTILLED, ["rkd, alpha 0.75"]),
        ("kl", DISTILLED, both),
    ]
    assert "lower" in found[0].sentence("plain student")
    assert "logit, alpha 0.5, 0.75: +0.02 to +0.03 nats" not in found[4].sentence("plain student"), "points"


def a_round(results: dict[tuple[str, str], dict[tuple[str, float], Comparison]], teacher: float = 0.9) -> Any:
    """What the checks of expectations read: comparisons, and the accuracies of teacher and baseline."""
    made = [ComparisonFamily(MEASURES[measure], question, {MethodSetting(*key): one for key, one in found.items()})
            for (measure, question), found in results.items()]  # fmt: skip
    frame = pd.DataFrame({"run": ["r/one"], "accuracy": [0.8], "chance": [0.1]})
    return SimpleNamespace(
        families=made, baseline_label="undistilled student", undistilled=MethodSetting("control", 0.0), frame=frame,
        runs=SimpleNamespace(datasets=["digits"]),
        values=lambda setting, *_: pd.Series([teacher if setting.method == TEACHER else 0.8]),
    )  # fmt: skip


ONE = ("logit", 0.5)


@pytest.mark.parametrize(("results", "reported"), [
    ({("accuracy", DISTILLED): {ONE: a_result(-0.02)}}, "lowers test accuracy, against the undistilled student"),
    ({("accuracy", SAME_ALPHA): {ONE: a_result(-0.02)}}, "lowers test accuracy, against the control of the same alpha"),
    ({("agreement", DISTILLED): {ONE: a_result(0.2)}, ("accuracy", DISTILLED): {ONE: a_result(0.01, shown=False)}},
     "More fidelity without more accuracy"),
    ({("agreement", DISTILLED): {ONE: a_result(-0.1, shown=False)}, ("accuracy", DISTILLED): {ONE: a_result(0.1)}},
     "More accuracy without more agreement"),
    ({("ece", DISTILLED): {ONE: a_result(0.02)}}, "worse calibrated"),
    ({("accuracy", SHRUNK): {("control", 0.5): a_result(0.02)}}, "A smaller cross entropy alone raises test accuracy"),
    ({("cka_pooled", DISTILLED): {ONE: a_result(0.2)}, ("procrustes", DISTILLED): {ONE: a_result(0.1, shown=False)}},
     "CKA and Procrustes distance disagree"),
])  # fmt: skip
def test_what_contradicts_expectations_is_named(results: Any, reported: str) -> None:
    (line,) = contradictions(a_round(results))
    assert reported in line
    assert "alpha 0.5: " in line


def test_a_weak_teacher_and_a_run_at_chance_are_named_and_a_round_as_expected_is_not() -> None:
    usual = {
        ("accuracy", DISTILLED): {ONE: a_result(0.02)},
        ("accuracy", SHRUNK): {("control", 0.5): a_result(-0.02)},
        ("agreement", DISTILLED): {ONE: a_result(0.1)},
        ("ece", DISTILLED): {ONE: a_result(-0.1)},
        ("cka_pooled", DISTILLED): {ONE: a_result(0.1)},
        ("procrustes", DISTILLED): {ONE: a_result(-0.1)},
    }
    assert contradictions(a_round(usual)) == []
    assert len(CHECKS) == 8
    (weak,) = contradictions(a_round(usual, teacher=0.8))
    assert "digits: the teacher is not more accurate (80.00 %)" in weak
    lost = a_round(usual)
    lost.frame["chance"] = 0.8
    assert contradictions(lost) == ["1 run is not better than chance: r/one."]


def test_the_accuracy_of_a_nearly_empty_bin_is_not_drawn_but_its_images_are_counted() -> None:
    counts = [LEAST_IN_BIN - 2, LEAST_IN_BIN, 500]
    bins = pd.DataFrame({"lower": [0.0, 0.2, 0.4], "upper": [0.2, 0.4, 0.6], "count": counts,
                         "confidence": [0.1, 0.3, 0.5], "accuracy": [0.0, 0.5, 0.7]})  # fmt: skip
    curves, below = style.panels(2)[1]
    rows = _reliability_of(curves, below, bins, MethodSetting("logit", 0.5), style.look(0))
    assert np.asarray(curves.lines[0].get_xydata()).tolist() == [[0.3, 0.5], [0.5, 0.7]]
    (stairs,) = below.patches
    assert list(cast(Any, stairs).get_data().values) == counts
    assert [(row["images"], row["drawn"]) for row in rows] == list(zip(counts, [False, True, True], strict=True))
    both = pd.concat([bins, bins])  # two seeds: together there are enough images
    assert all(row["drawn"] for row in _reliability_of(curves, below, both, MethodSetting("logit", 0.5), style.look(0)))


def test_reliability_counts_all_images_and_drops_nearly_empty_bins(synthetic: Outcome) -> None:
    found = synthetic.table("reliability_cifar100")
    assert (found["drawn"] == (found["images"] >= LEAST_IN_BIN)).all()
    assert set(found["drawn"]) == {True, False}
    assert set(found.groupby(["method", "alpha"])["images"].sum()) == {3 * 400}


# Pairs


def grid(datasets: int = 4, seeds: int = 3) -> CompletedRuns:
    """Runs like charlie's and its control's, without records."""
    methods = [MethodSetting(method, alpha) for method in (*NULLS, "logit", "fitnets") for alpha in ALPHAS]
    known = [*methods, *(MethodSetting("control", alpha) for alpha in (0.0, *ALPHAS)), MethodSetting("plain", None)]
    blocks = [Block(f"data{one}", seed) for one in range(datasets) for seed in range(seeds)]
    runs = tuple(CompletedRun("grid", cast(Any, None), one, block) for one in known for block in blocks)
    return CompletedRuns("grid", runs, (), tuple(dict.fromkeys(one.method for one in methods)))


def frame_of(runs: CompletedRuns, accuracy: Callable[[CompletedRun], float]) -> pd.DataFrame:
    return pd.DataFrame([
        {"method": run.setting.method, "alpha": run.setting.alpha, "dataset": run.block.dataset, "seed": run.block.seed,
         "accuracy": accuracy(run)} for run in runs.runs
    ])  # fmt: skip


def by_question(frame: pd.DataFrame, runs: CompletedRuns) -> dict[str, ComparisonFamily]:
    return {one.question: one for one in families(frame, runs)}


def test_differences_are_of_equal_data_set_and_seed_and_distilled_minus_baseline() -> None:
    runs = grid(datasets=2, seeds=2)
    added = {"logit": {0.25: 0.01, 0.5: 0.02, 0.75: 0.04}, "control": {0.0: 0.0, 0.25: -0.01, 0.5: -0.02, 0.75: -0.03}}

    def accuracy(run: CompletedRun) -> float:  # blocks differ by far more than settings do
        own = added.get(run.setting.method, {}).get(run.setting.alpha or 0.0, 0.0)
        return 0.5 + 0.2 * (run.block.dataset == "data1") + 0.1 * run.block.seed + own

    found = by_question(frame_of(runs, accuracy), runs)
    logit = {alpha: MethodSetting("logit", alpha) for alpha in ALPHAS}
    means = {question: {key: one.mean for key, one in made.results.items()} for question, made in found.items()}
    assert {alpha: means[DISTILLED][key] for alpha, key in logit.items()} == pytest.approx(added["logit"])
    differences = {0.25: 0.02, 0.5: 0.04, 0.75: 0.07}
    assert {alpha: means[SAME_ALPHA][key] for alpha, key in logit.items()} == pytest.approx(differences)
    assert {key.alpha: mean for key, mean in means[SHRUNK].items()} == pytest.approx(
        {0.25: -0.01, 0.5: -0.02, 0.75: -0.03}
    )
    assert {key.method for key in means[MORE_ALPHA]} == set(runs.methods)
    assert means[MORE_ALPHA][logit[0.75]] == pytest.approx(0.03)
    sizes = {question: len(made.results) for question, made in found.items()}
    assert sizes == {DISTILLED: 18, SAME_ALPHA: 18, SHRUNK: 3, MORE_ALPHA: 6}
    assert {one.n for made in found.values() for one in made.results.values()} == {4}


@settings(max_examples=10, deadline=None)
@given(order=st.randoms(use_true_random=False), seed=st.integers(0, 100))
def test_the_order_of_rows_changes_nothing(order: Any, seed: int) -> None:
    runs, random = grid(datasets=2, seeds=2), np.random.default_rng(seed)
    frame = frame_of(runs, lambda run: random.random())
    rows = list(range(len(frame)))
    order.shuffle(rows)
    in_order, shuffled = (as_table(families(one, runs)) for one in (frame, frame.iloc[rows]))
    pd.testing.assert_frame_equal(in_order, shuffled, check_exact=True)


def test_a_seed_that_is_missing_takes_its_own_pair_away_and_no_other() -> None:
    runs, random = grid(), np.random.default_rng(0)
    frame = frame_of(runs, lambda run: random.random())
    is_lost = (
        (frame["method"] == "logit") & (frame["alpha"] == 0.5) & (frame["dataset"] == "data2") & (frame["seed"] == 1)
    )
    whole, fewer = (by_question(one, runs)[DISTILLED].results for one in (frame, frame[~is_lost]))
    unknown = by_question(frame.assign(accuracy=frame["accuracy"].mask(is_lost)), runs)[DISTILLED].results
    counts = {key: one.n for key, one in fewer.items()}
    assert counts == {key: 12 - (key == MethodSetting("logit", 0.5)) for key in whole}
    assert {key: one.n for key, one in unknown.items()} == counts
    assert all(fewer[key].mean == whole[key].mean for key in whole if key != MethodSetting("logit", 0.5))


def test_without_any_effect_few_families_claim_one() -> None:
    runs, random, rounds = grid(), np.random.default_rng(1), 200
    claimed: dict[str, int] = {}
    for _ in range(rounds):
        blocks = {block: random.normal(0.8, 0.1) for block in {run.block for run in runs.runs}}
        frame = frame_of(runs, lambda run, known=blocks: known[run.block] + random.normal(0, 0.003))  # type: ignore[misc]
        for question, made in by_question(frame, runs).items():
            claimed[question] = claimed.get(question, 0) + any(one.shown for one in made.results.values())
    assert len(claimed) == 4
    assert max(claimed.values()) <= 0.07 * rounds


def test_students_are_compared_at_equal_seeds_and_the_noise_floor_between_seeds(shipped: Path) -> None:
    place = Folders(shipped / "experiments", shipped / "rounds", shipped / "analysis")
    runs = runs_of(read_round("charlie_smoke", place), None)
    few = replace(runs, runs=tuple(run for run in runs.runs if run.setting.method in ("logit", TEACHER)))
    with ThreadPoolExecutor(1) as pool:
        found = similarities(few, pool)
    same = found["first"] == found["second"]
    assert found.groupby(same)["seeds"].unique().map(list).to_dict() == {True: ["0-1"], False: ["0-0", "1-1"]}
    assert (same.sum(), (~same).sum()) == (3, 6)
    row = found[(found["first"] == "logit, alpha 0.25") & (found["second"] == "logit, alpha 0.75")].iloc[1]
    first, second = (few.of(MethodSetting("logit", alpha))[1].outputs()["pooled"] for alpha in (0.25, 0.75))
    assert row["cka"] == pytest.approx(representation.cka(first, second), abs=1e-6)


def test_methods_keep_their_order_whichever_finishes_first(part: Part) -> None:
    place = part(lambda path: "pure" in path or "/rkd/" in path or "/logit/alpha_0.75/" in path)
    runs = runs_of(
        read_round("charlie_smoke", Folders(place / "experiments", place / "rounds", place / "analysis")), None
    )
    assert runs.methods == ["logit", "rkd"]
    late = replace(runs, runs=runs.runs[::-1])
    assert late.methods == runs.methods


# The specification


def test_the_specification_lists_the_figures_and_what_each_needs() -> None:
    text = (REPOSITORY / "analysis" / "experiment_charlie" / "DESIGN.md").read_text()
    section = text.split("## Figures, and what each needs")[1]
    rows = re.findall(r"^\| `(\w+)`(, for each data set)? \| (.*) \|$", section, re.MULTILINE)
    reported = [(name, bool(each), tuple(re.findall(r"`([^`]+)`", needs))) for name, each, needs in rows]
    assert reported == [(one.name, one.for_each_data_set, one.needs) for one in figures.FIGURES]


def test_all_that_is_read_of_outputs_is_specified() -> None:
    needs = {need for one in figures.FIGURES for need in one.needs}
    assert {f"outputs.npz: {field}" for field in FIELDS} == {need for need in needs if need.startswith("outputs.npz")}


def train(directory: Path, teacher: Path | None = None, **config: Any) -> None:
    options = read_options(Options, {"model": "ResNet8", "epochs": 1, "batch_size": 64, **config})
    inputs = {"teacher": [teacher]} if teacher else {}
    study = partial(distillation.train, options=options, inputs=inputs, data=None)
    run_training(directory, study, Settings(seed=0, device="cpu"))


def holds(directory: Path, need: str) -> bool:
    """Whether a run left a field, and with something in it."""
    file, path = need.split(": ")
    if file == "outputs.npz":
        with np.load(directory / file) as saved:
            return path in saved.files and saved[path].size > 0
    found: Any = json.loads((directory / file).read_text())
    for word in path.split("."):
        found = [one.get(word) for one in found] if isinstance(found, list) else found.get(word)
    return all(isinstance(one, float) for one in (found if isinstance(found, list) else [found]))


def test_training_saves_every_field_that_a_figure_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    digits = load("digits", None)
    few = replace(digits, train=Split(digits.train.images[:128], digits.train.labels[:128]))
    monkeypatch.setattr(distillation, "load", lambda name, folder, validation: few)
    train(tmp_path / "teacher", method="pure")
    train(tmp_path / "student", tmp_path / "teacher", method="fitnets")
    train(tmp_path / "control", method="control", alpha=0.25)
    needs = {need for one in figures.FIGURES for need in one.needs}
    assert [need for need in sorted(needs) if not holds(tmp_path / "student", need)] == []
    of_all = {need for need in needs if "gradient" not in need}  # a ratio of two terms needs two
    for name in ("teacher", "control"):
        assert [need for need in sorted(of_all) if not holds(tmp_path / name, need)] == []


# Whatever is finished


def without_a_number(summary: str) -> list[str]:
    """Bullets and paragraphs that say something and no number."""
    found = re.split(r"\n\s*\n|\n(?=- )", summary)
    return [one for one in found if not re.match(r"\s*(#|\|)", one) and not re.search(r"\d", one) and one.strip()]


def test_every_sentence_rests_on_a_number(smoke: Outcome, synthetic: Outcome, part: Part) -> None:
    assert without_a_number("# Title\n\nLogit is best.\n\n- So is rkd.\n- By 2.") == ["Logit is best.", "- So is rkd."]
    partial = analyse(part(lambda path: "/logit/alpha_0.5" in path or "ResNet8/0" in path), "charlie_smoke")
    assert partial.code == 1
    for one in (smoke, synthetic, partial):
        assert without_a_number(one.summary) == []


def test_one_seed_has_means_and_no_spread(part: Part) -> None:
    place = part(lambda path: is_small(path) and path.endswith("/0"))
    found = analyse(place, "charlie_smoke", "--formats=png,pdf,svg")
    assert found.code == 0
    assert re.search(r"\| teacher \| [\d.]+ ± \? \(1\) \|", found.summary)
    assert found.table("fidelity")["low_95"].isna().all()
    assert set(found.table("accuracy_gain").query("panel == 'digits'")["pairs"]) == {1}
    assert "charlie_smoke: nst, alpha 0.75: 2 not completed" in found.err
    assert "charlie_smoke: teacher: 1 not completed" in found.section("Missing")
    for name in NAMES:
        starts = {ending: (found.folder / "figures" / f"{name}.{ending}").read_bytes()[:5] for ending in FORMATS}
        assert starts == {"png": b"\x89PNG\r", "pdf": b"%PDF-", "svg": b"<?xml"}
    before = snapshot(found.folder)
    assert analyse(place, "charlie_smoke").code == 0
    again = snapshot(found.folder)
    other = {"figures/gallery.json", "suite.json"}  # they name the formats
    assert {name: reported for name, (_, reported) in again.items() if name not in other} == {
        name: reported for name, (_, reported) in before.items() if name not in other
    }, "equal records give equal files"


def test_without_teachers_all_but_the_comparison_with_them_is_drawn(part: Part) -> None:
    found = analyse(part(lambda path: is_small(path) and "ResNet20/" not in path), "charlie_smoke")
    assert found.code == 1
    undrawn = ["accuracy_fidelity", "fidelity", "layers_digits", "similarity_digits"]
    assert re.findall(r"figure (\w+) is not drawn", found.err) == undrawn
    assert [name for name in NAMES if name not in found.gallery] == undrawn
    line = f"charlie_smoke/{LOGIT.format(0.25, 0)}: its teacher is not completed"
    assert line in found.err
    assert " and 15 more: its teacher is not completed" in found.section("Missing")
    for reported in (found.err, found.section("Missing")):
        assert "figure layers_digits is not drawn" in reported
    assert found.table("measures")["accuracy"].notna().all()
    assert found.table("measures")["agreement"].isna().all()


def test_without_a_control_the_smoothed_student_is_the_baseline_and_is_called_so(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: dict[str, list[str]] = {}

    def write(folder: Path, picture: StoredFigure, figure: Any, table: Any) -> None:
        seen = [one for one in figure.findobj(Text) if one.get_text()]
        assert min(one.get_fontsize() for one in seen) >= 6, f"{picture.name}: too small to be read in print"
        texts[picture.name] = [one.get_text().replace("\n", " ") for one in seen]
        write_figure(folder, picture, figure, table)

    monkeypatch.setattr(round_analysis, "write_figure", write)
    found = analyse(part(lambda path: is_small(path) and "control" not in path), "charlie_smoke")
    assert (found.code, list(found.gallery)) == (1, [name for name in NAMES if name != "accuracy_beside_control"])
    assert "no records of a round 'control_smoke'" in found.err
    assert "figure accuracy_beside_control is not drawn" in found.section("Missing")
    for name in ("accuracy_gain", "similarity_digits", "layers_digits", "profiles"):
        assert any("plain student (smoothed labels)" in text for text in texts[name]), name
        assert not any("undistilled student" in text for text in texts[name]), name
    assert all("with smoothed labels" in one["caption"] for one in found.gallery.values())
    assert [name for name in found.gallery if not is_white_at_the_edge(pixels_of(found, name))] == [], "cut off"
    rows = found.table("measures")
    plain, logit = (rows.query(one)["accuracy"].to_numpy() for one in ("method == 'plain'", "alpha == 0.5"))
    gain = found.table("accuracy_gain").query("panel == 'pooled' and alpha == 0.5")["gain_points"].item()
    assert gain == pytest.approx(100 * (logit - plain).mean())


def change(place: Path, path: str, **arrays: Callable[[Any], Any] | None) -> None:
    """Change arrays of an outputs.npz of charlie_smoke; None takes one away."""
    file = place / "experiments" / "charlie_smoke" / path / "attempts" / "1" / "outputs.npz"
    with np.load(file) as saved:
        found = {name: saved[name] for name in saved.files}
    for name, made in arrays.items():
        old = found.pop(name)
        if made:
            found[name] = made(old)
    np.savez(file, **found)


def cut(place: Path, path: str, name: str) -> None:
    file = place / "experiments" / "charlie_smoke" / path / "attempts" / "1" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture(scope="module")
def damaged(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A round with most kinds of damage, analysed by the script itself."""
    place = copy(shipped, tmp_path_factory.mktemp("damaged"), is_small)
    change(place, LOGIT.format(0.25, 0), validation_logits=None, validation_labels=None)
    cut(place, LOGIT.format(0.25, 1), "outputs.npz")
    change(place, LOGIT.format(0.5, 0), pooled=np.ones_like)
    cut(place, LOGIT.format(0.5, 1), "metrics.json")
    change(place, LOGIT.format(0.75, 0), logits=lambda old: np.full_like(old, np.nan))
    change(place, LOGIT.format(0.75, 1), labels=lambda old: old[:50])
    cut(place, "digits/pure/ResNet20/1", "outputs.npz")
    (place / "experiments/charlie_smoke/digits/pure/ResNet8/0/attempts/1/outputs.npz").unlink()
    command = [sys.executable, str(REPOSITORY / "analysis" / "charlie.py"), *words(place, "charlie_smoke")]
    return place, subprocess.run(command, capture_output=True, text=True, check=False, cwd=place)


@pytest.mark.parametrize(("path", "reported"), [
    (LOGIT.format(0.25, 0), "temperature, ece_scaled, nll_scaled: outputs.npz has no array validation_logits"),
    (LOGIT.format(0.25, 1), "outputs.npz cannot be read: it is not a valid .npz file"),
    (LOGIT.format(0.5, 0), "cka_pooled, procrustes, angle: features x: the same for every sample: the network has"),
    (LOGIT.format(0.5, 1), "metrics.json is unreadable"),
    (LOGIT.format(0.75, 0), "logits: 1000 of 1000 values are NaN or infinite"),
    (LOGIT.format(0.75, 1), "labels: must be 100 whole numbers, one per sample"),
    ("digits/pure/ResNet20/1", "outputs.npz cannot be read: it is not a valid .npz file"),
    (LOGIT.format(0.5, 1), "no fidelity and similarity: its teacher charlie_smoke"),
    ("digits/pure/ResNet8/0", "has no outputs.npz"),
])  # fmt: skip
def test_damage_is_reported_by_name_and_stops_nothing(
    damaged: tuple[Path, subprocess.CompletedProcess[str]], path: str, reported: str
) -> None:
    place, done = damaged
    assert (done.returncode, "Traceback" in done.stderr, "Warning" in done.stderr) == (0, False, False)
    results = place / "analysis" / "experiment_charlie_smoke"
    assert "more in `figures/missing.csv`." in (results / "summary.md").read_text()
    for text in (done.stderr, (results / "figures" / "missing.csv").read_text()):
        assert any(f"charlie_smoke/{path}" in line and reported in line for line in text.splitlines())


def test_the_readable_records_are_analysed(damaged: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    place, _ = damaged
    rows = pd.read_csv(place / "analysis/experiment_charlie_smoke/figures/measures.csv").set_index("run")
    known = rows.notna()

    def knows(alpha: float, seed: int, *columns: str) -> list[bool]:
        return [bool(known.loc[f"charlie_smoke/{LOGIT.format(alpha, seed)}", one]) for one in columns]

    assert knows(0.25, 0, "accuracy", "cka_pooled", "temperature") == [True, True, False]
    assert knows(0.25, 1, "accuracy", "seconds", "gradient_ratio") == [False, True, True]
    assert knows(0.5, 0, "accuracy", "cka_pooled", "cka_stage1", "participation") == [True, False, True, False]
    assert knows(0.5, 1, "accuracy", "agreement", "seconds", "gradient_ratio") == [True, False, False, False]
    assert knows(0.75, 0, "accuracy", "agreement", "cka_stage1", "cka_pooled") == [False, False, True, True]


# What is refused


def test_a_round_without_a_distilled_student_yet_is_refused(part: Part) -> None:
    place = part(lambda path: "/pure/" in path)
    assert "no distilled student is completed yet" in refused(analyse(place, "charlie_smoke"))


def test_a_round_of_commands_is_refused(tmp_path: Path) -> None:
    text = "round: chores\nexperiments:\n  one:\n    command: [echo, hello]\n"
    (tmp_path / "rounds").mkdir()
    (tmp_path / "rounds" / "chores.yaml").write_text(text)
    (tmp_path / "experiments" / "chores").mkdir(parents=True)
    assert "round chores is not of the study distillation" in refused(analyse(tmp_path, "chores"))


def test_a_round_with_two_pairs_of_networks_is_refused(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "rounds", tmp_path / "rounds")
    (tmp_path / "experiments" / "calibration").mkdir(parents=True)
    reported = refused(analyse(tmp_path, "calibration"))
    assert "teachers ResNet110, ResNet112, ResNet56 and students ResNet20, ResNet32, ResNet56" in reported
    assert "needs exactly one of each" in reported


def test_a_control_round_of_something_else_is_left_out(shipped: Path) -> None:
    place = Folders(shipped / "experiments", shipped / "rounds", shipped / "analysis")
    distilled, other = (read_round(name, place) for name in ("charlie_smoke", "charlie_smoke"))
    found = runs_of(distilled, replace(other, name="other"))
    assert len(found.runs) == 40
    assert sum("other/" in line and "left out" in line for line in found.missing) == 40


@pytest.mark.parametrize(("more", "reported"), [
    (("--round=charly_smoke",), "no records of a round 'charly_smoke'.*did you mean 'charlie_smoke'"),
    (("--formats=gif",), r"--formats must be .* png, pdf, svg \(got gif\)"),
    (("--formats=",), r"--formats must be .* \(got \)"),
    (("--jobs=0",), r"--jobs must be >= 1 \(got 0\)"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line(shipped: Path, more: tuple[str, ...], reported: str) -> None:
    assert re.search(reported, refused(analyse(shipped, "charlie_smoke", *more)))


# Figures


def pixels_of(outcome: Outcome, name: str) -> Any:
    """A figure as (height, width, 3) whole numbers from 0 to 255."""
    return np.round(imread(outcome.folder / "figures" / f"{name}.png")[..., :3] * 255).astype(np.int32)


def is_white_at_the_edge(pixels: Any) -> bool:
    return all((edge == 255).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


@pytest.mark.parametrize("name", names_on(*DATASETS))
def test_a_figure_and_its_table_show_their_data_sets_and_all_methods(synthetic: Outcome, name: str) -> None:
    table, pixels = synthetic.table(name), pixels_of(synthetic, name)
    if name != "profiles":
        column = "panel" if "panel" in table else "dataset"
        own = [dataset for dataset in DATASETS if name.endswith(f"_{dataset}")]
        assert set(table[column]) - {"pooled"} == set(own or DATASETS)
    if "method" in table:
        assert set(table["method"]) >= {"logit", "fitnets", *NULLS}
    colours = np.unique(pixels @ [1 << 16, 1 << 8, 1])
    assert pixels.shape[1] == 7 * 130, "as wide as a printed page, at 130 dots an inch"
    assert 300 < pixels.shape[0] < 10 * 130
    assert len(colours) > 100
    assert is_white_at_the_edge(pixels), "something is cut off"
    if not name.startswith(("layers", "students", "reliability", "accuracy_fidelity")):  # maps, translucent markers
        drawn = {one for one in style.COLOURS[:6] if int(one[1:], 16) in colours}
        assert drawn == set(style.COLOURS[:6]), "a colour for each method"


def test_nothing_is_cut_off_where_there_is_one_data_set(smoke: Outcome) -> None:
    assert [name for name in NAMES if not is_white_at_the_edge(pixels_of(smoke, name))] == []


def test_an_equal_picture_has_equal_bytes_in_every_format(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        with style.rules():
            figure, (axes,) = style.panels(1)
            axes.plot([0, 1], [1, 0], label="line")
            picture = StoredFigure("one", "", "", "", FORMATS)
            write_figure(tmp_path / folder, picture, figure, [{"x": 0, "y": 1}])
    first, second = (
        {name: reported for name, (_, reported) in snapshot(tmp_path / one).items()} for one in ("first", "second")
    )
    assert first == second
    assert len(first) == 4
