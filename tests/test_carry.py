"""A command's directory: it begins with the files of an earlier attempt, however that one, or the copy, ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster import SlurmCluster
from cluster_helpers import ClusterRounds
from rounds_for_tests import REPOSITORY, Bench, Rounds, fill, small_disk, snapshot, wait_for
from test_worker import claimed_attempt, complete, open_attempt

from roundhouse.engine.report import PassReport
from roundhouse.engine.submit_job import Submitter
from roundhouse.errors import RoundhouseError
from roundhouse.jobs import carry, progress, worker
from roundhouse.jobs.command import variables
from roundhouse.model.attempt import Attempt, Record
from roundhouse.model.causes import Cause
from roundhouse.model.exit_codes import JobExitCode
from roundhouse.model.experiment import Experiment
from roundhouse.store import carried, metrics, record

COMMAND = Experiment("r", "e", "e/0", None, {}, command=("true",))
HOUR, TWO_HOURS = {"walltime_s": 3600}, {"walltime_s": 7200}

# A program that knows nothing of Roundhouse: with --resume it continues from the checkpoint in its output directory.
UNCHANGED = """\
import argparse, json, os, signal, sys
parser = argparse.ArgumentParser()
parser.add_argument("--output-dir")
parser.add_argument("--resume", action="store_true")
parser.add_argument("--dies-after", type=int)
options = parser.parse_args()
checkpoint, step = os.path.join(options.output_dir, "checkpoint.json"), 0
if options.resume and os.path.exists(checkpoint):
    step = json.load(open(checkpoint))["step"]
print("begins at", step, flush=True)
first = step == 0
while step < 5:
    step += 1
    json.dump({"step": step}, open(checkpoint + ".new", "w"))
    os.replace(checkpoint + ".new", checkpoint)
    if first and step == options.dies_after:
        os.kill(os.getpid(), signal.SIGKILL)
json.dump({"loss": step}, open(os.path.join(options.output_dir, "metrics.json"), "w"))
"""


def add_attempt(root: Path, number: int = 1, started: bool = True, **other: Any) -> Path:
    """An attempt of the command, claimed; returns the directory of its files, which exists if it was started."""
    directory = open_attempt(root, COMMAND, number, **{"files": "files", "resources": HOUR, **other})
    place = record.files_directory(directory, attempt_of(directory, number))
    if started:
        place.mkdir(exist_ok=True)
        (record.attempt_directory(directory, number) / record.ENVIRONMENT).write_text('{"version": 1}')
    return place


def attempt_of(directory: Path, number: int) -> Attempt:
    return next(one for one in record.read(directory).attempts if one.number == number)


def ended(root: Path, number: int, cause: Cause = Cause.PREEMPTED) -> None:
    assert record.close(root / "r/e/0", number, cause, "")


def started_from(root: Path, number: int, **other: Any) -> worker.ClaimedAttempt:
    """A new attempt whose directory is prepared, and whose command is then started."""
    add_attempt(root, number, started=False, **other)
    claimed = claimed_attempt(root / "r/e/0", number)
    carry.prepare_files(claimed)
    claimed.write_environment({})
    return claimed


def content(folder: Path) -> dict[str, str]:
    """The text of all files, with the path that a link leads to."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# -------------------------------------------------------------------------------------------- in real rounds and jobs


def test_an_unchanged_script_with_resume_continues_after_it_was_killed(rounds: Rounds) -> None:
    (rounds.folder / "train.py").write_text(UNCHANGED)
    words = [sys.executable, str(rounds.folder / "train.py"), "--output-dir", "{directory}", "--resume"]
    rounds.write({"e": {"path": "e", "command": [*words, "--dies-after", "3"]}})
    assert rounds.call().returncode == 0
    assert rounds.causes("e") == ["unknown", "completed"]
    logs = [(rounds.directory("e") / f"attempts/{number}/out.log").read_text() for number in (1, 2)]
    assert ["begins at 0" in logs[0], "begins at 3" in logs[1]] == [True, True]
    assert "roundhouse: copied 1 file (0.0 MB) from attempt 1" in logs[1]
    history = json.loads((rounds.directory("e") / record.HISTORY).read_text())
    assert ["exact" in one["progress"] for one in history["attempts"]] == [False, True]
    assert history["attempts"][1]["progress"]["exact"] == "unknown"
    assert json.loads((rounds.directory("e") / "metrics.json").read_text()) == {"loss": 5}


HOSTILE = (
    "for name in job.json claim.json result.json verdict.json environment.json progress.json carried.json cancel gone "
    'out.log job.sh status.json history.json config.yaml; do echo mine > "$1/$name"; done; mkdir "$1/attempts"; '
    'sleep 0.5; [ "$ROUNDHOUSE_ATTEMPT" -ge 2 ] || exit 75; echo "{{}}" > "$1/metrics.json"'
)


