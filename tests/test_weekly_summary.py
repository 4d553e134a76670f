"""The summary of a week: commits by area, events of experiments, hours and best results."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rounds_for_tests import REPOSITORY, snapshot
from synthetic_rounds import SCHEDULER, unsynced, write_mixed

from analysis.methodology import in_markdown
from analysis.round_summary import ExperimentSummary, summaries_of
from analysis.rounds import Folders, RoundEntry, read_round
from roundhouse.config.round import load_round
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Opened
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import State
from roundhouse.store import record
from roundhouse.views import eta
from toolbox import weekly_summary
from toolbox.weekly.commits import area_of, commits_of, work_section
from toolbox.weekly.history import events_of, hours_in, lost_in, state_at
from toolbox.weekly.period import Period, read_moment
from toolbox.weekly.rounds import Activity
from toolbox.weekly_summary import summary

MONDAY = datetime(2026, 3, 2, tzinfo=timezone.utc).timestamp()
HOUR, DAY = 3600.0, 86400.0
WEEK = Period(MONDAY, MONDAY + 7 * DAY)
SMALL = """\
round: small
study: distillation
resources: {ngpus: 2, walltime: "2:00:00"}
experiments:
  student:
    path: "student/{seed}"
    grid: {seed: &seeds [0, 1]}
    config: {model: small}
  distilled:
    path: "{method}/{seed}"
    grid: {method: [logit, rkd], seed: *seeds}
    config: {model: small}
    baseline: student
"""


# ---------------------------------------------------------------------------------------------------------------- git


@dataclass
class Repository:
    """A real repository in a folder, with commits at times of the test's choice."""

    folder: Path

    def git(self, *words: str, at: float = MONDAY) -> str:
        env = {**os.environ, "GIT_AUTHOR_DATE": f"@{at:.0f} +0000", "GIT_COMMITTER_DATE": f"@{at:.0f} +0000",
               "GIT_CONFIG_GLOBAL": "/dev/null"}  # fmt: skip
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
        done = subprocess.run(
            ["git", *who, *words], cwd=self.folder, env=env, check=True, capture_output=True, text=True
        )
        return done.stdout

    def commit(self, subject: str, content: Mapping[str, str | bytes], at: float = MONDAY) -> None:
        for name, text in content.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self.git("add", "--all", at=at)
        self.git("commit", "--quiet", "--allow-empty", "-m", subject, at=at)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repository")
    made.folder.mkdir()
    made.git("init", "--quiet")
    return made


@pytest.fixture
def nowhere(tmp_path: Path) -> Folders:
    """A place without any records."""
    return Folders(tmp_path / "experiments", tmp_path / "rounds", tmp_path / "analysis")


def test_commits_are_summarised_by_area_the_largest_first(repository: Repository, nowhere: Folders) -> None:
    repository.commit("Plot curves", {"analysis/a.py": "1\n2\n3\n", "tests/test_a.py": "1\n" * 50}, MONDAY + HOUR)
    repository.commit("Plot them again", {"analysis/a.py": "1\n2\n", "analysis/b.py": "1\n"}, MONDAY + 2 * DAY)
    repository.commit("A new method", {"studies/distillation/m.py": "1\n" * 200}, MONDAY + DAY)
    text = summary(WEEK, repository.folder, nowhere)
    assert "3 commits to 4 files, 254 lines added and 1 removed." in text
    assert "- **studies/distillation**, 1 commit:\n  - A new method\n- **analysis**, 2 commits:\n" in text
    assert "  - Plot curves\n  - Plot them again\n" in text


def test_an_area_has_the_largest_subjects_and_the_number_of_the_others(repository: Repository) -> None:
    for number in range(9):
        repository.commit(f"Change {number}", {f"code/{number}": "1\n" * (number % 5 + 1)}, MONDAY + number)
    text = "\n".join(work_section(commits_of(repository.folder, WEEK)))
    assert text.count("Change") == 3
    assert "- Change 4\n" in text and text.endswith("; and 6 more")


def test_no_more_than_four_areas_have_lines_the_others_are_counted(repository: Repository) -> None:
    for number in range(9):
        repository.commit(f"Change {number}", {f"area{number}/file": "1\n" * (9 - number)}, MONDAY + number)
    text = "\n".join(work_section(commits_of(repository.folder, WEEK)))
    assert re.findall(r"\*\*(.*?)\*\*", text) == ["area0", "area1", "area2", "area3"]
    assert "Also: area4 (1 commit), area5 (1 commit)" in text


