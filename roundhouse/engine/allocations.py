"""Allocations: scheduler jobs that run many experiments, each in a slot, as the login node sees them.

Which experiments an allocation runs is not decided when it is submitted: its agent (`roundhouse.jobs.agent`)
takes the one of the highest priority whenever a slot is free, by opening its next attempt, as any runner would.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from roundhouse import files
from roundhouse.engine.scheduler_snapshot import SchedulerSnapshot
from roundhouse.model.answers import Identity, Job, JobState
from roundhouse.model.experiment import Experiment, Pack, Resources
from roundhouse.model.plan import Action, State, Verb
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.store import job_group, json_files
from roundhouse.store.code_copy import kept

FILE = "allocation.json"


@dataclass(frozen=True, slots=True)
class Allocation:
    """What an allocation was submitted for: the experiments of a round that need `resources`."""

    name: str
    round: str
    resources: Resources
    identity: Identity  # of the scheduler
    rounds: str  # folder of round files
    analysis: str  # where archived rounds lie
    site: str | None
    code: str | None = None  # the copy of the code that it runs; None: the checkout as it is
    current_code: bool = False  # experiments that have run another copy use `code` too
    only: str | None = None  # it takes only what this glob matches
    setup: str = ""  # `PassContext.setup_hash` when it was submitted
    at: float = 0.0  # when it was written, by the file server's clock

    @property
    def pack(self) -> Pack:
        assert self.resources.pack is not None
        return self.resources.pack

    def takes(self, path: str) -> bool:
        """Whether `only` allows it to take an experiment."""
        return self.only is None or fnmatchcase(path, self.only)

    def is_for(self, experiment: Experiment) -> bool:
        """Whether it was submitted for experiments such as this one, whatever resources that needs now."""
        return experiment.resources.pack == self.pack and self.takes(experiment.path)

    def code_of(self, status: ExperimentStatus) -> str | None:
        """The copy of the code that the next attempt of an experiment would run in it; None: the checkout."""
        before = None if self.current_code else kept(status.record)
        return (before or self.code) if status.experiment.snapshot else None


def write(directory: Path, allocation: Allocation) -> None:
    """Write allocation.json into the job's directory."""
    files.replace(directory / FILE, files.dump({"version": json_files.VERSION, **asdict(allocation)}))


def read(directory: Path) -> Allocation | None:
    """The allocation in a job's directory; None if it is another kind of job, or the file is unreadable."""
    raw, at = files.read_bytes(directory / FILE), files.modified(directory / FILE)
    try:
        value: dict[str, Any] = json.loads(raw or b"")
        resources = dict(value.pop("resources"))
        resources |= {"pack": Pack(**resources["pack"]), "exclude": tuple(resources["exclude"])}
        identity = Identity(**value.pop("identity"))
        del value["version"]
        return Allocation(**{**value, "resources": Resources(**resources), "identity": identity, "at": at or 0.0})
    except (ValueError, KeyError, TypeError):
        return None


def required_resources(status: ExperimentStatus) -> Resources:
    """The resources of an allocation that can run an experiment: those of the round file, or more after a retry."""
    return replace(status.resources, exclude=(), accumulate=1)


def alive(
    round_directory: Path, snapshot: SchedulerSnapshot, now: float, submission_delay: float
) -> Iterator[tuple[Allocation, Job | None]]:
    """The allocations of the round that may still run something, each with its job.

    One that the scheduler does not know counts for as long as a submission may take to appear.
    """
    for name in files.list_names(round_directory / job_group.FOLDER):
        directory = job_group.directory_of(round_directory, name)
        job_id = job_group.read_id(str(directory))
        by_name = (one for one in snapshot.named.get((name, None), ()) if one.state is not JobState.ENDED)
        job = next(by_name, None) or snapshot.alive_by_id.get(job_id or "")  # it may have been renamed
        if job is None and job_id is not None:
            continue
        allocation = read(directory)
        if allocation is not None and (job or now - allocation.at < submission_delay):
            yield allocation, job


