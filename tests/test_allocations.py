"""Packed allocations: one job runs many experiments in its slots, on a real Slurm by sbatch and by Torque's qsub."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import SlurmCluster
from cluster_helpers import DONE, FAILED, WORK_REMAINS, ClusterRounds, freeze, pbs_rounds, slurm_rounds
from fake_pbs import make_fake_pbs
from rounds_for_tests import MARK, wait_for
from test_halving import group as halving_group

from roundhouse.engine.allocations import Allocation
from roundhouse.jobs.agent import Agent
from roundhouse.model.answers import Identity
from roundhouse.model.experiment import Pack, Resources

pytestmark = pytest.mark.cluster


@pytest.fixture(params=["slurm", "torque"])
def rounds(request: pytest.FixtureRequest) -> ClusterRounds:
    made: ClusterRounds = request.getfixturevalue(request.param)
    return made


def write(rounds: ClusterRounds, names: list[str], slots: int, **resources: Any) -> None:
    rounds.write_steps(*names, resources={"pack": {"slots": slots}, **resources})


def allocations(rounds: ClusterRounds) -> list[Path]:
    """The directories of the allocations that were submitted, the oldest first."""
    return sorted((rounds.experiments / "r" / ".jobs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def job_id_of(allocation: Path) -> str:
    return (allocation / "job_id").read_text().strip()


@pytest.fixture(scope="module")
def brief(slurm_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ClusterRounds]]:
    """An allocation on Slurm and one on the fake PBS with Slurm's least walltime, a minute.

    It passes while the tests between the two that use it run.
    """
    fake = make_fake_pbs(tmp_path_factory.mktemp("fake"))
    slurm = slurm_rounds(slurm_cluster, tmp_path_factory.mktemp("slurm"))
    with pbs_rounds(fake, tmp_path_factory.mktemp("pbs")) as pbs:
        try:
            for made in (slurm, pbs):
                write_brief(made)
                assert made.call().returncode == WORK_REMAINS
            (allocation,) = allocations(slurm)
            slurm_cluster.kept.add(job_id_of(allocation))
            yield {"slurm": slurm, "pbs": pbs}
        finally:
            slurm_cluster.run(["scancel", *slurm_cluster.kept])
            slurm_cluster.kept.clear()
            slurm.kill()


def write_brief(rounds: ClusterRounds) -> None:
    """In the end one has failed, one runs since the beginning, one is completed, one runs since later, one waits."""
    packed = {"resources": {"walltime": "0:01:00", "pack": {"slots": 2}, "max_running": 1}}
    fails, sleeps = [sys.executable, "-c", "raise SystemExit(3)"], ["sleep", "8"]
    commands = {"fails": fails, "runs": None, "sleeps": sleeps, "late": None, "waits": None}
    rounds.write({
        name: group(rounds, name, command, priority=-place, **packed)
        for place, (name, command) in enumerate(commands.items())
    })  # fmt: skip


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_a_failed_experiment_of_an_allocation_frees_its_slot_for_the_next(
    brief: dict[str, ClusterRounds], scheduler: str
) -> None:
    rounds = brief[scheduler]
    rounds.wait_for_step_3("runs")
    wait_for(lambda: rounds.causes("fails") == ["error", "error"], "it has failed twice")
    assert not rounds.lines("waits")


def test_one_job_runs_many_experiments_and_each_slot_takes_the_next(rounds: ClusterRounds) -> None:
    names = [f"e{number}" for number in range(5)]
    write(rounds, names, slots=2, max_running=1)
    done = rounds.call()
    assert done.returncode == WORK_REMAINS
    (allocation,) = allocations(rounds)
    rounds.wait_for_step_3("e0")
    rounds.wait_for_step_3("e1")
    statuses = rounds.status()
    job_id = job_id_of(allocation)
    assert [statuses[name]["state"] for name in names] == ["in_progress"] * 2 + ["pending"] * 3
    assert statuses["e0"]["job_id"] == statuses["e1"]["job_id"] == job_id
    assert statuses["e4"]["reason"].startswith(f"waits for a slot in allocation {job_id}")
    rounds.release("e1")
    rounds.wait_for_step_3("e2")
    rounds.release(*names)
    rounds.pass_until_done()
    assert len(allocations(rounds)) == 1
    assert all(rounds.begun(name) == [0] for name in names)
    assert all(rounds.causes(name) == ["completed"] for name in names)


def group(rounds: ClusterRounds, name: str, command: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {"path": name, "command": command or rounds.steps(name), **more}


def test_an_experiment_that_fails_and_one_that_hangs_do_not_touch_the_others(rounds: ClusterRounds) -> None:
    names = ["a", "b", "c", "d"]
    packed = {"resources": {"pack": {"slots": 4}, "max_running": 1}}
    groups = {name: group(rounds, name, priority=1, **packed) for name in names}
    groups["crashes"] = group(rounds, "crashes", [sys.executable, "-c", "raise SystemExit(3)"], priority=3, **packed)
    groups["hangs"] = group(rounds, "hangs", priority=2, **packed)
    rounds.write(groups)
    rounds.release(*names)
    rounds.call()
    rounds.wait_for_step_3("hangs")
    rounds.pass_until(lambda: all(rounds.record(name).completed for name in names), "the others are completed")
    rounds.call()
    assert rounds.causes("crashes") == ["error", "error"]
    assert rounds.states() == {**dict.fromkeys(names, "completed"), "crashes": "failed", "hangs": "in_progress"}
    assert len(allocations(rounds)) == 1
    assert "raise" not in (rounds.attempt("a") / "out.log").read_text()
    rounds.release("hangs")
    rounds.pass_until(lambda: rounds.state("hangs") == "completed", "the last one is completed")
    assert rounds.call().returncode == FAILED


@pytest.mark.parametrize(
    ("walltime", "left", "takes"), [(60, 7, True), (60, 5, False), (86400, 310, True), (86400, 290, False)]
)
def test_short_of_time_an_allocation_takes_nothing_more(walltime: int, left: float, takes: bool) -> None:
    resources = Resources(walltime_s=walltime, pack=Pack(slots=1))
    allocation = Allocation("rhx", "r", resources, Identity("slurm", "here", "me"), "rounds", "analysis", None)
    nothing: Any = None
    agent = Agent(allocation, nothing, nothing, nothing, [], ends=time.monotonic() + left)
    assert agent.has_time() is takes
    agent.on_signal(signal.SIGUSR2, None)
    assert not agent.has_time()


def test_an_allocation_that_vanished_is_noticed_and_its_experiments_continue(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster
) -> None:
    write(slurm, ["a", "b"], slots=2)
    slurm.call()
    for name in "ab":
        slurm.wait_for_step_3(name)
    kill_all(slurm)
    (allocation,) = allocations(slurm)
    job_id = job_id_of(allocation)
    wait_for(lambda: slurm_cluster.job_states()[job_id] == "FAILED", "Slurm sees that it died")
    slurm.call()
    assert slurm.states() == {"a": "in_progress", "b": "in_progress"}  # until it is certain
    for name in "ab":
        slurm.give_up(name)
    assert slurm.causes("a") == slurm.causes("b") == ["unknown"]
    slurm.release("a", "b")
    slurm.pass_until_done()
    assert slurm.begun("a") == slurm.begun("b") == [0, 3]


def test_an_allocation_that_slurm_restarts_continues_with_its_experiments(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster
) -> None:
    write(slurm, ["a", "b", "c"], slots=2, max_running=1)
    slurm.call()
    for name in "ab":
        slurm.wait_for_step_3(name)
    (allocation,) = allocations(slurm)
    job_id = job_id_of(allocation)
    kill_all(slurm)
    wait_for(lambda: slurm_cluster.job_states()[job_id] == "FAILED", "Slurm sees that it died")

    def started_again() -> bool:
        if slurm_cluster.job_states()[job_id] == "FAILED":
            slurm_cluster.run(["scontrol", "requeue", job_id])
        slurm_cluster.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"])
        return len(slurm.begun("a")) == 2

    wait_for(started_again, "Slurm starts it again")
    slurm.wait_for_step_3("a", 2)
    assert slurm.causes("a") == ["preempted", "None"]
    slurm.release("a", "b", "c")
    slurm.pass_until_done()
    assert len(allocations(slurm)) == 1
    assert slurm.begun("a") == slurm.begun("b") == [0, 3]


def test_a_job_in_a_slot_whose_shell_was_killed_is_noticed_and_resumed_there(rounds: ClusterRounds) -> None:
    write(rounds, ["a", "b"], slots=2)
    rounds.call()
    for name in "ab":
        rounds.wait_for_step_3(name)
    rounds.shell("a").kill()
    rounds.wait_for_step_3("a", 2)
    assert rounds.causes("a") == ["unknown", "None"]
    rounds.release("a", "b")
    rounds.pass_until_done()
    assert (rounds.begun("a"), rounds.begun("b")) == ([0, 3], [0])


def test_cancelling_one_experiment_keeps_the_allocation_for_the_others(
    rounds: ClusterRounds, slurm_cluster: SlurmCluster
) -> None:
    rounds.set_site(environment={"ROUNDHOUSE_SIGN_OF_LIFE": "1000", MARK: rounds.mark})  # its job sees nothing itself
    write(rounds, ["a", "b", "c"], slots=2, max_running=1)
    rounds.call()
    for name in "ab":
        rounds.wait_for_step_3(name)
    assert rounds.call("--cancel", "--only", "a").returncode == DONE
    rounds.call()
    wait_for(lambda: rounds.record("a").attempts[0].closed, "a has stopped")
    rounds.wait_for_step_3("c")
    assert rounds.causes("a") == ["cancelled"]
    assert rounds.causes("b") == ["None"]
    rounds.release("b", "c")
    rounds.pass_until(lambda: rounds.state("b") == rounds.state("c") == "completed", "the others are completed")
    assert len(allocations(rounds)) == 1


def test_an_allocation_runs_what_only_names_and_a_later_pass_submits_one_for_the_rest(slurm: ClusterRounds) -> None:
    write(slurm, ["a", "b"], slots=2)
    slurm.call("--only", "b")
    slurm.wait_for_step_3("b")
    slurm.call()
    slurm.wait_for_step_3("a")
    (first, second) = (slurm.record(name).attempts[0].job_id for name in "ba")
    assert first is not None
    assert first != second
    slurm.release("a", "b")
    slurm.pass_until_done()
    assert f"attempt 1  job {first} of slurm" in slurm.call("--why", "b").stdout
    assert len(allocations(slurm)) == 2


def test_what_is_run_again_starts_in_the_allocation_that_still_runs(slurm: ClusterRounds) -> None:
    write(slurm, ["quick", "slow"], slots=2, max_running=1)
    slurm.release("quick")
    slurm.call()
    slurm.wait_for_step_3("slow")
    slurm.pass_until(lambda: slurm.record("quick").completed, "the quick one is completed")
    assert "will run again" in slurm.call("--rerun", "--only", "quick").stdout
    slurm.release("slow")
    slurm.pass_until_done()
    assert slurm.causes("quick") == ["completed", "rerun", "completed"]
    assert slurm.begun("quick") == [0, 0], "the first run is nothing to resume from"
    assert len(allocations(slurm)) == 1


def test_slots_share_gpus_and_each_sees_its_own(slurm: ClusterRounds) -> None:
    gpus = ",".join(slurm.gpus)
    note = f'cd {slurm.notes}; echo "$CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS" >new_$0; mv new_$0 gpu_$0'
    notes = ["bash", "-c", f"{note}; while [ ! -e go ]; do sleep 0.1; done", "{name}"]
    slurm.set_site(environment={"ROUNDHOUSE_SIGN_OF_LIFE": "0.5", MARK: slurm.mark, "CUDA_VISIBLE_DEVICES": gpus})
    names = ["a", "b", "c", "d", "e"]
    # Slurm knows of no GPUs here, so none is requested in its header.
    slurm.set_site(
        environment={"ROUNDHOUSE_SIGN_OF_LIFE": "0.5", MARK: slurm.mark, "CUDA_VISIBLE_DEVICES": gpus},
        directives=["--gres=none"],
    )
    resources = {"ncpus": 4, "ngpus": 2, "pack": {"slots": 4, "per_gpu": 2}, "max_running": 1}
    slurm.write({"g": {"path": "{name}", "grid": {"name": names}, "command": notes, "resources": resources}})
    slurm.call()

    def gpus_seen() -> list[str]:
        return sorted(line for path in slurm.notes.glob("gpu_*") for line in path.read_text().splitlines())

    wait_for(lambda: len(gpus_seen()) == 4, "four run")
    assert gpus_seen() == sorted(f"{gpu} 1" for gpu in slurm.gpus * 2)
    (slurm.notes / "go").touch()
    slurm.pass_until_done()


def test_an_allocation_that_is_refused_blocks_what_would_have_run_in_it(rounds: ClusterRounds) -> None:
    write(rounds, ["a", "b"], slots=2, queue="nowhere")
    done = rounds.call()
    assert done.returncode == FAILED
    assert done.stderr.count("the scheduler refuses every job for its queue") == 1
    assert rounds.status()["a"]["state"] == "pending"
    assert not allocations(rounds)


def test_a_student_waits_for_its_teacher_within_one_allocation(slurm: ClusterRounds) -> None:
    packed = {"resources": {"pack": {"slots": 2}, "max_running": 1}}
    slurm.write({
        "teacher": group(slurm, "teacher", **packed),
        "student": group(slurm, "student", after=["teacher"], **packed),
    })  # fmt: skip
    slurm.call()
    slurm.wait_for_step_3("teacher")
    assert not slurm.lines("student")
    slurm.release("teacher", "student")
    slurm.pass_until_done()
    assert len(allocations(slurm)) == 1


def test_within_an_allocation_groups_are_pruned_and_chosen_from_as_elsewhere(slurm: ClusterRounds) -> None:
    packed = {"resources": {"pack": {"slots": 2}, "max_running": 1}}
    choice = {"from": "sweep", "metric": "loss", "mode": "min"}
    says = ["bash", "-c", "echo {rate} > {directory}/said"]
    slurm.write({
        "sweep": {**halving_group(slurm), **packed},
        "best": {"path": "b/{rank}", "select": choice, "command": says, **packed},
    })  # fmt: skip
    slurm.call()
    slurm.pass_until(lambda: slurm.record("b/1").completed, "the best is chosen", 120)
    assert {path: slurm.causes(path) for path in ("s/1/0", "s/2/0", "s/4/0")} == {
        "s/1/0": ["rung", "rung", "completed"], "s/2/0": ["rung", "rung", "pruned"], "s/4/0": ["rung", "pruned"],
    }  # fmt: skip
    assert (slurm.directory("b/1") / "attempts/1/files/said").read_text() == "1\n"
    assert slurm.call().returncode == DONE


def test_what_ran_out_of_memory_continues_in_an_allocation_with_more_memory(slurm: ClusterRounds) -> None:
    needs = ["bash", "-c", f"echo $SLURM_MEM_PER_NODE >> {slurm.notes}/a; test $SLURM_MEM_PER_NODE -ge 200 || exit 71"]
    packed = {"resources": {"mem": "100mb", "pack": {"slots": 2}, "max_running": 1}}
    slurm.write({"a": {"path": "a", "command": needs, **packed}, "b": group(slurm, "b", **packed)})
    slurm.release("b")
    slurm.pass_until_done()
    assert slurm.lines("a") == ["100", "200"]
    assert slurm.causes("a") == ["memory", "completed"]
    assert slurm.begun("b") == [0]
    assert len(allocations(slurm)) == 2


def test_an_allocation_that_can_never_run_is_reported_and_deleted_once_nothing_needs_it(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster
) -> None:
    write(slurm, ["a", "b"], slots=2, queue="short", walltime="1:00:00")  # which has a limit of 5 minutes
    slurm.call()
    (allocation,) = allocations(slurm)
    job_id = job_id_of(allocation)
    wait_for(lambda: "PartitionTimeLimit" in slurm.call().stdout, "the reason is shown")
    done = slurm.call()
    assert done.returncode == FAILED
    assert f"will not run its allocation {job_id}" in done.stdout
    assert len(allocations(slurm)) == 1
    write(slurm, ["a", "b"], slots=2)
    slurm.call()
    wait_for(lambda: slurm_cluster.job_states()[job_id] == "CANCELLED", "the old one is deleted")
    slurm.release("a", "b")
    slurm.pass_until_done()
    assert len(allocations(slurm)) == 2


def test_to_cancel_all_that_is_packed_deletes_an_allocation_that_has_not_started(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster
) -> None:
    write(slurm, ["a", "b"], slots=2, queue="short", walltime="1:00:00")
    slurm.call()
    (allocation,) = allocations(slurm)
    job_id = job_id_of(allocation)
    assert slurm.call("--cancel").returncode == DONE
    wait_for(lambda: slurm_cluster.job_states()[job_id] == "CANCELLED", "it is deleted")


@pytest.mark.parametrize(("scheduler", "message"), [("slurm", "DUE TO TIME LIMIT"), ("pbs", "job killed: walltime")])
def test_what_is_killed_at_the_walltime_continues_in_another_allocation(
    brief: dict[str, ClusterRounds], scheduler: str, message: str
) -> None:
    rounds = brief[scheduler]
    (first,) = allocations(rounds)
    log = first / "log"
    wait_for(lambda: log.exists() and message in log.read_text(), "the scheduler ends it", 150)
    wait_for(lambda: all(rounds.record(name).attempts[0].closed for name in ("runs", "late")), "they stop")
    causes = {"fails": ["error", "error"], "runs": ["walltime"], "sleeps": ["completed"], "late": ["preempted"]}
    # What began late had less than the whole walltime, and so is not to blame.
    assert {name: rounds.causes(name) for name in causes} == causes
    assert rounds.causes("waits") == []
    stopped = ("runs", "late", "waits")
    rounds.release(*stopped)
    rounds.pass_until(lambda: all(rounds.record(name).completed for name in stopped), "what was stopped is completed")
    assert rounds.call().returncode == FAILED
    assert {name: rounds.causes(name) for name in causes} == {
        **causes, "runs": ["walltime", "completed"], "late": ["preempted", "completed"]
    }  # fmt: skip
    assert [rounds.begun(name) for name in stopped] == [[0, 3], [0, 3], [0]]
    assert all(rounds.lines(name).count("end") == 1 for name in stopped)
    assert len(allocations(rounds)) == 2


def kill_all(rounds: ClusterRounds) -> None:
    """The node dies: nothing of the allocation is left, and nothing has written a result."""
    freeze(rounds.processes())
    rounds.kill()