def test_the_area_of_a_commit_is_that_of_its_code_unless_it_changes_only_tests(repository: Repository) -> None:
    repository.commit("Code", {"code/a.py": "1\n", "tests/t.py": "1\n" * 90, "docs/d.md": "1\n" * 90})
    repository.commit("Tests", {"tests/t.py": "2\n", "README.md": ""}, MONDAY + 1)
    repository.commit("A picture", {"docs/p.png": b"\0\1"}, MONDAY + 2)
    assert [one.area for one in commits_of(repository.folder, WEEK)] == ["code", "tests", "docs"]


@pytest.mark.parametrize(
    ("path", "area"),
    [("roundhouse/model/plan.py", "roundhouse"), ("train.py", "top level"), ("studies/x/y.py", "studies/x"),
     ("studies/x/analysis/y.py", "studies/x"), ("studies/__init__.py", "studies"), ("other/a/b", "other")],
)  # fmt: skip
def test_every_path_has_an_area(path: str, area: str) -> None:
    assert area_of(path) == area


def merge(repository: Repository, subject: str, at: float, name: str = "side") -> None:
    """A merge of a branch with one commit."""
    repository.git("checkout", "--quiet", "-b", name)
    repository.commit(f"On {name}", {f"code/{name}": "1\n"}, at)
    repository.git("checkout", "--quiet", "main")
    repository.commit(f"Beside {name}", {f"docs/{name}": "1\n"}, at + 1)
    repository.git("merge", "--quiet", "--no-ff", "-m", subject, name, at=at + 2)


def test_a_merge_tells_the_story_of_its_area_and_is_counted_nowhere(repository: Repository) -> None:
    repository.commit("First", {"code/a": "1\n" * 9})
    merge(repository, "Merge branch side: faster evaluation", MONDAY + 10)
    text = "\n".join(work_section(commits_of(repository.folder, WEEK)))
    assert text.startswith("3 commits to 3 files, 11 lines added")
    assert "- **code**, 2 commits:\n  - faster evaluation\n  - First\n  - On side" in text


def test_commits_that_a_shown_merge_brought_are_not_among_the_others(repository: Repository) -> None:
    repository.commit("First", {"code/a": "1\n"})
    repository.git("checkout", "--quiet", "-b", "deep")
    for number in range(9):
        repository.commit(f"Deep {number}", {"code/deep": "1\n" * (number + 1)}, MONDAY + number)
    repository.git("checkout", "--quiet", "main")
    repository.commit("Second", {"code/b": "1\n" * 4}, MONDAY + 10)
    merge(repository, "Merge side: what side has", MONDAY + 20)
    repository.git("checkout", "--quiet", "deep")
    repository.git("merge", "--quiet", "-m", "Merge main: what main has", "main", at=MONDAY + 30)
    repository.git("checkout", "--quiet", "main")
    repository.git("merge", "--quiet", "--no-ff", "-m", "Merge deep: what deep has", "deep", at=MONDAY + 40)
    text = "\n".join(work_section(commits_of(repository.folder, WEEK)))
    assert "- **code**, 12 commits:\n  - what deep has\n  - what side has\n  - Second; and 1 more" in text


@pytest.mark.parametrize("subject", ["Merge branch 'side'", "Merge branch 'a' into b", "Merge main", "Merge main: "])
def test_a_merge_that_names_only_branches_is_left_out(repository: Repository, subject: str) -> None:
    repository.commit("First", {"code/a": "1\n"})
    merge(repository, subject, MONDAY + 10)
    repository.commit("Nothing", {}, MONDAY + 20)
    text = "\n".join(work_section(commits_of(repository.folder, WEEK)))
    assert "Merge" not in text and "main" not in text and "Nothing" not in text
    assert "On side" in text


