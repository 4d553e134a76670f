"""Where, and with what, a pass works: folders, site, scheduler, and the job scripts made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roundhouse.engine import job_script
from roundhouse.engine.allocations import Allocation
from roundhouse.engine.log_path import plain_path
from roundhouse.model.answers import Identity
from roundhouse.model.experiment import Experiment, Resources
from roundhouse.schedulers.base import Run, Scheduler
from roundhouse.store import job_group, record
from roundhouse.store.code_copy import Copies

if TYPE_CHECKING:
    from jinja2 import Environment

    from roundhouse.config.site import Site
    from roundhouse.machine.slots import Room

NO_LOG = "/dev/null"  # where no path would do; templates know it. What the run itself prints is in out.log all the same
STOP_BEFORE = 60  # seconds before the walltime at which training stops by itself; a tenth of it, if that is less


@dataclass
class PassContext:
    """Where, and with what, a pass works."""

    experiments: Path  # holds one folder for each round
    repository: Path
    site: Site
    scheduler: Scheduler
    run: Run
    python: str
    max_jobs: int | None = None
    settle: float = 120.0  # seconds that a submission may take to show up
    backoff: float = 600.0  # seconds to wait after "limit reached", unless the user has fewer jobs by then
    room: Callable[[], Room] | None = None  # what is free on this machine now
    rounds: Path | None = None  # where round files lie; rounds/ of the repository, if nobody says
    analysis: Path | None = None  # where archived rounds lie; analysis/ of the repository, if nobody says
    packed: bool = False  # jobs start in the slots of an allocation
    late: bool = False  # jobs have less than the walltime, since they start late in an allocation
    current_code: bool = False  # what ran a copy of the code goes on with the present code
    only: str | None = None  # what an allocation may take, as a glob
    _templates: Environment | None = None

    @cached_property
    def copies(self) -> Copies:
        """The copies of the code that jobs run, where a round wants them."""
        analysis = self.analysis or self.repository / "analysis"
        return Copies(self.repository, self.experiments, analysis, self.current_code)

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
        """The job script of one attempt. It asks for `resources`; for what the round file says, if left out.

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

    def array_script(
        self, round_name: str, like: Resources, code: str | None, name: str, tasks: int, at_once: int | None
    ) -> str:
        """The job script of an array of `tasks` that ask for the same and run the same code, `at_once` at a time."""
        round_directory = Path(f"{self.experiments}/{round_name}").absolute()
        shared = job_group.directory_of(round_directory, name)
        array = {"round": round_directory, "shared": shared, "tasks": tasks, "at_once": at_once}
        return self._render(like, name, shared / "log", array=array, copy=self._copy(round_name, code))

    def _copy(self, round_name: str, code: str | None) -> Path | None:
        return self.copies.path(round_name, code) if code else None

    def allocation(self, round_name: str, like: Resources, identity: Identity, code: str | None) -> Allocation:
        """One more allocation for the experiments of a round that ask for the same."""
        rounds, analysis = self.rounds or self.repository / "rounds", self.analysis or self.repository / "analysis"
        site = self.site.name if self.site.name != "default" else None
        where = str(rounds), str(analysis), site
        return Allocation(record.new_token(), round_name, like, identity, *where, code, self.current_code, self.only)

    def allocation_script(self, allocation: Allocation) -> str:
        """The job script of an allocation."""
        round_directory = Path(f"{self.experiments}/{allocation.round}").absolute()
        shared = job_group.directory_of(round_directory, allocation.name)
        return self._render(
            allocation.resources,
            allocation.name,
            shared / "log",
            body="allocation.sh.j2",
            shared=shared,
            copy=self._copy(allocation.round, allocation.code),
        )

    def _render(self, resources: Resources, name: str, log: Path, **more: Any) -> str:
        if self._templates is None:
            self._templates = job_script.environment(self.repository / "templates")
        return job_script.render(
            self._templates,
            self.scheduler.kind,
            name=name,
            log=str((log if self.scheduler.kind == "local" else plain_path(log)) or NO_LOG),
            resources=resources,
            site=self.site,
            repository=self.repository.absolute(),
            python=self.python,
            margin=min(STOP_BEFORE, resources.walltime_s // 10),
            **more,
        )
