"""plot_experiments.py: what is drawn, what is not drawn again, and what happens to unusable records."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import record_runs
from rounds_for_tests import REPOSITORY, snapshot
from synthetic_rounds import unsynced, write_experiment, write_mixed

from analysis import plot_experiments as plots
from analysis.figure_store import FigureStore, StoredFigure, file_name
from analysis.rounds import Folders
from roundhouse.config.round import load_round
from roundhouse.model.attempt import Opened
from roundhouse.model.causes import Cause
from roundhouse.store import record

SMALL = """\
round: small
study: distillation
defaults: {dataset: cifar10}
experiments:
  student:
    path: "{method}/{seed}"
    grid: {method: [pure], seed: [0, 1]}
    config: {model: ResNet8}
  control:
    path: "{method}/alpha_{alpha}/{seed}"
    grid: {method: [control], alpha: [0.5], seed: [0, 1]}
    config: {model: ResNet8}
    baseline: student
"""
EPOCHS = 3
ALL = 8  # figures of the small round: four curves, and two overviews of each of its two groups


@dataclass
class Studio:
    """A folder for rounds, and what is drawn of them."""

    folder: Path

    @property
    def place(self) -> Folders:
        return Folders(self.folder / "experiments", self.folder / "rounds", self.folder / "analysis")

    def write(self, text: str = SMALL, name: str = "small", **options: Any) -> None:
        """A round of completed experiments."""
        self.place.rounds.mkdir(exist_ok=True)
        (self.place.rounds / f"{name}.yaml").write_text(text)
        with unsynced():
            for experiment in load_round(name, self.place.rounds).experiments:
                write_experiment(self.place.experiments, experiment, **{"epochs": EPOCHS, "examples": 50, **options})

    def metrics_file(self, path: str, name: str = "small") -> Path:
        return self.place.experiments / name / path / "attempts/1/metrics.json"

    def argv(self, *options: str, jobs: int = 1) -> list[str]:
        places = ["--experiments", str(self.place.experiments), "--rounds", str(self.place.rounds)]
        return [*options, *places, "--analysis", str(self.place.analysis), "--jobs", str(jobs)]

    def draw(self, *options: str) -> int:
        return plots.main(self.argv(*options))

    def gallery(self, name: str = "small") -> FigureStore:
        return FigureStore.of(self.place.results(name) / "plots")

    def drawn(self, name: str = "small") -> dict[str, tuple[int, str]]:
        return snapshot(self.place.results(name) / "plots")


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """The small round, drawn once. Tests that use it change nothing."""
    made = Studio(tmp_path_factory.mktemp("painted"))
    made.write()
    made.before = snapshot(made.place.experiments)  # type: ignore[attr-defined]
    assert made.draw() == 0
    return made


@pytest.fixture
def copy(painted: Studio, tmp_path: Path) -> Studio:
    """The small round as it was drawn, for a test to change."""
    subprocess.run(["cp", "-a", f"{painted.folder}/.", str(tmp_path)], check=True)
    made = Studio(tmp_path)
    gallery = made.gallery()
    keys = {
        one.name: one.key
        for one in plots.figure_requests(plots.read_round("small", made.place), gallery.folder, ("png",))
    }
    gallery.figures = {name: replace(one, key=keys[name]) for name, one in gallery.figures.items()}
    gallery.save()
    return made


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The names of the figures whose picture is another file now, or is gone."""
    figures = {name for name in before.keys() | after.keys() if name.endswith(".png")}
    return {name.removesuffix(".png") for name in figures if before.get(name) != after.get(name)}


def curve(path: str) -> str:
    return f"curves/{file_name(path)}"


