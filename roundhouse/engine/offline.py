"""The statuses of a round from its records alone: no scheduler is queried, and nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from roundhouse.engine.reason_details import details
from roundhouse.model.evaluate import Evidence, evaluate
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import Clock
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import metrics, record
from roundhouse.store.accepted import accepted


def statuses(experiments: Sequence[Experiment], directories: Mapping[str, Path]) -> dict[str, ExperimentStatus]:
    """The status of each experiment, by path; `directories` maps paths to the directories of the records.

    An open attempt counts as in progress, since only its scheduler knows more.
    """
    records = {one.path: record.read(directories[one.path]) for one in experiments}
    clock = Clock(time.time(), 0.0, 0.0)
    return evaluate(experiments, Evidence(records, metrics, clock, details=details, accepted=accepted))
