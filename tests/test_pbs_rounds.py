"""Rounds on a fake PBS with all known failures of PBS: no job is lost, and none runs twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from cluster_helpers import (
    DONE,
    FAILED,
    TROUBLE,
    WORK_REMAINS,
    ClusterRounds,
    accepted,
    dead,
    experiments_of,
    forget,
    live,
    names_of,
    pbs_rounds,
    wrap_command,
)
from fake_pbs import FakePBS
from fakes import fakepbs
from rounds_for_tests import snapshot, wait_for

from roundhouse.model.causes import Cause
from roundhouse.store import record


@pytest.fixture
def rounds(fake_pbs: FakePBS, tmp_path: Path) -> Iterator[ClusterRounds]:
    with pbs_rounds(fake_pbs, tmp_path) as made:
        yield made


def only_job(fake: FakePBS) -> str:
    """The ID of the one live job."""
    (job_id,) = [job_id for job_id, job in fake.jobs().items() if job["job_state"] in fakepbs.LIVE]
    return job_id


def wake(*stopped: psutil.Process) -> None:
    """Continue stopped processes; those that continued first may have ended the others already."""
    for process in stopped:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)


def start(rounds: ClusterRounds, *names: str, **group: object) -> None:
    """Submit experiments that count to 5, and wait until all have saved step 3."""
    rounds.write_steps(*names, **group)
    assert rounds.call().returncode == WORK_REMAINS
    for name in names:
        rounds.wait_for_step_3(name)


def complete(rounds: ClusterRounds, fake: FakePBS, *names: str, submissions: int) -> None:
    """Let the experiments finish; each finishes once."""
    rounds.release(*names)
    rounds.pass_until_done()
    assert [rounds.lines(name).count("end") for name in names] == [1] * len(names)
    assert accepted(fake) == submissions
    assert {rounds.state(name) for name in names} == {"completed"}


# ---------------------------------------------------------------------------------------------- the usual course


def test_a_round_runs_to_its_end_and_the_student_is_submitted_after_its_teacher(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    groups = {
        "teacher": {"path": "teacher", "command": rounds.steps("teacher")},
        "student": {
            "path": "student",
            "after": ["teacher"],
            "command": ["bash", "-c", f"cat $ROUNDHOUSE_INPUT_TEACHER/step >> {rounds.notes}/student"],
        },
    }
    rounds.write(groups)
    assert rounds.call().returncode == WORK_REMAINS
    rounds.wait_for_step_3("teacher")
    assert rounds.call().returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 1
    assert rounds.states() == {"teacher": "in_progress", "student": "pending"}
    assert rounds.status()["student"]["reason"] == "waits for teacher, which is in_progress"
    assert rounds.view("teacher")["job_id"] == only_job(fake_pbs)
    rounds.release("teacher")
    rounds.pass_until_done()
    assert rounds.lines("student") == ["5"]
    assert accepted(fake_pbs) == 2
    assert rounds.call().stdout.endswith("all 2 experiments are completed.\n")


def test_a_pass_without_changes_keeps_what_the_job_has_written(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    rounds.call()
    view, status = rounds.view("a"), rounds.directory("a") / "status.json"
    claim = json.loads((rounds.attempt("a") / "claim.json").read_text())
    assert (view["state"], view["since"]) == ("in_progress", claim["at"])
    before = status.stat()
    rounds.call()
    assert status.stat().st_ino == before.st_ino


def test_a_round_completes_on_a_server_without_history(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(history=False)
    start(rounds, "a", "b")
    fake_pbs.server.rerun(rounds.view("a")["job_id"])  # a job that the server reports meanwhile
    rounds.wait_for_step_3("a", 2)
    complete(rounds, fake_pbs, "a", "b", submissions=2)


def test_a_job_deleted_with_qdel_resumes_from_its_checkpoint(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    fake_pbs.run(["qdel", only_job(fake_pbs)])
    rounds.pass_until(lambda: accepted(fake_pbs) == 2, "it is submitted again")
    first = rounds.record("a").attempts[0]
    assert first.result is not None and first.result.cause is Cause.PREEMPTED, "all that its shell could know"
    assert first.cause is Cause.DELETED, "the scheduler's verdict"
    complete(rounds, fake_pbs, "a", submissions=2)
    assert rounds.begun("a") == [0, 3]


# ---------------------------------------------------------------------------------------------- how jobs end


def test_a_job_killed_at_its_walltime_resumes(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(late=600)
    start(rounds, "a", resources={"walltime": "0:00:01"})
    fake_pbs.turn()
    wait_for(lambda: rounds.record("a").attempts[0].closed, "the job's shell writes why it ended")
    fake_pbs.turn(late=600)
    fake_pbs.wait_for_state("1.pbsnode", "F")
    assert fake_pbs.jobs()["1.pbsnode"]["Exit_status"] == -29
    assert rounds.record("a").attempts[0].cause is Cause.WALLTIME
    complete(rounds, fake_pbs, "a", submissions=2)
    assert rounds.begun("a") == [0, 3]


def test_a_job_killed_at_its_walltime_without_a_result_resumes(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(late=600)
    start(rounds, "a", resources={"walltime": "0:00:01"})
    rounds.shell("a").send_signal(signal.SIGSTOP)  # it does not receive the signal
    fake_pbs.turn(kill_delay=0)
    fake_pbs.wait_for_state("1.pbsnode", "F")
    fake_pbs.turn(late=600)
    assert not rounds.record("a").attempts[0].closed
    rounds.give_up("a")
    result = rounds.record("a").attempts[0].result
    assert result is not None
    assert result.cause is Cause.WALLTIME
    complete(rounds, fake_pbs, "a", submissions=2)
    assert rounds.begun("a") == [0, 3]


def test_a_pass_waits_for_a_job_that_runs_longer_than_its_walltime(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(late=600)
    start(rounds, "a", resources={"walltime": "0:00:01"})
    rounds.let_time_pass("a")
    for _ in range(3):
        assert rounds.call().returncode == WORK_REMAINS
    assert rounds.state("a") == "in_progress"
    complete(rounds, fake_pbs, "a", submissions=1)


def test_a_job_on_a_crashed_node_is_missing_then_closed_then_submitted_again(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    start(rounds, "a")
    fake_pbs.crash(only_job(fake_pbs))
    assert rounds.call().returncode == WORK_REMAINS
    assert (rounds.attempt("a") / "gone").exists()
    assert rounds.view("a")["reason"].startswith("job 1.pbsnode is not known to the scheduler; waiting")
    assert rounds.call().returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 1
    rounds.give_up("a")
    assert rounds.record("a").attempts[0].cause is Cause.UNKNOWN
    complete(rounds, fake_pbs, "a", submissions=2)
    assert rounds.begun("a") == [0, 3]


def test_a_job_with_a_heartbeat_is_not_closed_even_if_the_server_has_forgotten_it(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    start(rounds, "a")
    with fake_pbs.server.change() as state:
        forgotten = state["jobs"].pop("1.pbsnode")
    for _ in range(3):
        assert rounds.call().returncode == WORK_REMAINS
        rounds.let_time_pass("a")
        progress = rounds.attempt("a") / "progress.json"
        then = progress.stat().st_mtime
        wait_for(lambda: progress.stat().st_mtime > then, "a heartbeat")  # noqa: B023
    assert accepted(fake_pbs) == 1
    with fake_pbs.server.change() as state:
        state["jobs"]["1.pbsnode"] = forgotten
    rounds.call()
    assert not (rounds.attempt("a") / "gone").exists()
    complete(rounds, fake_pbs, "a", submissions=1)


def test_a_job_restarted_by_the_server_opens_the_next_attempt_itself(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    fake_pbs.rerun(only_job(fake_pbs))
    rounds.wait_for_step_3("a", 2)
    assert rounds.call().returncode == WORK_REMAINS
    first, second = rounds.record("a").attempts
    assert (first.cause, second.closed) == (Cause.PREEMPTED, False)
    assert (first.opened.token, first.job_id) == (second.opened.token, second.job_id)
    complete(rounds, fake_pbs, "a", submissions=1)
    assert rounds.begun("a") == [0, 3]


def test_a_restarted_job_runs_alone_despite_its_first_processes(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    orphans = rounds.family("a")
    fake_pbs.rerun(only_job(fake_pbs), orphan=True)
    rounds.wait_for_step_3("a", 2)
    wait_for(lambda: all(dead(one) for one in orphans), "the orphaned job detects that its attempt is closed")
    complete(rounds, fake_pbs, "a", submissions=1)
    assert rounds.begun("a") == [0, 3]


# ---------------------------------------------------------------------------------------------- jobs that do not run


def test_a_held_job_is_blocked_with_the_message_of_the_scheduler_and_continues_when_released(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(stopped=True)
    rounds.write_steps("a")
    rounds.call()
    fake_pbs.server.update("1.pbsnode", job_state="H", Hold_Types="u")
    assert rounds.call().returncode == FAILED
    assert rounds.view("a")["state"] == "blocked"
    assert rounds.view("a")["reason"] == "the scheduler will not run job 1.pbsnode: held"
    fake_pbs.turn()
    fake_pbs.server.update("1.pbsnode", job_state="Q", Hold_Types="n")
    rounds.wait_for_step_3("a")
    complete(rounds, fake_pbs, "a", submissions=1)


def test_a_job_that_can_never_run_is_blocked(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    rounds.write_steps("a", resources={"ncpus": 64})
    rounds.call()
    wait_for(lambda: "comment" in fake_pbs.jobs()["1.pbsnode"], "the server says what is wrong")
    assert rounds.call().returncode == FAILED
    assert rounds.view("a")["state"] == "blocked"
    assert "Can Never Run: Insufficient amount of resource: ncpus" in rounds.view("a")["reason"]


def test_a_job_refused_for_a_limit_is_submitted_when_the_limit_allows_it(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(max_jobs=2)
    names = ("a", "b", "c", "d")
    rounds.write_steps(*names)
    assert rounds.call().returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 2
    status = rounds.status()
    assert [status[name]["state"] for name in names] == ["in_progress", "in_progress", "pending", "pending"]
    assert "limit" in status["c"]["reason"]
    assert rounds.view("c")["reason"].startswith("limit reached")
    assert rounds.call().returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 2
    assert rounds.causes("d") == [], "while the limit is waited for, nothing else is tried either"
    assert rounds.status()["d"]["reason"] == status["c"]["reason"]
    rounds.release(*names)
    rounds.pass_until_done()
    assert sorted(path for path, _ in experiments_of(fake_pbs)) == [*names]
    assert [rounds.lines(name).count("end") for name in names] == [1] * 4


def test_a_missing_queue_gives_one_message_and_does_not_count_as_a_try(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    rounds.write_steps("a", "b", resources={"queue": "nowhere"})
    for _ in range(3):
        done = rounds.call()
        assert done.returncode == FAILED
        assert done.stderr.count("Unknown queue") == 1
    assert rounds.states() == {"a": "pending", "b": "pending"}
    assert rounds.record("b").attempts == ()  # it has the same queue, so it was not submitted
    rounds.write_steps("a", "b")
    assert rounds.call().returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 2


def test_an_experiment_refused_twice_by_a_hook_of_the_site_has_failed(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(hook="project x has used 100% of its hours")
    rounds.write_steps("a", "b")
    done = rounds.call()
    assert done.returncode == WORK_REMAINS
    assert "project x has used 100%" in rounds.view("a")["reason"]
    assert rounds.record("b").attempts == ()  # it has the same request, so it was not submitted
    rounds.pass_until(lambda: rounds.call().returncode == FAILED, "both have failed")
    assert rounds.states() == {"a": "failed", "b": "failed"}
    assert [str(attempt.cause) for attempt in rounds.record("a").attempts] == ["refused", "refused"]
    assert "project x has used 100%" in rounds.call("--why", "a").stdout
    assert accepted(fake_pbs) == 0


# ---------------------------------------------------------------------------------------------- unclear submissions


def test_a_job_accepted_although_qsub_reported_an_error_is_adopted(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(fail_after_accept=True, stopped=True)
    rounds.write_steps("a")
    assert rounds.call().returncode == WORK_REMAINS
    assert rounds.state("a") == "submitting"
    assert "Batch protocol error" in rounds.view("a")["reason"]
    fake_pbs.turn()
    rounds.wait_for_step_3("a")
    assert rounds.call().returncode == WORK_REMAINS
    assert (rounds.state("a"), rounds.view("a")["job_id"]) == ("in_progress", "1.pbsnode")
    complete(rounds, fake_pbs, "a", submissions=1)


def test_a_job_accepted_with_an_error_of_qsub_may_end_before_the_next_pass(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(fail_after_accept=True)
    rounds.write({"all": {"path": "a", "command": ["bash", "-c", f"echo ran >> {rounds.notes}/a; exit 1"]}})
    rounds.call()
    fake_pbs.wait_for_state("1.pbsnode", "F")
    fake_pbs.turn()
    rounds.pass_until(lambda: rounds.call().returncode == FAILED, "it has failed twice")
    assert rounds.lines("a") == ["ran", "ran"]
    assert accepted(fake_pbs) == 2


def test_a_job_accepted_after_the_time_limit_of_qsub_is_adopted(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    rounds.set_site("impatient", command_limit=3)
    rounds.write_steps("a")
    fake_pbs.turn(accept_late=5, stopped=True)
    rounds.pass_until(
        lambda: rounds.call("--site", "impatient").returncode == WORK_REMAINS and rounds.record("a").attempts,
        "qsub was called",
    )
    assert "no answer within 3 s" in rounds.view("a")["reason"]
    fake_pbs.turn()
    assert rounds.call().returncode == WORK_REMAINS
    rounds.wait_for_step_3("a")
    rounds.call()
    assert (rounds.state("a"), rounds.view("a")["job_id"]) == ("in_progress", "1.pbsnode")
    complete(rounds, fake_pbs, "a", submissions=1)


def test_a_job_of_a_runner_killed_directly_after_the_submission_is_adopted(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    rounds.write_steps("a", "b")
    wrap_command(rounds, "qsub", after="kill -KILL $PPID")
    assert rounds.call().returncode == -signal.SIGKILL
    assert accepted(fake_pbs) == 1
    rounds.wait_for_step_3("a")
    assert rounds.call().returncode == WORK_REMAINS
    assert (rounds.state("a"), rounds.view("a")["job_id"]) == ("in_progress", "1.pbsnode")
    rounds.wait_for_step_3("b")
    complete(rounds, fake_pbs, "a", "b", submissions=2)


def test_a_submission_without_a_job_is_void_after_some_time_and_repeated(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    rounds.write_steps("a")
    wrap_command(rounds, "qsub", before="kill -KILL $PPID; exit 1")
    assert rounds.call().returncode == -signal.SIGKILL
    assert rounds.call().returncode == WORK_REMAINS
    assert rounds.state("a") == "submitting"
    assert accepted(fake_pbs) == 0
    rounds.let_time_pass("a")
    assert rounds.call().returncode == WORK_REMAINS
    first, second = rounds.record("a").attempts
    assert (first.cause, first.void) == (Cause.UNCLAIMED, True)
    assert first.opened.token != second.opened.token
    assert names_of(fake_pbs) == [second.opened.token]
    complete(rounds, fake_pbs, "a", submissions=1)


def test_a_job_of_a_void_submission_that_starts_later_writes_nothing(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    rounds.write_steps("a")
    wait = f'while [ ! -e "{rounds.notes}/arrive" ]; do sleep 0.05; done'
    wrap_command(rounds, "qsub", before=f"kill -KILL $PPID; {wait}")
    assert rounds.call().returncode == -signal.SIGKILL
    rounds.let_time_pass("a")
    assert rounds.call().returncode == WORK_REMAINS
    rounds.wait_for_step_3("a")
    late = rounds.record("a").attempts[0].opened.token
    before = snapshot(rounds.attempt("a", 1))
    (rounds.notes / "arrive").touch()
    wait_for(lambda: late in names_of(fake_pbs), "the late job is accepted")
    fake_pbs.wait_for_state("2.pbsnode", "F")
    assert fake_pbs.jobs()["2.pbsnode"]["Exit_status"] == 0
    after = snapshot(rounds.attempt("a", 1))
    assert (rounds.attempt("a", 1) / "scheduler.log").read_bytes() == b""  # the server's copy of what it printed
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"scheduler.log"}
    complete(rounds, fake_pbs, "a", submissions=2)
    assert rounds.begun("a") == [0]


def test_a_queued_job_whose_attempt_is_closed_is_deleted(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(stopped=True)
    rounds.write_steps("a")
    rounds.call()
    record.void(rounds.directory("a"), 1, Cause.UNCLAIMED, "as if no job had been seen")
    rounds.call()
    fake_pbs.wait_for_state("1.pbsnode", "F")
    assert fake_pbs.jobs()["1.pbsnode"]["substate"] == 91
    fake_pbs.turn()
    rounds.wait_for_step_3("a")
    complete(rounds, fake_pbs, "a", submissions=2)


# ---------------------------------------------------------------------------------------------- orphans and accidents


def test_an_orphaned_job_that_continues_changes_nothing(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    orphans = rounds.family("a")
    for process in orphans:
        process.send_signal(signal.SIGSTOP)
    forget(fake_pbs, "1.pbsnode")
    rounds.give_up("a")
    rounds.call()
    rounds.wait_for_step_3("a", 2)
    complete(rounds, fake_pbs, "a", submissions=2)
    assert rounds.begun("a") == [0, 3]
    before = snapshot(rounds.directory("a"))
    (rounds.notes / "a.go").unlink()  # otherwise its command would finish immediately, which is not tested here
    wake(*orphans)
    wait_for(lambda: all(dead(one) for one in orphans), "the orphaned job exits")
    after = snapshot(rounds.directory("a"))
    log = "attempts/1/out.log"
    assert {name: data for name, data in after.items() if name != log} == {
        name: data for name, data in before.items() if name != log
    }
    assert "attempt 1 was closed by a runner; this job exits" in (rounds.directory("a") / log).read_text()
    assert rounds.call().returncode == DONE


def test_an_orphaned_job_that_runs_to_its_end_does_not_change_later_attempts(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    start(rounds, "a")
    orphans = rounds.family("a")
    for process in orphans:
        process.send_signal(signal.SIGSTOP)
    forget(fake_pbs, "1.pbsnode")
    rounds.give_up("a")
    rounds.call()
    rounds.wait_for_step_3("a", 2)
    rounds.release("a")
    rounds.pass_until_done()
    outside = {name: data for name, data in snapshot(rounds.directory("a")).items() if "attempts/1/" not in name}
    shell, train, command = orphans
    wake(shell, command)  # train.py, which would end the command, stays stopped
    wait_for(lambda: rounds.lines("a").count("end") == 2, "the command of the orphaned job finishes")
    wake(train)
    wait_for(lambda: all(dead(one) for one in orphans), "the orphaned job exits")
    assert {
        name: data for name, data in snapshot(rounds.directory("a")).items() if "attempts/1/" not in name
    } == outside
    assert rounds.call().returncode == DONE
    assert rounds.record("a").completed is not None
    assert rounds.record("a").attempts[0].cause is Cause.UNKNOWN


def test_a_job_whose_shell_is_killed_dies_and_resumes(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    shell, *children = rounds.family("a")
    assert len(children) == 2  # train.py, and the command
    os.kill(fake_pbs.jobs()["1.pbsnode"]["supervisor"], signal.SIGSTOP)  # so that the server does not react
    shell.kill()
    wait_for(lambda: all(dead(one) for one in children), "train.py and its command die with the shell")
    os.kill(fake_pbs.jobs()["1.pbsnode"]["supervisor"], signal.SIGCONT)
    fake_pbs.wait_for_state("1.pbsnode", "F")
    rounds.give_up("a")
    complete(rounds, fake_pbs, "a", submissions=2)
    assert rounds.begun("a") == [0, 3]


def test_a_killed_train_py_kills_its_command_and_resumes(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    shell, train, command = rounds.family("a")
    train.kill()
    wait_for(lambda: dead(command), "the command dies with train.py")
    wait_for(lambda: rounds.record("a").attempts[0].closed, "the shell writes why it ended")
    assert rounds.record("a").attempts[0].cause is Cause.UNKNOWN
    complete(rounds, fake_pbs, "a", submissions=2)
    assert rounds.begun("a") == [0, 3]


def test_without_status_json_nothing_is_submitted_again_and_the_files_are_rebuilt(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    start(rounds, "a", "b")
    rounds.release("a")
    rounds.pass_until(lambda: rounds.state("a") == "completed", "a is completed")
    for path in rounds.experiments.rglob("status.json"):
        path.unlink()
    assert rounds.call().returncode == WORK_REMAINS
    assert (rounds.state("a"), rounds.state("b")) == ("completed", "in_progress")
    for path in rounds.experiments.rglob("status.json"):
        path.write_text('{"version": 1, "state": "pending", "atte')
    complete(rounds, fake_pbs, "a", "b", submissions=2)


def test_a_record_copied_to_another_machine_does_not_run_there(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    copy = rounds.folder / "copy"
    shutil.copytree(rounds.experiments, copy)
    here = rounds.call("--experiments", str(copy), "--scheduler", "local")
    assert here.returncode == WORK_REMAINS
    assert "its job belongs to pbs on pbsnode, user root: run the pass there" in here.stdout
    bin = rounds.folder / "slurm"
    bin.mkdir()
    answers = {"sbatch": "echo slurm 22.05", "squeue": "", "sacct": "", "scontrol": "echo ClusterName = elsewhere"}
    for name, answer in answers.items():
        (bin / name).write_text(f"#!/bin/sh\necho {name} >> {rounds.notes}/called\n{answer}\n")
        (bin / name).chmod(0o755)
    rounds.extra["PATH"] = f"{bin}:{rounds.extra['PATH']}"
    there = rounds.call("--experiments", str(copy), "--scheduler", "slurm")
    assert there.returncode == WORK_REMAINS
    assert "its job belongs to pbs on pbsnode" in there.stdout
    assert rounds.lines("called").count("sbatch") == 1  # for its version
    assert accepted(fake_pbs) == 1
    complete(rounds, fake_pbs, "a", submissions=1)


# ---------------------------------------------------------------------------------------------- orders and limits


def test_the_job_limit_of_a_site_is_kept_and_higher_priority_runs_first(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    rounds.set_site(max_jobs=3)
    names = ("a", "b", "c", "d", "e")
    foreign = rounds.folder / "foreign.sh"
    foreign.write_text("#PBS -N rhotherstool\nsleep 600\n")
    fake_pbs.run(["qsub", str(foreign)])
    rounds.write_steps(*names, priority="{'d': 3, 'b': 2, 'a': 1}[name] if name in 'abd' else 0")
    for _ in range(3):
        assert rounds.call().returncode == WORK_REMAINS
        assert live(fake_pbs) == 3
    assert rounds.status()["e"]["reason"] == "limit reached: 3 jobs at once"
    assert experiments_of(fake_pbs) == [("d", 1), ("b", 1)]
    rounds.release(*names)
    rounds.pass_until_done()
    assert experiments_of(fake_pbs) == [("d", 1), ("b", 1), ("a", 1), ("c", 1), ("e", 1)]
    assert fake_pbs.state("1.pbsnode") == "R"


def test_the_limit_selects_the_experiments_with_the_highest_priority(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    rounds.write_steps("a", "b", "c", priority="{'b': 2, 'c': 1}[name] if name in 'bc' else 0")
    assert rounds.call("--limit", "2").returncode == WORK_REMAINS
    assert experiments_of(fake_pbs) == [("b", 1), ("c", 1)]
    assert rounds.status()["a"]["reason"] == "", "the next pass submits it"


@pytest.mark.parametrize(
    ("site", "server", "options", "message"),
    [
        ({"max_jobs": 2}, {}, (), "69 experiments delayed: limit reached: 2 jobs at once"),
        ({}, {"max_jobs": 2}, (), "69 experiments delayed: limit reached: qsub (exit 38): qsub: would exceed"),
        ({}, {}, ("--limit", "2"), "68 experiments delayed: limit reached: 2 submissions in this pass"),
    ],
)
def test_limits_are_reported_in_a_round_that_is_too_large_to_list(
    fake_pbs: FakePBS, rounds: ClusterRounds, site: dict[str, int], server: dict[str, int], options: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    fake_pbs.turn(stopped=True, **server)
    rounds.set_site(**site)
    foreign = rounds.folder / "foreign.sh"
    foreign.write_text("#PBS -N rhotherstool\nsleep 600\n")
    fake_pbs.run(["qsub", str(foreign)])
    rounds.write({"e": {"path": "{n}", "grid": {"n": list(range(70))}, "command": "true"}})
    done = rounds.call(*options)
    assert done.returncode == WORK_REMAINS
    assert message in done.stdout


def test_limit_submits_exactly_this_number(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    rounds.write_steps("a", "b", "c")
    assert rounds.call("--limit", "2").returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 2
    assert rounds.call("--limit", "0").returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 2
    assert rounds.call("--limit", "2").returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 3


def test_cancel_ends_queued_and_running_jobs_and_no_others(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(running=2)
    foreign = rounds.folder / "foreign.sh"
    foreign.write_text("#PBS -N rhotherstool\nsleep 600\n")
    fake_pbs.run(["qsub", str(foreign)])
    fake_pbs.wait_for_state("1.pbsnode", "R")
    rounds.write_steps("running", "queued", "unsubmitted")
    rounds.call("--limit", "1")
    rounds.wait_for_step_3("running")
    rounds.call("--limit", "1")
    assert (fake_pbs.state("2.pbsnode"), fake_pbs.state("3.pbsnode")) == ("R", "Q")
    assert rounds.call("--cancel").returncode == DONE
    wait_for(lambda: set(rounds.states().values()) == {"cancelled"}, f"all are cancelled: {rounds.states()}")
    fake_pbs.wait_for_state("2.pbsnode", "F")
    fake_pbs.wait_for_state("3.pbsnode", "F")
    assert fake_pbs.state("1.pbsnode") == "R"
    assert rounds.call().returncode == FAILED
    assert accepted(fake_pbs) == 3
    assert "end" not in rounds.lines("running")
    assert rounds.lines("queued") == []
    rounds.release("running")
    assert rounds.call("--retry", "--only", "running").returncode == WORK_REMAINS
    rounds.pass_until(lambda: rounds.state("running") == "completed", "what was retried is completed")
    assert rounds.begun("running") == [0, 3]


def test_a_cancel_while_the_server_is_down_is_done_when_it_is_back(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(running=1)
    rounds.write_steps("running", "queued")
    rounds.call()
    rounds.wait_for_step_3("running")
    fake_pbs.turn(down=True, running=1)
    done = rounds.call("--cancel")
    assert done.returncode == TROUBLE
    assert "the scheduler could not be queried" in done.stderr
    fake_pbs.turn(running=1)
    rounds.call()
    fake_pbs.wait_for_state("2.pbsnode", "F")
    fake_pbs.wait_for_state("1.pbsnode", "F")
    wait_for(lambda: set(rounds.states().values()) == {"cancelled"}, "both are cancelled")
    assert rounds.lines("queued") == []


def test_cancelling_a_job_that_has_just_ended_is_not_an_error(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    fake_pbs.turn(kill_delay=0)
    for process in rounds.family("a"):
        process.kill()
    fake_pbs.wait_for_state("1.pbsnode", "F")
    done = rounds.call("--cancel")
    assert done.returncode == DONE
    assert "finished" not in done.stdout + done.stderr
    rounds.let_time_pass("a")
    rounds.give_up("a")
    assert rounds.record("a").attempts[0].cause is Cause.CANCELLED
