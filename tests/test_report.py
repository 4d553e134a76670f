"""The report of a round: its facts as pure functions, and its folder. The page is tested in a browser elsewhere."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote

import pytest
import synthetic_rounds
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import snapshot as files_of

from analysis import report
from analysis.figure_store import FigureStore, StoredFigure, write_bytes
from analysis.page import duration, embedded, gain, plus_minus
from analysis.page.project_paths import shortener
from analysis.page.sortable_table import table
from analysis.round_summary import (
    ExperimentSummary,
    Spread,
    changes,
    counts,
    failures,
    rankings,
    remaining_time,
    snapshot,
    spread,
    summaries_of,
    usage,
)
from analysis.rounds import REPOSITORY, Folders, RoundEntry, RoundRecords, RunMetrics, read_round
from roundhouse.errors import RoundhouseError
from roundhouse.metrics import Declarations, Metric
from roundhouse.model.attempt import Attempt, Claim, Opened, Progress, Record, Result
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Resources
from roundhouse.model.plan import Action, Inputs, State, Verb
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import record

HOSTILE = ("<img src=x onerror=window.pwned=1>", "</script><script>window.pwned=1</script><!--", "a\"b'c&d\\e",
           "אבג\u202eدهد", "line\u2028end")  # fmt: skip


# ------------------------------------------------------------------------------------------------ experiments, by hand


def known(
    path: str = "a",
    state: State = State.PENDING,
    *,
    group: str = "group",
    config: dict[str, Any] | None = None,
    hours: tuple[float, ...] = (),
    done: int = 0,
    planned: int | None = None,
    pace: float | None = None,
    best: float | None = None,
    final: dict[str, float] | None = None,
    resources: Resources = Resources(ngpus=1),  # noqa: B008
) -> ExperimentSummary:
    """An experiment with these durations of its attempts; the last one is still running if it is in progress."""
    attempts = []
    for number, length in enumerate(hours, 1):
        running = state is State.IN_PROGRESS and number == len(hours)
        cause = Cause.COMPLETED if state is State.COMPLETED and number == len(hours) else Cause.WALLTIME
        progress = Progress(done, planned, metric_name="val_accuracy", best=best)
        start = 1e9 * number
        attempts.append(
            Attempt(number, Opened(f"token{number}", {}, "hash", {}), Claim(started=start, nonce="n"),
                    None if running else Result(cause, at=start + 3600 * length), progress, start + 3600 * length)
        )  # fmt: skip
    experiment = Experiment("round", group, path, "study", config or {}, resources)
    row = ExperimentStatus(
        experiment, Record(Path("/nowhere"), tuple(attempts)), Action(Verb.NOTHING, state), Inputs({})
    )
    epochs = [{"stage": "train", "epoch": epoch + 1, "seconds": pace} for epoch in range(done)] if pace else []
    metrics = RunMetrics(
        metric="val_accuracy" if best is not None else None, mode="max", best=best, final=final or {}, epochs=epochs
    )
    return ExperimentSummary(RoundEntry(row, None, None, DECLARED), metrics)


SHARE = Metric(scale="percent", baseline="chance_accuracy")
DECLARED = Declarations({"val_accuracy": SHARE}, apart=("dataset",))


def round_of(*members: ExperimentSummary, **baselines: str) -> RoundRecords:
    return RoundRecords("round", Path("/nowhere"), None, tuple(one.entry for one in members), baselines)


# -------------------------------------------------------------------------------------------------------- counts, hours


@given(st.lists(st.sampled_from(list(State))))
def test_every_experiment_is_counted_once(states: list[State]) -> None:
    counted = counts([known(str(number), state) for number, state in enumerate(states)])
    assert sum(counted.values()) == len(states)
    assert all(counted[state] == states.count(state) > 0 for state in counted)


def test_hours_of_all_attempts_count_times_their_gpus() -> None:
    two = Resources(ngpus=2)
    used = usage(
        [known("a", State.COMPLETED, hours=(1.0, 0.5), resources=two), known("b", State.COMPLETED, hours=(1.0,))]
    )
    assert (used.hours, used.unit) == (4.0, "GPU-hours")
    assert (used.restarted, used.runs) == (1, 3)


def test_without_gpus_cores_are_counted() -> None:
    used = usage([known("a", State.COMPLETED, hours=(2.0,), resources=Resources(ncpus=4))])
    assert (used.hours, used.unit) == (8.0, "CPU-hours")


def test_without_a_round_file_it_is_unknown_what_was_requested_and_plain_hours_are_reported() -> None:
    used = usage([known("a", State.COMPLETED, hours=(2.0,))], resources_known=False)
    assert (used.hours, used.unit) == (2.0, "job-hours")


# ------------------------------------------------------------------------------------------------------- what remains


def test_a_running_experiment_has_its_own_pace() -> None:
    found = remaining_time([known("a", State.IN_PROGRESS, hours=(1.0,), done=10, planned=150, pace=36.0)])
    assert found.seconds == 140 * 36.0
    assert found.basis == "with 1 of 1 remaining experiment running"


def test_an_experiment_that_has_not_started_takes_the_median_of_its_group_and_data_set() -> None:
    done = [
        known(f"c{hours}", State.COMPLETED, config={"dataset": "svhn"}, hours=(hours,)) for hours in (1.0, 2.0, 9.0)
    ]
    other = known("o", State.COMPLETED, config={"dataset": "cifar10"}, hours=(100.0,))
    running = known("r", State.IN_PROGRESS, hours=(1.0,), done=150, planned=150, pace=1.0)
    new = known("n", config={"dataset": "svhn"})
    assert remaining_time([*done, other, running, new]).seconds == 2 * 3600


def test_without_its_data_set_the_whole_group_counts_and_without_that_it_is_reported_as_not_counted() -> None:
    done = known("c", State.COMPLETED, config={"dataset": "svhn"}, hours=(3.0,))
    running = known("r", State.IN_PROGRESS, hours=(1.0,), done=10, planned=10, pace=1.0)
    found = remaining_time([done, running, known("n", config={"dataset": "cifar10"}), known("x", group="other")])
    assert found.seconds == 3 * 3600
    assert found.uncounted == 1
    assert "without 1 experiment of unknown duration" in found.basis


def test_where_nothing_runs_the_end_is_not_known() -> None:
    done = known("c", State.COMPLETED, hours=(3.0,))
    found = remaining_time([done, known("n")])
    assert found.seconds is None
    assert found.basis == "no experiment is running"


def test_one_that_is_queued_does_not_run() -> None:
    opened = Attempt(1, Opened("token", {}, "hash", {}, job_id="1"))
    row = ExperimentStatus(known().entry.experiment, Record(Path("/nowhere"), (opened,)),
              Action(Verb.NOTHING, State.IN_PROGRESS), Inputs({}))  # fmt: skip
    assert not ExperimentSummary(RoundEntry(row, None, None), RunMetrics()).running


def test_where_all_is_done_or_needs_the_user_nothing_remains() -> None:
    found = remaining_time(
        [known("c", State.COMPLETED, hours=(3.0,)), known("f", State.FAILED), known("b", State.BLOCKED)]
    )
    assert (found.seconds, found.ahead) == (0.0, 0)


seconds = st.floats(0.1, 1e4)


@given(st.lists(st.tuples(st.integers(1, 100), seconds), min_size=1, max_size=8), st.integers(0, 5))
def test_the_end_is_no_sooner_than_the_longest_and_no_later_than_one_after_the_other(
    running: list[tuple[int, float]], new: int
) -> None:
    members = [
        known(f"r{number}", State.IN_PROGRESS, hours=(1.0,), done=1, planned=1 + left, pace=pace)
        for number, (left, pace) in enumerate(running)
    ]
    members += [known("c", State.COMPLETED, hours=(1.0,)), *(known(f"n{number}") for number in range(new))]
    found = remaining_time(members)
    work = [left * pace for left, pace in running] + [3600.0] * new
    assert found.seconds is not None
    assert max(work) * 0.999 <= found.seconds <= sum(work) * 1.001


def test_seconds_that_are_no_numbers_do_not_end_the_report() -> None:
    one = known("r", State.IN_PROGRESS, hours=(1.0,), done=3, planned=10, pace=1.0)
    odd = RunMetrics(epochs=[{"stage": "train", "seconds": value} for value in ("x", None, math.inf, math.nan)])
    assert ExperimentSummary(one.entry, odd).pace is None
    assert remaining_time([ExperimentSummary(one.entry, odd)]).seconds is None


# ---------------------------------------------------------------------------------------------------------- best runs


def trained(path: str, value: float, group: str = "group", **config: Any) -> ExperimentSummary:
    final = {"test_accuracy": value - 0.01, "chance_accuracy": 0.1}
    return known(path, State.COMPLETED, group=group, config=config, hours=(1.0,), done=1, planned=1, best=value,
                 final=final)  # fmt: skip


def test_the_best_setting_is_shown_with_baseline_noise_and_chance() -> None:
    plain = [trained(f"p{seed}", 0.80 + 0.02 * seed, "plain", seed=seed, dataset="svhn") for seed in (0, 1)]
    better = [trained(f"b{seed}", 0.90, "led", seed=seed, dataset="svhn", alpha=0.5) for seed in (0, 1)]
    worse = [trained("w", 0.85, "led", seed=0, dataset="svhn", alpha=0.9)]
    first, second = rankings(round_of(*plain, *better, *worse, led="plain"), [*plain, *better, *worse])
    assert (first.group, first.baseline) == ("plain", None)
    best, other = second.settings
    assert best.label == "alpha 0.5"
    assert best.result == Spread(pytest.approx(0.89), pytest.approx(0), 2)
    assert best.baseline == Spread(pytest.approx(0.80), pytest.approx(0.02 / math.sqrt(2)), 2)
    assert best.reference == pytest.approx(0.1)
    assert other.result == Spread(pytest.approx(0.84), None, 1)


def test_settings_are_ranked_by_what_training_watched_not_by_the_test_data() -> None:
    lucky = ExperimentSummary(
        trained("a", 0.8, alpha=1).entry, RunMetrics("val_accuracy", "max", best=0.8, final={"test_accuracy": 0.99})
    )
    (found,) = rankings(round_of(lucky), [lucky, trained("b", 0.9, alpha=2)])
    assert [one.label for one in found.settings] == ["alpha 2", "alpha 1"]


def test_a_round_with_several_data_sets_has_a_best_for_each() -> None:
    members = [trained("a", 0.9, dataset="svhn"), trained("b", 0.5, dataset="cifar100")]
    assert [one.dataset for one in rankings(round_of(*members), members)] == ["svhn", "cifar100"]


def test_a_setting_that_diverged_comes_last() -> None:
    members = [trained("a", math.nan, alpha=1), trained("b", 0.5, alpha=2)]
    (found,) = rankings(round_of(*members), members)
    assert [one.label for one in found.settings] == ["alpha 2", "alpha 1"]


def test_one_seed_says_that_the_deviation_is_unknown() -> None:
    assert "deviation unknown" in plus_minus(spread([0.9]), SHARE)
    assert "deviation unknown" in gain(Spread(0.9, None, 1), Spread(0.8, 0.1, 3), SHARE)
    assert plus_minus(spread([0.90, 0.92]), SHARE).replace("\u00a0", " ") == "91.0 ± 1.4 % (n = 2)"


def test_a_difference_comes_with_its_standard_error() -> None:
    reported = gain(Spread(0.92, 0.03, 9), Spread(0.90, 0.04, 16), SHARE).replace("\u00a0", " ")
    assert reported == "+2.0 ± 1.4 percentage points"
    reported = gain(Spread(0.92, 0.03, 9), Spread(0.90, 0.04, 16), Metric(unit="m")).replace("\u00a0", " ")
    assert reported == "+0.020 ± 0.014 m"


@pytest.mark.parametrize(
    ("seconds", "reported"), [(4, "4 s"), (59.9, "60 s"), (600, "10 min"), (3599, "1 h 0 min"), (190000, "2 d 4 h")]
)
def test_a_duration_is_reported_in_the_units_that_matter(seconds: float, reported: str) -> None:
    assert duration(seconds) == reported


# ------------------------------------------------------------------------------------------------------- what changed


def moment(state: str = "pending", best: float | None = None, attempts: int = 0) -> dict[str, Any]:
    return {"state": state, "best": best, "attempts": attempts}


moments = st.fixed_dictionaries(
    {"state": st.sampled_from([str(one) for one in State]), "best": st.none() | st.floats(0, 1),
     "attempts": st.integers(0, 3)}
)  # fmt: skip
snapshots = st.dictionaries(st.sampled_from("abcdef"), moments)


@given(snapshots)
def test_a_snapshot_does_not_differ_from_itself(now: dict[str, Any]) -> None:
    assert not changes("then", now, now).any
    assert not changes("then", json.loads(json.dumps(now)), now).any


@given(snapshots, snapshots)
def test_whatever_differs_is_reported(before: dict[str, Any], now: dict[str, Any]) -> None:
    found = changes("then", before, now)
    assert set(found.added) == now.keys() - before.keys()
    assert set(found.removed) == before.keys() - now.keys()
    completed = {path for path in now if now[path]["state"] == "completed" != before.get(path, {}).get("state")}
    assert set(found.completed) == completed


def test_what_has_completed_failed_or_been_requeued_is_reported_by_name() -> None:
    running = moment("in_progress", 0.5, 1)
    before = {"a": running, "b": running, "c": running, "d": moment(), "e": moment("completed", 0.9, 1)}
    now = {
        **before,
        "a": moment("completed", 0.9, 1),
        "b": moment("failed", 0.5, 2),
        "c": moment("in_progress", 0.6, 1),
        "d": moment("in_progress", None, 1),
    }
    found = changes("then", before, now)
    assert found.completed == ["a"]
    assert found.stopped == [("b", "failed")]
    assert found.requeued == ["b"]
    assert found.bests == [("c", 0.5, 0.6)]


# --------------------------------------------------------------------------------------------------------- the table


def test_a_row_says_the_same_as_its_columns() -> None:
    members = [trained("a", 0.9, alpha=0.5, dataset="svhn"), known("b", config={"alpha": 0.25, "dataset": "svhn"})]
    made = table(members, DECLARED, {})
    keys = [column["key"] for column in made["columns"]]
    first, second = (dict(zip(keys, row, strict=True)) for row in made["rows"])
    assert (first["path"], first["state"], first["best"], first["config.alpha"]) == ("a", "completed", 0.9, 0.5)
    assert (second["best"], second["epochs"], second["config.alpha"]) == (None, None, 0.25)
    assert made["shared"] == {"dataset": "svhn"}
    assert "config.dataset" not in keys


def test_numbers_that_json_lacks_are_missing() -> None:
    made = table(
        [known("a", State.COMPLETED, best=math.nan, hours=(1.0,), final={"test_loss": math.inf})], DECLARED, {}
    )
    assert not {"NaN", "Infinity"} & set(re.findall(r"\w+", json.dumps(made["rows"], allow_nan=False)))


def test_a_column_without_content_is_left_out() -> None:
    diverged = known("a", State.COMPLETED, group="", best=math.nan, hours=(1.0,), final={"test_loss": math.nan})
    made = table([diverged, known("b", group="")], DECLARED, {})
    keys = [column["key"] for column in made["columns"]]
    assert not {"best", "final.test_loss", "group", "pace", "memory"} & set(keys)
    assert {"path", "state", "hours"} <= set(keys)
    for place, key in enumerate(keys):
        assert any(row[place] is not None for row in made["rows"]), key


def test_peak_memory_is_that_of_the_run_or_of_its_epochs_so_far() -> None:
    one = known("a", State.COMPLETED, hours=(1.0,))
    used = RunMetrics(used={"peak_memory_mb": 5300.0}, epochs=[{"epoch": 1, "peak_memory_mb": 4100}])
    running = RunMetrics(epochs=[{"epoch": 1, "peak_memory_mb": 900}, {"epoch": 2, "peak_memory_mb": 1200}])
    odd = RunMetrics(epochs=[{"epoch": 1, "peak_memory_mb": "much"}, {"epoch": 2, "peak_memory_mb": math.nan}])
    made = table([ExperimentSummary(one.entry, metrics) for metrics in (used, running, odd)], DECLARED, {})
    place = [column["label"] for column in made["columns"]].index("peak memory (GB)")
    assert [row[place] for row in made["rows"]] == [5.3, 1.2, None]


# --------------------------------------------------------------------------------------------------------- paths

PROJECT = Path("/scratch/lab/ann/project")
short = shortener([PROJECT / "experiments", PROJECT / "rounds"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{PROJECT}/experiments/r/a b/metrics.json is unreadable", "experiments/r/a b/metrics.json is unreadable"),
        (f"no round file in {PROJECT}/rounds: none", "no round file in rounds: none"),
        (f"{PROJECT}/experiments_old/r", f"{PROJECT}/experiments_old/r"),
        (f'File "{REPOSITORY}/train.py", line 3', 'File "train.py", line 3'),
        (f"in {REPOSITORY}", "in ."),
        ("/home/ann/data and /Users/bob", "~/data and ~"),
        ("/nfs/home/ann/data, '/global/homes/a/ann'", "~/data, '~'"),
        ("digits/home/ann and ./home/x", "digits/home/ann and ./home/x"),
        ("at /homework/1 of 3/home/4", "at /homework/1 of 3/home/4"),
    ],
)
def test_paths_are_shown_relative_to_the_project_and_without_home_directories(text: str, shown: str) -> None:
    assert short(text) == shown


@given(
    st.text("/.ab ~\"'\n<home"), st.sampled_from(["/home/ann", f"{PROJECT}/rounds", str(Path.home())]), st.text("/ab")
)
def test_no_text_around_a_path_keeps_it_long_and_once_is_enough(before: str, path: str, after: str) -> None:
    found = short(f"{before} {path}/{after}")
    assert path not in found
    assert short(found) == found


@given(st.recursive(st.text() | st.sampled_from(HOSTILE), lambda inner: st.dictionaries(st.text(), inner)))
def test_embedded_json_cannot_leave_its_element_and_says_the_same(value: Any) -> None:
    text = embedded(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


# -------------------------------------------------------------------------------------------------------- the folder


def png(width: int, height: int) -> bytes:
    """A grey picture of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x99" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def draw(place: Folders, name: str, figures: dict[str, str | None], size: tuple[int, int] = (80, 60)) -> None:
    """The figures of a round's study: title, and the experiment that it is about."""
    store(
        place.results(name) / "figures",
        [StoredFigure(f"figure_{number}", title, f"Caption of {title}.", "key", ("png",), subject)
         for number, (title, subject) in enumerate(figures.items())],
        size,
    )  # fmt: skip


