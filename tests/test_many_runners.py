"""Runners while the scheduler is down, and many runners at once: each attempt is submitted once, even without locks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import CannotStart, skip_or_fail, start_slurm
from cluster_helpers import (
    TROUBLE,
    WORK_REMAINS,
    ClusterRounds,
    accepted,
    experiments_of,
    finish_passes,
    names_of,
    pbs_rounds,
)
from fake_pbs import FakePBS
from rounds_for_tests import wait_for

from roundhouse.model.attempt import Opened
from roundhouse.model.causes import Cause
from roundhouse.store import history, record

RUNNERS, PASSES = 8, 20


@pytest.fixture
def rounds(fake_pbs: FakePBS, tmp_path: Path) -> Iterator[ClusterRounds]:
    with pbs_rounds(fake_pbs, tmp_path) as made:
        yield made


def test_nothing_is_decided_or_submitted_in_50_passes_while_the_server_is_down(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(running=1)
    rounds.write_steps("running", "queued", "unsubmitted")
    rounds.call("--limit", "2")
    rounds.wait_for_step_3("running")
    ended = rounds.record("queued").attempts[0].opened.token
    fake_pbs.turn(down=True, running=1)
    for name in ("running", "queued"):
        rounds.let_time_pass(name)
    codes = finish_passes(rounds.passing(49))
    last = rounds.call()
    assert [*codes, last.returncode] == [TROUBLE] * 50
    assert "the scheduler could not be queried, so nothing was changed: qstat (exit 255)" in last.stderr
    assert accepted(fake_pbs) == 2
    assert {name: len(rounds.record(name).attempts) for name in ("running", "queued", "unsubmitted")} == {
        "running": 1,
        "queued": 1,
        "unsubmitted": 0,
    }
    assert not list(rounds.experiments.rglob("gone"))
    assert rounds.record("queued").attempts[0].opened.token == ended
    fake_pbs.turn()
    rounds.release("running", "queued", "unsubmitted")
    rounds.pass_until_done()
    assert accepted(fake_pbs) == 3
    assert [rounds.begun(name) for name in ("running", "queued", "unsubmitted")] == [[0]] * 3


@pytest.mark.cluster
def test_a_slurm_that_is_down_is_waited_for(tmp_path: Path) -> None:
    try:
        cluster = start_slurm(message_timeout=2)
    except CannotStart as problem:
        skip_or_fail(str(problem))
        return
    rounds = ClusterRounds(
        folder=tmp_path, extra={"SLURM_CONF": cluster.env["SLURM_CONF"]}, scheduler="slurm", site={"command_limit": 30}
    )
    try:
        rounds.write_steps("running", "unsubmitted")
        assert rounds.call("--limit", "1").returncode == WORK_REMAINS
        rounds.wait_for_step_3("running")
        cluster.stop_controller()
        rounds.let_time_pass("running")
        assert finish_passes(rounds.passing(1)) == [TROUBLE]
        assert (len(rounds.record("running").attempts), len(rounds.record("unsubmitted").attempts)) == (1, 0)
        rounds.release("running", "unsubmitted")  # it ends while no query is possible
        wait_for(lambda: rounds.record("running").completed, "the job itself writes that it is completed")
        failed = rounds.call()
        assert failed.returncode == TROUBLE
        assert "nothing was changed: scontrol (exit 1)" in failed.stderr
        assert rounds.state("running") == "completed"
        cluster.start_controller()
        rounds.pass_until_done()
        assert [rounds.begun(name) for name in ("running", "unsubmitted")] == [[0], [0]]
    finally:
        cluster.shut_down()
        rounds.kill()


@pytest.mark.parametrize("unlocked", [False, True], ids=["with locks", "without locks"])
def test_eight_runners_at_once_submit_every_attempt_exactly_once(
    fake_pbs: FakePBS, rounds: ClusterRounds, unlocked: bool
) -> None:
    names = [f"e{index}" for index in range(8)]
    run = f"echo run >> {rounds.notes}/{{name}}; "
    fail_once = f"[ -e {rounds.notes}/{{name}}.failed ] || {{{{ touch {rounds.notes}/{{name}}.failed; exit 1; }}}}"
    rounds.write(
        {
            "fine": {"path": "{name}", "grid": {"name": names[:5]}, "command": ["bash", "-c", run]},
            "flawed": {"path": "{name}", "grid": {"name": names[5:]}, "command": ["bash", "-c", run + fail_once]},
        }
    )
    runners = [rounds.passing(PASSES, unlocked=unlocked) for _ in range(RUNNERS)]
    for runner in runners:
        _, errors = runner.communicate(timeout=300)
        assert (runner.returncode, errors) == (0, "")
    rounds.pass_until_done()
    assert {name: len(rounds.lines(name)) for name in names} == dict(zip(names, [1] * 5 + [2] * 3, strict=True))
    tokens = [attempt.opened.token for name in names for attempt in rounds.record(name).attempts]
    assert len(tokens) == 11
    assert sorted(names_of(fake_pbs)) == sorted(tokens)
    assert max(Counter(experiments_of(fake_pbs)).values()) == 1


def test_two_runners_that_compact_at_the_same_time_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.open_attempt(tmp_path, 1, Opened("rhtoken", {"kind": "slurm"}, "hash", {}, "1"))
    (record.attempt_directory(tmp_path, 1) / "claim.json").write_text('{"version": 1, "nonce": "n", "job_id": "1"}')
    record.close(tmp_path, 1, Cause.COMPLETED, "")
    seen, link = record.read(tmp_path), os.link

    def link_and_lose_the_moment(source: Path, name: Path) -> None:
        link(source, name)
        if source.name == "history.json":
            monkeypatch.setattr(os, "link", link)
            history.compact(record.read(tmp_path))  # the other runner, from beginning to end

    monkeypatch.setattr(os, "link", link_and_lose_the_moment)
    history.compact(seen)
    assert record.read(tmp_path).completed is not None
    files = {path.name for path in record.attempt_directory(tmp_path, 1).iterdir()}
    assert files == {"job.json", "claim.json", "result.json"}
