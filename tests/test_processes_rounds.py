"""Rounds whose runs train in two processes: on the local machine, Slurm and PBS, undisturbed, stopped and killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import SlurmCluster
from cluster_helpers import WORK_REMAINS, ClusterRounds, pbs_rounds
from fake_pbs import FakePBS
from rounds_for_tests import REPOSITORY, Rounds, wait_for
from study_rounds import StudyRounds

from roundhouse.store import history, record

OPTIONS = """\
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    seconds: float = 0.0
    go: str = ""
"""

# In the middle, all processes wait until the file `go` exists.
TRAIN = """\
import os
import time
import torch
from torch import nn
from torch.nn import functional as F

def train(run, options, inputs, data):
    model = run.prepare(nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    run.track(model=model, optimiser=optimiser)
    run.best("val_loss", mode="min", weights={"model": model})
    x = torch.randn(64, 3, generator=run.generator("x"))
    y = x.sum(1, keepdim=True).sin()
    for epoch in run.epochs(4):
        order = torch.randperm(60, generator=epoch.generator("order"))
        for step, chosen in epoch.batches(torch.split(order, 8)):
            while options.go and (epoch.index, step.index) == (1, 2) and not os.path.exists(options.go):
                time.sleep(0.05)
            part = chosen[step.shard(len(chosen))]
            loss = F.mse_loss(model(x[part]), y[part])
            step.optimise(loss, optimiser)
            step.average(loss=loss)
            time.sleep(options.seconds)
        with torch.no_grad():
            run.record(val_loss=F.mse_loss(model(x), y))
    run.finish(metrics={"test_loss": F.mse_loss(model(x), y).item()})
"""
STEPS, HELD = 32, 10  # of a run; those that are complete when it waits


def group(path: str, ngpus: int = 0, walltime: str = "0:10:00", **config: Any) -> dict[str, Any]:
    return {
        "path": path, "study": "s", "resources": {"ngpus": ngpus, "walltime": walltime},
        "config": {"device": "cpu", "precision": "fp32", "processes": 2, "save_minutes": 0, **config},
    }  # fmt: skip


def environment(rounds: Rounds, path: str) -> dict[str, Any]:
    """What ran in the last attempt."""
    return max(history.environments(rounds.directory(path)).items())[1]


def result(rounds: Rounds, path: str) -> tuple[str, dict[str, float]]:
    """The hash of all that a completed run has tracked, and its final metrics."""
    text = (rounds.directory(path) / record.HISTORY).read_text()
    metrics = json.loads((rounds.directory(path) / "metrics.json").read_text())
    assert metrics["exact"]
    return text.partition('"final_hash": "')[2][:64], metrics["final"]


@dataclass(frozen=True)
class Local:
    """A round that has ended on the local machine, with runs of one process, of two, and of two over walltimes."""

    rounds: StudyRounds

    @property
    def hash(self) -> str:
        return result(self.rounds, "two")[0]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    rounds = StudyRounds.of(Rounds(folder=tmp_path_factory.mktemp("local")))
    rounds.study("s", OPTIONS, TRAIN)
    rounds.write({
        "slow": group("slow", 1, "0:00:30", seconds=0.85),  # in the slot of a GPU, beside the next one
        "two": group("two"), "one": group("one", 1, processes=1),
    })  # fmt: skip
    try:
        done = rounds.call("--watch", timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Local(rounds)
    finally:
        rounds.kill()


def test_a_run_in_two_processes_completes_on_the_local_machine_and_records_them(local: Local) -> None:
    found = environment(local.rounds, "two")
    assert (found["processes"], found["backend"]) == (2, "gloo")
    assert "processes" not in environment(local.rounds, "one")
    assert local.rounds.causes("two") == ["completed"]
    assert not local.rounds.jobs()


def test_two_processes_learn_what_one_learns_from_the_same_batches(local: Local) -> None:
    (one, final), (two, final_of_two) = result(local.rounds, "one"), result(local.rounds, "two")
    assert one != two, "the sums over samples are rounded differently"
    assert final_of_two == pytest.approx(final, rel=1e-4)


def test_a_walltime_ends_both_processes_and_the_next_attempt_continues_exactly(local: Local) -> None:
    causes = local.rounds.causes("slow")
    assert causes[-1] == "completed" and set(causes[:-1]) == {"walltime"}
    first, *_, last = [attempt.progress for attempt in local.rounds.record("slow").attempts]
    assert first and last and 0 < first.step == last.started_step < last.step == STEPS or len(causes) > 2
    assert result(local.rounds, "slow")[0] == local.hash


# ------------------------------------------------------------------------------------------- on clusters


@pytest.fixture
def pbs(fake_pbs: FakePBS, tmp_path: Path) -> Iterator[ClusterRounds]:
    with pbs_rounds(fake_pbs, tmp_path) as made:
        yield made


def add_study(rounds: ClusterRounds) -> None:
    for name in ("studies", "train.py"):
        (rounds.repository / name).unlink()
    (rounds.repository / "train.py").write_text((REPOSITORY / "train.py").read_text())  # it imports from where it is
    (rounds.repository / "studies" / "s").mkdir(parents=True)
    for name, text in (("s/options.py", OPTIONS), ("s/train.py", TRAIN), ("__init__.py", ""), ("s/__init__.py", "")):
        (rounds.repository / "studies" / name).write_text(text)


def start(rounds: ClusterRounds, *paths: str) -> None:
    """Submit runs in two processes, and wait until all are in the middle."""
    add_study(rounds)
    rounds.write({path: group(path, go=str(rounds.notes / f"{path}.go")) for path in paths})
    assert rounds.call().returncode == WORK_REMAINS
    for path in paths:
        wait_for(lambda: is_held(rounds, path), f"{path} is in the middle", 120)  # noqa: B023


def is_held(rounds: ClusterRounds, path: str) -> bool:
    newest = rounds.record(path).newest
    return newest is not None and newest.progress is not None and newest.progress.step == HELD


def processes(rounds: ClusterRounds, path: str) -> list[psutil.Process]:
    """The processes of a run, process 0 first."""
    first = rounds.python(path)
    return [first, *(one for one in first.children() if "other_process" in " ".join(one.cmdline()))]


def complete(rounds: ClusterRounds, local: Local, causes: dict[str, str]) -> None:
    """All continue and complete, with the result of an undisturbed run. `causes`: of the first attempts."""
    rounds.release(*causes)
    rounds.pass_until_done(180)
    assert {path: rounds.causes(path) for path in causes} == {path: [one, "completed"] for path, one in causes.items()}
    for path in causes:
        first, second = (attempt.progress for attempt in rounds.record(path).attempts)
        assert first and second and HELD <= first.step == second.started_step < second.step
        assert result(rounds, path)[0] == local.hash
        assert environment(rounds, path)["processes"] == 2
    assert not rounds.jobs(), "no process of a run is left"


@pytest.mark.cluster
def test_on_slurm_runs_continue_exactly_after_scancel_and_after_the_death_of_the_second_process(
    slurm: ClusterRounds, slurm_cluster: SlurmCluster, local: Local
) -> None:
    start(slurm, "cancelled", "killed")
    cancelled, killed = (processes(slurm, path) for path in ("cancelled", "killed"))
    assert len(cancelled) == len(killed) == 2
    slurm_cluster.run(["scancel", slurm.view("cancelled")["job_id"]])
    killed[1].kill()
    assert psutil.wait_procs(killed, timeout=30)[1] == [], "process 0 does not wait for the file any more"
    log = (slurm.attempt("killed") / record.LOG).read_text()
    assert "roundhouse: process 1 of this run was killed by SIGKILL, and all others end with it" in log
    complete(slurm, local, {"cancelled": "deleted", "killed": "unknown"})


def test_on_pbs_runs_continue_exactly_after_the_death_of_process_0_and_after_a_signal_to_the_other_one(
    pbs: ClusterRounds, local: Local
) -> None:
    start(pbs, "killed", "signalled")
    killed, signalled = (processes(pbs, path) for path in ("killed", "signalled"))
    first, other = killed
    shell = pbs.shell("killed")
    assert os.getpgid(first.pid) == os.getpgid(other.pid) != os.getpgid(shell.pid), "the shell ends this group"
    assert os.getsid(first.pid) == os.getsid(other.pid) == os.getsid(shell.pid)
    first.kill()
    assert psutil.wait_procs(killed, timeout=30)[1] == [], "the other process does not wait for the file any more"
    signalled[1].send_signal(signal.SIGTERM)
    complete(pbs, local, {"killed": "unknown", "signalled": "preempted"})


def test_in_an_allocation_a_preloaded_python_starts_the_second_process(pbs: ClusterRounds, local: Local) -> None:
    add_study(pbs)
    pbs.write({"packed": group("packed") | {"resources": {"ncpus": 2, "pack": {"slots": 1}}}})
    pbs.pass_until_done()
    assert pbs.causes("packed") == ["completed"]
    assert result(pbs, "packed")[0] == local.hash
    assert environment(pbs, "packed")["processes"] == 2
    assert not pbs.jobs()
