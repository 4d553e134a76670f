"""A missing Python package: one line that names it and the command to run, for every script that a user calls."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rounds_for_tests import REPOSITORY
from synthetic_rounds import write_mixed

from roundhouse.missing_package import EXIT_CODE, message

SCRIPTS = [
    REPOSITORY / "runner.py",
    *(
        path
        for folder in ("analysis", "toolbox")
        for path in sorted((REPOSITORY / folder).glob("*.py"))
        if '__name__ == "__main__"' in path.read_text()
    ),
]
WITHOUT = """\
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (EXIT_CODE, "", 1), done.stderr
    return done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_without_its_packages_prints_one_line(script: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-S", script, "--round", "r"]  # -S: without site-packages
    line = one_line(subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True))
    assert line.startswith(f"{script.name}: the package ") and f" is not installed for {sys.executable}: " in line
    assert f"use {REPOSITORY}/.venv/bin/python" in line or f"run make install in {REPOSITORY}" in line


@pytest.mark.parametrize("options", [[], ["--to", "x"]])
def test_setup_without_its_packages_prints_one_line(tmp_path: Path, options: list[str]) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    command = [REPOSITORY / "toolbox/setup.sh", "--data", "digits", "--check", "--study", "distillation", *options]
    env = {**os.environ, "PYTHON": str(python)}
    done = subprocess.run(command, check=False, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert one_line(done).startswith("setup.sh: the package ")


@pytest.mark.parametrize("script", ["plot_experiments.py", "report.py"])
def test_a_package_that_only_figures_need_is_reported_once(tmp_path: Path, script: str) -> None:
    write_mixed(tmp_path / "experiments", tmp_path / "rounds", epochs=2, examples=20)
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(name="matplotlib"))
    folders = [f"--{name}={tmp_path / name}" for name in ("experiments", "rounds", "analysis")]
    command = [sys.executable, REPOSITORY / "analysis" / script, "--round", "mixed", *folders]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    assert done.returncode == EXIT_CODE and "Traceback" not in done.stderr
    assert done.stderr.count("matplotlib") == 1
    assert done.stderr.splitlines()[-1].startswith(f"{script}: the package matplotlib is not installed for ")


@pytest.mark.parametrize(
    ("module", "package"),
    [("yaml", "pyyaml"), ("sklearn.datasets", "scikit-learn"), ("annotated_types", "annotated-types")],
)
def test_the_package_has_the_name_that_pip_knows(module: str, package: str) -> None:
    assert f"the package {package} is not" in str(message(ModuleNotFoundError(name=module)))


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError(name="roundhouse.nowhere"), ModuleNotFoundError(name="train"), ModuleNotFoundError("odd"),
        ImportError("cannot import name", name="yaml"), ValueError("yaml"),
    ],
    ids=str,
)  # fmt: skip
def test_other_errors_are_not_taken_for_a_missing_package(error: Exception) -> None:
    assert message(error) is None