def store(folder: Path, figures: Sequence[StoredFigure], size: tuple[int, int] = (80, 60)) -> None:
    """A store that holds these figures and no others."""
    made = FigureStore(folder, {one.name: one for one in figures})
    for one in figures:
        for ending in one.formats:
            write_bytes(folder / f"{one.name}.{ending}", png(*size))
        write_bytes(folder / f"{one.name}.csv", b"epoch\n1\n")
    made.save()


@dataclass(frozen=True)
class Reported:
    """A round, and its report, which `again` writes again."""

    place: Folders
    again: Callable[[], list[str]]

    @property
    def folder(self) -> Path:
        return self.place.results("mixed") / "report"

    @property
    def page(self) -> str:
        return (self.folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything that a record can be, with figures of its own."""
    folder = tmp_path_factory.mktemp("written")
    place = Folders(folder / "experiments", folder / "rounds", folder / "analysis")
    synthetic_rounds.write_mixed(place.experiments, place.rounds, epochs=3, examples=20)
    draw(place, "mixed", {"Accuracy": None, "Curves": "digits/pure/ResNet20/0"})
    return folder


@pytest.fixture
def mixed(written: Path, tmp_path: Path) -> Iterator[Reported]:
    """A copy of it, and its report."""
    shutil.copytree(written, tmp_path, symlinks=True, dirs_exist_ok=True)
    place = Folders(tmp_path / "experiments", tmp_path / "rounds", tmp_path / "analysis")
    with mock.patch.object(report, "refresh", return_value=[]):
        made = Reported(place, lambda: report.make_report("mixed", place)[1])
        made.again()
        yield made


class References(HTMLParser):
    """All that a page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for key, value in attrs if key in ("src", "href", "srcset", "action") and value]


