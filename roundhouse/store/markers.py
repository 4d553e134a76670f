"""Markers: attempts that run nothing and note a decision (retry, rerun, cancelled, archived, pruned). They are void."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roundhouse.model.attempt import Opened, Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.store import record


def mark(rec: Record, experiment: Experiment, cause: Cause, why: str, **more: Any) -> bool:
    """Open the next attempt, exclusively, and void it. False: another process took that number first.

    `more`: what else `Opened` holds of a retry or rerun.
    """
    opened = Opened(record.new_token(), {"kind": "mark"}, experiment.config_hash(), {}, mark=cause, **more)
    round_directory = Path(str(rec.directory).removesuffix(f"/{experiment.path}"))
    if not record.open_attempt(rec.directory, rec.next_number, opened, round_directory):
        return False
    if not rec.attempts:  # config.yaml says what ran, until an attempt runs something else
        record.write_config(rec.directory, experiment)
    return record.void(rec.directory, rec.next_number, cause, why)
