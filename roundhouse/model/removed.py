"""Experiments that have a record, but are no longer in the round file. Pure.

Their open attempts are closed and their jobs can be cancelled, as those of all experiments, but none is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from roundhouse.model.answers import Job
from roundhouse.model.evaluate import Evidence
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import Inputs, decide
from roundhouse.model.status import ExperimentStatus

_NO_MORE = Inputs(None, "no further attempt is made", hopeless=True)


@dataclass(frozen=True, slots=True)
class RemovedExperiment:
    """The status is that of its record alone; of the experiment, only round and path are known.

    `same_as`: the experiment of the round file that has the same config, if the path was changed there; else empty.
    `obstacle`: why its record cannot become that of `same_as` by moving the directory; empty if it can.
    """

    status: ExperimentStatus
    same_as: str = ""
    obstacle: str = ""

    @property
    def path(self) -> str:
        return self.status.experiment.path

    @property
    def is_open(self) -> bool:
        """Whether it has a job, or may have one."""
        newest = self.status.record.newest
        return newest is not None and not newest.closed


def evaluate_removed(experiments: Iterable[Experiment], evidence: Evidence) -> list[ExperimentStatus]:
    """The statuses of removed experiments. Those without any attempt are left out."""
    found = []
    for experiment in experiments:
        rec = evidence.records[experiment.path]
        if rec.attempts or rec.damage:
            answer = evidence.answer(experiment, rec)
            action = decide(rec, answer, _NO_MORE, evidence.clock, rec.config_hash or "", retry=experiment.retry)
            job_state = answer.state.value if isinstance(answer, Job) else None
            found.append(ExperimentStatus(experiment, rec, action, _NO_MORE, job_state))
    return found


def compare_with_round(
    removed: Sequence[ExperimentStatus], statuses: Mapping[str, ExperimentStatus]
) -> list[RemovedExperiment]:
    """The removed experiments, each with the experiment of the round that has the same config."""
    if not removed:
        return []
    unrecorded = {path for path, one in statuses.items() if not (one.record.attempts or one.action.state.active)}
    # Without a record last: it is the one to name if several have the same config.
    ordered = sorted(statuses, key=lambda path: path in unrecorded)
    same = {statuses[path].experiment.config_hash(): path for path in ordered}
    depended_on = {path for one in statuses.values() for path in one.experiment.dependencies}
    found = []
    for status in removed:
        path = same.get(status.record.config_hash or "", "")
        obstacle = "" if path in unrecorded else f"{path} has a record"
        if path in depended_on:
            obstacle = f"experiments that depend on {path} name its path"
        found.append(RemovedExperiment(status, path, _obstacle(status, path) or obstacle))
    return found


def _obstacle(status: ExperimentStatus, path: str) -> str:
    """What in its own record prevents that its directory is moved to `path`."""
    newest = status.record.newest
    if status.record.damage or newest is None:
        return "it is unreadable"
    if not newest.closed or newest.awaits_verdict:
        return f"attempt {newest.number} has not ended"
    if path.count("/") != status.experiment.path.count("/"):
        return "it names directories relative to its own, and the new path has another number of components"
    return ""