def test_a_command_may_use_every_file_name_of_the_record(rounds: Rounds) -> None:
    rounds.extra["ROUNDHOUSE_SIGN_OF_LIFE"] = "0.1"
    rounds.write(
        {"e": {"path": "e", "command": ["bash", "-c", HOSTILE.replace("mkdir", "mkdir -p"), "-", "{directory}"]}}
    )
    assert rounds.call().returncode == 0
    rec = rounds.record("e")
    assert not rec.damage
    assert not rec.notes
    assert rounds.causes("e") == ["preempted", "completed"]
    for number in (1, 2):
        written = content(rounds.directory("e") / f"attempts/{number}/files")
        assert {"job.json", "result.json", "cancel", "environment.json"} <= written.keys()
        log = (rounds.directory("e") / f"attempts/{number}/out.log").read_text()
        assert log.count("warning") == 1, "its progress.json is no JSON"
    listed = carried.read(rounds.directory("e"), 2)
    assert listed is not None
    assert "result.json" in listed.files, "a file of the command, whatever its name is"
    assert "progress.json" not in listed.files
    assert rounds.call("--why", "e").returncode == 0


KILLED = """\
import os, sys
sys.path.insert(0, {repository!r})
import train
changes = ("os.mkdir", "os.rename", "os.chmod", "os.utime", "os.symlink", "os.remove", "os.link", "fcntl.ioctl")
real, left = train.prepare_files, [int(os.environ["KILL_AT"])]

def prepare(claimed):
    active = [True]
    def count(event, arguments):
        if active[0] and (event in changes or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), 9)
    sys.addaudithook(count)
    real(claimed)
    active[0] = False

train.prepare_files = prepare
sys.exit(train.main(sys.argv))
"""


def test_a_job_that_is_killed_at_any_step_of_the_copy_does_no_harm(bench: Bench) -> None:
    """Each attempt is killed one step later than the one before, until one is not killed any more."""
    first = "mkdir sub; echo 1 > state; echo 2 > sub/more; ln -s state link; exit 75"
    command = ("sh", "-c", f'cd "$1"; [ -e state ] || {{ {first}; }}; cat state sub/more', "-", "{directory}")
    bench.use_the_real_train(*command)
    experiment = Experiment("r", "e", bench.path, None, {}, command=command)
    bench.run()
    assert bench.result().exit_code == JobExitCode.STOPPED
    before, source = snapshot(bench.place(1)), content(bench.place(1) / "files")
    assert source.keys() == {"state", "sub/more", "link"}
    (bench.repository / "train.py").write_text(KILLED.format(repository=str(REPOSITORY)))
    step = 0
    while not step or bench.result(step + 1).cause is Cause.UNKNOWN:
        step += 1
        bench.extra["KILL_AT"] = str(step)
        bench.open(experiment, step + 1)
        bench.run(bench.script(step + 1))
        assert snapshot(bench.place(1)) == before
    assert step > 15, "the copy has many steps"
    assert bench.result(step + 1).cause is Cause.COMPLETED
    assert content(bench.place(step + 1) / "files") == source
    listed = carried.read(bench.directory, step + 1)
    assert listed is not None
    assert listed.source == 1, "no attempt that was killed before its command started is a source"
    assert not (bench.place(step + 1) / carry.DRAFT).exists()


