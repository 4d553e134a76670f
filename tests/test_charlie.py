"""The rounds of experiment charlie: what they expand to, and the smoke round, shortened, on a real Slurm."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import yaml
from cluster_helpers import ClusterRounds
from rounds_for_tests import REPOSITORY

from roundhouse.config.round import load_round
from roundhouse.model.experiment import Experiment
from roundhouse.options import read_options
from roundhouse.settings import split_config
from studies.distillation.options import ALONE, DISTILLING, Options

SIX = ["logit", "fitnets", "attention_transfer", "factor_transfer", "rkd", "nst"]
ROUNDS = ["charlie", "charlie_smoke", "control", "calibration"]


def experiments_of(name: str) -> list[Experiment]:
    return load_round(name, REPOSITORY / "rounds").experiments


def test_charlie_is_240_jobs_whose_students_wait_for_the_teacher_of_their_data_set_and_seed() -> None:
    experiments = experiments_of("charlie")
    assert Counter(one.group for one in experiments) == {"distilled": 216, "teacher": 12, "student": 12}
    by_path = {one.path: one for one in experiments}
    one = by_path["cifar100/logit/alpha_0.5/ResNet112_to_ResNet56/0"]
    assert one.after == {"teacher": ("cifar100/pure/ResNet112/0",)}
    distilled = [one for one in experiments if one.group == "distilled"]
    grid = Counter((one.config["method"], one.config["alpha"], one.config["dataset"]) for one in distilled)
    assert set(grid.values()) == {3}
    assert {method for method, _, _ in grid} == set(SIX)
    assert {alpha for _, alpha, _ in grid} == {0.25, 0.5, 0.75}
    for one in distilled:
        (teacher,) = one.after["teacher"]
        led = by_path[teacher]
        assert (led.config["dataset"], led.config["seed"]) == (one.config["dataset"], one.config["seed"])
        assert led.config["model"] == one.config["teacher"]
        assert led.priority > one.priority


def test_a_data_set_with_eight_times_the_arithmetic_is_given_eight_times_the_time() -> None:
    walltimes = {one.config["dataset"]: one.resources.walltime_s for one in experiments_of("charlie")}
    assert walltimes["tinyimagenet"] == 8 * walltimes["cifar100"]


def test_the_smoke_round_is_charlies_grid_in_small() -> None:
    grids = {}
    for name in ("charlie", "charlie_smoke"):
        distilled = [one for one in experiments_of(name) if one.group == "distilled"]
        grids[name] = {(one.config["method"], one.config["alpha"]) for one in distilled}
        options = [set(one.config) - {"paraphraser_epochs"} for one in distilled]
        assert all(keys == options[0] for keys in options)
    assert grids["charlie_smoke"] == grids["charlie"]


def test_the_control_round_is_charlies_student_without_a_teacher() -> None:
    charlie = next(one for one in experiments_of("charlie") if one.group == "distilled")
    for one in experiments_of("control"):
        assert one.config["method"] == "control"
        assert not one.after
        recipe = {key: value for key, value in one.config.items() if key not in ("method", "alpha", "dataset", "seed")}
        assert recipe.items() <= charlie.config.items()


def test_the_published_alpha_is_tried_with_charlies_recipe_on_each_of_its_data_sets() -> None:
    charlie = next(one for one in experiments_of("charlie") if one.config["method"] == "logit")
    own = {"alpha": 0.9, "dataset": None, "seed": 0}
    found = [one for one in experiments_of("calibration") if one.group == "kd"]
    assert all({**one.config, **own} == {**charlie.config, **own} for one in found)
    assert {one.config["alpha"] for one in found} == {0.9}
    assert sorted(one.config["dataset"] for one in found) == ["cifar10", "cifar100", "svhn", "tinyimagenet"]


HASHES = {
    "charlie": "be24fa03b77a9d7c",
    "charlie_smoke": "002a31fff1a8bc30",
    "control": "c5eed5105eaa1a5e",
    "control_smoke": "3c368167a0710461",
    "quickstart": "6c9bb4172d6c7f36",
}


@pytest.mark.parametrize("name", HASHES)
def test_shipped_rounds_keep_the_hashes_of_their_configs(name: str) -> None:
    """Records of these rounds exist; with another hash, `runner.py` reports that the config has changed."""
    lines = sorted(f"{one.path} {one.config_hash()}" for one in experiments_of(name))
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == HASHES[name]


@pytest.mark.parametrize("name", ROUNDS)
def test_every_config_of_the_rounds_is_legal(name: str) -> None:
    for one in experiments_of(name):
        options = read_options(Options, split_config(one.config)[1])
        assert (options.method in ALONE) == (not one.after)
        assert options.method in (*ALONE, *DISTILLING)


@pytest.mark.cluster
def test_the_smoke_round_trains_every_method_on_a_cluster_and_its_numbers_are_sane(slurm: ClusterRounds) -> None:
    resources = {"ncpus": 2, "pack": {"slots": 2}, "max_running": 1}  # so that PyTorch is loaded once
    smaller = {"round": "r", "extends": "charlie_smoke", "resources": resources, "defaults": {"seed": 0}}
    smaller["experiments"] = {"distilled": {"grid": {"alpha": [0.5]}}}
    slurm.write(yaml.safe_dump(smaller))
    for name in ("charlie", "charlie_smoke"):
        shutil.copy(REPOSITORY / "rounds" / f"{name}.yaml", slurm.rounds)
    slurm.pass_until_done(400)
    paths = {"digits/pure/ResNet20/0", "digits/pure/ResNet8/0"}
    paths |= {f"digits/{method}/alpha_0.5/ResNet20_to_ResNet8/0" for method in SIX}
    assert slurm.states() == dict.fromkeys(paths, "completed")
    for path in paths:
        reported = json.loads((slurm.directory(path) / "metrics.json").read_text())
        final = reported["final"]
        assert final["test_accuracy"] > 4 * final["chance_accuracy"], f"{path} is not clearly above chance"
        epochs = [record for record in reported["epochs"] if record["stage"] == "train"]
        assert epochs[-1]["train_accuracy"] > epochs[0]["train_accuracy"] + 0.1, f"{path} is stuck"
        values = [value for record in reported["epochs"] for value in record.values() if isinstance(value, float)]
        assert np.isfinite([*values, *final.values()]).all()
        outputs = np.load(slurm.directory(path) / "outputs.npz")
        assert all(np.isfinite(outputs[name]).all() for name in outputs)
        if "pure" not in path:
            assert all(record["gradient_ratio"] > 0 for record in epochs)
            assert len({record["distillation_loss"] for record in epochs}) > 1
    assert {path: slurm.causes(path) for path in paths} == dict.fromkeys(paths, ["completed"])
    transferred = slurm.directory("digits/factor_transfer/alpha_0.5/ResNet20_to_ResNet8/0")
    assert (transferred / "attempts/1/kept/paraphraser.pth").exists()
