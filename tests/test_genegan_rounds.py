"""The rounds of studies/genegan: the document's queue, its order, its values, and what the page says of them."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path

import pytest
from rounds_for_tests import REPOSITORY

from roundhouse.config.round import Round, load_round
from roundhouse.model.experiment import Experiment
from roundhouse.options import read_options
from roundhouse.settings import split_config
from studies.genegan.check import check
from studies.genegan.options import Options

PAGE = (REPOSITORY / "studies/genegan/README.md").read_text()
QUEUE = [
    "EXP00", "EXP01_object", "EXP01_both", "EXP02_largest", "EXP02_all", "EXP03_random", "EXP04_group", "EXP05_square",
    "EXP05_inverse", "vqvae", "EXP06b", "EXP07_r1", "EXP00_twice",
]  # fmt: skip
CHANGED = {
    "EXP01_object": {"block_conv": "object"},
    "EXP01_both": {"block_conv": "both"},
    "EXP02_largest": {"outputs": "multiscale"},
    "EXP02_all": {"outputs": "multiscale", "adversarial": "all"},
    "EXP03_random": {"resolution_mode": "random"},
    "EXP04_group": {"norm": "group"},
    "EXP05_square": {"scale_weights": "square"},
    "EXP05_inverse": {"scale_weights": "inverse"},
    "EXP06b": {"init": "vqvae"},
    "EXP07_r1": {"objective": "r1", "norm": "group"},
    "EXP00_twice": {},
}


@cache
def loaded(name: str) -> Round:
    return load_round(name, REPOSITORY / "rounds")


def groups(name: str) -> list[str]:
    """In the order in which they are submitted."""
    ordered = sorted(loaded(name).experiments, key=lambda one: -one.priority)
    return list(dict.fromkeys(one.group for one in ordered))


def options_of(experiment: Experiment) -> Options:
    return read_options(Options, split_config(experiment.config)[1])


def changes(options: Options, base: Options) -> dict[str, object]:
    return {name: value for name, value in vars(options).items() if value != getattr(base, name)}


@pytest.mark.parametrize("name", ["genegan", "genegan_smoke"])
def test_the_queue_has_the_order_of_the_document_and_each_group_changes_what_its_name_says(name: str) -> None:
    assert groups(name) == QUEUE
    by_group = {one.group: options_of(one) for one in loaded(name).experiments}
    for group, expected in CHANGED.items():
        ignored = {"iterations"} if name == "genegan_smoke" else set()
        found = changes(by_group[group], by_group["EXP00"])
        assert {key: value for key, value in found.items() if key not in ignored} == expected, group
    assert by_group["vqvae"].method == "vqvae"


def test_the_queue_has_the_values_of_the_document_and_three_seeds() -> None:
    experiments = loaded("genegan").experiments
    assert len(experiments) == 3 * len(QUEUE) == 39
    for one in experiments:
        options = options_of(one)
        assert (options.dataset, options.attribute, options.sizes) == ("celeba", "Smiling", (64, 96, 128))
        assert (options.batch_size, options.workers, options.save_every) == (64, 4, 20_000)
        assert (options.log_every, options.evaluation_images, options.keep) == (100, 5_000, 2)
        assert options.iterations == (20_000 if one.group == "vqvae" else 300_000)
        assert one.config["time_limit"] == (21_600 if one.group == "EXP00_twice" else 10_800)


def test_a_start_waits_for_the_vqvae_of_its_seed_and_the_second_box_continues_the_first() -> None:
    by_path = {one.path: one for one in loaded("genegan").experiments}
    for seed in range(3):
        assert by_path[f"EXP06b/{seed}"].dependencies == (f"vqvae/{seed}",)
        assert by_path[f"EXP00_twice/{seed}"].dependencies == (f"EXP00/{seed}",)


@pytest.mark.parametrize("name", ["genegan_smoke", "genegan_faces", "genegan_faces_gpu"])
def test_configs_are_valid_without_any_data(name: str) -> None:
    for one in loaded(name).experiments:
        check(split_config(one.config)[1], None)


@pytest.mark.parametrize("name", ["genegan", "genegan_smoke", "genegan_faces", "genegan_faces_gpu"])
def test_the_page_has_the_number_of_runs(name: str) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    assert row.endswith(f"| {len(loaded(name).experiments)} |")


def test_the_rounds_of_the_page_are_valid(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "rounds/genegan.yaml", tmp_path)
    texts = re.findall(r"```yaml\n(round: (\w+)\n.*?)```", PAGE, re.DOTALL)
    assert len(texts) == 2
    for text, name in texts:
        (tmp_path / f"{name}.yaml").write_text(text)
    eyeglasses, own = (load_round(name, tmp_path).experiments for _, name in texts)
    assert {options_of(one).attribute for one in eyeglasses} == {"Eyeglasses"}
    assert [one.path for one in eyeglasses if one.group == "EXP00"] == ["EXP00/0"]
    assert [one.path for one in own] == [f"{group}/{seed}" for group in ("EXP00", "EXP06b") for seed in range(3)]
    assert {options_of(one).init for one in own if not one.dependencies} == {None, "/data/vqvae.pt"}


def test_the_page_has_each_group_of_the_queue() -> None:
    assert [group for group in QUEUE if f"`{group}`" not in PAGE] == []
