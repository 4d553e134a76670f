"""From sites/NAME.yaml to a Site: the properties of one cluster."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt

from roundhouse.config import directives, setup_lines
from roundhouse.config.named_files import named_file, named_files
from roundhouse.config.yaml_file import YamlFile, read_yaml
from roundhouse.errors import RoundhouseError
from roundhouse.model.retry_policy import RetryPolicy
from roundhouse.schema import Count, Partial, Rule, checked, key


def _umask(text: str) -> str:
    if not re.fullmatch(r"0?[0-7]{2}", text):
        raise ValueError(f"{text!r} is not a umask: write the digits for group and others, quoted, such as '027'")
    return text[-2:].zfill(3)


def _variable_value(value: Any) -> str:
    """Text unchanged; a number as text. ValueError for what a variable cannot hold."""
    fits = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    if not fits:
        raise ValueError(f"{value!r} must be text or a number: quote it")
    return str(value)


Directive = Annotated[
    str,
    checked(
        lambda text: not text.startswith("#"),
        "{!r}: leave out the prefix, write the options alone, such as --constraint=a100",
    ),
    checked(lambda text: text.strip() and text.isprintable(), "{!r} must be one line of text"),
]
_NO_NUL = checked(lambda text: "\0" not in text, "contains a NUL character")
Word = Annotated[
    str, checked(lambda text: re.fullmatch(r"[^\s-]\S*", text) and text.isprintable(), "{!r} must be one word")
]
VariableName = Annotated[
    str,
    checked(
        re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch, "is not the name of a variable: letters, digits and _ only"
    ),
]
VariableValue = Annotated[
    str, Rule(before=_variable_value, form={"anyOf": [{"type": "string"}, {"type": "number"}]}), _NO_NUL
]


@dataclass(frozen=True)
class Site:
    """One cluster. The defaults are those of a host without a site file."""

    name: str = key("The file's name, without .yaml; can be left out", "default")
    scheduler: Literal["auto", "slurm", "pbs", "local"] = key("auto: the scheduler that is installed", "auto")
    hosts: list[str] = key("Patterns of host names; the site is selected automatically on these hosts", factory=list)
    queue: Word | None = key("Slurm partition or PBS queue, unless a round names another", None)
    project: Word | None = key("Slurm account or PBS project", None)
    max_jobs: Count | None = key("Maximum number of jobs in the scheduler", None)
    command_limit: Annotated[float, Gt(0)] = key("Time limit of one scheduler command, in seconds", 60.0)
    directives: list[Directive] = key("Additional lines of the job's header, without #SBATCH or #PBS", factory=list)
    modules: list[Word] = key("Modules that a job loads first", factory=list)
    setup: list[Annotated[str, _NO_NUL]] = key("Shell lines that a job runs before Python", factory=list)
    environment: dict[VariableName, VariableValue] = key(
        "Environment variables of a job; values are not expanded", factory=dict
    )
    python: str | None = key("Interpreter of the jobs, instead of the runner's own; with ~ and $VARIABLES", None)
    retry: Annotated[Mapping[str, Any], Partial(RetryPolicy)] = key(
        "How many attempts may end with each cause; a round overrides it, key by key", factory=dict
    )
    umask: Annotated[str, Rule(after=_umask)] | None = key(
        "Permissions that files do not give to group and others; by default those of the directory of the records", None
    )
    mps: bool = key("Whether an allocation whose experiments share GPUs (per_gpu) starts NVIDIA MPS for them", False)
    data: str | None = key("Folder of data sets; absolute, with ~ and $VARIABLES", None)


def load_site(name: str | None, sites_dir: Path, hostname: str) -> Site:
    """The site `name`; without one, the site with a pattern in `hosts` for `hostname`; without that, the defaults.

    RoundhouseError for an unknown site, a mistake in a site file, or two sites that match.
    """
    if name is not None:
        return _read_local(named_file("site", name, sites_dir))
    matching = [file for file in named_files(sites_dir) if _matches(_read(file)[1], hostname)]
    if len(matching) > 1:
        names = " and ".join(file.stem for file in matching)
        raise RoundhouseError(f"sites {names} both have hosts that match {hostname}: choose one with --site")
    return _read_local(matching[0]) if matching else Site()


def _read(path: Path) -> tuple[YamlFile, Site]:
    file = read_yaml(path)
    site = file.read_as(Site)
    if "name" in file.data and site.name != path.stem:
        file.problem(("name",), f"the name of the site is {site.name!r}, but the file is {path.name}")
    file.check()
    return file, replace(site, name=path.stem)


def _read_local(path: Path) -> Site:
    """The site on the local host, with ~ and $VARIABLES expanded, which need not exist on other hosts."""
    file, site = _read(path)
    places: dict[str, Any] = {}
    for name, written in (("python", site.python), ("data", site.data)):
        place = os.path.expandvars(os.path.expanduser(written or ""))
        if "$" in place:
            file.problem((name,), f"{name}: {written!r} names a variable that is not set")
        elif name == "data" and place and not os.path.isabs(place):
            file.problem((name,), f"data: {written!r} must be absolute, because jobs start in another directory")
        places[name] = place or None
    kind = _kind(site)
    for number, line in enumerate(site.directives if kind else ()):
        for why in directives.refused(line, kind, site.project is not None):
            file.problem(("directives", number), f"directives: {why}")
    if why := setup_lines.syntax_error(site.setup):
        file.problem(("setup",), f"setup: bash cannot read these lines: {why}")
    file.check()
    return replace(site, **places)


def _kind(site: Site) -> str:
    """The scheduler whose options the directives are: the site's, or the one that is installed, if any."""
    if site.scheduler != "auto":
        return site.scheduler if site.scheduler != "local" else ""
    return next((kind for kind, command in (("slurm", "sbatch"), ("pbs", "qsub")) if shutil.which(command)), "")


def _matches(site: Site, hostname: str) -> bool:
    """Patterns match the whole host name or its first part; upper and lower case are equal."""
    names = {hostname.lower(), hostname.lower().partition(".")[0]}
    return any(fnmatchcase(name, pattern.lower()) for name in names for pattern in site.hosts)
