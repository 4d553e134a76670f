"""The processes of a run as the job starts them: how they end, and that none outlives another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import psutil
import pytest
from rounds_for_tests import REPOSITORY

from roundhouse.errors import RoundhouseError
from roundhouse.jobs import processes
from roundhouse.settings import Settings

OPTIONS = """\
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    flaw: str = ""
    steps: int = 20
    seconds: float = 0.02
"""

TRAIN = """\
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

def train(run, options, inputs, data):
    Path(os.environ["NOTES"], str(run.rank)).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "unset"))
    network = run.prepare(nn.Linear(2, 1))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    run.track(network=network, optimiser=optimiser)
    for step in run.steps(options.steps, save_every=1):
        if step.index == 5 and run.rank == 1:
            if options.flaw == "memory":
                raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB")
            if options.flaw == "error":
                raise ValueError("a mistake of the study")
            if options.flaw.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, options.flaw))
        part = step.shard(8)
        batch = torch.randn(8, 2, generator=step.generator("batch"))[part]
        step.optimise(network(batch).square().mean(), optimiser)
        time.sleep(options.seconds)
    run.finish(metrics={"test_loss": float(network.weight.detach().abs().sum())})
"""


@dataclass
class Started:
    """An attempt in several processes."""

    process: subprocess.Popen[str]

    def lines_until(self, start: str) -> str:
        """The first line that begins like this."""
        assert self.process.stdout is not None
        return next(line for line in self.process.stdout if line.startswith(start)).strip()

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, out, err


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "studies/s").mkdir(parents=True)
    for name, text in {"__init__": "", "s/__init__": "", "s/options": OPTIONS, "s/train": TRAIN}.items():
        (folder / "studies" / f"{name}.py").write_text(text)
    (folder / "roundhouse").symlink_to(REPOSITORY / "roundhouse")
    return folder


def start(root: Path, attempt: int = 1, gpus: str | None = None, **config: Any) -> Started:
    work = {
        "directory": str(root / f"attempts/{attempt}"),
        "earlier": [str(root / f"attempts/{number}") for number in range(1, attempt)],
        "config": {"processes": 2, **config},
        "settings": {},
    }
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "NOTES": str(root)}
    environ |= {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
    command = [sys.executable, str(REPOSITORY / "tests/several_processes.py"), str(root), "s", json.dumps(work)]
    return Started(
        subprocess.Popen(
            command, cwd=root.parent, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    )


def outcome_of(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_a_stop_that_reaches_only_another_process_stops_the_run_which_then_resumes_exactly(root: Path) -> None:
    code, out, err = start(root, flaw="SIGTERM").end()
    assert (code, outcome_of(out)["reason"]) == (0, "SIGTERM"), err
    assert outcome_of(out)["position"] == "step 6/20"
    code, out, err = start(root, 2).end()
    assert code == 0, err
    resumed = outcome_of(out)
    assert resumed["finished"] and resumed["exact"]
    whole = outcome_of(start(root.rename(root.parent / "again"), 7).end()[1])
    assert resumed["final_hash"] == whole["final_hash"]


def test_process_0_is_killed_like_another_one_was_so_that_the_shell_finds_out_why(root: Path) -> None:
    code, _, err = start(root, flaw="SIGKILL").end()
    assert code == -signal.SIGKILL
    assert "roundhouse: process 1 of this run was killed by SIGKILL, and all others end with it" in err


def test_memory_that_runs_out_in_another_process_is_reported_as_such(root: Path) -> None:
    code, _, err = start(root, flaw="memory").end()
    assert code == 71, err
    assert "memory of process 1 ran out: out of memory: tried to allocate 2 GiB" in err


def test_an_error_of_one_process_alone_is_shown(root: Path) -> None:
    code, _, err = start(root, flaw="error").end()
    assert code == 1
    assert "ValueError: a mistake of the study" in err
    assert "process 1 of this run ended with exit code 1" in err
    assert "gloo" not in err, "that the connection is lost is no news then"


def test_an_error_of_all_processes_is_shown_once(root: Path) -> None:
    code, _, err = start(root, wrong=1).end()
    assert code == 1
    assert err.count("wrong") == 1
    assert "process 1" not in err


def test_no_process_outlives_process_0_and_all_are_in_its_group(root: Path) -> None:
    run = start(root, seconds=60.0)
    (other,) = map(int, run.lines_until("pids").split()[1:])
    run.lines_until("saved")
    pid = run.process.pid
    assert (os.getpgid(other), os.getsid(other)) == (os.getpgid(pid), os.getsid(pid))
    assert psutil.Process(other).ppid() == pid
    run.process.kill()
    run.end()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(other) and psutil.Process(other).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it is still alive"
        time.sleep(0.05)


def test_each_process_sees_only_its_own_gpu(root: Path) -> None:
    code, _, err = start(root, gpus="3,GPU-5a", steps=1, device="auto").end()
    assert code == 0, err
    assert [(root / str(rank)).read_text() for rank in range(2)] == ["3", "GPU-5a"]


def test_an_error_at_the_start_of_another_process_is_shown(root: Path) -> None:
    (root / "roundhouse").unlink()
    copytree(REPOSITORY / "roundhouse", root / "roundhouse", ignore=ignore_patterns("__pycache__"))
    program = root / "roundhouse/jobs/other_process.py"
    program.write_text(program.read_text().replace("import os\n", "import os\nimport no_such_module\n", 1))
    code, _, err = start(root).end()
    assert code == 1
    assert "ModuleNotFoundError: No module named 'no_such_module'" in err
    assert "process 1 of this run ended with exit code 1" in err


def test_fewer_gpus_than_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    with pytest.raises(RoundhouseError, match="has 2 processes, and its job has only GPU 2: request more GPUs"):
        processes.start_processes(Settings(processes=2))


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (Settings(), 1),
        (Settings(ngpus=1), 1),
        (Settings(ngpus=4), 4),
        (Settings(ngpus=4, device="cpu"), 1),
        (Settings(ngpus=4, device="cuda:1"), 1),
        (Settings(ngpus=4, processes=1), 1),
        (Settings(processes=3), 3),
    ],
)
def test_auto_is_as_many_processes_as_the_job_has_gpus(settings: Settings, count: int) -> None:
    assert settings.count_processes == count


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": 0}, "'processes' is 0; write auto, or a number >= 1"),
        ({"processes": "two"}, "'processes' is 'two'; write auto"),
        ({"processes": 2, "device": "cuda:1"}, "'cuda:1', one GPU, but processes is 2"),
    ],
)
def test_wrong_numbers_of_processes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RoundhouseError, match=message):
        Settings(**settings)
