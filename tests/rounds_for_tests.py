"""Round files, runner.py and job scripts in temporary folders, for tests that really run them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml

from roundhouse.config.site import Site
from roundhouse.engine import job_script
from roundhouse.engine.context import PassContext
from roundhouse.model.attempt import Attempt, Opened, Record
from roundhouse.model.experiment import Experiment, Resources
from roundhouse.store import json_fields, record

REPOSITORY = Path(__file__).parent.parent
MARK = "ROUNDHOUSE_TEST"  # in the environment of all processes that a test starts, also of orphans
PATIENCE = 60.0  # seconds after which something that must happen has not


def wait_for(happened: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Poll until `happened` is true; fail with `what` when it takes too long."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def snapshot(directory: Path) -> dict[str, tuple[int, str]]:
    """Everything in a directory: when each file changed last, and the hash of its content.

    Locks are left out: some versions of filelock set their time again, or delete them.
    """
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def fill(disk: Path) -> Path:
    """Leave no room on a small disk; returns the file that takes it."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return ballast


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A disk of this size at `place`; the test is skipped where none can be mounted."""
    place.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(words, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted: needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """Living processes with this in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@dataclass
class Marked:
    """Processes of one test, known by a variable that they all inherit."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def gpus(self) -> list[str]:
        return [f"GPU-{self.mark}-{number}" for number in range(2)]

    @property
    def env(self) -> dict[str, str]:
        # Two GPUs that no other process uses: two slots, however many cores there are, and whatever else runs here.
        ours = ("ROUNDHOUSE_", "SLURM_", "PBS_")
        outside = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        return {**outside, MARK: self.mark, "CUDA_VISIBLE_DEVICES": ",".join(self.gpus), "COLUMNS": "200"}

    def processes(self) -> list[psutil.Process]:
        return [process for process in processes_with(MARK, self.mark) if process.pid != os.getpid()]

    def kill(self) -> None:
        """End them all, those that they start meanwhile too."""
        for _ in range(100):
            living = self.processes()
            if not living:
                return
            for process in living:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.05)


@dataclass
class Rounds(Marked):
    """Round files of one test, their experiments, and runner.py on them."""

    folder: Path = Path()
    extra: dict[str, str] = field(default_factory=dict)  # more of the environment

    @property
    def need(self) -> dict[str, Any]:
        """Further keys of a round of groups."""
        return {"resources": {"ngpus": 1}}

    @property
    def rounds(self) -> Path:
        return self.folder / "rounds"

    @property
    def experiments(self) -> Path:
        return self.folder / "experiments"

    @property
    def analysis(self) -> Path:
        return self.folder / "analysis"

    @property
    def notes(self) -> Path:
        """A folder in which the experiments' commands leave notes for the test."""
        return self.folder / "notes"

    def write(self, content: dict[str, Any] | str, name: str = "r") -> Path:
        """rounds/NAME.yaml, of these groups or of this text.

        Here they ask for a GPU, of which each test has its own; all tests would share the CPU cores.
        """
        self.rounds.mkdir(parents=True, exist_ok=True)
        self.notes.mkdir(exist_ok=True)
        path = self.rounds / f"{name}.yaml"
        if not isinstance(content, str):
            content = yaml.safe_dump({"round": name, **self.need, "experiments": content}, sort_keys=False)
        path.write_text(content)
        return path

    def argv(self, *options: str) -> list[str]:
        words = [sys.executable, str(REPOSITORY / "runner.py"), *options]
        words += [] if "--rounds" in options else ["--rounds", str(self.rounds)]
        words += [] if "--experiments" in options else ["--experiments", str(self.experiments)]
        words += [] if "--analysis" in options else ["--analysis", str(self.analysis)]
        words += [] if "--scheduler" in options else ["--scheduler", "local"]
        return words

    def call(self, *options: str, name: str = "r", timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """One call of runner.py to its end. Never with a traceback."""
        done = subprocess.run(
            self.argv("--round", name, *options),
            check=False, env={**self.env, **self.extra}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        return done

    def start(self, *options: str, name: str = "r", **popen: Any) -> subprocess.Popen[str]:
        """A call of runner.py that runs while the test continues."""
        return subprocess.Popen(
            self.argv("--round", name, *options),
            env={**self.env, **self.extra}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True, **popen,
        )  # fmt: skip

    def status(self, *options: str, name: str = "r") -> dict[str, dict[str, Any]]:
        """`--status --json`, by path."""
        done = self.call("--status", "--json", *options, name=name)
        return {row["path"]: row for row in json.loads(done.stdout)}

    def states(self, name: str = "r") -> dict[str, str]:
        return {path: row["state"] for path, row in self.status(name=name).items()}

    def directory(self, path: str, name: str = "r") -> Path:
        return self.experiments / name / path

    def record(self, path: str, name: str = "r") -> Record:
        return record.read(self.directory(path, name))

    def causes(self, path: str, name: str = "r") -> list[str]:
        return [str(attempt.cause) for attempt in self.record(path, name).attempts]

    def lines(self, name: str) -> list[str]:
        """What commands have noted in a file."""
        path = self.notes / name
        return path.read_text().splitlines() if path.exists() else []

    def jobs(self) -> list[psutil.Process]:
        """Living processes of jobs."""
        found = []
        for process in self.processes():
            try:
                if "ROUNDHOUSE_TOKEN" in process.environ():
                    found.append(process)
            except psutil.Error:
                continue
        return found


def finish(process: subprocess.Popen[str], seconds: float = PATIENCE) -> tuple[int, str]:
    """Wait for a call that was started: its exit code, and what it printed."""
    out, _ = process.communicate(timeout=seconds)
    assert "Traceback" not in out, out
    return process.returncode, out


def interrupt(process: subprocess.Popen[str], number: int = signal.SIGINT) -> None:
    os.kill(process.pid, number)


@pytest.fixture
def rounds(tmp_path: Path) -> Iterator[Rounds]:
    """A folder for rounds; when the test ends, so does all that it started."""
    made = Rounds(folder=tmp_path)
    made.rounds.mkdir()
    made.notes.mkdir()
    try:
        yield made
    finally:
        made.kill()


@dataclass
class Bench(Marked):
    """One experiment, a train.py written by the test (run by /bin/sh), and job scripts for its attempts."""

    folder: Path = Path()
    path: str = "e/0"
    site: Site = field(default_factory=Site)
    resources: Resources = field(default_factory=Resources)
    kind: str = "local"
    python: str = "/bin/sh"
    token: str = "rhabcdefghijklm"
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def experiment(self) -> Experiment:
        return Experiment("r", "e", self.path, None, {}, self.resources, command=("true",))

    @property
    def directory(self) -> Path:
        return self.folder / "experiments" / "r" / self.path

    def place(self, number: int = 1) -> Path:
        return record.attempt_directory(self.directory, number)

    def train(self, program: str) -> None:
        """What train.py is: a program for /bin/sh, whose $1 is the experiment's directory."""
        self.repository.mkdir(exist_ok=True)
        templates = self.repository / "templates"
        if not templates.exists():
            templates.symlink_to(REPOSITORY / "templates")
        (self.repository / "train.py").write_text(program)

    def use_the_real_train(self, *command: str) -> None:
        self.python = sys.executable
        self.train("")
        (self.repository / "train.py").write_text(
            f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import train; sys.exit(train.main(sys.argv))"
        )
        self.open(Experiment("r", "e", self.path, None, {}, self.resources, command=command))

    def open(self, experiment: Experiment | None = None, number: int = 1, token: str | None = None) -> None:
        experiment = experiment or self.experiment
        scheduler = {"kind": "local", "server": "here", "user": "me", "boot": "now"}
        folder = json_fields.FILES if experiment.command and self.python == sys.executable else ""
        opened = Opened(token or self.token, scheduler, experiment.config_hash(), {}, files=folder)
        assert record.open_attempt(self.directory, number, opened)
        record.write_config(self.directory, experiment)

    def script(self, number: int = 1) -> Path:
        scheduler: Any = SimpleNamespace(kind=self.kind)
        run: Any = None
        place = PassContext(self.folder / "experiments", self.repository, self.site, scheduler, run, self.python)
        script = self.folder / "job.sh"
        script.write_text(place.script(self.experiment, number, self.token))
        return script

    def start(self, script: Path | None = None, job_id: str | None = "7", **popen: Any) -> subprocess.Popen[str]:
        env = {**self.env, **self.extra}
        if job_id is not None:
            env[job_script.JOB_ID_VARIABLES[self.kind]] = job_id
        return subprocess.Popen(
            ["bash", str(script or self.script())],
            cwd=self.folder, env=env, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **popen,
        )  # fmt: skip

    def run(self, script: Path | None = None, job_id: str | None = "7") -> tuple[int, str]:
        """The job to its end: its exit code, and what it printed outside its log."""
        process = self.start(script, job_id)
        out, _ = process.communicate(timeout=60)
        return process.returncode, out

    def attempt(self, number: int = 1) -> Attempt:
        rec = record.read(self.directory)
        assert not rec.damage
        assert not rec.notes
        return next(attempt for attempt in rec.attempts if attempt.number == number)

    def result(self, number: int = 1) -> Any:
        result = self.attempt(number).result
        assert result is not None, "the attempt has no result"
        return result

    def log(self, number: int = 1) -> str:
        return (self.place(number) / record.LOG).read_text()

    def running(self) -> Callable[[], bool]:
        """Whether train.py, or the command that it runs, has started, which it reports by a file `going`."""
        return (record.files_directory(self.directory, self.attempt()) / "going").exists

    def python_of(self, shell: subprocess.Popen[str]) -> psutil.Process:
        children = psutil.Process(shell.pid).children()
        assert len(children) == 1
        return children[0]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(folder=tmp_path)
    made.train("echo trained")
    try:
        yield made
    finally:
        made.kill()


def fake_command(folder: Path, name: str, program: str) -> str:
    """A PATH on which `name` is a program written by the test."""
    commands = folder / "commands"
    commands.mkdir(exist_ok=True)
    (commands / name).write_text(f"#!/bin/sh\n{program}\n")
    (commands / name).chmod(0o755)
    return f"{commands}:{os.environ['PATH']}"
