"""Checks of the Python environment: the interpreter, the packages, PyTorch. No package is loaded."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator

from roundhouse.doctor.account import Account, Finding, missing, ok, warning


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


def check_pytorch(account: Account) -> Iterator[Finding]:
    build = account.build
    if build is None:
        return  # check_packages reports it
    if build.cuda is None:
        yield warning("PyTorch", f"{build.version} is built without CUDA: jobs will train on CPUs")
    else:
        codes = " ".join(build.architectures) or "architectures that are unknown until it is loaded"
        yield ok("PyTorch", f"{build.version}, for CUDA {build.cuda}, with code for {codes}")