def test_all_that_the_page_refers_to_is_in_its_folder(mixed: Reported) -> None:
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', mixed.page, re.S)[0])
    curves = [one["curve"] for one in data["details"] if "curve" in one]
    references = [*References(mixed.page).found, *(one[key] for one in curves for key in ("image", "data"))]
    places = [one for one in references if not one.startswith(("#", "data:,"))]
    assert any(one.endswith(".png") for one in places) and any(one.endswith(".csv") for one in places) and curves
    for one in places:
        assert "://" not in one
        assert (mixed.folder / unquote(one)).resolve().is_relative_to(mixed.folder.resolve())
        assert (mixed.folder / unquote(one)).is_file(), one
    anchors = {one[1:] for one in References(mixed.page).found if one.startswith("#")}
    assert anchors and anchors <= set(re.findall(r'id="([\w-]+)"', mixed.page))


def test_a_moved_folder_still_works(mixed: Reported, tmp_path: Path) -> None:
    absolute = [one for one in References(mixed.page).found if one.startswith("/") or ":" in one.split("/")[0]]
    assert absolute == ["data:,"]
    assert not any(path.is_symlink() for path in mixed.folder.rglob("*"))


def test_the_page_names_no_directory_outside_the_project(mixed: Reported, tmp_path: Path) -> None:
    log = next(mixed.place.experiments.glob("mixed/digits/fitnets/alpha_0.25/*/0/attempts/2/out.log"))
    log.write_text(f'File "{mixed.place.rounds}/own.py", in /home/ann/project/own.py\n')
    mixed.place.results("mixed").joinpath("summary.md").write_text(f"From `{mixed.place.experiments}/mixed`.")
    mixed.again()
    assert str(tmp_path) not in mixed.page and "/home/" not in mixed.page
    assert "rounds/own.py" in mixed.page and "~/project/own.py" in mixed.page
    assert "From <code>experiments/mixed</code>." in mixed.page
    assert '"directory":"experiments/mixed/digits/pure/ResNet20/0"' in mixed.page


