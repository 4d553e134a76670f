"""How an allocation ends: with all that runs in it, within the time that the scheduler leaves, and with a reason."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster_helpers import FAILED, WORK_REMAINS, ClusterRounds, dead, pbs_rounds
from fake_pbs import FakePBS
from rounds_for_tests import fake_command, wait_for
from test_allocations import allocations, job_id_of, write

from roundhouse.model import walltime

KILL_DELAY = 10  # PBS's default

# It waits at step 3 as others do, but no signal ends it: only SIGKILL does.
DEAF = "import runpy, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); runpy.run_path({steps!r})"


@pytest.fixture
def rounds(fake_pbs: FakePBS, tmp_path: Path) -> Iterator[ClusterRounds]:
    """Rounds on a fake PBS that signals and kills a job by its session, as pbs_mom does."""
    with pbs_rounds(fake_pbs, tmp_path) as made:
        fake_pbs.turn(kill_delay=KILL_DELAY)
        yield made


def write_deaf(rounds: ClusterRounds) -> None:
    """Two packed experiments, `hears` and `deaf`."""
    steps = str(rounds.folder / "steps.py")
    deaf = [sys.executable, "-SEc", DEAF.format(steps=steps), "deaf", str(rounds.notes), "{directory}"]
    packed = {"resources": {"pack": {"slots": 2}, "max_running": 1}}
    rounds.write({
        "hears": {"path": "hears", "command": rounds.steps("hears"), **packed},
        "deaf": {"path": "deaf", "command": deaf, **packed},
    })  # fmt: skip


def start(rounds: ClusterRounds, *names: str) -> tuple[str, Path]:
    """Submit, and wait until all wait at step 3: the allocation's job ID and directory."""
    assert rounds.call().returncode == WORK_REMAINS
    for name in names:
        rounds.wait_for_step_3(name)
    (allocation,) = allocations(rounds)
    return job_id_of(allocation), allocation


def agent_of(rounds: ClusterRounds) -> psutil.Process:
    (found,) = [one for one in rounds.processes() if "roundhouse.jobs.allocation" in one.cmdline()]
    return found


def test_qdel_ends_all_slots_within_kill_delay_with_results_and_the_next_allocation_resumes(
    rounds: ClusterRounds, fake_pbs: FakePBS
) -> None:
    write_deaf(rounds)
    job_id, allocation = start(rounds, "hears", "deaf")
    session = fake_pbs.jobs()[job_id]["session"]
    slots = [one for name in ("hears", "deaf") for one in rounds.family(name)]
    assert {os.getsid(one.pid) for one in slots} == {session}, "mom follows sessions"
    fake_pbs.run(["qdel", job_id])
    fake_pbs.wait_for_state(job_id, "F")
    assert all(dead(one) for one in slots)
    assert rounds.causes("hears") == rounds.causes("deaf") == ["preempted"]
    results = [rounds.record(name).attempts[0].result for name in ("hears", "deaf")]
    assert [one and one.signals for one in results] == [("TERM",)] * 2
    assert [one and one.why for one in results] == ["stopped by TERM", "killed, since it had not stopped after TERM"]
    assert "the allocation ends: it was stopped by SIGTERM" in (allocation / "log").read_text(), "the agent ended"
    rounds.release("hears", "deaf")
    rounds.pass_until_done()
    assert rounds.begun("hears") == rounds.begun("deaf") == [0, 3]


def test_no_process_of_a_slot_outlives_an_agent_that_is_killed(rounds: ClusterRounds, fake_pbs: FakePBS) -> None:
    write_deaf(rounds)
    job_id, _ = start(rounds, "hears", "deaf")
    slots = [one for name in ("hears", "deaf") for one in rounds.family(name)]
    fake_pbs.server.rerun(job_id, orphan=True)  # its supervisor ignores them, so only the kernel ends them
    fake_pbs.turn(stopped=True)
    wait_for(lambda: fake_pbs.state(job_id) == "Q", "the server has forgotten the processes")
    agent_of(rounds).kill()
    wait_for(lambda: all(dead(one) for one in slots), "shells, trainings and commands are gone")
    assert [rounds.record(name).attempts[0].result for name in ("hears", "deaf")] == [None, None]