def test_a_merge_into_another_branch_is_left_out(repository: Repository) -> None:
    repository.commit("First", {"code/a": "1\n"})
    repository.git("checkout", "--quiet", "-b", "other")
    repository.commit("Other", {"code/b": "1\n"}, MONDAY + 1)
    repository.git("checkout", "--quiet", "main")
    repository.commit("Main", {"code/c": "1\n"}, MONDAY + 2)
    repository.git("checkout", "--quiet", "other")
    repository.git("merge", "--quiet", "-m", "Merge main: what main has", "main", at=MONDAY + 3)
    repository.git("checkout", "--quiet", "main")
    repository.git("merge", "--quiet", "--no-ff", "-m", "Merge other: what other has", "other", at=MONDAY + 4)
    merges = [one.story for one in commits_of(repository.folder, WEEK) if one.merge]
    assert merges == ["what other has"]


def test_a_long_subject_is_cut_at_a_word(repository: Repository) -> None:
    repository.commit("word " * 60, {"code/a": "1\n"})
    (found,) = commits_of(repository.folder, WEEK)
    assert found.story.endswith("word …") and len(found.story) <= 110


def test_adjacent_periods_share_no_commit_and_lose_none(repository: Repository) -> None:
    times = [MONDAY - 1, MONDAY, MONDAY + 1, WEEK.until - 1, WEEK.until, WEEK.until + 1]
    for number, at in enumerate(times):
        repository.commit(str(number), {str(number): "1\n"}, at)
    weeks = [Period(MONDAY - 7 * DAY, MONDAY), WEEK, Period(WEEK.until, WEEK.until + 7 * DAY)]
    subjects = [[one.subject for one in commits_of(repository.folder, week)] for week in weeks]
    assert subjects == [["0"], ["1", "2", "3"], ["4", "5"]]


HOSTILE = [
    "commit 0123456789012345678901234567890123456789 1", "1\t2\tname", "<script>alert(1)</script> & &amp; | *bold*",
    "[a](http://b) `code` _x_ __init__.py ~~no~~ $(rm -rf ~) \\", "# 1. - > +", "é 漢字 \u202e",
]  # fmt: skip


def test_names_and_subjects_that_are_markup_for_git_or_markdown_are_shown_literally(
    repository: Repository, nowhere: Folders
) -> None:
    names = ["a\nb\tc", "1\t2\tx", "quote\"'s $(touch x)", "commit 0123456789012345678901234567890123456789 1", "ü"]
    for number, subject in enumerate(HOSTILE):
        repository.commit(subject, {names[number % 5]: "1\n" * (number + 1)}, MONDAY + number)
    found = commits_of(repository.folder, WEEK)
    assert [one.subject for one in found] == HOSTILE
    assert [list(one.files) for one in found[:5]] == [[name] for name in names]
    assert found[5].files == {"a\nb\tc": (5, 0)}
    for number, subject in enumerate(HOSTILE):
        repository.commit(subject, {f"area{number % 3}/{number}": "1\n"}, WEEK.until + number)
    shown = text_of(summary(Period(WEEK.until, WEEK.until + DAY), repository.folder, nowhere))
    for subject in HOSTILE:
        assert " ".join(subject.replace("\u202e", " ").split()) in shown


def text_of(markdown: str) -> str:
    """What a reader of rendered Markdown sees, and nothing of what would be markup, links or HTML in it."""
    seen = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown):
        assert token.type != "html_block"
        for child in token.children or ():
            assert child.type in ("text", "strong_open", "strong_close", "softbreak"), child
            seen.append(child.content)
        seen.append("\n")
    return "".join(seen)


