"""What studies/flood/README.md says of rounds, groups, options and networks is what they are."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from rounds_for_tests import REPOSITORY

from roundhouse.config.round import Round, load_round
from roundhouse.options import read_options
from roundhouse.settings import split_config
from studies.flood.disk import _PARAMETERS
from studies.flood.options import ARCHITECTURES, Options

FOLDER = REPOSITORY / "studies/flood"
PAGE = (FOLDER / "README.md").read_text()
ROUNDS = ["flood", "flood_smoke"]


@cache
def loaded(name: str) -> Round:
    return load_round(name, REPOSITORY / "rounds")


def rows(heading: str) -> list[list[str]]:
    """Cells of all rows of the tables under a heading, with their heads."""
    section = re.split(rf"^##+ {heading}\n", PAGE, flags=re.MULTILINE)[1]
    lines = re.split(r"^##+ ", section, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]


@pytest.mark.parametrize("name", ROUNDS)
def test_the_page_has_the_number_of_runs(name: str) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    assert row.endswith(f"| {len(loaded(name).experiments)} |")


@pytest.mark.parametrize(("name", "column"), [("flood", 3), ("flood_smoke", 4)])
def test_the_page_has_the_runs_of_each_group(name: str, column: int) -> None:
    said: dict[str, int] = {}
    for row in rows("The stages")[2:]:
        said |= dict(zip(re.findall(r"`(\w+)`", row[0]), map(int, row[column].split(",")), strict=True))
    assert said == Counter(one.group for one in loaded(name).experiments)


def test_the_page_has_the_sizes_of_the_full_round() -> None:
    sets = {one.config["set"]: one.config for one in loaded("flood").experiments if one.config.get("task") == "samples"}
    splits = {name: f"{one['train']}/{one['validation']}/{one['test']}" for name, one in sets.items()}
    assert " and ".join([splits["small"], splits["big"]]) in PAGE
    options = read_options(Options, split_config(next(iter(loaded("flood").experiments)).config)[1])
    places = (options.cells - 32) // options.stride + 1
    windows = options.snapshots - options.lead
    assert f"{windows} x {places**2} patches" in PAGE
    for one in sets.values():
        assert f"{8 * one['train'] * windows * places**2:,}" in PAGE


def test_the_page_has_the_widths_of_the_small_round() -> None:
    widths = {one.config["architecture"]: one.config["width"] for one in loaded("flood_smoke").experiments
              if one.group == "A"}  # fmt: skip
    (said,) = re.findall(r"uses the widths (.*?) in\s+stage A", PAGE)
    assert {code: float(width) for width, code in re.findall(r"([\d.]+) \((\d\d)\)", said)} == widths


def test_patterns_of_the_page_select_as_many_runs_as_it_says() -> None:
    said = re.findall(r"--only '(.*?)' +# .*?(\d+) runs", PAGE)
    paths = [one.path for one in loaded("flood").experiments]
    assert len(said) == 3
    assert [(glob, len(fnmatch.filter(paths, glob))) for glob, _ in said] == [
        (glob, int(count)) for glob, count in said
    ]


def test_the_page_explains_every_option_with_its_default() -> None:
    explained: dict[str, str] = {}
    for keys, _, defaults in rows("Options")[2:]:
        names, values = re.findall(r"`(\w+)`", keys), defaults.replace("`", "").replace('"', "").split(", ")
        assert len(names) == len(values), keys
        explained |= dict(zip(names, values, strict=True))
    assert set(explained) == {field.name for field in dataclasses.fields(Options)}
    for field in dataclasses.fields(Options):
        if field.default is not None:
            said = explained[field.name]
            default = field.default
            same = said == str(default).lower() if isinstance(default, bool | str) else float(said) == default
            assert same, f"{field.name}: {said}"


def test_the_page_has_every_architecture_with_its_parameters() -> None:
    said = {row[0]: int(row[2].partition(";")[0].replace(",", "")) for row in rows("Architectures") if row[0].isdigit()}
    assert said == _PARAMETERS and tuple(said) == ARCHITECTURES


def test_the_rounds_of_the_page_are_valid(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "rounds/flood.yaml", tmp_path)
    texts = {name: text for text, name in re.findall(r"```yaml\n(round: (\w+)\n.*?)```", PAGE, re.DOTALL)}
    assert list(texts) == ["flood_A", "flood_tanh"]
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    copied, runs = (load_round(name, tmp_path).experiments for name in texts)
    whole = {one.path: one.config for one in loaded("flood").experiments}
    assert len(copied) == 7 + 1 + 21 and all(one.config == whole[one.path] for one in copied)
    assert len(runs) == 21 and not any(one.dependencies for one in runs)
    options = [read_options(Options, split_config(one.config)[1]) for one in runs]
    assert {(one.samples, one.last) for one in options} == {
        ("/home/me/roundhouse/experiments/flood/samples/small", "tanh")
    }


def test_the_page_names_every_module() -> None:
    named = set(re.findall(r"`(\w+(?:\.py|/))`", " ".join(row[0] for row in rows("Modules"))))
    modules = {path.name for path in FOLDER.glob("*.py")} | {
        f"{path.parent.name}/" for path in FOLDER.glob("*/__init__.py")
    }
    assert modules - {"__init__.py"} <= named
