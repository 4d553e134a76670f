"""Before a GeneGAN run is submitted: a config that cannot run is refused, and the disk space of a run is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_study import train, with_settings

from roundhouse.errors import RoundhouseError
from studies.genegan import celeba, classifier, disk, extractors
from studies.genegan.check import FEATURES, check
from studies.genegan.networks import Critics, Generator
from studies.genegan.options import Options
from studies.genegan.train import train as train_genegan
from studies.genegan.vqvae import VQVAE


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"itertions": 5}, "did you mean 'iterations'"),
        ({"iterations": "many"}, "iterations"),
        ({"sizes": [64, 32]}, "in ascending order"),
        ({"images": 1}, "'images' is 1; a run needs at least 2"),
        (
            {"evaluation_images": 48, "extractor": "small"},
            "is 48; with extractor 'small' a distance needs more than 48",
        ),
        ({"evaluation_images": 40}, "with extractor 'auto' a distance needs more than 48"),
        ({"evaluation_images": 2048, "extractor": "inception"}, "needs more than 2048"),
        (
            {"evaluation_size": 32},
            "'evaluation_size' is 32; the networks get images of 64, 96, 128 pixels",
        ),
        ({"evaluation_size": 64, "outputs": "multiscale"}, "get images of 128 pixels"),
        ({"outputs": "multiscale", "resolution_mode": "random"}, "use one of them"),
        ({"init": ""}, "'init' is empty; name a file of weights, or a group of VQVAE runs"),
        ({"init": "vqvae/seed_0"}, "'init': there is no file .*vqvae/seed_0"),
        ({"init": "weights.pth"}, "'init': there is no file .*weights.pth"),
    ],
    ids=str,
)
def test_a_config_that_cannot_run_is_refused_with_one_message(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RoundhouseError, match=complaint):
        check(config, None)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"evaluation_images": 49, "extractor": "small"},
        {"evaluation_images": 2049, "extractor": "inception"},
        {"evaluation_size": 64},
        {"init": "vqvae"},  # a group: the round file says what it is
        {"method": "vqvae", "evaluation_images": 2},
    ],
    ids=str,
)
def test_a_config_that_can_run_is_accepted(config: dict[str, Any]) -> None:
    check(config, None)


def test_a_mapping_that_is_missing_or_wrong_is_refused(tmp_path: Path) -> None:
    weights, names = tmp_path / "weights.pth", tmp_path / "names.json"
    weights.write_bytes(b"")
    with pytest.raises(RoundhouseError, match=r"'init_map': .*names.json cannot be read: No such file"):
        check({"init": str(weights), "init_map": str(names)}, None)
    for text, message in (("{", "is not JSON"), ("[]", "a JSON object"), ('{"a": 1}', "a JSON object"),
                          ('{"a.": "b"}', "both or none must end in a dot"), ("{}", "is empty")):  # fmt: skip
        names.write_text(text)
        with pytest.raises(RoundhouseError, match=message):
            check({"init": str(weights), "init_map": str(names)}, None)
    names.write_text(json.dumps({"encoder.0.weight": "splitter.0.weight"}))
    check({"init": str(weights), "init_map": str(names)}, None)


def test_more_evaluation_images_than_celeba_can_have_are_refused(tmp_path: Path) -> None:
    folder = celeba.folder_of(tmp_path)
    (folder / celeba.IMAGES).mkdir(parents=True)
    for name in (celeba.ATTRIBUTE_LIST, celeba.SPLIT_LIST):
        (folder / name).touch()
    check({"dataset": "celeba", "evaluation_images": 9933}, tmp_path)
    with pytest.raises(RoundhouseError, match="CelebA's validation split has at most 9933 images with an attribute"):
        check({"dataset": "celeba", "evaluation_images": 9934}, tmp_path)


def test_the_numbers_of_features_are_those_of_the_extractors() -> None:
    found = {"small": extractors._SMALL["features"], "inception": extractors._INCEPTION_FEATURES}
    assert {**found, "auto": min(found.values())} == FEATURES


def test_the_check_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, studies.genegan.check; sys.exit(bool({'torch', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


# Disk space

ARMS: list[dict[str, Any]] = [
    {}, {"sizes": (32, 48, 64)}, {"sizes": (64,)}, {"sizes": (32,)}, {"sizes": (48, 128)}, {"norm": "group"},
    {"block_conv": "object"}, {"block_conv": "both", "sizes": (32, 48, 64)}, {"objective": "r1"},
    {"outputs": "multiscale"}, {"outputs": "multiscale", "adversarial": "all", "block_conv": "both"},
]  # fmt: skip


def values_of(module: torch.nn.Module) -> tuple[int, int]:
    """Weights, and values of buffers, without the counters of batch norm: these belong to the 100 kB of headers."""
    buffers = (one for name, one in module.named_buffers() if not name.endswith("num_batches_tracked"))
    return sum(one.numel() for one in module.parameters()), sum(one.numel() for one in buffers)


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_the_numbers_of_weights_are_those_of_the_networks(arm: dict[str, Any]) -> None:
    options = Options(**{"width": 8, **arm})
    assert disk.generator(options) == values_of(Generator(options))
    assert disk.critics(options) == values_of(Critics(options))
    assert disk.vqvae(options) == values_of(VQVAE(options))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "arm",
    [{}, {"objective": "r1", "norm": "group", "sizes": (32, 48), "evaluation_size": 32}, {"method": "vqvae"}],
    ids=str,
)
def test_a_run_needs_what_the_formula_says(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, arm: dict[str, Any]
) -> None:
    torch.set_num_threads(1)
    recipe = {"size": 32, "images": 100, "steps": 3, "features": 8}
    monkeypatch.setattr(extractors, "_SMALL", {**extractors._SMALL, **recipe})
    monkeypatch.setattr(classifier, "_RECIPE", {**classifier._RECIPE, "images": 100, "held_out": 20, "steps": 3})
    config = {
        "sizes": (32,), "width": 24, "images": 8, "batch_size": 2, "iterations": 5, "save_every": 1, "log_every": 1,
        "evaluation_images": 20, "feed": "device", "extractor": "small", "boost_steps": 1, "keep": 2, **arm,
    }  # fmt: skip
    most, real = [0], os.replace

    def replace(source: Any, target: Any) -> None:
        most.append(size_of(tmp_path))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)  # a draft and what it replaces exist at the same time
    options = Options(**config)
    outcome = train(tmp_path, lambda run: train_genegan(run, options, {}, data), with_settings(seed=1))
    assert outcome.finished
    space = disk.disk({**config, "sizes": list(options.sizes)})
    whole = sum(path.stat().st_size for path in (tmp_path / "snapshots").glob("*")) / max(1, options.keep)
    left = size_of(tmp_path) + (whole if arm.get("method") != "vqvae" else 0)  # the formula counts one that is older
    assert space.left == pytest.approx(left, rel=0.1)
    assert max(most) <= space.most <= 1.25 * max(most) + whole