def test_a_missing_repository_or_commits_or_records_are_reported(
    repository: Repository, nowhere: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plain").mkdir()
    assert "git log failed: fatal: not a git repository" in summary(WEEK, tmp_path / "plain", nowhere)
    assert "does not have any commits yet" in summary(WEEK, repository.folder, nowhere)
    repository.commit("Before", {"a": "1\n"}, MONDAY - DAY)
    text = summary(WEEK, repository.folder, nowhere)
    assert "No commits in this period." in text
    assert "No records of a round in" in text
    assert weekly_summary.main(words(repository.folder, nowhere, "--since", "2026-03-02", "--until", "2026-03-09")) == 0
    assert capsys.readouterr().out == text


def test_a_missing_git_is_reported_in_a_line(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, nowhere: Folders
) -> None:
    monkeypatch.setenv("PATH", str(nowhere.experiments))
    assert "git log failed: " in summary(WEEK, repository.folder, nowhere)


# ------------------------------------------------------------------------------------------------------------ periods


def words(repository: Path, place: Folders, *more: str) -> list[str]:
    folders = (
        str(one) for name in ("experiments", "rounds", "analysis") for one in (f"--{name}", getattr(place, name))
    )
    return ["--repository", str(repository), *folders, *more]


@pytest.mark.parametrize(
    ("text", "at"),
    [("2026-03-02", MONDAY), ("2026-03-02T01:00", MONDAY + HOUR), ("2026-03-02T01:00Z", MONDAY + HOUR),
     ("2026-03-02T02:00+02:00", MONDAY), ("7 days", WEEK.until - 7 * DAY), ("1d", WEEK.until - DAY),
     ("3 days ago", WEEK.until - 3 * DAY), ("1 day", WEEK.until - DAY)],
)  # fmt: skip
def test_a_moment_is_a_date_in_utc_or_days_before(text: str, at: float) -> None:
    assert read_moment(text, WEEK.until) == at


@pytest.mark.parametrize(
    "text",
    ["", "monday", "7", "days", "-1 days", "2026-02-30", "0001-01-01T00:00+05:00", "9" * 12 + "d", "9" * 5000 + "d"],
)
def test_an_invalid_date_is_refused(text: str) -> None:
    with pytest.raises(RoundhouseError, match="a date must be like"):
        read_moment(text, WEEK.until)


def call(*options: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(REPOSITORY / "toolbox" / "weekly_summary.py")]
    return subprocess.run([*script, *options], check=False, capture_output=True, text=True, cwd="/")


def test_mistakes_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    for options in (
        ["--since", "monday"],
        ["--since", "2026-03-09", "--until", "2026-03-02"],
        ["--out", str(tmp_path)],
    ):
        place = Folders(tmp_path / "experiments", tmp_path / "rounds", tmp_path / "analysis")
        done = call(*words(tmp_path, place, *options))
        assert done.returncode == 2
        assert done.stderr.startswith("weekly_summary.py: ")
        assert len(done.stderr.splitlines()) == 1


def test_help_explains_the_dates_and_the_exit_codes() -> None:
    done = call("--help")
    assert done.returncode == 0
    assert "7 days" in done.stdout
    assert "exit codes:" in done.stdout


# ------------------------------------------------------------------------------------------------------------ records


def attempt(
    place: Folders,
    experiment: Experiment,
    number: int,
    started: float | None,
    ended: float | None = None,
    cause: Cause = Cause.COMPLETED,
    mark: Cause | None = None,
    result: float | None = None,
) -> None:
    """An attempt with times of the test's choice; `result`: the accuracy that it reached."""
    directory = place.experiments / experiment.round / experiment.path
    opened = Opened(record.new_token(), SCHEDULER, experiment.config_hash(), {}, "1", mark=mark)
    assert record.open_attempt(directory, number, opened)
    record.write_config(directory, experiment)
    folder = record.attempt_directory(directory, number)
    if started is None:
        return
    os.utime(folder / "job.json", (started - 60, started - 60))
    base: dict[str, Any] = {"version": 1, "nonce": "n"}
    void = {"void": True, "cause": str(mark)} if mark else {}
    (folder / "claim.json").write_text(json.dumps({**base, "host": "gpu1", "at": started, **void}))
    if result is not None:
        metrics = {"metric": "val_accuracy", "mode": "max", "exact": True, "best": {"epoch": 1, "val_accuracy": result},
                   "final": {"test_accuracy": result, "chance_accuracy": 0.1}, "epochs": []}  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if ended is not None:
        (folder / "result.json").write_text(
            json.dumps({**base, "cause": str(cause), "why": "w|y", "exit_code": 0, "at": ended})
        )


@pytest.fixture
def small(tmp_path: Path) -> Folders:
    """The round `small`, of which nothing has started."""
    place = Folders(tmp_path / "experiments", tmp_path / "rounds", tmp_path / "analysis")
    (place.experiments / "small").mkdir(parents=True)
    place.rounds.mkdir()
    (place.rounds / "small.yaml").write_text(SMALL)
    return place


def experiment_of(place: Folders, path: str) -> Experiment:
    return next(one for one in load_round("small", place.rounds).experiments if one.path == path)


def activity(place: Folders, period: Period = WEEK, name: str = "small") -> Activity:
    return Activity.of(read_round(name, place), period)


def kinds_of(found: Activity, path: str) -> list[str]:
    return [event.kind for event in found.events[path]]


def entry_of(place: Folders, path: str, name: str = "small") -> RoundEntry:
    return next(one for one in read_round(name, place).entries if one.path == path)


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0].strip()


