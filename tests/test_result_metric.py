"""The metric that is chosen by and the one that is shown are the same in tables, report, figures and DataFrames."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import folders_in, record_runs

from analysis import tables
from analysis.dataframes import frame_of
from analysis.group_learning import learning
from analysis.group_results import results
from analysis.result_metric import ResultMetric, chosen_and_result, result_metric
from analysis.round_summary import rankings, summaries_of
from analysis.rounds import Folders, RoundRecords, metrics_of, read_round
from analysis.table_rows import RoundResults
from roundhouse.metrics import Declarations, Metric
from roundhouse.store.metrics import RunMetrics

ROUND = """\
round: r
metrics: METRICS
experiments:
  runs: {path: "{width}/{seed}", grid: {width: [1, 2], seed: [0, 1]}, command: "true"}
"""


@dataclass(frozen=True)
class Case:
    """What is declared, and metrics.json of a run: `value` is that of the chosen metric, `tested` of its result."""

    metrics: str
    shown: ResultMetric
    content: Mapping[str, Any]


def run(name: str, mode: str | None, value: float, **final: float) -> dict[str, Any]:
    """metrics.json of a run that chose its weights by a metric."""
    return {"metric": name, "mode": mode, "best": {"step": 20, name: value}, "final": final,
            "epochs": [{"step": step, name: value, "loss": 1.0} for step in (10, 20, 30)]}  # fmt: skip


CASES = {
    "psnr": Case("{val_psnr: {label: PSNR, scale: db, mode: max, main: true}}",
                 ResultMetric("val_psnr", "test_psnr", "max"), run("val_psnr", "max", 30.0, test_loss=7, test_psnr=29)),
    "rae": Case("{val_rae: {scale: log, mode: min, main: true}}", ResultMetric("val_rae", "test_rae", "min"),
                run("val_rae", "min", 30.0, test_rae=29, test_loss=7)),
    "fid, whose final value has another name": Case(
        "{fid: {mode: min, main: true, final: fid_50k}}", ResultMetric("fid", "fid_50k", "min"),
        run("fid", "min", 30.0, fid_50k=29, loss=7)),
    "fid, chosen by nothing": Case(
        "{fid: {mode: min, main: true, final: fid_50k}}", ResultMetric("fid", "fid_50k", "min"),
        {**run("fid", None, 30.0, fid_50k=29), "metric": None, "best": None}),
    "main metric that is not the one that weights are chosen by": Case(
        "{val_psnr: {mode: max, main: true}}", ResultMetric("val_psnr", "test_psnr", "max"),
        {"metric": "val_loss", "mode": "min", "best": {"step": 20, "val_loss": 3.0},
         "epochs": [{"step": 20, "val_loss": 3.0, "val_psnr": 30.0}, {"step": 30, "val_loss": 4.0, "val_psnr": 31.0}],
         "final": {"test_psnr": 29, "test_loss": 7}}),
    "no test value": Case("{val_iou: {mode: max, main: true}}", ResultMetric("val_iou", "val_iou", "max"),
                          run("val_iou", "max", 30.0, parameters=7)),
    "no declaration": Case("{}", ResultMetric("val_hits", "test_hits", "max"),
                           run("val_hits", "max", 30.0, test_hits=29)),
    "a command's first number": Case("{guess: {}, speed: {baseline: guess}}", ResultMetric("speed", "speed", None),
                                     {"guess": 1.0, "speed": 30.0, "size": 7}),
}  # fmt: skip


def shifted(content: Any, by: float) -> Any:
    """The same content with every metric from 28 on higher by a number."""
    if isinstance(content, Mapping):
        return {key: value if key == "step" else shifted(value, by) for key, value in content.items()}
    if isinstance(content, list):
        return [shifted(one, by) for one in content]
    return content + by if isinstance(content, (int, float)) and content >= 28 else content


def written(place: Folders, case: Case) -> RoundRecords:
    """A round of two settings with two seeds each: width 2 is higher by 10, seed 1 by 1."""
    left = {f"{width}/{seed}": shifted(case.content, 10 * (width - 1) + seed) for width in (1, 2) for seed in (0, 1)}
    record_runs(place, ROUND.replace("METRICS", case.metrics), left)
    return read_round("r", place)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_output_chooses_by_one_metric_and_shows_its_result(tmp_path: Path, case: Case) -> None:
    place = folders_in(tmp_path)
    found = written(place, case)
    members = [(entry, metrics_of(entry, [])) for entry in found.entries]
    assert result_metric(members, found.declared, found) == result_metric(members, found.declared) == case.shown
    mean = 29.5 if case.shown.result != case.shown.chosen else 30.5

    tables.write_tables(found, place.results("r") / "tables")
    first, second = rows_of(place.results("r") / "tables/performance_matrix.csv")[:2]
    assert first["metric"] == case.shown.result
    means = [float(row[f"{case.shown.result}_mean"]) for row in (first, second)]
    assert means == [mean, mean + 10]
    assert RoundResults.of(found).metric == case.shown

    (ranking,) = rankings(found, summaries_of(found)[0])
    assert (ranking.metric, ranking.result, ranking.mode) == (case.shown.chosen, case.shown.result, case.shown.mode)
    order = {"max": ["width 2", "width 1"], "min": ["width 1", "width 2"], None: []}[case.shown.mode]
    assert [one.label for one in ranking.settings] == order
    for one in ranking.settings:
        assert one.result is not None and one.result.mean == mean + 10 * (one.label == "width 2")
        assert one.chosen.mean == 30.5 + 10 * (one.label == "width 2")

    frame = frame_of(found)
    assert set(frame.result_name) == {case.shown.result}
    assert frame.groupby("width").result.mean().tolist() == [mean, mean + 10]

    shown = [(entry, ()) for entry in found.entries]
    drawn = results(shown).table
    column = next(key for key in drawn[0] if key.removeprefix("best ") == case.shown.result)
    assert [row[column] for row in drawn if row["seed"] == 0] == [mean - 0.5, mean + 9.5]
    if any(metrics.epochs for _, metrics in members):
        assert f"{case.shown.chosen}_mean" in learning(shown).table[0]


def test_experiments_that_are_not_completed_do_not_decide(tmp_path: Path) -> None:
    found = written(folders_in(tmp_path), CASES["psnr"])
    completed = found.entries[0]
    (found.directory / "1/1/attempts/1/result.json").unlink()
    running = next(one for one in read_round("r", folders_in(tmp_path)).entries if one.path == "1/1")
    other = RunMetrics("val_loss", "min", 1.0, final={"test_loss": 1.0})
    own = RunMetrics("val_hits", "max", 1.0, final={"test_hits": 1.0})
    shown = result_metric([(running, other), (running, other), (completed, own)], Declarations())
    assert shown == ResultMetric("val_hits", "test_hits", "max")
    assert result_metric([(running, other)], Declarations()) == ResultMetric("val_loss", "test_loss", "min")


def test_without_any_metric_there_is_none_and_a_declared_one_is_expected() -> None:
    assert result_metric([], Declarations()) is None
    declared = Declarations({"fid": Metric(mode="min", main=True, final="fid_50k")})
    assert result_metric([], declared) == ResultMetric("fid", "fid_50k", "min")


NAMES = ["val_a", "test_a", "a", "val_b", "test_b", "chance"]
numbers = st.dictionaries(st.sampled_from(NAMES), st.floats(allow_nan=False), max_size=4)


@given(st.lists(st.tuples(st.sampled_from(NAMES), numbers, numbers), min_size=1, max_size=4), st.sampled_from(NAMES))
def test_a_result_is_shown_whenever_anything_is_reported(runs: list[Any], main: str) -> None:
    declared = Declarations({main: Metric(main=True), "val_b": Metric(main=main == "val_b", baseline="chance")})
    made = [RunMetrics(name, "max", epochs[name], final=final, epochs=[epochs]) if name in epochs
            else RunMetrics(final=final, epochs=[epochs]) for name, final, epochs in runs]  # fmt: skip
    names = chosen_and_result(made, declared)
    assert names is not None, "a main metric is declared"
    chosen, result = names
    reported = {key for one in made for key in one.final if key != "chance"} | {
        one.metric for one in made if one.metric
    }
    if reported:
        assert any(one.value(result) is not None for one in made)
        assert result == chosen or result in {key for one in made for key in one.final}
    assert result in (chosen, declared.final_of(chosen))