def figures_on(page: str) -> list[tuple[str, list[str]]]:
    """The headings of the gallery, each with the titles of its figures."""
    sections = page[page.index('<section id="figures"') : page.index('<section id="tables"')].split("<summary>")[1:]
    heads = [re.findall(r"<h3><bdi>(.*?)</bdi>", one)[0] for one in sections]
    return list(zip(heads, (re.findall(r"<figcaption><strong><bdi>(.*?)</bdi>", one) for one in sections), strict=True))


def test_all_figures_of_the_stores_are_shown_under_a_heading_for_each_kind(mixed: Reported) -> None:
    plots = [
        StoredFigure("overviews/b", "b: part 10", "Caption.", "key", ("png",)),
        StoredFigure("overviews/a", "b: part 2", "Caption.", "key", ("pdf", "svg")),
        StoredFigure("heat_maps/c", "map", "Caption.", "key", ("pdf",), alt='A map of "lr" & width'),
        StoredFigure("flat", "flat", "Caption.", "key", ("png",)),
    ]
    store(mixed.place.results("mixed") / "plots", plots)
    mixed.again()
    assert figures_on(mixed.page) == [
        ("Analysis of the study", ["Accuracy"]), ("Heat maps", ["map"]), ("Overviews", ["b: part 2", "b: part 10"]),
        ("Plots", ["flat"]),
    ]  # fmt: skip
    assert '<a href="figures/plots/heat_maps/c.pdf">' in mixed.page
    assert 'src="figures/plots/overviews/a.svg"' in mixed.page