def test_a_run_across_the_border_of_a_period_counts_its_share(small: Folders) -> None:
    attempt(small, experiment_of(small, "student/0"), 1, MONDAY - HOUR, MONDAY + 3 * HOUR)
    assert sum(activity(small).hours.values()) == 6.0  # three hours of two GPUs
    assert sum(activity(small, Period(MONDAY - DAY, MONDAY)).hours.values()) == 2.0
    assert kinds_of(activity(small), "student/0") == ["finished"]
    assert kinds_of(activity(small, Period(MONDAY - DAY, MONDAY)), "student/0") == ["started"]
    results = section(summary(WEEK, small.rounds, small), "Results")
    assert results.startswith("1 experiment completed; 6.00 GPU-hours used.")
    assert "- **small**: 1 experiment completed, in all 1 of 6" in results


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folder = tmp_path_factory.mktemp("mixed")
    place = Folders(folder / "experiments", folder / "rounds", folder / "analysis")
    write_mixed(place.experiments, place.rounds, epochs=4, examples=60)
    return place


@pytest.fixture(scope="module")
def known(mixed: Folders) -> Sequence[ExperimentSummary]:
    return summaries_of(read_round("mixed", mixed))[0]


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.floats(1767225600.0 - DAY, 1767225600.0 + 3 * DAY), min_size=1, max_size=5))
def test_hours_and_events_of_adjacent_periods_sum_to_those_of_the_whole(
    known: Sequence[ExperimentSummary], cuts: list[float]
) -> None:
    borders = [0.0, *sorted(cuts), 4e9]
    parts = [Period(*pair) for pair in zip(borders, borders[1:], strict=False)]
    for one in known:
        whole = one.entry.seconds / 3600  # of one GPU each
        assert sum(hours_in(one, part, "GPU-hours") for part in parts) == pytest.approx(whole, abs=1e-9)
        events = events_of(one.entry)
        assert sum(event.at in part for event in events for part in parts) == len(events)


THEN = Period(1767225600.0, 1767225600.0 + 3 * DAY)  # when the round `mixed` ran


def test_a_mixed_round_is_told_by_results_problems_and_queue(mixed: Folders) -> None:
    text = summary(THEN, mixed.rounds, mixed)
    assert section(text, "Results").startswith("5 experiments completed, 1 cancelled; 0.12 GPU-hours used.")
    assert "- **mixed**: 5 experiments completed, in all 5 of 17" in text
    problems = section(text, "Problems").splitlines()
    path = "digits/fitnets/alpha_0.25/ResNet20_to_ResNet8/0"
    assert problems[0] == f"- **mixed**: 1 failed (1 error), first {path} (exit code 1); 1 blocked"
    assert problems[1] in ("- 2 restarts, after: 1 walltime, 1 error",
                           "- 2 restarts, after: 1 error, 1 walltime")  # fmt: skip
    assert re.fullmatch(r"- About 0\.0\d GPU-hours lost: .*", problems[2]), "the two runs that failed, a minute each"
    assert problems[3].startswith("- **mixed**: 2 problems in its records, first: ")
    assert section(text, "Next") == "- **mixed**: 9 waiting"


def test_what_is_queued_now_has_the_eta_that_the_runner_prints(mixed: Folders) -> None:
    now = time.time()
    text = section(summary(Period(now - DAY, now + 1), mixed.rounds, mixed, now), "Next")
    estimate = eta.sentence(
        eta.estimate([eta.workload_of(one.status) for one in read_round("mixed", mixed).entries]), now
    )
    assert text.startswith("- **mixed**: 2 running, 1 queued, 6 waiting. ")
    assert "GPU-hours used" in estimate and in_markdown(estimate)[:30] in text