@pytest.mark.cluster
def test_on_slurm_no_process_of_a_slot_outlives_the_agent(slurm: ClusterRounds) -> None:
    write(slurm, ["a", "b"], slots=2)
    start(slurm, "a", "b")
    slots = [one for name in "ab" for one in slurm.family(name)]
    agent = agent_of(slurm)
    assert {os.getsid(one.pid) for one in slots} == {os.getsid(agent.pid)}
    agent.kill()
    wait_for(lambda: all(dead(one) for one in slots), "they are gone")


@pytest.mark.parametrize(
    ("kind", "number", "kill"),
    [("pbs", signal.SIGTERM, 10), ("torque", signal.SIGTERM, 10), ("slurm", signal.SIGTERM, 30),
     ("slurm", signal.SIGUSR2, 120)],
)  # fmt: skip
def test_the_results_can_be_written_before_the_scheduler_kills(kind: str, number: int, kill: float) -> None:
    assert kill / 2 < walltime.seconds_to_save(kind, number) < kill - walltime.RESULT - 1


def test_an_allocation_uses_as_many_gpus_as_it_requested_where_the_scheduler_hides_none(rounds: ClusterRounds) -> None:
    rows = "echo 0, 100; echo 1, 40000; echo 2, 100; echo 3, 90000"
    path = fake_command(rounds.folder, "nvidia-smi", f'case "$*" in *memory*) {rows} ;; *) exit 1 ;; esac')
    site = {"ROUNDHOUSE_SIGN_OF_LIFE": "0.5", "ROUNDHOUSE_TEST": rounds.mark, "PATH": path}
    rounds.set_site(environment=site, setup=["unset CUDA_VISIBLE_DEVICES"])
    notes = ["bash", "-c", f'echo "$CUDA_VISIBLE_DEVICES" > {rounds.notes}/$0', "{name}"]
    packed = {"ncpus": 2, "ngpus": 2, "pack": {"slots": 4, "per_gpu": 2}, "max_running": 1}
    rounds.write({"g": {"path": "{name}", "grid": {"name": list("abcd")}, "command": notes, "resources": packed}})
    rounds.pass_until_done()
    assert sorted(line for name in "abcd" for line in rounds.lines(name)) == ["1", "1", "3", "3"]
    (allocation,) = allocations(rounds)
    wait_for((allocation / "log").exists, "PBS delivers it when the job has ended")
    assert "this job uses GPU 3, 1 of the 4 on this node, chosen by free memory" in (allocation / "log").read_text()


def test_allocations_whose_setup_fails_are_not_submitted_permanently(rounds: ClusterRounds) -> None:
    """The reason is shown; once the site file is corrected, the round continues."""
    rounds.set_site(setup=["true", "conda activate no_such"])
    write(rounds, ["a", "b"], slots=2)
    for number in (1, 2):
        assert rounds.call().returncode == WORK_REMAINS
        assert len(allocations(rounds)) == number
        wait_for((allocations(rounds)[-1] / "failure").exists, "it ends")
        wait_for(lambda: not rounds.jobs(), "its job ends")
    assert "setup line 2 failed with exit code 127" in (allocations(rounds)[-1] / "log").read_text()
    done = rounds.call()
    assert done.returncode == FAILED
    assert len(allocations(rounds)) == 2
    said = " ".join(done.stdout.split())
    assert "2 allocations did not start (setup line 2 failed with exit code 127: conda activate no_such)" in said
    assert "2 blocked" in said
    assert not rounds.record("a").attempts
    rounds.set_site(setup=["true"])
    rounds.call()
    rounds.wait_for_step_3("a")
    rounds.release("a", "b")
    rounds.pass_until_done()
