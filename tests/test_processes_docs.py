"""docs/several_processes.md: what it adds to the first example is all that a study needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rounds_for_tests import REPOSITORY

PAGE = (REPOSITORY / "docs/several_processes.md").read_text()
EXAMPLE = (REPOSITORY / "docs/adding_a_study.md").read_text()


def source(name: str) -> str:
    """A file of the first example."""
    found = re.search(rf"`studies/spirals/{name}`[^`]*?:\n\n```python\n(.*?)```", EXAMPLE, re.DOTALL)
    assert found
    return found[1]


def divided() -> str:
    """The first example with the lines of the page."""
    block = PAGE.partition("## What a study needs")[2].split("```\n")[1]
    model, loop, part = (line.strip() for line in block.splitlines() if line.strip() != "...")
    text, prepared = re.subn(r"model = nn\.Sequential\(.*", model, source("train.py"))
    text, parted = re.subn(rf"( *){re.escape(loop)}\n", rf"\g<0>\1    {part}\n", text)
    assert prepared == parted == 1
    return text


def test_the_lines_of_the_page_let_the_first_example_train_in_two_processes(tmp_path: Path) -> None:
    study = tmp_path / "studies" / "spirals"
    study.mkdir(parents=True)
    for name, text in (("train.py", divided()), ("options.py", source("options.py")), ("__init__.py", "")):
        (study / name).write_text(text)
    (tmp_path / "roundhouse").symlink_to(REPOSITORY / "roundhouse")
    finals, losses = [], []
    for count in (1, 2):
        config = {"processes": count, "epochs": 8}
        work = {"directory": str(tmp_path / str(count)), "earlier": [], "config": config, "settings": {}}
        program = [sys.executable, str(REPOSITORY / "tests/several_processes.py"), str(tmp_path), "spirals"]
        done = subprocess.run(
            [*program, json.dumps(work)],
            check=False, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "the same samples" not in done.stderr
        finals.append(json.loads(done.stdout.splitlines()[-1])["metrics"]["test_accuracy"])
        metrics = json.loads((tmp_path / str(count) / "metrics.json").read_text())
        losses.append([entry["loss"] for entry in metrics["epochs"]])
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    assert finals[0] > 0.6 and abs(finals[0] - finals[1]) < 0.05