def test_the_whole_summary_of_a_busy_week_has_about_forty_lines(
    repository: Repository, small: Folders, mixed: Folders
) -> None:
    for number in range(60):
        repository.commit(f"Change {number}", {f"area{number % 9}/{number}": "1\n"}, THEN.since + number)
    template = (mixed.rounds / "mixed.yaml").read_text()
    for number in range(9):
        shutil.copytree(mixed.experiments / "mixed", small.experiments / f"mixed{number}", symlinks=True)
        (small.rounds / f"mixed{number}.yaml").write_text(template.replace("round: mixed", f"round: mixed{number}"))
    lines = [line for line in summary(THEN, repository.folder, small).splitlines() if line]
    assert len(lines) <= 44
    assert "- 6 more rounds: 30 experiments completed" in lines
    assert "- and 6 more rounds with failures" in lines
    assert "- and 7 more rounds with problems in the records" in lines
    assert lines[-1] == "- and 60 experiments of 7 more rounds", "six of mixed, and the one that has not begun"


def test_the_states_now_agree_with_the_plan(mixed: Folders) -> None:
    named = {State.COMPLETED: {"completed"}, State.IN_PROGRESS: {"running", "queued"}, State.PENDING: {"waiting"},
             State.FAILED: {"failed"}, State.BLOCKED: {"blocked"}, State.CANCELLED: {"cancelled"}}  # fmt: skip
    states = {one.path: state_at(one, float("inf")) for one in read_round("mixed", mixed).entries}
    for one in read_round("mixed", mixed).entries:
        assert states[one.path] in named[one.state]
    assert states["digits/pure/ResNet20/1"] == "running"
    assert states["digits/pure/ResNet8/2"] == "queued"


def test_a_past_period_is_shown_as_it_was_then(small: Folders) -> None:
    attempt(small, experiment_of(small, "student/0"), 1, MONDAY + HOUR, MONDAY + 8 * DAY)
    attempt(small, experiment_of(small, "student/1"), 1, MONDAY + 8 * DAY)
    first, second = experiment_of(small, "logit/0"), experiment_of(small, "logit/1")
    attempt(small, first, 1, WEEK.until + 30)  # opened half a minute before the end, started after it
    attempt(small, second, 1, MONDAY + HOUR, MONDAY + 2 * HOUR, Cause.WALLTIME)
    attempt(small, second, 2, MONDAY + 9 * DAY, MONDAY + 10 * DAY)
    states = {
        path: state_at(entry_of(small, path), WEEK.until) for path in ("student/0", "student/1", "logit/0", "logit/1")
    }
    assert states == {"student/0": "running", "student/1": "waiting", "logit/0": "queued", "logit/1": "waiting"}
    text = summary(WEEK, small.rounds, small)
    assert "336 GPU-hours used" in text, "two GPUs, for a week but an hour, and for an hour"
    assert section(text, "Next") == "- **small**: 1 running, 1 queued, 4 waiting"


def test_a_failure_that_was_retried_or_archived_later_is_still_in_its_week(small: Folders) -> None:
    for path, mark in (("logit/0", Cause.RETRY), ("logit/1", Cause.ARCHIVED)):
        one = experiment_of(small, path)
        attempt(small, one, 1, MONDAY, MONDAY + 60, Cause.ERROR)
        attempt(small, one, 2, MONDAY + 120, MONDAY + 180, Cause.ERROR)
        attempt(small, one, 3, WEEK.until + DAY, mark=mark)
    attempt(small, experiment_of(small, "logit/0"), 4, WEEK.until + 2 * DAY, WEEK.until + 3 * DAY)
    week, next_week = activity(small), activity(small, Period(WEEK.until, WEEK.until + 7 * DAY))
    assert kinds_of(week, "logit/0") == kinds_of(week, "logit/1") == ["started", "requeued", "failed"]
    assert kinds_of(next_week, "logit/0") == ["requeued", "finished"]
    assert kinds_of(next_week, "logit/1") == ["archived"]
    problems = section(summary(WEEK, small.rounds, small), "Problems").splitlines()
    assert problems[0] == "- **small**: 2 failed (2 error), first logit/0 (w\\|y)"
    later = section(summary(Period(WEEK.until, WEEK.until + 7 * DAY), small.rounds, small), "Problems")
    assert "failed" not in later.partition("lost")[0]


