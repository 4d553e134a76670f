"""Experiments that have a record, but are no longer in the round file: found, shown, closed, cancelled, never run.

Three things are most likely to go wrong: a walk that lists the directories of thousands of experiments; a job that
is no longer shown, or that is started again; and advice to move a record that breaks it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rounds_for_tests import Rounds, rounds, snapshot, wait_for  # noqa: F401

from roundhouse.store import removed
from roundhouse.store.removed import removed_paths

SLEEP = ["bash", "-c", "touch {directory}/going; sleep 600"]


# ---------------------------------------------------------------------------------------------- which records


def made(root: Path, *directories: str) -> Path:
    for one in directories:
        (root / one).mkdir(parents=True)
    return root


def test_records_are_found_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    root = made(
        tmp_path / "r", "a/1/attempts/1", "a/2/attempts", "b/attempts", "c/d/e/attempts/3", "c/empty", "known/attempts",
        "known/2/attempts", "deep/known/attempts", "deep/other/attempts", ".jobs/rhx/attempts", ".code/hash/attempts",
    )  # fmt: skip
    (root / "link").symlink_to(root / "a")
    (root / "a/file").write_text("")
    paths = ["a/1", "known", "deep/known", "new/1"]
    assert removed_paths(root, paths) == ["a/2", "b", "c/d/e", "deep/other"]
    assert removed_paths(tmp_path / "none", paths) == []


def test_a_record_above_the_experiments_of_the_round_is_found_with_its_neighbours(tmp_path: Path) -> None:
    root = made(tmp_path / "r", "a/attempts/1", "a/new/attempts", "a/old/attempts")
    assert removed_paths(root, ["a/new"]) == ["a", "a/old"]


def test_the_directories_of_experiments_in_the_round_are_never_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [f"{group}/{seed}" for group in range(10) for seed in range(20)]
    root = made(tmp_path / "r", *(f"{path}/attempts/1" for path in paths), "0/old/attempts/1")
    listed: list[str] = []
    real = os.scandir

    def scandir(directory: Any) -> Any:
        listed.append(os.path.relpath(directory, root))
        return real(directory)

    monkeypatch.setattr(removed.os, "scandir", scandir)
    assert removed_paths(root, paths) == ["0/old"]
    assert sorted(listed) == sorted([".", *map(str, range(10)), "0/old"])


def test_a_directory_that_cannot_be_listed_does_not_stop_the_pass(tmp_path: Path) -> None:
    root = made(tmp_path / "r", "a/attempts", "closed/x/attempts")
    (root / "closed").chmod(0)
    try:
        found = removed_paths(root, [])
    finally:
        (root / "closed").chmod(0o755)
    assert "a" in found


# ---------------------------------------------------------------------------------------------- rounds that run


def groups(**more: Any) -> dict[str, Any]:
    return {"a": {"path": "a/{x}", "grid": {"x": [1, 2]}, "command": "true"}, **more}


def test_a_removed_experiment_is_shown_and_changes_no_exit_code(rounds: Rounds) -> None:  # noqa: F811
    rounds.write(groups(bad={"path": "bad", "command": "false"}))
    assert rounds.call().returncode == 4
    rounds.write(groups())
    done = rounds.call()
    assert done.returncode == 0, done.stdout
    assert "1 experiment is no longer in the round file:\n  removed bad: failed: " in done.stdout
    assert "Round r: all 2 experiments are completed." in done.stdout
    row = rounds.status()["bad"]
    assert (row["state"], row["goes_on"], row["cause"], row["attempt"]) == ("removed", False, "error", 2)
    assert row["reason"].startswith("failed: failed 2 times")
    why = rounds.call("--why", "bad")
    assert (why.returncode, "no longer in the round file: no further attempt is made" in why.stdout) == (0, True)
    assert "attempt 2" in why.stdout and "a/1" not in why.stdout
    assert "nothing to retry" in rounds.call("--retry", "--only", "bad").stdout
    assert "nothing to cancel" in rounds.call("--cancel", "--only", "bad").stdout
    assert rounds.causes("bad") == ["error", "error"]

    before = snapshot(rounds.directory("bad"))
    assert "1 that are no longer in the round file" in rounds.call("--archive").stdout
    assert snapshot(rounds.analysis / "experiment_r/experiments/bad") == before
    assert rounds.states() == {"a/1": "completed", "a/2": "completed", "bad": "removed"}, "also when it is archived"


def test_a_path_that_exists_nowhere_is_still_an_error(rounds: Rounds) -> None:  # noqa: F811
    rounds.write(groups())
    rounds.call()
    done = rounds.call("--status", "--only", "b")
    assert (done.returncode, "matches no experiment" in done.stderr) == (2, True)
    assert rounds.call("--why", "b").returncode == 2


def test_the_job_of_a_removed_experiment_is_counted_cancelled_by_path_and_its_attempt_closed(
    rounds: Rounds,  # noqa: F811
) -> None:
    rounds.write(groups(long={"path": "long", "command": SLEEP}))
    runner = rounds.start()
    wait_for((rounds.directory("long") / "attempts/1/files/going").exists, "the job has started")
    runner.kill()
    runner.wait()
    rounds.write(groups())
    shown = rounds.call("--status").stdout
    assert "1 experiment is no longer in the round file; 1 has a queued or running job:" in shown
    assert "removed long: in_progress, attempt 1 is open (to stop it: --cancel --only long)" in shown
    assert rounds.status()["long"]["job_state"] == "running"
    assert rounds.call().returncode == 0, "the round does not wait for it"
    assert "have an open attempt, such as long" in rounds.call("--archive").stderr
    assert len(rounds.record("long").attempts) == 1
    assert "long: stopping attempt 1" in rounds.call("--cancel", "--only", "long").stdout
    wait_for(lambda: not rounds.jobs(), "the job has ended")
    assert rounds.call().returncode == 0
    assert rounds.causes("long") == ["cancelled"]
    assert rounds.status()["long"]["reason"] == "cancelled"
    assert rounds.call("--archive").returncode == 0


def test_a_pass_closes_the_attempt_of_a_removed_job_that_vanished_and_opens_no_other(rounds: Rounds) -> None:  # noqa: F811
    rounds.write(groups(long={"path": "long", "command": SLEEP}))
    runner = rounds.start()
    wait_for((rounds.directory("long") / "attempts/1/files/going").exists, "the job has started")
    runner.kill()
    for job in rounds.jobs():
        job.kill()
    runner.wait()
    rounds.write(groups())
    wait_for(lambda: rounds.call().returncode == 0 and rounds.record("long").attempts[0].closed, "it is closed")
    for _ in range(2):
        assert rounds.call().returncode == 0
    assert rounds.causes("long") == ["unknown"]
    assert rounds.status()["long"]["reason"] == "last attempt: unknown"
    rounds.write(groups(long={"path": "long", "command": SLEEP}))
    assert rounds.status()["long"]["state"] == "pending", "once it is in the round file again, it continues"


# ---------------------------------------------------------------------------------------------- changed paths


def test_a_changed_path_is_recognised_and_the_advised_move_keeps_the_record(rounds: Rounds) -> None:  # noqa: F811
    command = ["bash", "-c", 'echo {x} > {directory}/metrics.json; [ {x} != 2 ] || [ -n "$ROUNDHOUSE_EARLIER" ]']
    group = {"path": "a/{x}", "grid": {"x": [1, 2]}, "command": command}
    rounds.write({"a": group})
    assert rounds.call("--only", "a/1").returncode == 0
    group["path"] = "new/x_{x}"
    rounds.write({"a": group})
    dry = rounds.call("--dry-run").stdout
    assert "removed a/1: completed; the round file has the same config at new/x_1" in dry
    (advice,) = [line for line in dry.splitlines() if "mv -T" in line]
    assert advice.startswith("a/1 seems to have another path in the round file, new/x_1. To use its record, restore ")
    subprocess.run(["bash", "-ec", advice.partition("new/x_1: ")[2]], check=True)
    assert rounds.status()["new/x_1"]["state"] == "completed"
    done = rounds.call()
    assert done.returncode == 0, done.stdout
    assert rounds.causes("new/x_1") == ["completed"], "it was not run again"
    assert "removed" not in done.stdout
    assert (rounds.directory("new/x_1") / "metrics.json").read_text() == "1\n"


def test_a_move_is_not_advised_where_it_would_break_something(rounds: Rounds) -> None:  # noqa: F811
    def write(suffix: str) -> None:
        rounds.write({
            "t": {"path": f"t{suffix}", "command": "true"},
            "s": {"path": "s", "after": ["t"], "command": "false"},
            "deep": {"path": "deep/er" if suffix else "deep", "command": ["bash", "-c", "exit 0"]},
            "again": {"path": f"again{suffix}", "command": ["bash", "-c", "exit 0 || true"]},
        })  # fmt: skip

    write("")
    rounds.call()
    write("2")
    assert rounds.call("--limit", "0").stdout.count("mv -T") == 1
    assert "mv -T" in rounds.call("--why", "again").stdout
    why = {path: rounds.call("--why", path).stdout for path in ("t", "deep")}
    assert "The record cannot be moved: experiments that depend on t2 name its path" in why["t"]
    assert "the new path has another number of components" in why["deep"]
    rounds.call()
    assert "The record cannot be moved: again2 has a record" in rounds.call("--why", "again").stdout
