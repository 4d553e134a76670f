"""An allocation as a scheduler: its agent starts job scripts in its slots, and sees only what runs in them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from roundhouse.machine import pool
from roundhouse.machine.slots import Room
from roundhouse.model.answers import Identity, Job, Jobs, JobState, SubmitAnswer, Submitted
from roundhouse.model.experiment import Resources
from roundhouse.schedulers.base import Run
from roundhouse.schedulers.local import Local


class AllocationSlots(Local):
    """The methods of `base.Scheduler` inside an allocation.

    All its jobs have the ID of the allocation's job in the cluster's scheduler; their names are their tokens.
    """

    def __init__(self, slots: pool.Pool, cluster: Identity, job_id: str) -> None:
        super().__init__(slots)
        self._cluster, self._job_id = cluster, job_id
        # As of the last query: the free places, and token -> processes that use places but were not started here.
        self.room = Room(slots.layout, set())
        self.holders: dict[str, list[int]] = {}

    def identity(self, run: Run) -> Identity:
        return self._cluster

    def submit(self, run: Run, script: Path, name: str, need: Resources | None = None) -> SubmitAnswer:
        answer = super().submit(run, script, name, need)
        return Submitted(self._job_id) if isinstance(answer, Submitted) else answer

    def _environ(self) -> Mapping[str, str]:
        return os.environ  # that of a job: the site file may have set any of it

    def query(self, run: Run, ids: Collection[str], names: Collection[str], since: float | None = None) -> Jobs:
        self.pool.reap()
        live = pool.live()
        self.room = Room(self.pool.layout, self.pool.places_taken(live))
        self.holders = self.pool.holders(live)
        running = self.pool.running.union(live)
        return Jobs(tuple(Job(self._job_id, token, JobState.RUNNING) for token in running))
