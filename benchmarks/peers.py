"""The same work with submitit, snakemake, signac-flow and gwf, as far as each supports it, in their own environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from measure import Recorder, TimedProcess

PACKAGES = ("submitit", "snakemake", "snakemake-executor-plugin-slurm", "signac", "signac-flow", "gwf")

SUBMITIT_SUBMIT = """\
import submitit
executor = submitit.AutoExecutor(folder="log", cluster="slurm")
executor.update_parameters(slurm_array_parallelism={count}, slurm_time=10)
executor.map_array(abs, range({count}))
"""
SUBMITIT_STATUS = """\
import sys, submitit
ids = open("ids").read().split()
jobs = [submitit.SlurmJob("log", job_id=job_id, tasks=[0]) for job_id in ids]
print(sum(job.done() if sys.argv[1] == "done" else job.state == "RUNNING" for job in jobs))
"""
SNAKEMAKE = """\
rule all:
    input: expand("out/{{number}}", number=range({count}))
rule one:
    output: "out/{{number}}"
    resources: runtime=10, mem_mb=100
    shell: "touch {{output}}"
"""
GWF = """\
from gwf import Workflow
gwf = Workflow()
for number in range({count}):
    gwf.target(f"one{{number}}", inputs=[], outputs=[f"out/{{number}}"]) << "true"
"""
SIGNAC = """\
import flow
class Project(flow.FlowProject):
    pass
@Project.post(lambda job: job.isfile("done"))
@Project.operation(cmd=True)
def one(job):
    return "true"
if __name__ == "__main__":
    Project().main()
"""
SIGNAC_MAKE = """\
import sys, signac
project = signac.init_project()
for number in range({count}):
    job = project.open_job({{"number": number}}).init()
    if sys.argv[1] == "done":
        open(job.fn("done"), "w").close()
