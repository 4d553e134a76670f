"""The disk space that a round still needs, as the `disk` of its studies says, beside what is free."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundhouse import study_modules
from roundhouse.disk_space import RunSpace
from roundhouse.engine.report import PlannedJob
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import byte_size, counted
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus
from roundhouse.settings import split_config

Disk = Callable[[Mapping[str, Any]], RunSpace]


@dataclass(frozen=True)
class DiskNeeded:
    """`line`: what the round needs and what is free, empty if no study says it; `warning`: it does not fit."""

    line: str = ""
    warning: str = ""


def disk_needed(
    repository: Path, experiments: Path, statuses: Sequence[ExperimentStatus], planned: Sequence[PlannedJob]
) -> DiskNeeded:
    """Of the experiments that have not ended. RoundhouseError: the `disk` of a study fails.

    Those that run at the same time need more than they leave: as many as run now or would be submitted, at most.
    """
    left = [status for status in statuses if not status.action.state.ended_well]
    functions = {study: _function(repository, study) for study in {one.experiment.study for one in left}}
    counted_ones = [one.experiment for one in left if functions[one.experiment.study]]
    spaces = _spaces(counted_ones, functions)
    known = [space for space in spaces if space]
    if not known:
        return DiskNeeded()
    unknown, largest = len(spaces) - len(known), max(space.left for space in known)
    running = sum(one.action.state is State.IN_PROGRESS for one in left) + sum(map(_at_once, planned))
    meanwhile = min(running, len(spaces)) * max(space.most - space.left for space in known)
    need = sum(space.left for space in known) + unknown * largest + meanwhile
    free = shutil.disk_usage(next(one for one in (experiments, *experiments.parents) if one.exists())).free
    remarks = [f"{byte_size(meanwhile)} of it only while they run"] if meanwhile else []
    remarks += [f"{unknown} whose config is not known yet are counted like the largest"] if unknown else []
    remarks += [f"{others} of other studies or commands are not counted"] if (others := len(left) - len(spaces)) else []
    what = f"about {byte_size(need)} for {counted(len(spaces), 'experiment')}"
    details = f" ({'; '.join(remarks)})" if remarks else ""
    line = f"Disk: {what}{details}; {byte_size(free)} free in {experiments}"
    if need <= free:
        return DiskNeeded(line)
    remedy = "free space, or make it a link to a directory with more space"
    return DiskNeeded(line, f"the round needs {what}, but only {byte_size(free)} are free in {experiments}: {remedy}")


def _at_once(job: PlannedJob) -> int:
    """Experiments that may run at the same time in a job."""
    if job.kind == "allocation" and job.resources.pack:
        return job.resources.pack.slots
    return min(len(job.statuses), job.at_once or len(job.statuses))


def _function(repository: Path, study: str | None) -> Disk | None:
    module = study_modules.load(repository, study, "check") if study else None
    found: Disk | None = getattr(module, "disk", None)
    return found


def _spaces(experiments: Sequence[Experiment], functions: Mapping[str | None, Disk | None]) -> list[RunSpace | None]:
    """The space of each; None if its config is not decided yet, or invalid."""
    answers: dict[tuple[str | None, str], RunSpace | None] = {}
    found: list[RunSpace | None] = []
    for one in experiments:
        disk = functions[one.study]
        question = one.study, json.dumps({**one.config, "seed": 0}, sort_keys=True, default=str)
        if one.undecided or disk is None:
            found.append(None)
            continue
        if question not in answers:
            answers[question] = _space(one, disk)
        found.append(answers[question])
    return found


def _space(experiment: Experiment, disk: Disk) -> RunSpace | None:
    try:
        space = disk(split_config(experiment.config)[1])
        if not isinstance(space, RunSpace):
            raise TypeError(f"disk must return a RunSpace, not {space!r}")
    except RoundhouseError:  # an invalid config, which the check reports
        return None
    except (Exception, SystemExit) as error:
        raise RoundhouseError(study_modules.failure(str(experiment.study), "check", error)) from None
    return space
