"""A job's side of the record: its claim, its inputs, its heartbeat, and when it must stop."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from rounds_for_tests import REPOSITORY, Bench, snapshot, wait_for

from roundhouse.errors import RoundhouseError
from roundhouse.jobs import command, heartbeat, worker
from roundhouse.model.attempt import Opened, Pin
from roundhouse.model.causes import Cause
from roundhouse.model.exit_codes import JobExitCode
from roundhouse.model.experiment import Experiment, StartFrom
from roundhouse.store import history, markers, record
from roundhouse.store.logs import last_line

TEACHER = Experiment("r", "teacher", "t/0", None, {}, command=("true",))
STUDENT = Experiment("r", "student", "deep/er/s", None, {"lr": 0.1}, after={"teacher": ("t/0",)}, command=("true",))
GOING = 'touch "$ROUNDHOUSE_DIRECTORY/going"; '


def open_attempt(root: Path, experiment: Experiment, number: int = 1, inputs: Any = None, **other: Any) -> Path:
    """An attempt, claimed by the job `nonce-NUMBER`; returns the experiment's directory."""
    directory = root / experiment.round / experiment.path
    fields = {"token": f"rh{number}", "config_hash": experiment.config_hash(), **other}
    assert record.open_attempt(directory, number, Opened(scheduler={"kind": "local"}, inputs=inputs or {}, **fields))
    record.write_config(directory, experiment)
    claim = {"version": 1, "nonce": f"nonce-{number}", "job_id": "7"}
    (record.attempt_directory(directory, number) / record.CLAIM).write_text(json.dumps(claim))
    return directory


def complete(directory: Path, number: int = 1, best: bytes | None = None) -> Path:
    place = record.attempt_directory(directory, number)
    if best is not None:
        (place / "best.pth").write_bytes(best)
    assert record.close(directory, number, Cause.COMPLETED, "")
    return place


def claimed_attempt(directory: Path, number: int = 1) -> worker.ClaimedAttempt:
    attempt = next(one for one in record.read(directory).attempts if one.number == number)
    return worker.ClaimedAttempt(directory, number, f"nonce-{number}", record.read_config(directory), attempt)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------------------------------------------- when it is over


def test_an_open_attempt_is_not_over(tmp_path: Path) -> None:
    assert heartbeat.why_over(claimed_attempt(open_attempt(tmp_path, TEACHER))) == ""


def test_a_closed_attempt_is_over(tmp_path: Path) -> None:
    claimed = claimed_attempt(open_attempt(tmp_path, TEACHER))
    record.close(claimed.directory, 1, Cause.UNKNOWN, "")
    assert heartbeat.why_over(claimed) == "attempt 1 was closed by a runner"


def test_an_attempt_with_a_later_one_is_over(tmp_path: Path) -> None:
    claimed = claimed_attempt(open_attempt(tmp_path, TEACHER))
    open_attempt(tmp_path, TEACHER, 3)
    assert heartbeat.why_over(claimed) == "attempt 3 was opened after attempt 1"


def test_a_directory_of_a_later_attempt_that_was_not_opened_means_nothing(tmp_path: Path) -> None:
    open_attempt(tmp_path, TEACHER, 1)
    claimed = claimed_attempt(open_attempt(tmp_path, TEACHER, 2), 2)
    (claimed.directory / "attempts" / "3").mkdir()
    (claimed.directory / "attempts" / "notes").mkdir()
    assert heartbeat.why_over(claimed) == ""


def test_an_attempt_whose_directory_is_gone_is_over(tmp_path: Path) -> None:
    claimed = claimed_attempt(open_attempt(tmp_path, TEACHER))
    shutil.rmtree(claimed.directory)
    assert heartbeat.why_over(claimed)


def test_a_cancelled_attempt_is_reported_as_cancelled_until_it_is_closed(tmp_path: Path) -> None:
    claimed = claimed_attempt(open_attempt(tmp_path, TEACHER))
    record.request_cancel(claimed.directory, 1)
    assert heartbeat.why_over(claimed) == "cancelled"
    record.close(claimed.directory, 1, Cause.CANCELLED, "")
    assert heartbeat.why_over(claimed) == "attempt 1 was closed by a runner"


