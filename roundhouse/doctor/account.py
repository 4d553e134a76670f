"""The account that is checked, and the findings of checks."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from roundhouse.schedulers.base import Run, Scheduler
from roundhouse.schedulers.command import runner as command_runner
from roundhouse.schedulers.detect import detect
from roundhouse.schedulers.user import user_name

if TYPE_CHECKING:
    from roundhouse.config.site import Site


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the output. `level`: ok, warning, or missing: rounds cannot run without it."""

    level: str
    what: str
    text: str


ok, warning, missing = partial(Finding, "ok"), partial(Finding, "warning"), partial(Finding, "missing")


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

    @property
    def experiments(self) -> Path:
        return self.repository / "experiments"
