"""Rounds on a cluster, for tests: separate sites, commands that wait to be released, and time that passes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from cluster import SlurmCluster
from fake_pbs import FakePBS
from fakes import fakepbs
from rounds_for_tests import MARK, PATIENCE, REPOSITORY, Rounds, wait_for

from roundhouse.store import record

DONE, WORK_REMAINS, FAILED, TROUBLE = 0, 3, 4, 5  # exit codes of runner.py

# It counts to 5, writes each step into its directory, continues where an earlier attempt ended, and waits at
# step 3 until it is released. It writes what it did to notes/NAME.
STEPS = """\
import os, sys, time

name, notes, directory = sys.argv[1:]

def note(line):
    with open(f"{notes}/{name}", "a") as file:
        file.write(line + "\\n")

start = 0
for place in os.environ["ROUNDHOUSE_EARLIER"].split(":"):
    if place and os.path.exists(f"{place}/step"):
        start = int(open(f"{place}/step").read())
        break
note(f"begin {start}")
for step in range(start + 1, 6):
    if step == 4:
        note("waits")
        while not os.path.exists(f"{notes}/{name}.go"):
            time.sleep(0.05)
    with open(f"{directory}/step.new", "w") as file:
        file.write(str(step))
    os.replace(f"{directory}/step.new", f"{directory}/step")
note("end")
"""

# Several passes in one process, as --watch makes them, without the pauses.
PASSES = """\
import contextlib, json, sys, time
sys.path.insert(0, {repository!r})
import runner
from roundhouse.cli import context
if {unlocked}:
    context.lock = lambda *_: contextlib.nullcontext()
codes = []
while len(codes) < {count} and (not codes or codes[-1] not in {until}):
    codes.append(runner.main(sys.argv[1:]))
    time.sleep({pause})
