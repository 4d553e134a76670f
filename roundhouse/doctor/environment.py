"""Checks of the environment of jobs: interpreter, packages (without loading them), the setup lines of the site."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterator

from roundhouse.doctor.account import Account, Finding, missing, ok, warning

_SETUP_LIMIT = 120.0  # seconds
# What environment.sh.j2 needs of the script that includes it. The reason of a failure is all that the script prints.
_DRIVER = """\
why= setup_step=
report() {
    local code=$?
    [ -z "$setup_step" ] || { describe_failure "$code"; echo "$why" >&3; }
}
restore_traps() { trap report EXIT; }
exec 3>&1 >/dev/null 2>&1
"""
_END = "roundhouse: end"  # printed last: without it, a line has ended or replaced the shell, whatever the exit code is


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


def check_setup(account: Account) -> Iterator[Finding]:
    """Whether the modules and setup lines of the site succeed on this host, run as a job runs them."""
    from roundhouse.engine import job_script

    site = account.site
    if not (site.modules or site.setup):
        return
    template = job_script.environment(account.repository / "templates").get_template("environment.sh.j2")
    script = f"{_DRIVER}{template.render(site=site)}\necho '{_END}' >&3\n"
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=account.repository, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace",
            timeout=_SETUP_LIMIT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        yield warning("setup", f"the modules and setup lines of site {site.name} take longer than {_SETUP_LIMIT:g} s")
        return
    text, ended, _ = done.stdout.partition(f"{_END}\n")
    if done.returncode or text or not ended:
        why = text.strip() or f"a setup line ended or replaced bash, with exit code {done.returncode}"
        yield warning(
            "setup", f"on this host, {why}. On a compute node, it would end each job: see sites/{site.name}.yaml"
        )
    else:
        yield ok("setup", f"the modules and setup lines of site {site.name} succeed on this host")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