# ------------------------------------------------------------------------------------------------------------- inputs


def pinned(**identity: str) -> dict[str, Any]:
    return {"teacher": [{"path": "t/0", **identity}]}


def test_inputs_are_the_directories_of_what_was_recorded(tmp_path: Path) -> None:
    place = complete(open_attempt(tmp_path, TEACHER), best=b"weights")
    claimed = claimed_attempt(open_attempt(tmp_path, STUDENT, inputs=pinned(sha256=sha256(b"weights"))))
    assert claimed.inputs() == {"teacher": [place]}


def test_an_input_without_weights_is_known_by_its_token(tmp_path: Path) -> None:
    place = complete(open_attempt(tmp_path, TEACHER))
    assert claimed_attempt(open_attempt(tmp_path, STUDENT, inputs=pinned(token="rh1"))).inputs() == {"teacher": [place]}


def test_an_input_of_which_an_earlier_attempt_failed_is_that_of_the_completed_one(tmp_path: Path) -> None:
    directory = open_attempt(tmp_path, TEACHER)
    record.close(directory, 1, Cause.ERROR, "")
    place = complete(open_attempt(tmp_path, TEACHER, 2), 2, best=b"weights")
    history.compact(record.read(directory))
    claimed = claimed_attempt(open_attempt(tmp_path, STUDENT, inputs=pinned(sha256=sha256(b"weights"))))
    assert claimed.inputs() == {"teacher": [place]}


def leaves(claimed: worker.ClaimedAttempt) -> int:
    with pytest.raises(worker.Leave) as left:
        claimed.inputs()
    return left.value.code


def test_an_input_that_is_not_visible_yet_is_tried_again_later(tmp_path: Path) -> None:
    claimed = claimed_attempt(open_attempt(tmp_path, STUDENT, inputs=pinned(sha256=sha256(b"weights"))))
    assert leaves(claimed) == JobExitCode.INPUT, "its record is not there"
    directory = open_attempt(tmp_path, TEACHER)
    assert leaves(claimed) == JobExitCode.INPUT, "it is not completed"
    complete(directory)
    assert leaves(claimed) == JobExitCode.INPUT, "its weights are not there"


def report_weights(directory: Path, number: int, best: bytes) -> None:
    progress = {"version": 1, "epoch": 1, "artifacts": {"best.pth": sha256(best)}}
    (record.attempt_directory(directory, number) / record.PROGRESS).write_text(json.dumps(progress))


def test_weights_that_were_changed_are_a_permanent_error(tmp_path: Path) -> None:
    directory = open_attempt(tmp_path, TEACHER)
    report_weights(directory, 1, b"weights")
    complete(directory, best=b"other weights")
    claimed = claimed_attempt(open_attempt(tmp_path, STUDENT, inputs=pinned(sha256=sha256(b"weights"))))
    assert leaves(claimed) == JobExitCode.INPUT_CHANGED


def test_a_result_that_this_node_cannot_see_is_tried_again_later(tmp_path: Path) -> None:
    """It may be that of a rerun, of which the node still sees the time before."""
    directory = open_attempt(tmp_path, TEACHER)
    complete(directory, best=b"other weights")
    claimed = claimed_attempt(open_attempt(tmp_path, STUDENT, inputs=pinned(sha256=sha256(b"weights"))))
    assert leaves(claimed) == JobExitCode.INPUT
    again = claimed_attempt(open_attempt(tmp_path, STUDENT, 2, inputs=pinned(token="rh0")), 2)
    assert leaves(again) == JobExitCode.INPUT


