#!/usr/bin/env python3
"""Cost of the runner, compared with submitit, snakemake, signac-flow and gwf. Prints one table.

    python benchmarks/runner.py [--parts PART ...] [--peers FOLDER] [--places DIR ...]

Each figure is the median of K processes. The ratio is to the first tool that did the same work with
its records in the same place: fsync dominates on a disk, so /dev/shm is measured too. All but help and completed need
Slurm's packages: the jobs stay queued in a private one. `strace`, if it is installed, counts system calls.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "benchmarks")]

import peers  # noqa: E402
from cluster import CannotStart, SlurmCluster, start_slurm  # noqa: E402
from measure import MarkdownTable, Recorder, TimedProcess, TooSlow, measure  # noqa: E402

from roundhouse.config.round import load_round  # noqa: E402
from roundhouse.model.attempt import Opened  # noqa: E402
from roundhouse.model.causes import Cause  # noqa: E402
from roundhouse.store import record  # noqa: E402

PARTS = ("help", "completed", "array", "single", "running")
NEED_SLURM = {"array", "single", "running"}
OURS = "Roundhouse"

ROUND = """\
round: {name}
experiments:
  all:
    path: "{{block}}/{{index}}"
    command: "true"
    grid: {{block: {blocks}, index: {indices}}}
    resources: {{walltime: "0:10:00", array: {array}}}