print(json.dumps(codes))
"""


@dataclass
class ClusterRounds(Rounds):
    """Rounds whose runner.py and sites are in a folder of the test."""

    scheduler: str = ""
    site: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.repository.mkdir()
        (self.repository / "sites").mkdir()
        shutil.copy(
            REPOSITORY / "runner.py", self.repository
        )  # a link would lead it back to the repository's own sites
        for name in ("train.py", "roundhouse", "templates", "studies"):
            (self.repository / name).symlink_to(REPOSITORY / name)
        self.rounds.mkdir()
        self.notes.mkdir()
        (self.folder / "steps.py").write_text(STEPS)
        self.set_site()

    @property
    def need(self) -> dict[str, Any]:
        return {}  # the clusters of tests have no GPUs

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    def set_site(self, name: str = "test", **changes: Any) -> None:
        """sites/NAME.yaml: jobs write a heartbeat twice a second, and carry this test's token."""
        variables = {"ROUNDHOUSE_SIGN_OF_LIFE": "0.5", MARK: self.mark}
        site = {"scheduler": self.scheduler, "environment": variables, **self.site, **changes}
        (self.repository / "sites" / f"{name}.yaml").write_text(yaml.safe_dump(site))

    def argv(self, *options: str) -> list[str]:
        words = [sys.executable, str(self.repository / "runner.py"), *options]
        words += [] if "--experiments" in options else ["--experiments", str(self.experiments)]
        words += ["--rounds", str(self.rounds)]
        return words if "--site" in options else [*words, "--site", "test"]

    def passing(
        self, count: int, *options: str, until: tuple[int, ...] = (), pause: float = 0.0, unlocked: bool = False
    ) -> subprocess.Popen[str]:
        """A process that makes `count` passes one after the other, or fewer if one ends with a code in `until`."""
        code = PASSES.format(repository=str(self.repository), unlocked=unlocked, count=count, until=until, pause=pause)
        return subprocess.Popen(
            [sys.executable, "-c", code, *self.argv("--round", "r", *options)[2:]],
            env={**self.env, **self.extra}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ what runs

    def steps(self, name: str) -> list[str]:
        """The command of an experiment that counts to 5, and waits at 3 until `release`."""
        return [sys.executable, "-SE", str(self.folder / "steps.py"), name, str(self.notes), "{directory}"]

    def write_steps(self, *names: str, **group: Any) -> None:
        """rounds/r.yaml: one such experiment for each name."""
        command = self.steps("{name}")
        self.write({"all": {"path": "{name}", "grid": {"name": list(names)}, "command": command, **group}})

    def release(self, *names: str) -> None:
        for name in names:
            (self.notes / f"{name}.go").touch()

    def begun(self, name: str) -> list[int]:
        """At which step each start of the command began."""
        return [int(line.split()[1]) for line in self.lines(name) if line.startswith("begin")]

    def wait_for_step_3(self, name: str, times: int = 1) -> None:
        wait_for(
            lambda: self.lines(name).count("waits") == times, f"{name} waits at step 3 ({times}); {self.lines(name)}"
        )

    def pass_until(self, happened: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        """Make passes until `happened` is true."""
        wait_for(lambda: happened() or (self.call() and happened()), what, seconds)

    def pass_until_done(self, seconds: float = PATIENCE) -> None:
        codes = finish_passes(self.passing(int(5 * seconds), until=(DONE, FAILED), pause=0.2))
        assert codes[-1] == DONE, self.states()

    # ------------------------------------------------------------------------------------------ the record

    def attempt(self, path: str, number: int = 1) -> Path:
        return record.attempt_directory(self.directory(path), number)

    def view(self, path: str, name: str = "r") -> dict[str, Any]:
        """status.json."""
        view: dict[str, Any] = json.loads((self.directory(path, name) / "status.json").read_text())
        return view

    def state(self, path: str, name: str = "r") -> str:
        return str(self.view(path, name)["state"])

    def let_time_pass(self, path: str, seconds: float = 1000) -> None:
        """Make the files of the newest attempt older: waiting for that is not for tests."""
        newest = self.record(path).newest
        assert newest is not None
        for file in self.attempt(path, newest.number).iterdir():
            then = file.stat().st_mtime - seconds
            os.utime(file, (then, then))

    def give_up(self, path: str) -> None:
        """Passes that find the job gone, and close its attempt after the grace periods."""
        newest = self.record(path).newest
        assert newest is not None and not newest.closed
        self.pass_until(lambda: (self.attempt(path, newest.number) / "gone").exists(), f"{path} is missed")
        self.let_time_pass(path)
        self.call("--limit", "0")
        assert self.record(path).attempts[newest.number - 1].closed, self.view(path)

    def shell(self, path: str, number: int = 1) -> psutil.Process:
        """The shell that claimed an attempt."""
        return psutil.Process(json.loads((self.attempt(path, number) / "claim.json").read_text())["pid"])

    def python(self, path: str, number: int = 1) -> psutil.Process:
        """The train.py that it started."""
        (found,) = [one for one in self.shell(path, number).children() if "train.py" in " ".join(one.cmdline())]
        return found

    def family(self, path: str, number: int = 1) -> list[psutil.Process]:
        """The shell and all below it, the shell first."""
        shell = self.shell(path, number)
        return [shell, *shell.children(recursive=True)]


def finish_passes(process: subprocess.Popen[str], seconds: float = 120) -> list[int]:
    """The exit codes of the passes of `ClusterRounds.passing`."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    assert "Traceback" not in err, err
    codes: list[int] = json.loads(out.splitlines()[-1])
    return codes


def freeze(processes: list[psutil.Process]) -> None:
    """Halt them where they are; a process that has ended since it was listed is skipped."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()


def dead(process: psutil.Process) -> bool:
    """Whether a process has ended, waited for by its parent or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def pbs_rounds(fake: FakePBS, folder: Path, **site: Any) -> Iterator[ClusterRounds]:
    """Rounds on the fake PBS."""
    settings = {key: fake.env[key] for key in ("FAKE_PBS", "PATH")}
    made = ClusterRounds(folder=folder, extra=settings, scheduler="pbs", site=site)
    try:
        yield made
    finally:
        fake.shut_down()
        for shell in shells_of(fake):  # those that the fake was made to forget
            with suppress(psutil.NoSuchProcess):
                shell.kill()
        made.kill()


def shells_of(fake: FakePBS) -> list[psutil.Process]:
    """The shells of all jobs of this fake that are still there."""
    spool = str(fake.folder / "spool")
    return [one for one in psutil.process_iter(["cmdline"]) if spool in " ".join(one.info["cmdline"] or ())]


def names_of(fake: FakePBS) -> list[str]:
    """The names of all jobs that the fake ever accepted, while it keeps history."""
    return [job["Job_Name"] for job in fake.jobs().values()]


def experiments_of(fake: FakePBS) -> list[tuple[str, int]]:
    """(path, attempt) of all jobs that the fake ever accepted, from their scripts."""
    found = []
    for job_id in fake.jobs():
        script = Path(fake.folder, "spool", f"{job_id}.SC").read_text()
        path, number = (re.search(rf"^{key}=(.*)$", script, re.MULTILINE) for key in ("experiment", "number"))
        if path and number:
            found.append((path[1].strip("'").rpartition("/")[2], int(number[1])))
    return found


def live(fake: FakePBS) -> int:
    """How many jobs are queued or running, ours or not."""
    count: int = fakepbs.counts(fake.jobs())
    return count


def accepted(fake: FakePBS) -> int:
    """How many jobs the fake has ever accepted."""
    count: int = fake.server.read()["next"] - 1
    return count


def wrap_command(rounds: ClusterRounds, command: str, before: str = "", after: str = "") -> None:
    """Put a wrapper around one of the scheduler's commands, which misbehaves the first time that it is called."""
    real = shutil.which(command, path=rounds.extra["PATH"])
    folder = rounds.folder / "wrapped"
    folder.mkdir(exist_ok=True)
    wrapper = folder / command
    wrapper.write_text(
        f'#!/bin/bash\n[ "$1" != --version ] || exec {real} "$@"\n'
        f'if mkdir "{folder}/{command}.called" 2>/dev/null; then\n{before or ":"}\n{real} "$@"\n'
        f'code=$?\n{after or ":"}\nexit $code\nfi\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    rounds.extra["PATH"] = f"{folder}:{rounds.extra['PATH']}"


def forget(fake: FakePBS, job_id: str) -> None:
    """The server loses a job that runs on."""
    with fake.server.change() as state:
        job = state["jobs"].pop(job_id)
    os.kill(job["supervisor"], signal.SIGKILL)


def slurm_rounds(cluster: SlurmCluster, folder: Path) -> ClusterRounds:
    extra = {key: cluster.env[key] for key in ("SLURM_CONF", "PATH")}
    return ClusterRounds(folder=folder, extra=extra, scheduler="slurm")


@pytest.fixture
def slurm(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[ClusterRounds]:
    """Rounds that go to the private Slurm by sbatch."""
    yield from _rounds_on(slurm_cluster, slurm_rounds(slurm_cluster, tmp_path))


@pytest.fixture
def torque(slurm_cluster: SlurmCluster, torque_cluster: SlurmCluster, tmp_path: Path) -> Iterator[ClusterRounds]:
    """Rounds that go to the same cluster by qsub."""
    extra = {key: torque_cluster.env[key] for key in ("SLURM_CONF", "PATH")}
    yield from _rounds_on(slurm_cluster, ClusterRounds(folder=tmp_path, extra=extra, scheduler="pbs"))


def _rounds_on(cluster: SlurmCluster, made: ClusterRounds) -> Iterator[ClusterRounds]:
    try:
        yield made
    finally:
        cluster.clear()
        made.kill()
