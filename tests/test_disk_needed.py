"""The disk space that a dry run states: the formula beside real runs, and the line and the warning that are printed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rounds_for_tests import Rounds
from small_study import train, with_settings
from test_study_check import Repository, seeds

from roundhouse.disk_space import RunSpace, run_space
from studies.flow_matching.check import disk
from studies.flow_matching.disk import parameters
from studies.flow_matching.network import Network
from studies.flow_matching.options import Options
from studies.flow_matching.techniques import design_of
from studies.flow_matching.train import train as train_flow

SMALL: dict[str, Any] = {
    "size": 8, "observations": 10, "queries": 20, "fields": 40, "validation_fields": 2, "test_fields": 9, "epochs": 4,
    "batch_size": 20, "validate_every": 1, "d_model": 48, "heads": 4, "num_layers": 3, "sample_steps": 1, "samples": 1,
    "reflow_epochs": 4, "reflow_pairs": 30,
}  # fmt: skip
DISK = """\
from roundhouse.disk_space import RunSpace
from roundhouse.errors import RoundhouseError

def check(config, data):
    pass

def disk(config):
    if "wrong" in config:
        raise RoundhouseError("wrong")
    return RunSpace(config["left"], config["left"] + 10**6)
"""


@pytest.mark.parametrize(
    "config",
    [{}, *({"techniques": str(number)} for number in range(1, 11)),
     {"techniques": "1+2+3+4+5+6+7+8+9+10", "num_layers": 1, "heads": 8}, {"feedforward": 20, "locality": "none"},
     {"method": "regression"}],
    ids=str,
)  # fmt: skip
def test_the_number_of_parameters_is_that_of_the_network(config: dict[str, Any]) -> None:
    options = Options(**{**SMALL, **config})
    network = Network(options, design_of(options))
    assert parameters(options) == sum(one.numel() for one in network.parameters())


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("techniques", ["", "1", "3+5+7", "1+4+6"])
def test_a_run_needs_what_the_formula_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, techniques: str) -> None:
    config = {**SMALL, "techniques": techniques}
    most, real = [0], os.replace

    def replace(source: Any, target: Any) -> None:
        most.append(size_of(tmp_path))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)  # a draft and what it replaces exist at the same time
    torch.set_num_threads(1)
    outcome = train(tmp_path, lambda run: train_flow(run, Options(**config), {}, None), with_settings(seed=1))
    assert outcome.finished
    space = disk(config)
    assert space.left == pytest.approx(size_of(tmp_path), rel=0.2)
    assert space.most == pytest.approx(max(most), rel=0.2), "three checkpoints at the same time"


def test_a_run_space_counts_the_best_weights_in_the_checkpoint_too() -> None:
    base = run_space(0)
    assert run_space(1000, 100, 10, 1) == RunSpace(base.left + 1211, base.left + 1211 + 2 * 1100)


# ------------------------------------------------------------------------------------------------------- the dry run


@pytest.fixture
def rounds(rounds: Rounds) -> Repository:
    made = Repository(folder=rounds.folder, mark=rounds.mark)
    made.make()
    return made


def disk_lines(rounds: Repository) -> list[str]:
    done = rounds.call("--dry-run")
    assert done.returncode == 0
    return [line for line in done.stdout.splitlines() if line.startswith("Disk:")] + done.stderr.splitlines()


def test_a_dry_run_states_the_space_of_all_experiments(rounds: Repository) -> None:
    rounds.study(check=DISK)
    rounds.write({
        "small": seeds("small", 2, config={"left": 100_000_000}),
        "large": seeds("large", config={"left": 500_000_000}),
        "best": {"path": "best", "study": "s", "select": {"from": "small", "metric": "a", "mode": "max"}},
        "own": seeds("own", command="true"),
    })  # fmt: skip
    (line,) = disk_lines(rounds)
    start = (
        "Disk: about 1.2 GB for 4 experiments (2 MB of it only while they run; 1 whose config is not known yet are "
        "counted like the largest; 1 of other studies or commands are not counted); "
    )
    assert line.startswith(start), "100 + 100 + 500 + 500 MB, and two slots"
    assert re.search(rf"; [\d.]+ [MG]B free in {re.escape(str(rounds.experiments))}$", line)


def test_a_round_that_does_not_fit_is_warned_of(rounds: Repository) -> None:
    rounds.study(check=DISK)
    rounds.write({"e": seeds("e", config={"left": 10**16})})
    line, warning = disk_lines(rounds)
    assert line.startswith("Disk: about 10000000.0 GB for 1 experiment ")
    assert re.match(
        r"runner.py: the round needs about 10000000.0 GB for 1 experiment, but only [\d.]+ [MG]B are free in ", warning
    )


def test_a_study_without_disk_prints_nothing(rounds: Repository) -> None:
    rounds.study()
    rounds.write({"e": seeds("e", config={"lr": 0.5}), "own": seeds("own", command="true")})
    assert disk_lines(rounds) == []


def test_experiments_that_have_ended_need_no_more(rounds: Repository) -> None:
    rounds.study(check=DISK)
    rounds.write({"own": seeds("own", command="true")})
    rounds.call()
    rounds.write({"own": seeds("own", command="true"), "e": seeds("e", config={"left": 10**9})})
    (line,) = disk_lines(rounds)
    assert line.startswith("Disk: about 1.0 GB for 1 experiment (1 MB of it only while they run); ")


@pytest.mark.parametrize("body", ["1 / 0", "return 7", "raise SystemExit"])
def test_a_disk_that_fails_is_one_line_and_does_not_matter_else(rounds: Repository, body: str) -> None:
    rounds.study(check=f"def check(config, data):\n    pass\n\ndef disk(config):\n    {body}\n")
    rounds.write({"e": seeds("e")})
    (line,) = disk_lines(rounds)
    assert line.startswith("runner.py: the disk space that is needed is not known: the check of study 's' failed in ")


def test_a_config_that_the_check_refuses_is_no_error_of_the_disk(rounds: Repository) -> None:
    rounds.study(check=DISK)
    rounds.write({"e": seeds("e", config={"left": 10**9}), "bad": seeds("bad", config={"wrong": 1})})
    (line,) = disk_lines(rounds)
    assert line.startswith("Disk: about 2.0 GB for 2 experiments (")
