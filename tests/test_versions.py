"""The versions of packages: the bounds in setup.cfg, and the tested versions in constraints.txt."""

import configparser
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
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
    for requirement in map(Requirement, wanted()):
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
