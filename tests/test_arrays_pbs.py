"""Job arrays on a PBS that fails in many ways: tasks are lost, found, stopped and resumed one by one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_helpers import (
    DONE,
    FAILED,
    WORK_REMAINS,
    ClusterRounds,
    accepted,
    dead,
    finish_passes,
    live,
    pbs_rounds,
    wrap_command,
)
from fake_pbs import FakePBS
from rounds_for_tests import wait_for

from roundhouse.model.causes import Cause
from roundhouse.store import record

NAMES = ("a", "b", "c")


@pytest.fixture
def rounds(fake_pbs: FakePBS, tmp_path: Path) -> Iterator[ClusterRounds]:
    with pbs_rounds(fake_pbs, tmp_path) as made:
        yield made


def write(rounds: ClusterRounds, *names: str, **resources: Any) -> None:
    rounds.write_steps(*names, resources={"array": True, **resources})


def start(rounds: ClusterRounds, *names: str, **resources: Any) -> None:
    """Submit an array of experiments that count to 5, and wait until all have checkpointed step 3."""
    write(rounds, *names, **resources)
    assert rounds.call().returncode == WORK_REMAINS
    for name in names:
        rounds.wait_for_step_3(name)


def complete(rounds: ClusterRounds, *names: str) -> None:
    """Let the experiments come to their end, which each reaches once."""
    rounds.release(*names)
    rounds.pass_until_done()
    assert [rounds.lines(name).count("end") for name in names] == [1] * len(names)
    assert rounds.call().returncode == DONE


def tasks(fake: FakePBS) -> list[int]:
    """How many tasks each array had that was ever accepted."""
    return [job["indices"] for job in fake.jobs().values() if "indices" in job]


def arrays(rounds: ClusterRounds) -> list[Path]:
    return list((rounds.experiments / "r" / ".jobs").iterdir())


def test_experiments_with_equal_resources_go_as_one_array(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, *NAMES)
    assert tasks(fake_pbs) == [3]
    status = rounds.status()
    assert [status[name]["job_id"] for name in NAMES] == [f"1[{index}].pbsnode" for index in range(3)]
    assert {status[name]["job_state"] for name in NAMES} == {"running"}
    (array,) = arrays(rounds)
    assert (array / "job_id").read_text() == "1[].pbsnode\n"
    assert "1[1].pbsnode" in rounds.call("--why", "b").stdout
    assert rounds.call("--dry-run").returncode == DONE
    complete(rounds, *NAMES)
    assert accepted(fake_pbs) == 1
    assert [rounds.begun(name) for name in NAMES] == [[0]] * 3
    assert {path.name for path in array.iterdir()} == {"job.sh", "job_id", "manifest", "log.0", "log.1", "log.2"}


def test_a_round_of_more_experiments_than_an_array_may_have_goes_in_chunks(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(max_array_size=3)
    names = [f"e{number}" for number in range(7)]
    write(rounds, *names, max_running=6)
    rounds.release(*names)
    assert rounds.call().returncode == WORK_REMAINS
    assert tasks(fake_pbs) == [3, 3]
    assert sorted(job["max_run_subjobs"] for job in fake_pbs.jobs().values() if "indices" in job) == [2, 3]
    assert accepted(fake_pbs) == 3  # the last goes alone, and is the sixth that may run
    complete(rounds, *names)
    assert accepted(fake_pbs) == 3


def test_an_array_that_its_queue_refuses_for_its_size_costs_no_experiment_a_try(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(queue_array_size=2)
    wrap_command(rounds, "qstat")  # the limit of the queue cannot be queried
    (rounds.folder / "wrapped" / "qstat").write_text(
        f'#!/bin/bash\n[ "$1" != -Q ] || exit 1\nexec {Path(fake_pbs.env["PATH"].split(":")[0], "qstat")} "$@"\n'
    )
    names = [f"e{number}" for number in range(5)]
    write(rounds, *names)
    done = rounds.call()
    assert done.returncode == WORK_REMAINS
    assert set(rounds.states().values()) == {"in_progress"}
    assert tasks(fake_pbs) == [2, 2]
    complete(rounds, *names)
    assert {cause for name in names for cause in rounds.causes(name)} == {"limit", "completed"}


def test_a_limit_on_jobs_is_filled_and_then_waited_for(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(max_jobs=3)
    names = [f"e{number}" for number in range(6)]
    write(rounds, *names)
    assert rounds.call().returncode == WORK_REMAINS
    states = rounds.states()
    assert sorted(states.values()) == ["in_progress"] * 3 + ["pending"] * 3
    before = accepted(fake_pbs)
    assert rounds.call().returncode == WORK_REMAINS
    assert (accepted(fake_pbs), live(fake_pbs)) == (before, 3)
    complete(rounds, *names)
    assert {cause for name in names for cause in rounds.causes(name)} == {"limit", "completed"}


def test_tasks_are_killed_one_by_one_and_each_is_resumed_on_its_own(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    names = ("whole", "deleted", "node", "shell", "python")
    start(rounds, *names)
    fake_pbs.run(["qdel", rounds.view("deleted")["job_id"]])
    fake_pbs.crash(rounds.view("node")["job_id"])
    shell = rounds.shell("shell")
    shell.kill()
    rounds.python("python").kill()
    for name in ("deleted", "python"):
        wait_for(lambda: rounds.record(name).attempts[0].closed, f"{name} has a result")  # noqa: B023
    wait_for(lambda: dead(shell), "the shell is dead")
    fake_pbs.wait_for_state(rounds.view("shell")["job_id"], "X")
    rounds.give_up("shell")
    rounds.give_up("node")
    rounds.pass_until(lambda: all(len(rounds.begun(name)) == 2 for name in names[1:]), "four continue")
    assert rounds.causes("whole") == ["None"]
    assert [rounds.causes(name)[0] for name in names[1:]] == ["deleted", "node", "unknown", "unknown"]
    assert [rounds.begun(name) for name in names] == [[0], *[[0, 3]] * 4]
    complete(rounds, *names)


def test_a_task_that_was_deleted_while_it_was_queued_is_submitted_again(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(running=1)
    write(rounds, "a", "b")
    rounds.call()
    rounds.wait_for_step_3("a")
    fake_pbs.run(["qdel", rounds.view("b")["job_id"]])
    fake_pbs.turn()
    rounds.give_up("b")
    complete(rounds, "a", "b")
    assert accepted(fake_pbs) == 2
    assert rounds.begun("a") == rounds.begun("b") == [0]


@pytest.mark.parametrize("history", [True, False])
def test_without_history_all_is_the_same(history: bool, fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(history=history)
    start(rounds, *NAMES)
    rounds.release("a")
    rounds.pass_until(lambda: rounds.state("a") == "completed", "a is completed while its array continues")
    rounds.python("b").kill()
    rounds.wait_for_step_3("c")
    rounds.pass_until(lambda: rounds.begun("b") == [0, 3], "b continues")
    complete(rounds, *NAMES)
    assert accepted(fake_pbs) == 2


def test_a_runner_killed_right_after_the_submission_leaves_an_array_that_the_next_adopts(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    write(rounds, *NAMES)
    wrap_command(rounds, "qsub", after="kill -KILL $PPID")
    assert rounds.call().returncode == -signal.SIGKILL
    (array,) = arrays(rounds)
    assert not (array / "job_id").exists()
    assert rounds.call().returncode == WORK_REMAINS
    assert (array / "job_id").read_text() == "1[].pbsnode\n"
    assert [rounds.view(name)["job_id"] for name in NAMES] == [f"1[{index}].pbsnode" for index in range(3)]
    complete(rounds, *NAMES)
    assert accepted(fake_pbs) == 1


def test_an_array_that_was_accepted_though_qsub_reported_failure_is_adopted(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(fail_after_accept=True, stopped=True)
    write(rounds, *NAMES)
    assert rounds.call().returncode == WORK_REMAINS
    assert [rounds.state(name) for name in NAMES] == ["submitting"] * 3
    fake_pbs.turn()
    complete(rounds, *NAMES)
    assert accepted(fake_pbs) == 1


def test_an_array_accepted_after_the_time_limit_of_qsub_is_adopted(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    rounds.set_site("impatient", command_limit=3)
    fake_pbs.turn(accept_late=5, stopped=True)
    write(rounds, "a", "b")
    rounds.pass_until(
        lambda: rounds.call("--site", "impatient").returncode == WORK_REMAINS and rounds.record("a").attempts,
        "qsub was called",
    )
    fake_pbs.turn()
    wait_for(lambda: accepted(fake_pbs) == 1, "the array is accepted")
    rounds.call()
    assert [rounds.view(name)["job_id"] for name in "ab"] == ["1[0].pbsnode", "1[1].pbsnode"]
    complete(rounds, "a", "b")


def test_an_array_that_was_given_up_and_arrives_after_all_runs_nothing(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    write(rounds, "a", "b")
    wait = f'while [ ! -e "{rounds.notes}/arrive" ]; do sleep 0.05; done'
    wrap_command(rounds, "qsub", before=f"kill -KILL $PPID; {wait}")
    assert rounds.call().returncode == -signal.SIGKILL
    for name in "ab":
        rounds.let_time_pass(name)
    assert rounds.call().returncode == WORK_REMAINS
    for name in "ab":
        rounds.wait_for_step_3(name)
    (rounds.notes / "arrive").touch()
    fake_pbs.wait_for_state("2[].pbsnode", "F")
    assert [rounds.causes(name) for name in "ab"] == [["unclaimed", "None"]] * 2
    complete(rounds, "a", "b")
    assert rounds.begun("a") == rounds.begun("b") == [0]


def test_a_cancelled_task_leaves_the_others_alone_whatever_its_state(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(running=2, kill_delay=60)
    write(rounds, "running", "other", "queued", "late")
    rounds.call()
    rounds.wait_for_step_3("running")
    rounds.wait_for_step_3("other")
    for name in ("queued", "running"):  # in this order, or the place of the one is the other's
        done = rounds.call("--cancel", "--only", name)
        assert (done.returncode, done.stderr) == (DONE, "")
    fake_pbs.wait_for_state("1[0].pbsnode", "X")
    fake_pbs.wait_for_state("1[2].pbsnode", "X")
    wait_for(lambda: rounds.record("running").attempts[0].closed, "it has stopped")
    rounds.release("other", "late")
    rounds.pass_until(lambda: rounds.call().returncode == FAILED, "nothing more happens")
    assert rounds.states() == {"running": "cancelled", "other": "completed", "queued": "cancelled", "late": "completed"}
    assert rounds.lines("queued") == []


def test_a_task_that_ended_just_now_is_no_trouble_for_cancel(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, "a", "b")
    fake_pbs.turn(kill_delay=0)
    for process in rounds.family("a"):
        process.kill()
    fake_pbs.wait_for_state("1[0].pbsnode", "X")
    done = rounds.call("--cancel", "--only", "a")
    assert done.returncode == DONE
    assert "finished" not in done.stdout + done.stderr
    rounds.release("b")
    rounds.pass_until(lambda: rounds.state("b") == "completed", "the other continues")


@pytest.mark.parametrize("orphan", [False, True])
def test_only_the_task_that_the_server_starts_again_runs_again(
    orphan: bool, fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    start(rounds, "a", "b")
    before = rounds.family("b")
    fake_pbs.rerun("1[1].pbsnode", orphan=orphan)
    rounds.wait_for_step_3("b", 2)
    wait_for(lambda: all(dead(one) for one in before), "what ran before is gone")
    assert rounds.call().returncode == WORK_REMAINS
    first, second = rounds.record("b").attempts
    assert (first.cause, second.closed) == (Cause.PREEMPTED, False)
    assert (first.opened.shared, first.opened.index) == (second.opened.shared, second.opened.index)
    assert first.job_id == second.job_id == "1[1].pbsnode"
    complete(rounds, "a", "b")
    assert accepted(fake_pbs) == 1
    assert (rounds.begun("a"), rounds.begun("b")) == ([0], [0, 3])


def test_a_queued_task_whose_attempt_has_ended_is_deleted_in_the_next_pass_without_the_others(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(stopped=True)
    write(rounds, "a", "b")
    rounds.call()
    record.void(rounds.directory("a"), 1, Cause.UNCLAIMED, "as if no job had been seen")
    rounds.call()
    fake_pbs.wait_for_state("1[0].pbsnode", "X")
    assert fake_pbs.state("1[1].pbsnode") == "Q"
    fake_pbs.turn()
    complete(rounds, "a", "b")
    assert rounds.begun("a") == rounds.begun("b") == [0]


def test_cancelling_several_arrays_and_single_jobs_deletes_all_of_them(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(stopped=True, max_array_size=12)
    names = [f"e{number}" for number in range(25)]
    write(rounds, *names)
    rounds.call()
    assert tasks(fake_pbs) == [12, 12]
    kept = names[3]
    done = rounds.call("--cancel", "--only", "e[0124-9]*")
    assert (done.returncode, done.stderr) == (DONE, "")
    left = {one for one, job in fake_pbs.jobs().items() if job["job_state"] == "Q" and "[]" not in one}
    assert left == {rounds.view(kept)["job_id"]}
    assert not fake_pbs.crashed


def test_queued_tasks_of_several_arrays_whose_attempts_have_ended_are_deleted_in_one_pass(
    fake_pbs: FakePBS, rounds: ClusterRounds
) -> None:
    fake_pbs.turn(stopped=True, max_array_size=4)
    names = [f"e{number}" for number in range(9)]
    write(rounds, *names)
    rounds.call()
    over = ("e0", "e2", "e5", "e7", "e8")
    ids = {rounds.view(name)["job_id"] for name in names if name not in over}
    for name in over:
        record.void(rounds.directory(name), 1, Cause.UNCLAIMED, "as if no job had been seen")
    rounds.call("--limit", "0")
    left = {one for one, job in fake_pbs.jobs().items() if job["job_state"] == "Q" and "[]" not in one}
    assert left == ids
    assert not fake_pbs.crashed


def test_a_server_that_is_down_costs_no_task_anything(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    start(rounds, *NAMES)
    fake_pbs.turn(down=True)
    for name in NAMES:
        rounds.let_time_pass(name)
    rounds.call()
    assert {row["state"] for row in rounds.status().values()} == {"in_progress"}
    assert not any((rounds.attempt(name) / "gone").exists() for name in NAMES)
    fake_pbs.turn()
    complete(rounds, *NAMES)
    assert accepted(fake_pbs) == 1


def test_two_runners_at_once_run_each_experiment_once(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(max_array_size=4)
    names = [f"e{number}" for number in range(6)]
    write(rounds, *names)
    rounds.release(*names)
    runners: list[Any] = [rounds.passing(200, until=(DONE, FAILED), pause=0.1, unlocked=True) for _ in range(2)]
    for runner in runners:
        assert finish_passes(runner)[-1] == DONE
    assert [rounds.lines(name).count("end") for name in names] == [1] * 6
    assert all(rounds.causes(name)[-1] == "completed" for name in names)
    opened = [
        (attempt.opened.job_name, attempt.opened.index) for name in names for attempt in rounds.record(name).attempts
    ]
    assert len(opened) == len(set(opened))
