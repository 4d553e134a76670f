"""How a round stands as its records alone tell it: no scheduler is asked, and nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from roundhouse.engine.one_pass import hash_to_expect, inputs_first, inputs_of, waiting_for
from roundhouse.model.answers import QueryFailed
from roundhouse.model.attempt import Record
from roundhouse.model.experiment import Experiment
from roundhouse.model.halving import judged
from roundhouse.model.plan import Clock, State, decide
from roundhouse.model.retry import policy_of
from roundhouse.model.selection import Selections
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import record
from roundhouse.store.logs import last_words

_NOT_ASKED = QueryFailed("no scheduler is asked here")


def rows(experiments: Sequence[Experiment], directories: Mapping[str, Path]) -> dict[str, ExperimentStatus]:
    """A row for each experiment, by path; `directories` says where each one's record lies.

    An open attempt counts as in progress, since only its scheduler could tell otherwise.
    """
    records = [record.read(directories[experiment.path]) for experiment in experiments]
    clock = Clock(time.time(), 0.0, 0.0)
    made: dict[str, ExperimentStatus] = {}
    selections = Selections(made)
    for experiment, rec in inputs_first(experiments, records):
        made[experiment.path] = _row(selections.resolve(experiment), rec, made, clock)
    verdicts = judged(made)
    made |= verdicts
    selections = Selections(made)
    for experiment in waiting_for(verdicts, experiments, made):
        made[experiment.path] = _row(selections.resolve(experiment), made[experiment.path].record, made, clock)
    return {experiment.path: made[experiment.path] for experiment in experiments}


def _row(experiment: Experiment, rec: Record, made: Mapping[str, ExperimentStatus], clock: Clock) -> ExperimentStatus:
    inputs, retry = inputs_of(experiment, made), policy_of(experiment.retry)
    action = decide(rec, _NOT_ASKED, inputs, clock, hash_to_expect(experiment, rec), retry=retry)
    if rec.newest is not None and not rec.newest.closed:
        action = replace(action, reason="")
    if action.state is State.FAILED and rec.runs:
        action = replace(action, reason=action.reason + last_words(rec))
    return ExperimentStatus(experiment, rec, action, inputs, retry=retry)
