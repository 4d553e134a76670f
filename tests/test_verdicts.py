"""Jobs that are ended from outside: the shell records a guess, and the cause reported by the scheduler replaces it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import SlurmCluster
from cluster_helpers import FAILED, WORK_REMAINS, ClusterRounds, accepted, pbs_rounds
from fake_pbs import FakePBS
from rounds_for_tests import wait_for

from roundhouse.model.attempt import Attempt
from roundhouse.model.causes import Cause


@pytest.fixture
def rounds(fake_pbs: FakePBS, tmp_path: Path) -> Iterator[ClusterRounds]:
    with pbs_rounds(fake_pbs, tmp_path) as made:
        yield made


def start(rounds: ClusterRounds, memory: str = "100mb") -> str:
    """Submit an experiment and wait until it runs; returns the ID of its job."""
    rounds.write_steps("a", resources={"mem": memory})
    assert rounds.call().returncode == WORK_REMAINS
    rounds.wait_for_step_3("a", len(rounds.record("a").attempts))
    return str(rounds.view("a")["job_id"])


def attempt(rounds: ClusterRounds, number: int = 1) -> Attempt:
    return rounds.record("a").attempts[number - 1]


def wait_for_the_end(rounds: ClusterRounds, number: int = 1) -> None:
    wait_for(lambda: attempt(rounds, number).result is not None, "the shell records why it ended")


def requested(rounds: ClusterRounds) -> list[object]:
    return [one.opened.resources["mem_mb"] for one in rounds.record("a").attempts]


def test_a_job_that_pbs_kills_for_memory_requests_more_memory_next_time(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    job_id = start(rounds)
    fake_pbs.exceed_memory(job_id)
    wait_for_the_end(rounds)
    first = attempt(rounds)
    assert first.result is not None and first.result.guess and first.cause is Cause.PREEMPTED
    fake_pbs.wait_for_state(job_id, "F")
    assert rounds.call().returncode == WORK_REMAINS
    assert attempt(rounds).cause is Cause.MEMORY and "exceeded resource mem" in attempt(rounds).why
    assert requested(rounds) == [100, 200]
    explanation = rounds.call("--why", "a").stdout
    assert "ended: memory" in explanation and "exceeded resource mem" in explanation
    assert "the job itself recorded preempted (stopped by TERM)" in explanation
    assert [one["cause"] for one in json.loads((rounds.directory("a") / "status.json").read_text())["attempts"]] == [
        "memory",
        None,
    ]
    rounds.wait_for_step_3("a", 2)
    rounds.release("a")
    rounds.pass_until_done()
    assert rounds.causes("a") == ["memory", "completed"]
    assert rounds.record("a").compacted


def test_memory_that_runs_out_again_and_again_fails_after_two_tries(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.exceed_memory(start(rounds))
    wait_for_the_end(rounds)
    rounds.pass_until(lambda: accepted(fake_pbs) == 2, "it is tried with more memory")
    rounds.wait_for_step_3("a", 2)
    fake_pbs.exceed_memory(str(rounds.view("a")["job_id"]))
    wait_for_the_end(rounds, 2)
    rounds.pass_until(lambda: rounds.call().returncode == FAILED, "it fails")
    assert rounds.causes("a") == ["memory", "memory"]
    assert accepted(fake_pbs) == 2


def test_without_history_the_next_attempt_does_not_wait_for_a_verdict(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(history=False)
    job_id = start(rounds)
    fake_pbs.exceed_memory(job_id)
    fake_pbs.wait_for_state(job_id, None)
    rounds.pass_until(lambda: accepted(fake_pbs) == 2, "it is submitted again")
    assert attempt(rounds).cause is Cause.PREEMPTED and attempt(rounds).verdict is None


def test_a_failed_query_brings_no_verdict_and_submits_nothing(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    job_id = start(rounds)
    fake_pbs.exceed_memory(job_id)
    fake_pbs.wait_for_state(job_id, "F")
    fake_pbs.turn(down=True)
    rounds.call()
    assert attempt(rounds).awaits_verdict and len(rounds.record("a").attempts) == 1
    fake_pbs.turn()
    rounds.call()
    assert attempt(rounds).cause is Cause.MEMORY


@pytest.mark.cluster
def test_what_slurm_says_of_a_cancelled_job_is_its_cause(slurm: ClusterRounds, slurm_cluster: SlurmCluster) -> None:
    job_id = start(slurm)
    slurm_cluster.run(["scancel", job_id])
    wait_for_the_end(slurm)
    slurm.pass_until(lambda: len(slurm.record("a").attempts) == 2, "it is submitted again")
    first = attempt(slurm)
    assert first.result is not None and first.result.cause is Cause.PREEMPTED
    assert first.cause is Cause.DELETED and "CANCELLED" in first.why


@pytest.mark.cluster
def test_a_job_that_slurm_requeues_after_its_end_was_preempted(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster
) -> None:
    job_id = start(slurm)
    slurm_cluster.run(["scontrol", "requeue", job_id])
    wait_for_the_end(slurm)
    slurm.pass_until(lambda: len(slurm.record("a").attempts) == 2, "it is submitted again")
    verdict = attempt(slurm).verdict
    assert verdict is not None and verdict.cause is Cause.PREEMPTED
    slurm.release("a")
    slurm.pass_until_done()
    assert slurm.lines("a").count("end") == 1
