"""Exact resume: a training killed by SIGKILL at random moments ends bit for bit as one that was never killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize(("kind", "kills"), [("pure", 12), ("logit", 12), ("stages", 16)])
def test_a_training_killed_at_random_moments_ends_bit_for_bit_as_one_that_was_not(
    kind: str, kills: int, tmp_path: Path
) -> None:
    command = [sys.executable, str(TESTS / "kill_and_resume.py"), kind, str(kills), str(tmp_path)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kills"] >= kills
    assert told["straight"]["outcome"]["finished"]
    assert len(told["straight"]["outcome"]["final_hash"]) == 64
    for killed in told["killed"]:
        assert killed == told["straight"]
