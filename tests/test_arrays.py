"""Job arrays: many experiments as the tasks of one job, on a real Slurm by sbatch and by Torque's qsub, and on PBS."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accounting import account
from cluster import CannotStart, SlurmCluster, skip_or_fail, start_slurm, torque_environment
from cluster_helpers import DONE, WORK_REMAINS, ClusterRounds, dead, wrap_command
from rounds_for_tests import REPOSITORY, wait_for

pytestmark = pytest.mark.cluster


@pytest.fixture(params=["slurm", "torque"])
def rounds(request: pytest.FixtureRequest) -> ClusterRounds:
    made: ClusterRounds = request.getfixturevalue(request.param)
    return made


def write(rounds: ClusterRounds, names: list[str], **resources: Any) -> None:
    rounds.write_steps(*names, resources={"array": True, **resources})


def arrays(rounds: ClusterRounds) -> list[Path]:
    """The directories of the arrays that were submitted, the oldest first."""
    return sorted((rounds.experiments / "r" / ".jobs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def opened(rounds: ClusterRounds, path: str, number: int = 1) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((rounds.attempt(path, number) / "job.json").read_text())
    return value


def test_experiments_with_equal_resources_go_as_one_array(rounds: ClusterRounds) -> None:
    names = ["a", "b", "c"]
    write(rounds, names)
    assert rounds.call().returncode == WORK_REMAINS
    (array,) = arrays(rounds)
    assert [opened(rounds, name)["array_index"] for name in names] == [0, 1, 2]
    base = (array / "job_id").read_text().strip()
    assert [rounds.view(name)["job_id"] for name in names] == [f"{base}_{index}" for index in range(3)]
    for name in names:
        rounds.wait_for_step_3(name)
    status = rounds.status()
    assert [status[name]["job_state"] for name in names] == ["running"] * 3
    rounds.release(*names)
    rounds.pass_until_done()
    assert all(rounds.begun(name) == [0] for name in names)
    assert rounds.call().returncode == DONE


def test_tasks_are_killed_one_by_one_and_each_is_resumed_on_its_own(
    rounds: ClusterRounds, slurm_cluster: SlurmCluster
) -> None:
    names = ["whole", "deleted", "shell", "python"]
    write(rounds, names)
    rounds.call()
    for name in names:
        rounds.wait_for_step_3(name)
    slurm_cluster.run(["scancel", opened_id(rounds, "deleted")])
    shell = rounds.shell("shell")
    shell.kill()
    rounds.python("python").kill()
    for name in ("deleted", "python"):
        wait_for(lambda: rounds.record(name).attempts[0].closed, f"{name} has a result")  # noqa: B023
    wait_for(lambda: dead(shell), "the shell is dead")
    wait_for(lambda: slurm_cluster.job_states()[opened_id(rounds, "shell")] == "FAILED", "Slurm has noticed")
    rounds.give_up("shell")
    rounds.pass_until(lambda: all(len(rounds.begun(name)) == 2 for name in names[1:]), "three tasks continue")
    by_scheduler = "deleted" if rounds.scheduler == "slurm" else "preempted"  # Torque's qstat does not say so
    assert rounds.causes("deleted") == [by_scheduler, "None"]
    assert rounds.causes("shell")[0] == rounds.causes("python")[0] == "unknown"
    assert rounds.causes("whole") == ["None"]
    assert all(rounds.begun(name) == [0, 3] for name in names[1:])
    rounds.release(*names)
    rounds.pass_until_done()
    assert rounds.begun("whole") == [0]
    assert all(rounds.lines(name).count("end") == 1 for name in names)


def test_an_array_that_the_cluster_would_not_take_goes_in_chunks_that_count_from_0() -> None:
    with small_cluster("MaxArraySize=4") as (cluster, rounds):
        names = [f"e{number:02}" for number in range(15)]
        write(rounds, names, max_running=3)
        rounds.release(*names)
        done = rounds.call()
        assert done.returncode == WORK_REMAINS
        assert "max_running: all 3 places for this resource request are taken" in " ".join(done.stdout.split())
        assert not any(rounds.record(name).attempts for name in names[12:])
        chunks = {name: opened(rounds, name) for name in names[:12]}
        assert [chunk["array_index"] for chunk in chunks.values()] == [*range(4), *range(4), *range(4)]
        assert len({chunk["shared"] for chunk in chunks.values()}) == len(arrays(rounds)) == 3
        for array in arrays(rounds):
            assert "%1\n" in (array / "job.sh").read_text()
        rounds.pass_until_done()
        assert all(rounds.lines(name).count("end") == 1 for name in names)


def test_a_runner_that_is_killed_right_after_the_submission_leaves_an_array_that_the_next_adopts(
    rounds: ClusterRounds,
) -> None:
    write(rounds, ["a", "b"])
    wrap_command(rounds, "sbatch" if rounds.scheduler == "slurm" else "qsub", after="kill -9 $PPID; sleep 1")
    assert rounds.call().returncode == -9
    (array,) = arrays(rounds)
    assert not (array / "job_id").exists()
    rounds.wait_for_step_3("a")
    rounds.call()
    assert (array / "job_id").exists()
    rounds.release("a", "b")
    rounds.pass_until_done()
    assert len(arrays(rounds)) == 1
    assert rounds.causes("a") == rounds.causes("b") == ["completed"]


def test_a_cancelled_task_leaves_the_others_alone(rounds: ClusterRounds) -> None:
    write(rounds, ["a", "b", "c"])
    rounds.call()
    for name in "abc":
        rounds.wait_for_step_3(name)
    assert rounds.call("--cancel", "--only", "b").returncode == DONE
    wait_for(lambda: rounds.record("b").attempts[0].closed, "b has stopped")
    rounds.release("a", "c")
    rounds.pass_until(lambda: rounds.state("a") == rounds.state("c") == "completed", "the others are completed")
    assert rounds.causes("b") == ["cancelled"]
    assert rounds.causes("a") == rounds.causes("c") == ["completed"]


def test_what_a_scheduler_prints_before_a_task_starts_is_next_to_the_log_of_its_attempt(slurm: ClusterRounds) -> None:
    write(slurm, ["a", "b"])
    slurm.call()
    slurm.release("a", "b")
    slurm.pass_until_done()
    assert (slurm.attempt("a") / "scheduler.log").exists()
    (array,) = arrays(slurm)
    assert sorted(path.name for path in array.iterdir()) == ["job.sh", "job_id", "manifest"]


@pytest.fixture(scope="module")
def limited_cluster() -> Iterator[SlurmCluster]:
    """A Slurm with accounting, by which a user may have 6 jobs."""
    with contextlib.ExitStack() as stack:
        try:
            cluster = start_slurm()
            stack.callback(cluster.shut_down)
            account(cluster, most_jobs=6)
        except CannotStart as problem:
            skip_or_fail(str(problem))
        yield cluster


def note_calls(rounds: ClusterRounds, command: str) -> None:
    """Note each submission in the file `calls`."""
    folder, real = rounds.folder / "noted", shutil.which(command, path=rounds.extra["PATH"])
    folder.mkdir()
    (folder / command).write_text(
        f'#!/bin/sh\n[ "$1" = --version ] || echo "$@" >>"{rounds.notes}/calls"\nexec {real} "$@"\n'
    )
    (folder / command).chmod(0o755)
    rounds.extra["PATH"] = f"{folder}:{rounds.extra['PATH']}"


@pytest.fixture(params=["sbatch", "qsub"])
def limited(request: pytest.FixtureRequest, limited_cluster: SlurmCluster, tmp_path: Path) -> Iterator[ClusterRounds]:
    env, scheduler = limited_cluster.env, "slurm"
    if request.param == "qsub":
        (tmp_path / "commands").mkdir()
        env, scheduler = torque_environment(limited_cluster, tmp_path / "commands"), "pbs"
    made = ClusterRounds(folder=tmp_path, extra={key: env[key] for key in ("SLURM_CONF", "PATH")}, scheduler=scheduler)
    note_calls(made, request.param)
    try:
        yield made
    finally:
        limited_cluster.clear()
        made.kill()


def in_progress(rounds: ClusterRounds) -> list[str]:
    return [path for path, row in rounds.status().items() if row["state"] == "in_progress"]


def test_a_submit_limit_means_later_and_what_fits_goes_at_once(limited: ClusterRounds) -> None:
    names = [f"e{number:02}" for number in range(10)]
    write(limited, names)
    done = limited.call()
    assert done.returncode == WORK_REMAINS
    assert {row["state"] for row in limited.status().values()} == {"in_progress", "pending"}
    assert "QOSMaxSubmitJobPerUserLimit" in done.stdout
    assert in_progress(limited) == names[:6]

    before = len(limited.lines("calls"))
    assert limited.call().returncode == WORK_REMAINS
    assert len(limited.lines("calls")) == before  # a size that was refused is not submitted again
    limited.wait_for_step_3(names[0])
    limited.release(*names[:3])
    wait_for(lambda: all(limited.record(name).completed for name in names[:3]), "three are completed")
    limited.pass_until(lambda: in_progress(limited) == names[3:9], "full again")
    assert len(limited.lines("calls")) > before
    limited.release(*names)
    limited.pass_until_done()
    assert all(limited.lines(name).count("end") == 1 for name in names)


def opened_id(rounds: ClusterRounds, path: str) -> str:
    job_id = rounds.record(path).attempts[0].job_id
    assert job_id is not None
    return job_id


@contextlib.contextmanager
def small_cluster(*settings: str) -> Iterator[tuple[SlurmCluster, ClusterRounds]]:
    """A Slurm of this test's own, with other limits."""
    try:
        cluster = start_slurm(settings=settings)
    except CannotStart as problem:
        skip_or_fail(str(problem))
        raise
    folder = Path(tempfile.mkdtemp())
    extra = {key: cluster.env[key] for key in ("SLURM_CONF", "PATH")}
    rounds = ClusterRounds(folder=folder, extra=extra, scheduler="slurm")
    try:
        yield cluster, rounds
    finally:
        cluster.shut_down()
        rounds.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_of_many_experiments_in_several_arrays_none_is_lost_and_none_runs_twice(tmp_path: Path) -> None:
    words = [sys.executable, str(REPOSITORY / "benchmarks/ten_thousand.py"), "--count", "60", "--array-size", "16"]
    words += ["--cpus", "8", "--pause", "1", "--base", str(tmp_path)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.stdout.startswith("left out"):
        skip_or_fail(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 submitted" in done.stdout
    assert "4 sbatch" in done.stdout
    assert "lost 0, ran twice 0, 60 records completed" in done.stdout
