"""What a study or a round file declares about metrics, and that nothing else knows the metrics of a study."""

from __future__ import annotations

import csv
import importlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from recorded_runs import folders_in, record_runs
from rounds_for_tests import REPOSITORY, Rounds

from analysis import figure_requests, plot_experiments, report, tables
from analysis.figure_store import FigureStore
from analysis.round_summary import rankings, summaries_of
from analysis.rounds import Folders, read_round
from roundhouse.errors import RoundhouseError
from roundhouse.metrics import Declarations, Metric, declared_by
from toolbox.weekly.period import Period
from toolbox.weekly.rounds import Activity, results_section

STUDIES = sorted(path.parent.name for path in (REPOSITORY / "studies").glob("*/__init__.py"))
GENERIC = [
    path
    for folder in ("analysis", "toolbox")
    for path in sorted((REPOSITORY / folder).rglob("*"))
    if path.suffix in (".py", ".sh", ".js", ".jinja")
    and path.name != "charlie.py"
    and "experiment_" not in str(path.relative_to(REPOSITORY).parent)
]


def found_in(text: str, words: Iterable[str]) -> set[str]:
    return {word for word in words if re.search(rf"\b{re.escape(word)}\b", text)}


def words_of_studies() -> set[str]:
    """The names of the studies and of all metrics that they declare."""
    metrics = (name for study in STUDIES for name in declared_by(study, REPOSITORY).metrics)
    return {*STUDIES, *metrics}