def test_the_alternative_text_of_a_figure_is_its_own_or_title_and_caption(mixed: Reported) -> None:
    own = StoredFigure("a", "own", "Caption.", "key", ("png",), alt='Loss falls from "3" to <1')
    store(mixed.place.results("mixed") / "figures", [own, StoredFigure("b", "none", "Caption.", "key", ("png",))])
    mixed.again()
    assert re.findall(r' alt="(.+?)"', mixed.page) == ["Loss falls from &#34;3&#34; to &lt;1", "none. Caption."]


def test_a_group_without_a_baseline_has_no_column_for_it(mixed: Reported) -> None:
    best = mixed.page[mixed.page.index('id="best"') : mixed.page.index('id="experiments"')]
    heads = [re.findall(r"<th scope=\"col\".*?>(.*?)</th>", one) for one in re.findall(r"<thead>.*?</thead>", best)]
    assert heads[0] == ["setting", "test accuracy", "chance", "ranked by validation accuracy (highest first)"]
    assert "baseline: student" in heads[-1] and "difference ± standard error" in heads[-1]


def test_a_report_changes_no_record(mixed: Reported) -> None:
    before = files_of(mixed.place.experiments), files_of(mixed.place.rounds)
    mixed.again()
    assert (files_of(mixed.place.experiments), files_of(mixed.place.rounds)) == before


