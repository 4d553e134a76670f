"""`time_limit` of a command: real programs and scripts that are ended at the limit, over one or several jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from rounds_for_tests import PATIENCE, Rounds, finish, rounds, wait_for  # noqa: F401
from test_worker import claimed_attempt, open_attempt

from roundhouse.config.round import load_round
from roundhouse.errors import RoundhouseError
from roundhouse.jobs.time_limit import TimeLimit, programs_of
from roundhouse.model.experiment import Experiment, changes
from roundhouse.store import record

DONE, FAILED = 0, 4
PYTHON = [sys.executable, "-SE", "-c"]

NOTES_LEFT = 'echo "$ROUNDHOUSE_TIME_LEFT" > "$0/left"'

# It counts in state.txt, and continues from there. At SIGINT it writes its result and ends; SIGTERM kills it.
TRAINS = """\
import os, sys, time
folder = sys.argv[1]
state = folder + "/state.txt"
count = int(open(state).read()) if os.path.exists(state) else 0
with open(folder + "/left", "w") as file:
    file.write(os.environ["ROUNDHOUSE_TIME_LEFT"])
try:
    while True:
        count += 1
        with open(state + ".new", "w") as file:
            file.write(str(count))
        os.replace(state + ".new", state)
        time.sleep(0.05)
except KeyboardInterrupt:
    time.sleep(0.3)
    print("evaluates", flush=True)
    with open(folder + "/metrics.json", "w") as file:
        file.write('{"count": %d}' % count)
