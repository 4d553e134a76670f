"""Exact resume: a training killed by SIGKILL at random moments ends bit for bit as one that was never killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from studies.distillation.options import DISTILLING

TESTS = Path(__file__).parent
METHODS = [*DISTILLING, "fitnets_in_two_stages"]


def kill_and_resume(kind: str, kills: int, directory: Path, *how: str) -> None:
    command = [sys.executable, str(TESTS / "kill_and_resume.py"), kind, str(kills), str(directory), *how]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kills"] >= kills
    assert told["straight"]["outcome"]["finished"]
    assert len(told["straight"]["outcome"]["final_hash"]) == 64
    for killed in told["killed"]:
        assert killed == told["straight"]
    stages = {record["stage"] for record in told["straight"]["metrics"]["epochs"]}
    assert stages <= set(told["resumed"]), "it was not resumed in every stage"


@pytest.mark.parametrize(("kind", "kills"), [("pure", 8), ("stages", 16), *((method, 4) for method in METHODS)])
def test_a_training_killed_at_random_moments_ends_bit_for_bit_as_one_that_was_not(
    kind: str, kills: int, tmp_path: Path
) -> None:
    kill_and_resume(kind, kills, tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("step", ["eager", "graph"])
@pytest.mark.parametrize("kind", ["pure", *METHODS])
def test_it_does_so_on_a_gpu_with_and_without_graphs(kind: str, step: str, tmp_path: Path) -> None:
    kill_and_resume(kind, 3, tmp_path, "cuda", step)