def start_failures(round_directory: Path, like: Resources, setup: str) -> list[tuple[Path, str]]:
    """Allocations with these resources and this setup whose agent did not start: the directory of each, and why."""
    places = [
        round_directory / job_group.FOLDER / name for name in files.list_names(round_directory / job_group.FOLDER)
    ]
    failures = [(place, why) for place in places if (why := job_group.read_failure(place))]
    return [
        (place, why)
        for place, why in failures
        if (one := read(place)) is not None and (one.resources, one.setup) == (like, setup)
    ]


def useless(round_directory: Path, statuses: Iterable[ExperimentStatus], snapshot: SchedulerSnapshot) -> list[str]:
    """IDs of allocations that have not started and that no experiment of the round can use any more."""
    living = alive(round_directory, snapshot, 0.0, 0.0) if snapshot.named else ()
    waiting = [(one, job) for one, job in living if job and job.state in (JobState.QUEUED, JobState.BLOCKED)]
    if not waiting:
        return []
    wanted = by_resources([one for one in statuses if one.experiment.resources.pack is not None and goes_on(one)])
    return [
        job.id
        for allocation, job in waiting
        if not any(allocation.takes(status.experiment.path) for status in wanted.get(allocation.resources, ()))
    ]


def wanted(paths: Sequence[str], resources: Resources, living: Sequence[Allocation]) -> int:
    """How many more allocations are needed to give each waiting experiment a slot, within `max_running`.

    The slots of living allocations are counted first, those that take the fewest experiments before the others.
    """
    assert resources.pack is not None
    left, slots = list(paths), resources.pack.slots
    alike, kinds = Counter(one.only for one in living), {one.only: one for one in living}
    for only, one in sorted(kinds.items(), key=lambda kind: sum(map(kind[1].takes, paths))):
        served = set([path for path in left if one.takes(path)][: alike[only] * slots])
        left = [path for path in left if path not in served]
    needed = -(-len(left) // slots)
    return needed if resources.max_running is None else max(0, min(needed, resources.max_running - len(living)))


@dataclass(frozen=True, slots=True)
class Queue:
    """Experiments that wait for a slot in the same allocations, of which there may be none."""

    statuses: Sequence[ExperimentStatus]
    allocations: Sequence[tuple[Allocation, Job | None]]

    @property
    def stuck(self) -> str:
        """Why none of the allocations will run, as the scheduler says; empty if one may, or there is none."""
        blocked = [job for _, job in self.allocations if job is not None and job.state is JobState.BLOCKED]
        if not blocked or len(blocked) < len(self.allocations):
            return ""
        return f"the scheduler will not run its allocation {blocked[0].id}: {blocked[0].words}"

    def waiting(self, more: Sequence[str], otherwise: Action) -> Iterator[ExperimentStatus]:
        """The statuses after `more` allocations were submitted; `otherwise`: the action if there are none."""
        states = [f"{job.id}, {job.state.value}" if job else "just submitted" for _, job in self.allocations]
        living = [*(f"allocation {state}" for state in states), *more]
        others = f" (and in {len(living) - 1} more)" if len(living) > 1 else ""
        if self.stuck:
            action = Action(Verb.NOTHING, State.BLOCKED, self.stuck)
        elif living:
            action = Action(Verb.NOTHING, State.PENDING, f"waits for a slot in {living[0]}{others}")
        else:
            action = otherwise
        yield from (replace(status, action=action) for status in self.statuses)


def queues(statuses: Sequence[ExperimentStatus], living: Sequence[tuple[Allocation, Job | None]]) -> list[Queue]:
    """Experiments of the same resource request, by the allocations that take them."""
    kinds = {one.only: one for one, _ in living}
    found: dict[tuple[str | None, ...], list[ExperimentStatus]] = {}
    for status in statuses:
        takers = tuple(only for only, one in kinds.items() if one.takes(status.experiment.path))
        found.setdefault(takers, []).append(status)
    return [Queue(those, [pair for pair in living if pair[0].only in takers]) for takers, those in found.items()]


def by_resources(statuses: Sequence[ExperimentStatus]) -> dict[Resources, list[ExperimentStatus]]:
    """Experiments by the resources of an allocation for them, in their order."""
    found: dict[Resources, list[ExperimentStatus]] = {}
    for status in statuses:
        found.setdefault(required_resources(status), []).append(status)
    return found
