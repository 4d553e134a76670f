"""Rounds as the analysis reads them: DataFrames, baselines, galleries; from records in any state, never changed."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rounds_for_tests import REPOSITORY, snapshot
from synthetic_rounds import SCHEDULER, unsynced, write_mixed

from analysis import load_metrics, load_round, style
from analysis.figure_store import INDEX, FigureStore, StoredFigure, csv_of, file_name, key_of, write_bytes, write_figure
from analysis.rounds import Folders, RoundEntry, RoundRecords, find_rounds, read_round, setting_labels, varying_keys
from analysis.tables import write_tables
from roundhouse.config.round import load_round as load_round_file
from roundhouse.engine import offline
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Opened
from roundhouse.model.causes import Cause
from roundhouse.model.plan import State
from roundhouse.store import record

STATES = {
    "completed": "completed", "cut": "completed", "requeued": "completed", "running": "in_progress",
    "queued": "in_progress", "failed": "failed", "cancelled": "cancelled", "damaged": "blocked", None: "pending",
}  # fmt: skip
Made = Mapping[str, "str | None"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folders, Made]:
    folder = tmp_path_factory.mktemp("made")
    place = Folders(folder / "experiments", folder / "rounds", folder / "analysis")
    return place, write_mixed(place.experiments, place.rounds, epochs=4, examples=60)


@pytest.fixture
def mixed(made: tuple[Folders, Made]) -> Folders:
    """A round with an experiment in each state: to be read only."""
    return made[0]


@pytest.fixture
def copied(mixed: Folders, tmp_path: Path) -> Folders:
    """The same, to be spoilt."""
    place = Folders(tmp_path / "experiments", tmp_path / "rounds", tmp_path / "analysis")
    shutil.copytree(mixed.experiments, place.experiments, symlinks=True)
    shutil.copytree(mixed.rounds, place.rounds)
    return place


def path_of(made: tuple[Folders, Made], what: str | None, group: str = "") -> str:
    """The first experiment that is in this state, of paths that hold `group`."""
    return next(path for path, state in made[1].items() if state == what and group in path)


def entry_of(place: Folders, path: str, name: str = "mixed") -> RoundEntry:
    return next(one for one in read_round(name, place).entries if one.path == path)


def row_of(frame: pd.DataFrame, path: str) -> Any:
    return frame[frame.path == path].iloc[0]


def rounds(folder: Path, text: str) -> Folders:
    """A place with one round file, `small`, and a folder for its records."""
    place = Folders(folder / "experiments", folder / "rounds", folder / "analysis")
    (place.experiments / "small").mkdir(parents=True)
    place.rounds.mkdir()
    (place.rounds / "small.yaml").write_text(f"round: small\nstudy: distillation\nexperiments:\n{text}")
    return place


def test_load_round_has_a_row_for_each_experiment_of_the_file_in_its_order_those_not_begun_too(
    made: tuple[Folders, Made],
) -> None:
    frame = load_round("mixed", made[0])
    assert list(frame.path) == [one.path for one in load_round_file("mixed", made[0].rounds).experiments]
    assert list(frame.state) == [STATES[state] for state in made[1].values()]
    pending = frame[frame.state == "pending"]
    assert len(pending) > 0 and (pending.attempts == 0).all() and pending.started.isna().all()
    assert pending.reason.str.contains("waits for").all()


def test_the_columns_are_those_that_its_documentation_promises(mixed: Folders) -> None:
    frame = load_round("mixed", mixed)
    head = ["path", "group", "study", "state", "cause", "reason"]
    config = {"dataset", "epochs", "label_smoothing", "model", "method", "seed", "teacher", "alpha"}
    final = {"test_accuracy", "test_loss", "chance_accuracy", "last_test_accuracy"}
    facts = {"attempts", "epochs_done", "epochs_planned", "metric_name", "best", "started", "ended", "hours"}
    facts |= {"gpu_hours", "seconds_per_epoch", "peak_memory_mb", "host", "device", "commit", "exact", "directory"}
    facts |= {"result_name", "result", "unit", "steps_done", "steps_planned", "seconds_per_step", "ended_early"}
    assert list(frame.columns[:6]) == head
    assert set(frame.columns) == {*head, *config, *final, *facts}
    reported = " ".join(str(load_round.__doc__).split())
    assert all(f"`{name}`" in reported for name in {*head, *facts})


def test_the_values_of_a_completed_experiment_are_those_of_its_files(made: tuple[Folders, Made]) -> None:
    path = path_of(made, "completed", "logit")
    seen = row_of(load_round("mixed", made[0]), path)
    directory = made[0].experiments / "mixed" / path
    metrics = json.loads((directory / "metrics.json").read_text())
    (attempt,) = json.loads((directory / "history.json").read_text())["attempts"]
    assert {key: seen[key] for key in metrics["final"]} == metrics["final"]
    assert seen.best == metrics["best"]["val_accuracy"] and seen.metric_name == "val_accuracy"
    assert seen.epochs_done == seen.epochs_planned == len(metrics["epochs"])
    assert seen.peak_memory_mb == metrics["used"]["peak_memory_mb"]
    assert seen.seconds_per_epoch == pd.Series([one["seconds"] for one in metrics["epochs"]]).median()
    assert seen.started == pd.Timestamp(attempt["claim"]["at"], unit="s", tz="UTC")
    assert seen.ended == pd.Timestamp(attempt["result"]["at"], unit="s", tz="UTC")
    assert seen.hours == pytest.approx((attempt["result"]["at"] - attempt["claim"]["at"]) / 3600)
    assert seen.gpu_hours == seen.hours, "the round requests one GPU"
    assert (seen.host, seen.commit) == (attempt["environment"]["host"], attempt["environment"]["commit"])
    assert (seen.alpha, seen.method, seen.directory) == (0.25, "logit", str(directory))


def test_hours_are_those_of_all_attempts(made: tuple[Folders, Made]) -> None:
    path = path_of(made, "requeued")
    seen = row_of(load_round("mixed", made[0]), path)
    history = json.loads((made[0].experiments / "mixed" / path / "history.json").read_text())
    spans = [one["result"]["at"] - one["claim"]["at"] for one in history["attempts"]]
    assert seen.attempts == len(spans) == 2 and seen.hours == pytest.approx(sum(spans) / 3600)


def test_a_config_key_whose_name_is_taken_gets_config_in_front(tmp_path: Path) -> None:
    text = "  all:\n    path: '{state}_{hours}/{seed}'\n    grid: {state: [a], hours: [7], seed: [0]}\n"
    seen = load_round("small", rounds(tmp_path, text)).iloc[0]
    assert (seen.config_state, seen.config_hours, seen.seed) == ("a", 7, 0)
    assert (seen.state, seen.hours) == ("pending", 0)


def test_a_config_key_that_is_also_a_final_metric_gets_config_in_front(copied: Folders) -> None:
    file = copied.rounds / "mixed.yaml"
    file.write_text(file.read_text().replace("label_smoothing: 0.1", "label_smoothing: 0.1, test_loss: 9"))
    frame = load_round("mixed", copied)
    assert (frame.config_test_loss == 9).all() and frame.test_loss.max() < 9


def test_what_cannot_be_read_is_reported_and_the_rest_is_there(made: tuple[Folders, Made]) -> None:
    cut, damaged = path_of(made, "cut"), path_of(made, "damaged")
    for frame in (load_round("mixed", made[0]), load_metrics("mixed", made[0])):
        reported = frame.attrs["problems"]
        assert len(reported) == 2
        assert any(cut in one and "metrics.json is unreadable" in one for one in reported)
        assert any(damaged in one and "history.json" in one for one in reported)
    frame = load_round("mixed", made[0])
    assert pd.isna(row_of(frame, cut).test_accuracy) and row_of(frame, cut).state == "completed"
    assert row_of(frame, path_of(made, "completed", "logit")).test_accuracy > 0


GARBAGE = [b"", b"\0" * 20, b"{", b"[]", b'{"version": 1}', b'{"version": 1, "at": "x", "epochs": [3], "best": [1]}',
           b'{"at": 1e300, "version": 1, "nonce": "n", "cause": "completed", "config": 5, "metric": {}, "epochs": []}',
           b"[" * 3000]  # fmt: skip


@pytest.mark.parametrize("state", ["completed", "requeued", "running", "failed"])
def test_no_damage_to_a_file_of_a_record_keeps_the_other_experiments_from_being_read(
    made: tuple[Folders, Made], copied: Folders, state: str
) -> None:
    directory = copied.experiments / "mixed" / path_of(made, state)
    other = path_of(made, "completed", "logit")
    before = row_of(load_round("mixed", copied), other)
    files = [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in files:
        content = path.read_bytes()
        for number, garbage in enumerate([*GARBAGE, None]):
            path.unlink()
            path.mkdir() if garbage is None else path.write_bytes(garbage)
            frame = load_round("mixed", copied)
            write_tables(read_round("mixed", copied), copied.analysis)
            assert len(frame) == len(made[1]) and row_of(frame, other)[before.index].equals(before), (path, number)
            path.rmdir() if garbage is None else None
            path.write_bytes(content)


def test_metrics_that_were_deleted_are_known_from_the_record(made: tuple[Folders, Made], copied: Folders) -> None:
    path = path_of(made, "completed", "logit")
    before = row_of(load_round("mixed", copied), path)
    for file in (copied.experiments / "mixed" / path).rglob("metrics.json"):
        file.unlink()
    after = row_of(load_round("mixed", copied), path)
    assert (after.test_accuracy, after.best) == (before.test_accuracy, before.best)
    assert not any(path in one for one in load_round("mixed", copied).attrs["problems"])


def test_a_round_without_its_file_is_what_has_a_record_and_has_no_baselines(
    made: tuple[Folders, Made], tmp_path: Path
) -> None:
    place = replace(made[0], rounds=tmp_path)
    found, frame = read_round("mixed", place), load_round("mixed", place)
    assert set(frame.path) == {path for path, state in made[1].items() if state is not None}
    assert found.file is None and found.baselines == {} and "without baselines" in found.problems[0]
    with_file = load_round("mixed", made[0])
    path = path_of(made, "completed", "logit")
    for key in ("group", "study", "alpha", "test_accuracy", "state", "seed"):
        assert row_of(frame, path)[key] == row_of(with_file, path)[key]


def test_without_its_file_an_experiment_whose_config_is_unreadable_is_reported_and_left_out(
    made: tuple[Folders, Made], copied: Folders
) -> None:
    path = path_of(made, "completed", "logit")
    (copied.experiments / "mixed" / path / "config.yaml").write_bytes(b"\0")
    shutil.rmtree(copied.rounds)
    frame = load_round("mixed", copied)
    assert path not in set(frame.path) and len(frame) > 5
    left_out = [one for one in frame.attrs["problems"] if one.startswith(f"{path} is left out")]
    assert "config.yaml cannot be parsed" in left_out[0]


def test_a_round_file_with_a_mistake_is_reported_and_the_records_are_read(copied: Folders) -> None:
    (copied.rounds / "mixed.yaml").write_text("round: mixed\nexperimints: {}\n")
    frame = load_round("mixed", copied)
    assert len(frame) > 5 and "experimints" in frame.attrs["problems"][0]


def test_a_record_that_the_round_file_does_not_name_is_reported_and_left_out(copied: Folders) -> None:
    file = copied.rounds / "mixed.yaml"
    file.write_text(file.read_text().replace("[logit, fitnets, factor_transfer]", "[logit, fitnets]"))
    frame = load_round("mixed", copied)
    assert "factor_transfer" not in set(frame.method)
    (note,) = frame.attrs["notes"]
    assert "factor_transfer" in note and "is not in the round file" in note
    assert not any("factor_transfer" in one for one in frame.attrs["problems"])


def test_an_archived_round_is_read_like_one_that_is_not(copied: Folders, made: tuple[Folders, Made]) -> None:
    archive = copied.results("mixed")
    archive.mkdir(parents=True)
    (copied.experiments / "mixed").rename(archive / "experiments")
    (copied.rounds / "mixed.yaml").rename(archive / "mixed.yaml")
    found = read_round("mixed", copied)
    assert found.directory == archive / "experiments" and found.file == archive / "mixed.yaml"
    assert found.baselines == {"distilled": "student"}
    columns = ["path", "state", "test_accuracy", "best", "hours"]
    pd.testing.assert_frame_equal(load_round("mixed", copied)[columns], load_round("mixed", made[0])[columns],
                                  rtol=0.05)  # fmt: skip


def test_a_round_that_has_no_records_is_answered_with_the_nearest_name(mixed: Folders) -> None:
    with pytest.raises(RoundhouseError, match="no records of a round 'mixde'.*did you mean 'mixed'"):
        load_round("mixde", mixed)
    with pytest.raises(RoundhouseError, match="no records"):
        load_round("../experiments/mixed", mixed)
    assert find_rounds(mixed) == ["mixed"]


def test_while_a_job_writes_its_metrics_so_far_are_read(made: tuple[Folders, Made]) -> None:
    path = path_of(made, "running")
    entry = entry_of(made[0], path)
    assert entry.state is State.IN_PROGRESS and entry.reason == "" and entry.outputs_file is None
    epochs = entry.metrics().epochs
    seen = row_of(load_round("mixed", made[0]), path)
    assert seen.epochs_done == len(epochs) < seen.epochs_planned and pd.isna(seen.ended) and seen.hours > 0
    assert pd.isna(seen.test_accuracy)


def test_of_several_attempts_the_newest_with_metrics_is_read(made: tuple[Folders, Made], copied: Folders) -> None:
    path = path_of(made, "running")
    directory = copied.experiments / "mixed" / path
    opened = Opened(record.new_token(), SCHEDULER, entry_of(copied, path).experiment.config_hash(), {})
    with unsynced():
        record.close(directory, 1, Cause.NODE, "the node failed")
        record.open_attempt(directory, 2, opened)
    assert entry_of(copied, path).metrics_file == directory / "attempts/1/metrics.json"
    shutil.copy(directory / "attempts/1/metrics.json", directory / "attempts/2/metrics.json")
    assert entry_of(copied, path).metrics_file == directory / "attempts/2/metrics.json"
    (directory / "attempts/2/metrics.json").write_bytes(b"{")
    assert any(path in one and "attempts/2" in one for one in load_round("mixed", copied).attrs["problems"])


def test_offline_an_open_attempt_is_in_progress_and_dependents_wait(made: tuple[Folders, Made]) -> None:
    experiments = load_round_file("mixed", made[0].rounds).experiments
    directories = {one.path: made[0].experiments / "mixed" / one.path for one in experiments}
    reported = offline.statuses(experiments[::-1], directories)
    assert list(reported) == [one.path for one in experiments[::-1]]
    assert {path: str(row.action.state) for path, row in reported.items()} == {
        path: STATES[state] for path, state in made[1].items()
    }
    assert "illegal memory access" in reported[path_of(made, "failed")].action.reason
    assert reported[path_of(made, "queued")].action.reason == ""


def test_load_metrics_has_a_row_for_each_epoch_with_all_that_was_measured(mixed: Folders) -> None:
    frame = load_metrics("mixed", mixed)
    assert list(frame.columns[:3]) == ["path", "stage", "epoch"]
    expected = []
    for entry in read_round("mixed", mixed).entries:
        if entry.metrics_file is not None:
            try:
                reported = json.loads(entry.metrics_file.read_text())
            except ValueError:
                continue
            expected += [{"path": entry.path, **one} for one in reported["epochs"]]
    rows = [{key: value for key, value in row.items() if pd.notna(value)} for row in frame.to_dict("records")]
    assert rows == [{key: value for key, value in row.items() if value is not None} for row in expected]
    assert "paraphraser" in set(frame.stage) and len(frame) > 20


def test_load_metrics_of_a_round_that_has_not_begun_is_empty_and_has_its_columns(tmp_path: Path) -> None:
    place = rounds(tmp_path, "  all: {path: '{seed}', grid: {seed: [0, 1]}}\n")
    frame = load_metrics("small", place)
    assert len(frame) == 0 and list(frame.columns) == ["path", "stage", "epoch"]


def test_all_reading_leaves_the_records_as_they_were(mixed: Folders, tmp_path: Path) -> None:
    before = snapshot(mixed.experiments)
    names = sorted(mixed.experiments.rglob("*"))
    load_round("mixed", mixed)
    load_metrics("mixed", mixed)
    write_tables(read_round("mixed", mixed), tmp_path)
    assert snapshot(mixed.experiments) == before and sorted(mixed.experiments.rglob("*")) == names


def of_repository(name: str, tmp_path: Path) -> RoundRecords:
    (tmp_path / name).mkdir()
    return read_round(name, Folders(tmp_path, REPOSITORY / "rounds", tmp_path))


def test_the_baseline_of_a_run_is_all_seeds_of_the_plain_student_on_its_data_set(tmp_path: Path) -> None:
    found = of_repository("charlie", tmp_path)
    for entry in found.groups["distilled"][::17]:
        expected = [f"{entry.config['dataset']}/pure/ResNet56/{seed}" for seed in range(3)]
        assert [one.path for one in found.baseline_of(entry)] == expected
    assert found.baseline_of(found.groups["teacher"][0]) == found.baseline_of(found.groups["student"][0]) == []


def test_a_baseline_that_varies_in_its_network_goes_with_runs_of_the_same_network(tmp_path: Path) -> None:
    found = of_repository("calibration", tmp_path)
    for entry in found.groups["pair_distilled"]:
        assert {one.config["model"] for one in found.baseline_of(entry)} == {entry.config["model"]}
        assert len(found.baseline_of(entry)) == 3


def test_keys_that_the_baseline_does_not_vary_or_the_run_lacks_are_not_compared(tmp_path: Path) -> None:
    place = rounds(tmp_path, """\
  plain: {path: "p/{dataset}/{lr}/{seed}", grid: {dataset: [a, b], lr: [1, 2], seed: [0]}, config: {epochs: 9}}
  other: {path: "o/{dataset}/{seed}", grid: {dataset: [a, b], seed: [5]}, config: {epochs: 1}, baseline: plain}
