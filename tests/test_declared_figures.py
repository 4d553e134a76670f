"""Declared figures: what a declaration may say, which runs and values are shown, and a metric against a config key."""

from __future__ import annotations

import csv
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

import pytest
from family_rounds import write_family
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import folders_in, record_runs

from analysis import plot_experiments
from analysis.declared.draw import draw
from analysis.declared.runs import FigureRuns
from analysis.declared.values import swept_geometrically
from analysis.figure_store import FigureStore
from analysis.rounds import Folders, RoundRecords, WithBaseline, read_round
from analysis.table_rows import RoundResults
from roundhouse.config.round import load_round
from roundhouse.errors import RoundhouseError
from roundhouse.figures import Figure, Kind
from roundhouse.metrics import Declarations
from roundhouse.model.causes import Cause

ROUND = """
round: sweep
metrics:
  val_score: {label: validation score, mode: max, main: true, scale: percent}
experiments:
  plain: {path: "plain/{seed}", grid: {seed: [0, 1]}, config: {size: 1}, command: "true"}
  sized: {path: "{kind}/{size}/{seed}", grid: {seed: [0, 1], kind: [a, b], size: [1, 10, 100]}, command: "true",
          baseline: plain}
"""
MEASURED = {"epochs": [], "metric": "val_score", "mode": "max", "best": {"val_score": 0.5}}


def score(path: str) -> float:
    """Of the test data; another number for each run."""
    return 0.1 + sum(map(ord, path)) % 97 / 200


def paths(place: Folders) -> list[str]:
    return [one.path for one in load_round("sweep", place.rounds).experiments]


def swept(folder: Path, figures: str, measured: bool = True) -> Folders:
    """A round of two kinds at three sizes with a baseline, and these figures."""
    place = folders_in(folder)
    text = f"{ROUND}figures:\n{figures}"
    place.rounds.mkdir(parents=True)
    (place.rounds / "sweep.yaml").write_text(text)
    results = {one: {**MEASURED, "final": {"test_score": score(one)}} for one in paths(place)} if measured else {}
    record_runs(place, text, results)
    return place


def with_baselines(found: RoundRecords) -> list[WithBaseline]:
    return [(one, tuple(found.baseline_of(one))) for one in found.entries]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


# --------------------------------------------------------------------------------------------------- the declaration


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "agains", "over": "a"}, "unknown kind 'agains': did you mean 'against'?"),
        ({"kind": "against"}, "kind against needs the key 'over'"),
        ({"kind": "against", "over": "a", "threshold": 1.0}, "kind against has no key 'threshold'"),
        ({"kind": "box", "arrays": ("a",)}, "did you mean 'array'?"),
        ({"kind": "box", "array": "a", "metric": "m"}, "a metric or an array, not both"),
        ({"kind": "heatmap", "keys": ("a",)}, "must have 2 names (got 1)"),
        ({"kind": "epochs", "metrics": tuple("abcdefg")}, "must have 1 to 6 names (got 7)"),
        ({"kind": "interaction", "keys": ("a", "b"), "separator": "+"}, "needs one key in keys"),
        ({"kind": "images", "arrays": ("truth",), "diverging": ("trut",)}, "did you mean 'truth'?"),
        ({"kind": "images", "arrays": ("a",), "rows": "array"}, "rows and columns are both array"),
        ({"kind": "images", "arrays": ("a", "b"), "columns": "setting"}, "only one array is shown"),
        ({"kind": "images", "arrays": ("a",), "samples": (-1,)}, "counted from 0"),
    ],
)
def test_a_wrong_declaration_is_one_clear_error(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RoundhouseError) as raised:
        Figure(**keys)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_every_key_of_a_declaration_belongs_to_a_kind() -> None:
    filled = {"arrays": ("a",), "keys": ("a", "b"), "metrics": ("a",), "over": "a"}
    needs = {"against": "over", "tradeoff": "over", "images": "arrays", "epochs": "metrics", "box": ""}
    used = set()
    for kind in get_args(Kind):
        needed = needs.get(kind, "keys")
        minimal = {"kind": kind, **({needed: filled[needed]} if needed else {})}
        Figure(**minimal)
        for one in fields(Figure):
            value: Any = {"threshold": 1.0, "rows": "setting", "columns": "setting", "samples": (1,)}.get(one.name, "x")
            value = ("a",) if "tuple" in str(one.type) and one.name != "samples" else value
            try:
                Figure(**{**minimal, one.name: filled.get(one.name, value)})
                used.add(one.name)
            except RoundhouseError:
                continue
    assert used | {"kind", "separator"} == {one.name for one in fields(Figure)}