"""

# A private Slurm has no accounting, which submitit queries, and cannot run 1,000 jobs: these commands imitate both.
SACCT = "echo 'JobID|State|NodeList'; {squeue} -h -r -o '%i|RUNNING|node'"
RUNNING = "{squeue} \"$@\" | sed -e 's/|PENDING|[^|]*|/|RUNNING|None|/; s/|PENDING|/|RUNNING|/; s/;PD/;R/; s/^PD/R /'"

KNOWS_NO_JOBS = {
    "sbatch": "echo slurm 22.05",
    "squeue": "exit 0",
    "scontrol": "echo 'ClusterName = test'",
    "sacct": "exit 0",
}


def main() -> None:
    options = parser().parse_args()
    commands = peers.environment(options.peers) if options.peers else None
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} to begin with, Linux "
        f"{platform.release()}, Python {platform.python_version()}. Medians of {options.repeat} processes."
    )
    print(f"{peers.versions(commands) if commands else 'Peers are left out: no --peers FOLDER'}.")
    if shutil.which("strace") is None:
        print("System calls are not measured: there is no strace.")
    print()
    table = MarkdownTable()
    with ExitStack() as stack:
        cluster = private_slurm(stack) if NEED_SLURM & set(options.parts) else None
        for place in options.places:
            base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roundhouse-benchmark-", dir=place)))
            bench = RunnerBenchmark(base, place, table, options, cluster, commands)
            for part in options.parts:
                if part not in NEED_SLURM or cluster is not None:
                    getattr(bench, part)()
    print(f"\nLoad {os.getloadavg()[0]:.1f} at the end.")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--completed", nargs="+", type=int, default=[10_000, 100_000], metavar="N")
    parser.add_argument("--submit", type=int, default=1_000, metavar="N", help="experiments to submit, or running")
    parser.add_argument("--repeat", type=int, default=5, metavar="K")
    parser.add_argument(
        "--peers", type=Path, metavar="FOLDER", help="virtual environment of the other tools; created if it is missing"
    )
    places = [tempfile.gettempdir()] + ["/dev/shm"] * os.path.isdir("/dev/shm")
    parser.add_argument("--places", nargs="+", default=places, metavar="DIR", help=f"default: {' '.join(places)}")
    return parser


def private_slurm(stack: ExitStack) -> SlurmCluster | None:
    try:
        cluster = start_slurm()
    except CannotStart as problem:
        print(f"Submissions are skipped: {problem}")
        return None
    stack.callback(cluster.shut_down)
    cluster.run(["scontrol", "update", "PartitionName=main", "State=DOWN"])  # jobs stay queued
    return cluster


@dataclass
class RunnerBenchmark:
    """All measurements with the records in one folder."""

    base: Path
    place: str
    table: MarkdownTable
    options: argparse.Namespace
    cluster: SlurmCluster | None
    commands: Path | None  # of the peers

    # ------------------------------------------------------------------------------------------ parts

    def help(self) -> None:
        recorder = self.recorder("help", dict(os.environ))
        for tool, argv in (("python -c pass", ["-c", "pass"]), (OURS, [str(REPOSITORY / "runner.py"), "--help"])):
            self.measure(
                TimedProcess("runner.py --help", tool, [sys.executable, *argv], 1, recorder.environ, self.base),
                recorder,
            )

    def completed(self) -> None:
        for count in self.options.completed:
            name = f"pass over {count:,} completed"
            recorder = self.recorder(f"completed{count}", dict(os.environ), KNOWS_NO_JOBS)
            complete(self.base, f"c{count}", count, recorder.environ)
            work = self.ours(name, f"c{count}", count, recorder.environ)
            self.measure(work, recorder)
            if count <= 10_000:
                self.all_but_one(work, recorder)
            shutil.rmtree(self.base / "experiments")
            if self.commands and count <= 10_000:
                others = self.peers("completed", count, recorder)
                self.measure_all(others.status_of_completed(name), recorder)

    def all_but_one(self, work: TimedProcess, recorder: Recorder) -> None:
        """All but one are completed, so the scheduler is queried."""
        name = work.argv[work.argv.index("--round") + 1]
        shutil.rmtree(self.base / "experiments" / name / "0" / "0")
        left = f"{work.name} but one"
        self.measure(self.ours(left, name, work.experiments, recorder.environ, "--limit", "0"), recorder)

    def array(self) -> None:
        assert self.cluster is not None
        count, recorder = self.options.submit, self.recorder("array", self.cluster.env)
        name = f"submit {count:,} as one array"
        self.measure(self.submission(name, "array", count, recorder), recorder)
        argv = ["sbatch", "--parsable", "-o", "/dev/null", f"--array=0-{count - 1}", "--wrap=true"]
        self.measure(TimedProcess(name, "sbatch alone", argv, count, recorder.environ, self.base, self.clear), recorder)
        if self.commands:
            self.measure_all(self.peers("array", count, recorder).submissions_as_array(name), recorder)
            for tool in ("gwf", "signac-flow"):
                self.table.cannot(name, tool, "has no arrays")
        self.clear()

    def single(self) -> None:
        assert self.cluster is not None
        count, recorder = self.options.submit, self.recorder("single", self.cluster.env)
        name = f"submit {count:,}, one job each"
        self.measure(self.submission(name, "single", count, recorder, once=True), recorder)
        argv = [
            "/bin/sh",
            "-c",
            f"for i in $(seq {count}); do sbatch --parsable -o /dev/null --wrap=true || exit; done",
        ]
        loop = TimedProcess(name, "sbatch in a loop", argv, count, recorder.environ, self.base, self.clear, once=True)
        self.measure(loop, recorder)
        if self.commands:
            others = self.peers("single", count, recorder)
            self.measure_all(others.submissions_one_by_one(name), recorder)
            self.measure_all(others.submissions_as_one_job(f"submit {count:,} as one job that runs all"), recorder)
        self.clear()

    def running(self) -> None:
        assert self.cluster is not None
        count, cluster = self.options.submit, self.cluster
        squeue = shutil.which("squeue", path=cluster.env["PATH"])
        answers = {"sacct": SACCT.format(squeue=squeue), "squeue": RUNNING.format(squeue=squeue)}
        recorder = self.recorder("running", cluster.env, answers)
        name = f"query {count:,} running"
        submission = self.submission(name, "array", count, recorder)
        submission.before()
        subprocess.run(submission.argv, env=dict(submission.environ), check=False, stdout=subprocess.DEVNULL)
        claim(self.base / "experiments" / "array", cluster)
        self.measure(self.ours(name, "array", count, recorder.environ, remark="a pass"), recorder)
        self.measure(self.ours(name, "array", count, recorder.environ, "--status", remark="--status"), recorder)
        if self.commands:
            self.measure_all(self.peers("running", count, recorder).status_of_running(name), recorder)
            self.table.cannot(name, "snakemake", "only the process that submitted knows what runs")
        self.clear()

    # ------------------------------------------------------------------------------------------ tools

    def recorder(self, name: str, real: Mapping[str, str], answers: Mapping[str, str] | None = None) -> Recorder:
        return Recorder(self.base / f"commands-{name}", real, answers or {})

    def peers(self, name: str, count: int, recorder: Recorder) -> peers.Peers:
        commands = self.commands or Path()
        return peers.Peers(commands, self.base / "peers" / name, count, recorder, self.queued, self.clear)

    def queued(self) -> int:
        assert self.cluster is not None
        return len(self.cluster.run(["squeue", "-h", "-r", "-o", "%i"]).stdout.split())

    def clear(self) -> None:
        if self.cluster is not None:
            self.cluster.run(["scancel", f"--user={getpass.getuser()}"])

    def ours(
        self, name: str, called: str, count: int, environ: Mapping[str, str], *options: str, remark: str = ""
    ) -> TimedProcess:
        return TimedProcess(name, OURS, command(self.base, called, *options), count, environ, self.base, remark=remark)

    def submission(self, name: str, called: str, count: int, recorder: Recorder, once: bool = False) -> TimedProcess:
        write_round(self.base, called, count, array=called == "array")
        argv = command(self.base, called)

        def before() -> None:
            self.clear()
            shutil.rmtree(self.base / "experiments", ignore_errors=True)

        return TimedProcess(name, OURS, argv, count, recorder.environ, self.base, before, once=once)

    def measure(self, work: TimedProcess, recorder: Recorder) -> None:
        try:
            self.table.row(work, self.place, measure(work, recorder, self.options.repeat, trace=True))
        except TooSlow as problem:
            self.table.cannot(work.name, work.tool, str(problem))

    def measure_all(self, works: Iterator[TimedProcess], recorder: Recorder) -> None:
        for work in works:
            self.measure(work, recorder)


def command(base: Path, name: str, *options: str) -> list[str]:
    """The command line of runner.py for a round in `base`."""
    argv = [sys.executable, str(REPOSITORY / "runner.py"), "--round", name, "--scheduler", "slurm"]
    for folder in ("rounds", "experiments", "analysis"):
        argv += [f"--{folder}", str(base / folder)]
    return [*argv, *options]


def write_round(base: Path, name: str, count: int, array: bool = False) -> Path:
    """A round file of `count` experiments in blocks of at most 100; returns its folder."""
    rounds = base / "rounds"
    rounds.mkdir(exist_ok=True)
    per_block = min(100, count)
    blocks, indices = list(range(count // per_block)), list(range(per_block))
    text = ROUND.format(name=name, blocks=blocks, indices=indices, array=str(array).lower())
    (rounds / f"{name}.yaml").write_text(text)
    return rounds


def complete(base: Path, name: str, count: int, environ: Mapping[str, str]) -> None:
    """Compacted records of a completed round: one made by real passes, and copies of it."""
    place = base / "experiments" / name
    first, *others = load_round(name, write_round(base, name, count)).experiments
    token = record.new_token()
    opened = Opened(token, {"kind": "slurm", "server": "test", "user": "me"}, first.config_hash(), {}, "1")
    record.open_attempt(place / first.path, 1, opened)
    write_claim(place / first.path, "1", "test")
    record.close(place / first.path, 1, Cause.COMPLETED, "")
    record.write_config(place / first.path, first)
    argv = [*command(base, name), "--only", first.path]
    subprocess.run(argv, env=dict(environ), check=True, stdout=subprocess.DEVNULL)
    history, status = ((place / first.path / name).read_text() for name in (record.HISTORY, record.STATUS))
    for experiment in others:
        directory = place / experiment.path
        directory.mkdir(parents=True)
        own = history.replace(token, record.new_token()).replace(first.config_hash(), experiment.config_hash())
        (directory / record.HISTORY).write_text(own)
        (directory / record.STATUS).write_text(status.replace(f'"{first.path}"', f'"{experiment.path}"'))


def write_claim(directory: Path, job_id: str, host: str) -> None:
    """claim.json as the job's shell writes it."""
    value = {"version": 1, "nonce": record.new_token(), "job_id": job_id, "host": host, "at": 1}
    (directory / "attempts/1/claim.json").write_text(json.dumps(value) + "\n")


def claim(directory: Path, cluster: SlurmCluster) -> None:
    """Files of jobs that have started, for every experiment of a round whose jobs are queued."""
    for job in directory.glob("*/*/attempts/1/job.json"):
        shared = job.parents[2] / json.loads(job.read_text())["shared"]
        job_id = f"{(shared / 'job_id').read_text().strip()}_{json.loads(job.read_text())['array_index']}"
        write_claim(job.parents[2], job_id, cluster.folder.name)
        (job.parent / "progress.json").write_text('{"version": 1, "epoch": 0, "started_epoch": 0}\n')


if __name__ == "__main__":
    main()