""")  # fmt: skip
    found = read_round("small", place)
    assert [one.path for one in found.baseline_of(found.groups["other"][1])] == ["p/b/1/0", "p/b/2/0"]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("plane", r"small\.yaml:6.*no other group is called 'plane': did you mean 'plain'\?"),
        ("other", r"small\.yaml:6.*no other group is called 'other': a group cannot be its own baseline"),
    ],
)
def test_a_baseline_that_is_no_other_group_is_reported_with_file_line_and_nearest_name(
    tmp_path: Path, named: str, message: str
) -> None:
    text = f"  plain: {{path: a}}\n  other:\n    baseline: {named}\n    path: b\n"
    with pytest.raises(RoundhouseError, match=message):
        load_round_file("small", rounds(tmp_path, text).rounds)


def test_a_baseline_may_be_added_at_any_time_for_it_changes_no_experiment(tmp_path: Path) -> None:
    text = "  plain: {path: '{seed}', grid: {seed: [0, 1]}}\n  other:\n    path: b\n    config: {x: 1}\n"
    place = rounds(tmp_path, text)
    before = load_round_file("small", place.rounds)
    file = place.rounds / "small.yaml"
    file.write_text(file.read_text() + "    baseline: plain\n")
    after = load_round_file("small", place.rounds)
    assert before.baselines == {} and after.baselines == {"other": "plain"}
    assert after.experiments == before.experiments
    assert [one.config_hash() for one in after.experiments] == [one.config_hash() for one in before.experiments]


def test_a_label_has_what_sets_a_setting_apart_and_nothing_else(tmp_path: Path) -> None:
    found = of_repository("charlie", tmp_path)
    one = [entry for entry in found.groups["distilled"] if entry.config["dataset"] == "svhn"]
    assert varying_keys(one) == {"method", "alpha"}
    assert setting_labels(one)[one[0].setting] == "logit, alpha 0.25"
    assert len(set(setting_labels(one).values())) == 18
    assert set(setting_labels(found.groups["student"][:3]).values()) == {"student"}


def test_pandas_is_imported_only_for_data_frames() -> None:
    program = """if True:
        import sys
        import analysis, analysis.rounds, analysis.figure_store
        heavy = {"pandas", "matplotlib", "torch", "numpy", "scipy"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        from analysis import load_round, load_metrics
        assert "pandas" in sys.modules and not {"torch", "matplotlib"} & set(sys.modules)
        try:
            analysis.load_rounds
        except AttributeError as error:
            print(error)
    """
    ran = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "module 'analysis' has no attribute 'load_rounds'"


TABLE: list[dict[str, Any]] = [{"x": 1, "y": 2.5}, {"x": 2, "y": None}]


def drawn(folder: Path, formats: tuple[str, ...] = ("png", "svg")) -> FigureStore:
    """A gallery with one picture, `a`, that was drawn from `key`."""
    figure = Figure()
    figure.subplots().plot([1, 2], [3, 4])
    picture = StoredFigure("a", "Title", "Caption", "key", formats, subject="x/y")
    write_figure(folder, picture, figure, TABLE)
    gallery = FigureStore.of(folder)
    gallery.figures["a"] = picture
    gallery.save()
    return FigureStore.of(folder)


def test_a_picture_is_current_if_it_was_drawn_from_the_same_in_these_formats_and_is_all_there(tmp_path: Path) -> None:
    gallery = drawn(tmp_path)
    assert gallery.is_current("a", "key", ["png", "svg"]) and gallery.is_current("a", "key", ["svg"])
    assert not gallery.is_current("a", "another key", ["png"])
    assert not gallery.is_current("b", "key", ["png"])
    assert not gallery.is_current("a", "key", ["png", "pdf"])
    for name in ("a.csv", "a.png"):
        (tmp_path / name).rename(tmp_path / "away")
        assert not gallery.is_current("a", "key", ["png"])
        (tmp_path / "away").rename(tmp_path / name)
    assert gallery.is_current("a", "key", ["png"])


def test_an_index_comes_back_as_it_was_saved_and_one_that_is_damaged_is_empty(tmp_path: Path) -> None:
    assert drawn(tmp_path).figures == {"a": StoredFigure("a", "Title", "Caption", "key", ("png", "svg"), "x/y")}
    index = tmp_path / INDEX
    whole = json.loads(index.read_text())
    strange = [{"pictures": [{**whole["pictures"][0], key: value}]} for key, value in (("more", 1), ("name", []))]
    for content in (b"", b"\xff", b"[]", b'{"pictures": 3}', *(json.dumps(one).encode() for one in strange)):
        index.write_bytes(content)
        assert FigureStore.of(tmp_path).figures == {}


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_equal_figures_are_equal_files(tmp_path: Path, ending: str) -> None:
    with style.rules():
        for name in ("one", "two"):
            drawn(tmp_path / name, (ending,))
    assert (tmp_path / "one" / f"a.{ending}").read_bytes() == (tmp_path / "two" / f"a.{ending}").read_bytes()


def test_a_key_changes_with_each_file_that_it_is_of_and_with_its_other_parts(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("a")
    keys = [key_of([one, other]), key_of([one]), key_of([one, other], "more"), key_of([one, other], "mo", "re")]
    assert key_of([one, other]) == keys[0]
    other.write_text("b")
    keys.append(key_of([one, other]))
    write_bytes(one, b"c")
    keys.append(key_of([one, other]))
    assert len(set(keys)) == len(keys)


@given(st.lists(st.text(max_size=6) | st.text(alphabet="a/_. -", max_size=6), unique=True, min_size=2, max_size=6))
def test_different_texts_have_different_file_names_that_any_disk_takes(texts: list[str]) -> None:
    names = [file_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    for name in names:
        assert name.isascii() and name and not set(name) & set("/\\\0 \n") and name[0] != "."
    assert len(file_name("a" * 300)) < 200 and file_name("a" * 300) != file_name("a" * 301)


CELLS = st.text(alphabet=st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b,c", 'd"']), CELLS, min_size=1), min_size=1, max_size=5))
def test_a_table_comes_back_from_csv_as_it_was(table: list[dict[str, str]]) -> None:
    read = list(csv.DictReader(io.StringIO(csv_of(table).decode(), newline="")))
    columns = list(dict.fromkeys(key for row in table for key in row))
    assert read == [{key: row.get(key, "") for key in columns} for row in table]


def test_no_cell_breaks_a_table_and_unknown_values_are_empty() -> None:
    read = list(
        csv.reader(io.StringIO(csv_of([{"a": "x\ry", "b": None}, {"a": "\ud800", "b": 0.1}]).decode(), newline=""))
    )
    assert read == [["a", "b"], ["x y", ""], ["\\ud800", "0.1"]]


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken" / "by a folder").mkdir(parents=True)
    with pytest.raises(OSError):
        write_bytes(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