def test_mistakes_in_a_round_file_have_their_line_and_the_nearest_name(tmp_path: Path) -> None:
    text = f"""{ROUND}figures:
  one: {{kind: against, over: siz}}
  two: {{kind: against, over: size, by: knd}}
  three: {{kind: box, groups: [plane]}}
"""
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(RoundhouseError) as raised:
        load_round("sweep", tmp_path)
    assert str(raised.value).splitlines() == [
        f"{tmp_path}/sweep.yaml:10: figures.one.over: no experiment has the config key 'siz': did you mean 'size'?",
        f"{tmp_path}/sweep.yaml:11: figures.two.by: no experiment has the config key 'knd': did you mean 'kind'?",
        f"{tmp_path}/sweep.yaml:12: figures.three.groups: there is no group 'plane': did you mean 'plain'?",
    ]
    (tmp_path / "sweep.yaml").write_text(f"{ROUND}figures:\n  one: {{kind: heatmap, keys: [size]}}\n")
    with pytest.raises(RoundhouseError, match=r"sweep\.yaml:10: figures\.one: keys: must have 2 names \(got 1\)"):
        load_round("sweep", tmp_path)


def test_a_round_file_replaces_and_removes_figures_of_the_study() -> None:
    study = Declarations(figures={"a": Figure("box"), "b": Figure("box")})
    made = study.updated({}, None, {"a": None, "c": Figure("box", by="kind")})
    assert made.figures == {"b": Figure("box"), "c": Figure("box", by="kind")}