def test_every_state_is_reported_in_words_with_its_number(mixed: Reported) -> None:
    found, _ = summaries_of(read_round("mixed", mixed.place))
    for state, number in counts(found).items():
        word = str(state).replace("_", " ")
        assert re.search(rf'<rect class="{state}" x="\d+" y="0" width="{number}"', mixed.page)
        assert re.search(rf"\b{number} {word}\b", mixed.page)


def test_each_failure_has_its_cause_its_attempts_and_the_end_of_its_log(mixed: Reported) -> None:
    reported = {str(one.state): one for one in failures(summaries_of(read_round("mixed", mixed.place))[0])}
    assert set(reported) == {"failed", "blocked", "cancelled"}
    assert (reported["failed"].cause, reported["failed"].attempts) == ("error", 2)
    assert "illegal memory access" in reported["failed"].log
    assert mixed.page.count('<details class="failure">') == 3
    assert "illegal memory access" in mixed.page


def test_bad_records_are_reported_and_do_not_end_the_report(mixed: Reported) -> None:
    problems = mixed.again()
    assert any("metrics.json is unreadable" in one for one in problems)
    assert any("history.json" in one for one in problems)
    short = shortener([mixed.place.experiments])
    assert all(short(one) in mixed.page for one in problems)


def test_a_record_that_left_the_round_file_is_noted_once_and_is_no_problem(mixed: Reported) -> None:
    before = mixed.again()
    file = mixed.place.rounds / "mixed.yaml"
    file.write_text(file.read_text().replace("[logit, fitnets, factor_transfer]", "[logit, fitnets]"))
    assert [one for one in mixed.again() if one not in before] == []
    assert mixed.page.count("the record is not in the round file (any more) and is left out") == 1


