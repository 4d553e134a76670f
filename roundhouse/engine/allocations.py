"""Allocations: scheduler jobs that run many experiments, each in a slot. What the login node does about them.

Which experiments an allocation runs is not settled when it is submitted: its agent (`roundhouse.jobs.allocation`)
takes the most important one whenever a slot is free, by opening its next attempt, as any runner would.
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
from roundhouse.model.experiment import Pack, Resources
from roundhouse.model.plan import Action, State, Verb
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.store import job_group, record
from roundhouse.store.code_copy import kept

FILE = "allocation.json"


@dataclass(frozen=True, slots=True)
class Allocation:
    """What an allocation was submitted for: the experiments of a round that ask for `resources`."""

    name: str
    round: str
    resources: Resources
    identity: Identity  # of the scheduler
    rounds: str  # folder of round files
    analysis: str  # where archived rounds lie
    site: str | None
    code: str | None = None  # the copy of the code that it runs; None: the checkout as it is
    current_code: bool = False  # what has run a copy before goes on with `code` too
    only: str | None = None  # it takes only what this glob matches
    at: float = 0.0  # when it was written, by the file server's clock

    @property
    def pack(self) -> Pack:
        assert self.resources.pack is not None
        return self.resources.pack

    def takes(self, path: str) -> bool:
        """Whether it may take an experiment, as far as `only` says."""
        return self.only is None or fnmatchcase(path, self.only)

    def code_of(self, row: ExperimentStatus) -> str | None:
        """The copy of the code that an experiment's next attempt would run in it; None: the checkout."""
        before = None if self.current_code else kept(row.record)
        return (before or self.code) if row.experiment.snapshot else None


def write(directory: Path, allocation: Allocation) -> None:
    """Write allocation.json into the job's directory."""
    files.replace(directory / FILE, files.dump({"version": record.VERSION, **asdict(allocation)}))


def read(directory: Path) -> Allocation | None:
    """The allocation that lies there; None if it is something else, or cannot be understood."""
    raw, at = files.read_bytes(directory / FILE), files.modified(directory / FILE)
    try:
        value: dict[str, Any] = json.loads(raw or b"")
        asked = dict(value.pop("resources"))
        asked |= {"pack": Pack(**asked["pack"]), "exclude": tuple(asked["exclude"])}
        identity = Identity(**value.pop("identity"))
        del value["version"]
        return Allocation(**{**value, "resources": Resources(**asked), "identity": identity, "at": at or 0.0})
    except (ValueError, KeyError, TypeError):
        return None


def asked_for(row: ExperimentStatus) -> Resources:
    """What an allocation must have for an experiment: what the round file says, or more, after it was short of it."""
    return replace(row.resources, exclude=(), accumulate=1)


def alive(
    round_directory: Path, seen: SchedulerSnapshot, now: float, settle: float
) -> Iterator[tuple[Allocation, Job | None]]:
    """The round's allocations that may still run something, each with its job.

    One that the scheduler does not know counts for as long as a submission may take to show up.
    """
    for name in files.list_names(round_directory / job_group.FOLDER):
        directory = job_group.directory_of(round_directory, name)
        jobs = [job for job in seen.named.get((name, None), ()) if job.state is not JobState.ENDED]
        job_id = job_group.read_id(str(directory))
        if not jobs and job_id in seen.alive_by_id:  # alive under another name
            jobs = [seen.alive_by_id[job_id]]
        if not jobs and job_id is not None:
            continue
        allocation = read(directory)
        if allocation is None or not (jobs or now - allocation.at < settle):
            continue
        yield allocation, jobs[0] if jobs else None


def useless(round_directory: Path, rows: Iterable[ExperimentStatus], seen: SchedulerSnapshot) -> list[str]:
    """IDs of allocations that have not started, and that no experiment of the round can use any more."""
    waiting = [
        (allocation, job)
        for allocation, job in (alive(round_directory, seen, 0.0, 0.0) if seen.named else ())
        if job is not None and job.state in (JobState.QUEUED, JobState.BLOCKED)
    ]
    if not waiting:
        return []
    wanted = by_resources([row for row in rows if row.experiment.resources.pack is not None and goes_on(row)])
    return [
        job.id
        for allocation, job in waiting
        if not any(allocation.takes(row.experiment.path) for row in wanted.get(allocation.resources, ()))
    ]


def wanted(paths: Sequence[str], resources: Resources, living: Sequence[Allocation]) -> int:
    """How many more allocations it takes to give each experiment that waits a slot, as far as `max_running` allows.

    Of those that live, each has slots for some of what it takes, and the choosiest come first.
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
    """Experiments that wait for a slot in any of the same allocations, or have none to wait for."""

    rows: Sequence[ExperimentStatus]
    allocations: Sequence[tuple[Allocation, Job | None]]

    @property
    def stuck(self) -> str:
        """Why none of the allocations will run, in the scheduler's words; empty if one may, or there is none."""
        blocked = [job for _, job in self.allocations if job is not None and job.state is JobState.BLOCKED]
        if not blocked or len(blocked) < len(self.allocations):
            return ""
        return f"the scheduler will not run its allocation {blocked[0].id}: {blocked[0].words}"

    def stand(self, more: Sequence[str], otherwise: Action) -> Iterator[ExperimentStatus]:
        """How the experiments stand, if `more` allocations were submitted for them; `otherwise`: if there are none."""
        states = [f"{job.id}, {job.state.value}" if job else "just submitted" for _, job in self.allocations]
        living = [*(f"allocation {state}" for state in states), *more]
        others = f" (and in {len(living) - 1} more)" if len(living) > 1 else ""
        if self.stuck:
            action = Action(Verb.NOTHING, State.BLOCKED, self.stuck)
        elif living:
            action = Action(Verb.NOTHING, State.PENDING, f"waits for a slot in {living[0]}{others}")
        else:
            action = otherwise
        yield from (replace(row, action=action) for row in self.rows)


def queues(rows: Sequence[ExperimentStatus], living: Sequence[tuple[Allocation, Job | None]]) -> list[Queue]:
    """Rows that ask for the same, by the allocations that take them."""
    kinds = {one.only: one for one, _ in living}
    found: dict[tuple[str | None, ...], list[ExperimentStatus]] = {}
    for row in rows:
        takers = tuple(only for only, one in kinds.items() if one.takes(row.experiment.path))
        found.setdefault(takers, []).append(row)
    return [Queue(those, [pair for pair in living if pair[0].only in takers]) for takers, those in found.items()]


def by_resources(rows: Sequence[ExperimentStatus]) -> dict[Resources, list[ExperimentStatus]]:
    """Rows by what an allocation must have for them, in their order."""
    found: dict[Resources, list[ExperimentStatus]] = {}
    for row in rows:
        found.setdefault(asked_for(row), []).append(row)
    return found
