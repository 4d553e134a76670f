"""NVIDIA MPS in an allocation: the daemon is there for its slots, and ends with its agent in every case."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster_helpers import ClusterRounds, dead, pbs_rounds
from fake_pbs import FakePBS
from rounds_for_tests import REPOSITORY, Bench, fake_command, wait_for
from test_allocations import allocations, job_id_of

from roundhouse.machine import mps
from roundhouse.store import record

GPUS = "echo 0, GPU-aa; echo 1, GPU-bb; echo 2, GPU-cc"
# A daemon with a server, which `quit` ends. It notes what it was started with.
DAEMON = """
pipe=$CUDA_MPS_PIPE_DIRECTORY
if [ "$1" != -f ]; then
    read -r command
    [ "$command" = quit ] && [ ! -e {notes}/deaf ] && touch "$pipe/quit"
    exit 0
fi
[ ! -e {notes}/broken ] || {{ echo "no such device"; exit 3; }}
[ -d "$CUDA_MPS_LOG_DIRECTORY" ] || exit 4
nvidia-cuda-mps-server &
echo "$CUDA_VISIBLE_DEVICES" > {notes}/gpus
echo $$ $! > {notes}/pids
echo $$ > "$pipe/nvidia-cuda-mps-control.pid"
while [ ! -e "$pipe/quit" ]; do sleep 0.05; done
kill -KILL $!
"""
AGENT = """
import os, time
from roundhouse.machine import mps
try:
    service = mps.start()
except mps.NotStarted as why:
    raise SystemExit(f"not started: {why}")
