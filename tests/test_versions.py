"""The versions of packages: the bounds in setup.cfg, and the tested versions in constraints.txt."""

import ast
import configparser
import importlib
import importlib.metadata
import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
PROGRAMS = ["roundhouse/**/*.py", "studies/**/*.py", "analysis/**/*.py", "train.py", "runner.py"]
PYTHONS = ["3.10.0", "3.11.7", "3.12.1", "3.13.0"]


def wanted() -> list[str]:
    """The requirements in setup.cfg, those of the extras included, and that of the build."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    build = re.findall(r'^requires = \["(.*)"\]$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    return [*"\n".join(lists).split(), *build]


def locked(python: str) -> dict[str, Version]:
    """What constraints.txt pins on Linux for a version of Python."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    place = {"python_full_version": python, "sys_platform": "linux", "platform_machine": "x86_64"}
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    chosen = [one for one in found if one.marker is None or one.marker.evaluate(place)]
    versions = {canonicalize_name(one.name): Version(str(one.specifier).removeprefix("==")) for one in chosen}
    assert len(versions) == len(chosen), "a package is pinned twice"
    return versions


def output_of(*command: str) -> str:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_pins_all_that_setup_cfg_names_within_its_bounds(python: str) -> None:
    versions = locked(python)
    version = {"python_version": python.rpartition(".")[0]}
    for requirement in map(Requirement, wanted()):
        if requirement.marker is None or requirement.marker.evaluate(version):
            assert versions[canonicalize_name(requirement.name)] in requirement.specifier
    assert "pip" in versions


def test_the_lock_names_no_place_to_download_from() -> None:
    assert not re.search(r"://|^-|@", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)


def test_the_oldest_versions_are_the_lower_bounds_of_all_requirements() -> None:
    """The recipe in the Makefile reads setup.cfg line by line: a line that it cannot read would be left out."""
    plan = output_of("make", "--dry-run", "--always-make", "test-oldest")
    (command,) = [line for line in plan.splitlines() if line.startswith("sed")]
    oldest = output_of("bash", "-c", command.partition(" > ")[0])
    assert sorted(oldest.split()) == sorted(re.sub(r">=([\d.]+).*", r"==\1", line) for line in wanted())


@pytest.mark.parametrize(
    ("package", "version", "reason"),
    [
        (
            "torch",
            "2.6",
            "torch.OutOfMemoryError; with 2.4, torch.compile makes the whole process round tiny numbers to 0",
        ),
        ("torchvision", "0.21", "the first that installs with torch 2.6"),
        ("pytest-xdist", "3.8", "--no-loadscope-reorder, in setup.cfg"),
        ("hypothesis", "6.150", "with older versions, the test of the state machine takes many minutes"),
    ],
)
def test_no_bound_is_below_a_version_that_is_known_to_be_needed(package: str, version: str, reason: str) -> None:
    (bound,) = [one for line in wanted() for one in Requirement(line).specifier if Requirement(line).name == package]
    assert bound.operator == ">=" and Version(bound.version) >= Version(version), reason


def test_installed_packages_are_within_the_bounds() -> None:
    """Also in the environments of `make test-oldest` and `make test-newest`, without the extra `lint`."""
    missing = []
    for requirement in map(Requirement, wanted()):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
        else:
            assert installed in requirement.specifier, f"{requirement} is not satisfied by {installed}"
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    extras = setup["options.extras_require"]
    optional = {Requirement(line).name for line in extras["lint"].split()}
    assert set(missing) <= optional


def test_every_place_names_the_same_oldest_python() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    assert setup["options"]["python_requires"] == ">=3.10"
    assert setup["mypy"]["python_version"] == "3.10"
    for name, text in {
        "pyproject.toml": 'target-version = "py310"',
        "Makefile": "sys.version_info < (3, 10)",
        "README.md": "Python 3.10 or later",
        "docs/development.md": "the oldest ones on Python 3.10",
    }.items():
        assert text in (REPOSITORY / name).read_text(), name


def used_names(source: Path) -> Iterator[str]:
    """Names of packages that the file imports, and the attributes of these that it uses: `torch.cuda.graph`."""
    tree = ast.parse(source.read_text())
    known: dict[str, str] = {}  # the name in the file -> what it refers to
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                known[one.asname or one.name.partition(".")[0]] = one.name if one.asname else one.name.partition(".")[0]
                yield one.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                known[one.asname or one.name] = f"{node.module}.{one.name}"
                yield f"{node.module}.{one.name}"
    for node in ast.walk(tree):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name) and node.id in known:
            yield ".".join([known[node.id], *reversed(parts)])


def exists(name: str) -> bool:
    """Whether modules and classes have the attributes along the name. What follows a value or a function is ignored."""
    first, *parts = name.split(".")
    found: Any = importlib.import_module(first)
    path = first
    for part in parts:
        if not (inspect.ismodule(found) or inspect.isclass(found)):
            return True
        path += f".{part}"
        if hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = importlib.import_module(path)
        except ImportError:
            return False
    return True


def test_the_installed_versions_have_every_name_that_the_code_uses() -> None:
    """Code that needs a GPU is not run by the tests, so with the oldest versions only this finds what they lack."""
    sources = [one for name in PROGRAMS for one in sorted(REPOSITORY.glob(name))]
    used = {name for source in sources for name in used_names(source)}
    own = {"roundhouse", "analysis"}
    installed = importlib.metadata.packages_distributions().keys() - own
    others = {name for name in used if name.partition(".")[0] in installed}
    assert len(others) > 100 and "torch.cuda.CUDAGraph" in others
    assert sorted(name for name in others if not exists(name)) == []
