"""The study flood around its runs: configs that cannot run, inputs that are missing or damaged, disk space."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flood_tiny import TINY, Inputs, Sets, few, run
from rounds_for_tests import REPOSITORY

from roundhouse.errors import RoundhouseError
from studies.flood import disk as disk_module
from studies.flood.architectures import make
from studies.flood.check import check
from studies.flood.disk import disk
from studies.flood.floods import read
from studies.flood.options import ARCHITECTURES, Options

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"task": "train"}, "unknown task 'train': "),
    ({"set": "tiny"}, "unknown set 'tiny': choose from big, small"),
    ({"architecture": "06"}, "architecture.* 02, 03, 04, 05, 07, 08, 09"),
    ({"attention": "none"}, "unknown attention 'none': choose from projection, self"),
    ({"downsampler": "cubic"}, "unknown downsampler 'cubic': did you mean 'bicubic'"),
    ({"last": "relu"}, "unknown last 'relu': choose from leaky_relu, linear, tanh"),
    ({"schedule": "cosine"}, "schedule.* constant, plateau"),
    ({"architecure": "02"}, "did you mean 'architecture'"),
    ({"epochs": "many"}, "epochs"),
    ({"architecture": 2}, "architecture"),
    ({"cells": 31}, "'cells' is 31; it must be at least 32, the side of a sample"),
    *(
        ({name: 0}, f"{name!r} is 0; it must be at least 1")
        for name in ("train", "stride", "epochs", "batch_size", "plateau_patience", "leads", "snapshot_minutes")
    ),
    ({"lead_minutes": 0}, "'lead_minutes' is 0; it must be at least 1"),
    ({"test": 0}, "'test' is 0; it must be at least 1: a result needs held-out simulations"),
    ({"validation": 0}, "'validation' is 0; it must be at least 1: a result needs held-out"),
    *(({name: 0.0}, f"{name!r} is 0.0; it must be above 0") for name in ("hours", "width", "lr")),
    ({"plateau_factor": 1.0}, "'plateau_factor' is 1.0; it must lie between 0 and 1"),
    ({"factor": 1}, "'factor' is 1; it must be at least 2"),
    ({"snapshot_minutes": 45}, "'lead_minutes' is 60; it must be a multiple of 'snapshot_minutes', which is 45"),
    ({"hours": 0.5}, "'hours' is 0.5, less than 'lead_minutes', which is 60: no sample would fit"),
    ({"task": "evaluation", "leads": 5}, "'leads' is 5, but a simulation of 'hours' 4 has only 4 leads: lower 'leads'"),
    ({"task": "coarse", "factor": 3}, "'factor' is 3; it must divide 'cells', which is 128"),
]


@pytest.mark.parametrize(("config", "message"), WRONG, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_a_config_that_cannot_run_is_refused_with_one_message(config: dict[str, Any], message: str) -> None:
    with pytest.raises(RoundhouseError, match=message) as error:
        check(config, None)
    assert "\n" not in str(error.value)


def test_a_config_that_can_run_is_accepted() -> None:
    for config in ({}, {"task": "simulation"}, {"task": "coarse", "factor": 4}, {"factor": 3}, TINY):
        check(config, None)


@pytest.mark.parametrize(
    ("hours", "minutes", "snapshots"), [(4, 60, 5), (0.2, 2, 7), (2.05, 3, 42), (8.2, 4, 124), (1.99, 60, 2)]
)
def test_a_simulation_has_a_snapshot_at_each_multiple_of_the_interval(
    hours: float, minutes: int, snapshots: int
) -> None:
    assert Options(hours=hours, snapshot_minutes=minutes, lead_minutes=minutes).snapshots == snapshots


def test_samples_that_the_config_names_must_exist(tmp_path: Path, flood_sets: Sets) -> None:
    with pytest.raises(RoundhouseError, match="there are no samples in .*run the data step first") as error:
        check({"samples": str(tmp_path)}, None)
    assert str(tmp_path) in str(error.value)
    made = flood_sets.samples("small")
    attempt = tmp_path / "attempts/2"
    attempt.parent.mkdir()
    attempt.symlink_to(made)
    for place in (made, made / "kept/samples.pth", tmp_path):
        check({"samples": str(place)}, None)


def test_the_check_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, studies.flood.check; sys.exit(bool({'torch', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


# Inputs


def refused(place: Path, task: str, inputs: Inputs, message: str, **config: Any) -> None:
    with pytest.raises(RoundhouseError, match=message) as error:
        run(place, task, inputs, **config)
    assert "\n" not in str(error.value)


def test_a_training_without_samples_or_with_two_sets_says_what_it_needs(tmp_path: Path, flood_sets: Sets) -> None:
    refused(tmp_path, "training", {}, "needs one set of samples, and 0 of its inputs have one: name the group")
    both = {name: [flood_sets.samples(name)] for name in ("small", "big")}
    refused(tmp_path, "training", both, "needs one set of samples, and 2 of its inputs have one")


def test_a_training_reads_the_samples_that_its_config_names(tmp_path: Path, flood_sets: Sets) -> None:
    inputs = few(flood_sets, tmp_path / "few")
    ran = run(tmp_path / "inputs", "training", inputs, epochs=1)
    assert run(tmp_path / "config", "training", samples=str(tmp_path / "few"), epochs=1).metrics == ran.metrics


def test_samples_without_simulations_say_which_are_missing(tmp_path: Path, flood_sets: Sets) -> None:
    small = flood_sets.simulations("small")
    refused(tmp_path, "samples", {"s": small[:2]}, r"simulations \[2, 3\] of the set small are not among", train=2)
    refused(tmp_path, "samples", {"s": small}, r"simulations \[0, 1, 2\] of the set big are not", set="big")
    refused(tmp_path, "samples", {}, "simulations .* run the data step first")


def test_simulations_with_other_snapshots_are_refused(tmp_path: Path, flood_sets: Sets) -> None:
    message = "simulation 0 of the set small has a snapshot every 2 minutes, and .* 'snapshot_minutes' is 4: use one"
    inputs = {"s": flood_sets.simulations("small")}
    refused(tmp_path, "samples", inputs, message, snapshot_minutes=4, train=2)


def test_an_evaluation_says_what_it_lacks(tmp_path: Path, flood_sets: Sets, flood_trained: Path) -> None:
    inputs = flood_sets.of_evaluation(flood_trained)
    refused(tmp_path, "evaluation", {**inputs, "C": []}, "needs one trained surrogate, and 0 of its inputs have one")
    both = {**inputs, "C": [flood_trained] * 2}
    refused(tmp_path, "evaluation", both, "needs one trained surrogate, and 2 of its inputs have one")
    refused(
        tmp_path, "evaluation", {"C": [flood_trained]}, "no input has samples of the set small: run the data step first"
    )
    message = "'leads' is 9, but a simulation of 'hours' 0.2 has only 3 leads: lower 'leads'"
    refused(tmp_path, "evaluation", inputs, message, set="big", leads=9)


def test_an_evaluation_without_samples_of_its_set_says_so(
    tmp_path: Path, flood_sets: Sets, flood_trained: Path
) -> None:
    inputs = {"C": [flood_trained], "samples_small": [flood_sets.samples("small")]}
    refused(tmp_path, "evaluation", inputs, "no input has samples of the set big", set="big")
    coarse = {**flood_sets.of_coarse, "samples_big": [flood_sets.samples("small")]}
    refused(tmp_path, "coarse", coarse, "no input has samples of the set big", set="big")


def test_a_limit_for_trainings_does_not_end_a_simulation_as_if_it_were_complete(tmp_path: Path) -> None:
    with pytest.raises(
        RoundhouseError, match="before it had a result: set config keys 'time_limit' and 'max_steps' only"
    ):
        run(tmp_path, "simulation", settings={"max_steps": 2})


def test_a_damaged_simulation_is_found_by_its_hash_where_it_is_read(tmp_path: Path, flood_sets: Sets) -> None:
    small = flood_sets.simulations("small")
    copy = tmp_path / "copy/kept/simulation.pth"
    copy.parent.mkdir(parents=True)
    data = bytearray((small[3] / "kept/simulation.pth").read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    with pytest.raises(RoundhouseError, match="simulation.pth is corrupted: its SHA-256 differs"):
        read(copy)
    inputs = {"s": [*small[:3], tmp_path / "copy"]}
    refused(tmp_path / "run", "samples", inputs, "copy/kept/simulation.pth is corrupted: its SHA-256", train=2)


# Disk space


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_numbers_of_parameters_are_those_of_the_networks(architecture: str) -> None:
    expected = sum(one.numel() for one in make(architecture).parameters())
    assert disk_module._PARAMETERS[architecture] == expected - (11 * 11 + 1)  # k11s10


def left_by(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def test_a_run_leaves_what_the_formula_says(tmp_path: Path, flood_sets: Sets, flood_trained: Path) -> None:
    def close(place: Path, task: str, **config: Any) -> None:
        found, said = left_by(place), disk({**TINY, "task": task, **config}).left
        assert abs(said - found) < 100_000 + 0.2 * found, (task, said, found)

    close(flood_sets.simulations("small")[0], "simulation")
    close(flood_sets.samples("small"), "samples", train=2)
    close(flood_trained, "training", train=2)
    inputs = few(flood_sets, tmp_path / "few")
    run(tmp_path / "wide", "training", inputs, architecture="03", width=0.25, epochs=1)
    close(tmp_path / "wide", "training", train=2, architecture="03", width=0.25)
