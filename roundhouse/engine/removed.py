"""Finds experiments that have a record, but are no longer in the round file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from roundhouse.errors import RoundhouseError
from roundhouse.model.experiment import Experiment, start_in
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import record
from roundhouse.store.removed import removed_paths


def removed_experiments(name: str, round_directory: Path, experiments: Sequence[Experiment]) -> list[Experiment]:
    """Those with a record in the round's directory, but not among `experiments`. Only round and path are known."""
    paths = removed_paths(round_directory, [one.path for one in experiments])
    return [Experiment(name, "", path, None, {}) for path in paths]


def with_recorded_config(status: ExperimentStatus) -> ExperimentStatus:
    """The status of a removed experiment, with the config in its record if that is readable."""
    with suppress(RoundhouseError, OSError, TypeError, ValueError, KeyError):
        ran = record.read_config(status.record.directory)
        after = {group: tuple(paths) for group, paths in ran["after"].items()}
        known = replace(
            status.experiment, group=ran.get("group", ""), config=ran["config"], after=after, start=start_in(ran)
        )
        return replace(status, experiment=known)
    return status