"""


def write(rounds: Rounds, command: Sequence[str], limit: str | int, **more: Any) -> None:  # noqa: F811
    """A round of one experiment. In its command, only {directory} is a placeholder."""
    words = [word.replace("{", "{{").replace("}", "}}").replace("{{directory}}", "{directory}") for word in command]
    rounds.write({"all": {"path": "a", "command": words, "time_limit": limit, **more}})


def log(rounds: Rounds, number: int = 1) -> str:  # noqa: F811
    return (rounds.directory(f"a/attempts/{number}") / record.LOG).read_text()


def files_of(rounds: Rounds, number: int) -> Path:  # noqa: F811
    return rounds.directory(f"a/attempts/{number}/files")


def left(rounds: Rounds, number: int) -> float:  # noqa: F811
    """ROUNDHOUSE_TIME_LEFT of an attempt."""
    return float((files_of(rounds, number) / "left").read_text())


def used(rounds: Rounds, number: int) -> float:  # noqa: F811
    progress = rounds.record("a").attempts[number - 1].progress
    assert progress is not None
    return progress.time_used


def shell_of_the_job(rounds: Rounds) -> psutil.Process:  # noqa: F811
    return next(
        one for one in rounds.jobs() if one.name() == "bash" and one.ppid() not in {p.pid for p in rounds.jobs()}
    )


# ---------------------------------------------------------------------------------------- within one job


def test_a_program_that_handles_the_interrupt_completes(rounds: Rounds) -> None:  # noqa: F811
    write(rounds, [*PYTHON, TRAINS, "{directory}"], 3)
    assert rounds.call().returncode == DONE
    assert rounds.causes("a") == ["completed"]
    assert "the time limit of 0:00:03 was reached: the command gets SIGINT\nevaluates\n" in log(rounds)
    assert (rounds.directory("a") / "metrics.json").exists()
    assert left(rounds, 1) == 3
    assert 3 <= used(rounds, 1) < 60
    assert "time used 0:00:0" in rounds.call("--why", "a").stdout


def test_a_program_that_ends_before_the_limit_is_not_interrupted(rounds: Rounds) -> None:  # noqa: F811
    write(rounds, ["bash", "-c", "trap 'exit 1' INT; sleep 0.2"], "1:00:00")
    assert rounds.call().returncode == DONE
    assert "SIGINT" not in log(rounds)
    assert used(rounds, 1) < 60


@pytest.mark.parametrize("pipe", ["", ' | tee "$2/printed"'])
def test_in_a_bash_script_the_program_is_interrupted_and_the_script_continues(rounds: Rounds, pipe: str) -> None:  # noqa: F811
    script = f'set -o pipefail; "$0" -SE -c "$1" "$2"{pipe} && echo the script continues'
    write(rounds, ["bash", "-c", script, sys.executable, TRAINS, "{directory}"], 3)
    assert rounds.call().returncode == DONE
    assert "evaluates\nthe script continues\n" in log(rounds)


def test_a_script_of_several_programs_ends_by_its_own_trap(rounds: Rounds) -> None:  # noqa: F811
    write(rounds, ["bash", "-c", "trap 'echo trapped; exit 0' INT; while :; do sleep 0.1; done"], 2)
    assert rounds.call().returncode == DONE
    assert "trapped\n" in log(rounds)


def test_helpers_of_a_program_are_not_interrupted(rounds: Rounds) -> None:  # noqa: F811
    program = """\
        import multiprocessing, os, signal, sys, time
        def helps(path):
            signal.signal(signal.SIGINT, lambda *_: open(path, "w").close())
            time.sleep(600)
        helper = multiprocessing.get_context("fork").Process(target=helps, args=(sys.argv[1],), daemon=True)
        helper.start()
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            time.sleep(0.5)
            print("the helper was interrupted:", os.path.exists(sys.argv[1]), flush=True)
    """
    write(rounds, [sys.executable, "-c", textwrap.dedent(program), "{directory}/interrupted"], 3)
    assert rounds.call().returncode == DONE
    assert "the helper was interrupted: False\n" in log(rounds)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ([*PYTHON, "import time; time.sleep(600)"], 130),
        (["bash", "-c", "trap 'exit 75' INT; while :; do sleep 0.1; done"], 75),
        (["bash", "-c", "trap 'exit 3' INT; while :; do sleep 0.1; done"], 3),
    ],
)
def test_a_program_that_does_not_end_cleanly_fails_and_the_reason_says_what_to_do(
    rounds: Rounds,  # noqa: F811
    command: list[str],
    code: int,
) -> None:
    write(rounds, command, 1)
    assert rounds.call().returncode == FAILED
    assert rounds.causes("a") == ["error", "error"], "the second attempt may end cleanly"
    reason = rounds.status()["a"]["reason"]
    assert f"the time limit of 0:00:01 was reached, and the command ended with exit code {code}: it must" in reason
    assert reason.endswith("write its results, and exit with 0")


def test_a_program_that_diverged_at_the_limit_has_diverged(rounds: Rounds) -> None:  # noqa: F811
    write(rounds, ["bash", "-c", "trap 'exit 79' INT; while :; do sleep 0.1; done"], 1)
    assert rounds.call().returncode == DONE
    assert rounds.causes("a") == ["diverged"]


def test_a_program_that_ignores_the_interrupt_gets_sigterm(rounds: Rounds) -> None:  # noqa: F811
    rounds.extra["ROUNDHOUSE_GRACE"] = "0.5"
    ignores = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    write(rounds, [*PYTHON, ignores], 2)
    assert rounds.call().returncode == FAILED
    assert "it did not end: the command gets SIGTERM\n" in log(rounds)
    assert "the command ended with exit code 143" in rounds.status()["a"]["reason"]


def test_a_program_that_ignores_every_signal_is_killed(rounds: Rounds, tmp_path: Path) -> None:  # noqa: F811
    directory = open_attempt(tmp_path, Experiment("r", "g", "a", None, {}, command=("true",), time_limit=1))
    claimed = claimed_attempt(directory)
    ignores = "trap : INT TERM; touch $0; while :; do sleep 0.1; done"
    claimed.child = subprocess.Popen(["bash", "-c", ignores, str(tmp_path / "going")])
    wait_for((tmp_path / "going").exists, "it ignores signals")
    limit = TimeLimit(claimed, 1, grace=0.3, after_sigterm=0.3)
    with limit.watch():
        assert claimed.child.wait(PATIENCE) == -signal.SIGKILL
    assert limit.reached


def test_a_wrong_grace_is_an_error(rounds: Rounds) -> None:  # noqa: F811
    rounds.extra["ROUNDHOUSE_GRACE"] = "5 min"
    write(rounds, ["true"], 1)
    assert rounds.call().returncode == FAILED
    assert "ROUNDHOUSE_GRACE must be a number of seconds (got '5 min')" in rounds.status()["a"]["reason"]


# ---------------------------------------------------------------------------------------- over several jobs


def test_the_walltime_in_the_middle_continues_with_the_time_that_is_left(rounds: Rounds) -> None:  # noqa: F811
    """USR2 is what Slurm sends before the end of the walltime."""
    write(rounds, [*PYTHON, TRAINS, "{directory}"], 8)
    process = rounds.start()
    wait_for(lambda: (files_of(rounds, 1) / "left").exists(), "it trains")
    wait_for(lambda: used(rounds, 1) > 2, "it has used some time")
    shell_of_the_job(rounds).send_signal(signal.SIGUSR2)
    code, out = finish(process)
    assert code == DONE, out
    assert rounds.causes("a") == ["walltime", "completed"]
    assert 0 < left(rounds, 2) <= 6
    assert abs(left(rounds, 2) - (8 - used(rounds, 1))) <= 1
    assert "time limit 0:00:08, of which 0:00:0" in log(rounds, 2)
    assert int((files_of(rounds, 2) / "state.txt").read_text()) > int((files_of(rounds, 1) / "state.txt").read_text())


def test_a_killed_job_has_saved_the_time_that_it_used(rounds: Rounds) -> None:  # noqa: F811
    write(rounds, [*PYTHON, TRAINS, "{directory}"], 8)
    process = rounds.start()
    wait_for(lambda: (files_of(rounds, 1) / "left").exists(), "it trains")
    wait_for(lambda: used(rounds, 1) > 2, "it has used some time")
    for one in rounds.jobs():
        one.kill()
    code, out = finish(process)
    assert code == DONE, out
    assert rounds.causes("a")[-1] == "completed"
    assert left(rounds, 2) <= 6


@pytest.mark.parametrize(("code", "causes"), [(0, ["completed"]), (75, ["preempted", "completed"])])
def test_a_stop_after_the_limit_continues_unless_the_command_completes(
    rounds: Rounds,  # noqa: F811
    code: int,
    causes: list[str],
) -> None:
    """At SIGINT the first attempt takes 2 s to end; the scheduler stops the job meanwhile."""
    ends = f"echo interrupted; sleep 2; exit $(( ROUNDHOUSE_ATTEMPT == 1 ? {code} : 0 ))"
    write(rounds, ["bash", "-c", f"trap '{ends}' INT; trap : TERM; while :; do sleep 0.1; done"], 2)
    process = rounds.start()
    wait_for(lambda: rounds.directory("a/attempts/1/out.log").exists() and "interrupted\n" in log(rounds), "SIGINT")
    shell_of_the_job(rounds).send_signal(signal.SIGTERM)
    assert finish(process)[0] == DONE
    assert rounds.causes("a") == causes


def test_a_stop_before_the_limit_does_not_complete(rounds: Rounds) -> None:  # noqa: F811
    script = "trap 'sleep 3; exit 0' TERM; trap 'exit 0' INT; touch $0/going; while :; do sleep 0.1; done"
    write(rounds, ["bash", "-c", script, "{directory}"], 3)
    process = rounds.start()
    wait_for((files_of(rounds, 1) / "going").exists, "it runs")
    shell_of_the_job(rounds).send_signal(signal.SIGTERM)
    assert finish(process)[0] == DONE
    assert rounds.causes("a") == ["preempted", "completed"]
    assert "SIGINT" not in log(rounds), "it was ending already"


def test_without_copied_files_each_attempt_has_the_whole_time(rounds: Rounds) -> None:  # noqa: F811
    script = f'{NOTES_LEFT}; sleep 0.5; [ "$ROUNDHOUSE_ATTEMPT" = 2 ]'
    write(rounds, ["bash", "-c", script, "{directory}"], 600, carry=False)
    assert rounds.call().returncode == DONE
    assert (left(rounds, 1), left(rounds, 2)) == (600, 600)


def test_an_attempt_without_time_left_may_still_start_and_end_cleanly(rounds: Rounds) -> None:  # noqa: F811
    """The first attempt used all of it, and died while it wrote its results."""
    script = f'trap "exit $((2 - ROUNDHOUSE_ATTEMPT))" INT; {NOTES_LEFT}; while :; do sleep 0.1; done'
    write(rounds, ["bash", "-c", script, "{directory}"], 5)
    assert rounds.call().returncode == DONE
    assert rounds.causes("a") == ["error", "completed"]
    assert left(rounds, 2) == 0
    assert used(rounds, 2) - used(rounds, 1) >= 0.4, "a tenth of the limit"


def test_the_command_cannot_change_the_time_that_it_has_used(rounds: Rounds) -> None:  # noqa: F811
    report = """echo '{"step": 3, "time_used": 0.0}' > "$0/progress.json\""""
    script = f"ends() {{ {report}; exit 0; }}; trap ends INT; while :; do sleep 0.1; done"
    write(rounds, ["bash", "-c", script, "{directory}"], 3)
    assert rounds.call().returncode == DONE
    assert used(rounds, 1) >= 3
    assert rounds.status()["a"]["step"] == 3


