"""Studies of a test's own, run by runner.py on the local machine: walltime, divergence, memory, mistakes in a study."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rounds_for_tests import Rounds
from study_rounds import StudyRounds

OPTIONS = """\
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    steps: int = 60
    seconds: float = 0.0
    flaw: str = "none"
"""

TRAIN = """\
import time
import torch
from torch import nn

def train(run, options, inputs, data):
    if options.flaw == "memory":
        raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB")
    model = nn.Linear(2, 1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimiser=optimiser)
    for epoch in run.epochs(1):
        for step, _ in epoch.batches(range(options.steps)):
            loss = model(torch.randn(4, 2, generator=step.generator("batch"))).square().mean()
            if options.flaw == "nan" and step.index >= 5:
                loss = loss * float("nan")
            step.optimise(loss, optimiser)
            step.average(loss=loss)
            time.sleep(options.seconds)
    run.finish(metrics={"test_loss": 0.5})
"""


@pytest.fixture
def studies(rounds: Rounds) -> StudyRounds:
    made = StudyRounds.of(rounds)
    made.study("s", OPTIONS, TRAIN)
    return made


def group(walltime: str = "0:10:00", **config: Any) -> dict[str, Any]:
    return {
        "path": "e/{seed}", "grid": {"seed": [0]}, "study": "s", "config": {"device": "cpu", **config},
        "resources": {"walltime": walltime, "ngpus": 1},
    }  # fmt: skip


def test_an_epoch_of_60_seconds_is_completed_over_several_attempts_of_30(studies: StudyRounds) -> None:
    studies.write({"e": group("0:00:30", seconds=1.0)})
    done = studies.call("--watch", timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    causes = studies.causes("e/0")
    assert set(causes[:-1]) == {"walltime"}
    assert causes[-1] == "completed"
    assert len(causes) >= 3
    progress = [attempt.progress for attempt in studies.record("e/0").attempts]
    steps = [(one.started_step, one.step) for one in progress if one is not None]
    assert [start for start, _ in steps] == [0, *(step for _, step in steps[:-1])], "each continues the one before"
    assert all(start <= step for start, step in steps), "on a busy machine, all of 30 s may be needed to start"
    assert steps[-1][1] == 60
    studies.write({"e": group(seconds=0.0)}, name="quick")
    assert studies.call("--watch", name="quick").returncode == 0
    assert hash_of(studies, "e/0", "r") == hash_of(studies, "e/0", "quick")


def hash_of(studies: StudyRounds, path: str, name: str) -> str:
    """The final hash of a completed experiment."""
    files = [*studies.directory(path, name).rglob("progress.json"), studies.directory(path, name) / "history.json"]
    text = "".join(path.read_text() for path in files if path.exists())
    return text.split('"final_hash": "')[1][:64]


def test_a_run_whose_loss_is_not_finite_is_diverged_and_is_not_retried(studies: StudyRounds) -> None:
    studies.write({"e": group(flaw="nan")})
    done = studies.call("--watch")
    assert studies.states() == {"e/0": "diverged"}, done.stdout + done.stderr
    assert studies.causes("e/0") == ["diverged"]
    log = (studies.directory("e/0") / "attempts/1/out.log").read_text()
    assert "the loss became nan in stage train, epoch 1, batch 6 at precision fp32, twice" in log


def test_a_study_that_trains_on_a_gpu_is_blocked_on_a_host_without_one(studies: StudyRounds) -> None:
    studies.extra["CUDA_VISIBLE_DEVICES"] = ""
    studies.write({"e": {**group(), "config": {"steps": 3}}})
    done = studies.call("--watch")
    assert studies.states() == {"e/0": "blocked"}, done.stdout + done.stderr
    assert (
        "it trains on a GPU (ngpus: 1), and this host has none: use another host, or write device: cpu" in done.stderr
    )
    assert not studies.record("e/0").attempts


def test_memory_that_runs_out_while_a_study_is_built_counts_as_memory(studies: StudyRounds) -> None:
    studies.write({"e": group(flaw="memory")})
    studies.call("--watch")
    assert set(studies.causes("e/0")) == {"memory"}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            "def build(config, inputs, device, data): ...",
            "studies/t/train.py does not define train; see docs/adding_a_study.md",
        ),
        ("def train(run, options, inputs, data): ...", "the study has no loop: it must use run.steps or run.epochs"),
        (
            "def train(run, options, inputs, data):\n    run.track(lr=0.5)",
            "run.track(lr=...): a float cannot be restored in place",
        ),
    ],
)
def test_a_mistake_in_a_study_is_one_clear_error(studies: StudyRounds, train: str, message: str) -> None:
    studies.study("t", OPTIONS, train)
    studies.write({"e": {**group(), "study": "t"}})
    studies.call("--watch")
    log = (studies.directory("e/0") / "attempts/1/out.log").read_text()
    assert f"roundhouse: {message}" in log
    assert "Traceback" not in log


def test_a_study_whose_job_requested_a_gpu_fails_with_the_reason_where_none_can_be_used(studies: StudyRounds) -> None:
    studies.write({"e": group(device="auto")})
    studies.call("--watch")
    assert set(studies.causes("e/0")) == {"error"}
    log = (studies.directory("e/0") / "attempts/1/out.log").read_text()
    gpus = ",".join(studies.gpus[:1])
    assert re.search(
        r"roundhouse: the job requested 1 GPU \(ngpus\), but PyTorch .* device: cpu in the config, or ngpus: 0", log
    ), log
    assert gpus in log or "is built for CPUs only" in log
    assert "Traceback" not in log


def test_a_finished_run_is_continued_and_a_kept_checkpoint_branched_from(studies: StudyRounds) -> None:
    train = TRAIN.replace("run.epochs(1)", "run.epochs(options.steps)").replace("range(options.steps)", "range(3)")
    kept = "        run.keep_checkpoint(f'after_{epoch.index}')"
    studies.study("u", OPTIONS, train.replace("            time.sleep(options.seconds)", kept))
    plain = {"grid": {"seed": [0]}, "study": "u", "resources": {"ngpus": 1}}
    first = {**plain, "path": "e/{seed}", "config": {"device": "cpu", "steps": 4}}
    longer = {"device": "cpu", "steps": 7}
    studies.write(
        {
            "first": first,
            "longer": {**plain, "path": "longer/{seed}", "config": longer, "continue": {"from": "first"}},
            "branch": {**plain, "path": "branch/{seed}", "config": longer,
                       "init": {"from": "first", "snapshot": "after_1"}},
        }
    )  # fmt: skip
    done = studies.call("--watch", timeout=120)
    assert set(studies.states().values()) == {"completed"}, done.stdout + done.stderr
    studies.write({"whole": {**plain, "path": "longer/{seed}", "config": longer}}, name="whole")
    studies.call("--watch", name="whole")
    assert hash_of(studies, "longer/0", "r") == hash_of(studies, "longer/0", "whole")
    assert hash_of(studies, "branch/0", "r") != hash_of(studies, "longer/0", "whole")
    log = (studies.directory("longer/0") / "attempts/1/out.log").read_text()
    assert "epoch 5/7" in log
    assert "epoch 4/7 (train)" not in log