def test_a_full_disk_ends_the_attempt_with_a_clear_error(bench: Bench, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m"):
        bench.folder = tmp_path / "disk"
        bench.use_the_real_train("sh", "-c", 'head -c 1000000 /dev/zero > "$ROUNDHOUSE_DIRECTORY/big"; exit 75')
        command = ("sh", "-c", 'head -c 1000000 /dev/zero > "$ROUNDHOUSE_DIRECTORY/big"; exit 75')
        experiment = Experiment("r", "e", bench.path, None, {}, command=command)
        bench.run()
        bench.open(experiment, 2)
        script = bench.script(2)
        ballast = fill(bench.folder)
        os.truncate(ballast, ballast.stat().st_size - 500_000)
        bench.run(script)
        assert bench.result(2).cause is Cause.ERROR
        assert "could not be copied: No space left on device. `carry` in the round file names" in bench.log(2)
        assert {path.name for path in bench.place(2).iterdir()} & {"files", carry.DRAFT, record.ENVIRONMENT} == set()
        ballast.unlink()
        bench.open(experiment, 3)
        bench.run(bench.script(3))
        assert (bench.place(3) / "files/big").stat().st_size == 1_000_000


def test_a_stop_during_the_copy_leaves_nothing_behind(tmp_path: Path) -> None:
    (add_attempt(tmp_path) / "state").write_text("1")
    ended(tmp_path, 1)
    add_attempt(tmp_path, 2, started=False)
    claimed = claimed_attempt(tmp_path / "r/e/0", 2)
    claimed.stop_reason = "signal SIGTERM"
    with pytest.raises(worker.Leave) as left:
        carry.prepare_files(claimed)
    assert left.value.code == JobExitCode.STOPPED
    assert {path.name for path in claimed.place.iterdir()} & {"files", carry.DRAFT, record.CARRIED} == set()


# --------------------------------------------------------------------------------------------------- what is copied


def test_modes_times_links_and_hidden_files_are_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = add_attempt(tmp_path)
    (source / "a/b").mkdir(parents=True)
    (source / "a/b").chmod(0o750)
    (source / "empty").mkdir()
    (source / "a/b/epoch 5.pt").write_text("weights")
    (source / "a/b/epoch 5.pt").chmod(0o640)
    os.utime(source / "a/b/epoch 5.pt", ns=(1, 1_600_000_000_123_456_789))
    (source / ".hidden").write_text("h")
    (source / ".draft-mine").write_text("the command's own")
    (source / "relative").symlink_to("a/b/epoch 5.pt")
    (source / "absolute").symlink_to(source / "a/b/epoch 5.pt")
    (source / "outside").symlink_to("/nonexistent/data")
    (source / record.PROGRESS).write_text("{}")
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(source)
        listener.bind("socket")
        os.chdir(REPOSITORY)
        ended(tmp_path, 1)
        claimed = started_from(tmp_path, 2)
    place = claimed.files
    assert content(place) == {
        "a/b/epoch 5.pt": "weights", ".hidden": "h", ".draft-mine": "the command's own", "relative": "a/b/epoch 5.pt",
        "absolute": str(place / "a/b/epoch 5.pt"), "outside": "/nonexistent/data",
    }  # fmt: skip
    status = (place / "a/b/epoch 5.pt").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, 1_600_000_000_123_456_789)
    assert (place / "a/b").stat().st_mode & 0o777 == 0o750
    assert (place / "empty").is_dir()
    out = capfd.readouterr().out
    assert "roundhouse: 'pipe' is not copied" in out
    assert "roundhouse: 'socket' is not copied" in out
    listed = json.loads((claimed.place / record.CARRIED).read_text())
    assert listed["source"] == 1
    weights = listed["files"]["a/b/epoch 5.pt"]["sha256"]
    done = subprocess.run(["sha256sum", place / "a/b/epoch 5.pt"], check=True, capture_output=True, text=True)
    assert weights == done.stdout.split()[0]


def test_without_reflinks_and_copy_file_range_the_copy_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(3_000_000)
    (add_attempt(tmp_path) / "big").write_bytes(data)
    ended(tmp_path, 1)
    monkeypatch.delattr(os, "copy_file_range")
    assert (started_from(tmp_path, 2).files / "big").read_bytes() == data


def test_of_an_attempt_with_the_old_layout_only_the_commands_own_files_are_copied(tmp_path: Path) -> None:
    place = add_attempt(tmp_path, files="")
    assert place == tmp_path / "r/e/0/attempts/1"
    for name in (*record.OF_AN_ATTEMPT - {record.JOB, record.CLAIM, record.ENVIRONMENT, record.RESULT}, ".draft-1"):
        (place / name).write_text("{}")
    (place / record.FREED).unlink()
    (place / record.VERDICT).unlink()
    (place / "files").mkdir()
    (place / "files/x").write_text("x")
    (place / "state").write_text("1")
    ended(tmp_path, 1)
    assert content(started_from(tmp_path, 2).files) == {"state": "1", "files/x": "x"}


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (None, {"last.pt", "logs/a/x", "logs/y", "big.npy"}),
        (("*.pt",), {"last.pt"}),
        (("logs",), {"logs/a/x", "logs/y"}),
        (("logs/*", "last.*"), {"logs/a/x", "logs/y", "last.pt"}),
        (("*/x",), {"logs/a/x"}),
        ((), set()),
    ],
)
def test_carry_names_the_files(tmp_path: Path, globs: tuple[str, ...] | None, expected: set[str]) -> None:
    source = add_attempt(tmp_path)
    (source / "logs/a").mkdir(parents=True)
    for name in ("last.pt", "logs/a/x", "logs/y", "big.npy"):
        (source / name).write_text(name)
    ended(tmp_path, 1)
    claimed = started_from(tmp_path, 2, carry=globs)
    assert set(content(claimed.files)) == expected
    assert claimed.files.is_dir()


# -------------------------------------------------------------------------------------------------- the source


def test_an_attempt_that_ended_before_its_command_started_is_no_source(tmp_path: Path) -> None:
    (add_attempt(tmp_path) / "state").write_text("1")
    ended(tmp_path, 1)
    add_attempt(tmp_path, 2, started=False)
    halfway = tmp_path / "r/e/0/attempts/2" / carry.DRAFT
    halfway.mkdir()
    (halfway / "state").write_text("torn")
    ended(tmp_path, 2, Cause.NODE)
    third = started_from(tmp_path, 3)
    assert content(third.files) == {"state": "1"}
    (third.files / "state").write_text("3")
    ended(tmp_path, 3)
    assert content(started_from(tmp_path, 4).files) == {"state": "3"}
    assert (halfway / "state").read_text() == "torn", "a draft of another attempt is left as it is"


