"""The rounds of studies/flood: their stages, what each depends on, and that every config is valid."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
from rounds_for_tests import REPOSITORY

from roundhouse.config.round import Round, load_round
from roundhouse.model.experiment import Experiment
from roundhouse.options import read_options
from roundhouse.settings import split_config
from studies.flood.check import check
from studies.flood.metrics import METRICS
from studies.flood.options import ARCHITECTURES, Options

ROUNDS = ("flood", "flood_smoke")
COUNTS = {
    "flood": {
        "simulations_small": 7, "simulations_big": 120, "samples_small": 1, "samples_big": 1, "A": 21, "B_best": 18,
        "B_04": 21, "C": 21, "D": 21, "coarse": 3,
    },
    "flood_smoke": {
        "simulations_small": 4, "simulations_big": 16, "samples_small": 1, "samples_big": 1, "A": 7, "B_best": 3,
        "B_04": 4, "C": 21, "D": 21, "coarse": 2,
    },
}  # fmt: skip


@cache
def loaded(name: str) -> Round:
    return load_round(name, REPOSITORY / "rounds")


def group(name: str, wanted: str) -> list[Experiment]:
    return [one for one in loaded(name).experiments if one.group == wanted]


def options_of(one: Experiment) -> Options:
    return read_options(Options, split_config(one.config)[1])


@pytest.mark.parametrize("name", ROUNDS)
def test_the_groups_have_their_numbers_of_experiments(name: str) -> None:
    assert dict(Counter(one.group for one in loaded(name).experiments)) == COUNTS[name]


@pytest.mark.parametrize("name", ROUNDS)
def test_every_config_that_is_known_is_valid_and_names_its_task(name: str) -> None:
    tasks = {"A": "training", "B": "training", "D": "evaluation", "simulations": "simulation"}
    for one in loaded(name).experiments:
        if not one.undecided:
            check(split_config(one.config)[1], None)
            assert one.config["task"] == tasks.get(kind := one.group.partition("_")[0], kind)


@pytest.mark.parametrize("name", ROUNDS)
def test_a_path_is_stage_architecture_seed(name: str) -> None:
    seeds = {"A": 3 if name == "flood" else 1, "C": 3, "D": 3}
    for stage, number in seeds.items():
        expected = {f"{stage}/{architecture}/{seed}" for architecture in ARCHITECTURES for seed in range(number)}
        assert {one.path for one in group(name, stage)} == expected
    assert all(one.path.startswith("B/best/") for one in group(name, "B_best"))
    assert all(one.path.startswith("B/04/") and one.config["architecture"] == "04" for one in group(name, "B_04"))
    assert all(one.path.startswith("D/coarse_") for one in group(name, "coarse"))


def test_each_trained_model_has_three_seeds_and_stage_b_varies_one_key_at_a_time() -> None:
    for stage in ("A", "B_best", "B_04", "C"):
        settings = Counter(one.path.rpartition("/")[0] for one in group("flood", stage))
        assert set(settings.values()) == {3}
    base = {"lr": 1e-4, "width": 1, "attention": "self", "downsampler": "k11s10"}
    varied = {"B_best": {"lr": 2, "width": 2, "downsampler": 2}}
    varied["B_04"] = {**varied["B_best"], "attention": 1}
    for stage, expected in varied.items():
        found: Counter[str] = Counter()
        for one in group("flood", stage):
            (key,) = [key for key, value in base.items() if key in one.config and one.config[key] != value]
            assert key == one.config["focus"]
            found[key] += 1
        assert found == {key: 3 * number for key, number in expected.items()}


@pytest.mark.parametrize("name", ROUNDS)
def test_a_training_depends_on_one_samples_experiment_and_no_simulation(name: str) -> None:
    for stage, samples in (("A", "samples_small"), ("B_best", "samples_small"), ("B_04", "samples_small"),
                           ("C", "samples_big")):  # fmt: skip
        selected = {"B_best": {"A"}, "C": {"A", "B_best", "B_04"}}.get(stage, set())
        for one in group(name, stage):
            assert one.after[samples] == (samples.replace("_", "/"),)
            assert set(one.after) - {samples} <= selected
    for part in ("small", "big"):
        (samples_of_set,) = group(name, f"samples_{part}")
        simulations = {one.path for one in group(name, f"simulations_{part}")}
        assert set(samples_of_set.dependencies) == simulations


@pytest.mark.parametrize("name", ROUNDS)
def test_the_simulations_of_a_set_are_those_of_its_split(name: str) -> None:
    for part in ("small", "big"):
        (samples,) = group(name, f"samples_{part}")
        options = options_of(samples)
        simulations = group(name, f"simulations_{part}")
        numbers = [one.config["seed"] for one in simulations]
        assert numbers == list(range(options.train + options.validation + options.test))
        for one in simulations:
            own = options_of(one)
            assert (own.set, own.snapshot_minutes) == (part, options.snapshot_minutes)
            assert own.hours * 60 >= options.lead_minutes


def test_the_big_set_has_the_numbers_of_the_document() -> None:
    (samples,) = group("flood", "samples_big")
    options = options_of(samples)
    assert (options.train, options.validation, options.test) == (84, 18, 18)
    for one in group("flood", "simulations_big"):
        own = options_of(one)
        assert (own.cells, own.hours, own.snapshot_minutes, one.resources.array) == (128, 4, 60, True)
    assert {
        (options_of(one).lr, options_of(one).epochs, options_of(one).batch_size) for one in group("flood", "A")
    } == {(1e-4, 300, 300)}


@pytest.mark.parametrize("name", ROUNDS)
def test_stage_c_selects_for_each_architecture_from_the_stages_before_it(name: str) -> None:
    best = {one.path for one in group(name, "B_best")}
    for one in group(name, "C"):
        architecture = one.config["architecture"]
        assert one.undecided and one.selection and one.selection.per == "architecture"
        assert {path.split("/")[1] for path in one.after["A"]} == {architecture} and len(one.after["A"]) == COUNTS[
            name
        ]["A"] // 7
        assert set(one.after["B_best"]) == best, "which architecture it has is not known before A has ended"
        tuned = set(one.after.get("B_04", ()))
        assert tuned == ({other.path for other in group(name, "B_04")} if architecture == "04" else set())
        assert not one.selection.inputs and (one.config["set"], one.selection.metric) == ("big", "val_loss")


@pytest.mark.parametrize("name", ROUNDS)
def test_stage_b_takes_the_best_of_a_that_is_not_04(name: str) -> None:
    for one in group(name, "B_best"):
        assert one.selection
        assert (one.selection.where, one.selection.rank, one.selection.mode) == ("architecture != '04'", 1, "min")
        assert len(one.after["A"]) == COUNTS[name]["A"]


@pytest.mark.parametrize("name", ROUNDS)
def test_stage_d_depends_on_the_training_of_its_architecture_and_seed_and_on_both_sets(name: str) -> None:
    for one in group(name, "D"):
        same = one.path.replace("D/", "C/", 1)
        assert one.after == {"C": (same,), "samples_small": ("samples/small",), "samples_big": ("samples/big",)}
        assert {f"rollout{lead}_rae" for lead in range(1, options_of(one).leads + 1)} <= set(METRICS)
    for one in group(name, "coarse"):
        assert set(one.after) == {"simulations_big", "samples_big"}
        assert len(one.after["simulations_big"]) == COUNTS[name]["simulations_big"]


def test_the_metrics_that_selections_use_are_declared() -> None:
    assert {one.selection.metric for one in loaded("flood").experiments if one.selection} <= set(METRICS)