print(service.environ["CUDA_MPS_PIPE_DIRECTORY"], flush=True)
input()
service.stop()
print("ended", flush=True)
"""


def install(folder: Path, gpus: str = GPUS) -> tuple[str, Path]:
    """A PATH with nvidia-smi and the programs of MPS, and the folder of their notes."""
    notes = folder / "mps"
    notes.mkdir()
    fake_command(folder, "nvidia-smi", f'case "$*" in *index,uuid*) {gpus} ;; *) exit 9 ;; esac')
    fake_command(folder, "nvidia-cuda-mps-server", "while :; do sleep 0.2; done")
    return fake_command(folder, "nvidia-cuda-mps-control", DAEMON.format(notes=notes)), notes


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    path, notes = install(tmp_path)
    made = Agents(notes, {**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": "2,0", "PYTHONPATH": str(REPOSITORY)})
    yield made
    made.end()


class Agents:
    """Starts processes that start MPS, as an agent does. `notes`: of the fake daemon."""

    def __init__(self, notes: Path, environ: dict[str, str]) -> None:
        self.notes, self.environ = notes, environ
        self.pipes = Path()
        self._started: list[subprocess.Popen[str]] = []
        self._seen: list[psutil.Process] = []

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", AGENT], env=self.environ, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._started.append(process)
        assert process.stdout is not None
        self.pipes = Path(process.stdout.readline().strip())
        return process

    def refused(self) -> str:
        done = subprocess.run([sys.executable, "-c", AGENT], env=self.environ, text=True, capture_output=True)
        assert done.returncode == 1
        return done.stderr

    @property
    def daemons(self) -> list[psutil.Process]:
        """The daemon, its server, and the keeper."""
        pids = list(map(int, (self.notes / "pids").read_text().split()))
        self._seen = [*map(psutil.Process, pids), psutil.Process(psutil.Process(pids[0]).ppid())]
        return self._seen

    def wait_until_all_have_ended(self, daemons: list[psutil.Process]) -> None:
        wait_for(lambda: all(map(dead, daemons)), "daemon, server and keeper have ended")
        assert not self.pipes.parent.exists()

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        for one in self._seen:
            if not dead(one):
                one.kill()


def test_the_daemon_has_the_gpus_of_the_job_by_uuid_because_it_numbers_them_anew(agents: Agents) -> None:
    agent = agents.start()
    assert (agents.notes / "gpus").read_text().strip() == "GPU-cc,GPU-aa"
    assert mps.is_on({mps.PIPES: str(agents.pipes)})
    assert len(str(agents.pipes)) < 80, "sockets have short names"
    assert agents.pipes.parent.stat().st_mode & 0o777 == 0o700
    daemons = agents.daemons
    out, _ = agent.communicate("\n", timeout=30)
    assert out == "ended\n"
    agents.wait_until_all_have_ended(daemons)


@pytest.mark.parametrize("deaf", [False, True])
def test_the_daemon_ends_after_an_agent_that_was_killed(agents: Agents, deaf: bool) -> None:
    """Also one that does not listen."""
    agent = agents.start()
    daemons = agents.daemons
    if deaf:
        (agents.notes / "deaf").touch()
    started = time.monotonic()
    agent.kill()
    agents.wait_until_all_have_ended(daemons)
    assert time.monotonic() - started < 15


def test_signals_that_a_scheduler_sends_to_all_processes_do_not_end_the_daemon_before_the_agent(agents: Agents) -> None:
    agent = agents.start()
    daemons = agents.daemons
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        for one in daemons:
            one.send_signal(number)
    time.sleep(0.5)
    assert not any(map(dead, daemons)), "trainings that save a checkpoint still need it"
    agent.terminate()
    agents.wait_until_all_have_ended(daemons)


def test_a_daemon_whose_keeper_is_killed_ends_with_the_agent_at_the_latest(agents: Agents) -> None:
    agent = agents.start()
    daemon, server, keeper = agents.daemons
    keeper.kill()
    wait_for(lambda: dead(daemon), "the kernel ends it")
    agent.communicate("\n", timeout=30)
    wait_for(lambda: dead(server), "the agent ends its server")


def test_a_daemon_that_dies_leaves_its_server_to_those_who_use_it(agents: Agents) -> None:
    agent = agents.start()
    daemon, server, keeper = agents.daemons
    daemon.kill()
    wait_for(lambda: not mps.is_on({mps.PIPES: str(agents.pipes)}), "new attempts see that it is gone")
    time.sleep(0.5)
    assert not dead(server) and not dead(keeper)
    agent.communicate("\n", timeout=30)
    agents.wait_until_all_have_ended([server, keeper])


def test_a_daemon_that_cannot_start_is_reported_with_what_it_printed(agents: Agents) -> None:
    (agents.notes / "broken").touch()
    said = agents.refused()
    assert "nvidia-cuda-mps-control -f: exit code 3. no such device" in said
    assert "not started: nvidia-cuda-mps-control -f ended at once, for the reason above" in said


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"CUDA_MPS_PIPE_DIRECTORY": "/tmp/others"}, "CUDA_MPS_PIPE_DIRECTORY is set already: jobs use that daemon"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-1"}, "the job has parts of a GPU (MIG)"),
        ({"CUDA_VISIBLE_DEVICES": "7"}, "nvidia-smi does not list the UUIDs of the job's GPUs"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "nvidia-smi does not list the UUIDs of the job's GPUs"),
        ({"PATH": "/usr/bin:/bin"}, "nvidia-cuda-mps-control is not installed on this node"),
    ],
)
def test_it_is_not_started_where_it_cannot_serve(agents: Agents, changes: dict[str, str], reason: str) -> None:
    agents.environ |= changes
    assert reason in agents.refused()
    assert not (agents.notes / "pids").exists()


def test_a_daemon_that_runs_already_is_used(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agents.start()
    monkeypatch.setattr(mps, "DEFAULT_PIPES", str(agents.pipes))
    monkeypatch.setenv("PATH", agents.environ["PATH"])
    assert mps.is_on({})
    with pytest.raises(mps.NotStarted, match="a daemon is running on this node already"):
        mps.start({"CUDA_VISIBLE_DEVICES": "0"})
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert mps.is_on({}) == (psutil.Process().uids().real == 0), "that of another user is of no use"
    agent.communicate("\n", timeout=30)


@pytest.mark.parametrize("content", ["", "x", "1", str(os.getpid()), "99999999"], ids=range(5))
def test_a_file_that_a_dead_daemon_has_left_is_not_taken_for_a_daemon(tmp_path: Path, content: str) -> None:
    (tmp_path / mps.PID_FILE).write_text(content)
    assert not mps.is_on({mps.PIPES: str(tmp_path)})
    assert not mps.is_on({mps.PIPES: str(tmp_path / "none")})


# ---------------------------------------------------------------------------------------------- in an allocation


@pytest.fixture
def rounds(fake_pbs: FakePBS, tmp_path: Path) -> Iterator[ClusterRounds]:
    """Rounds on a fake PBS that signals and kills a job by its session, on nodes with MPS."""
    path, _ = install(tmp_path)
    with pbs_rounds(fake_pbs, tmp_path) as made:
        fake_pbs.turn(kill_delay=10)
        variables = {"ROUNDHOUSE_SIGN_OF_LIFE": "0.5", "ROUNDHOUSE_TEST": made.mark, "PATH": path}
        made.set_site(environment=variables, setup=["export CUDA_VISIBLE_DEVICES=2"], mps=True)
        yield made


def write(rounds: ClusterRounds, per_gpu: int) -> None:
    packed = {"ncpus": 2, "ngpus": 1, "pack": {"slots": per_gpu, "per_gpu": per_gpu}, "max_running": 1}
    note = f'echo "$CUDA_VISIBLE_DEVICES $CUDA_MPS_PIPE_DIRECTORY" > {rounds.notes}/env-$0'
    waits = f"while [ ! -e {rounds.notes}/go ]; do sleep 0.1; done"
    command = ["bash", "-c", f"{note}; {waits}", "{name}"]
    rounds.write({"g": {"path": "{name}", "grid": {"name": ["a", "b"]}, "command": command, "resources": packed}})


def seen(rounds: ClusterRounds, name: str) -> list[str]:
    path: Path = rounds.notes / f"env-{name}"
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"), f"{name} runs")
    return path.read_text().split()


@pytest.mark.parametrize("end", ["normal", "qdel", "killed"])
def test_the_slots_of_an_allocation_share_a_daemon_which_ends_with_it(
    rounds: ClusterRounds, fake_pbs: FakePBS, end: str
) -> None:
    write(rounds, per_gpu=2)
    rounds.call()
    (gpu, pipes), other = seen(rounds, "a"), seen(rounds, "b")
    assert (gpu, pipes) == ("GPU-cc", other[1])
    pid, server = map(int, (rounds.folder / "mps" / "pids").read_text().split())
    daemons = [psutil.Process(pid), psutil.Process(server), psutil.Process(psutil.Process(pid).ppid())]
    wait_for(lambda: (rounds.attempt("a") / record.ENVIRONMENT).exists(), "the attempt records what it runs in")
    assert json.loads((rounds.attempt("a") / record.ENVIRONMENT).read_text())["mps"] is True
    (allocation,) = allocations(rounds)
    if end == "normal":
        (rounds.notes / "go").touch()
        rounds.pass_until_done()
        wait_for((allocation / "log").exists, "PBS delivers it when the job has ended")
        assert "roundhouse: MPS is on for the GPUs of this allocation" in (allocation / "log").read_text()
    elif end == "qdel":
        fake_pbs.run(["qdel", job_id_of(allocation)])
    else:
        psutil.Process(daemons[2].ppid()).kill()
    wait_for(lambda: all(map(dead, daemons)), "nothing of MPS is left")
    assert not Path(pipes).exists()


@pytest.mark.parametrize(("per_gpu", "said"), [(1, ""), (2, "the site file has `mps: true`, but no MPS daemon was")])
def test_where_no_gpu_is_shared_or_it_cannot_start_an_allocation_runs_without_it(
    rounds: ClusterRounds, per_gpu: int, said: str
) -> None:
    (rounds.notes / "go").touch()
    if per_gpu > 1:
        (rounds.folder / "mps" / "broken").touch()
    write(rounds, per_gpu)
    rounds.pass_until_done()
    assert seen(rounds, "a") == ["2"], "GPUs keep their names"
    assert not (rounds.folder / "mps" / "pids").exists()
    (attempt,) = json.loads((rounds.directory("a") / record.HISTORY).read_text())["attempts"]
    assert attempt["environment"]["mps"] is False
    (allocation,) = allocations(rounds)
    wait_for((allocation / "log").exists, "PBS delivers it when the job has ended")
    log = (allocation / "log").read_text()
    assert said in log
    assert ("MPS" in log) == bool(said)


def test_a_job_without_gpus_records_nothing_about_mps(bench: Bench) -> None:
    bench.use_the_real_train("true")
    assert bench.run()[0] == 0
    assert "mps" not in json.loads((bench.place() / record.ENVIRONMENT).read_text())