def test_an_attempt_of_another_config_is_no_source(tmp_path: Path) -> None:
    (add_attempt(tmp_path, config_hash="another") / "state").write_text("1")
    ended(tmp_path, 1)
    claimed = started_from(tmp_path, 2)
    assert content(claimed.files) == {}
    assert not (claimed.place / record.CARRIED).exists()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An orphaned job that still writes into its attempt."""
    over, begun = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not over.wait(0.002):
            number += 1
            path.write_text(f"{number}\n" * 1000)
            begun.set()

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def slow_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy takes as long as that of a large file: a process that writes meanwhile always changes the source."""
    real = carry._Copy._copy

    def copy(self: Any, name: str, seen: Any) -> None:
        real(self, name, seen)
        time.sleep(0.05)

    monkeypatch.setattr(carry._Copy, "_copy", copy)


@pytest.mark.usefixtures("slow_copy")
def test_files_that_an_orphaned_job_keeps_changing_are_not_used(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (add_attempt(tmp_path) / "state").write_text("1")
    ended(tmp_path, 1)
    second = started_from(tmp_path, 2).files
    ended(tmp_path, 2)
    with writing(second / "state"):
        third = started_from(tmp_path, 3)
    assert content(third.files) == {"state": "1"}
    listed = carried.read(third.directory, 3)
    assert listed is not None
    assert listed.source == 1
    assert "roundhouse: the files of attempt 2 are not used: they changed each of the 3 times" in capfd.readouterr().out


@pytest.mark.parametrize("change", ["write", "replace", "add", "remove", "new directory"])
def test_a_file_that_changes_during_the_copy_is_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    source = add_attempt(tmp_path)
    for name in "abc":
        (source / name).write_text(f"{name}1")
    ended(tmp_path, 1)
    real, changed = carry._Copy._copy_file, []

    def copy(self: Any, path: Path, target: Path, seen: carry.Seen) -> Any:
        done = real(self, path, target, seen)
        if path.name == "b" and not changed:
            changed.append(change)
            if change == "write":
                (source / "a").write_text("a2")
            elif change == "replace":
                (source / "new").write_text("b2")
                os.replace(source / "new", source / "b")
            elif change == "add":
                (source / "0").write_text("0")
            elif change == "remove":
                (source / "c").unlink()
            else:
                (source / "a").unlink()
                (source / "a").mkdir()
                (source / "a/x").write_text("x")
        return done

    monkeypatch.setattr(carry._Copy, "_copy_file", copy)
    claimed = started_from(tmp_path, 2)
    assert content(claimed.files) == content(source)
    listed = carried.read(claimed.directory, 2)
    assert listed is not None
    assert listed.files.keys() == content(source).keys()
    assert changed


def test_a_change_within_the_resolution_of_the_clock_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is changed after it was listed, and keeps its size and time."""
    source = add_attempt(tmp_path)
    ended(tmp_path, 1)
    real, changed = carry._walk, []

    def walk(folder: Path, below: str) -> Any:
        if not changed:
            (source / "state").write_text("1")
        found = list(real(folder, below))
        if not changed:
            changed.append(os.stat(source / "state"))
        return found

    real_file = carry._Copy._copy_file

    def copy(self: Any, path: Path, target: Path, seen: carry.Seen) -> Any:
        done = real_file(self, path, target, seen)
        if len(changed) == 1:
            with path.open("r+") as file:
                file.write("2")
            os.utime(path, ns=(changed[0].st_atime_ns, changed[0].st_mtime_ns))
            changed.append(os.stat(path))
        return done

    monkeypatch.setattr(carry, "_walk", walk)
    monkeypatch.setattr(carry._Copy, "_copy_file", copy)
    assert content(started_from(tmp_path, 2).files) == {"state": "2"}
    assert len(changed) == 2


def test_a_file_whose_change_only_shows_when_it_is_opened_is_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system, where a listing may come from a cache."""
    source = add_attempt(tmp_path)
    (source / "state").write_text("1")
    os.utime(source / "state", ns=(1, 1))
    ended(tmp_path, 1)
    cached = {"state": carry.Seen.of(os.stat(source / "state"))}
    lists: list[int] = []

    def walk(folder: Path, below: str) -> Any:
        lists.append(1)
        if len(lists) == 2:
            (source / "state").write_text("2")  # while it is copied, and the cache does not know it yet
            os.utime(source / "state", ns=(2, 2))
        return iter((cached if len(lists) <= 2 else {"state": carry.Seen.of(os.stat(source / "state"))}).items())

    monkeypatch.setattr(carry, "_walk", walk)
    assert content(started_from(tmp_path, 2).files) == {"state": "2"}


def test_a_record_that_cannot_be_read_does_not_start_the_command_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (add_attempt(tmp_path) / "state").write_text("1")
    ended(tmp_path, 1)
    add_attempt(tmp_path, 2, started=False)
    claimed = claimed_attempt(tmp_path / "r/e/0", 2)
    unreadable = Record(claimed.directory, damage="attempts cannot be read: Input/output error", readable=False)
    monkeypatch.setattr(record, "read", lambda directory: unreadable)
    with pytest.raises(RoundhouseError, match="Input/output error"):
        carry.prepare_files(claimed)


# ----------------------------------------------------------------------------------------- what counts as a result


def test_metrics_that_were_copied_are_no_result_until_the_attempt_writes_them(tmp_path: Path) -> None:
    source = add_attempt(tmp_path)
    for name in record.OUTPUTS:
        (source / name).write_text('{"loss": 1}')
    ended(tmp_path, 1)
    claimed = started_from(tmp_path, 2)
    directory = claimed.directory

    def loss(number: int) -> float | None:
        return metrics.result_of(directory, attempt_of(directory, number), "loss")

    assert (loss(1), loss(2)) == (1.0, None)
    complete(directory, 2)
    carried.link_outputs(record.read(directory))
    assert not (directory / "metrics.json").is_symlink()
    assert not (directory / "outputs.npz").is_symlink()
    assert os.readlink(directory / "best.pth") == "attempts/2/files/best.pth", "it is kept while no better one is found"
    (claimed.files / "metrics.json").write_text('{"loss": 2}')
    assert loss(2) == 2.0
    carried.link_outputs(record.read(directory))
    assert os.readlink(directory / "metrics.json") == "attempts/2/files/metrics.json"


def test_the_same_metrics_written_again_are_a_result(tmp_path: Path) -> None:
    (add_attempt(tmp_path) / "metrics.json").write_text('{"loss": 1}')
    ended(tmp_path, 1)
    claimed = started_from(tmp_path, 2)
    (claimed.files / "metrics.json").write_text('{"loss": 1}')
    assert metrics.result_of(claimed.directory, claimed.attempt, "loss") == 1.0


# --------------------------------------------------------------------------------------- walltimes without a change


def stuck(root: Path, number: int, **other: Any) -> bool:
    """Whether an attempt ends before its command starts, because those before it changed nothing."""
    add_attempt(root, number, started=False, **other)
    claimed = claimed_attempt(root / "r/e/0", number)
    try:
        carry.prepare_files(claimed)
    except worker.Leave as left:
        return left.code == JobExitCode.STUCK
    claimed.write_environment({})
    return False


def test_two_walltimes_without_a_file_are_enough(tmp_path: Path) -> None:
    add_attempt(tmp_path)
    ended(tmp_path, 1, Cause.WALLTIME)
    assert not stuck(tmp_path, 2)
    ended(tmp_path, 2, Cause.WALLTIME)
    assert stuck(tmp_path, 3)


def test_two_walltimes_that_leave_what_they_began_with_are_enough(tmp_path: Path) -> None:
    (add_attempt(tmp_path) / "state").write_text("1")
    ended(tmp_path, 1, Cause.WALLTIME)
    for number in (2, 3):
        assert not stuck(tmp_path, number)
        state = tmp_path / f"r/e/0/attempts/{number}/files/state"
        state.write_text(state.read_text())  # another time, the same content
        ended(tmp_path, number, Cause.WALLTIME)
    assert stuck(tmp_path, 4)


def test_what_shows_that_another_attempt_can_help(tmp_path: Path) -> None:
    """After one walltime without a change, each of these makes another one possible."""

    def second(name: str, cause: Cause = Cause.WALLTIME) -> Path:
        root = tmp_path / name
        add_attempt(root)
        ended(root, 1, Cause.WALLTIME)
        assert not stuck(root, 2)
        if name == "a file":
            (root / "r/e/0/attempts/2/files/state").write_text("1")
        if name == "progress":
            claimed_attempt(root / "r/e/0", 2).report(epoch=1)
        ended(root, 2, cause)
        return root

    assert not stuck(second("a file"), 3)
    assert not stuck(second("progress"), 3)
    assert not stuck(second("another cause", Cause.NODE), 3)
    assert not stuck(second("more time"), 3, resources=TWO_HOURS)
    root = second("retry")
    assert record.open_attempt(
        root / "r/e/0", 3, worker.record.Opened("rh3", {}, COMMAND.config_hash(), {}, mark=Cause.RETRY)
    )
    assert record.void(root / "r/e/0", 3, Cause.RETRY, "")
    assert not stuck(root, 4)
    ended(root, 4, Cause.WALLTIME)
    assert not stuck(root, 5)
    ended(root, 5, Cause.WALLTIME)
    assert stuck(root, 6)


def test_a_command_that_gets_nowhere_fails_after_two_walltimes_with_the_reason(rounds: Rounds) -> None:
    rounds.write({"e": {"path": "e", "command": ["bash", "-c", f'echo >> "{rounds.notes}/begun"; exec sleep 600']}})
    runner = rounds.start()
    for number in (1, 2):
        wait_for(lambda number=number: len(rounds.lines("begun")) == number, f"attempt {number} runs")
        claim = json.loads((rounds.directory("e") / f"attempts/{number}/claim.json").read_text())
        os.kill(claim["pid"], signal.SIGUSR2)  # as Slurm does before the end of the walltime
    out, _ = runner.communicate(timeout=60)
    assert runner.returncode == 4, out
    assert rounds.causes("e") == ["walltime", "walltime", "error"]
    assert rounds.states() == {"e": "failed"}
    assert "the walltime was reached twice in a row without a changed file" in rounds.status()["e"]["reason"]
    assert len(rounds.lines("begun")) == 2
    runner = rounds.start("--retry")
    wait_for(lambda: len(rounds.lines("begun")) == 3, "it runs again")
    rounds.call("--cancel")
    runner.communicate(timeout=60)


# ------------------------------------------------------------------------------------------------ carry: {keep: N}

COUNTS = """\
cd "$1"; n=$(($(cat n 2>/dev/null || echo 0) + 1)); echo $n > n; echo own > own$n; [ -e fixed ] || echo fixed > fixed
[ $n -ge 6 ] || exit 75
"""


def test_files_that_were_copied_are_deleted_from_attempts_older_than_the_last(rounds: Rounds) -> None:
    group = {"path": "e", "command": ["sh", "-c", COUNTS, "-", "{directory}"]}
    rounds.write({"e": {**group, "carry": {"keep": 2}}})
    assert rounds.call().returncode == 0
    assert rounds.causes("e") == ["preempted"] * 5 + ["completed"]
    left = {number: set(content(rounds.directory("e") / f"attempts/{number}/files")) for number in range(1, 7)}
    everything = {number: {"n", "fixed", *(f"own{one}" for one in range(1, number + 1))} for number in range(1, 7)}
    assert {number: left[number] for number in (5, 6)} == {number: everything[number] for number in (5, 6)}
    assert {number: left[number] for number in (1, 2, 3, 4)} == {number: set() for number in (1, 2, 3, 4)}


def test_only_unchanged_copied_files_are_deleted(tmp_path: Path) -> None:
    source = add_attempt(tmp_path)
    for name in ("copied", "changed", "big.npy"):
        (source / name).write_text(name)
    outside = tmp_path / "outside"
    outside.mkdir()
    (source / "sub").mkdir()
    (source / "sub/x").write_text("x")
    ended(tmp_path, 1)
    started_from(tmp_path, 2, carry=("copied", "changed", "sub"))
    ended(tmp_path, 2)
    started_from(tmp_path, 3)
    ended(tmp_path, 3)
    (source / "changed").write_text("by an orphaned job")
    shutil.move(source / "sub/x", outside / "x")
    (source / "sub").rmdir()
    (source / "sub").symlink_to(outside)
    directory = tmp_path / "r/e/0"
    carried.delete_copied_files(record.read(directory), 3)
    assert (source / "copied").exists(), "it is one of the last three"
    carried.delete_copied_files(record.read(directory), 2)
    assert set(content(source)) == {"changed", "big.npy", "sub"}
    assert (outside / "x").exists()
    assert content(directory / "attempts/2/files") == {"copied": "copied", "changed": "changed", "sub/x": "x"}


@pytest.mark.usefixtures("slow_copy")
def test_no_attempt_copies_from_one_whose_files_were_deleted(tmp_path: Path) -> None:
    (add_attempt(tmp_path) / "state").write_text("1")
    ended(tmp_path, 1)
    for number in (2, 3):
        started_from(tmp_path, number)
        ended(tmp_path, number)
    directory = tmp_path / "r/e/0"
    carried.delete_copied_files(record.read(directory), 2)
    (directory / "attempts/1/files/rest").write_text("rest")
    with writing(directory / "attempts/2/files/state"), writing(directory / "attempts/3/files/state"):
        fourth = started_from(tmp_path, 4)
    assert content(fourth.files) == {}


def test_files_that_a_pass_deletes_during_the_copy_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = add_attempt(tmp_path)
    for name in ("a", "b"):
        (source / name).write_text(name)
    ended(tmp_path, 1)
    real = carry._Copy._copy

    def copy(self: Any, name: str, seen: Any) -> None:
        real(self, name, seen)
        if name == "b" and (source / "a").exists():  # a pass is faster
            (tmp_path / "r/e/0/attempts/1" / record.FREED).touch()
            (source / "a").unlink()

    monkeypatch.setattr(carry._Copy, "_copy", copy)
    monkeypatch.setattr(carry, "PAUSE", 0.0)
    assert content(started_from(tmp_path, 2).files) == {}
    assert "some of them were deleted while they were copied" in capfd.readouterr().out


@pytest.mark.parametrize("source", [[1], {}, "one"])
def test_a_source_that_is_no_number_counts_as_none(tmp_path: Path, source: Any) -> None:
    """Otherwise a pass with `carry: {keep: N}` would end with a traceback."""
    (add_attempt(tmp_path) / "state").write_text("1")
    ended(tmp_path, 1)
    started_from(tmp_path, 2)
    ended(tmp_path, 2)
    directory = tmp_path / "r/e/0"
    path = directory / "attempts/2" / record.CARRIED
    path.write_text(json.dumps({**json.loads(path.read_text()), "source": source}))
    carried.delete_copied_files(record.read(directory), 1)
    assert carried.read(directory, 2) is None
    assert (directory / "attempts/1/files/state").exists()


@pytest.mark.parametrize("name", ["{outside}/x", "../outside/x"])
def test_nothing_outside_of_an_attempt_is_deleted(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "r/e/0/attempts/1/outside"
    (add_attempt(tmp_path) / "state").write_text("1")
    outside.mkdir()
    (outside / "x").write_text("x")
    ended(tmp_path, 1)
    started_from(tmp_path, 2)
    status = (outside / "x").stat()
    entry = carried.CarriedFile(status.st_size, status.st_mtime_ns, "")
    directory = tmp_path / "r/e/0"
    carried.write(directory, 2, carried.Carried(1, {name.format(outside=outside): entry}))
    ended(tmp_path, 2)
    carried.delete_copied_files(record.read(directory), 1)
    assert (outside / "x").exists()


# ---------------------------------------------------------------------------------------------------------- progress


def test_progress_is_copied_while_the_command_runs_and_at_its_end(bench: Bench) -> None:
    begins = '{"epoch": 1, "epochs": 3, "metric_name": "loss", "metric": 0.5, "exact": true, "cause": 1}'
    script = (
        f"echo '{begins}' > " + '"$1/progress.json"; '
        'while [ ! -e "$1/go" ]; do sleep 0.05; done; '
        'echo \'{"version": 1, "epoch": 3, "epochs": 3, "best": 0.25, "final": {"loss": 0.25}}\' > "$1/progress.json"'
    )
    bench.use_the_real_train("sh", "-c", script, "-", "{directory}")
    shell = bench.start()
    wait_for(lambda: (bench.place() / record.PROGRESS).exists() and bench.attempt().progress, "it starts")

    def epoch() -> int:
        known = bench.attempt().progress
        return known.epoch if known else 0

    wait_for(lambda: epoch() == 1, "the first epoch is in the record")
    wait_for(lambda: json.loads((bench.directory / record.STATUS).read_text()).get("metric") == 0.5, "so is the status")
    (bench.place() / "files/go").touch()
    assert shell.wait(60) == 0
    known = bench.attempt().progress
    assert known is not None
    assert (known.epoch, known.best, known.final, known.metric) == (3, 0.25, {"loss": 0.25}, 0.5)
    raw = json.loads((bench.place() / record.PROGRESS).read_text())
    assert "exact" not in raw
    assert "cause" not in raw


@pytest.mark.parametrize(
    "written",
    [
        "", "{", "[1]", "3", '{"epoch": "x"}', '{"version": 2, "epoch": 1}', '{"metric": "high"}', '{"final": 3}',
        '{"epoch": 1e999}', "[" * 100_000, "\udcff", '{"artifacts": {"a": 1}}', " " * (1 << 21),
    ],
    ids=range(13),
)  # fmt: skip
def test_invalid_progress_is_one_line_in_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], written: str
) -> None:
    place = add_attempt(tmp_path)
    claimed = claimed_attempt(tmp_path / "r/e/0")
    claimed.report(epoch=0)
    with progress.copy_progress(claimed):
        (place / record.PROGRESS).write_text(written, errors="surrogateescape")
    assert capfd.readouterr().err.count("\n") == 1
    (known,) = record.read(claimed.directory).attempts
    assert known.progress is not None
    assert not known.progress.reported