# ---------------------------------------------------------------------------------------- the round file


def test_a_larger_limit_continues_with_retry_and_keep_files(rounds: Rounds) -> None:  # noqa: F811
    script = f'{NOTES_LEFT}; sleep 2; [ -e "{rounds.notes}/fixed" ]'
    write(rounds, ["bash", "-c", script, "{directory}"], 600)
    assert rounds.call().returncode == FAILED
    write(rounds, ["bash", "-c", script, "{directory}"], "1:00:00")
    assert rounds.states() == {"a": "blocked"}
    assert "time_limit was 0:10:00, is now 1:00:00" in rounds.status()["a"]["reason"]
    (rounds.notes / "fixed").touch()
    assert rounds.call("--retry", "--keep-files").returncode == DONE
    assert 3600 - 60 < left(rounds, 4) <= 3600 - 4, "two attempts of 2 s count"


def test_an_experiment_without_a_limit_keeps_its_hash() -> None:
    plain = Experiment("r", "g", "a", None, {"lr": 0.1}, command=("true",))
    limited = Experiment("r", "g", "a", None, {"lr": 0.1}, command=("true",), time_limit=10800)
    assert list(plain.identity()) == ["study", "command", "config", "after"]
    assert plain.config_hash() != limited.config_hash()
    assert changes(plain.identity(), limited.identity()) == "time_limit was not set, is now 3:00:00"
    assert changes(limited.identity(), plain.identity()) == "time_limit was 3:00:00, is now not set"


def test_a_study_has_the_limit_in_its_config(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        'round: r\nstudy: s\nexperiments:\n  g:\n    path: a\n    time_limit: "3:00:00"\n', encoding="utf-8"
    )
    with pytest.raises(RoundhouseError, match=r"r\.yaml:6: group 'g' has time_limit, but no command") as caught:
        load_round("r", tmp_path)
    assert "config: {time_limit: 10800}" in str(caught.value)


def test_the_programs_of_a_process_that_has_ended_are_none() -> None:
    child = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(child, 0)
    assert programs_of(child, signal.SIGINT) == [child]
