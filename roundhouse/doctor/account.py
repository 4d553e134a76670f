"""The account that is checked, and the findings of checks."""

from __future__ import annotations

import importlib.util
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from roundhouse.doctor.gpu_support import Build, read_build
from roundhouse.schedulers.base import Run, Scheduler
from roundhouse.schedulers.command import runner as command_runner
from roundhouse.schedulers.detect import detect
from roundhouse.schedulers.user import user_name

if TYPE_CHECKING:
    from roundhouse.config.site import Site


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the output. `verdict`: ok, warning, or missing: rounds cannot run without it."""

    verdict: str
    what: str
    text: str


def ok(what: str, text: str) -> Finding:
    return Finding("ok", what, text)


def missing(what: str, text: str) -> Finding:
    return Finding("missing", what, text)


def warning(what: str, text: str) -> Finding:
    return Finding("warning", what, text)


@dataclass
class Account:
    """A checkout, with the site and scheduler that runner.py would use."""

    repository: Path
    site_name: str | None

    @cached_property
    def site(self) -> Site:
        from roundhouse.config.site import load_site

        return load_site(self.site_name, self.repository / "sites", socket.gethostname())

    @cached_property
    def run(self) -> Run:
        return command_runner(self.site.command_limit)

    @cached_property
    def detected(self) -> tuple[Scheduler | None, str]:
        return detect(self.site.scheduler, user_name(), self.run)

    @cached_property
    def build(self) -> Build | None:
        found = importlib.util.find_spec("torch")  # does not load it
        return read_build(Path(found.origin).parent) if found and found.origin else None

    @property
    def experiments(self) -> Path:
        return self.repository / "experiments"