@pytest.mark.parametrize("kind", ["a directory", "a pipe", "a dangling link"])
def test_progress_that_is_no_file_does_not_stop_the_job(tmp_path: Path, kind: str) -> None:
    path = add_attempt(tmp_path) / record.PROGRESS
    if kind == "a directory":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    with progress.copy_progress(claimed_attempt(tmp_path / "r/e/0")):
        pass


# ------------------------------------------------------------------------------------------------------ paths with :


@pytest.mark.parametrize("where", ["its own path", "a dependency", "the records"])
def test_a_path_that_cannot_be_part_of_a_list_is_refused_before_anything_is_submitted(
    rounds: Rounds, where: str
) -> None:
    first = "a:1" if where != "the records" else "a"
    groups: dict[str, Any] = {"first": {"path": first, "command": ["true"]}}
    if where == "a dependency":
        groups["first"] |= {"study": "distillation"}
        del groups["first"]["command"]
        groups["second"] = {"path": "b", "command": ["true"], "after": ["first"]}
    rounds.write(groups)
    options = ["--experiments", str(rounds.folder / "x:y")] if where == "the records" else []
    done = rounds.call(*options, "--only", "b" if where == "a dependency" else "*")
    assert done.returncode in (3, 4)
    assert "contains ':', which separates the directories in ROUNDHOUSE_EARLIER" in done.stderr + done.stdout
    assert not list(rounds.folder.rglob("job.json"))


