"""The folder in which chaos.py works: a copy of the code, a site, rounds, and commands that note each submission."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from chaos_journal import EXPERIMENTS, FOLDER

REPOSITORY = Path(__file__).resolve().parent.parent
MARK = "ROUNDHOUSE_CHAOS"  # in the environment of every process of a run, with a value of its own
SUBMISSIONS, SHELLS = "submissions", "shells"  # files of the journal: job names given to sbatch; tokens of shells

# runner.py with shorter waits, and if wanted without the lock of a round, on which no decision may depend.
RUNNER = """\
import contextlib, sys
import runner
from roundhouse.cli import context
from roundhouse.schedulers.slurm import Slurm

Slurm.grace = {grace}
connect = context.connect

def faster(*arguments):
    session = connect(*arguments)
    session.context.submission_delay = {submission_delay}
    return session

context.connect = faster
if "--unlocked" in sys.argv:
    sys.argv.remove("--unlocked")
    context.lock = lambda *_: contextlib.nullcontext()
sys.exit(runner.main())
"""

SBATCH = """\
#!/bin/bash
for script; do :; done
[ ! -f "$script" ] || sed -n 's/^#SBATCH --job-name=//p' "$script" >> {file}
exec {real} "$@"
"""

# BASH_ENV: each bash that runs a job script in a slot, of the local machine or of an allocation, reads it first.
NOTE_SHELL = """\
case "$0" in */job.sh) [ -z "${{ROUNDHOUSE_TOKEN:-}}" ] || echo "$ROUNDHOUSE_TOKEN" >> {file} ;; esac
"""

STUDY = {
    "__init__": "",
    "options": """\
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    epochs: int
    seconds: float  # of an epoch
""",
    "train": "from chaos_study import train as train\n",
}


@dataclass
class Folder:
    """One run of chaos.py, or its reference, below `base`. `scheduler`: local or slurm; `extra`: more environment."""

    base: Path
    scheduler: str
    extra: Mapping[str, str] = field(default_factory=dict)
    grace: float = 4.0
    submission_delay: float = 10.0
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def experiments(self) -> Path:
        return self.base / "experiments"

    @property
    def journal(self) -> Path:
        return self.base / "journal"

    @property
    def repository(self) -> Path:
        return self.base / "repository"

    @property
    def env(self) -> dict[str, str]:
        """The environment of runner.py. The GPUs are imaginary: slots that no other process on this host uses."""
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("ROUNDHOUSE_", "SLURM_"))}
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(f"GPU-{self.mark}-{number}" for number in range(2))}
        return {**outside, **self.extra, **self.variables, **(gpus if self.scheduler == "local" else {})}

    @property
    def variables(self) -> dict[str, str]:
        return {
            MARK: self.mark,
            FOLDER: str(self.journal),
            EXPERIMENTS: str(self.experiments),
            "ROUNDHOUSE_SIGN_OF_LIFE": "0.5",
            "BASH_ENV": str(self.base / "note_shell.sh"),
        }

    def prepare(self) -> None:
        """Create everything but the rounds."""
        for folder in (self.journal, self.base / "rounds", self.base / "commands"):
            folder.mkdir(parents=True)
        for name in ("roundhouse", "templates", "studies"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, self.repository / name, ignore=ignored)
        for name in ("runner.py", "train.py", *(f"benchmarks/chaos_{one}.py" for one in ("journal", "study", "train"))):
            shutil.copy(REPOSITORY / name, self.repository)
        (self.repository / "studies" / "chaos").mkdir()
        for name, text in STUDY.items():
            (self.repository / "studies" / "chaos" / f"{name}.py").write_text(text)
        runner = RUNNER.format(grace=self.grace, submission_delay=self.submission_delay)
        (self.repository / "chaos_runner.py").write_text(runner)
        site = {"scheduler": self.scheduler, "environment": self.variables}
        (self.repository / "sites").mkdir()
        (self.repository / "sites" / "chaos.yaml").write_text(yaml.safe_dump(site))
        (self.base / "note_shell.sh").write_text(NOTE_SHELL.format(file=self.journal / SHELLS))
        if self.scheduler == "slurm":
            sbatch = self.base / "commands" / "sbatch"
            sbatch.write_text(SBATCH.format(file=self.journal / SUBMISSIONS, real=shutil.which("sbatch")))
            sbatch.chmod(0o755)
            self.extra = {**self.extra, "PATH": f"{sbatch.parent}:{os.environ['PATH']}"}

    def argv(self, name: str, *options: str) -> list[str]:
        """The command for a call of runner.py on round `name`."""
        words = [sys.executable, str(self.repository / "chaos_runner.py"), "--round", name, "--site", "chaos"]
        for folder in ("experiments", "rounds", "analysis"):
            words += [f"--{folder}", str(self.base / folder)]
        return [*words, *options]

    def call(self, name: str, *options: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """One call of runner.py to its end."""
        return subprocess.run(
            self.argv(name, *options),
            check=False, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    def write_round(self, name: str, seeds: int, epochs: int, seconds: float, packed_study: bool) -> None:
        """rounds/NAME.yaml: `seeds` experiments in each group, with this many epochs of so many seconds.

        `packed_study`: with a study in allocations, whose agent then loads PyTorch.
        """
        script = [sys.executable, str(self.repository / "chaos_train.py"), "--out", "{directory}"]
        script += ["--epochs", str(epochs), "--seconds", str(seconds), "--seed", "{seed}"]

        def command(group: str, resume: str = "earlier", **more: Any) -> dict[str, Any]:
            words = [*script, "--path", f"{name}/{group}/{{seed}}", "--resume", resume]
            return {"path": f"{group}/{{seed}}", "grid": {"seed": list(range(seeds))}, "command": words, **more}

        study = {"study": "chaos", "config": {"epochs": epochs, "seconds": seconds, "device": "cpu"}}
        gpus = self.scheduler == "local"
        pack = {"pack": {"slots": 2, **({"per_gpu": 2} if gpus else {})}, "ncpus": 2, "max_running": 2}
        groups = {
            "single": command("single"),
            "student": command("student", after={"single": {"seed": "{seed}"}}, priority=1),
            "array": command("array", resources={"array": True}),
            "packed": command("packed", resources=pack),
            "unchanged": command("unchanged", resume="here"),  # a script that knows nothing of Roundhouse
            "study": {"path": "study/0", **study},
        }
        if packed_study:
            many = {"path": "packed_study/{seed}", "grid": {"seed": list(range(seeds))}}
            groups["packed_study"] = {**many, **study, "resources": pack}
        content = {
            "round": name,
            "resources": {"walltime": "0:30:00", **({"ngpus": 1} if gpus else {})},
            "retry": {"unknown": 5, "unclaimed": 5, "error": 1},  # fewer than the kills: some need --retry
            "experiments": groups,
        }
        (self.base / "rounds" / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
