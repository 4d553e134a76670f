"""Jobs that get more memory, more time or another node, on a real Slurm; and, locally, smaller parts of a batch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from cluster import SlurmCluster, wait_until
from cluster_helpers import DONE, FAILED, WORK_REMAINS, ClusterRounds, freeze
from rounds_for_tests import Rounds, wait_for

# It reports its epochs, and finishes one only if it has more than 25 minutes; otherwise it runs until its walltime.
SLOW = """\
import json, os, sys, time

def report(epoch):
    with open(sys.argv[1] + "/progress.json", "w") as file:
        json.dump({"version": 1, "epoch": epoch, "epochs": 2, "started_epoch": 0}, file)

report(0)
while float(os.environ["ROUNDHOUSE_DEADLINE"]) - time.time() < 1500:
    open(sys.argv[1] + "/waits", "w").close()
    time.sleep(0.05)
report(2)
"""


def write(rounds: Rounds, command: list[str], resources: dict[str, Any], **retry: Any) -> None:
    group = {"path": "a", "command": command}
    content = {"round": "r", "resources": resources, "retry": retry, "experiments": {"all": group}}
    rounds.write(yaml.safe_dump(content, sort_keys=False))


def requested(rounds: Rounds, key: str) -> list[Any]:
    return [attempt.opened.resources[key] for attempt in rounds.record("a").attempts]


def why(rounds: Rounds) -> str:
    return rounds.call("--why", "a").stdout


def closes(rounds: Rounds, number: int) -> Callable[[], bool]:
    return lambda: rounds.record("a").attempts[number - 1].closed


def test_a_job_divides_its_batch_until_the_gpus_memory_suffices(rounds: Rounds) -> None:
    enough = '[ "${{ROUNDHOUSE_ACCUMULATE:-1}}" -ge 4 ] || exit 73'
    write(rounds, ["bash", "-c", enough], {}, memory={"tries": 3, "accumulate": True})
    assert rounds.call().returncode == DONE
    assert rounds.causes("a") == ["memory", "memory", "completed"]
    assert requested(rounds, "accumulate") == [1, 2, 4]
    explanation = why(rounds)
    assert "ended: memory (the GPU's memory ran out)" in explanation
    assert "; computes a batch in 4 times as many parts; " in explanation


@pytest.mark.cluster
def test_a_job_gets_more_memory_until_it_has_enough(slurm: ClusterRounds) -> None:
    needs = '[ "$SLURM_MEM_PER_NODE" -ge 350 ] || exit 71'
    write(slurm, ["bash", "-c", needs], {"mem": "100mb"}, memory={"tries": 4, "most": "1gb"})
    assert slurm.call().returncode == WORK_REMAINS
    wait_for(closes(slurm, 1), "the first job ends")
    explanation = why(slurm)
    assert "retry after memory (memory ran out)" in explanation
    assert "memory 4 (memory x 2 each, at most 1 GB)" in explanation
    assert "next      requests 1 core, 200 MB, 1:00:00\n" in explanation
    slurm.pass_until_done()
    assert slurm.causes("a") == ["memory", "memory", "completed"]
    assert requested(slurm, "mem_mb") == [100, 200, 400]
    lines = [line for line in why(slurm).splitlines() if line.startswith("  attempt")]
    assert ["requested" in line for line in lines] == [False, True, True]
    assert "; requested 400 MB; " in lines[2]


@pytest.mark.cluster
def test_a_job_gets_no_more_memory_than_most_and_then_reaches_its_retry_limit(slurm: ClusterRounds) -> None:
    slurm.set_site(retry={"memory": {"tries": 3, "most": "150mb"}})
    write(slurm, ["bash", "-c", "exit 71"], {"mem": "100mb"})
    slurm.pass_until(lambda: slurm.call().returncode == FAILED, "it fails")
    assert slurm.causes("a") == ["memory"] * 3
    assert requested(slurm, "mem_mb") == [100, 150, 150]
    explanation = why(slurm)
    assert "failed 3 times; last cause: memory (memory ran out)" in explanation
    assert "memory is not increased beyond 150 MB, the limit of `retry`" in explanation


@pytest.mark.cluster
def test_a_job_gets_more_time_if_no_epoch_fitted_into_it(slurm: ClusterRounds, slurm_cluster: SlurmCluster) -> None:
    (slurm.folder / "slow.py").write_text(SLOW)
    write(slurm, [sys.executable, "-SE", str(slurm.folder / "slow.py"), "{directory}"], {"walltime": "0:20:00"})
    slurm.call()
    wait_for((slurm.attempt("a") / "files" / "waits").exists, "it waits for its time to be up")
    slurm_cluster.run(["scancel", "--batch", "--signal=USR2", slurm.view("a")["job_id"]])  # as Slurm does
    wait_for(closes(slurm, 1), "the first job ends")
    assert "next      requests 1 core, 0:40:00\n" in why(slurm)
    slurm.pass_until_done()
    assert slurm.causes("a") == ["walltime", "completed"]
    assert requested(slurm, "walltime_s") == [1200, 2400]


@pytest.mark.cluster
def test_a_node_that_failed_is_excluded_unless_there_is_no_other(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster
) -> None:
    slurm.set_site(directives=["--no-requeue"])
    slurm.write_steps("a")
    slurm.call()
    slurm.wait_for_step_3("a")
    node = slurm_cluster.run(["sinfo", "-h", "-N", "-o", "%N"]).stdout.split()[0]
    freeze(slurm.family("a"))  # a node that fails ends its processes without a signal
    slurm_cluster.run(["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test"])
    try:
        wait_until(lambda: "NODE_FAIL" in slurm_cluster.job_states().values(), "the job is lost")
        for process in slurm.family("a"):
            process.kill()
    finally:
        slurm_cluster.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"])
    slurm.give_up("a")
    assert slurm.causes("a") == ["node"]
    assert f"excludes {node}" in why(slurm)
    slurm.call()
    assert slurm.causes("a") == ["node", "refused"], "there is no other node"
    assert f"{node} failed, but is not excluded: a job was refused since" in why(slurm)
    slurm.release("a")
    slurm.pass_until_done()
    assert requested(slurm, "exclude") == [[], [node], []]
    assert slurm.begun("a") == [0, 3]
