"""The context of a pass: folders, site, scheduler, and the job scripts made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roundhouse.engine import job_script
from roundhouse.engine.log_path import plain_path
from roundhouse.model import walltime
from roundhouse.model.experiment import Experiment, Resources
from roundhouse.schedulers.base import Run, Scheduler
from roundhouse.store import job_group, record
from roundhouse.store.code_copy import Copies

if TYPE_CHECKING:
    from jinja2 import Environment

    from roundhouse.config.site import Site
    from roundhouse.machine.slots import Room

NO_LOG = "/dev/null"  # for a path that no scheduler accepts; templates test for it. The run itself prints to out.log


@dataclass
class PassContext:
    """The folders, the site and the scheduler of a pass."""

    experiments: Path  # holds one folder for each round
    repository: Path
    site: Site
    scheduler: Scheduler
    run: Run
    python: str
    max_jobs: int | None = None
    submission_delay: float = 120.0  # seconds that a submission may take to appear in the queue
    backoff: float = 600.0  # seconds to wait after "limit reached", unless the user has fewer jobs by then
    room: Callable[[], Room] | None = None  # what is free on the local machine now
    rounds: Path | None = None  # the folder of round files; default: rounds/ of the repository
    analysis: Path | None = None  # the folder of archived rounds; default: analysis/ of the repository
    packed: bool = False  # jobs start in the slots of an allocation
    late: bool = False  # jobs have less than the walltime, since they start late in an allocation
    current_code: bool = False  # experiments that ran a copy of the code continue with the present code
    only: str | None = None  # which experiments an allocation may take, as a glob

    @cached_property
    def _templates(self) -> Environment:
        return job_script.environment(self.repository / "templates")

    @cached_property
    def copies(self) -> Copies:
        """The copies of the code that jobs run, for rounds with `snapshot: true`."""
        analysis = self.analysis or self.repository / "analysis"
        return Copies(self.repository, self.experiments, analysis, self.current_code)

    @property
    def setup_hash(self) -> str:
        """A hash of what jobs run before Python: it changes when the site file is corrected."""
        steps = (self.site.modules, self.site.setup, sorted(self.site.environment.items()))
        return hashlib.sha256(repr(steps).encode(errors="surrogateescape")).hexdigest()[:16]

    def directory(self, experiment: Experiment) -> Path:
        return Path(f"{self.experiments}/{experiment.round}/{experiment.path}")

    def script(
        self,
        experiment: Experiment,
        number: int,
        token: str,
        resources: Resources | None = None,
        code: str | None = None,
    ) -> str:
        """The job script of one attempt, which requests `resources`; default: those of the round file.

        `code`: the hash of the copy that it runs, instead of the checkout.
        """
        directory = self.directory(experiment).absolute()
        return self._render(
            resources or experiment.resources,
            token,
            record.attempt_directory(directory, number) / record.SCHEDULER_LOG,
            directory=directory,
            number=number,
            token=token,
            late=self.late,
            packed=self.packed,
            copy=self._copy(experiment.round, code),
        )

    def shared_script(
        self, round_name: str, name: str, like: Resources, code: str | None, array: Mapping[str, Any] | None = None
    ) -> str:
        """The job script of a job that runs many experiments: an allocation, or an `array` of `tasks`, `at_once`."""
        round_directory = Path(f"{self.experiments}/{round_name}").absolute()
        shared = job_group.directory_of(round_directory, name)
        if array:
            more: dict[str, Any] = {"array": {**array, "round": round_directory, "shared": shared}}
        else:
            more = {"body": "allocation.sh.j2", "shared": shared}
        return self._render(like, name, shared / "log", copy=self._copy(round_name, code), **more)

    def _copy(self, round_name: str, code: str | None) -> Path | None:
        return self.copies.path(round_name, code) if code else None

    def _render(self, resources: Resources, name: str, log: Path, **more: Any) -> str:
        return job_script.render(
            self._templates,
            self.scheduler.kind,
            name=name,
            log=str((log if self.scheduler.kind == "local" else plain_path(log)) or NO_LOG),
            resources=resources,
            site=self.site,
            repository=self.repository.absolute(),
            python=self.python,
            margin=walltime.margin(resources.walltime_s),
            **more,
        )