# ---------------------------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "Qt4Agg"])
def test_the_backend_of_a_notebook_does_not_prevent_figures(studio: Studio, backend: str) -> None:
    """In the analysis environment, a notebook's backend need not exist, and matplotlib then fails on import."""
    studio.write()
    words = [sys.executable, REPOSITORY / "analysis/plot_experiments.py", "--round", "small", *studio.argv(jobs=2)]
    env = {**os.environ, "MPLBACKEND": backend}
    done = subprocess.run(words, env=env, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(studio.gallery().figures) == ALL
    words = [sys.executable, REPOSITORY / "analysis/charlie.py", "--help"]  # it imports matplotlib at its start
    assert subprocess.run(words, env=env, check=False, capture_output=True).returncode == 0


def test_each_experiment_gets_its_curves_and_each_group_its_overviews(painted: Studio) -> None:
    figures = painted.gallery().figures
    assert set(figures) == {
        *(curve(path) for path in ("pure/0", "pure/1", "control/alpha_0.5/0", "control/alpha_0.5/1")),
        *(f"overviews/{group}_{kind}" for group in ("student", "control") for kind in ("results", "learning")),
    }
    assert figures[curve("pure/0")].subject == "pure/0"
    assert figures["overviews/control_results"].subject is None


def test_records_are_only_read_and_no_file_is_added_to_them(painted: Studio) -> None:
    assert snapshot(painted.place.experiments) == painted.before  # type: ignore[attr-defined]


def test_captions_name_the_baseline_and_how_many_experiments_it_has(painted: Studio) -> None:
    figures = painted.gallery().figures
    assert "baseline, group student (2 experiments)" in figures[curve("control/alpha_0.5/0")].caption
    assert "No baseline" in figures[curve("pure/0")].caption
    assert "baseline, group student" in figures["overviews/control_learning"].caption


def test_the_table_of_curves_holds_exactly_the_epochs_of_the_metrics_file(painted: Studio) -> None:
    reported = json.loads(painted.metrics_file("control/alpha_0.5/1").read_bytes())["epochs"]
    with (painted.gallery().folder / f"{curve('control/alpha_0.5/1')}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [{key: row[key] for key in reported[0]} for row in rows] == [
        {key: str(value) for key, value in epoch.items()} for epoch in reported
    ]


def test_the_table_of_curves_holds_the_mean_and_the_range_of_the_baseline(painted: Studio) -> None:
    both = [json.loads(painted.metrics_file(f"pure/{seed}").read_bytes())["epochs"] for seed in (0, 1)]
    with (painted.gallery().folder / f"{curve('control/alpha_0.5/0')}.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, *of_seeds in zip(rows, *both, strict=True):
        values = [epoch["val_accuracy"] for epoch in of_seeds]
        reported = [float(row[f"baseline_val_accuracy_{what}"]) for what in ("mean", "min", "max", "n")]
        assert reported == pytest.approx([sum(values) / 2, min(values), max(values), 2])


def test_the_table_of_results_has_a_row_for_each_experiment_and_its_baseline(painted: Studio) -> None:
    with (painted.gallery().folder / "overviews/control_results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["role"], row["path"]) for row in rows] == [
        ("result", "control/alpha_0.5/0"), ("result", "control/alpha_0.5/1"),
        ("baseline", "pure/0"), ("baseline", "pure/1"),
    ]  # fmt: skip
    final = json.loads(painted.metrics_file("pure/1").read_bytes())["final"]
    assert float(rows[3]["test_accuracy"]) == final["test_accuracy"]
    assert float(rows[3]["test_loss"]) == final["test_loss"]


def test_equal_records_give_equal_files_in_all_formats(painted: Studio) -> None:
    figures = plots.figure_requests(plots.read_round("small", painted.place), Path(), ("png", "pdf", "svg"))
    chosen = [next(one for one in figures if one.kind == kind) for kind in ("curves", "results", "learning")]
    made = []
    for number in (1, 2):
        folder = painted.folder / f"again{number}"
        for figure in chosen:
            assert isinstance(plots.draw(replace(figure, folder=folder)), StoredFigure)
        made.append({path: reported[1] for path, reported in snapshot(folder).items()})
    assert len(made[0]) == 12
    assert made[0] == made[1]


# ---------------------------------------------------------------------------------------------- what is drawn again


def test_a_second_run_draws_nothing_and_changes_no_file(painted: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    before = painted.drawn()
    assert painted.draw() == 0
    assert painted.drawn() == before
    assert capsys.readouterr().out == "small: 4 curves and 4 overviews, all up to date\n"


def test_a_run_with_nothing_to_draw_imports_neither_matplotlib_nor_numpy_nor_torch(painted: Studio) -> None:
    program = (
        "import sys; from analysis import plot_experiments as plots; code = plots.main(sys.argv[1:]);"
        "print(code, [one for one in ('matplotlib', 'numpy', 'pandas', 'torch', 'rich') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, *painted.argv()], cwd=REPOSITORY, text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_changed_metrics_redraw_that_curve_and_the_overviews_of_its_group_alone(
    copy: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    before = copy.drawn()
    path = copy.metrics_file("control/alpha_0.5/0")
    reported = json.loads(path.read_bytes())
    reported["epochs"][0]["val_accuracy"] = reported["final"]["test_accuracy"] = 0.123
    path.write_text(json.dumps(reported))
    assert copy.draw() == 0
    assert changed(before, copy.drawn()) == {
        curve("control/alpha_0.5/0"), "overviews/control_results", "overviews/control_learning"
    }  # fmt: skip
    assert "3 drawn, 5 up to date" in capsys.readouterr().out


def test_changed_metrics_of_a_baseline_are_out_of_date_wherever_the_baseline_is_shown(copy: Studio) -> None:
    os.utime(copy.metrics_file("pure/0"))
    gallery = copy.gallery()
    figures = plots.figure_requests(plots.read_round("small", copy.place), gallery.folder, ("png",))
    current = {one.name for one in figures if gallery.is_current(one.name, one.key, ("png",))}
    assert current == {curve("pure/1")}


def test_figures_of_experiments_that_left_the_round_are_removed_and_other_files_are_not(
    copy: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy.place.rounds / "small.yaml").write_text(SMALL[: SMALL.index("  control:")])
    (copy.gallery().folder / "curves/mine.png").write_text("mine")
    for _ in range(2):
        assert copy.draw() == 0
        note = "small: control/alpha_0.5/0 and 1 more: the record is not in the round file (any more) and is left out\n"
        assert capsys.readouterr().err == note
    assert set(copy.gallery().figures) == {
        curve("pure/0"), curve("pure/1"), "overviews/student_results", "overviews/student_learning"
    }  # fmt: skip
    assert {path for path in copy.drawn() if path.startswith("curves/")} == {
        *(f"{curve(path)}.{ending}" for path in ("pure/0", "pure/1") for ending in ("png", "csv")), "curves/mine.png",
    }  # fmt: skip


def test_formats_that_were_drawn_before_are_kept_up_to_date(copy: Studio) -> None:
    path = copy.metrics_file("pure/1")
    for experiment in ("pure/0", "control/alpha_0.5/0", "control/alpha_0.5/1"):
        (copy.metrics_file(experiment)).unlink()
    path.touch()
    assert copy.draw("--formats", "svg") == 0
    one = copy.gallery().figures[curve("pure/1")]
    assert one.formats == ("png", "svg")
    for ending in one.formats:
        assert (copy.gallery().folder / f"{one.name}.{ending}").stat().st_mtime_ns > path.stat().st_mtime_ns


# ---------------------------------------------------------------------------------------------- bad records


def test_all_states_are_drawn_as_far_as_they_are_and_the_bad_ones_are_named(
    studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mixed(studio.place.experiments, studio.place.rounds, epochs=4, examples=50)
    before = snapshot(studio.place.experiments)
    assert studio.draw() == 1
    reported = capsys.readouterr()
    cut, damaged = "/pure/ResNet8/1", "/factor_transfer/alpha_0.25/ResNet20_to_ResNet8/0"
    assert len(reported.err.splitlines()) == 2
    assert f"{cut} is skipped: " in reported.err
    assert f"{damaged}: history.json is not valid JSON" in reported.err
    assert reported.out == "mixed: 7 curves and 6 overviews; 13 drawn, 0 up to date\n"
    assert snapshot(studio.place.experiments) == before
    again = studio.draw(), capsys.readouterr()
    assert again[0] == 1
    assert again[1].err == reported.err
    assert again[1].out == "mixed: 7 curves and 6 overviews, all up to date\n"


def test_metrics_files_that_are_garbage_are_reported_by_name_and_their_figures_kept(
    copy: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    before = copy.drawn()
    garbage = {
        "pure/0": b"",
        "pure/1": b'{"epochs": [{"epoch": 1, "loss',
        "control/alpha_0.5/0": b"[1, 2]",
        "control/alpha_0.5/1": b"[" * 100_000,
    }
    for path, content in garbage.items():
        copy.metrics_file(path).write_bytes(content)
    assert copy.draw() == 1
    reported = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in reported] == [f"{path} is skipped" for path in garbage]
    assert copy.drawn() == before


def test_odd_values_single_epochs_and_bare_results_of_commands_are_drawn(studio: Studio) -> None:
    nan, infinite = float("nan"), float("inf")
    epochs = [
        {"epoch": 1, "_x$y$": 1.0, "train_perplexity": 10**400, "val_perplexity": 3.0, "words": "a", "none": None},
        {"epoch": 2, "_x$y$": nan, "train_perplexity": infinite, "val_perplexity": 2.0, "diverged": nan},
        "no mapping",
        {"no": {"epoch": 3}},
    ]
    write_commands(studio, {
        "ü ber $x_1$ 字/0": {"metric": "val_perplexity", "mode": "min", "epochs": epochs},
        "one/0": {"epochs": [{"epoch": 1, "score": 1}]},
        "flat/0": {"score": 3, "size": 1e9, "words": "a"},
    })  # fmt: skip
    assert studio.draw() == 0
    figures = studio.gallery("commands").figures
    assert {one.subject for one in figures.values()} == {"ü ber $x_1$ 字/0", "one/0", None}
    assert {name for name in figures if name.startswith("overviews/")} == {
        "overviews/g0_learning", "overviews/g1_learning", "overviews/g2_results"
    }  # fmt: skip


def write_commands(studio: Studio, left: dict[str, dict[str, Any]]) -> None:
    """A round of commands, one a group, completed, that left these metrics at these paths."""
    groups = "".join(f'  g{number}: {{path: "{path}", command: "true"}}\n' for number, path in enumerate(left))
    record_runs(studio.place, f"round: commands\nexperiments:\n{groups}", left)


def test_rounds_that_grow_while_they_are_drawn_are_drawn_as_far_as_they_are(studio: Studio) -> None:
    studio.write()
    path = studio.metrics_file("pure/0")
    whole = json.loads(path.read_bytes())
    process = subprocess.Popen(
        [sys.executable, "analysis/plot_experiments.py", *studio.argv()], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    number = 0
    while process.poll() is None:
        number += 1
        draft = path.with_name("draft")
        draft.write_text(json.dumps({**whole, "epochs": whole["epochs"][: 1 + number % EPOCHS]}))
        os.replace(draft, path)
        marker = Opened("t", {}, "h", {}, mark=Cause.CANCELLED)
        record.open_attempt(studio.place.experiments / "small/pure/1", 1 + number, marker)
        time.sleep(0.02)
    assert process.stdout is not None
    assert (process.returncode, process.stdout.read()) == (
        0,
        "small: 4 curves and 4 overviews; 8 drawn, 0 up to date\n",
    )


# ---------------------------------------------------------------------------------------------- rounds and options


def test_without_any_round_it_states_it(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    assert studio.draw() == 0
    assert capsys.readouterr().out == f"no rounds in {studio.place.experiments}: nothing to draw\n"


def test_a_round_that_has_not_begun_has_nothing_to_draw(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    studio.write(SMALL)
    subprocess.run(["rm", "-r", f"{studio.place.experiments}/small"], check=True)
    (studio.place.experiments / "small").mkdir()
    assert studio.draw() == 0
    assert capsys.readouterr().out == "small: nothing to draw yet\n"
    assert not studio.place.analysis.exists()


def test_an_unknown_round_is_answered_with_the_nearest_one_and_nothing_is_drawn(
    copy: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    before = copy.drawn()
    copy.metrics_file("pure/0").touch()
    assert copy.draw("--round", "small", "smal") == 2
    reported = capsys.readouterr()
    assert "did you mean 'small'?" in reported.err
    assert reported.out == ""
    assert copy.drawn() == before


def test_an_archived_round_is_drawn_if_it_is_requested(copy: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    results = copy.place.results("small")
    (copy.place.experiments / "small").rename(results / "experiments")
    (copy.place.rounds / "small.yaml").rename(results / "small.yaml")
    for path in ("pure/1", "control/alpha_0.5/0", "control/alpha_0.5/1"):
        (results / "experiments" / path / "attempts/1/metrics.json").unlink()
    assert copy.draw() == 0
    assert "no rounds" in capsys.readouterr().out
    assert copy.draw("--round", "small") == 0
    assert "drawn" in capsys.readouterr().out


@pytest.mark.parametrize("options", [("--formats", "gif"), ("--formats", ""), ("--jobs", "0"), ("--jobs", "many")])
def test_options_that_make_no_sense_are_refused(studio: Studio, options: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as end:
        plots.main(studio.argv()[:-2] + list(options))
    assert end.value.code == 2


def test_a_folder_that_cannot_be_written_is_reported(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    write_commands(studio, {"flat/0": {"score": 3}})
    studio.place.analysis.write_text("a file")
    assert studio.draw() == 2
    assert "cannot be written" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- processes


def some(count: int) -> Iterator[plots.FigureRequest]:
    return (plots.FigureRequest(Path(), f"figure{number}", "curves", "", ("png",), ()) for number in range(count))


def drawing_that_dies(figure: plots.FigureRequest) -> StoredFigure | str:
    if figure.name == "figure3":
        os.kill(os.getpid(), signal.SIGKILL)
    return StoredFigure(figure.name, "", "", "", ())


def test_a_process_that_is_killed_is_reported_with_its_figure_and_the_others_are_drawn() -> None:
    made = {figure.name: outcome for figure, outcome in plots.in_processes(list(some(6)), 2, drawing_that_dies)}
    assert len(made) == 6
    assert "died" in str(made.pop("figure3"))
    assert all(isinstance(outcome, StoredFigure) for outcome in made.values())


def test_a_figure_that_cannot_be_drawn_is_reported_by_name() -> None:
    outcome = plots.draw(next(some(1)))
    assert outcome == "IndexError: tuple index out of range"


def test_ctrl_c_keeps_what_is_drawn(studio: Studio) -> None:
    studio.write(SMALL.replace("seed: [0, 1]", f"seed: {list(range(30))}"))
    process = subprocess.Popen(
        [sys.executable, "analysis/plot_experiments.py", *studio.argv(jobs=2)], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    folder, deadline = studio.place.results("small") / "plots", time.monotonic() + 60
    while len(list(folder.glob("curves/*.png"))) < 6:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all processes
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    kept = studio.gallery().figures
    assert 1 <= len(kept) < 64
    assert all((folder / f"{name}.{ending}").is_file() for name in kept for ending in ("png", "csv"))
    assert not list(folder.rglob(".draft-*"))
