"""The statuses of a round from its records alone: no scheduler is queried, and nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from roundhouse.engine.reason_details import details
from roundhouse.engine.removed import removed_experiments
from roundhouse.model.evaluate import Evidence, evaluate
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import Clock
from roundhouse.model.removed import evaluate_removed
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import metrics, record
from roundhouse.store.accepted import accepted


def statuses(experiments: Sequence[Experiment], directories: Mapping[str, Path]) -> dict[str, ExperimentStatus]:
    """The status of each experiment, by path; `directories` maps paths to the directories of the records.

    An open attempt counts as in progress, since only its scheduler knows more.
    """
    return evaluate(experiments, _evidence(experiments, directories))


def removed(name: str, experiments: Sequence[Experiment], round_directory: Path) -> list[ExperimentStatus]:
    """The statuses of the experiments that have a record in a round's directory, but are not among `experiments`."""
    found = removed_experiments(name, round_directory, experiments)
    return evaluate_removed(found, _evidence(found, {one.path: round_directory / one.path for one in found}))


def _evidence(experiments: Sequence[Experiment], directories: Mapping[str, Path]) -> Evidence:
    records = {one.path: record.read(directories[one.path]) for one in experiments}
    return Evidence(records, metrics, Clock(time.time(), 0.0, 0.0), details=details, accepted=accepted)
