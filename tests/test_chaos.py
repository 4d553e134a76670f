"""benchmarks/chaos.py: 30 kills on each scheduler; and it finds errors, in a weakened copy and in made-up evidence."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster import CannotStart, skip_or_fail, start_slurm
from rounds_for_tests import REPOSITORY, wait_for

from roundhouse.model.attempt import Attempt, Opened, Record, Result
from roundhouse.model.causes import Cause

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import chaos  # noqa: E402
import chaos_checks as checks  # noqa: E402
from chaos_journal import FOLDER  # noqa: E402
from chaos_round import Folder  # noqa: E402

TOKEN = "rhabcdefghijklm"


def options(scheduler: str, seed: int, kills: int = 30) -> argparse.Namespace:
    return argparse.Namespace(
        scheduler=scheduler, seed=seed, kills=kills, seeds=2, epochs=8, seconds=0.25, pause=0.15
    )  # fmt: skip


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return chaos.without_kills(tmp_path_factory.mktemp("reference") / "run", options("slurm", 0))


def kills(base: Path) -> int:
    return len((base / "kills").read_text().splitlines())


def test_30_kills_on_the_local_machine_lose_nothing(tmp_path: Path, expected: dict[str, str]) -> None:
    assert chaos.run(tmp_path / "run", options("local", 1), None, expected) == []
    assert kills(tmp_path / "run") >= 30


@pytest.mark.cluster
def test_30_kills_on_slurm_lose_nothing(tmp_path: Path, expected: dict[str, str]) -> None:
    try:
        cluster = start_slurm(min_job_age=100_000)
    except CannotStart as problem:
        skip_or_fail(str(problem))
        return
    try:
        assert chaos.run(tmp_path / "run", options("slurm", 2), cluster, expected) == []
    finally:
        cluster.shut_down()
    assert kills(tmp_path / "run") >= 30


def no_resume(folder: Folder) -> None:
    """Commands find no state of earlier attempts."""
    file = folder.repository / "roundhouse" / "jobs" / "command.py"
    assert "claimed.earlier()" in file.read_text()
    file.write_text(file.read_text().replace("claimed.earlier()", "()"))


def test_lost_epochs_are_found_in_a_weaker_product(
    tmp_path: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chaos, "WEIGHTS", [int(kind == "command") for kind in chaos.KINDS])
    few = argparse.Namespace(**{**vars(options("local", 3, kills=6)), "seeds": 1})
    findings = chaos.run(tmp_path / "run", few, None, expected, no_resume)
    assert findings
    assert all(" had been saved" in one for one in findings), findings


def test_a_command_that_starts_while_another_of_its_experiment_lives_is_found(tmp_path: Path) -> None:
    script = REPOSITORY / "benchmarks" / "chaos_train.py"
    words = [sys.executable, str(script), "--path", "r/single/0", "--seed", "0", "--epochs", "1000"]
    words += ["--seconds", "0.01", "--out", str(tmp_path), "--resume", "here"]
    env = {**os.environ, FOLDER: str(tmp_path)}
    with subprocess.Popen(words, env={**env, "ROUNDHOUSE_ATTEMPT": "1"}) as first:
        try:
            wait_for(lambda: len(checks.read_lines(tmp_path / "lines")) > 2, "it saves epochs")
            done = subprocess.run(words, env={**env, "ROUNDHOUSE_ATTEMPT": "2"}, stderr=subprocess.PIPE)
        finally:
            first.kill()
    assert done.returncode == 1
    assert b"another process of this experiment is alive" in done.stderr
    (found,) = checks.one_writer(checks.read_lines(tmp_path / "lines"))
    assert f"of attempt 2 started while {first.pid}" in found


# ------------------------------------------------------------------------------------------- made-up evidence


def line(event: str, attempt: int, pid: int = 7, **more: Any) -> dict[str, Any]:
    return {"event": event, "path": "r/single/0", "attempt": attempt, "pid": pid, **more}


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([line("start", 1), line("saved", 1), line("start", 2, 8), line("end", 2, 8)], []),
        (
            [line("start", 1), line("double", 2, 8, holder="7")],
            ["r/single/0: process 8 of attempt 2 started while 7 lived"],
        ),
        (
            [line("start", 1), line("start", 2, 8), line("saved", 1)],
            ["r/single/0: process 7 wrote in attempt 1 after process 8 in attempt 2"],
        ),
        (
            [line("start", 1), line("start", 1, 8)],
            ["r/single/0: process 8 wrote in attempt 1 after process 7 in attempt 1"],
        ),
    ],
    ids=["well", "locked", "late", "one directory"],
)
def test_two_writers_are_found(lines: list[dict[str, Any]], found: list[str]) -> None:
    assert list(checks.one_writer(lines)) == found


def test_lost_epochs_and_files_are_found_and_a_rerun_begins_again() -> None:
    lines = [line("start", 1, epoch=0), line("saved", 1, epoch=3), line("start", 3, epoch=2)]
    assert list(checks.resumed(lines, {})) == ["r/single/0: attempt 3 began at epoch 2, but epoch 3 had been saved"]
    assert list(checks.resumed(lines, {"r/single/0": [2]})) == []
    lines = [line("damaged", 2, file="parts/1")]
    assert list(checks.resumed(lines, {})) == ["r/single/0: parts/1 is missing or damaged"]


def test_submissions_that_are_repeated_or_unknown_are_found() -> None:
    assert list(checks.submitted_once(["a", "b"], {"a", "b", "c"}, "job")) == []
    assert list(checks.submitted_once(["a", "a", "d"], {"a"}, "job")) == [
        "job a was submitted 2 times",
        "job d was submitted, but no record contains it",
    ]


def test_an_experiment_begins_again_after_a_rerun_and_with_other_inputs_only_after_a_retry() -> None:
    def with_inputs(*given: tuple[str, str]) -> list[int]:
        made = attempts(*(cause for cause, _ in given))
        changed = [
            replace(one, opened=replace(one.opened, inputs={"single": [{"path": "single/0", "token": token}]}))
            for one, (_, token) in zip(made, given, strict=True)
        ]
        return checks.begins_again(changed)

    assert with_inputs(("unknown", "a"), ("retry", "-"), ("completed", "a")) == []
    assert with_inputs(("unknown", "a"), ("retry", "-"), ("retry", "-"), ("completed", "b")) == [3]
    assert with_inputs(("unknown", "a"), ("unknown", "b"), ("completed", "b")) == []
    assert with_inputs(("completed", "a"), ("rerun", "-"), ("completed", "a")) == [2]


def attempts(*causes: str) -> tuple[Attempt, ...]:
    """Attempts with these causes; `rerun` and `retry` are markers."""
    made = []
    for number, cause in enumerate(causes, 1):
        known = Cause(cause)
        mark = known if known in (Cause.RERUN, Cause.RETRY) else None
        opened = Opened(f"{TOKEN}{number}", {}, "hash", {}, mark=mark)
        made.append(Attempt(number, opened, result=Result(known)))
    return tuple(made)


def test_a_second_completion_is_found() -> None:
    assert list(checks.completed_once("e", attempts("unknown", "retry", "completed"))) == []
    assert list(checks.completed_once("e", attempts("completed", "rerun", "unknown", "completed"))) == []
    assert list(checks.completed_once("e", attempts("unknown"))) == ["e: 0 completed attempts [] after 0 reruns"]
    assert list(checks.completed_once("e", attempts("completed", "unknown", "completed"))) == [
        "e: 2 completed attempts [1, 3] after 0 reruns",
        "e: attempts [2, 3] were opened after attempt 1 had completed",
    ]


def test_a_token_of_two_attempts_is_found(tmp_path: Path) -> None:
    one, two = attempts("unknown", "completed")
    assert list(checks.tokens_unique({"e": Record(tmp_path, (one, two))})) == []
    records = {"e": Record(tmp_path, (one,)), "f": Record(tmp_path, (one,))}
    assert list(checks.tokens_unique(records)) == [f"token {TOKEN}1 is used by e attempt 1 and f attempt 1"]


def test_another_result_and_an_attempt_that_is_not_recorded_are_found(tmp_path: Path) -> None:
    record = Record(tmp_path, attempts("completed"))
    lines = [line("start", 1), line("end", 1, hash="x")]
    assert list(checks.ran_what_is_recorded("e", record, lines, "x", "x")) == []
    lines += [line("start", 2)]
    assert list(checks.ran_what_is_recorded("e", record, lines, "y", "z")) == [
        "e: attempt 1 has the result x instead of y",
        "e: the results at the top are z instead of y",
        "e: attempts [2] ran, but are not in the record",
    ]


def test_an_attempt_whose_directory_is_used_again_is_found(tmp_path: Path) -> None:
    place = tmp_path / "r" / "single" / "0" / "attempts" / "1"
    place.mkdir(parents=True)
    watcher = checks.Watcher(tmp_path)
    (place / "job.json").write_text('{"token": "a"}')
    watcher.look()
    assert watcher.finish() == []
    (place / "job.json").write_text('{"token": "b"}')
    watcher.look()
    (place / "job.json").unlink()
    place.rename(tmp_path / "elsewhere")
    inode = (tmp_path / "elsewhere").stat().st_ino
    assert watcher.finish() == [f"{place}: was {(inode, 'a')}, is {(inode, 'b')}", f"{place}: has vanished"]
