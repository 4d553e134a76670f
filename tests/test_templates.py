"""The job script, run by a real bash: which job may start, what is recorded, and what reaches the shell."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY, Bench, fake_command, fill, small_disk, snapshot, wait_for

from roundhouse.config.site import Site
from roundhouse.engine import job_script
from roundhouse.engine.context import PassContext
from roundhouse.errors import RoundhouseError
from roundhouse.machine.pool import KILL_TRAINING
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Pack, Resources
from roundhouse.store import history, job_group, record

KINDS = sorted(
    path.name.removesuffix(".sh.j2")
    for path in (REPOSITORY / "templates").glob("*.sh.j2")
    if path.name.removesuffix(".sh.j2") in job_script.JOB_ID_VARIABLES
)
NASTY = 'it\'s "a" $(touch {0}) `touch {0}` ${{HOME}} ; touch {0} & \\ * ~ ä'


# What train.py says once it has got going; see Bench.running.
GOING = 'touch "$1/attempts/$ROUNDHOUSE_ATTEMPT/going"\n'


# ------------------------------------------------------------------------------------------------------ who may start


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("ids", ["of their own", "none"])
def test_of_twenty_shells_at_once_one_claims_and_the_others_leave_no_trace(bench: Bench, links: bool, ids: str) -> None:
    bench.train('echo run >> "$1/runs"; sleep 0.3')
    bench.open()
    if not links:
        bench.extra["PATH"] = fake_command(bench.folder, "ln", "exit 1")
    script = bench.script()
    shells = [bench.start(script, str(number) if ids == "of their own" else None) for number in range(20)]
    outputs = [shell.communicate(timeout=60)[0] for shell in shells]
    assert [shell.returncode for shell in shells] == [0] * 20
    assert (bench.directory / "runs").read_text() == "run\n"
    assert sorted(os.listdir(bench.place())) == ["claim.json", "job.json", "out.log", "result.json"]
    assert os.listdir(bench.place().parent) == ["1"]
    assert "".join(outputs) == ""
    assert bench.result().cause is Cause.COMPLETED
    claim = json.loads((bench.place() / record.CLAIM).read_text())
    assert claim["pid"] in [shell.pid for shell in shells]
    assert bench.log().count("roundhouse: attempt 1 of") == 1


def test_a_claim_says_what_runs_and_where(bench: Bench) -> None:
    bench.train(GOING + "while [ ! -e go ]; do sleep 0.05; done")
    bench.open()
    shell = bench.start(job_id="12[3].server")
    wait_for(bench.running(), "train.py runs")
    claim = json.loads((bench.place() / record.CLAIM).read_text())
    stat = Path(f"/proc/{shell.pid}/stat").read_text()
    (bench.repository / "go").touch()
    shell.communicate(timeout=60)
    assert (claim["job_id"], claim["pid"]) == ("12[3].server", shell.pid)
    assert claim["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert claim["pid_start"] == stat.rpartition(") ")[2].split()[19]
    assert abs(claim["at"] - time.time()) < 3600


def test_a_job_whose_attempt_is_void_exits_without_a_trace(bench: Bench) -> None:
    bench.open()
    record.void(bench.directory, 1, Cause.UNCLAIMED, "no job was seen")
    before = snapshot(bench.folder / "experiments")
    assert bench.run() == (0, "")
    assert snapshot(bench.folder / "experiments") == before


@pytest.mark.parametrize("missing", ["experiments", "experiments/r/e/0", "experiments/r/e/0/attempts/1"])
def test_a_job_that_finds_no_directory_makes_none(bench: Bench, missing: str) -> None:
    bench.open()
    shutil.rmtree(bench.folder / missing)
    assert bench.run() == (0, "")
    assert not (bench.folder / missing).exists()


def test_a_job_on_a_full_disk_claims_nothing_and_leaves_no_files(bench: Bench) -> None:
    disk = bench.folder / "experiments"
    with small_disk(disk, "64k"):
        bench.open()
        ballast = fill(disk)
        before = snapshot(disk)
        assert bench.run()[0] == 0
        assert snapshot(disk) == before
        ballast.unlink()
        assert bench.run()[0] == 0, "once there is room, the claim is free"
        assert bench.result().cause is Cause.COMPLETED


@pytest.mark.parametrize("command", ["sync", "cat"])
def test_a_claim_that_was_not_written_completely_is_not_made(bench: Bench, command: str) -> None:
    """A network file system may report only at fsync that there was no room."""
    bench.open()
    bench.extra["PATH"] = fake_command(bench.folder, command, "head -c 20; echo no space left >&2; exit 1")
    before = snapshot(bench.directory)
    assert bench.run()[0] == 0
    assert snapshot(bench.directory) == before


# ----------------------------------------------------------------------------------------------------------- restarts


def claim_as(bench: Bench, job_id: str, number: int = 1) -> None:
    """The claim of an incarnation that died without a result."""
    claim = {"version": 1, "nonce": f"first-{number}", "job_id": job_id, "host": "node"}
    (bench.place(number) / record.CLAIM).write_text(json.dumps(claim) + "\n")


def test_a_job_that_the_scheduler_restarts_continues_in_the_next_attempt(bench: Bench) -> None:
    bench.train('echo "I am in $ROUNDHOUSE_ATTEMPT"')
    bench.open()
    record.record_job_id(bench.directory, 1, "7")
    claim_as(bench, "7")
    assert bench.run() == (0, "")
    first, second = bench.attempt(1), bench.attempt(2)
    assert first.cause is Cause.PREEMPTED
    assert second.cause is Cause.COMPLETED
    assert (second.opened.token, second.job_id, second.opened.job_id) == (bench.token, "7", "7")
    assert second.opened.config_hash == first.opened.config_hash
    assert second.opened.scheduler == first.opened.scheduler
    assert "I am in 2" in bench.log(2)
    assert not (bench.place(1) / record.LOG).exists()
    job = [json.loads((bench.place(number) / record.JOB).read_text()) for number in (1, 2)]
    assert job[0].pop("nonce") != job[1].pop("nonce")
    assert job[0] == job[1]


def test_a_job_may_be_started_again_many_times(bench: Bench) -> None:
    bench.train(GOING + "exec sleep 600")
    bench.open()
    script = bench.script()
    for number in range(1, 5):
        shell = bench.start(script)
        wait_for((bench.place(number) / "going").exists, f"incarnation {number} runs")
        shell.kill()
        shell.communicate(timeout=60)
    assert [attempt.cause for attempt in record.read(bench.directory).attempts] == [Cause.PREEMPTED] * 3 + [None]
    bench.train("echo at last")
    bench.run(script)
    causes = [attempt.cause for attempt in record.read(bench.directory).attempts]
    assert causes == [Cause.PREEMPTED] * 4 + [Cause.COMPLETED]
    assert {attempt.opened.token for attempt in record.read(bench.directory).attempts} == {bench.token}


def test_of_many_restarts_of_one_job_at_once_each_attempt_has_one_holder(bench: Bench) -> None:
    bench.train('echo "$ROUNDHOUSE_NONCE" >> "$1/attempts/$ROUNDHOUSE_ATTEMPT/runs"; sleep 0.3')
    bench.open()
    claim_as(bench, "7")
    script = bench.script()
    shells = [bench.start(script) for _ in range(12)]
    for shell in shells:
        shell.communicate(timeout=60)
    rec = record.read(bench.directory)
    assert sum(not attempt.closed for attempt in rec.attempts) == 0
    for attempt in rec.attempts[1:]:
        assert attempt.claim is not None
        runs = bench.place(attempt.number) / "runs"
        assert not runs.exists() or runs.read_text().split() == [attempt.claim.nonce]


def closed(bench: Bench) -> None:
    record.close(bench.directory, 1, Cause.UNKNOWN, "left no result")


def overtaken(bench: Bench) -> None:
    closed(bench)
    bench.open(number=2, token="rhzzzzzzzzzzzzz")


def voided(bench: Bench) -> None:
    closed(bench)
    bench.open(number=2)
    record.void(bench.directory, 2, Cause.CANCELLED, "by the user")


def completed(bench: Bench) -> None:
    record.close(bench.directory, 1, Cause.COMPLETED, "")


def compacted(bench: Bench) -> None:
    completed(bench)
    history.compact(record.read(bench.directory))


@pytest.mark.parametrize("event", [closed, overtaken, voided, completed, compacted])
def test_a_job_started_again_after_its_attempt_was_over_exits_without_a_trace(
    bench: Bench, event: Callable[[Bench], None]
) -> None:
    bench.open()
    claim_as(bench, "7")
    event(bench)
    before = snapshot(bench.directory)
    assert bench.run() == (0, "")
    assert snapshot(bench.directory) == before


def test_a_script_started_twice_by_hand_is_no_restart(bench: Bench) -> None:
    """Without a scheduler there is no job ID: two shells without one have nothing in common."""
    bench.train(GOING + "while [ ! -e go ]; do sleep 0.05; done")
    bench.open()
    script = bench.script()
    first = bench.start(script, job_id=None)
    wait_for(bench.running(), "train.py runs")
    assert bench.run(script, job_id=None) == (0, "")
    (bench.repository / "go").touch()
    first.communicate(timeout=60)
    assert [attempt.cause for attempt in record.read(bench.directory).attempts] == [Cause.COMPLETED]


# ------------------------------------------------------------------------------------------------------- how it ended


@pytest.mark.parametrize(
    ("code", "cause", "final"),
    [
        (0, Cause.COMPLETED, False),
        (1, Cause.ERROR, False),
        (2, Cause.ERROR, False),
        (71, Cause.MEMORY, False),
        (72, Cause.INPUT, False),
        (73, Cause.MEMORY, False),
        (75, Cause.PREEMPTED, False),
        (76, Cause.WALLTIME, False),
        (77, Cause.ERROR, True),
        (79, Cause.DIVERGED, True),
        (137, Cause.UNKNOWN, False),
        (139, Cause.ERROR, False),
        (143, Cause.ERROR, False),
    ],
)
def test_the_exit_code_gives_the_cause(bench: Bench, code: int, cause: Cause, final: bool) -> None:
    bench.train(f"exit {code}")
    bench.open()
    assert bench.run() == (code, "")
    result = bench.result()
    assert (result.cause, result.exit_code, result.final, result.signals) == (cause, code, final, ())
    assert f"roundhouse: attempt 1 ended: {cause}" in bench.log()
    if code == 75:
        assert result.why == "exit code 75: the run requested another attempt"
    elif cause is Cause.ERROR and not final:
        assert result.why == f"exit code {code}{' (SIGSEGV)' * (code == 139)}"


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group with 64 MiB of memory."""
    version_1, version_2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    limit = "memory.limit_in_bytes" if version_1.is_dir() else "memory.max"
    group = (version_1 if version_1.is_dir() else version_2) / f"roundhouse-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error.strerror}")
    try:
        (group / limit).write_text(str(64 << 20))
        yield group
    except OSError as error:
        pytest.skip(f"no control group with a limit can be made: {error}")
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