def test_an_input_that_was_run_again_is_that_of_the_attempt_that_was_recorded(tmp_path: Path) -> None:
    directory = open_attempt(tmp_path, TEACHER)
    report_weights(directory, 1, b"weights")
    old = complete(directory, best=b"weights")
    history.compact(record.read(directory))
    assert markers.mark(record.read(directory), TEACHER, Cause.RERUN, "by the user", pin=Pin())
    inputs = pinned(sha256=sha256(b"weights"))
    assert claimed_attempt(open_attempt(tmp_path, STUDENT, inputs=inputs)).inputs() == {"teacher": [old]}
    open_attempt(tmp_path, TEACHER, 3)
    report_weights(directory, 3, b"new weights")
    new = complete(directory, 3, best=b"new weights")
    assert claimed_attempt(open_attempt(tmp_path, STUDENT, 2, inputs=inputs), 2).inputs() == {"teacher": [old]}
    inputs = pinned(sha256=sha256(b"new weights"))
    assert claimed_attempt(open_attempt(tmp_path, STUDENT, 3, inputs=inputs), 3).inputs() == {"teacher": [new]}


def test_earlier_attempts_count_if_config_and_inputs_are_the_same(tmp_path: Path) -> None:
    inputs = pinned(token="a")
    for number, other in enumerate(({}, {"config_hash": "another"}, {"inputs": pinned(token="b")}, {}, {}), 1):
        directory = open_attempt(tmp_path, STUDENT, number, **{"inputs": inputs, **other})
        record.close(directory, number, Cause.PREEMPTED, "")
    assert [place.name for place in claimed_attempt(directory, 4).earlier()] == ["1"]
    assert [place.name for place in claimed_attempt(directory, 5).earlier()] == ["1", "4"]


# -------------------------------------------------------------------------------------------------- taking up a claim