def test_failures_that_were_retried_since_are_counted_and_older_ones_too(small: Folders) -> None:
    attempt(small, experiment_of(small, "logit/0"), 1, MONDAY - DAY, MONDAY - DAY + 60, Cause.ERROR)
    attempt(small, experiment_of(small, "logit/0"), 2, MONDAY - DAY + 90, MONDAY - DAY + 120, Cause.ERROR)
    again = experiment_of(small, "rkd/1")
    attempt(small, again, 1, MONDAY, MONDAY + 60, Cause.ERROR)
    attempt(small, again, 2, MONDAY + 120, MONDAY + 180, Cause.ERROR)
    attempt(small, again, 3, MONDAY + HOUR, mark=Cause.RETRY)
    text = section(summary(WEEK, small.rounds, small), "Problems").splitlines()[0]
    assert text == "- **small**: 1 failed (1 error), 1 of them retried since, first rkd/1 (w\\|y); " + (
        "1 failed earlier and not retried"
    )


def progress(place: Folders, path: str, number: int, **values: int) -> None:
    folder = record.attempt_directory(place.experiments / "small" / path, number)
    (folder / "progress.json").write_text(json.dumps({"version": 1, **values}))


@pytest.mark.parametrize(
    ("resumed", "lost"), [(8, 0.0), (6, 2.0), (5, 3.0), (2, 6.0), (0, 6.0)], ids=["all", "most", "half", "none", "less"]
)
def test_lost_hours_are_what_was_computed_again(small: Folders, resumed: int, lost: float) -> None:
    one = experiment_of(small, "logit/0")
    attempt(small, one, 1, MONDAY, MONDAY + 3 * HOUR, Cause.NODE)  # six GPU-hours for six epochs, 3 to 8
    progress(small, one.path, 1, epoch=8, epochs=20, started_epoch=2)
    attempt(small, one, 2, MONDAY + 4 * HOUR)
    progress(small, one.path, 2, epoch=9, epochs=20, started_epoch=resumed)
    (known,) = [each for each in activity(small).known if each.entry.path == one.path]
    assert lost_in(known, WEEK, "GPU-hours") == pytest.approx(lost)
    assert lost_in(known, Period(WEEK.until, WEEK.until + DAY), "GPU-hours") == 0


@pytest.mark.parametrize("cause", [Cause.COMPLETED, Cause.CANCELLED, Cause.RUNG, Cause.DIVERGED])
def test_nothing_is_lost_by_runs_that_ended_as_intended(small: Folders, cause: Cause) -> None:
    one = experiment_of(small, "logit/0")
    attempt(small, one, 1, MONDAY, MONDAY + HOUR, cause)
    progress(small, one.path, 1, epoch=8, epochs=20, started_epoch=2)
    (known,) = [each for each in activity(small).known if each.entry.path == one.path]
    assert lost_in(known, WEEK, "GPU-hours") == 0


def test_a_submission_deferred_by_a_limit_is_no_requeue_and_a_cancelled_one_is_counted(small: Folders) -> None:
    one = experiment_of(small, "logit/0")
    attempt(small, one, 1, MONDAY, mark=Cause.CANCELLED)
    two = experiment_of(small, "logit/1")
    attempt(small, two, 1, None)
    assert record.void(small.experiments / "small" / two.path, 1, Cause.LIMIT, "limit")
    attempt(small, two, 2, MONDAY + HOUR, MONDAY + 2 * HOUR)
    assert kinds_of(activity(small), "logit/0") == ["cancelled"]
    assert kinds_of(activity(small), "logit/1") == ["started", "finished"]


