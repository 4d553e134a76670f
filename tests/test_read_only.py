"""--status, --why and --dry-run for a user who may only read: the repository, the rounds, another user's records."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rounds_for_tests import REPOSITORY, Rounds, snapshot

from roundhouse.engine import dry_run
from roundhouse.engine.report import PlannedJob
from roundhouse.model.experiment import Experiment, Resources

NOBODY = 65534
DONE, SYSTEM_ERROR = 0, 5
CODE = ("runner.py", "train.py", "roundhouse", "templates", "sites", "studies")


@dataclass
class Reader(Rounds):
    """A copy of the repository, and calls of its runner.py by a user who cannot write to it.

    If the tests run as root, this is another user; else the same user, without write permission.
    """

    def argv(self, *options: str) -> list[str]:
        return [sys.executable, str(self.folder / "runner.py"), *super().argv(*options)[2:]]

    def read(self, *options: str, name: str = "r", **env: str) -> subprocess.CompletedProcess[str]:
        other = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
        environ = {**self.env, **self.extra, "HOME": "/nonexistent", **env}
        words = [*other, *self.argv("--round", name, *options)]
        done = subprocess.run(words, check=False, env=environ, capture_output=True, text=True, cwd=self.folder)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def protect(self) -> None:
        """Everyone may read everything, and only root may write."""
        for path in (self.folder, *self.folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o555 if path.is_dir() else 0o444)

    def unprotect(self) -> None:
        for path in (self.folder, *self.folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)


@pytest.fixture
def reader() -> Iterator[Reader]:
    """Not in `tmp_path`, which no other user can read."""
    made = Reader(folder=Path(tempfile.mkdtemp()))
    temporary = Path(tempfile.mkdtemp())
    made.extra["TMPDIR"] = str(temporary)
    made.folder.chmod(0o755)
    temporary.chmod(0o1777)
    for name in CODE:
        source = REPOSITORY / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, made.folder / name)
    made.write({
        "e": {"path": "e", "command": ["bash", "-c", "echo no room; exit 1"]},
        "f": {"path": "f", "command": "true", "config": {"x": 1}},
    })  # fmt: skip
    made.write({"e": {"path": "e", "command": "true"}}, "new")
    try:
        if os.geteuid() == 0 and (shutil.which("setpriv") is None or made.read("--help").returncode):
            pytest.skip("another user cannot run the Python of these tests")
        yield made
    finally:
        made.kill()
        made.unprotect()
        shutil.rmtree(made.folder, ignore_errors=True)
        shutil.rmtree(temporary)


def test_a_round_is_shown_without_write_permission(reader: Reader) -> None:
    reader.call()
    reader.protect()
    before = snapshot(reader.experiments)
    status = reader.read("--status")
    assert (status.returncode, status.stderr) == (DONE, "")
    assert re.search(r"^f +completed", status.stdout, re.MULTILINE)
    rows = {row["path"]: row for row in json.loads(reader.read("--status", "--json").stdout)}
    assert rows["f"]["state"] == "completed"
    assert (rows["e"]["state"], rows["e"]["attempt"]) == ("failed", 2)
    assert rows["e"]["reason"].endswith("error (exit code 1). Last log line: no room")
    why = reader.read("--why", "e")
    assert (why.returncode, why.stderr) == (DONE, "")
    assert "exit code 1" in why.stdout
    assert "    no room" in why.stdout
    planned = reader.read("--dry-run")
    assert (planned.returncode, planned.stderr) == (DONE, "")
    assert snapshot(reader.experiments) == before


@pytest.mark.parametrize("home", ["/nonexistent", "/proc", ""])
def test_a_round_that_has_never_run_is_planned_without_write_permission_and_home(reader: Reader, home: str) -> None:
    """The folder of the records has a space, so that a link in the home directory would be of use."""
    reader.protect()
    records = str(reader.folder / "no records yet")
    for scheduler in ("local", "auto"):
        planned = reader.read("--dry-run", "--experiments", records, "--scheduler", scheduler, name="new", HOME=home)
        assert planned.returncode == DONE, planned.stderr
        assert "1 single job would be submitted" in planned.stdout
        script = Path(planned.stdout.split("Scripts: ")[1].strip(), "e.sh")
        assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert reader.read("--status", "--experiments", records, name="new", HOME=home).returncode == DONE
    assert not Path(records).exists()


def test_what_needs_write_permission_is_refused_in_one_line(reader: Reader) -> None:
    reader.call()
    reader.protect()
    for options in ([], ["--retry"], ["--cancel"], ["--archive", "--force"]):
        done = reader.read(*options)
        assert done.returncode == SYSTEM_ERROR, done.stderr
        assert done.stderr.splitlines()[-1].endswith("Permission denied")


def test_records_that_cannot_be_read_are_reported(reader: Reader) -> None:
    reader.call()
    reader.directory("e").chmod(0)
    (reader.directory("f") / "attempts" / "1" / "out.log").chmod(0)
    status = reader.read("--status")
    assert status.returncode == SYSTEM_ERROR
    assert re.search(r"^e +blocked .*cannot be read: Permission denied", status.stdout, re.MULTILINE)
    assert re.search(r"^f +completed", status.stdout, re.MULTILINE)
    assert "out.log cannot be read: Permission denied" in reader.read("--why", "f").stdout
    assert "cannot be read: Permission denied" in reader.read("--why", "e").stdout


def test_a_dry_run_without_a_directory_for_its_scripts_prints_the_plan(reader: Reader) -> None:
    taken = Path(reader.extra["TMPDIR"], f"roundhouse-{NOBODY if os.geteuid() == 0 else os.getuid()}")
    for make in (taken.touch, lambda: taken.symlink_to(reader.folder), lambda: shared(taken)):
        make()
        planned = reader.read("--dry-run", name="new")
        assert planned.returncode == DONE
        assert re.search(r"the job scripts were not written: .*/roundhouse-\d+: ", planned.stderr)
        assert planned.stdout.endswith("1 single job would be submitted through local (site default).\n")
        assert not list(reader.folder.glob("new-*"))
        taken.rmdir() if taken.is_dir() and not taken.is_symlink() else taken.unlink()


def shared(directory: Path) -> None:
    """Make a directory that others can use: with root, that of another user, who could replace what is in it."""
    directory.mkdir()
    directory.chmod(0o777)


# --------------------------------------------------------------------------------------------------- dry-run folders


ROUND = Path("/project/experiments/r")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def jobs(script: Callable[[], str]) -> list[PlannedJob]:
    experiment = Experiment("r", "e", "e", None, {}, Resources(), command=("true",))

    status: Any = SimpleNamespace(experiment=experiment)
    return [PlannedJob("single job", [status], Resources(), script)]


def test_each_dry_run_of_a_round_replaces_the_scripts_of_the_one_before(temporary: Path) -> None:
    first, _ = dry_run.write(jobs(lambda: "old"), ROUND)
    assert first is not None
    (first / "left_over.sh").touch()
    assert dry_run.write(jobs(lambda: "new"), ROUND) == (first, [])
    other, _ = dry_run.write(jobs(lambda: "other"), Path("/another/experiments/r"))
    assert other not in (None, first)
    assert [(path.name, path.read_text()) for path in first.iterdir()] == [("e.sh", "new")]
    (mine,) = temporary.iterdir()
    assert len(list(mine.iterdir())) == 2
    assert stat.S_IMODE(mine.stat().st_mode) == 0o700


def test_a_dry_run_waits_until_another_has_written_its_scripts(temporary: Path) -> None:
    entered, proceed = threading.Event(), threading.Event()

    def slow() -> str:
        entered.set()
        proceed.wait(60)
        return "first"

    with ThreadPoolExecutor() as pool:
        first = pool.submit(dry_run.write, jobs(slow), ROUND)
        assert entered.wait(60)
        second = pool.submit(dry_run.write, jobs(lambda: "second"), ROUND)
        time.sleep(0.3)
        assert not second.done()
        proceed.set()
        folder, _ = first.result()
        assert second.result() == (folder, [])
    assert folder is not None
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("e.sh", "second")]


@pytest.mark.parametrize(("mode", "owner"), [(0o770, None), (0o705, None), (0o701, None), (0o700, NOBODY)])
def test_a_directory_that_others_can_use_gets_no_scripts(temporary: Path, mode: int, owner: int | None) -> None:
    directory = temporary / f"roundhouse-{os.getuid()}"
    directory.mkdir()
    directory.chmod(mode)
    if owner is not None:
        if os.geteuid() != 0:
            pytest.skip("only root can open a directory that another user has made with this mode")
        os.chown(directory, owner, -1)
    with pytest.raises(PermissionError, match="other users can use it: remove it, or set TMPDIR"):
        dry_run.write(jobs(lambda: "x"), ROUND)
    assert not list(directory.iterdir())