@pytest.mark.parametrize("path", GENERIC, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_generic_code_names_no_study_and_no_metric_of_one(path: Path) -> None:
    assert not found_in(path.read_text(), words_of_studies())


def test_a_name_of_a_study_or_a_metric_would_be_found() -> None:
    words = words_of_studies()
    assert {"distillation", "val_accuracy", "gradient_ratio", "loss"} <= words
    assert found_in('if entry.study == "distillation":', words) == {"distillation"}
    assert found_in('chance = final["chance_accuracy"]', words) == {"chance_accuracy"}
    assert not found_in("losses, the_loss_of_x", words)


@pytest.mark.parametrize("study", STUDIES)
def test_the_declarations_of_a_study_load_without_torch_and_numpy(study: str) -> None:
    import subprocess

    program = f"import studies.{study}.metrics, sys; print([one for one in ('torch', 'numpy') if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ------------------------------------------------------------------------------------------------------ one metric


def test_the_label_of_an_undeclared_metric_is_its_words() -> None:
    none = Declarations()
    assert [none.label(one) for one in ("fid", "val_iou", "train_psnr", "test_", "test_hit_rate")] == [
        "fid", "validation iou", "training psnr", "test ", "test hit rate"
    ]  # fmt: skip
    assert none.axis("val_iou") == "validation iou"
    assert (none.of("accuracy").factor, none.main) == (1.0, None)


def test_unit_factor_and_reference_follow_from_the_declaration() -> None:
    declared = Declarations(
        {
            "val_hits": Metric("hit rate", scale="percent", baseline="guessed", main=True),
            "guessed": Metric("guessing"),
            "psnr": Metric(scale="db", baseline=20),
            "time": Metric(unit="s"),
        }
    )
    assert [declared.axis(one) for one in ("val_hits", "psnr", "time")] == ["hit rate (%)", "psnr (dB)", "time (s)"]
    assert declared.of("val_hits").factor == 100
    assert declared.reference("val_hits", {"guessed": 0.25}) == 0.25
    assert declared.reference("val_hits", {}) is None
    assert (declared.reference_label("val_hits"), declared.reference_label("psnr")) == ("guessing", "reference")
    assert (declared.reference("psnr", {}), declared.reference_label("time")) == (20, None)
    assert declared.main == "val_hits"


def test_a_final_metric_is_shown_like_the_one_that_it_belongs_to() -> None:
    declared = Declarations(
        {"val_hits": Metric("hit rate", scale="percent"), "fid": Metric(mode="min", final="fid_50k")}
    )
    assert declared.final_of("val_hits") == "test_hits"
    assert declared.of("test_hits").percent and declared.label("test_hits") == "test hit rate"
    assert (declared.final_of("fid"), declared.of("fid_50k").mode) == ("fid_50k", "min")
    assert declared.results_in(["loss", "fid_50k", "test_hits"]) == ["fid_50k", "test_hits"]


def test_a_round_file_overrides_key_by_key() -> None:
    study = Declarations({"a": Metric("A", "m", mode="min", main=True), "b": Metric(mode="max")}, apart=("domain",))
    made = study.updated({"a": {"mode": "max"}, "b": {"main": True}, "c": {"label": "C"}}, None, {})
    assert made.metrics == {
        "a": Metric("A", "m", mode="max"), "b": Metric(mode="max", main=True), "c": Metric("C")
    }  # fmt: skip
    assert made.apart == ("domain",) and study.updated({}, [], {}).apart == ()


def test_a_wrong_scale_or_mode_is_refused() -> None:
    for wrong in ({"scale": "percnt"}, {"mode": "up"}):
        with pytest.raises(RoundhouseError, match=r"must be one of .* \(got '"):
            Metric(**wrong)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------- metrics.py of a study

WRONG = {
    "from roundhouse.metrics import Metric\nMETRICS = {'a': Metric(scale='percnt')}\n": "metrics.py, line 2: ",
    "import no_such_module\n": "metrics.py, line 1: ModuleNotFoundError",
    "METRICS = {'a': 'percent'}\n": "METRICS must map the name of each metric to a Metric",
    "METRICS = {}\nARRAYS = ['logits']\n": "ARRAYS must map the name of each array to its meaning",
    "APART = 'dataset'\n": "APART must be a list of config keys (got 'dataset')",
    "from roundhouse.metrics import Metric\nMETRICS = {'a': Metric(main=True), 'b': Metric(main=True)}\n":
        "only one metric can have main=True (got a, b)",
}  # fmt: skip


@pytest.fixture
def own_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a package of studies of its own, which is imported instead of the real one."""
    (tmp_path / "studies" / "tiny").mkdir(parents=True)
    (tmp_path / "studies" / "__init__.py").touch()
    (tmp_path / "studies" / "tiny" / "__init__.py").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == "studies"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return tmp_path


@pytest.mark.parametrize(("content", "message"), WRONG.items(), ids=range(len(WRONG)))
def test_a_mistake_in_the_declarations_is_one_line_and_stops_nothing(
    own_studies: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    (own_studies / "studies/tiny/metrics.py").write_text(content)
    with pytest.raises(RoundhouseError, match=re.escape(message)):
        declared_by("tiny", own_studies)
    monkeypatch.setattr("analysis.rounds.REPOSITORY", own_studies)
    place = folders_in(own_studies)
    record_runs(
        place, "round: r\nstudy: tiny\nexperiments: {e: {path: e}}\n", {"e": {"epochs": [{"epoch": 1, "a": 1}]}}
    )
    found = read_round("r", place)
    (problem,) = found.problems
    assert problem.startswith("metrics are shown without declarations: ") and message in problem and "\n" not in problem
    assert found.entries[0].metrics().epochs


def test_a_study_without_declarations_declares_nothing(own_studies: Path) -> None:
    assert declared_by("tiny", own_studies) == declared_by(None, own_studies) == Declarations()


# ------------------------------------------------------------------------------------------- a round of commands

ROUND = """\
round: r
apart: [region]
metrics:
  val_hits: {label: hit rate, scale: percent, mode: max, main: true, baseline: guessed}
  guessed: {label: guessing}
experiments:
  runs:
    path: "{region}/{width}/{seed}"
    grid: {region: [north, south], width: [1, 2], seed: [0, 1]}
    command: "true"
"""


@pytest.fixture
def declared_round(tmp_path: Path) -> Folders:
    """Completed commands that report a final `test_hits` and what guessing gives, and a `val_hits` by epoch."""
    place, metrics = folders_in(tmp_path), {}
    for region, width, seed in ((r, w, s) for r in ("north", "south") for w in (1, 2) for s in (0, 1)):
        value = 0.5 + 0.2 * (width == 2) + 0.1 * (region == "south") + 0.01 * seed
        metrics[f"{region}/{width}/{seed}"] = {
            "epochs": [{"epoch": epoch, "val_hits": value * epoch / 2} for epoch in (1, 2)],
            "final": {"val_hits": value, "test_hits": value - 0.05, "guessed": 0.25},
        }
    record_runs(place, ROUND, metrics)
    return place


def test_a_round_file_makes_the_results_of_commands_complete(declared_round: Folders) -> None:
    found = read_round("r", declared_round)
    made = rankings(found, summaries_of(found)[0])
    assert [(one.dataset, one.metric, one.mode, one.result) for one in made] == [
        ("north", "val_hits", "max", "test_hits"), ("south", "val_hits", "max", "test_hits")
    ]  # fmt: skip
    assert [one.settings[0].label for one in made] == ["width 2", "width 2"]
    assert {one.settings[0].reference for one in made} == {0.25}


def test_tables_of_commands_have_their_data_sets_percent_and_reference(declared_round: Folders) -> None:
    folder = declared_round.results("r") / "tables"
    tables.write_tables(read_round("r", declared_round), folder)
    with (folder / "performance_matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["setting"], row["role"], row["north_n"]) for row in rows] == [
        ("width 1", "", "2"), ("width 2", "", "2"), ("guessing", "guessing", "")
    ]  # fmt: skip
    assert float(rows[1]["south_mean"]) == pytest.approx(0.755)
    text = (folder / "table.tex").read_text()
    assert r"Round r: test hit rate (\%)" in text and r"75.50 $\pm$ 0.71 (2)" in text and " & guessing & 25.00" in text


def test_report_and_weekly_summary_show_a_declared_metric_of_commands(declared_round: Folders) -> None:
    page = report.make_report("r", declared_round)[0].read_text()
    assert ">guessing</th>" in page and "25.00\u00a0%" in page
    assert "ranked by hit rate (highest first)" in page and "hit rate (%)" not in page.split('id="best"')[0]
    week = "\n".join(results_section([Activity.of(read_round("r", declared_round), Period(0, 1e12))]))
    assert "guessing 25.00 %" in week and "75.5 ± 0.7 % (n = 2)" in week


def test_figures_of_commands_have_a_panel_for_each_value_that_is_kept_apart(declared_round: Folders) -> None:
    assert plot_experiments.refresh("r", declared_round, jobs=1) == []
    folder = declared_round.results("r") / "plots"
    for name, column in (("results", "test_hits"), ("learning", "val_hits_mean")):
        with (folder / f"overviews/runs_{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {row["panel"] for row in rows} == {"north", "south"} and all(row[column] for row in rows)


def test_changed_declarations_make_figures_out_of_date(declared_round: Folders) -> None:
    plot_experiments.refresh("r", declared_round, jobs=1)
    store = FigureStore.of(declared_round.results("r") / "plots")
    file = declared_round.rounds / "r.yaml"
    file.write_text(file.read_text().replace("label: hit rate", "label: hits"))
    figures = figure_requests.figure_requests(read_round("r", declared_round), store.folder, ("png",))
    assert not any(store.is_current(one.name, one.key, ("png",)) for one in figures)


def test_without_declarations_a_share_is_no_percentage_and_nothing_is_apart(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    text = "round: r\nexperiments: {e: {path: '{dataset}/{seed}', grid: {dataset: [a, b], seed: [0]}, command: 'true'}}"
    record_runs(place, text, {f"{one}/0": {"accuracy": 0.5} for one in "ab"})
    folder = place.results("r") / "tables"
    tables.write_tables(read_round("r", place), folder)
    cells = (folder / "table.tex").read_text()
    assert "0.5 ($n=1$)" in cells and r"\%" not in cells
    assert "e & a & " in cells and " & b & " in cells, "two settings, which are not averaged"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("metrics: {a: {scale: percnt}}", "metrics.a.scale should be 'linear', 'percent', 'db' or 'log', not 'percnt'"),
        ("metrics: {a: {mode: up}}", "metrics.a.mode should be 'min' or 'max', not 'up'"),
        ("metrics: {a: {lable: A}}", "unknown key 'metrics.a.lable': did you mean 'label'?"),
        ("metrics: {a: {baseline: [1]}}", "metrics.a.baseline should be"),
        ("apart: dataset", "apart should be a list"),
    ],
)
def test_a_mistake_in_the_round_file_names_the_line(rounds: Rounds, line: str, message: str) -> None:
    rounds.write({"e": {"path": "e", "command": "true"}})
    file = rounds.rounds / "r.yaml"
    file.write_text(f"{file.read_text()}\n{line}\n")
    done = rounds.call("--dry-run")
    assert done.returncode == 2
    number = file.read_text().splitlines().index(line) + 1
    assert f"r.yaml:{number}: {message}" in done.stderr


def test_the_declarations_are_no_part_of_an_experiment(declared_round: Folders) -> None:
    from roundhouse.config.round import load_round

    before = [one.config_hash() for one in load_round("r", declared_round.rounds).experiments]
    (declared_round.rounds / "r.yaml").write_text(f"round: r\n{ROUND[ROUND.index('experiments:') :]}")
    assert [one.config_hash() for one in load_round("r", declared_round.rounds).experiments] == before
