"""What config.yaml and the logs of an experiment add to the reason of its state."""

from __future__ import annotations

from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Record
from roundhouse.model.evaluate import expected_hash
from roundhouse.model.experiment import Experiment, acceptable, changes
from roundhouse.model.plan import State
from roundhouse.store import record
from roundhouse.store.logs import last_line


def details(experiment: Experiment, rec: Record, state: State) -> str:
    """For a failed experiment its last log line; for one that ran with another config, the keys that differ."""
    if state is State.FAILED:
        return last_line(rec)
    if state is State.BLOCKED and rec.config_hash not in (None, expected_hash(experiment, rec)):
        return _difference(rec, experiment)
    return ""


def _difference(rec: Record, experiment: Experiment) -> str:
    """Which keys of the round file differ from what has run, and what the user can do."""
    try:
        ran, now = record.read_config(rec.directory), experiment.identity()
    except RoundhouseError:
        return ""
    found = changes(ran, now)
    if found and (selection := experiment.selection):
        found += f". It selects from {selection.named()}, whose results now give {selection.choice}"
    if not rec.completed:
        actions = "--retry runs it with the new config"
    elif acceptable(ran, now):
        actions = "--accept keeps the result, --rerun runs it again"
    else:
        actions = "--rerun runs it again"
    return f": {found}. {actions}; or restore the round file" if found else ""