def test_a_job_that_would_get_such_a_path_ends_with_an_error(tmp_path: Path) -> None:
    root = tmp_path / "x:y"
    add_attempt(root)
    ended(root, 1)
    add_attempt(root, 2, started=False)
    with pytest.raises(RoundhouseError, match="contains ':'"):
        variables(claimed_attempt(root / "r/e/0", 2))


# ------------------------------------------------------------------------------------------ on Slurm, after upgrades

WAITS = """\
cd "$1"; echo "$ROUNDHOUSE_ATTEMPT $(cat state 2>/dev/null)" >> "$2/runs"; echo "$ROUNDHOUSE_ATTEMPT" >> state
echo '{"loss": 1}' > metrics.json; while [ "$ROUNDHOUSE_ATTEMPT" -lt 2 ] && [ ! -e "$2/go" ]; do sleep 0.05; done
[ "$ROUNDHOUSE_ATTEMPT" -ge 2 ] || exit "$3"
"""


def write_waiting(slurm: ClusterRounds, code: int) -> None:
    command = [
        "bash",
        "-c",
        WAITS.replace("{", "{{").replace("}", "}}"),
        "-",
        "{directory}",
        str(slurm.notes),
        str(code),
    ]
    slurm.write({"e": {"path": "e", "command": command}})