def test_what_is_wrong_with_figures_is_reported_once(mixed: Reported) -> None:
    path = "digits/pure/ResNet8/1"
    damaged = next(one for one in mixed.again() if "metrics.json is unreadable" in one)
    others = [damaged.replace(path, f"{path} is skipped", 1), "a figure is not drawn: no room", "no colon"]
    with mock.patch.object(report, "refresh", return_value=others):
        problems = mixed.again()
    assert [one for one in problems if "metrics.json is unreadable" in one] == [damaged]
    assert {"a figure is not drawn: no room", "no colon"} <= set(problems)
    assert "no colon" in mixed.page


def test_the_first_report_states_it_and_the_next_what_changed(mixed: Reported) -> None:
    assert "This is the first report" in mixed.page
    mixed.again()
    assert "Nothing has changed since the last report" in mixed.page
    path = "digits/pure/ResNet20/1"
    place = record.attempt_directory(mixed.place.experiments / "mixed" / path, 1)
    place.joinpath("result.json").write_text(
        json.dumps({"version": 1, "nonce": "n", "cause": "completed", "why": "", "at": 2e9})
    )
    mixed.again()
    assert "1 newly completed" in mixed.page
    changed = mixed.page[mixed.page.index('id="changes"') : mixed.page.index('id="failures"')]
    assert path in changed


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b'{"experiments": 3}', b'{"experiments": {"a": {}}}'])
def test_a_unreadable_state_of_the_previous_report_makes_it_a_first_one(mixed: Reported, damaged: bytes) -> None:
    (mixed.folder / report.STATE).write_bytes(damaged)
    mixed.again()
    assert "This is the first report" in mixed.page


def test_figures_that_have_not_changed_are_not_copied_again(mixed: Reported) -> None:
    figures = mixed.folder / "figures"
    before = {path: path.stat().st_ino for path in figures.rglob("*.*")}
    mixed.again()
    assert before and {path: path.stat().st_ino for path in figures.rglob("*.*")} == before
    write_bytes(mixed.place.results("mixed") / "figures" / "figure_0.png", png(81, 60))
    mixed.again()
    assert 'width="81"' in mixed.page
    assert {path for path in before if path.stat().st_ino != before[path]} == {figures / "figures" / "figure_0.png"}


