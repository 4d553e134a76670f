"""Configs for which the user has accepted a completed result: accepted/HASH.json, each created exclusively, once."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roundhouse import files
from roundhouse.model.attempt import Record
from roundhouse.model.experiment import Experiment, identity_in
from roundhouse.store import json_files, record


def accept(rec: Record, experiment: Experiment, ran: Mapping[str, Any], user: str) -> bool:
    """Accept the result of a completed experiment, which `ran` with one config, for the one it has now.

    False: this config was accepted before, for a result with yet another config. Accepting twice changes nothing.
    """
    assert rec.completed is not None
    before, after = rec.completed.opened.config_hash, experiment.config_hash()
    path = _path(rec.directory, after)
    value = {
        "version": json_files.VERSION,
        "nonce": uuid.uuid4().hex,
        "attempt": rec.completed.number,
        "config_hash": before,
        "ran": identity_in(ran),
        "accepted": experiment.identity(),
        "user": user,
        "at": time.time(),
    }
    files.make_directory(path.parent)
    return files.create_exclusive(path, value) or accepted(rec, after) is not None


def accepted(rec: Record, config_hash: str) -> Mapping[str, Any] | None:
    """What a completed experiment ran (study, command, config, after), if its result was accepted for this config."""
    if rec.completed is None:
        return None
    try:
        value = json.loads(files.read_bytes(_path(rec.directory, config_hash)) or b"{}")
        ran = identity_in(value["ran"])
        valid = value["config_hash"] == rec.completed.opened.config_hash == record.config_hash(ran)
        return ran if valid else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # absent or unreadable: the result is not accepted


def _path(directory: Path, config_hash: str) -> Path:
    return directory / record.ACCEPTED / f"{config_hash}.json"
