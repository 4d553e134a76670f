"""Real rounds on the local machine: runner.py, job scripts, train.py and commands, and everything that kills them."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from rounds_for_tests import MARK, Rounds, fill, finish, interrupt, small_disk, snapshot, wait_for

from roundhouse.machine import pool
from roundhouse.model.experiment import Resources
from roundhouse.store import record

DONE, WORK_REMAINS, FAILED, TROUBLE, INTERRUPTED = 0, 3, 4, 5, 130

SUMS = """\
import os, time, torch
torch.distributed.init_process_group("gloo")
ours = torch.tensor([torch.distributed.get_rank() + 1.0])
torch.distributed.all_reduce(ours)
with open(os.environ["NOTES"] + "/sums", "a") as notes:
    seen = (ours.item(), os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"])
    print(f"rank {torch.distributed.get_rank()} of 2: {seen[0]}, {seen[1]}, {seen[2]}", file=notes)
while not os.path.exists(os.environ["NOTES"] + "/go"):
    time.sleep(0.05)
"""


def group(path: str, script: str, seeds: int = 1, **more: Any) -> dict[str, Any]:
    """A group of experiments that run a shell script, on a GPU of this test's own. $1 is the seed."""
    more["resources"] = {"ngpus": 1, **more.get("resources", {})}
    return {"path": path, "grid": {"seed": list(range(seeds))}, "command": ["sh", "-c", script, "sh", "{seed}"], **more}


def noting(rounds: Rounds, name: str, then: str = "") -> str:
    """A script that adds a line to its own file, and then runs `then`."""
    return f'echo run >> "{rounds.notes}/{name}$1"; {then}'


def holding(rounds: Rounds, then: str = "") -> str:
    """A script that notes its start, and waits for the test to say go."""
    return noting(rounds, "e", f'while [ ! -e "{rounds.notes}/go" ]; do sleep 0.05; done; {then}')


def say_go(rounds: Rounds) -> None:
    (rounds.notes / "go").touch()


def started(rounds: Rounds, count: int) -> Callable[[], bool]:
    """Whether this number of commands have noted their start."""
    return lambda: len(list(rounds.notes.glob("e*"))) == count


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# ------------------------------------------------------------------------------------------------ rounds that go well


def test_a_round_runs_to_its_end_and_each_student_starts_after_its_teacher(rounds: Rounds) -> None:
    times = 'date +%s%N > "$ROUNDHOUSE_DIRECTORY/began"; sleep 0.2; date +%s%N > "$ROUNDHOUSE_DIRECTORY/ended"'
    rounds.write(
        {
            "student": group(
                "s/{seed}", f'{times}; echo "$ROUNDHOUSE_INPUT_TEACHER"', 2, after={"teacher": {"seed": "{seed}"}}
            ),
            "teacher": group("t/{seed}", times, 2),
        }
    )
    done = rounds.call()
    assert done.returncode == DONE, done.stderr
    assert "all 4 experiments are completed" in done.stdout
    for seed in ("0", "1"):
        teacher, student = (
            rounds.directory(f"t/{seed}/attempts/1/files"),
            rounds.directory(f"s/{seed}/attempts/1/files"),
        )
        assert int((student / "began").read_text()) > int((teacher / "ended").read_text())
        assert str(teacher) in (student.parent / "out.log").read_text().splitlines()
    before = snapshot(rounds.experiments)
    again = rounds.call()
    assert again.returncode == DONE
    assert "all 4 experiments are completed" in again.stdout
    assert snapshot(rounds.experiments) == before


def test_the_most_important_goes_first(rounds: Rounds) -> None:
    rounds.extra["CUDA_VISIBLE_DEVICES"] = rounds.gpus[0]
    rounds.write({"e": group("{seed}", f'echo "$1" >> "{rounds.notes}/order"', 4, priority="seed % 2 * 10 + seed")})
    assert rounds.call().returncode == DONE
    assert rounds.lines("order") == ["3", "1", "2", "0"]


def test_only_selected_experiments_run(rounds: Rounds) -> None:
    rounds.write({"a": group("a/{seed}", "true", 2), "b": group("b/{seed}", "true", 2, after=["a"])})
    assert rounds.call("--only", "b/*").returncode == WORK_REMAINS
    assert rounds.call("--only", "a/0").returncode == DONE
    assert rounds.states() == {"a/0": "completed", "a/1": "pending", "b/0": "pending", "b/1": "pending"}
    assert rounds.status()["b/0"]["reason"] == "waits for a/1, which is pending"


def test_no_more_jobs_start_than_the_limit_allows(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", "true", 3)})
    assert rounds.call("--limit", "0").returncode == WORK_REMAINS
    assert set(rounds.states().values()) == {"pending"}
    assert rounds.call("--limit", "2").returncode == WORK_REMAINS
    assert sorted(rounds.states().values()) == ["completed", "completed", "pending"]
    assert rounds.call("--limit", "2").returncode == DONE


@pytest.mark.parametrize(
    ("resources", "options"),
    [({"ngpus": 1}, ["--jobs-per-gpu", "2"]), ({"ncpus": 4, "ngpus": 4, "pack": {"slots": 8, "per_gpu": 2}}, [])],
    ids=["by option", "packed"],
)
def test_jobs_share_gpus_and_cores_and_are_never_more_than_the_slots(
    rounds: Rounds, resources: dict[str, Any], options: list[str]
) -> None:
    # The first four wait for each other: less than four at once would never end.
    meet = (
        f'n=0; while [ "$(ls "{rounds.notes}/here" | wc -l)" -lt 4 ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n+1)); done'
    )
    script = (
        f'mkdir -p "{rounds.notes}/here"; touch "{rounds.notes}/here/$1"; {meet}; '
        f'echo "+1 $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS $MKL_NUM_THREADS" >> "{rounds.notes}/log"; sleep 0.1; '
        f'echo "-1 $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS $MKL_NUM_THREADS" >> "{rounds.notes}/log"'
    )
    rounds.write({"e": group("{seed}", script, 8, resources=resources)})
    assert rounds.call(*options).returncode == DONE
    threads = str(max(1, len(os.sched_getaffinity(0)) // 4))
    running = dict.fromkeys(rounds.gpus, 0)
    most = dict.fromkeys(rounds.gpus, 0)
    for line in rounds.lines("log"):
        step, gpu, *thread_counts = line.split()
        running[gpu] += int(step)
        most[gpu] = max(most[gpu], running[gpu])
        assert thread_counts == [threads, threads]
    assert most == dict.fromkeys(rounds.gpus, 2)
    assert len(rounds.lines("log")) == 16


def test_a_job_of_several_processes_has_its_own_gpus_and_shares_them_with_no_other_job(rounds: Rounds) -> None:
    """DistributedDataParallel's way: torchrun starts a process for each GPU."""
    program = rounds.folder / "sums.py"
    program.write_text(SUMS)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    together = {"path": "t", "command": [*words, str(program)], "resources": {"ngpus": 2}, "priority": 1}
    alone = group("{seed}", f'while [ ! -e "{rounds.notes}/go" ]; do sleep 0.05; done', 2)
    rounds.extra["NOTES"] = str(rounds.notes)
    rounds.write({"alone": alone, "together": together})
    runner = rounds.start("--jobs-per-gpu", "2")
    wait_for(lambda: len(rounds.lines("sums")) == 2, "both processes have met")
    assert {path for path, state in rounds.states().items() if state == "in_progress"} == {"t"}
    say_go(rounds)
    assert finish(runner)[0] == DONE
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    both = ",".join(rounds.gpus)
    assert sorted(rounds.lines("sums")) == [f"rank {rank} of 2: 3.0, {both}, {threads}" for rank in range(2)]


def test_a_job_that_needs_more_gpus_than_there_are_is_refused_and_the_others_run(rounds: Rounds) -> None:
    rounds.write({"large": group("l", "true", resources={"ngpus": 3}), "small": group("s", "true")})
    done = rounds.call()
    assert done.returncode == FAILED
    assert rounds.states() == {"l": "failed", "s": "completed"}
    assert "it requests 3 GPUs, but 2 can be used on this host" in rounds.status()["l"]["reason"]


def test_a_job_that_requests_no_gpu_sees_none_and_waits_for_none(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, rounds.mark)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(rounds.gpus))
    script = rounds.folder / "job.sh"
    script.write_text(f'echo "<$CUDA_VISIBLE_DEVICES>" >> "{rounds.notes}/seen"; exec sleep 600')
    one = pool.make_pool(ncpus=len(os.sched_getaffinity(0)), home=rounds.mark)
    jobs = [Resources(ngpus=count) for count in (1, 1, 0)]
    assert [one.start(script, f"{rounds.mark}-{number}", need) for number, need in enumerate(jobs)] == [True] * 3
    assert not one.start(script, "another", Resources())
    wait_for(lambda: len(rounds.lines("seen")) == 3, "all have begun")
    assert set(rounds.lines("seen")) == {"<>", *(f"<{gpu}>" for gpu in rounds.gpus)}


def test_two_rounds_at_once_share_the_slots_and_both_come_to_their_end(rounds: Rounds) -> None:
    for name in ("one", "two"):
        rounds.write(
            {"e": group("{seed}", f'echo +1 >> "{rounds.notes}/log"; sleep 0.2; echo -1 >> "{rounds.notes}/log"', 4)},
            name,
        )
    processes = [rounds.start(name=name) for name in ("one", "two")]
    assert [finish(process)[0] for process in processes] == [DONE, DONE]
    running = most = 0
    for line in rounds.lines("log"):
        running += int(line)
        most = max(most, running)
    assert most <= 2
    assert len(rounds.lines("log")) == 16


def test_two_runners_at_the_same_time_do_not_take_the_same_slot(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, met = pool.live, threading.Barrier(2)

    def live() -> Any:
        seen = look()
        with suppress(threading.BrokenBarrierError):  # a runner that queries alone continues alone
            met.wait(1)
        return seen

    monkeypatch.setattr(pool, "live", live)
    monkeypatch.setenv(MARK, rounds.mark)
    script = rounds.folder / "job.sh"
    script.write_text("exec sleep 600")
    pools = [pool.make_pool(slots=1, home=rounds.mark) for _ in range(2)]
    with ThreadPoolExecutor() as threads:
        took = [
            threads.submit(one.start, script, f"{rounds.mark}-{number}", Resources())
            for number, one in enumerate(pools)
        ]
    assert sorted(one.result() for one in took) == [False, True]


def test_rounds_on_different_gpus_do_not_wait_for_each_other(rounds: Rounds) -> None:
    for name in ("one", "two"):
        rounds.write({"e": group("{seed}", holding(rounds))}, name)
    runners = []
    for gpu, name in zip(rounds.gpus, ("one", "two"), strict=True):
        rounds.extra["CUDA_VISIBLE_DEVICES"] = gpu
        runners.append(rounds.start(name=name))
    wait_for(lambda: len(rounds.lines("e0")) == 2, "both run at once")
    say_go(rounds)
    assert [finish(runner)[0] for runner in runners] == [DONE, DONE]


def test_a_completed_experiment_is_compacted_and_stays_completed(rounds: Rounds) -> None:
    rounds.write({"e": group("e", 'echo seen; echo 1 > "$ROUNDHOUSE_DIRECTORY/metrics.json"')})
    assert rounds.call().returncode == DONE
    place = rounds.directory("e/attempts/1")
    assert (rounds.directory("e") / record.HISTORY).exists()
    assert not {"progress.json", "environment.json", "job.sh"} & set(os.listdir(place))
    names = (record.JOB, record.CLAIM, record.RESULT)
    assert (
        len({(place / name).stat().st_ino for name in names} | {(rounds.directory("e") / record.HISTORY).stat().st_ino})
        == 1
    )
    assert (rounds.directory("e") / "metrics.json").read_text() == "1\n"
    assert os.readlink(rounds.directory("e") / "metrics.json") == "attempts/1/files/metrics.json"
    done = rounds.call()
    assert done.returncode == DONE
    assert "all 1 experiments are completed" in done.stdout
    assert "seen" in rounds.call("--why", "e").stdout
    assert json.loads((rounds.directory("e") / record.STATUS).read_text())["state"] == "completed"


def test_the_quickstart_trains_on_real_digits(rounds: Rounds) -> None:
    rounds.write("""\
round: digits
study: distillation
resources: {ngpus: 1}
defaults: {device: cpu, dataset: digits, epochs: 1, batch_size: 64, lr: 0.1, seed: 0}
experiments:
  teacher: {path: "pure/{model}", config: {model: ResNet8, method: pure}}
  distilled:
    path: "{method}/{model}"
    config: {teacher: ResNet8, model: ResNet8, method: logit, alpha: 0.5, temperature: 4.0}
    after: [teacher]
""", "digits")  # fmt: skip
    done = rounds.call(name="digits", timeout=120)
    assert done.returncode == DONE, rounds.call("--why", "pure/ResNet8", name="digits").stdout
    status = rounds.status(name="digits")
    for row in status.values():
        assert (row["state"], row["epoch"], row["epochs"], row["attempt"]) == ("completed", 1, 1, 1)
        assert 0 < row["best"] <= 1
    student = rounds.record("logit/ResNet8", "digits")
    teacher = rounds.record("pure/ResNet8", "digits").completed
    assert teacher is not None
    assert teacher.progress is not None
    assert student.completed is not None
    pinned = student.completed.opened.inputs["teacher"]
    assert pinned == [{"path": "pure/ResNet8", "sha256": teacher.progress.artifacts["best.pth"]}]
    for name in ("metrics.json", "best.pth", "outputs.npz"):
        assert (rounds.directory("logit/ResNet8", "digits") / name).stat().st_size > 0


# ---------------------------------------------------------------------------------------------- experiments that fail


def test_a_failing_experiment_is_tried_twice_and_continues_after_a_retry(rounds: Rounds) -> None:
    fails = noting(rounds, "t", f'echo "the data is missing"; [ -e "{rounds.notes}/fixed" ]')
    rounds.write(
        {"teacher": group("t", fails), "student": group("s", "true", after=["teacher"]), "other": group("o", "true")}
    )
    done = rounds.call()
    assert done.returncode == FAILED
    assert rounds.lines("t0") == ["run", "run"]
    status = rounds.status()
    assert {path: row["state"] for path, row in status.items()} == {"t": "failed", "s": "pending", "o": "completed"}
    assert "failed 2 times" in status["t"]["reason"]
    assert status["t"]["cause"] == "error"
    assert "waits for t, which is failed" in status["s"]["reason"]
    why = rounds.call("--why", "t").stdout
    assert "the data is missing" in why
    assert "attempt 2" in why
    assert "exit code 1" in why
    assert rounds.call().returncode == FAILED
    assert rounds.lines("t0") == ["run", "run"], "nothing is retried automatically"
    (rounds.notes / "fixed").touch()
    retried = rounds.call("--retry")
    assert retried.returncode == DONE
    assert "t: will be retried" in retried.stdout
    assert rounds.causes("t") == ["error", "error", "retry", "completed"]
    assert "nothing to retry" in rounds.call("--retry").stdout


def test_a_command_that_does_not_exist_is_reported(rounds: Rounds) -> None:
    rounds.write({"e": {"path": "e", "command": "no-such-program --lr 1"}})
    assert rounds.call().returncode == FAILED
    assert "no-such-program cannot be started: No such file or directory" in rounds.call("--why", "e").stdout


def test_a_config_that_changed_after_a_run_blocks_that_experiment_and_names_the_keys(rounds: Rounds) -> None:
    config = {"lr": 0.1, "layers": [1, 2], "old": True}
    rounds.write({"e": group("{seed}", "true", 2, config=config), "f": group("f", "false", config={"lr": 1})})
    assert rounds.call().returncode == FAILED
    rounds.write(
        {
            "e": group("{seed}", "true", 3, config={"lr": 0.2, "layers": [1, 2]}),
            "f": group("f", "false", config={"lr": 2}),
        }
    )
    done = rounds.call()
    assert done.returncode == FAILED
    status = rounds.status()
    assert {path: row["state"] for path, row in status.items()} == {
        "0": "blocked",
        "1": "blocked",
        "2": "completed",
        "f": "blocked",
    }
    assert "lr was 0.1, is now 0.2" in status["0"]["reason"]
    assert "old was True, is gone" in status["0"]["reason"]
    assert "layers" not in status["0"]["reason"]
    assert "lr was 1, is now 2" in status["f"]["reason"]
    assert "lr was 0.1, is now 0.2" in done.stdout


# ------------------------------------------------------------------------------------------------------ interruptions


def test_ctrl_c_stops_the_jobs_cleanly_and_the_next_call_continues(rounds: Rounds) -> None:
    # The shell signals the whole group and train.py its child: one program may get the signal twice.
    script = f'trap "trap : TERM; echo saved >> {rounds.notes}/saved; exit 1" TERM; ' + holding(rounds)
    rounds.write({"e": group("{seed}", script, 3)})
    for turn in range(1, 4):
        runner = rounds.start()
        wait_for(lambda n=turn: sum(len(rounds.lines(f"e{seed}")) for seed in range(3)) == 2 * n, "two jobs run")
        interrupt(runner)
        code, out = finish(runner)
        assert code == INTERRUPTED
        assert "Stopping" in out
        assert not rounds.jobs()
        assert len(rounds.lines("saved")) == 2 * turn
        assert set(rounds.states().values()) == {"pending"}
    say_go(rounds)
    assert rounds.call().returncode == DONE
    assert rounds.causes("0") == ["preempted"] * 3 + ["completed"]
    assert rounds.causes("2") == ["completed"]


def test_ctrl_c_is_no_reason_to_give_up_however_short_the_walltime(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", holding(rounds), resources={"walltime": 60})})
    for turn in range(1, 4):
        runner = rounds.start()
        wait_for(lambda n=turn: len(rounds.lines("e0")) == n, "the job runs")
        interrupt(runner)
        assert finish(runner)[0] == INTERRUPTED
    assert rounds.causes("0") == ["preempted"] * 3
    assert rounds.states() == {"0": "pending"}


def interrupt_twice(runner: subprocess.Popen[str]) -> None:
    """Ctrl-C, and again while it waits for its jobs."""
    interrupt(runner)
    assert runner.stdout is not None
    while "Stopping" not in runner.stdout.readline():
        pass
    interrupt(runner)
    assert finish(runner)[0] == INTERRUPTED


def test_a_second_ctrl_c_ends_jobs_that_ignore_signals_and_counts_towards_no_retry_limit(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", 'trap "" TERM; ' + holding(rounds), 2)})
    for turn in range(1, 4):
        runner = rounds.start()
        wait_for(lambda n=turn: [len(rounds.lines(f"e{seed}")) for seed in range(2)] == [n, n], "two jobs run")
        interrupt_twice(runner)
        assert not rounds.jobs()
    say_go(rounds)
    assert rounds.call().returncode == DONE
    assert [rounds.causes(str(seed)) for seed in range(2)] == [["preempted"] * 3 + ["completed"]] * 2


CODE = "import signal, time; signal.signal(15, 1); signal.signal(2, 1); print('ignores', flush=True); time.sleep(600)"
IGNORES = f'{sys.executable} -c "{CODE}"'


def log_of(rounds: Rounds) -> str:
    """What the first attempt's command has printed."""
    log = rounds.directory("0") / "attempts" / "1" / record.LOG
    return log.read_text().partition(" runs ")[2].partition("\n")[2] if log.exists() else ""


def test_a_second_ctrl_c_ends_programs_whose_wrapper_has_ended(rounds: Rounds) -> None:
    rounds.write({"e": {"path": "0", "command": ["bash", "-c", f"{IGNORES}; echo end"]}})
    runner = rounds.start()
    wait_for(lambda: "ignores" in log_of(rounds), "it runs")
    interrupt_twice(runner)
    assert not rounds.jobs()


def test_cancel_ends_a_program_whose_job_script_was_killed(rounds: Rounds) -> None:
    rounds.write({"e": {"path": "0", "command": ["bash", "-c", f"{IGNORES}; echo end"]}})
    runner = rounds.start()
    wait_for(lambda: "ignores" in log_of(rounds), "it runs")
    runner.kill()
    finish(runner)
    for job in sorted(rounds.jobs(), key=lambda one: one.pid)[:1]:
        job.kill()  # the job's shell; Python dies with it, and the command's shell with Python
    wait_for(lambda: len(rounds.jobs()) == 1, "only the program is left")
    rounds.call("--cancel")
    wait_for(lambda: not rounds.jobs(), "it is killed")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_sigterm_acts_like_ctrl_c(rounds: Rounds, name: str) -> None:
    rounds.write({"e": group("{seed}", holding(rounds))})
    runner = rounds.start()
    wait_for(started(rounds, 1), "the job runs")
    interrupt(runner, getattr(signal, name))
    assert finish(runner)[0] == INTERRUPTED
    assert not rounds.jobs()
    assert rounds.causes("0") == ["preempted"]


def test_a_runner_in_the_background_of_a_script_can_be_stopped(rounds: Rounds) -> None:
    """There, the shell lets it ignore Ctrl-C, and the jobs must not inherit that."""
    rounds.write({"e": group("{seed}", holding(rounds))})
    runner = rounds.start(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    wait_for(started(rounds, 1), "the job runs")
    interrupt(runner, signal.SIGTERM)
    assert finish(runner, 20)[0] == INTERRUPTED
    assert rounds.causes("0") == ["preempted"]


def test_a_runner_under_nohup_outlives_its_terminal(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", holding(rounds))})
    runner = rounds.start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for(started(rounds, 1), "the job runs")
    interrupt(runner, signal.SIGHUP)
    say_go(rounds)
    assert finish(runner)[0] == DONE
    assert rounds.causes("0") == ["completed"]


def test_a_runner_that_is_interrupted_at_any_moment_loses_nothing(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", noting(rounds, "e", f'[ -e "{rounds.notes}/go" ] || sleep 600'), 4)})
    chance = random.Random(1)
    for _ in range(8):
        runner = rounds.start()
        wait_for(lambda pid=runner.pid: "_yaml" in Path(f"/proc/{pid}/maps").read_text(), "it has begun")
        with pytest.raises(subprocess.TimeoutExpired):
            runner.wait(chance.uniform(0, 0.8))
        interrupt(runner)
        assert finish(runner)[0] == INTERRUPTED
        assert not rounds.jobs(), "no job is left running"
    say_go(rounds)
    assert rounds.call().returncode == DONE
    for seed in range(4):
        *earlier, last = rounds.causes(str(seed))
        assert set(earlier) <= {"preempted"}
        assert last == "completed"


def test_jobs_continue_when_the_runner_is_killed_and_the_next_one_waits_for_them(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", holding(rounds), 3)})
    runner = rounds.start()
    wait_for(started(rounds, 2), "two jobs run")
    runner.kill()
    finish(runner)
    second = rounds.start()
    wait_for(lambda: is_locked(rounds.experiments / ".r.lock"), "the second runner is at work")
    assert [row["job_state"] for row in rounds.status("--only", "[01]").values()] == ["running"] * 2
    third = rounds.call()
    assert third.returncode == WORK_REMAINS
    assert "another process works on round r " in third.stderr
    say_go(rounds)
    assert finish(second)[0] == DONE
    assert [rounds.lines(f"e{seed}") for seed in range(3)] == [["run"]] * 3
    assert [rounds.causes(str(seed)) for seed in range(3)] == [["completed"]] * 3


def test_when_runner_and_jobs_are_killed_the_next_runner_starts_them_again(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", holding(rounds), 2)})
    runner = rounds.start()
    wait_for(started(rounds, 2), "two jobs run")
    rounds.kill()
    finish(runner)
    say_go(rounds)
    assert rounds.call(timeout=30).returncode == DONE
    assert [rounds.causes(str(seed)) for seed in range(2)] == [["unknown", "completed"]] * 2
    assert [len(rounds.lines(f"e{seed}")) for seed in range(2)] == [2, 2]


def test_a_job_whose_shell_was_killed_is_seen_until_its_last_process_ends(rounds: Rounds) -> None:
    """A process that left the job's group outlives shell and Python; while it lives, nothing else is started."""
    script = noting(rounds, "e", f'setsid sh -c "while [ ! -e {rounds.notes}/go ]; do sleep 0.05; done" & wait')
    rounds.write({"e": group("{seed}", script)})
    runner = rounds.start()
    wait_for(started(rounds, 1), "the job runs")
    runner.kill()
    finish(runner)
    wait_for(lambda: len(rounds.jobs()) >= 4, "all its processes are there")
    for process in rounds.jobs():
        with suppress(psutil.NoSuchProcess):
            if process.name() == "bash":
                process.kill()
    second = rounds.start()
    wait_for(lambda: len(rounds.jobs()) <= 2, "shell and Python are gone")
    wait_for(lambda: rounds.status()["0"]["job_state"] == "running", "the rest is seen")
    assert rounds.lines("e0") == ["run"]
    say_go(rounds)
    assert finish(second)[0] == DONE
    assert rounds.causes("0") == ["unknown", "completed"]


def test_a_running_job_can_be_cancelled_from_another_terminal(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", holding(rounds), 3)})
    runner = rounds.start()
    wait_for(started(rounds, 2), "two jobs run")
    done = rounds.call("--cancel", "--only", "[02]")
    assert done.returncode == 0, done.stderr
    assert "0: stopping attempt 1" in done.stdout
    assert "2: cancelled before its first attempt" in done.stdout
    wait_for(lambda: rounds.causes("0") == ["cancelled"], "it is cancelled")
    say_go(rounds)
    assert finish(runner)[0] == FAILED
    assert rounds.states() == {"0": "cancelled", "1": "completed", "2": "cancelled"}
    assert not rounds.lines("e2")
    assert rounds.call("--retry").returncode == DONE
    assert rounds.causes("0") == ["cancelled", "retry", "completed"]


def test_a_cancelled_command_that_does_not_listen_is_killed(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", 'trap "" TERM; ' + holding(rounds))})
    rounds.extra["ROUNDHOUSE_SIGN_OF_LIFE"] = "0.2"
    runner = rounds.start()
    wait_for(started(rounds, 1), "the job runs")
    assert rounds.call("--cancel").returncode == 0
    assert finish(runner)[0] == FAILED
    assert rounds.states() == {"0": "cancelled"}


def test_cancelling_a_round_that_never_ran_keeps_it_from_running(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", noting(rounds, "e"), 2)})
    assert rounds.call("--cancel").returncode == 0
    assert rounds.call().returncode == FAILED
    assert set(rounds.states().values()) == {"cancelled"}
    assert not rounds.lines("e0")
    assert "nothing to cancel" in rounds.call("--cancel").stdout
    assert rounds.call("--retry", "--only", "0").returncode == DONE


# ------------------------------------------------------------------------------------------------ faulty records


@pytest.mark.parametrize(
    "damage", [b"", b'{"version": 1, "state": "pend', None], ids=["emptied", "truncated", "deleted"]
)
def test_status_files_that_are_lost_midway_are_made_again(rounds: Rounds, damage: bytes | None) -> None:
    rounds.write({"e": group("{seed}", holding(rounds), 3)})
    runner = rounds.start()
    wait_for(started(rounds, 2), "two jobs run")
    wait_for(lambda: len(list(rounds.experiments.rglob(record.STATUS))) >= 2, "status.json is there")
    for path in rounds.experiments.rglob(record.STATUS):
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage)
    assert rounds.states() == {"0": "in_progress", "1": "in_progress", "2": "pending"}
    say_go(rounds)
    assert finish(runner)[0] == DONE
    for seed in range(3):
        assert json.loads((rounds.directory(str(seed)) / record.STATUS).read_text())["state"] == "completed"
        assert rounds.lines(f"e{seed}") == ["run"]
    for path in rounds.experiments.rglob(record.STATUS):
        path.unlink()
    assert rounds.call().returncode == DONE
    assert len(list(rounds.experiments.rglob(record.STATUS))) == 3


def test_a_record_copied_to_another_machine_is_not_run_there(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", holding(rounds), 2)})
    runner = rounds.start()
    wait_for(started(rounds, 2), "two jobs run")
    elsewhere = Rounds(folder=rounds.folder / "elsewhere")
    elsewhere.folder.mkdir()
    subprocess.run(["cp", "-a", rounds.rounds, rounds.experiments, elsewhere.folder], check=True)
    for path in elsewhere.experiments.rglob(record.JOB):
        job = json.loads(path.read_text())
        job["scheduler"]["server"] = "pumpkin/0123456789abcdef"
        path.write_text(json.dumps(job))
    before = {path: entry for path, entry in snapshot(elsewhere.experiments).items() if "attempts" in path}
    done = elsewhere.call()
    assert done.returncode == WORK_REMAINS
    assert "its job belongs to local on pumpkin/0123456789abcdef" in done.stdout
    assert {path: entry for path, entry in snapshot(elsewhere.experiments).items() if "attempts" in path} == before
    assert [rounds.lines(f"e{seed}") for seed in range(2)] == [["run"]] * 2
    say_go(rounds)
    assert finish(runner)[0] == DONE


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def make_noise(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for position in range(5, len(data), 7):
        data[position] ^= 0x55
    path.write_bytes(bytes(data))


def make_it_of_the_future(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))


DAMAGES = [
    (name, damage) for name in (record.JOB, record.CLAIM, record.RESULT)
    for damage in (empty, truncate, make_noise, make_it_of_the_future)
]  # fmt: skip
HELD_BY_UNKNOWN = str(DAMAGES.index((record.CLAIM, empty)))


def test_an_unreadable_file_stops_only_that_experiment_and_a_retry_continues_without_it(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", holding(rounds, "exit 1"), len(DAMAGES)), "f": group("f", "true", priority=-1)})
    runner = rounds.start("--jobs-per-gpu", "6")
    wait_for(started(rounds, len(DAMAGES)), "all run")
    interrupt(runner)
    assert finish(runner)[0] == INTERRUPTED
    say_go(rounds)
    paths = [rounds.directory(f"{seed}/attempts/1") / name for seed, (name, _) in enumerate(DAMAGES)]
    for path, (_, damage) in zip(paths, DAMAGES, strict=True):
        damage(path)
    evidence = [path.read_bytes() for path in paths]
    done = rounds.call()
    assert done.returncode == FAILED
    status = rounds.status()
    assert status.pop("f")["state"] == "completed"
    assert status.pop(HELD_BY_UNKNOWN)["state"] == "failed", "an empty claim is whole: its holder is unknown"
    for seed, row in status.items():
        where = f"attempts/1/{DAMAGES[int(seed)][0]}"
        assert row["state"] == "blocked"
        assert where in row["reason"]
        assert any(line.startswith(f"{seed} ") and where in line for line in done.stdout.splitlines())
    assert f"attempts/1/{record.JOB}" in rounds.call("--why", "0").stdout
    retried = rounds.call("--retry", "--limit", "0").stdout
    assert all(f"\n{seed}: will be retried" in "\n" + retried for seed in range(len(DAMAGES)))
    assert {row["state"] for row in rounds.status("--only", "[0-9]*").values()} == {"pending"}
    assert rounds.call("--only", "0").returncode == FAILED
    assert "failed 2 times" in rounds.status()["0"]["reason"]
    assert [path.read_bytes() for path in paths] == evidence, "the evidence is kept"


def test_an_invalid_experiment_directory_stops_only_that_experiment(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", "true", 5)})
    folder = rounds.experiments / "r"
    folder.mkdir(parents=True)
    (folder / "0").write_text("a file in its place")
    (folder / "1").symlink_to("1")
    (folder / "2" / "history.json").mkdir(parents=True)
    (folder / "3" / "attempts" / "1" / "job.json").mkdir(parents=True)
    done = rounds.call()
    assert done.returncode == TROUBLE
    states = rounds.states()
    assert states["4"] == "completed"
    assert "completed" not in [states[path] for path in "0123"]
    for path in "0123":
        assert any(line.startswith(f"{path}: ") and str(folder / path) in line for line in done.stderr.splitlines()), (
            path
        )
    for order in ("--retry", "--cancel"):
        done = rounds.call(order)
        assert done.returncode == TROUBLE
        assert all(f"\n{path}: " in "\n" + done.stderr for path in "0123")
    assert rounds.states()["4"] == "completed"


def test_on_a_full_disk_a_round_reports_it_and_continues_when_there_is_room(rounds: Rounds) -> None:
    rounds.write({"e": group("{seed}", noting(rounds, "e"), 2)})
    with small_disk(rounds.experiments, "128k"):
        assert rounds.call("--limit", "0").returncode == WORK_REMAINS
        ballast = fill(rounds.experiments)
        done = rounds.call()
        assert done.returncode == TROUBLE
        assert "No space left on device" in done.stderr
        ballast.unlink()
        assert rounds.call().returncode == DONE
        assert [rounds.lines(f"e{seed}") for seed in range(2)] == [["run"]] * 2


def test_nothing_torch_is_imported_for_a_command(rounds: Rounds) -> None:
    rounds.write({"e": {"path": "e", "command": [sys.executable, "-c", "print('fast')"]}})
    rounds.extra["PYTHONPROFILEIMPORTTIME"] = "1"
    assert rounds.call().returncode == DONE
    log = (rounds.directory("e/attempts/1") / record.LOG).read_text()
    assert "roundhouse.jobs.worker" in log
    assert " torch" not in log
