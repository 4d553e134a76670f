"""Seeds derived from names, hashes that depend on every bit, options, and devices that are refused early."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY
from small_study import single_epoch, train

from roundhouse.errors import RoundhouseError
from roundhouse.gpu_kernels import has_kernels
from roundhouse.settings import Settings, split_config
from roundhouse.training import Run, choose, read_options
from roundhouse.training.loops import Streams
from roundhouse.training.precision import choose_device, choose_precision
from roundhouse.training.reproducibility import (
    derive_seed,
    differences,
    environment,
    exactness,
    hash_state,
    seed_globals,
    snapshot,
    tf32_use,
)

CPU = torch.device("cpu")
STATE = {"model": {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(3)}, "lr": 0.1, "groups": [1, None]}


def test_a_derived_seed_never_changes() -> None:
    assert derive_seed(0, "order", "train", 5) == 7586911728352701861


@settings(deadline=None)
@given(st.lists(st.integers() | st.text(), max_size=4), st.lists(st.integers() | st.text(), max_size=4))
def test_different_names_have_different_seeds(one: list[int | str], other: list[int | str]) -> None:
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


def draw(place: Streams, stream: str = "order", *more: int) -> list[float]:
    torch_numbers = torch.rand(2, generator=place.generator(stream, *more)).tolist()
    return [*torch_numbers, *place.numpy_generator(stream, *more).random(2)]


def test_the_seeds_of_an_epoch_never_change() -> None:
    assert single_epoch(5).seed("order") == derive_seed(0, "order", "train", 5) == 7586911728352701861


def test_a_stream_depends_only_on_seed_stream_loop_and_epoch() -> None:
    first = draw(single_epoch())
    torch.rand(5)
    assert draw(single_epoch()) == first
    others = [
        draw(single_epoch(), "augmentation"),
        draw(single_epoch(stage="x")),
        draw(single_epoch(1)),
        draw(single_epoch(seed=1)),
        draw(single_epoch(), "order", 1),
    ]
    for other in others:
        assert not set(other) & set(first)


def test_the_streams_of_a_run_its_epochs_their_batches_and_steps_all_differ(tmp_path: Path) -> None:
    drawn: list[float] = []

    def by_epochs(run: Run) -> None:
        drawn.extend(draw(run))
        for epoch in run.epochs(2):
            drawn.extend(draw(epoch))
            for step, _ in epoch.batches(range(2)):
                drawn.extend([*draw(step), *draw(step, "order", 1)])

    def by_steps(run: Run) -> None:
        for step in run.steps(3):
            drawn.extend([*draw(step), *draw(step, "order", 1)])

    train(tmp_path / "epochs", by_epochs)
    train(tmp_path / "steps", by_steps)
    assert len(drawn) == len(set(drawn)) == 4 * (1 + 2 + 2 * 2 * 2 + 3 * 2)


def test_seeding_makes_all_global_generators_repeat() -> None:
    def draw() -> tuple[float, float, float]:
        seed_globals(7)
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    assert draw() == draw()


def changed(change: str) -> Any:
    state: dict[str, Any] = snapshot(STATE)
    model = state["model"]
    if change == "one bit":
        model["weight"].view(torch.int32)[1, 2] ^= 1
    elif change == "the sign of a zero":
        model["weight"][0, 0] = -0.0
    elif change == "type":
        model["weight"] = model["weight"].double()
    elif change == "shape":
        model["weight"] = model["weight"].reshape(3, 2)
    elif change == "name":
        model["Weight"] = model.pop("weight")
    elif change == "plain value":
        state["lr"] = 0.1 + 1e-17 + 1e-16
    elif change == "plain type":
        state["groups"][0] = True
    elif change == "order of a list":
        state["groups"].reverse()
    return state


@pytest.mark.parametrize(
    "change",
    ["one bit", "the sign of a zero", "type", "shape", "name", "plain value", "plain type", "order of a list"],
)
def test_the_hash_of_a_state_changes_with(change: str) -> None:
    assert hash_state(changed(change)) != hash_state(STATE)


def test_the_hash_of_a_state_does_not_depend_on_layout_or_the_order_of_names() -> None:
    strided = STATE["model"]["weight"].t().contiguous().t()  # type: ignore[index]
    same = {"groups": [1, None], "lr": 0.1, "model": {"steps": torch.tensor(3), "weight": strided}}
    assert hash_state(same) == hash_state(STATE)


def test_a_state_of_any_number_type_has_a_hash() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64):
        hash_state({"value": torch.zeros((), dtype=dtype)})


def test_later_training_does_not_change_a_snapshot() -> None:
    state = {"weight": torch.zeros(2, requires_grad=True)}
    kept = snapshot(state)
    with torch.no_grad():
        state["weight"] += 1
    assert kept["weight"].tolist() == [0, 0]
    assert not kept["weight"].requires_grad


def test_the_environment_contains_what_exactness_depends_on() -> None:
    facts = environment(CPU, "fp32")
    assert facts.items() >= exactness(CPU, "fp32").items()
    assert {"host", "python", "torch", "numpy", "device", "model", "threads", "precision"} <= facts.keys()


def test_differences_are_reported_as_text() -> None:
    assert differences({"threads": 1, "torch": "2"}, {"threads": 2, "torch": "2"}) == ["threads 1 -> 2"]
    assert differences({}, {"cuda": "12.6"}) == ["cuda None -> 12.6"]


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((7, 0), ["sm_50", "sm_60", "sm_70", "sm_80"], True),
        ((7, 0), ["sm_75", "sm_80", "sm_90", "compute_90"], False),
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((10, 0), ["sm_90a"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100f"], True),
        ((8, 0), [], False),
    ],
)
def test_a_build_of_pytorch_has_kernels_for(capability: tuple[int, int], built: list[str], runs: bool) -> None:
    assert has_kernels(capability, built) is runs


def a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90"])


def test_a_gpu_without_kernels_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(monkeypatch, (7, 0))
    with pytest.raises(RoundhouseError, match="no kernels for Tesla V100 .sm_70.*cu126"):
        choose_device("auto")


def test_a_gpu_with_kernels_is_selected_automatically(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(monkeypatch, (9, 0))
    assert choose_device("auto").type == "cuda"
    with pytest.raises(RoundhouseError, match="'cuda:1' was requested, but PyTorch finds 1 GPU.*, numbered from 0"):
        choose_device("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:x", ""])
def test_a_device_that_cannot_be_used_is_an_error_that_names_the_choices(name: str) -> None:
    with pytest.raises(RoundhouseError, match="write auto, cpu, cuda or cuda:0"):
        choose_device(name)


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_precision_auto_depends_on_the_capability_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    a_gpu(monkeypatch, capability)
    assert choose_precision("auto", torch.device("cuda")).name == precision


def test_precision_on_a_cpu_is_float32_by_default() -> None:
    assert choose_precision("auto", CPU).name == "fp32"
    assert choose_precision("bf16", CPU).name == "bf16"
    assert choose_precision("fp16", CPU).scaled
    with pytest.raises(RoundhouseError, match="unknown precision 'bf61': did you mean 'bf16'"):
        choose_precision("bf61", CPU)


@dataclass(frozen=True)
class Options:
    name: str
    rate: float = 0.1
    count: int | None = None
    fast: bool = False
    widths: tuple[int, ...] = ()
    rates: tuple[float, ...] = (0.5,)


def test_options_are_read_from_a_config() -> None:
    assert read_options(Options, {"name": "a", "rate": 1, "count": None}) == Options("a", rate=1.0)


def test_a_list_in_a_config_becomes_a_tuple_of_the_right_type() -> None:
    options = read_options(Options, yaml.safe_load("{name: a, widths: [8, 16], rates: [1, 0.1]}"))
    assert options == Options("a", widths=(8, 16), rates=(1.0, 0.1))
    assert [type(rate) for rate in options.rates] == [float, float]
    assert isinstance(hash(options), int)
    assert read_options(Options, {"name": "a", "widths": [], "rates": (2.0,)}) == Options("a", rates=(2.0,))


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"name": "a", "rat": 1.0}, "unknown key 'config.rat': did you mean 'rate'?"),
        ({}, "config needs the key 'name'"),
        ({"name": 3}, "config.name should be text, not 3"),
        ({"name": "a", "rate": "1e-3"}, "config.rate should be a finite number, not '1e-3'"),
        ({"name": "a", "rate": True}, "config.rate should be a finite number, not True"),
        ({"name": "a", "rate": float("nan")}, "config.rate should be a finite number, not nan"),
        ({"name": "a", "count": 1.5}, "config.count should be a whole number, not 1.5"),
        ({"name": "a", "fast": 1}, "config.fast should be true or false, not 1"),
        ({"name": "a", "widths": 8}, "config.widths should be a list, not 8"),
        ({"name": "a", "widths": "8 16"}, "config.widths should be a list, not '8 16'"),
        ({"name": "a", "widths": None}, "config.widths should be a list, not None"),
        ({"name": "a", "widths": [8, 16.5]}, "config.widths.1 should be a whole number, not 16.5"),
        ({"name": "a", "widths": [8, [16]]}, "config.widths.1 should be a whole number, not [16]"),
        ({"name": "a", "widths": [True]}, "config.widths.0 should be a whole number, not True"),
        ({"name": "a", "rates": ["1e-3"]}, "config.rates.0 should be a finite number, not '1e-3'"),
        ({"name": 3, "rat": 1}, "config.name should be text, not 3; unknown key 'config.rat': did you mean 'rate'?"),
        ({"name": "a", "rates": [float("inf")]}, "config.rates.0 should be a finite number, not inf"),
    ],
)
def test_a_mistake_in_a_config_is_reported(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RoundhouseError) as error:
        read_options(Options, config)
    assert complaint in str(error.value)


def test_an_error_for_a_name_without_a_similar_one_lists_all_names() -> None:
    with pytest.raises(RoundhouseError, match="unknown colour 'zzz': choose from blue, red"):
        choose("colour", "zzz", ["red", "blue"])


def test_a_config_is_split_into_the_keys_of_the_loop_and_of_the_study() -> None:
    settings, rest = split_config({"seed": 4, "time_limit": 60, "lr": 0.1, "max_epoch": 3}, deadline=5.0)
    assert settings == Settings(seed=4, time_limit=60.0, deadline=5.0)
    assert rest == {"lr": 0.1, "max_epoch": 3}


def test_the_deadline_is_not_a_key_of_a_config() -> None:
    assert split_config({"deadline": 5.0})[1] == {"deadline": 5.0}


def test_keys_that_a_sweep_adds_to_distinguish_experiments_are_not_passed_to_the_study() -> None:
    assert split_config({"draw": 3, "focus": "depth", "lr": 0.1})[1] == {"lr": 0.1}


@pytest.mark.parametrize(
    "config",
    [
        {"patience": 0},
        {"max_epochs": -1},
        {"time_limit": 0},
        {"max_skipped": 2},
        {"seed": "x"},
        {"max_steps": 0},
        {"min_delta": -1.0},
        {"save_minutes": -0.5},
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(config: dict[str, Any]) -> None:
    with pytest.raises(RoundhouseError, match=rf"config(\.| key '){next(iter(config))}\b"):
        split_config(config)


@pytest.mark.parametrize(
    ("matmul", "convolutions", "text"),
    [(False, True, "convolutions"), (True, False, "matrix products"), (True, True, "matrix products and convolutions"),
     (False, False, "off")],
)  # fmt: skip
def test_the_environment_says_where_tf32_is_allowed(matmul: bool, convolutions: bool, text: str) -> None:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [one.allow_tf32 for one in backends]
    try:
        backends[0].allow_tf32, backends[1].allow_tf32 = matmul, convolutions
        assert tf32_use((8, 0)) == text
        assert tf32_use((7, 0)) == "no such hardware"
    finally:
        backends[0].allow_tf32, backends[1].allow_tf32 = before


def test_tf32_is_known_too_where_it_was_set_by_the_newer_names() -> None:
    code = (
        "import torch; from roundhouse.training.reproducibility import tf32_use\n"
        "backends = torch.backends\n"
        "if hasattr(backends.cudnn, 'conv'):\n"
        "    backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision = 'tf32', 'ieee'\n"
        "else:\n"
        "    backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = True, False\n"
        "print(tf32_use((9, 0)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout == "matrix products\n"