@pytest.mark.cluster
@pytest.mark.parametrize("code", [0, 75], ids=["completes", "is continued"])
def test_a_job_that_was_queued_before_the_upgrade_keeps_the_old_layout(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster, code: int
) -> None:
    slurm.set_site(directives=["--begin=now+1hour"])
    write_waiting(slurm, code)
    called = slurm.call()
    assert called.returncode == 3, called.stdout + called.stderr
    path = slurm.attempt("e") / record.JOB
    opened = json.loads(path.read_text())
    assert opened.pop("files") == "files"
    path.write_text(json.dumps(opened, indent=1) + "\n")  # as the earlier version wrote it
    slurm.set_site()
    (slurm.notes / "go").touch()
    slurm_cluster.run(["scontrol", "update", f"JobId={opened['job_id']}", "StartTime=now"])
    slurm.pass_until_done()
    last = "attempts/2/files" if code else "attempts/1"
    assert (slurm.attempt("e") / "state").read_text() == "1\n"
    assert not (slurm.attempt("e") / "files").exists()
    assert slurm.lines("runs") == (["1 ", "2 1"] if code else ["1 "])
    assert os.readlink(slurm.directory("e") / "metrics.json") == f"{last}/metrics.json"
    assert (slurm.directory("e") / last / "state").read_text() == ("1\n2\n" if code else "1\n")


