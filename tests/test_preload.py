"""Preloaded jobs run, end and die like jobs that start their own Python."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rounds_for_tests import REPOSITORY, Marked, wait_for

from roundhouse.config.site import Site
from roundhouse.engine.context import PassContext
from roundhouse.engine.local_loop import STOP_AGAIN
from roundhouse.machine import pool
from roundhouse.model.attempt import Attempt, Opened
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.store import record

OPTIONS = """\
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    epochs: int = 2
    do: str = ""
"""
TRAIN = """\
import atexit, os, signal, sys, time
from small_study import SmallStudy

def train(run, options, inputs, data):
    Tiny(options)(run)

class Tiny(SmallStudy):
    def __init__(self, options):
        super().__init__((1, options.epochs))
        self.program = options.do

    def train_epoch(self, run, epoch, optimizer):
        exec(self.program)
        super().train_epoch(run, epoch, optimizer)
"""
LONG = 10**6  # epochs; no test waits for their end


@dataclass
class Agent(Marked):
    """A running agent in a repository of its own, with one small study."""

    folder: Path = Path()
    study: str = "tiny"
    lines: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(10**6)))

    @property
    def root(self) -> Path:
        return self.folder / "repository"

    def begin(self) -> Agent:
        (self.root / "studies" / "tiny").mkdir(parents=True)
        for name in ("roundhouse", "templates"):
            (self.root / name).symlink_to(REPOSITORY / name)
        (self.root / "train.py").write_text((REPOSITORY / "train.py").read_text())
        (self.root / "studies/__init__.py").touch()
        for name, text in (("__init__", ""), ("options", OPTIONS), ("train", TRAIN)):
            (self.root / f"studies/tiny/{name}.py").write_text(text)
        self.process = subprocess.Popen(
            [sys.executable, REPOSITORY / "tests" / "agent_for_tests.py", self.root, self.study],
            env={**self.env, "PYTHONPATH": str(REPOSITORY / "tests"), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "agent.log").open("ab"),
        )
        self.wait_until("ready")
        return self

    def wait_until(self, word: str) -> str:
        """The rest of the agent's first line that begins with this word."""
        assert self.process.stdout is not None
        while not (line := next((one for one in self.lines if one.startswith(word)), "")):
            got = self.process.stdout.readline().decode()
            assert got, (self.folder / "agent.log").read_text()
            self.lines.append(got)
        self.lines.remove(line)
        return line.removeprefix(word).strip()

    def job(self, threads: int = 1, **config: Any) -> Job:
        experiment = Experiment(
            "r", "e", f"e/{next(self.numbers)}", "tiny", {"device": "cpu", "precision": "fp32", **config}
        )
        return Job(self, experiment, threads)

    def command(self, script: str) -> Job:
        experiment = Experiment("r", "e", f"e/{next(self.numbers)}", None, {}, command=("sh", "-c", script))
        return Job(self, experiment)


@dataclass
class Job:
    """One experiment, and its attempts through an agent."""

    agent: Agent
    experiment: Experiment
    threads: int = 1
    number: int = 0
    shell: int = 0

    @property
    def directory(self) -> Path:
        return self.agent.folder / "experiments" / "r" / self.experiment.path

    @property
    def place(self) -> Path:
        return record.attempt_directory(self.directory, self.number)

    def start(self) -> Job:
        """Open the next attempt, and let the agent start it."""
        self.number, self.token = self.number + 1, record.new_token()
        opened = Opened(self.token, {"kind": "local"}, self.experiment.config_hash(), {})
        assert record.open_attempt(self.directory, self.number, opened)
        record.write_config(self.directory, self.experiment)
        scheduler: Any = SimpleNamespace(kind="local")
        run: Any = None
        place = PassContext(self.agent.folder / "experiments", self.agent.root, Site(), scheduler, run, sys.executable)
        script = self.place / "job.sh"
        script.write_text(place.script(self.experiment, self.number, self.token))
        assert self.agent.process.stdin is not None
        self.agent.process.stdin.write(f"{script} {self.token} {self.threads}\n".encode())
        self.agent.process.stdin.flush()
        self.shell = int(self.agent.wait_until(f"started {self.token}"))
        return self

    def end(self) -> int:
        """Wait for its end; returns the exit code of its shell."""
        return int(self.agent.wait_until(f"ended {self.token}"))

    def run(self) -> Job:
        self.start().end()
        return self

    @property
    def attempt(self) -> Attempt:
        return record.read(self.directory).attempts[self.number - 1]

    @property
    def log(self) -> str:
        return (self.place / record.LOG).read_text()

    def result(self) -> tuple[Cause, int | None, tuple[str, ...]]:
        result = self.attempt.result
        assert result is not None, self.log + (self.place / "scheduler.log").read_text()
        return result.cause, result.exit_code, result.signals

    def final_hash(self) -> str:
        assert self.result()[0] is Cause.COMPLETED, self.log
        return str(json.loads((self.place / record.PROGRESS).read_text())["final_hash"])

    def trains(self, epochs: int = 2) -> Callable[[], bool]:
        return lambda: (progress := self.attempt.progress) is not None and progress.epoch >= epochs

    def processes(self) -> list[psutil.Process]:
        """Its live processes, which write its logs: shell, supervisor, training."""
        found = []
        for one in self.agent.processes():
            with suppress(OSError):
                if Path(os.readlink(f"/proc/{one.pid}/fd/1")).parent == self.place:
                    found.append(one)
        return found


