"""Rounds on a PBS that fails in every way that is known of PBS: nothing is lost, and nothing runs twice."""

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
    """Let stopped processes go on; those that woke first may have ended the others already."""
    for process in stopped:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)


def start(rounds: ClusterRounds, *names: str, **group: object) -> None:
    """Submit experiments that count to 5, and wait until all have checkpointed step 3."""
    rounds.write_steps(*names, **group)
    assert rounds.call().returncode == WORK_REMAINS
    for name in names:
        rounds.wait_for_step_3(name)


def complete(rounds: ClusterRounds, fake: FakePBS, *names: str, submissions: int) -> None:
    """Let the experiments come to their end, which each reaches once."""
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


def test_a_pass_that_finds_nothing_new_leaves_what_the_job_has_told(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    rounds.call()
    told, status = rounds.view("a"), rounds.directory("a") / "status.json"
    claim = json.loads((rounds.attempt("a") / "claim.json").read_text())
    assert (told["state"], told["since"]) == ("in_progress", claim["at"])
    before = status.stat()
    rounds.call()
    assert status.stat().st_ino == before.st_ino


def test_a_server_without_history_is_no_hindrance(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(history=False)
    start(rounds, "a", "b")
    fake_pbs.server.rerun(rounds.view("a")["job_id"])  # a job that the server has to tell of meanwhile
    rounds.wait_for_step_3("a", 2)
    complete(rounds, fake_pbs, "a", "b", submissions=2)


def test_a_job_that_was_deleted_by_somebody_resumes_from_its_checkpoint(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
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


def test_a_job_killed_at_its_walltime_without_a_last_word_resumes(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(late=600)
    start(rounds, "a", resources={"walltime": "0:00:01"})
    rounds.shell("a").send_signal(signal.SIGSTOP)  # it will not hear of the end
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


def test_a_job_that_lives_beyond_its_walltime_is_waited_for(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(late=600)
    start(rounds, "a", resources={"walltime": "0:00:01"})
    rounds.let_time_pass("a")
    for _ in range(3):
        assert rounds.call().returncode == WORK_REMAINS
    assert rounds.state("a") == "in_progress"
    complete(rounds, fake_pbs, "a", submissions=1)


def test_a_job_whose_node_died_without_a_word_is_missed_then_closed_then_requeued(
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


def test_a_job_that_shows_signs_of_life_is_not_given_up_though_the_server_forgot_it(
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
        wait_for(lambda: progress.stat().st_mtime > then, "a sign of life")  # noqa: B023
    assert accepted(fake_pbs) == 1
    with fake_pbs.server.change() as state:
        state["jobs"]["1.pbsnode"] = forgotten
    rounds.call()
    assert not (rounds.attempt("a") / "gone").exists()
    complete(rounds, fake_pbs, "a", submissions=1)


def test_a_job_that_the_server_starts_again_takes_the_next_attempt_itself(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    start(rounds, "a")
    fake_pbs.rerun(only_job(fake_pbs))
    rounds.wait_for_step_3("a", 2)
    assert rounds.call().returncode == WORK_REMAINS
    first, second = rounds.record("a").attempts
    assert (first.cause, second.closed) == (Cause.PREEMPTED, False)
    assert (first.opened.token, first.job_id) == (second.opened.token, second.job_id)
    complete(rounds, fake_pbs, "a", submissions=1)
    assert rounds.begun("a") == [0, 3]


def test_a_job_started_again_beside_its_own_zombie_runs_alone(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    zombie = rounds.family("a")
    fake_pbs.rerun(only_job(fake_pbs), zombie=True)
    rounds.wait_for_step_3("a", 2)
    wait_for(lambda: all(dead(one) for one in zombie), "the zombie sees that its attempt is over")
    complete(rounds, fake_pbs, "a", submissions=1)
    assert rounds.begun("a") == [0, 3]


# ---------------------------------------------------------------------------------------------- jobs that do not run


def test_a_held_job_is_blocked_with_the_schedulers_words_and_goes_on_once_released(
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


def test_what_the_server_refuses_for_its_limits_is_submitted_as_soon_as_there_is_room(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(max_jobs=2)
    names = ("a", "b", "c", "d")
    rounds.write_steps(*names)
    assert rounds.call().returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 2
    told = rounds.status()
    assert [told[name]["state"] for name in names] == ["in_progress", "in_progress", "pending", "pending"]
    assert "limit" in told["c"]["reason"]
    assert rounds.view("c")["reason"].startswith("limit reached")
    assert rounds.call().returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 2
    assert rounds.causes("d") == [], "while the limit is waited for, nothing else is tried either"
    assert rounds.status()["d"]["reason"] == told["c"]["reason"]
    rounds.release(*names)
    rounds.pass_until_done()
    assert sorted(path for path, _ in experiments_of(fake_pbs)) == [*names]
    assert [rounds.lines(name).count("end") for name in names] == [1] * 4


def test_a_queue_that_does_not_exist_is_one_message_and_costs_no_try(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    rounds.write_steps("a", "b", resources={"queue": "nowhere"})
    for _ in range(3):
        done = rounds.call()
        assert done.returncode == FAILED
        assert done.stderr.count("Unknown queue") == 1
    assert rounds.states() == {"a": "pending", "b": "pending"}
    assert rounds.record("b").attempts == ()  # it goes to the same queue, so it was not tried
    rounds.write_steps("a", "b")
    assert rounds.call().returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 2


def test_what_a_hook_of_the_site_refuses_is_tried_twice_and_is_then_a_failure(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(hook="project x has used 100% of its hours")
    rounds.write_steps("a", "b")
    done = rounds.call()
    assert done.returncode == WORK_REMAINS
    assert "project x has used 100%" in rounds.view("a")["reason"]
    assert rounds.record("b").attempts == ()  # it asks for the same, so it was not tried
    rounds.pass_until(lambda: rounds.call().returncode == FAILED, "both have failed")
    assert rounds.states() == {"a": "failed", "b": "failed"}
    assert [str(attempt.cause) for attempt in rounds.record("a").attempts] == ["refused", "refused"]
    assert "project x has used 100%" in rounds.call("--why", "a").stdout
    assert accepted(fake_pbs) == 0


# ---------------------------------------------------------------------------------------------- unclear submissions


def test_a_job_that_was_accepted_though_qsub_reported_failure_is_adopted(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
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


def test_a_job_accepted_though_reported_as_failed_may_have_ended_before_the_next_pass(
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
    assert "gave no answer within 3 s" in rounds.view("a")["reason"]
    fake_pbs.turn()
    assert rounds.call().returncode == WORK_REMAINS
    rounds.wait_for_step_3("a")
    rounds.call()
    assert (rounds.state("a"), rounds.view("a")["job_id"]) == ("in_progress", "1.pbsnode")
    complete(rounds, fake_pbs, "a", submissions=1)


def test_a_runner_killed_right_after_the_submission_leaves_a_job_that_the_next_adopts(
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


def test_a_submission_that_never_happened_is_void_after_a_wait_and_made_anew(
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


def test_a_submission_that_was_given_up_and_arrives_after_all_leaves_no_trace(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
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


def test_a_queued_job_whose_attempt_is_over_is_deleted_on_sight(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
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


# ---------------------------------------------------------------------------------------------- zombies and accidents


def test_a_zombie_that_wakes_after_its_attempt_was_closed_changes_nothing(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    start(rounds, "a")
    zombie = rounds.family("a")
    for process in zombie:
        process.send_signal(signal.SIGSTOP)
    forget(fake_pbs, "1.pbsnode")
    rounds.give_up("a")
    rounds.call()
    rounds.wait_for_step_3("a", 2)
    complete(rounds, fake_pbs, "a", submissions=2)
    assert rounds.begun("a") == [0, 3]
    before = snapshot(rounds.directory("a"))
    (rounds.notes / "a.go").unlink()  # its command would go on to its end at once, and that is not what is asked here
    wake(*zombie)
    wait_for(lambda: all(dead(one) for one in zombie), "the zombie leaves")
    after = snapshot(rounds.directory("a"))
    log = "attempts/1/out.log"
    assert {name: told for name, told in after.items() if name != log} == {
        name: told for name, told in before.items() if name != log
    }
    assert "attempt 1 was closed by a runner; leaving" in (rounds.directory("a") / log).read_text()
    assert rounds.call().returncode == DONE


def test_a_zombie_that_runs_on_to_its_end_does_not_undo_what_came_after_it(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    start(rounds, "a")
    zombie = rounds.family("a")
    for process in zombie:
        process.send_signal(signal.SIGSTOP)
    forget(fake_pbs, "1.pbsnode")
    rounds.give_up("a")
    rounds.call()
    rounds.wait_for_step_3("a", 2)
    rounds.release("a")
    rounds.pass_until_done()
    outside = {name: told for name, told in snapshot(rounds.directory("a")).items() if "attempts/1/" not in name}
    shell, train, command = zombie
    wake(shell, command)  # train.py, which would end it, sleeps on: the command is free to finish
    wait_for(lambda: rounds.lines("a").count("end") == 2, "the command of the zombie comes to its end")
    wake(train)
    wait_for(lambda: all(dead(one) for one in zombie), "the zombie leaves")
    assert {
        name: told for name, told in snapshot(rounds.directory("a")).items() if "attempts/1/" not in name
    } == outside
    assert rounds.call().returncode == DONE
    assert rounds.record("a").completed is not None
    assert rounds.record("a").attempts[0].cause is Cause.UNKNOWN


def test_a_job_whose_shell_was_killed_dies_with_it_and_resumes(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    shell, *children = rounds.family("a")
    assert len(children) == 2  # train.py, and the command
    os.kill(fake_pbs.jobs()["1.pbsnode"]["supervisor"], signal.SIGSTOP)  # the server does nothing about it
    shell.kill()
    wait_for(lambda: all(dead(one) for one in children), "train.py and its command die with the shell")
    os.kill(fake_pbs.jobs()["1.pbsnode"]["supervisor"], signal.SIGCONT)
    fake_pbs.wait_for_state("1.pbsnode", "F")
    rounds.give_up("a")
    complete(rounds, fake_pbs, "a", submissions=2)
    assert rounds.begun("a") == [0, 3]


def test_a_killed_train_py_takes_its_command_along_and_resumes(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a")
    shell, train, command = rounds.family("a")
    train.kill()
    wait_for(lambda: dead(command), "the command dies with train.py")
    wait_for(lambda: rounds.record("a").attempts[0].closed, "the shell writes why it ended")
    assert rounds.record("a").attempts[0].cause is Cause.UNKNOWN
    complete(rounds, fake_pbs, "a", submissions=2)
    assert rounds.begun("a") == [0, 3]


def test_without_any_status_json_nothing_is_submitted_anew_and_all_are_made_again(
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


def test_a_record_that_was_copied_to_another_machine_is_not_run_there(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
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


def test_a_site_never_has_more_jobs_than_it_allows_and_the_most_important_go_first(
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


def test_of_many_the_limit_takes_the_most_important(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    rounds.write_steps("a", "b", "c", priority="{'b': 2, 'c': 1}[name] if name in 'bc' else 0")
    assert rounds.call("--limit", "2").returncode == WORK_REMAINS
    assert experiments_of(fake_pbs) == [("b", 1), ("c", 1)]
    assert rounds.status()["a"]["reason"] == "", "the next pass submits it"


@pytest.mark.parametrize(
    ("site", "server", "options", "told"),
    [
        ({"max_jobs": 2}, {}, (), "69 experiments held back: limit reached: 2 jobs at once"),
        ({}, {"max_jobs": 2}, (), "69 experiments held back: limit reached: qsub (exit 38): qsub: would exceed"),
        ({}, {}, ("--limit", "2"), "68 experiments held back: limit reached: 2 submissions in this pass"),
    ],
)
def test_limits_are_told_in_a_round_that_is_too_large_to_list(
    fake_pbs: FakePBS, rounds: ClusterRounds, site: dict[str, int], server: dict[str, int], options: tuple[str, ...],
    told: str,
) -> None:  # fmt: skip
    fake_pbs.turn(stopped=True, **server)
    rounds.set_site(**site)
    foreign = rounds.folder / "foreign.sh"
    foreign.write_text("#PBS -N rhotherstool\nsleep 600\n")
    fake_pbs.run(["qsub", str(foreign)])
    rounds.write({"e": {"path": "{n}", "grid": {"n": list(range(70))}, "command": "true"}})
    done = rounds.call(*options)
    assert done.returncode == WORK_REMAINS
    assert told in done.stdout


def test_limit_submits_so_many_and_no_more(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    rounds.write_steps("a", "b", "c")
    assert rounds.call("--limit", "2").returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 2
    assert rounds.call("--limit", "0").returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 2
    assert rounds.call("--limit", "2").returncode == WORK_REMAINS
    assert accepted(fake_pbs) == 3


def test_cancel_ends_the_queued_and_the_running_and_touches_nothing_else(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
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


def test_a_cancel_while_the_server_is_down_is_carried_out_once_it_is_back(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(running=1)
    rounds.write_steps("running", "queued")
    rounds.call()
    rounds.wait_for_step_3("running")
    fake_pbs.turn(down=True, running=1)
    done = rounds.call("--cancel")
    assert done.returncode == TROUBLE
    assert "the scheduler cannot be asked" in done.stderr
    fake_pbs.turn(running=1)
    rounds.call()
    fake_pbs.wait_for_state("2.pbsnode", "F")
    fake_pbs.wait_for_state("1.pbsnode", "F")
    wait_for(lambda: set(rounds.states().values()) == {"cancelled"}, "both are cancelled")
    assert rounds.lines("queued") == []


def test_a_job_that_ended_just_now_is_no_trouble_for_cancel(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
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
