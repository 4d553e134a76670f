"""Exact resume: a training run killed by SIGKILL at random moments gives bit-identical results to one never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from studies.distillation.options import DISTILLING

TESTS = Path(__file__).parent
METHODS = [*DISTILLING, "fitnets_in_two_stages"]


@pytest.fixture(scope="module")
def trainer() -> Iterator[subprocess.Popen[str]]:
    """kill_and_resume.py, one process for all tests: importing its modules takes longer than training."""
    env = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    started = subprocess.Popen(
        [sys.executable, str(TESTS / "kill_and_resume.py")],
        env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield started
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.communicate()


def kill_and_resume(
    trainer: subprocess.Popen[str], kind: str, kills: int, directory: Path, device: str = "cpu", step: str = "auto"
) -> None:
    assert trainer.stdin and trainer.stdout
    trainer.stdin.write(json.dumps([kind, kills, str(directory), device, step]) + "\n")
    trainer.stdin.flush()
    answer = trainer.stdout.readline().strip()
    assert answer, "kill_and_resume.py failed"
    report = json.loads(answer)
    assert report["kills"] >= kills
    assert report["straight"]["outcome"]["finished"]
    assert len(report["straight"]["outcome"]["final_hash"]) == 64
    for killed in report["killed"]:
        assert killed == report["straight"]
    stages = {record["stage"] for record in report["straight"]["metrics"]["epochs"]}
    assert stages <= set(report["resumed"]), "not resumed in every stage"


@pytest.mark.parametrize(("kind", "kills"), [("pure", 8), ("stages", 16), *((method, 4) for method in METHODS)])
def test_a_run_killed_at_random_moments_is_bit_identical_to_one_never_killed(
    trainer: subprocess.Popen[str], kind: str, kills: int, tmp_path: Path
) -> None:
    kill_and_resume(trainer, kind, kills, tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("step", ["eager", "graph"])
@pytest.mark.parametrize("kind", ["pure", *METHODS])
def test_exact_resume_on_a_gpu_with_and_without_graphs(
    trainer: subprocess.Popen[str], kind: str, step: str, tmp_path: Path
) -> None:
    kill_and_resume(trainer, kind, 3, tmp_path, "cuda", step)