def begin(folder: Path, study: str = "tiny") -> Iterator[Agent]:
    made = Agent(folder=folder, study=study)
    try:
        yield made.begin()
    finally:
        made.kill()
        made.process.communicate()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    yield from begin(tmp_path_factory.mktemp("agent"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent that preloads nothing."""
    yield from begin(tmp_path_factory.mktemp("plain"), "-")


def python_of(job: Job) -> psutil.Process:
    """The process that trains: it is in the group of another process, the subshell that waits for it."""
    (found,) = [one for one in job.processes() if os.getpgid(one.pid) not in (job.shell, one.pid)]
    return found


def ended_if_signalled_again(job: Job, again: float, number: int = signal.SIGTERM) -> Callable[[], bool]:
    """Bash may lose a signal that comes while it reads the script, or soon after another signal."""

    def ended() -> bool:
        if time.monotonic() > again:
            with suppress(ProcessLookupError):
                os.kill(job.shell, number)
        return not Path(f"/proc/{job.shell}").exists()

    return ended


def supervisor_of(job: Job) -> psutil.Process:
    found = python_of(job).parent()
    assert found is not None
    assert found.ppid() == job.shell
    return found


# ------------------------------------------------------------------------------------------------ jobs that complete


@pytest.mark.parametrize("threads", [1, 2])
def test_a_preloaded_training_is_bit_identical_to_one_in_a_python_of_its_own(
    agent: Agent, plain: Agent, threads: int
) -> None:
    program = 'print("seen:", torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], sys.argv[0], os.getcwd())'
    preloaded, fresh = (one.job(threads, epochs=3, do=f"import torch; {program}").run() for one in (agent, plain))
    assert preloaded.final_hash() == fresh.final_hash()
    for job in (preloaded, fresh):
        seen = f"seen: {threads} {threads} {job.agent.root}/train.py {job.agent.root}"
        assert job.log.count(seen) == 4
    environments = [json.loads((job.place / record.ENVIRONMENT).read_text()) for job in (preloaded, fresh)]
    assert environments[0] == environments[1]


def test_a_preloaded_training_starts_no_other_python_and_prints_in_order(agent: Agent) -> None:
    job = agent.job(do="print('between', file=sys.stderr); print('pid', os.getppid())").run()
    lines = [line.split()[0] for line in job.log.splitlines()]
    assert lines == ["roundhouse:", *["between", "pid", "epoch"] * 3, "roundhouse:", "roundhouse:"]
    assert "starting another" not in job.log
    assert (job.place / "scheduler.log").read_text() == ""


def test_unseeded_generators_differ_between_trainings(agent: Agent) -> None:
    program = "import random, numpy; print('drew', random.SystemRandom().random(), os.getpid())"
    jobs = [agent.job(do=program).run() for _ in range(2)]
    assert jobs[0].final_hash() == jobs[1].final_hash()
    assert not {line for line in jobs[0].log.splitlines() if "drew" in line} & set(jobs[1].log.splitlines())


def test_a_command_has_the_same_environment_with_and_without_preloading(agent: Agent, plain: Agent) -> None:
    script = "env | cut -d= -f1 | sort; pwd; umask; ls /proc/self/fd; grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status"
    ran = [one.command(script).run() for one in (agent, plain)]
    seen = [
        [line.replace(str(job.agent.folder), "") for line in job.log.splitlines() if not line.startswith("roundhouse:")]
        for job in ran
    ]
    assert [job.result()[0] for job in ran] == [Cause.COMPLETED] * 2
    assert seen[0] == seen[1]


def test_a_training_inherits_no_open_file(agent: Agent, plain: Agent) -> None:
    program = "print('open', sorted(os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in (0, 1, 2)), "
    program += "[n for n in os.listdir('/proc/self/fd') if int(n) > 2 and os.path.exists(f'/proc/self/fd/{n}')])"
    jobs = [one.job(do=program).run() for one in (agent, plain)]
    seen = [[line for line in job.log.splitlines() if line.startswith("open")] for job in jobs]
    assert [line.partition("]")[2] for line in seen[0]] == [line.partition("]")[2] for line in seen[1]]


def test_exit_handlers_run_and_output_is_flushed(agent: Agent) -> None:
    program = "atexit._clear() if 0 else atexit.register(print, 'at the end'); sys.stdout.write('no line')"
    job = agent.job(epochs=1, do=program).run()
    assert job.result()[0] is Cause.COMPLETED
    assert job.log.count("at the end\n") == 2
    assert job.log.count("no line") == 2


# ---------------------------------------------------------------------------------------- jobs that fail or are stopped


@pytest.mark.parametrize(
    ("program", "cause", "code", "message"),
    [
        ("raise ValueError('lost')", Cause.ERROR, 1, "ValueError: lost"),
        ("sys.exit(9)", Cause.ERROR, 9, "exit code 9"),
        ("sys.exit('enough')", Cause.ERROR, 1, "enough"),
        ("os._exit(5)", Cause.ERROR, 5, ""),
        ("raise MemoryError", Cause.MEMORY, 71, "memory ran out"),
        ("raise OSError(28, 'No space left', 'x.pth')", Cause.ERROR, 1, "x.pth: No space left"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", Cause.ERROR, 139, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", Cause.UNKNOWN, 137, ""),
        ("os.abort()", Cause.ERROR, 134, ""),
    ],
)
def test_a_training_that_fails_has_the_same_exit_code_and_message(
    agent: Agent, program: str, cause: Cause, code: int, message: str
) -> None:
    job = agent.job(do=program)
    assert job.start().end() == code
    assert job.result() == (cause, code, ())
    assert message in job.log
    assert "preload.py" not in job.log, "a traceback shows only the training"
    assert not job.processes()


def test_a_training_that_is_signalled_saves_a_checkpoint_and_resumes_exactly(agent: Agent) -> None:
    slow = "time.sleep(0.02)"
    straight = agent.job(epochs=40, do=slow).run()
    job = agent.job(epochs=40, do=slow).start()
    wait_for(job.trains(5), "it trains")
    os.kill(job.shell, signal.SIGTERM)
    assert job.end() == 75
    assert job.result() == (Cause.PREEMPTED, 75, ("TERM",))
    assert (job.place / "checkpoint.pth").exists()
    job.run()
    assert "resumed after epoch" in job.log
    assert job.final_hash() == straight.final_hash()


def test_a_signal_to_every_process_of_a_job_stops_it_like_one_to_its_shell(agent: Agent) -> None:
    """PBS signals all of them, and then the agent passes the signal on as well."""
    job = agent.job(epochs=LONG).start()
    wait_for(job.trains(5), "it trains")
    for process in job.processes():
        process.terminate()
    os.kill(job.shell, signal.SIGTERM)
    assert job.end() == 75
    assert job.result() == (Cause.PREEMPTED, 75, ("TERM",))


def test_a_training_that_takes_too_long_to_stop_is_killed_and_its_shell_writes_the_result(agent: Agent) -> None:
    job = agent.job(epochs=LONG, do="print('begins', flush=True); time.sleep(1000)").start()
    wait_for(lambda: (job.place / record.LOG).exists() and "begins" in job.log, "it trains")
    os.kill(job.shell, signal.SIGTERM)
    wait_for(ended_if_signalled_again(job, 0, pool.KILL_TRAINING), "it ends")
    assert job.end() == 137
    assert job.result() == (Cause.PREEMPTED, 137, ("TERM",))
    assert not job.processes()


def test_a_signal_at_any_moment_is_received(agent: Agent) -> None:
    chance = random.Random(1)
    jobs = []
    for number in range(24):
        job = agent.job(epochs=LONG).start()
        if number % 3 == 0:
            wait_for(lambda job=job: job.attempt.claim is not None, "it is claimed")
        time.sleep(chance.uniform(0, 0.12))
        os.kill(job.shell, signal.SIGTERM)
        jobs.append((job, time.monotonic()))
    for job, signalled in jobs:
        wait_for(ended_if_signalled_again(job, signalled + STOP_AGAIN), "it ends")
        job.end()
        assert not job.processes(), "nothing is left of it"
        if job.attempt.claim is not None:
            assert job.result()[0] is Cause.PREEMPTED
            assert job.result()[1] in (75, 143)


def test_a_training_whose_supervisor_is_killed_dies_and_counts_as_killed(agent: Agent) -> None:
    job = agent.job(epochs=LONG).start()
    wait_for(job.trains(), "it trains")
    supervisor_of(job).kill()
    assert job.end() == 137
    assert job.result() == (Cause.UNKNOWN, 137, ())
    assert not job.processes()


def test_a_training_whose_shell_is_killed_dies(agent: Agent) -> None:
    job = agent.job(epochs=LONG).start()
    wait_for(job.trains(), "it trains")
    os.kill(job.shell, signal.SIGKILL)
    assert job.end() == -signal.SIGKILL
    wait_for(lambda: not [one for one in job.processes() if one.name() != "bash"], "supervisor and training are gone")
    assert job.attempt.result is None


def test_a_job_whose_attempt_is_claimed_by_another_leaves_no_process(agent: Agent) -> None:
    job = agent.job().start()
    job.end()
    (job.place / record.RESULT).unlink()
    assert agent.process.stdin is not None
    agent.process.stdin.write(f"{job.place / 'job.sh'} rhother 1\n".encode())
    agent.process.stdin.flush()
    job.shell, job.token = int(agent.wait_until("started rhother")), "rhother"
    assert job.end() == 0
    wait_for(lambda: not job.processes(), "shell and supervisor are gone")
    assert job.attempt.result is None


@pytest.mark.parametrize("study", ["tiny", "-"])
def test_jobs_stay_in_the_session_of_the_agent_and_end_when_it_is_killed(tmp_path: Path, study: str) -> None:
    """PBS measures and kills a job by its session."""
    for agent in begin(tmp_path, study):
        training, command = agent.job(epochs=LONG).start(), agent.command("exec sleep 1000").start()
        wait_for(training.trains(), "it trains")
        wait_for(lambda job=command: "sleep" in [one.name() for one in job.processes()], "the command runs")
        for job in (training, command):
            assert {os.getsid(one.pid) for one in job.processes()} == {os.getsid(agent.process.pid)}
            assert os.getpgid(job.shell) == job.shell
        agent.process.kill()
        wait_for(lambda jobs=(training, command): not any(job.processes() for job in jobs), "nothing is left of them")
        assert (training.attempt.result, command.attempt.result) == (None, None)


# ------------------------------------------------------------------------------------------------ without preloading


@pytest.mark.parametrize(
    ("package", "message"),
    [("import no_such_module", "no_such_module"), ("raise ValueError('not now')", "not now")],
)
def test_a_study_that_cannot_be_imported_is_reported_once_and_each_job_starts_its_own_python(
    tmp_path: Path, package: str, message: str
) -> None:
    made = Agent(folder=tmp_path, study="broken")
    (tmp_path / "repository" / "studies" / "broken").mkdir(parents=True)
    (tmp_path / "repository" / "studies" / "broken" / "__init__.py").write_text(package)
    try:
        made.begin()
        for _ in range(2):
            assert made.command("true").run().result()[0] is Cause.COMPLETED
        log = (tmp_path / "agent.log").read_text()
        assert (log.count("nothing is preloaded"), message in log) == (1, True)
    finally:
        made.kill()
        made.process.communicate()


def test_an_experiment_with_other_code_starts_its_own_python(agent: Agent, tmp_path: Path) -> None:
    """For example with a copy of the code that was made when it was submitted."""
    other = Agent(folder=tmp_path)
    try:
        other.begin()
        job = agent.job(epochs=1)
        job.agent = other
        other.process, theirs = agent.process, other.process
        other.lines = agent.lines
        job.run()
        assert "does not accept this attempt; starting a new one" in job.log
        assert job.result()[0] is Cause.COMPLETED
    finally:
        theirs.kill()
        theirs.communicate()
        other.kill()