def test_a_job_that_the_kernel_killed_for_memory_records_it(bench: Bench, small_group: Path) -> None:
    bench.train(f"exec {sys.executable} -SEc 'held = bytearray(1 << 29)'")
    bench.open()
    shell = bench.start(preexec_fn=lambda: (small_group / "cgroup.procs").write_text(str(os.getpid())))
    assert shell.communicate(timeout=60)[0] == ""
    assert shell.returncode == 137
    assert (bench.result().cause, bench.result().why) == (Cause.MEMORY, "killed (signal 9), since memory ran out")


def test_a_job_whose_claim_is_not_its_own_writes_no_result(bench: Bench) -> None:
    bench.train("exit 70")
    bench.open()
    assert bench.run() == (0, "")
    assert bench.attempt().result is None


@pytest.mark.parametrize(
    ("name", "walltime", "code", "cancel", "cause"),
    [
        ("TERM", 3600, 75, False, Cause.PREEMPTED),
        ("INT", 3600, 75, False, Cause.PREEMPTED),
        ("HUP", 3600, 75, False, Cause.PREEMPTED),
        ("USR2", 3600, 75, False, Cause.WALLTIME),
        ("TERM", 3600, 76, False, Cause.WALLTIME),
        ("TERM", 60, 75, False, Cause.WALLTIME),
        ("INT", 60, 75, False, Cause.PREEMPTED),
        ("TERM", 3600, 143, False, Cause.PREEMPTED),
        ("TERM", 3600, 75, True, Cause.CANCELLED),
        ("TERM", 3600, 0, False, Cause.COMPLETED),
        ("TERM", 3600, 1, False, Cause.ERROR),
    ],
)
def test_a_signal_to_the_shell_reaches_python_and_gives_the_cause(
    bench: Bench, name: str, walltime: int, code: int, cancel: bool, cause: Cause
) -> None:
    bench.resources = Resources(walltime_s=walltime)
    bench.train(f"trap 'exit {code}' TERM\n{GOING}while :; do sleep 0.05; done")
    bench.open()
    shell = bench.start()
    wait_for(bench.running(), "train.py runs")
    if cancel:
        record.request_cancel(bench.directory, 1)
    shell.send_signal(getattr(signal, f"SIG{name}"))
    shell.communicate(timeout=60)
    result = bench.result()
    assert (result.cause, result.exit_code, result.signals) == (cause, code, (name,))


