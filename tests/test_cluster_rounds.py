"""Rounds on a real Slurm, through sbatch and through Torque's qsub: killed in all ways, and completed."""

from __future__ import annotations

import hashlib
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from cluster import SlurmCluster
from cluster_helpers import DONE, FAILED, WORK_REMAINS, ClusterRounds, dead, wrap_command
from rounds_for_tests import wait_for

from roundhouse.model.attempt import Attempt
from roundhouse.model.causes import Cause
from roundhouse.store import cluster_file, history

pytestmark = pytest.mark.cluster

QUICKSTART = """\
round: r
study: distillation
resources: {ncpus: 1, walltime: "0:20:00"}
defaults: {dataset: digits, epochs: 5, batch_size: 64, lr: 0.1, seed: 0}
experiments:
  teacher:
    path: teacher
    config: {model: ResNet14, method: pure}
    priority: 10
  student:
    path: student
    config: {model: ResNet8, method: pure}
  distilled:
    path: distilled
    config: {teacher: ResNet14, model: ResNet8, method: logit, alpha: 0.5, temperature: 4.0}
    after: [teacher]
"""


@pytest.fixture(params=["slurm", "torque"])
def rounds(request: pytest.FixtureRequest) -> ClusterRounds:
    made: ClusterRounds = request.getfixturevalue(request.param)
    return made


Jobs = Callable[[], dict[str, str]]


@pytest.fixture
def jobs(slurm_cluster: SlurmCluster) -> Jobs:
    """Job ID -> state, of the jobs that were submitted in this test."""
    before = set(slurm_cluster.job_states())
    return lambda: {job_id: state for job_id, state in slurm_cluster.job_states().items() if job_id not in before}


def first_attempt(rounds: ClusterRounds, path: str) -> Attempt:
    return rounds.record(path).attempts[0]


def wait_for_epoch(rounds: ClusterRounds, path: str, number: int = 1) -> None:
    def reached() -> bool:
        newest = rounds.record(path).newest
        return newest is not None and newest.progress is not None and newest.progress.epoch >= 1

    wait_for(reached, f"{path} has trained an epoch in attempt {number}", 120)


def test_the_quickstart_round_is_killed_and_resumes_and_completes(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster, jobs: Jobs
) -> None:
    slurm.write(QUICKSTART)
    assert slurm.call().returncode == WORK_REMAINS
    assert len(jobs()) == 2
    assert slurm.states() == {"teacher": "in_progress", "student": "in_progress", "distilled": "pending"}
    assert slurm.view("teacher")["job_id"] in jobs()

    wait_for_epoch(slurm, "teacher")
    slurm_cluster.run(["scancel", slurm.view("teacher")["job_id"]])
    wait_for_epoch(slurm, "student")
    slurm.python("student").kill()
    for path in ("teacher", "student"):
        wait_for(lambda: first_attempt(slurm, path).closed, f"{path} records why it ended")  # noqa: B023
    assert first_attempt(slurm, "teacher").cause is Cause.PREEMPTED
    assert first_attempt(slurm, "student").cause is Cause.UNKNOWN

    def both_again() -> bool:  # once Slurm says why the first jobs ended
        return all(len(slurm.record(path).attempts) == 2 for path in ("teacher", "student"))

    slurm.pass_until(both_again, "both are submitted again")
    statuses = slurm.status()
    assert [(statuses[path]["state"], statuses[path]["attempt"]) for path in ("teacher", "student", "distilled")] == [
        ("in_progress", 2),
        ("in_progress", 2),
        ("pending", None),
    ]
    assert len(jobs()) == 4

    slurm.pass_until_done(180)
    assert len(jobs()) == 5
    for path in ("teacher", "student"):
        first, second = slurm.record(path).attempts
        assert second.cause is Cause.COMPLETED
        assert first.progress is not None
        assert second.progress is not None
        assert second.progress.started_epoch >= first.progress.epoch >= 1
        view = slurm.view(path)
        assert (view["state"], view["attempt"], view["epoch"], view["cause"]) == ("completed", 2, 5, "completed")
    teacher, distilled = slurm.record("teacher").completed, slurm.record("distilled").completed
    assert teacher is not None
    assert teacher.result is not None
    assert distilled is not None
    assert distilled.opened.at >= teacher.result.at
    digest = hashlib.sha256((slurm.directory("teacher") / "best.pth").read_bytes()).hexdigest()
    assert distilled.opened.inputs == {"teacher": [{"path": "teacher", "sha256": digest}]}
    assert slurm.call().stdout.endswith("all 3 experiments are completed.\n")


