"""Checks of the Python environment: the interpreter and the packages, without loading them."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator

from roundhouse.doctor.account import Account, Finding, missing, ok


def check_python(account: Account) -> Iterator[Finding]:
    yield ok("Python", f"{sys.version.split()[0]}, {sys.executable}")  # setup.sh has checked that it is new enough
    own = account.repository / ".venv"
    if "PYTHON" in os.environ:
        yield ok("environment", f"{sys.prefix}, set by $PYTHON")
    elif own.is_dir() and own.samefile(sys.prefix):
        yield ok("environment", str(own))
    else:
        yield missing("environment", f"there is no {own}: run toolbox/setup.sh, or make install")


def check_packages(account: Account) -> Iterator[Finding]:
    """Those that setup.cfg requires, by their metadata."""
    setup = configparser.ConfigParser()
    setup.read(account.repository / "setup.cfg")
    required = re.findall(r"([\w-]+)>=([\d.]+)", setup.get("options", "install_requires", fallback=""))
    problems = []
    for name, least in required:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name} is not installed")
            continue
        if _numbers(version) < _numbers(least):
            problems.append(f"{name} is {version}, and must be {least} or later")
    if problems:
        yield missing("packages", f"{'; '.join(problems)}: run make install")
    else:
        yield ok("packages", f"all {len(required)} packages of setup.cfg are installed")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