@pytest.mark.parametrize(
    ("signals", "walltime", "code", "cause", "guess"),
    [
        ("TERM", 3600, 75, Cause.PREEMPTED, True),  # PBS kills for memory so: first SIGTERM, then SIGKILL
        ("TERM", 3600, 143, Cause.PREEMPTED, True),
        ("TERM", 3600, 1, Cause.ERROR, True),
        ("TERM", 60, 75, Cause.WALLTIME, True),  # by the clock alone
        ("", 3600, 137, Cause.UNKNOWN, True),
        ("TERM", 3600, 137, Cause.PREEMPTED, True),
        ("USR2", 3600, 75, Cause.WALLTIME, False),  # the header requests this signal
        ("INT", 3600, 75, Cause.PREEMPTED, False),
        ("TERM", 3600, 71, Cause.MEMORY, False),
        ("TERM", 3600, 76, Cause.WALLTIME, False),  # Python stopped at its own deadline
        ("TERM", 3600, 77, Cause.ERROR, False),
        ("TERM", 3600, 0, Cause.COMPLETED, False),
        ("", 3600, 75, Cause.PREEMPTED, False),
        ("", 3600, 76, Cause.WALLTIME, False),
        ("", 3600, 1, Cause.ERROR, False),
    ],
)
def test_a_result_says_whether_its_cause_is_a_guess(
    bench: Bench, signals: str, walltime: int, code: int, cause: Cause, guess: bool
) -> None:
    bench.kind, bench.resources = "pbs", Resources(walltime_s=walltime)
    bench.train(f"trap 'exit {code}' TERM\n{GOING}" + ("while :; do sleep 0.05; done" if signals else f"exit {code}"))
    bench.open()
    shell = bench.start()
    if signals:
        wait_for(bench.running(), "train.py runs")
        shell.send_signal(getattr(signal, f"SIG{signals}"))
    shell.communicate(timeout=60)
    assert (bench.result().cause, bench.result().guess) == (cause, guess)


