#!/usr/bin/env python3
"""Kills runners, job shells, trainings, commands and agents at random, and checks that nothing was lost or done twice.

    python benchmarks/chaos.py --scheduler local|slurm [--seed S] [--kills N] [--base DIR] [--keep]

Processes of rounds with single jobs, an array, allocations, dependent experiments and a study are killed with SIGKILL
until N are dead, while experiments are also cancelled, retried, run again, and (on a private Slurm) deleted and
requeued. Then they run to their end. The evidence is a journal that the programs write themselves, outside the record;
results are compared with those of a run without kills. The seed chooses victims and moments; the order in which
processes run remains random. Exits with 1 if anything is wrong, and then keeps its folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "benchmarks")]

import chaos_checks as checks  # noqa: E402
from chaos_journal import LINES  # noqa: E402
from chaos_processes import KINDS, Victim, alive  # noqa: E402
from chaos_round import MARK, Folder  # noqa: E402
from cluster import CannotStart, SlurmCluster, start_slurm  # noqa: E402
from rounds_for_tests import snapshot  # noqa: E402

from roundhouse.cli.exit_codes import ExitCode  # noqa: E402
from roundhouse.config.round import load_round  # noqa: E402
from roundhouse.model.attempt import Record  # noqa: E402
from roundhouse.store import record  # noqa: E402

WEIGHTS = (2, 3, 3, 3, 2, 1)  # how often a victim of each of KINDS is wanted; it may have none


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheduler", choices=["local", "slurm"], required=True)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: a random one")
    parser.add_argument("--kills", type=int, default=200, metavar="N")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="experiments in each group; default: 3")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="epochs of an experiment; default: 10")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="duration of an epoch; default: 0.3")
    parser.add_argument("--pause", type=float, default=0.5, metavar="S", help="mean time between kills; default: 0.5")
    parser.add_argument("--base", type=Path, default=tempfile.gettempdir(), metavar="DIR", help="where the folder lies")
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything it started is ended
    base = Path(tempfile.mkdtemp(prefix="roundhouse-chaos-", dir=options.base))
    print(f"seed {options.seed}, folder {base}", flush=True)
    cluster = None
    try:
        if options.scheduler == "slurm":
            cluster = start_slurm(min_job_age=100_000)
        findings = run(base / "run", options, cluster, without_kills(base / "reference", options))
    except CannotStart as problem:
        print(f"skipped: {problem}")
        findings = []
    finally:
        if cluster is not None:
            cluster.shut_down()
    if findings:
        print(f"seed {options.seed}; kills: {base / 'run' / 'kills'}; everything is kept in {base}")
    elif not options.keep:
        shutil.rmtree(base)
    return int(bool(findings))


def run(
    base: Path,
    options: argparse.Namespace,
    cluster: SlurmCluster | None,
    expected: Mapping[str, str],
    change: Callable[[Folder], None] = lambda folder: None,
) -> list[str]:
    """One run in the folder `base`, which is created. Prints figures, and returns what is wrong.

    `expected`: the hashes of `without_kills`. `change` may change the copy of the code, to see what is then found.
    """
    folder = Folder(base, options.scheduler, {"SLURM_CONF": cluster.env["SLURM_CONF"]} if cluster else {})
    folder.prepare()
    change(folder)
    chaos = Chaos(folder, options, cluster, random.Random(options.seed))
    began = time.monotonic()
    try:
        chaos.play()
        seconds = time.monotonic() - began
        found = checks.verify(folder, chaos.records(), expected, chaos.names_in_slurm())
        findings = [*chaos.findings, *found, *chaos.watcher.finish()]
    finally:
        chaos.end()
    for finding in findings:
        print(f"WRONG: {finding}")
    print_figures(chaos, seconds)
    return findings


def without_kills(base: Path, options: argparse.Namespace) -> dict[str, str]:
    """The hash of the results of each experiment of a round that nothing disturbs."""
    folder = Folder(base, "local")
    folder.prepare()
    folder.write_round("r1", options.seeds, options.epochs, 0.0, packed_study=options.scheduler != "local")
    done = folder.call("r1")
    assert done.returncode == ExitCode.DONE, done.stdout + done.stderr
    return {path: checks.results(folder.experiments / "r1" / path) for path in paths(folder, "r1")}


def paths(folder: Folder, name: str) -> list[str]:
    return [experiment.path for experiment in load_round(name, folder.base / "rounds").experiments]


@dataclass
class Chaos:
    """What happens to the rounds of a folder."""

    folder: Folder
    options: argparse.Namespace
    cluster: SlurmCluster | None
    chance: random.Random
    kills: Counter[str] = field(default_factory=Counter)  # by kind of victim
    actions: Counter[str] = field(default_factory=Counter)  # what users and the scheduler did
    rounds: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    calls: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watcher = checks.Watcher(self.folder.experiments)
        self.began = time.monotonic()

    def play(self) -> None:
        """Rounds, one after the other, until enough processes are dead.

        Each runs to its end without further kills when few of its experiments are left: they would meet all of them.
        """
        while self.kills.total() < self.options.kills:
            self.rounds.append(f"r{len(self.rounds) + 1}")
            self.folder.write_round(
                self.rounds[-1], self.options.seeds, self.options.epochs, self.options.seconds,
                packed_study=self.cluster is not None,
            )  # fmt: skip
            few = len(self.records(self.rounds[-1:])) / 4
            while self.kills.total() < self.options.kills and self.left() > few:
                self.act()
                self.kill_one()
                self.watcher.look()
            self.finish()

    def left(self) -> int:
        """How many experiments of the newest round are not completed."""
        return sum(found.completed is None for found in self.records(self.rounds[-1:]).values())

    # ------------------------------------------------------------------------------------------------ users

    def act(self) -> None:
        """Keep a runner running, and do now and then what users and schedulers do."""
        ended = [call for call in self.calls if call.poll() is not None]
        self.calls = [call for call in self.calls if call.poll() is None]
        if any(call.returncode == ExitCode.FAILED for call in ended):
            self.start("--retry")
        elif not self.calls:
            self.start(*self.chance.choice([[], ["--limit", "2"]]))
        path = self.chance.choice(paths(self.folder, self.rounds[-1]))
        draw = self.chance.random()
        if draw < 0.05:
            self.start("--cancel", "--only", path)
        elif draw < 0.15:
            self.start("--retry", "--only", path)
        elif draw < 0.20 and len(self.calls) < 3:
            self.start("--unlocked")
        elif draw < 0.25 and self.cluster:
            self.disturb(self.cluster)
        elif draw < 0.33:
            group = path.partition("/")[0]
            self.start("--rerun", "--only", self.chance.choice([path, f"{group}/*"]))

    def start(self, *options: str) -> None:
        if options and options[0].startswith("--"):
            self.actions[options[0]] += 1
        with (self.folder.base / "calls.log").open("ab") as log:
            argv = self.folder.argv(self.rounds[-1], *options)
            self.calls.append(
                subprocess.Popen(argv, env=self.folder.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def disturb(self, cluster: SlurmCluster) -> None:
        """Delete or requeue a job of the cluster, whichever it is."""
        jobs = sorted(job for job, state in cluster.job_states().items() if state in ("PENDING", "RUNNING"))
        if jobs:
            command = self.chance.choice([["scancel"], ["scontrol", "requeue"]])
            cluster.run([*command, self.chance.choice(jobs)])
            self.actions[command[-1]] += 1
        start_requeued(cluster)

    # ------------------------------------------------------------------------------------------------ kills

    def victims(self) -> list[Victim]:
        spool = str(self.cluster.folder / "spool") if self.cluster else ""
        return list(alive(f"{MARK}={self.folder.mark}", spool))

    def started_since(self, before: set[Victim], kind: str) -> list[Victim]:
        return [one for one in self.victims() if one.kind == kind and one not in before]

    def kill_one(self) -> None:
        """Kill a process: any, at any time; or, half of the times, one that has just started."""
        time.sleep(self.chance.expovariate(1 / self.options.pause))
        there = len(KINDS) if self.cluster else KINDS.index("agent")  # on the local machine there are no allocations
        (kind,) = self.chance.choices(KINDS[:there], WEIGHTS[:there])
        found = self.victims()
        of_kind = [one for one in found if one.kind == kind]
        if self.chance.random() < 0.5:
            before, deadline = set(found), time.monotonic() + 1
            while time.monotonic() < deadline and not (new := self.started_since(before, kind)):
                time.sleep(0.01)
            of_kind = new or of_kind
            time.sleep(10 ** self.chance.uniform(-3, -0.3))
        if of_kind and (victim := self.chance.choice(of_kind)).kill():
            self.kills[victim.kind] += 1
            line = {"at": round(time.monotonic() - self.began, 3), **asdict(victim)}
            with (self.folder.base / "kills").open("a") as log:
                log.write(json.dumps(line) + "\n")

    # ------------------------------------------------------------------------------------------------ the end

    def finish(self, patience: float = 300) -> None:
        """Let the round run to its end, and check that further passes change nothing."""
        name, deadline = self.rounds[-1], time.monotonic() + patience
        while any(call.poll() is None for call in self.calls) and time.monotonic() < deadline:
            if self.cluster:
                start_requeued(self.cluster)
            time.sleep(0.5)
        code = -1
        while code != ExitCode.DONE:
            if time.monotonic() > deadline:
                status = self.folder.call(name, "--status").stdout
                self.findings.append(f"round {name} is not completed within {patience:g} s:\n{status}")
                return
            if self.cluster:
                start_requeued(self.cluster)
            code = self.folder.call(
                name, *(["--retry"] if code == ExitCode.FAILED else []), timeout=patience
            ).returncode
            self.watcher.look()
            time.sleep(0.5)
        while self.victims() and time.monotonic() < deadline:
            time.sleep(0.2)  # runners that were started before, and agents, find nothing left to do
        self.findings += [f"{one.kind} {one.pid} ({one.what}) is alive after the end" for one in self.victims()]
        before = snapshot(self.folder.experiments)
        codes = [self.folder.call(name).returncode for _ in range(2)]
        after = snapshot(self.folder.experiments)
        if codes != [ExitCode.DONE] * 2:
            self.findings.append(f"exit codes {codes} after the end of round {name}")
        self.findings += [
            f"{file}: changed by a pass after the end of round {name}"
            for file in sorted({*before, *after})
            if before.get(file) != after.get(file)
        ]

    def end(self) -> None:
        """End all processes of this run."""
        while found := self.victims():
            for one in found:
                one.kill()
            time.sleep(0.05)

    def records(self, rounds: Sequence[str] | None = None) -> dict[str, Record]:
        """ROUND/PATH -> record, of all rounds by default."""
        return {
            f"{name}/{path}": record.read(self.folder.experiments / name / path)
            for name in rounds or self.rounds
            for path in paths(self.folder, name)
        }

    def names_in_slurm(self) -> list[str]:
        """The name of each job that Slurm knows, running or ended; an array counts as one job."""
        listed = self.cluster.run(["squeue", "-h", "-t", "all", "-o", "%F %j"]).stdout if self.cluster else ""
        return [line.split()[1] for line in sorted(set(listed.splitlines()))]


def start_requeued(cluster: SlurmCluster) -> None:
    """Slurm lets a requeued job wait for two minutes; tests do not."""
    for job, state in cluster.job_states().items():
        if state == "PENDING":
            cluster.run(["scontrol", "update", f"JobId={job}", "StartTime=now"])


def print_figures(chaos: Chaos, seconds: float) -> None:
    attempts = [one for found in chaos.records().values() for one in found.attempts]
    causes = Counter(str(one.cause) for one in attempts)
    version = chaos.cluster.run(["sinfo", "--version"]).stdout.strip() if chaos.cluster else "local machine"
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {version}")
    by_kind = ", ".join(f"{kind} {chaos.kills[kind]}" for kind in KINDS if chaos.kills[kind])
    print(f"seed {chaos.options.seed}: {chaos.kills.total()} kills ({by_kind})")
    print(f"{len(chaos.rounds)} rounds, {len(chaos.records())} experiments, {len(attempts)} attempts: {dict(causes)}")
    starts = [one for one in checks.read_lines(chaos.folder.journal / LINES) if one["event"] == "start"]
    resumed = [one["path"].split("/")[1] for one in starts if one.get("epoch")]
    copied = resumed.count("unchanged")
    print(f"{len(starts)} programs started; {len(resumed)} commands resumed, {copied} of them from copied files")
    print(f"other actions: {dict(chaos.actions)}")
    print(f"{seconds:.0f} s, load {os.getloadavg()[0]:.1f} at the end", flush=True)


if __name__ == "__main__":
    sys.exit(main())