def test_a_round_has_the_figures_of_the_round_that_it_extends(tmp_path: Path) -> None:
    figures = "  one: {kind: against, over: size}\n  two: {kind: box}\n  three: {kind: box, groups: [sized]}\n"
    (tmp_path / "sweep.yaml").write_text(f"{ROUND}figures:\n{figures}")
    (tmp_path / "more.yaml").write_text("round: more\nextends: sweep\ngroups: [plain]\nfigures: {two: null}\n")
    assert load_round("more", tmp_path).figures == {
        "one": Figure("against", over="size"), "two": None, "three": Figure("box", groups=("sized",)),
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------- drawing in a round


def test_declared_figures_are_drawn_kept_up_to_date_and_removed(tmp_path: Path) -> None:
    place = swept(tmp_path, "  score: {kind: against, over: size, by: kind, title: Score by size}\n")
    assert plot_experiments.refresh("sweep", place, jobs=1) == []
    folder = place.results("sweep") / "plots"
    stored = FigureStore.of(folder).figures["declared/score"]
    assert stored.title == "Score by size" and "12 of 12 runs are completed." in stored.caption
    drawn = (folder / "declared/score.png").stat().st_mtime_ns
    assert plot_experiments.refresh("sweep", place, jobs=1) == []
    assert (folder / "declared/score.png").stat().st_mtime_ns == drawn
    file = place.rounds / "sweep.yaml"
    file.write_text(file.read_text().replace("Score by size", "Another title"))
    plot_experiments.refresh("sweep", place, jobs=1)
    assert FigureStore.of(folder).figures["declared/score"].title == "Another title"
    file.write_text(ROUND)
    plot_experiments.refresh("sweep", place, jobs=1)
    assert not (folder / "declared/score.png").exists() and "declared/score" not in FigureStore.of(folder).figures


def test_a_metric_that_no_run_has_is_a_problem_with_the_nearest_name(tmp_path: Path) -> None:
    place = swept(tmp_path, "  score: {kind: against, over: size, metric: val_scor}\n  other: {kind: box}\n")
    (problem,) = [one for one in plot_experiments.refresh("sweep", place, jobs=1) if "declared/score" in one]
    assert "no run has the metric 'val_scor': did you mean 'val_score'?" in problem


def test_before_any_run_has_measured_something_nothing_is_drawn_and_nothing_is_wrong(tmp_path: Path) -> None:
    place = swept(tmp_path, "  score: {kind: against, over: size}\n", measured=False)
    (place.experiments / "sweep").mkdir(parents=True)
    assert plot_experiments.refresh("sweep", place, jobs=1) == []


def test_figures_for_other_rounds_are_left_out_but_a_slip_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = swept(tmp_path, "  score: {kind: against, over: size}\n")
    found = read_round("sweep", place)
    of_study = {"a": Figure("against", over="density"), "b": Figure("box", groups=("other",)),
                "c": Figure("against", over="siz")}  # fmt: skip
    declared = replace(found.declared, figures=of_study)
    entries = tuple(replace(one, declared=declared) for one in found.entries)
    monkeypatch.setattr(plot_experiments, "read_round", lambda *_: replace(found, entries=entries))
    problems = plot_experiments.refresh("sweep", place, jobs=1)
    assert problems == [
        "figure declared/c is not drawn: over: no experiment has the config key 'siz': did you mean 'size'?"
    ]


# ------------------------------------------------------------------------------------------------------------- against


def test_against_shows_mean_deviation_and_n_of_the_final_metric_and_the_baseline(tmp_path: Path) -> None:
    place = swept(tmp_path, "  score: {kind: against, over: size, by: kind}\n")
    found = read_round("sweep", place)
    made = draw("score", found.declared.figures["score"], with_baselines(found))
    rows = {(row["role"], row["setting"], row["size"]): row for row in made.table}
    assert {key for key in rows if key[0] == "result"} == {
        ("result", kind, size) for kind in "ab" for size in (1, 10, 100)
    }
    for (role, name, size), row in rows.items():
        places = [f"{name}/{int(size or 0)}/{seed}" for seed in (0, 1)] if role == "result" else ["plain/0", "plain/1"]
        values = [100 * score(one) for one in places]
        assert row["mean"] == pytest.approx(fmean(values)) and row["sd"] == pytest.approx(stdev(values))
        assert (row["n"], row["metric"], row["unit"]) == (2, "test_score", "%")
    (axes,) = made.figure.axes
    assert axes.get_xscale() == "log" and axes.get_ylabel() == "test score (%)"
    assert "n 2" in made.caption and "the baseline, group plain" in made.caption
    assert "a: from" in made.alt


def test_a_final_metric_of_another_name_has_the_direction_of_its_metric(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_family("genegan", place)
    found = read_round("genegan", place)
    runs = FigureRuns(found.declared.figures["arms"], with_baselines(found))
    assert (runs.metric, runs.mode(runs.metric), runs.mode("seconds"), runs.mode("loss_d")) == (
        "fid_5k", "min", "min", None,
    )  # fmt: skip


def test_a_run_that_is_not_completed_is_in_no_mean_and_chooses_no_metric(tmp_path: Path) -> None:
    figures = "  score: {kind: against, over: size, by: kind}\n"
    place, text = swept(tmp_path, figures, measured=False), f"{ROUND}figures:\n{figures}"
    *others, last = paths(place)
    results = {one: {**MEASURED, "final": {"test_score": score(one)}} for one in others}
    record_runs(place, text, {last: {**MEASURED, "final": {"other": 0.0}}}, cause=Cause.WALLTIME)
    assert not plot_experiments.refresh("sweep", place, jobs=1), "nothing is completed yet, which is no fault"
    record_runs(place, text, results)
    found = read_round("sweep", place)
    made = draw("score", found.declared.figures["score"], with_baselines(found))
    counts = {(row["setting"], row["size"]): row["n"] for row in made.table if row["role"] == "result"}
    assert counts == {(kind, size): 2 - ((kind, size) == ("b", 100)) for kind in "ab" for size in (1, 10, 100)}
    assert "11 of 12 runs are completed." in made.caption


def test_a_baseline_among_the_shown_groups_is_in_no_line_of_results(tmp_path: Path) -> None:
    keys = "kind: against, over: size, by: shape, groups: [plain, sized]"
    text = ROUND.replace("config: {size: 1}", "config: {size: 1, shape: a}").replace("kind", "shape")
    place = folders_in(tmp_path)
    place.rounds.mkdir(parents=True)
    (place.rounds / "sweep.yaml").write_text(text)
    results = {one: {**MEASURED, "final": {"test_score": score(one)}} for one in paths(place)}
    record_runs(place, f"{text}figures:\n  score: {{{keys}}}\n", results)
    found = read_round("sweep", place)
    made = draw("score", found.declared.figures["score"], with_baselines(found))
    assert {row["n"] for row in made.table if row["role"] == "result"} == {2}
    assert [row["n"] for row in made.table if row["role"] == "baseline"] == [2]


def test_a_result_of_another_config_than_that_of_the_round_file_is_not_shown_as_one_of_it(tmp_path: Path) -> None:
    place = swept(tmp_path, "  score: {kind: against, over: size, by: kind}\n")
    file = place.rounds / "sweep.yaml"
    file.write_text(file.read_text().replace("config: {size: 1}", "config: {size: 2}"))
    found = read_round("sweep", place)
    made = draw("score", found.declared.figures["score"], with_baselines(found))
    assert {row["role"] for row in made.table} == {"result"}
    results = RoundResults.of(found)
    assert {row.group: len(row.values) for row in results.rows} == {"plain": 0, "sized": 2}


def test_runs_that_a_line_takes_together_are_not_called_seeds(tmp_path: Path) -> None:
    text = ROUND.replace("kind: [a, b]", "kind: [a, b], rate: [1, 2]").replace("{kind}/", "{kind}/{rate}/")
    place = folders_in(tmp_path)
    place.rounds.mkdir(parents=True)
    (place.rounds / "sweep.yaml").write_text(text)
    results = {one: {**MEASURED, "final": {"test_score": score(one)}} for one in paths(place)}
    record_runs(place, f"{text}figures:\n  score: {{kind: against, over: size, by: kind}}\n", results)
    found = read_round("sweep", place)
    made = draw("score", found.declared.figures["score"], with_baselines(found))
    assert "over runs, n 4. Runs that differ in rate are taken together." in made.caption
    assert "seeds" not in made.caption


def test_missing_runs_one_seed_and_text_values(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    write_family("growth", place, missing=lambda path: "/0.1/" in path or not path.endswith("/0"))
    found = read_round("growth", place)
    made = draw("cliff", found.declared.figures["cliff"], with_baselines(found))
    assert "One run each, so the noise between seeds is unknown" in made.caption
    assert not any(row.get("density") == 0.1 for row in made.table)
    swept_round = read_round("sweep", swept(tmp_path / "text", "  score: {kind: against, over: kind}\n"))
    with pytest.raises(RoundhouseError, match="the values of kind are not numbers"):
        draw("score", swept_round.declared.figures["score"], with_baselines(swept_round))


@given(st.floats(1e-6, 1e6), st.floats(1.5, 10), st.integers(3, 8))
def test_an_axis_is_logarithmic_exactly_where_the_values_were_swept_so(start: float, step: float, count: int) -> None:
    assert swept_geometrically([start * step**n for n in range(count)])
    assert not swept_geometrically([start * (1 + step * n) for n in range(count)])
    assert not swept_geometrically([0.0, *(start * step**n for n in range(count))])