def test_on_the_local_machine_no_cause_is_a_guess(bench: Bench) -> None:
    bench.train(f"trap 'exit 75' TERM\n{GOING}while :; do sleep 0.05; done")
    bench.open()
    shell = bench.start()
    wait_for(bench.running(), "train.py runs")
    shell.terminate()
    shell.communicate(timeout=60)
    assert (bench.result().cause, bench.result().guess) == (Cause.PREEMPTED, False)


def test_python_has_time_to_save_after_a_signal_and_several_signals_are_recorded(bench: Bench) -> None:
    bench.train(f'trap "touch signalled" TERM\n{GOING}while [ ! -e go ]; do sleep 0.05; done; exit 75')
    bench.open()
    shell = bench.start()
    wait_for(bench.running(), "train.py runs")
    for name, number in (("INT", signal.SIGINT), ("TERM", signal.SIGTERM), ("HUP", signal.SIGHUP)):
        shell.send_signal(number)
        wait_for((bench.repository / "signalled").exists, f"{name} was passed on")
        (bench.repository / "signalled").unlink()
    assert shell.poll() is None
    assert bench.attempt().result is None
    (bench.repository / "go").touch()
    shell.communicate(timeout=60)
    assert (bench.result().cause, bench.result().exit_code) == (Cause.PREEMPTED, 75)
    assert bench.result().signals == ("INT", "TERM", "HUP")


def test_a_signal_that_comes_twice_is_recorded_once(bench: Bench) -> None:
    bench.train(f"trap 'echo signalled >> signalled' TERM\n{GOING}while [ ! -e go ]; do sleep 0.05; done; exit 75")
    bench.open()
    shell = bench.start()
    wait_for(bench.running(), "train.py runs")
    signalled = bench.repository / "signalled"
    for times in (1, 2):
        shell.send_signal(signal.SIGTERM)
        wait_for(
            lambda times=times: signalled.exists() and len(signalled.read_text().splitlines()) == times,
            "it is passed on",
        )
    (bench.repository / "go").touch()
    shell.communicate(timeout=60)
    assert bench.result().signals == ("TERM",)


@pytest.mark.parametrize(
    ("program", "code"),
    [("trap '' TERM", 137), ("trap 'exit 75' TERM; (trap '' TERM; while :; do sleep 0.05; done) &", 75)],
)
@pytest.mark.parametrize("walltime", [3600, 60])
def test_what_does_not_stop_in_time_is_killed_by_its_shell_which_writes_the_result(
    bench: Bench, program: str, code: int, walltime: int
) -> None:
    """Also what Python has left behind, while the shell waits for it at its own end."""
    bench.resources = Resources(walltime_s=walltime)
    bench.train(f"{program}\n{GOING}while :; do sleep 0.05; done")
    bench.open()
    shell = bench.start()
    wait_for(bench.running(), "train.py runs")
    group = bench.python_of(shell).pid
    shell.send_signal(signal.SIGTERM)
    if code == 75:
        wait_for(lambda: not psutil.pid_exists(group), "Python has ended")

    def ended() -> bool:
        shell.send_signal(KILL_TRAINING)  # bash may miss one that follows another closely
        return shell.poll() is not None

    wait_for(ended, "the shell has ended")
    cause = Cause.PREEMPTED if walltime == 3600 else Cause.WALLTIME
    assert (bench.result().cause, bench.result().exit_code, bench.result().signals) == (cause, code, ("TERM",))
    assert [one for one in bench.processes() if os.getpgid(one.pid) == group] == []


def test_a_python_that_ends_as_its_shell_hears_a_signal_is_stopped_and_no_error(tmp_path: Path) -> None:
    """Bash 5.2 then forgets how its child has ended: in an eighth of all cases, or more."""

    def cause_of(number: int) -> Cause | None:
        (tmp_path / str(number)).mkdir()
        bench = Bench(folder=tmp_path / str(number))
        bench.train(GOING + "exec sleep 600")
        bench.open()
        shell = bench.start()
        wait_for(bench.running(), "train.py runs")
        python = bench.python_of(shell)
        for process in (python, shell) if number % 2 else (shell, python):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        shell.communicate(timeout=60)
        bench.kill()
        return bench.result().cause

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(cause_of, range(32))) == {Cause.PREEMPTED}


def test_a_job_whose_python_was_killed_still_writes_a_result(bench: Bench) -> None:
    bench.train(GOING + "exec sleep 600")
    bench.open()
    shell = bench.start()
    wait_for(bench.running(), "train.py runs")
    bench.python_of(shell).kill()
    shell.communicate(timeout=60)
    assert (bench.result().cause, bench.result().exit_code) == (Cause.UNKNOWN, 137)