def test_a_round_is_killed_in_three_ways_and_resumes_and_completes(
    rounds: ClusterRounds, slurm_cluster: SlurmCluster, jobs: Jobs
) -> None:
    names = ("teacher", "shell", "python")
    command = rounds.steps("{name}")
    student = ["bash", "-c", f"cat $ROUNDHOUSE_INPUT_FIRST/step >> {rounds.notes}/student"]
    rounds.write(
        {
            "first": {"path": "{name}", "grid": {"name": list(names)}, "command": command},
            "student": {"path": "student", "after": {"first": {"name": "teacher"}}, "command": student},
        }
    )
    assert rounds.call().returncode == WORK_REMAINS
    for name in names:
        rounds.wait_for_step_3(name)
    assert rounds.states() == {**dict.fromkeys(names, "in_progress"), "student": "pending"}
    slurm_cluster.run(["scancel", rounds.view("teacher")["job_id"]])
    rounds.python("python").kill()
    children = rounds.family("shell")[1:]
    rounds.shell("shell").kill()
    wait_for(lambda: all(dead(one) for one in children), "train.py and its command die with the shell")
    for name in ("teacher", "python"):
        wait_for(lambda: first_attempt(rounds, name).closed, f"{name} records why it ended")  # noqa: B023
    assert not first_attempt(rounds, "shell").closed
    rounds.give_up("shell")
    assert rounds.call().returncode == WORK_REMAINS
    for name in names:
        rounds.wait_for_step_3(name, 2)
    assert len(jobs()) == 6
    assert rounds.record("student").attempts == ()
    rounds.release(*names)
    rounds.pass_until_done()
    assert {name: rounds.begun(name) for name in names} == dict.fromkeys(names, [0, 3])
    assert rounds.lines("student") == ["5"]
    assert len(jobs()) == 7
    causes = {name: str(first_attempt(rounds, name).cause) for name in names}
    deleted = "deleted" if rounds.scheduler == "slurm" else "preempted"  # Torque's qstat does not say that it was
    assert causes == {"teacher": deleted, "shell": "unknown", "python": "unknown"}


def test_a_job_of_a_runner_that_was_killed_is_adopted(rounds: ClusterRounds, jobs: Jobs) -> None:
    rounds.write_steps("a", "b")
    wrap_command(rounds, "qsub" if rounds.scheduler == "pbs" else "sbatch", after="kill -KILL $PPID")
    assert rounds.call().returncode == -signal.SIGKILL
    rounds.wait_for_step_3("a")
    (job_id,) = jobs()
    rounds.let_time_pass("a")
    assert rounds.call().returncode == WORK_REMAINS
    assert (rounds.state("a"), rounds.view("a")["job_id"], rounds.view("a")["reason"]) == ("in_progress", job_id, "")
    rounds.release("a", "b")
    rounds.pass_until_done()
    assert [rounds.begun(name) for name in ("a", "b")] == [[0], [0]]
    assert len(jobs()) == 2


def test_a_job_that_slurm_restarts_continues(slurm: ClusterRounds, slurm_cluster: SlurmCluster, jobs: Jobs) -> None:
    slurm.write_steps("a")
    slurm.call()
    slurm.wait_for_step_3("a")
    slurm_cluster.run(["scontrol", "requeue", slurm.view("a")["job_id"]])
    wait_for(lambda: first_attempt(slurm, "a").closed, "the job records that it was stopped")
    assert first_attempt(slurm, "a").cause is Cause.PREEMPTED
    slurm.release("a")
    slurm.pass_until_done()
    assert slurm.begun("a") == [0, 3]
    assert slurm.lines("a").count("end") == 1


def test_a_job_that_slurm_restarts_after_it_died_without_a_result_takes_the_next_attempt(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster, jobs: Jobs
) -> None:
    slurm.write_steps("a")
    slurm.call()
    slurm.wait_for_step_3("a")
    (job_id,) = jobs()
    for process in slurm.family("a"):
        process.kill()
    wait_for(lambda: jobs()[job_id] == "FAILED", "Slurm sees that it died")

    def started_again() -> bool:
        # Without help Slurm waits two minutes, because a node launches no job that it has ended in the same second.
        if jobs()[job_id] == "FAILED":
            slurm_cluster.run(["scontrol", "requeue", job_id])
        slurm_cluster.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"])
        return len(slurm.begun("a")) == 2

    wait_for(started_again, "Slurm starts it again")
    slurm.wait_for_step_3("a", 2)
    slurm.call()
    first, second = slurm.record("a").attempts
    assert (first.cause, first.opened.token, first.job_id) == (Cause.PREEMPTED, second.opened.token, second.job_id)
    slurm.release("a")
    slurm.pass_until_done()
    assert slurm.begun("a") == [0, 3]
    assert len(jobs()) == 1


