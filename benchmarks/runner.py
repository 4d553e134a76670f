#!/usr/bin/env python3
"""How long the runner takes: help, a pass over completed rounds, a submission. Prints a table; judges nothing.

    python benchmarks/runner.py [--completed N] [--submit N] [--repeat K]

Each figure is the median over K whole processes. It is also given as a ratio to `python -c pass` in the same run,
since machines differ. The round of the submission needs Slurm's packages; it is left out where they are missing.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from roundhouse import record  # noqa: E402
from roundhouse.attempt import Opened  # noqa: E402
from roundhouse.causes import Cause  # noqa: E402
from roundhouse.round import load_round  # noqa: E402

ROUND = """\
round: {name}
experiments:
  all:
    path: "{{block}}/{{index}}"
    command: "true"
    grid: {{block: {blocks}, index: {indices}}}
    resources: {{walltime: "0:10:00"}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completed", type=int, default=10_000, help="experiments in the completed round")
    parser.add_argument(
        "--submit", type=int, default=1_000, help="experiments to submit to a private Slurm; 0: leave out"
    )
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, Linux {platform.release()}"
    )
    table = Table(options.repeat)
    table.measure("python -c pass", [sys.executable, "-c", "pass"])
    table.measure("runner.py --help", [sys.executable, "runner.py", "--help"])
    with tempfile.TemporaryDirectory(prefix="roundhouse-benchmark-") as folder:
        base = Path(folder)
        completed(table, base, options.completed)
        if options.submit:
            submission(table, base, options.submit)


class Table:
    """Measures commands, and prints a row for each as it comes."""

    def __init__(self, repeat: int) -> None:
        self.repeat = repeat
        self.unit: float | None = None
        print(f"{'':48} {'median s':>9} {'min':>7} {'max':>7} {'ratio':>7} {'MB':>6}")

    def measure(
        self, name: str, argv: list[str], environ: dict[str, str] | None = None, repeat: int | None = None
    ) -> float:
        """Print a row; returns the median, in seconds."""
        seconds, peak = [], 0.0
        for _ in range(repeat or self.repeat):
            took, memory = timed(argv, environ)
            seconds.append(took)
            peak = max(peak, memory)
        median = statistics.median(seconds)
        self.unit = self.unit or median
        print(
            f"{name:48} {median:9.3f} {min(seconds):7.3f} {max(seconds):7.3f} {median / self.unit:7.1f} {peak:6.0f}",
            flush=True,
        )
        return median


def timed(argv: list[str], environ: dict[str, str] | None) -> tuple[float, float]:
    """(seconds, peak memory in MB) of one whole process, its output thrown away. "Work remains" is a good end too."""
    started = time.perf_counter()
    with open(os.devnull, "wb") as nowhere:
        pid = os.posix_spawn(
            argv[0],
            argv,
            environ or dict(os.environ),
            file_actions=[(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1), (os.POSIX_SPAWN_DUP2, nowhere.fileno(), 2)],
        )
        _, status, usage = os.wait4(pid, 0)
    took = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status) not in (0, 3):
        raise SystemExit(f"{' '.join(argv)} exited with {os.waitstatus_to_exitcode(status)}")
    return took, usage.ru_maxrss / 1024


def write_round(base: Path, name: str, count: int) -> Path:
    """A round of `count` experiments in blocks of 100 (at most), and the folder it lies in."""
    rounds = base / "rounds"
    rounds.mkdir(exist_ok=True)
    per_block = min(100, count)
    blocks, indices = list(range(count // per_block)), list(range(per_block))
    (rounds / f"{name}.yaml").write_text(ROUND.format(name=name, blocks=blocks, indices=indices))
    return rounds


def completed(table: Table, base: Path, count: int) -> None:
    """A pass over a round in which all is done, and one in which all but one is, so that the scheduler is asked."""
    rounds, experiments = write_round(base, "done", count), base / "experiments"
    loaded = load_round("done", rounds)
    for experiment in loaded.experiments:
        directory = experiments / "done" / experiment.path
        token = record.new_token()
        opened = Opened(token, {"kind": "slurm", "server": "test", "user": "me"}, experiment.config_hash(), {}, "1")
        record.open_attempt(directory, 1, opened)
        record._create(
            directory / "attempts/1/claim.json", {"version": 1, "nonce": token, "job_id": "1", "host": "node"}
        )
        record.close(directory, 1, Cause.COMPLETED, "")
        record.write_config(directory, experiment)
    environ = fake_slurm(base)
    argv = [sys.executable, "runner.py", "--round", "done", "--rounds", str(rounds), "--experiments", str(experiments)]
    argv += ["--scheduler", "slurm"]
    table.measure(f"first pass over {count:,} completed (folds them)", argv, environ, repeat=1)
    table.measure(f"pass over {count:,} completed", argv, environ)
    shutil.rmtree(experiments / "done" / loaded.experiments[-1].path)
    table.measure(f"pass, one query, {count - 1:,} completed", [*argv, "--limit", "0"], environ)


def fake_slurm(base: Path) -> dict[str, str]:
    """A scheduler that answers at once and knows no jobs: its own time is not the runner's."""
    commands = base / "bin"
    commands.mkdir()
    answers = {"sbatch": "slurm 22.05", "squeue": "", "scontrol": "ClusterName = test", "sacct": ""}
    for name, answer in answers.items():
        (commands / name).write_text(f"#!/bin/sh\necho '{answer}'\n" if answer else "#!/bin/sh\n")
        (commands / name).chmod(0o755)
    return {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}


def submission(table: Table, base: Path, count: int) -> None:
    """Submission of `count` experiments to a private Slurm, one sbatch each; and that many sbatch alone."""
    from cluster import CannotStart, start_slurm

    try:
        cluster = start_slurm()
    except CannotStart as problem:
        print(f"submission is left out: {problem}")
        return
    try:
        cluster.run(["scontrol", "update", "PartitionName=main", "State=DOWN"])  # jobs queue, and take no time to run
        rounds, experiments = write_round(base, "submitted", count), base / "experiments"
        argv = [sys.executable, "runner.py", "--round", "submitted", "--rounds", str(rounds)]
        argv += ["--experiments", str(experiments), "--scheduler", "slurm"]
        table.measure("submission of 1", [*argv, "--limit", "1"], cluster.env, repeat=1)
        script = next(experiments.rglob("job.sh"))
        loop = f"for ((i = 0; i < {count}; i++)); do sbatch --parsable {script} || exit; done"
        bare = table.measure(
            f"{count:,} times sbatch in a shell loop", ["/bin/bash", "-c", loop], cluster.env, repeat=1
        )
        shutil.rmtree(experiments / "submitted")
        whole = table.measure(f"submission of {count:,}, one sbatch each", argv, cluster.env, repeat=1)
        print(f"    {whole / bare:.1f} times as long as sbatch alone")
    finally:
        cluster.shut_down()


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    main()