def enter(directory: Path, number: int = 1, nonce: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """`train.py DIRECTORY`, as the job with this nonce."""
    outside = {key: value for key, value in os.environ.items() if not key.startswith("ROUNDHOUSE_")}
    outside |= {"ROUNDHOUSE_ATTEMPT": str(number), "ROUNDHOUSE_NONCE": nonce or f"nonce-{number}", **env}
    words = [sys.executable, REPOSITORY / "train.py", directory]
    done = subprocess.run(words, check=False, env=outside, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done


def test_a_job_without_the_claim_exits_and_writes_nothing(tmp_path: Path) -> None:
    directory = open_attempt(tmp_path, TEACHER)
    before = snapshot(tmp_path)
    assert enter(directory, nonce="another's").returncode == JobExitCode.NOT_MINE
    assert enter(directory, 2).returncode == JobExitCode.NOT_MINE
    assert enter(directory, ROUNDHOUSE_SHELL="1").returncode == JobExitCode.NOT_MINE, "its shell is gone"
    assert snapshot(tmp_path) == before
    record.close(directory, 1, Cause.UNKNOWN, "")
    before = snapshot(tmp_path)
    assert enter(directory).returncode == JobExitCode.NOT_MINE
    assert snapshot(tmp_path) == before


def test_a_config_that_was_edited_is_refused(tmp_path: Path) -> None:
    directory = open_attempt(tmp_path, STUDENT)
    config = directory / record.CONFIG
    config.write_text(config.read_text().replace("lr: 0.1", "lr: 0.2"))
    done = enter(directory)
    assert done.returncode == 1
    assert "it was edited" in done.stderr


@pytest.mark.parametrize(
    "damage", [b"", b"config: [", b"\xff\xfe\x00", b"3", b"config: 2024-13-45", b"config: {a: 1}", b"[" * 9999]
)
def test_an_unreadable_config_is_reported(tmp_path: Path, damage: bytes) -> None:
    directory = open_attempt(tmp_path, STUDENT)
    (directory / record.CONFIG).write_bytes(damage)
    done = enter(directory)
    assert done.returncode == 1
    assert "config.yaml" in done.stderr
    with pytest.raises(RoundhouseError, match="config.yaml"):
        record.read_config(directory)


def test_an_unknown_study_is_reported_with_the_available_ones(tmp_path: Path) -> None:
    directory = open_attempt(tmp_path, Experiment("r", "e", "e", "destillation", {}))
    done = enter(directory)
    assert done.returncode == 1
    assert "no study 'destillation' in studies/; available: distillation" in done.stderr


# ------------------------------------------------------------------------------------------------------ a running job


def test_a_heartbeat_is_written_while_a_command_runs(bench: Bench) -> None:
    bench.use_the_real_train("sh", "-c", GOING + "exec sleep 600")
    bench.extra["ROUNDHOUSE_SIGN_OF_LIFE"] = "0.1"
    bench.start()
    wait_for(bench.running(), "the command runs")
    for _ in range(3):
        before = (bench.place() / record.PROGRESS).stat().st_mtime_ns
        wait_for(lambda then=before: (bench.place() / record.PROGRESS).stat().st_mtime_ns > then, "a heartbeat")


@pytest.mark.parametrize("listens", [True, False], ids=["a command that listens", "a command that ignores SIGTERM"])
def test_an_orphaned_job_that_resumes_exits_and_writes_nothing(bench: Bench, listens: bool) -> None:
    ignore = "" if listens else 'trap "" TERM; '
    writes = 'while :; do echo "$PPID" >> "$ROUNDHOUSE_DIRECTORY/mine"; sleep 0.05; done'
    bench.use_the_real_train("sh", "-c", ignore + GOING + writes)
    bench.extra["ROUNDHOUSE_SIGN_OF_LIFE"] = "0.2"
    shell = bench.start()
    wait_for(bench.running(), "the command runs")
    python = bench.python_of(shell)
    (command,) = python.children()
    for process in (psutil.Process(shell.pid), python, command):
        process.suspend()
    record.close(bench.directory, 1, Cause.UNKNOWN, "left no result")
    assert record.open_attempt(
        bench.directory, 2, Opened("rhsecond", {}, bench.attempt().opened.config_hash, {}, job_id="8")
    )
    (bench.place(2) / "checkpoint.pth").write_bytes(b"the second's")
    before = snapshot(bench.directory)
    for process in (python, psutil.Process(shell.pid)):
        process.resume()
    wait_for(lambda: not python.is_running() or python.status() == psutil.STATUS_ZOMBIE, "Python exits")
    command.resume() if command.is_running() else None
    assert shell.wait(30) == 0
    wait_for(lambda: not bench.processes(), "nothing is left of the job")
    after = snapshot(bench.directory)
    log, mine = "attempts/1/out.log", "attempts/1/files/mine"
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} <= {log, mine}
    reasons = ("attempt 2 was opened after attempt 1", "was closed by a runner; this job exits")
    assert any(reason in bench.log() for reason in reasons)


def test_a_cancelled_command_gets_sigterm_and_is_killed_later(bench: Bench) -> None:
    bench.use_the_real_train("sh", "-c", f'trap "echo stopping" TERM; {GOING} while :; do sleep 0.05; done')
    bench.extra["ROUNDHOUSE_SIGN_OF_LIFE"] = "0.3"
    shell = bench.start()
    wait_for(bench.running(), "the command runs")
    record.request_cancel(bench.directory, 1)
    shell.wait(30)
    assert "\nstopping\n" in bench.log()
    assert bench.result().cause is Cause.CANCELLED


@pytest.mark.parametrize(
    ("script", "cause", "code"),
    [
        ("exit 0", Cause.PREEMPTED, 75),
        ("exit 3", Cause.PREEMPTED, 75),
        ("kill -KILL $$", Cause.PREEMPTED, 75),
    ],
)
def test_a_command_that_ends_after_a_signal_is_not_completed(
    bench: Bench, script: str, cause: Cause, code: int
) -> None:
    bench.use_the_real_train("sh", "-c", f"trap '{script}' TERM; {GOING} while :; do sleep 0.05; done")
    shell = bench.start()
    wait_for(bench.running(), "the command runs")
    shell.terminate()
    shell.wait(30)
    assert (bench.result().cause, bench.result().exit_code, bench.result().signals) == (cause, code, ("TERM",))


@pytest.mark.parametrize(
    ("script", "cause", "code"),
    [
        ("exit 0", Cause.COMPLETED, 0),
        ("echo no disk; exit 3", Cause.ERROR, 3),
        ("exit 70", Cause.ERROR, 1),
        ("exit 77", Cause.ERROR, 1),
        ("exit 79", Cause.DIVERGED, 79),
        ("kill -KILL $$", Cause.UNKNOWN, 137),
        ("kill -SEGV $$", Cause.ERROR, 139),
        ("kill -TERM $$", Cause.ERROR, 143),
    ],
)
def test_the_exit_code_of_a_command_determines_the_cause(bench: Bench, script: str, cause: Cause, code: int) -> None:
    bench.use_the_real_train("sh", "-c", f"true\n{script}")
    bench.run()
    final = cause is Cause.DIVERGED
    assert (bench.result().cause, bench.result().exit_code, bench.result().final) == (cause, code, final)
    assert f"roundhouse: attempt 1 runs sh -c 'true\\n{script}'\n" in bench.log()
    assert last_line(record.read(bench.directory)) == ". Last log line: no disk" * script.startswith("echo")


def test_a_command_gets_its_directory_its_inputs_and_its_earlier_attempts(bench: Bench) -> None:
    complete(open_attempt(bench.folder / "experiments", TEACHER))
    words = ('echo "$1|$ROUNDHOUSE_DIRECTORY|$ROUNDHOUSE_EARLIER|$ROUNDHOUSE_INPUT_TEACHER|$2"',)
    experiment = Experiment(
        "r", "e", "e/0", None, {}, after={"teacher": ("t/0",)},
        command=("sh", "-c", *words, "sh", "out={directory}/x", "it's {directory} $(date)"),
    )  # fmt: skip
    bench.use_the_real_train()
    shutil.rmtree(bench.directory)
    for number in (1, 2):
        open_attempt(bench.folder / "experiments", experiment, number, inputs=pinned(token="rh1"))
        record.close(bench.directory, number, Cause.PREEMPTED, "")
    opened = Opened(bench.token, {}, experiment.config_hash(), pinned(token="rh1"))
    assert record.open_attempt(bench.directory, 3, opened)
    assert bench.run(bench.script(3)) == (0, "")
    place = {number: str(bench.place(number)) for number in (1, 2, 3)}
    teacher = bench.folder / "experiments" / "r" / "t" / "0" / "attempts" / "1"
    expected = f"out={place[3]}/x|{place[3]}|{place[2]}:{place[1]}|{teacher}|it's {place[3]} $(date)"
    assert expected in bench.log(3).splitlines()


def test_host_versions_and_code_are_recorded(bench: Bench) -> None:
    bench.use_the_real_train("true")
    bench.run()
    facts = json.loads((bench.place() / record.ENVIRONMENT).read_text())
    assert facts["host"]
    assert facts["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert {"commit", "edited"} <= facts.keys()


def test_a_signal_before_the_command_has_started_stops_it_too(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop is requested before the child process exists, so nothing else sends it a signal."""
    directory = open_attempt(tmp_path / "x", Experiment("r", "e", "e", None, {}, command=("sleep", "600")))
    claimed = claimed_attempt(directory)
    real = subprocess.Popen

    def late(*arguments: Any, **options: Any) -> Any:
        worker.request_stop(claimed, signal.SIGTERM)
        return real(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", late)
    assert command.run_command(claimed, {}) == 128 + signal.SIGTERM


# ------------------------------------------------------------------------------- files of inputs, the first checkpoint


def with_files(directory: Path, number: int = 1, **contents: str) -> dict[str, str]:
    """Files of a completed attempt, reported as a study reports them; returns their hashes by name."""
    place = record.attempt_directory(directory, number)
    hashes = {}
    for name, text in contents.items():
        path = f"kept/{name}.npz" if name != "tag" else "snapshots/tag.pth"
        (place / path).parent.mkdir(exist_ok=True)
        (place / path).write_text(text)
        hashes[path] = sha256(text.encode())
    (place / record.PROGRESS).write_text(json.dumps({"version": 1, "artifacts": hashes}))
    complete(directory, number)
    return hashes


def test_the_files_that_an_input_names_are_verified_and_no_others(tmp_path: Path) -> None:
    directory = open_attempt(tmp_path, TEACHER)
    hashes = with_files(directory, samples="1", others="2")
    inputs = {"teacher": [{"path": "t/0", "files": {"kept/samples.npz": hashes["kept/samples.npz"]}}]}
    claimed = claimed_attempt(open_attempt(tmp_path, STUDENT, inputs=inputs))
    place = record.attempt_directory(directory, 1)
    (place / "kept/others.npz").write_text("changed")
    assert claimed.inputs() == {"teacher": [place]}
    (place / "kept/samples.npz").write_text("changed")
    assert leaves(claimed) == JobExitCode.INPUT_CHANGED
    (place / "kept/samples.npz").unlink()
    assert leaves(claimed) == JobExitCode.INPUT


def test_a_result_with_other_files_may_be_one_that_this_node_cannot_see_yet(tmp_path: Path) -> None:
    directory = open_attempt(tmp_path, TEACHER)
    with_files(directory, samples="old")
    inputs = {"teacher": [{"path": "t/0", "files": {"kept/samples.npz": sha256(b"new")}}]}
    claimed = claimed_attempt(open_attempt(tmp_path, STUDENT, inputs=inputs))
    assert leaves(claimed) == JobExitCode.INPUT
    (record.attempt_directory(directory, 1) / "kept/samples.npz").write_text("new")
    assert claimed.inputs() == {"teacher": [record.attempt_directory(directory, 1)]}


def test_a_file_without_a_hash_must_be_visible(tmp_path: Path) -> None:
    place = complete(open_attempt(tmp_path, TEACHER))
    inputs = {"teacher": [{"path": "t/0", "token": "rh1", "files": {"out.txt": None}}]}
    claimed = claimed_attempt(open_attempt(tmp_path, STUDENT, inputs=inputs))
    assert leaves(claimed) == JobExitCode.INPUT
    (place / "out.txt").touch()
    assert claimed.inputs() == {"teacher": [place]}


def starting(kind: str, source: str = "t/0", snapshot: str | None = "tag", is_file: bool = False) -> Experiment:
    return Experiment("r", "student", "deep/er/s", "s", {}, start=StartFrom(kind, source, snapshot, is_file))


@pytest.mark.parametrize(("kind", "keeps_position"), [("init", False), ("continue", True)])
def test_training_starts_from_the_pinned_checkpoint(tmp_path: Path, kind: str, keeps_position: bool) -> None:
    directory = open_attempt(tmp_path, TEACHER)
    inputs = {kind: [{"path": "t/0", "files": with_files(directory, tag="state")}]}
    claimed = claimed_attempt(open_attempt(tmp_path, starting(kind), inputs=inputs))
    checkpoint = record.attempt_directory(directory, 1) / "snapshots/tag.pth"
    assert claimed.start() == worker.Start(checkpoint, keeps_position)
    assert claimed.inputs() == {}, "it is no input of the study"
    checkpoint.write_text("changed")
    with pytest.raises(worker.Leave) as left:
        claimed.start()
    assert left.value.code == JobExitCode.INPUT_CHANGED


def test_training_starts_from_the_users_own_file(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    inputs = {"init": [{"path": str(file), "sha256": sha256(b"state")}]}
    claimed = claimed_attempt(open_attempt(tmp_path, starting("init", str(file), None, is_file=True), inputs=inputs))
    codes = []
    for content in (None, b"other", b"state"):
        if content is not None:
            file.write_bytes(content)
        try:
            assert claimed.start() == worker.Start(file, keeps_position=False)
        except worker.Leave as left:
            codes.append(left.code)
    assert codes == [JobExitCode.INPUT, JobExitCode.INPUT_CHANGED]


def test_without_a_source_training_starts_from_nothing(tmp_path: Path) -> None:
    assert claimed_attempt(open_attempt(tmp_path, STUDENT)).start() is None


@pytest.mark.parametrize("files", [5, {"x": 5}, ["x"]])
def test_an_input_with_files_of_another_form_is_unreadable(tmp_path: Path, files: Any) -> None:
    directory = open_attempt(tmp_path, STUDENT, inputs={"teacher": [{"path": "t/0", "token": "a"}]})
    path = record.attempt_directory(directory, 1) / record.JOB
    job = json.loads(path.read_text())
    job["inputs"]["teacher"][0]["files"] = files
    path.write_text(json.dumps(job))
    assert "holds an invalid value" in record.read(directory).damage