def test_a_figure_that_is_gone_goes_from_the_report_but_nothing_that_others_put_there(mixed: Reported) -> None:
    mine = mixed.folder / "figures" / "figures" / "notes.png"
    mine.write_bytes(b"mine")
    assert (mixed.folder / "figures/figures/figure_1.png").is_file()
    draw(mixed.place, "mixed", {"Accuracy": None})
    mixed.again()
    assert not (mixed.folder / "figures/figures/figure_1.png").exists()
    assert (mixed.folder / "figures/figures/figure_0.png").is_file()
    assert mine.read_bytes() == b"mine"


def test_a_state_file_that_names_files_outside_the_report_removes_none(mixed: Reported) -> None:
    state = json.loads((mixed.folder / report.STATE).read_bytes())
    victim = mixed.place.rounds / "mixed.yaml"
    state["files"] += [os.path.relpath(victim, mixed.folder), str(victim)]
    (mixed.folder / report.STATE).write_text(json.dumps(state))
    mixed.again()
    assert victim.is_file()


def test_a_report_that_dies_halfway_keeps_the_last_page_complete(mixed: Reported) -> None:
    before, written = mixed.page, []

    def dies(path: Path, data: bytes) -> None:
        written.append(path.name)
        raise OSError(28, "No space left on device", str(path))

    with mock.patch.object(report, "write_bytes", dies), pytest.raises(RoundhouseError, match="No space left"):
        mixed.again()
    assert written == ["index.html"]  # all that it shows is there before it
    assert mixed.page == before
    assert not list(mixed.folder.rglob(".draft-*"))


def test_a_summary_and_names_are_text_whatever_they_hold(mixed: Reported) -> None:
    mixed.place.results("mixed").joinpath("summary.md").write_text("\n".join(HOSTILE), encoding="utf-8")
    draw(mixed.place, "mixed", {HOSTILE[0]: None, HOSTILE[1]: "digits/pure/ResNet20/0"})
    mixed.again()
    assert "<img src=x" not in mixed.page
    assert mixed.page.count("</script>") == 2  # its own, and the data's
    assert "&lt;img src=x onerror=window.pwned=1&gt;" in mixed.page


def test_a_round_without_a_file_is_reported_from_its_records(mixed: Reported) -> None:
    (mixed.place.rounds / "mixed.yaml").unlink()
    mixed.again()
    assert "job-hours used" in mixed.page
    assert "There is no readable round file" in mixed.page


def test_a_round_in_which_nothing_has_started_has_a_report(tmp_path: Path) -> None:
    place = Folders(tmp_path / "experiments", tmp_path / "rounds", tmp_path / "analysis")
    (place.experiments / "mixed").mkdir(parents=True)
    place.rounds.mkdir()
    (place.rounds / "mixed.yaml").write_text(synthetic_rounds.MIXED)
    with mock.patch.object(report, "refresh", return_value=[]):
        page, problems = report.make_report("mixed", place, tmp_path / "elsewhere")
    assert page == tmp_path / "elsewhere" / "index.html"
    assert problems == []
    assert "no experiment is running" in page.read_text(encoding="utf-8")


def test_every_snapshot_survives_its_file(mixed: Reported) -> None:
    found, _ = summaries_of(read_round("mixed", mixed.place))
    assert json.loads((mixed.folder / report.STATE).read_bytes())["experiments"] == snapshot(found)


# ------------------------------------------------------------------------------------------------------ command line


def test_the_command_draws_figures_makes_tables_and_prints_the_page(mixed: Reported, tmp_path: Path) -> None:
    place = mixed.place
    words = [sys.executable, str(Path(report.__file__)), "--round", "mixed", "--analysis", str(place.analysis),
             "--experiments", str(place.experiments), "--rounds", str(place.rounds), "--out", "out"]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    page = tmp_path / done.stdout.strip()
    assert page == tmp_path / "out" / "index.html"
    assert len(list(page.parent.glob("figures/plots/**/*.png"))) > 5
    assert {one.name for one in (page.parent / "tables").iterdir()} == set(report.TABLES)


def test_a_round_that_does_not_exist_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "experiments" / "charlie").mkdir(parents=True)
    words = [sys.executable, str(Path(report.__file__)), "--round", "charly", "--analysis", str(tmp_path / "analysis"),
             "--experiments", str(tmp_path / "experiments"), "--rounds", str(tmp_path)]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("report.py: no records of a round 'charly'")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "analysis").exists()
