"""What config.yaml and the logs of an experiment add to the reason of its state."""

from __future__ import annotations

from pathlib import Path

from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Record
from roundhouse.model.evaluate import expected_hash
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import State
from roundhouse.store import record
from roundhouse.store.logs import last_line


def details(experiment: Experiment, rec: Record, state: State) -> str:
    """For a failed experiment its last log line; for one that ran with another config, the keys that differ."""
    if state is State.FAILED:
        return last_line(rec)
    if state is State.BLOCKED and rec.runs[0].opened.config_hash != expected_hash(experiment, rec):
        return _difference(rec.directory, experiment)
    return ""


def _difference(directory: Path, experiment: Experiment) -> str:
    """Which keys of the round file differ from what has run."""
    try:
        then = record.read_config(directory)
    except RoundhouseError:
        return ""
    now = experiment.identity()
    parts = {"study": (then.get("study"), now["study"]), "command": (then.get("command"), now["command"])}
    for prefix, before, after in (("after.", then["after"], now["after"]), ("", then["config"], now["config"])):
        parts |= {f"{prefix}{key}": (before.get(key), after.get(key)) for key in {**before, **after}}
    found = ", ".join(f"{key} was {old!r}, is now {new!r}" for key, (old, new) in parts.items() if old != new)
    if found and (selection := experiment.selection):
        found += f". It selects from group {selection.group}, whose results now give {selection.choice}"
    return f": {found}. Restore it in the round file, or give the new experiment another path" if found else ""