@pytest.mark.cluster
def test_a_job_that_slurm_restarts_finds_its_files(slurm: ClusterRounds, slurm_cluster: SlurmCluster) -> None:
    write_waiting(slurm, 0)
    slurm.call()
    wait_for(lambda: slurm.lines("runs") == ["1 "], "it runs")
    slurm_cluster.run(["scontrol", "requeue", slurm.view("e")["job_id"]])
    slurm.pass_until_done()
    assert slurm.lines("runs") == ["1 ", "2 1"]
    assert slurm.causes("e") == ["preempted", "completed"]


@pytest.mark.parametrize("knows", [True, False])
def test_a_copy_of_code_that_does_not_know_the_new_layout_gets_the_old_one(tmp_path: Path, knows: bool) -> None:
    if knows:
        (tmp_path / "roundhouse/jobs").mkdir(parents=True)
        shutil.copy(carry.__file__, tmp_path / "roundhouse/jobs/carry.py")
    context: Any = SimpleNamespace(
        copies=SimpleNamespace(path=lambda name, code: tmp_path), site=SimpleNamespace(queue=None)
    )
    submitter = Submitter(context, SimpleNamespace(alive_by_id={}), PassReport())  # type: ignore[arg-type]
    assert submitter._files(COMMAND, "hash of a copy") == ("files" if knows else "")
    assert submitter._files(COMMAND, None) == "files"
    assert submitter._files(Experiment("r", "s", "s", "distillation", {}), None) == ""