def test_a_held_job_is_blocked_until_it_is_released(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster, jobs: Jobs
) -> None:
    slurm.write_steps("a", resources={"ncpus": 8})
    blocker = slurm.folder / "blocker.sh"
    blocker.write_text("#!/bin/sh\nsleep 600\n")
    foreign = slurm_cluster.run(["sbatch", "--parsable", "-c8", "-o/dev/null", str(blocker)]).stdout.strip()
    slurm.call()
    job_id = slurm.view("a")["job_id"]
    slurm_cluster.run(["scontrol", "hold", job_id])
    assert slurm.call().returncode == FAILED
    assert slurm.view("a")["state"] == "blocked"
    assert f"the scheduler will not run job {job_id}: PENDING (JobHeldAdmin)" in slurm.view("a")["reason"]
    slurm_cluster.run(["scontrol", "release", job_id])
    slurm_cluster.run(["scancel", foreign])
    slurm.release("a")
    slurm.pass_until_done()
    assert slurm.begun("a") == [0]


def test_cancel_ends_our_jobs_alone_and_the_most_important_were_submitted_first(
    rounds: ClusterRounds, slurm_cluster: SlurmCluster, jobs: Jobs
) -> None:
    foreign = rounds.folder / "foreign.sh"
    foreign.write_text("#!/bin/sh\nsleep 600\n")
    other = slurm_cluster.run(
        ["sbatch", "--parsable", "-J", "rhotherstool", "-o/dev/null", str(foreign)]
    ).stdout.strip()
    rounds.write_steps("low", "high", "huge", priority="{'low': 0, 'high': 2, 'huge': 1}[name]", resources={"ncpus": 4})
    assert rounds.call("--limit", "2").returncode == WORK_REMAINS
    rounds.wait_for_step_3("high")
    ids = {name: int(rounds.view(name)["job_id"]) for name in ("high", "huge")}
    assert ids["high"] < ids["huge"]
    assert rounds.record("low").attempts == ()
    assert rounds.call("--cancel").returncode == DONE
    wait_for(lambda: set(rounds.states().values()) == {"cancelled"}, "all are cancelled")
    wait_for(lambda: {jobs()[str(one)] for one in ids.values()} == {"CANCELLED"}, "both jobs have ended")
    assert jobs()[other] == "RUNNING"
    assert rounds.call().returncode == FAILED
    assert rounds.lines("low") == rounds.lines("huge") == []


def test_a_hundred_experiments_are_all_run_once(slurm: ClusterRounds, jobs: Jobs) -> None:
    slurm.write(
        {
            "all": {
                "path": "{index}",
                "grid": {"index": list(range(100))},
                "command": ["bash", "-c", f"echo run >> {slurm.notes}/{{index}}"],
            }
        }
    )
    slurm.pass_until_done(180)
    assert [slurm.lines(str(index)) for index in range(100)] == [["run"]] * 100
    assert [len(slurm.record(str(index)).attempts) for index in range(100)] == [1] * 100
    assert len(jobs()) == 100


def test_a_group_is_pruned_and_another_continues_with_the_best_of_it(rounds: ClusterRounds) -> None:
    pause = '[ -z "$ROUNDHOUSE_PAUSE_AT" ] || exit 78'
    train = f'echo "{{{{\\"loss\\": {{rate}}}}}}" > {{directory}}/metrics.json; {pause}'
    sweep = {"path": "s/{rate}", "grid": {"rate": [3, 1, 2]}, "command": ["bash", "-c", train]}
    contest = {"metric": "loss", "mode": "min"}
    rounds.write({
        "sweep": {**sweep, "halving": {**contest, "every": 1, "keep": 0.3}},
        "best": {"path": "best", "select": {"from": "sweep", **contest}, "command": ["test", "{rate}", "=", "1"]},
    })  # fmt: skip
    rounds.pass_until_done(120)
    assert rounds.states() == {"s/3": "pruned", "s/1": "completed", "s/2": "pruned", "best": "completed"}
    assert rounds.causes("s/1") == ["rung", "completed"]
    assert rounds.causes("s/2") == ["rung", "pruned"]


def test_jobs_that_are_renamed_are_not_given_up_and_complete_once(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster, jobs: Jobs
) -> None:
    names = ("running", "queued")
    slurm.write_steps(*names, priority="{'running': 1, 'queued': 0}[name]", resources={"ncpus": 8})
    slurm.call()
    slurm.wait_for_step_3("running")
    ids = {name: slurm.view(name)["job_id"] for name in names}
    assert [jobs()[ids[name]] for name in names] == ["RUNNING", "PENDING"]
    for job_id in ids.values():
        renamed = slurm_cluster.run(["scontrol", "update", f"JobId={job_id}", "JobName=by_the_site"])
        assert renamed.code == 0, renamed.complaint
    for _ in range(2):
        assert slurm.call().returncode == WORK_REMAINS
        for name in names:
            slurm.let_time_pass(name)
    for name in names:
        assert slurm.state(name) == "in_progress"
        assert "is called 'by_the_site'" in slurm.view(name)["reason"]
        assert not (slurm.attempt(name) / "gone").exists()
        assert not first_attempt(slurm, name).closed
    slurm.release(*names)
    slurm.pass_until_done()
    for name in names:
        assert slurm.begun(name) == [0]
        assert len(slurm.record(name).attempts) == 1
    assert len(jobs()) == 2


