"""From sites/NAME.yaml to a Site: what is particular to one cluster."""

from __future__ import annotations

import os
import re
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from roundhouse.config import directives
from roundhouse.config.round_schema import Retry
from roundhouse.config.yaml_file import StrictModel, YamlFile, read_yaml
from roundhouse.errors import RoundhouseError
from roundhouse.names import named_file, named_files


def _word(text: str) -> str:
    if not re.fullmatch(r"[^\s-]\S*", text) or not text.isprintable():
        raise ValueError(f"{text!r} must be one word")
    return text


def _directive(text: str) -> str:
    if text.startswith("#"):
        raise ValueError(f"{text!r}: leave out the prefix, write the options alone, such as --constraint=a100")
    if not text.strip() or not text.isprintable():
        raise ValueError(f"{text!r} must be one line of text")
    return text


def _umask(text: str) -> str:
    if not re.fullmatch(r"0?[0-7]{2}", text):
        raise ValueError(f"{text!r} is no umask: write the digits for group and others, quoted, such as '027'")
    return text[-2:].zfill(3)


def _shell_line(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


def _variable_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII):
        raise ValueError("is no name of a variable: letters, digits and _ only")
    return name


def _variable_value(value: Any) -> str:
    """Text as it is; a number as it is written; what the shell could not hold is a ValueError."""
    fits = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    if not fits:
        raise ValueError(f"{value!r} must be text or a number: quote it")
    return _shell_line(str(value))


Word = Annotated[str, AfterValidator(_word)]
Umask = Annotated[str, AfterValidator(_umask)]
Directive = Annotated[str, AfterValidator(_directive)]
ShellLine = Annotated[str, AfterValidator(_shell_line)]
VariableName = Annotated[str, AfterValidator(_variable_name)]
VariableValue = Annotated[
    str,
    BeforeValidator(_variable_value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]}),
]


class Site(StrictModel):
    """One cluster. The defaults are those of a machine without a site file."""

    name: str = Field(default="default", description="The file's name, without .yaml; may be left out")
    scheduler: Literal["auto", "slurm", "pbs", "local"] = Field(
        default="auto", description="auto: what is installed here"
    )
    hosts: list[str] = Field(default=[], description="Patterns of login nodes; the site is taken where one matches")
    queue: Word | None = Field(default=None, description="Slurm partition or PBS queue, unless a round names another")
    project: Word | None = Field(default=None, description="Slurm account or PBS project")
    max_jobs: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Most jobs in the scheduler at once")
    command_limit: Annotated[float, Field(gt=0)] = Field(default=60.0, description="Seconds for one scheduler command")
    directives: list[Directive] = Field(
        default=[], description="More lines of the job's header, without #SBATCH or #PBS"
    )
    modules: list[Word] = Field(default=[], description="Modules that a job loads first")
    setup: list[ShellLine] = Field(default=[], description="Shell lines that a job runs before Python, as they are")
    environment: dict[VariableName, VariableValue] = Field(
        default={}, description="Variables of a job, taken literally"
    )
    python: str | None = Field(
        default=None, description="Interpreter of the jobs, instead of the runner's own; with ~ and $VARIABLES"
    )
    retry: Retry = Field(default=Retry(), description="How often an experiment is tried again; a round's own wins")
    umask: Umask | None = Field(
        default=None,
        description="Which rights files do not give to group and others; as the project's folder, if left out",
    )
    data: str | None = Field(default=None, description="Folder of data sets; absolute, with ~ and $VARIABLES")


def load_site(name: str | None, sites_dir: Path, hostname: str) -> Site:
    """The site `name`; without one, the site with a pattern in `hosts` for `hostname`; without that, the defaults.

    RoundhouseError for an unknown site, a mistake in a site file, or two sites that match.
    """
    if name is not None:
        return _read_here(named_file("site", name, sites_dir))
    matching = [file for file in named_files(sites_dir) if _is_at(_read(file)[1], hostname)]
    if len(matching) > 1:
        names = " and ".join(file.stem for file in matching)
        raise RoundhouseError(f"sites {names} both have hosts that match {hostname}: choose one with --site")
    return _read_here(matching[0]) if matching else Site()


def _read(path: Path) -> tuple[YamlFile, Site]:
    file = read_yaml(path)
    site = file.validate(Site)
    if "name" in site.model_fields_set and site.name != path.stem:
        file.problem(("name",), f"the site calls itself {site.name!r}, but the file is {path.name}")
    file.check()
    return file, site.model_copy(update={"name": path.stem})


def _read_here(path: Path) -> Site:
    """The site as it is on this machine, with ~ and $VARIABLES filled in. Those of other sites need not exist."""
    file, site = _read(path)
    places = {}
    for key, written in (("python", site.python), ("data", site.data)):
        place = os.path.expandvars(os.path.expanduser(written or ""))
        if "$" in place:
            file.problem((key,), f"{key}: {written!r} names a variable that is not set here")
        elif key == "data" and place and not os.path.isabs(place):
            file.problem((key,), f"data: {written!r} must be absolute, because jobs start elsewhere")
        places[key] = place or None
    kind = _kind(site)
    for number, line in enumerate(site.directives if kind else ()):
        for why in directives.refused(line, kind, site.project is not None):
            file.problem(("directives", number), f"directives: {why}")
    file.check()
    return site.model_copy(update=places)


def _kind(site: Site) -> str:
    """Whose options the directives are: those of the site's scheduler, or of the one that is installed here, if any."""
    if site.scheduler != "auto":
        return site.scheduler if site.scheduler != "local" else ""
    return next((kind for kind, command in (("slurm", "sbatch"), ("pbs", "qsub")) if shutil.which(command)), "")


def _is_at(site: Site, hostname: str) -> bool:
    """Patterns are for the whole host name or for its first part, in any case."""
    names = {hostname.lower(), hostname.lower().partition(".")[0]}
    return any(fnmatchcase(name, pattern.lower()) for name in names for pattern in site.hosts)
