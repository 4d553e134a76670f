"""`--watch`: how long it waits, what it prints, and that it survives what goes wrong meanwhile."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_helpers import DONE, WORK_REMAINS, ClusterRounds, experiments_of, pbs_rounds, wrap_command
from fake_pbs import FakePBS
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import interrupt, wait_for

from roundhouse.config.round import Round
from roundhouse.engine import watch
from roundhouse.engine.report import PassReport
from roundhouse.engine.watch import (
    AT_LEAST,
    AT_MOST,
    SHARE,
    Latest,
    NoPass,
    Passed,
    Watch,
    moments,
    pause_after,
    pause_for,
)
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Attempt, Claim, Opened, Progress, Record, Result
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Resources
from roundhouse.model.plan import Action, Clock, Inputs, State, Verb
from roundhouse.model.status import ExperimentStatus

TROUBLE, INTERRUPTED = 5, 130
NOW = 1.8e9
CLOCK = Clock(NOW, grace=180.0, submission_delay=120.0, limit_backoff=600.0)

seconds = st.floats(0, 1e6)


# ---------------------------------------------------------------------------------------------- how long to wait


@given(st.floats(AT_LEAST, 1e5), st.integers(0, 10_000), st.lists(st.floats(-1e6, 1e6)))
def test_the_pause_is_never_shorter_than_the_least_nor_longer_than_the_most(
    least: float, still: int, expected: list[float]
) -> None:
    pause = pause_for(least, still, expected)
    assert least <= pause <= max(least, AT_MOST)


@given(st.floats(AT_LEAST, AT_MOST), st.integers(0, 100), st.lists(st.floats(-1e6, 1e6)))
def test_the_longer_nothing_changes_the_longer_the_pause(least: float, still: int, expected: list[float]) -> None:
    assert pause_for(least, still, expected) <= pause_for(least, still + 1, expected)


@given(st.integers(0, 100), st.lists(st.floats(1, 1e6), min_size=1))
def test_no_pause_goes_beyond_what_is_expected_unless_it_is_the_least(still: int, expected: list[float]) -> None:
    assert pause_for(AT_LEAST, still, expected) <= max(AT_LEAST, min(expected) + watch.AFTER)


@given(seconds, seconds, st.integers(0, 100), st.booleans())
def test_the_scheduler_is_asked_for_no_more_than_a_sixth_of_the_time(
    query_time: float, more: float, still: int, failed: bool
) -> None:
    for every in (None, 45.0):
        pause = pause_after(passed([row()], query_time + more, query_time, failed=failed), still, every)
        assert pause >= max(AT_LEAST, SHARE * query_time, min(SHARE * (query_time + more), AT_MOST))


def test_the_pause_grows_by_half_up_to_ten_minutes() -> None:
    assert [pause_for(30, still) for still in (0, 1, 2, 3, 7, 8, 1000)] == [30, 45, 67.5, 101.25, 512.578125, 600, 600]


def test_a_number_fixes_the_pause_but_a_pass_that_fails_is_made_again_later_and_later() -> None:
    assert [pause_after(passed([row()]), still, 300.0) for still in (0, 5)] == [300, 300]
    assert [pause_after(passed([row()], failed=True), still, 300.0) for still in (1, 2, 3)] == [450, 600, 600]


# --------------------------------------------------------------------------------------------- what is expected when


def row(state: State = State.PENDING, *attempts: Attempt, path: str = "e/0", cause: Cause | None = None,
        job_state: str | None = None, reason: str = "", walltime: int = 3600) -> ExperimentStatus:  # fmt: skip
    experiment = Experiment("r", "e", path, None, {}, Resources(walltime_s=walltime))
    action = Action(Verb.NOTHING, state, reason, cause)
    return ExperimentStatus(experiment, Record(Path("/nowhere"), attempts), action, Inputs({}), job_state)


def attempt(**more: Any) -> Attempt:
    return Attempt(1, Opened("token", {}, "hash", {}, "7", NOW - 100), **more)


def claimed(ago: float, **more: Any) -> Attempt:
    return attempt(claim=Claim(nonce="n", at=NOW - ago, started=NOW - ago), **more)


def expected(*rows: ExperimentStatus) -> list[float]:
    return sorted(round(one) for one in moments(rows, CLOCK))


def test_a_running_job_ends_at_its_walltime_or_when_its_epochs_are_done() -> None:
    assert expected(row(State.IN_PROGRESS, claimed(600))) == [3000]
    progress = Progress(epoch=5, epochs=10, seconds_per_epoch=20)
    assert expected(row(State.IN_PROGRESS, claimed(600, progress=progress, progress_at=NOW - 10))) == [90, 3000]


def test_a_job_marked_gone_a_submission_and_a_limit_are_waited_for() -> None:
    assert expected(row(State.IN_PROGRESS, attempt(gone_at=NOW - 60))) == [120]
    assert expected(row(State.SUBMITTING, attempt())) == [20]
    refused = attempt(claim=Claim(void=True, cause=Cause.LIMIT, at=NOW - 200))
    assert expected(row(State.PENDING, refused, cause=Cause.LIMIT)) == [400]


def test_no_event_is_expected_of_waiting_and_ended_experiments() -> None:
    done = claimed(600, result=Result(Cause.COMPLETED, exit_code=0, at=NOW))
    assert expected(row(), row(State.IN_PROGRESS, attempt()), row(State.COMPLETED, done)) == []


# ------------------------------------------------------------------------------------- a watch by a clock of its own


def passed(
    rows: list[ExperimentStatus],
    took: float = 0.5,
    query_time: float = 0.25,
    code: int = WORK_REMAINS,
    failed: bool = False,
) -> Passed:
    trouble = ["the scheduler could not be queried"] if failed else []
    report = PassReport(rows, trouble=trouble, clock=CLOCK, query_time=query_time, blind=failed)
    loaded = Round("r", (Path("r.yaml"),), None, [one.experiment for one in rows], {})
    return Passed(loaded, report, took, code, over=code not in (WORK_REMAINS, TROUBLE), failed=failed)


QUEUED = row(State.IN_PROGRESS, attempt(), job_state="queued")
RUNS = row(State.IN_PROGRESS, claimed(1), job_state="running", walltime=10**6)
ENDED = row(State.COMPLETED, claimed(600, result=Result(Cause.COMPLETED, exit_code=0, at=NOW)))


class Enough(Exception):
    """The test has seen enough; it ends the watch."""


def watched(*passes: Passed | Exception, every: float | None = None) -> tuple[int, list[float], list[Passed]]:
    """A watch that finds these, one after the other: its exit code, its pauses, and the passes shown whole."""
    left, pauses, shown = iter(passes), [], []

    def one_pass() -> Passed:
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    code = Watch(one_pass, shown.append, every).run(sleep=pauses.append)
    return code, pauses, shown


def test_a_watch_waits_longer_while_nothing_changes_and_the_least_after_a_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    passes = [
        passed([QUEUED]),
        passed([QUEUED]),
        passed([QUEUED]),
        passed([RUNS]),
        passed([RUNS]),
        passed([ENDED], code=DONE),
    ]
    code, pauses, shown = watched(*passes)
    assert code == DONE
    assert pauses == [30, 45, 67.5, 30, 45]
    assert shown == [passes[0], passes[-1]], "the whole table at the start and at the end"
    changes = [line.split(" ", 2)[2] for line in capsys.readouterr().out.splitlines() if "e/0" in line]
    assert changes == ["in_progress, running: e/0", "completed: e/0"]


def test_a_failed_pass_is_reported_shows_no_changes_and_is_repeated_later(capsys: pytest.CaptureFixture[str]) -> None:
    lost = row(State.IN_PROGRESS, attempt(), reason="state unknown: the scheduler could not be queried")
    failing = passed([lost], code=TROUBLE, failed=True)
    code, pauses, _ = watched(passed([QUEUED]), failing, failing, passed([QUEUED]), passed([ENDED], code=DONE))
    assert (code, pauses) == (DONE, [30, 45, 67.5, 101.25])
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["the scheduler could not be queried"], "once, while it is the same"
    assert printed.out.count("The pass failed") == 2
    assert "state unknown" not in printed.out


def test_a_change_is_reported_even_if_a_record_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    unreadable = PassReport([ENDED], trouble=["e/1: cannot be read"], clock=CLOCK)
    loaded = Round("r", (Path("r.yaml"),), None, [ENDED.experiment], {})
    _, pauses, _ = watched(
        passed([QUEUED]), Passed(loaded, unreadable, 0.5, TROUBLE, over=False, failed=True), passed([ENDED], code=DONE)
    )
    assert pauses == [30, 30]
    assert "completed: e/0" in capsys.readouterr().out


def test_a_pass_that_cannot_be_made_does_not_end_the_watch(capsys: pytest.CaptureFixture[str]) -> None:
    code, pauses, _ = watched(passed([QUEUED]), NoPass("another runner is at work"), passed([ENDED], code=DONE))
    assert (code, pauses) == (DONE, [30, 45])
    assert "No pass was made: another runner is at work. Next one in 45 s." in capsys.readouterr().out


def test_many_changes_are_counted_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    many = range(watch.MANY + 1)
    watched(
        passed([row(path=f"e/{number}") for number in many]),
        passed([row(State.IN_PROGRESS, attempt(), path=f"e/{number}") for number in many]),
        passed([row(State.COMPLETED, path=f"e/{number}") for number in many], code=DONE),
    )
    printed = capsys.readouterr().out
    assert f"in_progress: {len(many)} of e" in printed
    assert "e/0" not in printed


def test_a_limit_is_reported_when_it_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    held = row(cause=Cause.LIMIT, reason="limit reached: 3 jobs at once")
    watched(passed([row()]), passed([held]), passed([held]), passed([ENDED], code=DONE))
    assert capsys.readouterr().out.count("1 experiment delayed: limit reached: 3 jobs at once") == 1


def test_a_pause_that_follows_from_a_long_pass_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    watched(passed([row()], took=60, query_time=1), passed([ENDED], code=DONE))
    message = "Next pass in 300 s: this one took 60 s, 1 of them for the scheduler's answer."
    assert message in capsys.readouterr().out


def test_a_mistake_in_the_round_file_is_reported_once_and_the_last_round_continues(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = (Round(name, (Path("r.yaml"),), None, [], {}) for name in ("r", "s"))
    finds: list[Round | Exception] = [RoundhouseError("r.yaml:3: wrong")] * 2 + [OSError("stale file handle"), second]

    def read() -> Round:
        found = finds.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    latest = Latest(first, read)
    assert [latest.reload() for _ in range(4)] == [first, first, first, second]
    assert capsys.readouterr().err.splitlines() == ["r.yaml:3: wrong", "stale file handle"]


# ------------------------------------------------------------------------------------------------------ real processes

# runner.py, with the pauses of a watch made short.
SHORT = """\
import sys
sys.path.insert(0, {repository!r})
import runner
from roundhouse.engine import watch
watch.AT_LEAST, watch.SHARE, watch.AT_MOST, watch.AFTER = 0.05, 0, 0.2, 0.05
sys.exit(runner.main(sys.argv[1:]))
"""


@pytest.fixture
def rounds(fake_pbs: FakePBS, tmp_path: Path) -> Iterator[ClusterRounds]:
    with pbs_rounds(fake_pbs, tmp_path) as made:
        yield made


def watching(rounds: ClusterRounds, *options: str) -> subprocess.Popen[str]:
    code = SHORT.format(repository=str(rounds.repository))
    return subprocess.Popen(
        [sys.executable, "-c", code, *rounds.argv("--round", "r", "--watch", *options)[2:]],
        env={**rounds.env, **rounds.extra}, stdin=subprocess.DEVNULL, stdout=(rounds.folder / "out").open("w"),
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def printed(rounds: ClusterRounds) -> str:
    return (rounds.folder / "out").read_text()


def has_printed(rounds: ClusterRounds, words: str) -> Callable[[], bool]:
    return lambda: words in printed(rounds)


def end_of(process: subprocess.Popen[str], rounds: ClusterRounds) -> int:
    code = process.wait(60)
    assert "Traceback" not in printed(rounds), printed(rounds)
    return code


def test_a_watch_continues_to_the_end_of_the_round_and_reports_what_happens(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    rounds.set_site(max_jobs=2)
    rounds.write_steps("a", "b", "c")
    process = watching(rounds)
    rounds.wait_for_step_3("a")
    rounds.release("a")
    wait_for(has_printed(rounds, "completed: a\n"), "its end is printed")
    rounds.release("b", "c")
    assert end_of(process, rounds) == DONE
    out = printed(rounds)
    assert re.search(r"in_progress(, queued|, running)?: c\n", out)
    assert out.rstrip().endswith("all 3 experiments are completed.")
    assert out.count("attempt  job") <= 2, "the table is not printed repeatedly"
    assert len(experiments_of(fake_pbs)) == 3


def test_ctrl_c_ends_the_watch_and_not_the_jobs(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    rounds.write_steps("a")
    process = watching(rounds)
    rounds.wait_for_step_3("a")
    wait_for(has_printed(rounds, "Next pass"), "the watch waits")
    interrupt(process, signal.SIGINT)
    assert end_of(process, rounds) == INTERRUPTED
    assert (
        printed(rounds)
        .splitlines()[-1]
        .endswith("The watch has ended; the jobs continue. The same command resumes it.")
    )
    assert fake_pbs.state("1.pbsnode") == "R"


def test_a_watch_lives_through_a_scheduler_that_is_down(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    rounds.write_steps("a")
    process = watching(rounds)
    rounds.wait_for_step_3("a")
    fake_pbs.turn(down=True)
    wait_for(has_printed(rounds, "The pass failed"), "the failure is printed")
    rounds.release("a")
    fake_pbs.turn()
    assert end_of(process, rounds) == DONE
    assert rounds.lines("a").count("end") == 1


def test_a_watch_lives_through_an_answer_that_the_terminal_cannot_show(rounds: ClusterRounds) -> None:
    """The terminal's encoding lacks some characters; others would erase the screen or reverse the text."""
    wrap_command(rounds, "qstat", before=r"printf 'no \033[2J \342\200\256 \342\202\254 \351 queue\a\n' >&2; exit 1")
    rounds.extra |= {"PYTHONIOENCODING": "ascii"}
    rounds.write_steps("ü")
    process = watching(rounds)
    rounds.wait_for_step_3("ü")
    rounds.release("ü")
    assert end_of(process, rounds) == DONE
    out = printed(rounds)
    assert "no \\x1b[2J \\u202e \\u20ac \\ufffd queue\\x07" in out
    assert "all 1 experiments are completed." in out
    assert "\x1b" not in out


def test_what_is_changed_in_the_round_file_is_seen_and_a_mistake_does_not_end_the_watch(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    rounds.write_steps("a")
    process = watching(rounds)
    rounds.wait_for_step_3("a")
    good = (rounds.rounds / "r.yaml").read_text()
    rounds.write(good.replace("command:", "comand:"))
    wait_for(has_printed(rounds, "did you mean 'command'"), "the mistake is printed")
    rounds.write_steps("a", "b")
    rounds.wait_for_step_3("b")
    rounds.release("a", "b")
    assert end_of(process, rounds) == DONE
    assert printed(rounds).count("cannot be used") == 1
    assert sorted(path for path, _ in experiments_of(fake_pbs)) == ["a", "b"]