def test_a_stopped_python_is_waited_for(bench: Bench) -> None:
    bench.train(GOING + "while [ ! -e go ]; do sleep 0.05; done")
    bench.open()
    shell = bench.start()
    wait_for(bench.running(), "train.py runs")
    python = bench.python_of(shell)
    for _ in range(3):
        python.suspend()
        wait_for(lambda: python.status() == psutil.STATUS_STOPPED, "it is stopped")
        assert shell.poll() is None
        assert bench.attempt().result is None
        python.resume()
        wait_for(lambda: python.status() != psutil.STATUS_STOPPED, "it continues")
    (bench.repository / "go").touch()
    shell.communicate(timeout=60)
    assert bench.result().cause is Cause.COMPLETED


def test_a_shell_whose_python_is_stopped_does_not_spin(bench: Bench) -> None:
    bench.train(GOING + "while [ ! -e go ]; do sleep 0.05; done")
    bench.open()
    shell = bench.start()
    wait_for(bench.running(), "train.py runs")
    python = bench.python_of(shell)
    python.suspend()
    wait_for(lambda: python.status() == psutil.STATUS_STOPPED, "it is stopped")
    itself = psutil.Process(shell.pid)
    before, until = sum(itself.cpu_times()[:4]), time.monotonic() + 1
    wait_for(lambda: time.monotonic() > until, "a second")
    assert sum(itself.cpu_times()[:4]) - before < 0.3
    python.resume()
    (bench.repository / "go").touch()
    shell.communicate(timeout=60)
    assert bench.result().cause is Cause.COMPLETED


def test_processes_that_python_left_running_are_ended_before_the_result_is_written(bench: Bench) -> None:
    bench.train(f"/bin/sleep 600 &\necho $! > left\n{GOING}exit 0")
    bench.open()
    bench.extra["PATH"] = fake_command(bench.folder, "sleep", "exec /bin/sleep 0.05")
    shell = bench.start()
    wait_for(bench.running(), "train.py runs")
    left = psutil.Process(int((bench.repository / "left").read_text()))
    wait_for((bench.place() / record.RESULT).exists, "the result")
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
    shell.communicate(timeout=60)
    assert bench.result().cause is Cause.COMPLETED


def test_the_dead_that_no_init_collects_are_not_waited_for(bench: Bench) -> None:
    """As in a container whose first process is no init: orphans that have ended stay listed permanently."""
    bench.train("sleep 0.1 &\nexit 0")
    bench.open()
    adopts = (
        "import ctypes, subprocess as s, sys; ctypes.CDLL(None).prctl(36, 1); sys.exit(s.Popen(sys.argv[1:]).wait())"
    )
    env = {**bench.env, "ROUNDHOUSE_JOB_ID": "7"}
    done = subprocess.run([sys.executable, "-c", adopts, "bash", bench.script()], check=False, env=env, timeout=30)
    assert done.returncode == 0
    assert bench.result().cause is Cause.COMPLETED


def test_setup_lines_that_make_failures_fatal_do_not_cut_short_what_python_saves(bench: Bench) -> None:
    bench.site = Site(setup=["set -euo pipefail"])
    bench.train(f"trap 'sleep 0.3; exit 75' TERM\n{GOING}while :; do sleep 0.05; done")
    bench.open()
    shell = bench.start()
    wait_for(bench.running(), "train.py runs")
    shell.terminate()
    shell.communicate(timeout=60)
    assert (bench.result().cause, bench.result().exit_code) == (Cause.PREEMPTED, 75)


def test_the_death_of_the_shell_is_the_death_of_python_and_its_command(bench: Bench) -> None:
    bench.use_the_real_train("sh", "-c", 'touch "$ROUNDHOUSE_DIRECTORY/going"; exec sleep 600')
    shell = bench.start()
    wait_for(bench.running(), "the command runs")
    shell.kill()
    shell.communicate(timeout=60)
    wait_for(lambda: not bench.processes(), "nothing is left of the job")
    assert bench.attempt().result is None
    assert not bench.attempt().closed


# ----------------------------------------------------------------------------------------------- before Python starts


@pytest.mark.parametrize(
    ("site", "why"),
    [
        (Site(setup=["exit 0"]), "setup line 1 ended the job script: exit 0"),
        (Site(setup=["true", "exit 3"]), "setup line 2 failed with exit code 3: exit 3"),
        (Site(setup=["exit 70"]), "setup line 1 failed with exit code 70: exit 70"),  # not JobExitCode.NOT_MINE
        (Site(setup=["exit 75"]), "setup line 1 failed with exit code 75: exit 75"),  # nor STOPPED
        (Site(setup=["return"]), "setup line 1 failed with exit code 2: return"),
        (Site(setup=["source /no/bin/activate"]), "setup line 1 failed with exit code 1: source /no/bin/activate"),
        (Site(setup=["conda activate x"]), "setup line 1 failed with exit code 127: conda activate x"),
        (Site(setup=["set -e", "true", "false"]), "setup line 3 failed with exit code 1: false"),
        (Site(setup=["set -u", "echo $NOT_SET"]), "setup line 2 failed with exit code 1: echo $NOT_SET"),
        (Site(setup=["f() {", "return 5", "}", "f"]), "setup line 4 failed with exit code 5: f"),
        (Site(setup=["if true", "then false", "fi"]), "setup line 1 failed with exit code 1: if true ..."),
        (Site(setup=["for x in 1; do\n  false\ndone"]), "setup line 1 failed with exit code 1: for x in 1; do ..."),
        (Site(setup=["trap 'exit 0' EXIT TERM", "false"]), "setup line 2 failed with exit code 1: false"),
        (Site(setup=["set -f; IFS=1; set -euo pipefail", "false"]), "setup line 2 failed with exit code 1: false"),
        (Site(setup=["[ -f /no ] && . /no"]), "setup line 1 failed with exit code 1: [ -f /no ] && . /no"),
        (Site(setup=["if true; then"]), "setup line 1 failed with exit code 2: if true; then"),
        (Site(modules=["cuda/12"]), "module load cuda/12 failed with exit code 1"),
    ],
)
def test_a_job_that_fails_before_python_starts_is_an_error(bench: Bench, site: Site, why: str) -> None:
    bench.site = site
    bench.open()
    bench.extra["PATH"] = fake_command(bench.folder, "module", "echo no such module >&2; exit 1")
    assert bench.run()[0] == 1
    assert (bench.result().cause, bench.result().why, bench.result().exit_code) == (Cause.ERROR, why, 1)
    assert "trained" not in bench.log()


