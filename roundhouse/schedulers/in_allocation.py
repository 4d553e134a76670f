"""An allocation as a scheduler: its slots take job scripts, and it knows what runs in them and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from roundhouse.machine import pool
from roundhouse.machine.slots import Room
from roundhouse.model.answers import Identity, Job, Jobs, JobState, QueryFailed, SubmitAnswer, Submitted
from roundhouse.model.experiment import Resources
from roundhouse.schedulers.base import ONE_CORE, Run
from roundhouse.schedulers.local import Local


class Slots(Local):
    """All jobs here are the allocation's own job, as the scheduler that made it knows it; names tell them apart."""

    def __init__(self, slots: pool.Pool, outside: Identity, job_id: str) -> None:
        super().__init__(slots)
        self._outside, self._job_id = outside, job_id
        # As of the last query: what was free, and the processes, by token, that hold places but were not started here.
        self.room = Room(slots.layout, set())
        self.holders: dict[str, list[int]] = {}

    def identity(self, run: Run) -> Identity | QueryFailed:
        return self._outside

    def submit(self, run: Run, script: Path, name: str, need: Resources = ONE_CORE) -> SubmitAnswer:
        answer = super().submit(run, script, name, need)
        return Submitted(self._job_id) if isinstance(answer, Submitted) else answer

    def query(
        self, run: Run, ids: Collection[str], names: Collection[str], since: float | None = None
    ) -> Jobs | QueryFailed:
        self.pool.reap()
        live = pool.live()
        self.room = Room(self.pool.layout, self.pool.places_taken(live))
        self.holders = self.pool.holders(live)
        running = self.pool.running.union(live)
        return Jobs(tuple(Job(self._job_id, token, JobState.RUNNING) for token in running))