def test_foreign_jobs_of_all_kinds_and_output_on_stderr_do_no_harm(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster, jobs: Jobs
) -> None:
    foreign = slurm.folder / "foreign.sh"
    foreign.write_text("#!/bin/sh\n#SBATCH -o /dev/null\n#SBATCH --hold\n#SBATCH hetjob\n#SBATCH -n1\nsleep 600\n")
    assert slurm_cluster.run(["sbatch", "-J", "two\nlines|and a bar", str(foreign)]).code == 0
    foreign.write_text("#!/bin/sh\nsleep 600\n")
    assert slurm_cluster.run(["sbatch", "-H", "-o/dev/null", "-J", "caf\udce9", str(foreign)]).code == 0  # no UTF-8
    assert slurm_cluster.run(["sbatch", "-H", "-o/dev/null", "--array=0-5%2", str(foreign)]).code == 0
    assert any("+" in job_id for job_id in jobs())
    ours = len(jobs())
    slurm.extra["LD_PRELOAD"] = "/nowhere/libsite.so"  # each command then begins with an error of the loader
    wrappers = slurm.folder / "wrappers"
    wrappers.mkdir()
    for command in ("sbatch", "squeue", "scontrol", "sacct", "scancel"):
        real = shutil.which(command, path=slurm.extra["PATH"])
        (wrappers / command).write_text(f'#!/bin/sh\necho "{command}-wrapper: error: no quota" >&2\nexec {real} "$@"\n')
        (wrappers / command).chmod(0o755)
    slurm.extra["PATH"] = f"{wrappers}:{slurm.extra['PATH']}"
    slurm.write_steps("a")
    assert slurm.call().returncode == WORK_REMAINS
    slurm.wait_for_step_3("a")
    assert slurm.call().returncode == WORK_REMAINS
    assert slurm.state("a") == "in_progress"
    slurm.release("a")
    slurm.pass_until_done()
    assert slurm.begun("a") == [0]
    assert len(jobs()) == ours + 1


@pytest.mark.parametrize("resources", [{}, {"pack": {"slots": 1}}], ids=["job", "slot"])
def test_a_process_in_a_session_of_its_own_ends_before_the_result_is_written(
    rounds: ClusterRounds, resources: dict[str, Any]
) -> None:
    leaves = ["sh", "-c", f"setsid sleep 600 & echo $! > {rounds.notes}/new; mv {rounds.notes}/new {rounds.notes}/pid"]
    rounds.write({"all": {"path": "a", "command": leaves, "resources": resources}})
    assert rounds.call().returncode == WORK_REMAINS
    wait_for((rounds.notes / "pid").exists, "it runs")
    left = psutil.Process(int((rounds.notes / "pid").read_text()))
    while not dead(left):
        assert not (rounds.attempt("a") / "result.json").exists()
        time.sleep(0.05)
    rounds.pass_until_done()
    assert rounds.causes("a") == ["completed"]


def test_a_setup_line_that_fails_on_the_node_ends_the_attempt_with_that_line(rounds: ClusterRounds) -> None:
    rounds.set_site(setup=["export A=1", "source /no/such/environment/bin/activate"])
    rounds.write_steps("a")
    rounds.pass_until(lambda: rounds.states() == {"a": "failed"}, "it has failed twice")
    assert rounds.causes("a") == ["error", "error"]
    result = first_attempt(rounds, "a").result
    assert result is not None
    assert result.why == "setup line 2 failed with exit code 1: source /no/such/environment/bin/activate"
    assert not rounds.lines("a"), "the program never started"


def test_a_round_records_its_cluster_and_a_job_its_node_and_queue(rounds: ClusterRounds) -> None:
    rounds.write({"all": {"path": "a", "command": "true"}})
    rounds.pass_until(lambda: rounds.states() == {"a": "completed"}, "it has completed")
    (environment,) = history.environments(rounds.experiments / "r" / "a").values()
    assert environment["queue"] == "main"
    assert environment["os"] and environment["cores"]
    recorded = cluster_file.read(rounds.experiments / "r")
    assert recorded is not None
    assert recorded["total"] == 1 and {kind["cores"] for kind in recorded["kinds"]} == {8}