@pytest.mark.parametrize(
    "line",
    [r"""false # "%s %d" \ \n \\" ' $HOME `x` $(y)""", "false # tab\tbell\a escape\x1b[31m", "false # größe ü € 日本"],
)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_failing_line_with_any_characters_leaves_a_valid_result(bench: Bench, line: str, locale: str) -> None:
    bench.site = Site(setup=[line])
    bench.extra["LC_ALL"] = locale
    bench.open()
    assert bench.run()[0] == 1
    shown = re.sub(r"[\x00-\x1f\x7f]", " ", line)
    assert bench.result().why == f"setup line 1 failed with exit code 1: {shown}"


@pytest.mark.parametrize(
    "lines",
    [
        ["if [ -d / ]; then", "  export A=1", "else", "  false", "fi", '[ "$A" = 1 ]'],
        ["cat > /dev/null <<END", "false", "END"],
        ["export A=1 \\", "B=2", '[ "$A$B" = 12 ]'],
        ["true &&", "true"],
        ["LIST=(1", "2)", '[ "${LIST[*]}" = "1 2" ]'],
        ["shopt -s extglob", "[[ ab == a!(c) ]]"],
        ["# a comment", "", "true # another"],
        ["[ ! -f /no ] || . /no"],
        ["false || true"],
        ["trap 'echo the end' EXIT TERM", "trap false DEBUG"],
        ["umask 077; set -f; IFS=:"],
    ],
)
def test_setup_lines_that_succeed_are_followed_by_python(bench: Bench, lines: list[str]) -> None:
    """Also commands that extend over several lines of the list, and lines that change how bash works."""
    bench.site = Site(setup=lines)
    bench.open()
    assert bench.run() == (0, "")
    assert bench.result().cause is Cause.COMPLETED
    assert "trained" in bench.log()


def test_a_stop_during_a_setup_line_is_not_an_error(bench: Bench) -> None:
    bench.site = Site(setup=[f"touch {bench.folder}/going; sleep 600"])
    bench.open()
    shell = bench.start()
    wait_for((bench.folder / "going").exists, "the line runs")
    os.killpg(shell.pid, signal.SIGTERM)  # as schedulers do
    shell.communicate(timeout=60)
    assert (bench.result().cause, bench.result().exit_code) == (Cause.PREEMPTED, 143)