"""


def environment(folder: Path) -> Path:
    """The `bin` of a virtual environment in `folder` with the peers; created, in minutes, if it is missing."""
    commands = folder / "bin"
    if not (commands / "gwf").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([commands / "pip", "install", "--quiet", *PACKAGES], check=True)
    return commands


def versions(commands: Path) -> str:
    """The versions of all peers: `submitit 1.5, ...`."""
    listed = subprocess.run([commands / "pip", "list", "--format", "json"], check=True, capture_output=True, text=True)
    found = {one["name"]: one["version"] for one in json.loads(listed.stdout)}
    return ", ".join(f"{name} {found[name]}" for name in PACKAGES)


@dataclass
class Peers:
    """Runs all other tools in one directory, on `count` experiments of a trivial command."""

    commands: Path  # the `bin` of their environment
    folder: Path
    count: int
    recorder: Recorder
    queued: Callable[[], int]  # how many jobs Slurm has
    clear: Callable[[], object]  # cancels them

    @property
    def environ(self) -> Mapping[str, str]:
        environ = self.recorder.environ
        # Their commands by name, as in an activated environment.
        return {**environ, "PATH": f"{self.recorder.folder}:{self.commands}:{self.recorder.real['PATH']}"}

    def folder_for(self, tool: str, files: Mapping[str, str]) -> Path:
        """A fresh folder for one tool, with these files."""
        folder = self.folder / tool
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text.format(count=self.count) if "{count}" in text else text)
        return folder

    def call(self, folder: Path, *argv: str) -> None:
        subprocess.run(
            [self.commands / argv[0], *argv[1:]],
            cwd=folder, env=dict(self.environ), check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ submissions

    def submissions_as_array(self, name: str) -> Iterator[TimedProcess]:
        folder = self.folder_for("submitit", {"submit.py": SUBMITIT_SUBMIT})
        argv = [str(self.commands / "python"), "submit.py"]
        before = self._cleared(folder, "log")
        yield TimedProcess(name, "submitit", argv, self.count, self.environ, folder, before, remark="map_array")
        yield self._snakemake(name, "snakemake", "arrays", "--slurm-array-jobs", "all")

    def submissions_one_by_one(self, name: str) -> Iterator[TimedProcess]:
        yield self._snakemake(name, "snakemake", "until the last job is queued")
        folder = self.folder_for("gwf", {"workflow.py": GWF})
        (folder / "out").mkdir()
        argv = [str(self.commands / "gwf"), "-b", "slurm", "run"]
        yield TimedProcess(
            name, "gwf", argv, self.count, self.environ, folder, self._cleared(folder, ".gwf"), once=True
        )
        folder = self._signac("new")
        argv = [str(self.commands / "python"), "project.py", "submit"]
        yield TimedProcess(
            name, "signac-flow", argv, self.count, self.environ, folder, self._signac_cleared(folder), once=True
        )

    def submissions_as_one_job(self, name: str) -> Iterator[TimedProcess]:
        folder = self._signac("new")
        argv = [str(self.commands / "python"), "project.py", "submit", "--bundle", str(self.count)]
        yield TimedProcess(
            name, "signac-flow", argv, self.count, self.environ, folder, self._signac_cleared(folder), remark="bundle"
        )

    def _snakemake(self, name: str, tool: str, remark: str, *options: str) -> TimedProcess:
        folder = self.folder_for(tool, {"Snakefile": SNAKEMAKE})
        argv = [str(self.commands / "snakemake"), "--executor", "slurm", "--jobs", str(self.count), "--quiet", "all"]
        argv += ["--max-jobs-per-timespan", f"{self.count}/1s"]  # else 100 in a second
        argv += ["--default-resources", "slurm_account=none", "slurm_partition=main", *options]
        before = self._cleared(folder, ".snakemake")
        return TimedProcess(
            name, tool, argv, self.count, self.environ, folder, before,
            until=lambda: self.queued() >= self.count, remark=remark, once=True,
        )  # fmt: skip

    def _cleared(self, folder: Path, leftovers: str) -> Callable[[], object]:
        def before() -> None:
            self.clear()
            shutil.rmtree(folder / leftovers, ignore_errors=True)

        return before

    def _signac(self, state: str) -> Path:
        folder = self.folder_for("signac", {"project.py": SIGNAC, "make.py": SIGNAC_MAKE})
        self.call(folder, "python", "make.py", state)
        return folder

    def _signac_cleared(self, folder: Path) -> Callable[[], object]:
        def before() -> None:
            self.clear()
            (folder / ".signac" / "project_status").unlink(missing_ok=True)
            for document in folder.glob("workspace/*/signac_job_document.json"):
                document.unlink()
            for document in folder.glob("signac_project_document.json"):
                document.unlink()

        return before

    # ------------------------------------------------------------------------------------------ status

    def status_of_completed(self, name: str) -> Iterator[TimedProcess]:
        folder = self.folder_for("submitit", {"status.py": SUBMITIT_STATUS})
        (folder / "log").mkdir()
        ids = [f"1_{number}" for number in range(self.count)]
        (folder / "ids").write_text("\n".join(ids))
        for job_id in ids:
            (folder / "log" / f"{job_id}_0_result.pkl").write_bytes(b"done")
        argv = [str(self.commands / "python"), "status.py", "done"]
        yield TimedProcess(name, "submitit", argv, self.count, self.environ, folder, remark="done() of each job")
        folder = self.folder_for("snakemake", {"Snakefile": SNAKEMAKE})
        self._outputs(folder)
        argv = [str(self.commands / "snakemake"), "--dry-run", "--quiet", "all", "--rerun-triggers", "mtime"]
        yield TimedProcess(name, "snakemake", argv, self.count, self.environ, folder, remark="--dry-run", once=True)
        folder = self.folder_for("gwf", {"workflow.py": GWF})
        self._outputs(folder)
        argv = [str(self.commands / "gwf"), "-b", "slurm", "status", "--summary"]
        yield TimedProcess(name, "gwf", argv, self.count, self.environ, folder, remark="status")
        folder = self._signac("done")
        argv = [str(self.commands / "python"), "project.py", "status"]
        yield TimedProcess(name, "signac-flow", argv, self.count, self.environ, folder, remark="status", once=True)

    def status_of_running(self, name: str) -> Iterator[TimedProcess]:
        """The status of jobs that each tool has submitted itself."""
        for submission in [*self.submissions_as_array(name), *self.submissions_one_by_one(name)]:
            if submission.tool == "snakemake":
                continue
            submission.before()
            subprocess.run(
                submission.argv, cwd=submission.directory, env=dict(submission.environ), check=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            yield self._status_of_running(name, submission.tool, submission.directory)

    def _status_of_running(self, name: str, tool: str, folder: Path) -> TimedProcess:
        if tool == "submitit":
            (folder / "status.py").write_text(SUBMITIT_STATUS)
            stems = {path.name.partition("_submi")[0] for path in (folder / "log").glob("*_submitted.pkl")}
            (folder / "ids").write_text("\n".join(sorted(stem.removesuffix("_0") for stem in stems)))
            argv, remark = [str(self.commands / "python"), "status.py", "state"], "state of each job"
        elif tool == "gwf":
            argv, remark = [str(self.commands / "gwf"), "-b", "slurm", "status", "--summary"], "status"
        else:
            argv, remark = [str(self.commands / "python"), "project.py", "status"], "status"
        return TimedProcess(name, tool, argv, self.count, self.environ, folder, remark=remark)

    def _outputs(self, folder: Path) -> None:
        (folder / "out").mkdir()
        now = time.time()
        for number in range(self.count):
            path = folder / "out" / str(number)
            path.touch()
            os.utime(path, (now, now))