def test_best_results_have_spread_n_baseline_and_chance_and_what_was_best_before(small: Folders) -> None:
    day = 0
    for path, result in (("student/0", 0.80), ("student/1", 0.82), ("logit/0", 0.85), ("logit/1", 0.87)):
        attempt(small, experiment_of(small, path), 1, MONDAY - 5 * DAY + day, MONDAY - 4 * DAY + day, result=result)
        day += 60
    attempt(small, experiment_of(small, "rkd/0"), 1, MONDAY, MONDAY + DAY, result=0.90)
    attempt(small, experiment_of(small, "rkd/1"), 1, MONDAY, MONDAY + 9 * DAY, result=0.96)
    lines = section(summary(WEEK, small.rounds, small), "Results").splitlines()
    assert "± is the standard deviation over n seeds" in lines[0]
    assert lines[2:] == [
        "- **small**: 1 experiment completed, in all 5 of 6",
        "  - distilled: test accuracy 90.00 % (n = 1) with rkd, the best of 2 settings by validation accuracy; "
        "baseline student 81.0 ± 1.4 % (n = 2); chance 10.00 %; before: 86.0 ± 1.4 % (n = 2) with logit",
    ]
    later = summary(Period(MONDAY + 9 * DAY - 1, MONDAY + 10 * DAY), small.rounds, small)
    assert "93 ± 4 % (n = 2) with rkd" in later and "before: 90.00 % (n = 1) with rkd" in later
    early = summary(Period(MONDAY - 5 * DAY, MONDAY - 5 * DAY + HOUR), small.rounds, small)
    assert "No experiment completed" in early and "best" not in early


def test_a_best_result_that_did_not_change_is_marked(small: Folders) -> None:
    attempt(small, experiment_of(small, "rkd/0"), 1, MONDAY - 5 * DAY, MONDAY - 4 * DAY, result=0.90)
    attempt(small, experiment_of(small, "logit/0"), 1, MONDAY, MONDAY + DAY, result=0.80)
    (line,) = [one for one in summary(WEEK, small.rounds, small).splitlines() if "90.00" in one]
    assert line.endswith("baseline student unknown; chance 10.00 %; as before")


def test_archived_rounds_and_rounds_without_activity_are_included(small: Folders) -> None:
    attempt(small, experiment_of(small, "student/0"), 1, MONDAY, MONDAY + HOUR)
    results = small.results("small")
    results.mkdir(parents=True)
    shutil.move(small.experiments / "small", results / "experiments")
    shutil.move(small.rounds / "small.yaml", results / "small.yaml")
    text = summary(WEEK, small.rounds, small)
    assert "1 experiment completed; 2.00 GPU-hours used." in text
    assert section(text, "Next") == "No experiment is running or waiting.", "nothing of an archived round will run"
    later = summary(Period(WEEK.until, WEEK.until + DAY), small.rounds, small)
    assert section(later, "Results") == "No experiment completed."


def test_a_round_that_cannot_be_read_stops_no_other(small: Folders, mixed: Folders) -> None:
    (small.rounds / "small.yaml").write_text("round: [")
    with unsynced():
        one = Experiment("small", "g", "a b|c/0", None, {}, command=("true",))
        attempt(small, one, 1, MONDAY, MONDAY + HOUR, Cause.ERROR)
    shutil.copytree(mixed.experiments / "mixed", small.experiments / "mixed", symlinks=True)
    shutil.copy(mixed.rounds / "mixed.yaml", small.rounds)
    text = summary(WEEK, small.rounds, small)
    assert "only experiments with a record are shown" in text
    assert "1.00 job-hours used." in text
    assert "- **mixed**: 1 failed earlier and not retried" in text
    text_of(text)


def test_the_summary_is_the_same_again_and_nothing_but_the_file_is_written(
    repository: Repository, mixed: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.commit("First", {"a": "1\n"}, 1767225600.0)
    before = snapshot(mixed.experiments.parent)
    period = ("--since", "3", "days", "--until", "2026-01-03")
    assert weekly_summary.main(words(repository.folder, mixed, *period)) == 0
    first = capsys.readouterr().out
    assert weekly_summary.main(words(repository.folder, mixed, *period, "--out", str(tmp_path / "out" / "w.md"))) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'w.md'}\n"
    assert (tmp_path / "out" / "w.md").read_text() == first
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["w.md"]
    assert snapshot(mixed.experiments.parent) == before


def test_it_runs_as_a_script_in_any_folder_and_locale(repository: Repository, mixed: Folders) -> None:
    repository.commit("é 漢字", {"a": "1\n"}, 1767225600.0)
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "toolbox" / "weekly_summary.py"),
         *words(repository.folder, mixed, "--since", "2026-01-01", "--until", "2026-01-03")],
        check=True, capture_output=True, cwd="/", env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert "é 漢字" in done.stdout.decode()
    assert "(UTC)" in done.stdout.decode()
