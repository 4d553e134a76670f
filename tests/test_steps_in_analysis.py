"""The analysis of runs that count steps: sparse metrics, no main metric, partial epochs, early ends and divergence."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from matplotlib.axes import Axes
from recorded_runs import folders_in, record_runs

from analysis import learning_curves, plot_experiments, report
from analysis.curve_data import Band, LearningCurve
from analysis.dataframes import epochs_of, frame_of
from analysis.figure_store import FigureStore
from analysis.group_learning import learning
from analysis.group_results import results
from analysis.methods_prose import checkpoints
from analysis.provenance import Facts
from analysis.rounds import Folders, RoundRecords, read_round
from roundhouse.metrics import Declarations
from roundhouse.model.causes import Cause
from roundhouse.store.metrics import RunMetrics

ROUND = """\
round: r
metrics: {fid: {mode: min, main: true}, critic_loss: {label: loss of the critic}}
experiments:
  plain: {path: "plain/{seed}", grid: {seed: [0, 1]}, command: "true"}
  tuned: {path: "tuned/{seed}", grid: {seed: [0, 1]}, command: "true", baseline: plain}
"""


def gan(fid: float, steps: int = 4000, **more: Any) -> dict[str, Any]:
    """metrics.json of a run whose loss is recorded every 500 steps, and its FID every 2000, after 1000 of warm-up."""
    entries: list[dict[str, Any]] = [{"stage": "warm-up", "step": 500 * n, "reconstruction": 1 / n} for n in (1, 2)]
    for step in range(500, steps + 1, 500):
        entry = {"stage": "train", "step": 1000 + step, "critic_loss": 10 / step, "seconds": 5.0}
        entries.append(entry | ({"fid": fid + 1000 / step} if step % 2000 == 0 else {}))
    best = {"step": 1000 + steps, "fid": fid + 1000 / steps}
    return {"metric": "fid", "mode": "min", "best": best, "epochs": entries, "final": {"fid": best["fid"]}, **more}


def progress(steps: int = 5000, **more: Any) -> dict[str, Any]:
    return {"unit": "step", "step": steps, "steps": 5000, "started_step": 0, "seconds_per_step": 0.01, **more}


@dataclass(frozen=True)
class Gans:
    """A round of runs that count steps."""

    place: Folders

    @property
    def found(self) -> RoundRecords:
        return read_round("r", self.place)

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.place.results("r") / "plots" / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))


def write(folder: Path, change: Mapping[str, Mapping[str, Any]] | None = None, cause: Cause = Cause.COMPLETED) -> Gans:
    place = folders_in(folder)
    values = {"plain/0": 30.0, "plain/1": 32.0, "tuned/0": 20.0, "tuned/1": 21.0}
    metrics = {path: gan(fid, **(change or {}).get(path, {})) for path, fid in values.items()}
    record_runs(place, ROUND, metrics, {path: progress(started_step=2000) for path in values}, cause)
    return Gans(place)


@pytest.fixture
def gans(tmp_path: Path) -> Gans:
    return write(tmp_path)


def curve_of(*entries: Mapping[str, Any]) -> LearningCurve:
    return LearningCurve.of(RunMetrics(epochs=entries), Declarations())


# ----------------------------------------------------------------------------------------------------------- positions


def test_the_position_is_the_epoch_of_runs_by_epoch_and_else_the_step() -> None:
    by_epoch = curve_of({"epoch": 1, "step": 100, "x": 1.0}, {"epoch": 2, "step": 200, "x": 2.0})
    by_step = curve_of({"step": 100, "x": 1.0}, {"step": 200, "x": 2.0})
    neither = curve_of({"x": 1.0}, {"x": 2.0})
    assert [(one.unit, one.positions.tolist()) for one in (by_epoch, by_step, neither)] == [
        ("epoch", [1, 2]), ("step", [100, 200]), ("epoch", [1, 2])
    ]  # fmt: skip
    assert set(by_epoch.values) == {"x"}, "a position is no measurement"
    assert [one.done for one in (by_epoch, by_step)] == [2, 200]


def test_stages_of_steps_begin_where_the_one_before_ends() -> None:
    curve = LearningCurve.of(RunMetrics(epochs=gan(1.0)["epochs"]), Declarations())
    assert curve.stages == (("warm-up", 0.0, 1000.0), ("train", 1000.0, 5000.0))
    assert curve.before == 1000
    assert curve.last_stage("fid") == {2000: 1.5, 4000: 1.25}


def test_a_metric_that_some_entries_lack_is_a_line_through_the_others() -> None:
    curve = curve_of({"step": 1, "x": 1.0}, {"step": 2}, {"step": 3, "x": float("nan")}, {"step": 4, "x": 4.0})
    positions, values = curve.points("x")
    assert positions.tolist() == [1, 3, 4], "one that is no number is a gap, one that is missing is not"
    assert np.isnan(values).tolist() == [False, True, False]


def test_only_runs_of_one_unit_are_averaged() -> None:
    steps, epochs = curve_of({"step": 1, "x": 1.0}), curve_of({"epoch": 1, "x": 3.0})
    assert Band.of([steps, epochs], "x", "step").mean.tolist() == [1.0]
    assert Band.of([steps, epochs], "x", "epoch").mean.tolist() == [3.0]


def test_a_partial_epoch_is_drawn_and_not_averaged() -> None:
    cut = curve_of({"epoch": 1, "x": 1.0}, {"epoch": 2, "x": 9.0, "partial": True})
    whole = curve_of({"epoch": 1, "x": 3.0}, {"epoch": 2, "x": 5.0})
    band = Band.of([cut, whole], "x", "epoch")
    assert (band.mean.tolist(), band.count.tolist()) == ([2.0, 5.0], [2, 1])
    assert cut.done == 1 and cut.points("x")[1].tolist() == [1.0, 9.0]


# ------------------------------------------------------------------------------------------------------------- figures


def test_curves_over_steps_have_their_sparse_metric_best_baseline_and_resume(gans: Gans) -> None:
    entry = next(one for one in gans.found.entries if one.path == "tuned/0")
    baseline = gans.found.baseline_of(entry)
    with mock.patch.object(Axes, "axvline", autospec=True, side_effect=Axes.axvline) as lines:
        made = learning_curves.draw(entry, baseline)
    assert [call.args[1] for call in lines.call_args_list] == [2000, 2000], "where it resumed, in panels with that step"
    first, *_ = made.figure.axes
    assert first.get_xlabel() == "step" and first.get_ylabel() == "fid"
    drawn = {line.get_label(): line for line in first.lines}
    assert np.asarray(drawn["fid"].get_xdata()).tolist() == [3000, 5000]
    assert np.asarray(drawn["plain (mean of 2)"].get_ydata()).tolist() == [31.5, 31.25]
    assert "best 20.25 (step 5000)" in drawn
    assert [axes.get_ylabel() for axes in made.figure.axes[1:]] == ["loss of the critic", "reconstruction"]
    assert "completed, 5000 of 5000 steps" in made.figure.get_suptitle()
    assert "Resumed after step 2000." in made.caption and "Shaded: warm-up" in made.caption
    assert [row["step"] for row in made.table] == [500, 1000, *range(1500, 5001, 500)]
    assert "epoch" not in made.table[0] and made.table[5]["baseline_fid_mean"] == 31.5


def test_the_overviews_of_a_group_are_over_steps(gans: Gans) -> None:
    shown = [(entry, tuple(gans.found.baseline_of(entry))) for entry in gans.found.groups["tuned"]]
    made = learning(shown)
    assert made.figure.axes[0].get_xlabel() == "step of the last stage"
    assert "reached a step" in made.caption
    assert [(row["role"], row["step"], row["fid_mean"], row["n"]) for row in made.table] == [
        ("baseline", 2000, 31.5, 2), ("baseline", 4000, 31.25, 2), ("result", 2000, 21.0, 2), ("result", 4000, 20.75, 2)
    ]  # fmt: skip
    assert {row["fid"] for row in results(shown).table} == {20.25, 21.25, 30.25, 32.25}


def test_all_figures_and_the_report_are_made(gans: Gans) -> None:
    assert plot_experiments.refresh("r", gans.place, jobs=1) == []
    assert len(FigureStore.of(gans.place.results("r") / "plots").figures) == 4 + 2 * 2
    assert {row["step"] for row in gans.rows("overviews/tuned_learning")} == {"2000", "4000"}
    page = report.make_report("r", gans.place)[0].read_text()
    assert '"label":"steps","kind":"epochs"' in page and "[5000,5000]" in page
    assert '"label":"time/step (s)"' in page and "ranked by fid (lowest first)" in page


def test_a_run_without_a_main_metric_has_all_its_figures(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    text = "round: r\nexperiments: {e: {path: '{seed}', grid: {seed: [0, 1]}, command: 'true'}}\n"
    entries = [{"stage": "train", "step": step, "energy": 1.0 / step} for step in (10, 20)]
    content = {"metric": None, "mode": None, "best": None, "epochs": entries, "final": {"energy": 0.05}}
    record_runs(place, text, {"0": content, "1": content}, {one: progress(20) for one in "01"})
    assert plot_experiments.refresh("r", place, jobs=1) == []
    store = FigureStore.of(place.results("r") / "plots")
    assert set(store.figures) == {"curves/0", "curves/1", "overviews/e_results", "overviews/e_learning"}
    assert store.figures["overviews/e_learning"].caption.startswith("energy of each setting")
    page = report.make_report("r", place)[0].read_text()
    assert "is not ranked: it is not known whether the lowest or the highest energy is best" in page


# ------------------------------------------------------------------------------------------------ early end, divergence

ENDS: list[tuple[dict[str, Any], str]] = [
    ({"ended": "time limit"}, "ended early (time limit)"),
    ({"ended": "early stopping"}, "ended early (early stopping)"),
    ({"diverged": {"step": 4200, "why": "the loss is nan"}}, "diverged at step 4200 (the loss is nan)"),
    ({"diverged": {"step": 4200, "why": "loss"}, "ended": "stop"}, "diverged at step 4200 (loss), ended early (stop)"),
]


@pytest.mark.parametrize(("more", "reported"), ENDS, ids=[text for _, text in ENDS])
def test_why_training_ended_early_is_shown(tmp_path: Path, more: dict[str, Any], reported: str) -> None:
    gans = write(tmp_path, {"tuned/0": more}, Cause.DIVERGED if "diverged" in more else Cause.COMPLETED)
    entry = next(one for one in gans.found.entries if one.path == "tuned/0")
    made = learning_curves.draw(entry, ())
    assert reported in made.figure.get_suptitle().replace("\n", " ") and reported in made.caption
    frame = frame_of(gans.found).set_index("path")
    assert frame.ended_early["tuned/0"] == reported and not isinstance(frame.ended_early["tuned/1"], str)
    with mock.patch.object(report, "refresh", return_value=[]):
        assert reported in report.make_report("r", gans.place)[0].read_text()


def test_a_partial_epoch_is_marked_and_named_in_the_caption(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    epochs = [{"epoch": 1, "step": 10, "x": 1.0}, {"epoch": 2, "step": 14, "x": 2.0, "partial": True}]
    text = "round: r\nexperiments: {e: {path: e, command: 'true'}}\n"
    record_runs(place, text, {"e": {"epochs": epochs, "ended": "time limit"}}, {"e": {"epoch": 1, "epochs": 5}})
    (entry,) = read_round("r", place).entries
    made = learning_curves.draw(entry, ())
    assert "1 of 5 epochs, ended early (time limit)" in made.caption
    assert "Open circle: an epoch that the time limit ended early." in made.caption
    (axes,) = made.figure.axes
    (circle,) = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert np.asarray(circle.get_xydata()).tolist() == [[2.0, 2.0]]
    assert frame_of(read_round("r", place)).epochs_done.item() == 1


# --------------------------------------------------------------------------------------------------- data frames


def test_data_frames_have_both_counts(gans: Gans) -> None:
    frame = frame_of(gans.found).set_index("path").loc["tuned/0"]
    assert (frame.unit, frame.steps_done, frame.steps_planned, frame.seconds_per_step) == ("step", 5000, 5000, 0.01)
    assert (frame.epochs_done, math.isnan(frame.seconds_per_epoch)) == (0, True)
    epochs = epochs_of(gans.found).query("path == 'tuned/0'")
    assert epochs.step.tolist() == [500, 1000, *range(1500, 5001, 500)]
    assert epochs.fid.notna().sum() == 2


def test_the_methods_text_does_not_claim_epochs_for_runs_that_count_steps(tmp_path: Path) -> None:
    gans = write(tmp_path)
    file = gans.place.rounds / "r.yaml"
    file.write_text(file.read_text().replace('command: "true"', "study: tiny"))
    (sentence,) = checkpoints(Facts.of(gans.found))
    assert sentence.startswith("A checkpoint was written at intervals of steps and when a job was stopped.")