@pytest.mark.parametrize("everything", [True, False], ids=["whole job", "shell only"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_an_allocation_that_is_stopped_during_a_setup_line_has_not_failed(
    bench: Bench, number: int, everything: bool
) -> None:
    """Otherwise two that were preempted so would block the round."""
    going = bench.folder / "going"
    bench.site = Site(setup=[f"touch {going}; for n in $(seq 20); do sleep 0.1; done"])
    bench.train("")
    scheduler: Any = SimpleNamespace(kind="local")
    run: Any = None
    place = PassContext(bench.folder / "experiments", bench.repository, bench.site, scheduler, run, "/bin/false")
    shared = job_group.directory_of(bench.folder / "experiments/r", "rhanallocation0")
    shared.mkdir(parents=True)
    script = bench.folder / "allocation.sh"
    script.write_text(place.shared_script("r", "rhanallocation0", Resources(pack=Pack(2)), None))
    shell = bench.start(script)
    wait_for(going.exists, "the line runs")
    (os.killpg if everything else os.kill)(shell.pid, number)
    out, _ = shell.communicate(timeout=60)
    assert (shell.returncode, job_group.read_failure(shared)) == (143, ""), out


def test_threads_are_those_of_the_round_unless_the_site_file_says_otherwise(bench: Bench) -> None:
    """Login nodes set OMP_NUM_THREADS=1, and login files do so in jobs."""
    bench.resources = Resources(ncpus=3)
    bench.extra |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    bench.train('echo "threads $OMP_NUM_THREADS $MKL_NUM_THREADS."')
    bench.open()
    bench.run()
    assert "threads 3 .\n" in bench.log()


@pytest.mark.parametrize("site", [Site(environment={"OMP_NUM_THREADS": "2"}), Site(setup=["export OMP_NUM_THREADS=2"])])
@pytest.mark.parametrize("slot", [{}, {"ROUNDHOUSE_SLOT": "cpu/0"}])
def test_a_site_file_may_set_the_threads(bench: Bench, site: Site, slot: dict[str, str]) -> None:
    bench.site = site
    bench.extra |= {"OMP_NUM_THREADS": "1", **slot}
    bench.train('echo "threads $OMP_NUM_THREADS"')
    bench.open()
    bench.run()
    assert "threads 2\n" in bench.log()


# ------------------------------------------------------------------------ processes that leave Python's process group


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


STRAY = 'setsid sh -c \'echo $$ > "$0"; exec sleep 600\' "$1/stray" &\nwhile [ ! -s "$1/stray" ]; do sleep 0.05; done\n'


def test_a_process_that_left_the_group_is_ended_before_the_result_is_written(bench: Bench) -> None:
    bench.train(STRAY)
    bench.open()
    shell = bench.start()
    stray = bench.directory / "stray"
    wait_for(lambda: stray.exists() and stray.read_text(), "it runs")
    pid = int(stray.read_text())
    while alive(pid):
        assert bench.attempt().result is None
        time.sleep(0.02)
    shell.communicate(timeout=60)
    assert bench.result().cause is Cause.COMPLETED
    assert not bench.processes()


def test_a_process_that_left_the_group_gets_term_when_the_job_is_stopped(bench: Bench) -> None:
    bench.train(
        f"{GOING}trap 'exit 75' TERM\n"
        'setsid sh -c \'trap "touch $0; exit" TERM; while :; do sleep 0.05; done\' "$1/saved" &\n'
        "while :; do sleep 0.05; done"
    )
    bench.open()
    shell = bench.start()
    wait_for(bench.running(), "train.py runs")
    wait_for(lambda: len(bench.processes()) >= 3, "the other process runs")
    time.sleep(0.3)
    shell.terminate()
    shell.communicate(timeout=60)
    assert bench.result().cause is Cause.PREEMPTED
    assert (bench.directory / "saved").exists()
    assert not bench.processes()


def test_an_agent_that_must_end_kills_them_at_once(bench: Bench) -> None:
    bench.train(f'trap "" TERM\n{STRAY}{GOING}while :; do sleep 0.05; done')
    bench.open()
    shell = bench.start()
    wait_for(bench.running(), "train.py runs")
    began = time.monotonic()
    shell.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    shell.send_signal(KILL_TRAINING)
    shell.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert bench.result().why.startswith("killed, since it had not stopped")
    assert not bench.processes()


@pytest.mark.parametrize("other", ["ROUNDHOUSE_NONCE=another", "SLURM_JOB_ID=8", "PBS_JOBID=8.server"])
def test_processes_of_another_attempt_or_job_are_left_alone(bench: Bench, other: str) -> None:
    """As those of a job that the program itself submits to the scheduler, with its whole environment."""
    bench.train(f"export {other}\n{STRAY}")
    bench.open()
    bench.extra |= {"SLURM_JOB_ID": "7", "PBS_JOBID": "7.server"}
    assert bench.run()[0] == 0
    assert alive(int((bench.directory / "stray").read_text()))


def test_a_repository_that_is_gone_is_an_error(bench: Bench) -> None:
    bench.open()
    script = bench.script()
    bench.repository.rename(bench.folder / "moved")
    assert bench.run(script)[0] == 1
    assert bench.result().cause is Cause.ERROR
    assert "No such file" in bench.log()


def test_setup_lines_may_use_variables_that_are_not_set(bench: Bench) -> None:
    """As the init files of modules and conda do."""
    bench.site = Site(setup=['[ -n "$NOT_SET_ANYWHERE" ] || export FOUND=none', "set -e", "set -u"])
    bench.train('echo "found $FOUND"; exit 1')
    bench.open()
    bench.run()
    assert "found none" in bench.log()
    assert bench.result().exit_code == 1


def test_modules_are_loaded_and_the_environment_is_set_before_python_starts(bench: Bench) -> None:
    bench.site = Site(
        modules=["gcc/12", "cuda/12.4"], environment={"A": "1"}, setup=["export B=${A}2"], data="/data sets"
    )
    bench.train(
        'cat loaded; echo "A=$A B=$B data=$ROUNDHOUSE_DATA threads=$OMP_NUM_THREADS"\n'
        'echo "$ROUNDHOUSE_DEADLINE" > deadline'
    )
    bench.resources = Resources(ncpus=3, walltime_s=1000)
    bench.open()
    bench.extra["PATH"] = fake_command(bench.folder, "module", 'echo "$@" >> loaded')
    bench.extra.pop("OMP_NUM_THREADS", None)
    before = time.time()
    assert bench.run() == (0, "")
    assert "load gcc/12\nload cuda/12.4\nA=1 B=12 data=/data sets threads=3\n" in bench.log()
    deadline = float((bench.repository / "deadline").read_text())
    assert before + 930 < deadline <= time.time() + 940, "a minute before the walltime"


def test_without_a_jobs_environment_train_py_says_what_to_do(bench: Bench) -> None:
    bench.open()
    env = {key: value for key, value in os.environ.items() if not key.startswith("ROUNDHOUSE_")}
    words = [sys.executable, REPOSITORY / "train.py", bench.directory]
    done = subprocess.run(words, check=False, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "python runner.py --round NAME" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------------------ quoting


def test_nothing_in_names_and_values_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    nasty = NASTY.format(trap)
    bench = Bench(
        folder=tmp_path / nasty.replace(str(trap), "executed"), path='it\'s $(touch executed) `touch executed`; "x"/0'
    )
    bench.folder.mkdir()
    bench.site = Site(environment={"NASTY": nasty, "LINES": "a\nb 'c'"}, data=nasty, setup=["export MINE='$(date)'"])
    bench.train(
        'printf "%s" "$NASTY" > "$1/nasty"; printf "%s" "$ROUNDHOUSE_DATA" > "$1/data"\n'
        'printf "%s" "$LINES" > "$1/lines"'
    )
    bench.open()
    try:
        assert bench.run() == (0, "")
    finally:
        bench.kill()
    assert bench.result().cause is Cause.COMPLETED
    assert (bench.directory / "nasty").read_text() == nasty
    assert (bench.directory / "data").read_text() == nasty
    assert (bench.directory / "lines").read_text() == "a\nb 'c'"
    assert not list(tmp_path.rglob("executed"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=8))
@example([NASTY, "", " ", "-n", "\n", "a\nb", "'", "\\", "!!", "\r"])
def test_a_quoted_value_reaches_the_shell_as_it_is(values: list[str]) -> None:
    script = "printf '%s\\0' " + " ".join(job_script.shell_quote(value) for value in values)
    done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert done.stdout.decode() == "".join(value + "\0" for value in values or [""])


def test_what_no_shell_can_hold_is_refused() -> None:
    with pytest.raises(RoundhouseError, match="NUL"):
        job_script.shell_quote("a\0b")


@given(st.text())
@example("a\nb")
@example("a\rb")
@example("a\u2028b")
@example("a\x85b")
def test_a_value_in_a_header_stays_in_its_line(value: str) -> None:
    try:
        line = f"#PBS -N {job_script.directive(value)}"
    except RoundhouseError:
        assert not value.isprintable()
    else:
        assert line == f"#PBS -N {value}"
        assert len(line.encode(errors="surrogateescape" if value.isprintable() else "replace").splitlines()) == 1
        assert not set("\n\r\0") & set(line)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "local"])
@pytest.mark.parametrize("name", ["with\nline break", "with\rreturn", "größe 'x' \"y\" %j"])
def test_a_folder_that_would_break_a_header_is_reached_by_a_link(
    bench: Bench, kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    bench.kind, bench.path = kind, name
    (link,) = re.findall(
        r"^#(?:PBS -o |SBATCH --output=)(.*)/attempts/1/scheduler\.log$", bench.script().read_text(), re.M
    )
    assert re.fullmatch(r"[\w./-]+", link, re.ASCII)
    assert Path(link).readlink() == bench.directory


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "local"])
def test_a_folder_that_no_shell_can_name_is_refused(
    bench: Bench, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    bench.kind, bench.path = kind, "with\x00nul"
    with pytest.raises(RoundhouseError, match="NUL"):
        bench.script()


@pytest.mark.parametrize("kind", KINDS)
def test_every_script_holds_its_header_before_the_first_command(bench: Bench, kind: str) -> None:
    bench.kind = kind
    lines = bench.script().read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [number for number, line in enumerate(lines) if line.startswith(("#PBS", "#SBATCH"))]
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(number < first for number in directives)
    assert bool(directives) == (kind != "local")
    assert any(bench.token in lines[number] for number in directives) == (kind != "local")


@pytest.mark.parametrize("kind", KINDS)
def test_every_script_runs_and_knows_its_job_id(bench: Bench, kind: str) -> None:
    bench.kind = kind
    bench.open()
    assert bench.run(job_id="42.server") == (0, "")
    assert bench.attempt().job_id == "42.server"
    assert bench.result().cause is Cause.COMPLETED
    line = next(line for line in bench.script().read_text().splitlines() if line.startswith("job_id="))
    assert line.count("SLURM_JOB_ID") == (kind != "local"), "Slurm's qsub sets that, and no PBS_JOBID"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("full", [False, True], ids=["plain site", "full site"])
def test_shellcheck_finds_nothing_in_the_scripts(bench: Bench, kind: str, full: bool) -> None:
    if shutil.which("shellcheck") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("shellcheck is not installed")
    bench.kind = kind
    if full:
        bench.site = Site(
            queue="gpu", project="lab", directives=["--mail-type=NONE"], modules=["gcc/12", "cuda/12.4"],
            setup=["umask 077"], environment={"A": "it's $HOME"}, data="/data sets",
        )  # fmt: skip
        bench.resources = Resources(4, 2, 2048, 1, 7200, "long")
    done = subprocess.run(
        ["shellcheck", "--severity=warning", "--shell=bash", bench.script()],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
