"""`max_running` of arrays: how many tasks run at a time, of experiments with the same resource request. Pure.

An array keeps the number that it was submitted with. So open arrays hold their places, as far as they have tasks left
for them, and a new array gets places that are free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from roundhouse.model.experiment import Resources
from roundhouse.model.status import ExperimentStatus


@dataclass
class Throttle:
    """What one pass may submit of one kind: `free` of its `most` places, and so many `tasks`."""

    most: int
    free: int
    tasks: int | None = None  # None: not determined yet

    @property
    def full(self) -> bool:
        return self.free <= 0 or self.tasks == 0

    @property
    def reason(self) -> str:
        """Why the others wait."""
        return f"max_running: all {self.most} places for this resource request are taken; a later pass submits it"

    def share(self, waiting: int) -> int:
        """How many of the waiting tasks may be submitted: all if all places are free, else in proportion to these.

        More would have to run in these few places, even when others become free.
        """
        if self.tasks is None:
            self.tasks = max(self.free, -(-waiting * self.free // self.most))
        return min(self.tasks, waiting)

    def take(self, tasks: int, of: int) -> int:
        """Places for an array of `tasks`, of the `of` that may be submitted: in proportion, and at least one."""
        at_once = min(tasks, max(1, self.free * tasks // of))
        self.give_back(-tasks, -at_once)
        return at_once

    def give_back(self, tasks: int, at_once: int) -> None:
        """Return the places of an array that was refused."""
        self.tasks = (self.tasks or 0) + tasks
        self.free += at_once


def throttles(
    statuses: Iterable[ExperimentStatus], scheduler: Mapping[str, str], at_once: Callable[[str, str], int | None]
) -> dict[Resources, Throttle]:
    """What `max_running` leaves after the open attempts of this scheduler, by the resources in the round file.

    `at_once` returns, for the round and name of an array, how many tasks it runs at a time; None: all may run.
    """
    found: dict[Resources, Throttle] = {}
    open_tasks: Counter[tuple[Resources, str, str]] = Counter()
    for status in statuses:
        request, newest = status.experiment.resources, status.record.newest
        if request.array and request.max_running is not None:
            found.setdefault(request, Throttle(request.max_running, request.max_running))
            if newest is not None and not newest.closed and newest.opened.ran_at(scheduler):
                open_tasks[request, status.experiment.round, newest.opened.job_name] += 1
    for (request, round_name, array), tasks in open_tasks.items():
        found[request].free -= min(tasks, at_once(round_name, array) or tasks)
    return found
