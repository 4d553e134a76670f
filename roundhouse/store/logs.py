"""What attempts printed: the end of their logs."""

from __future__ import annotations

import json
from pathlib import Path

from roundhouse import files
from roundhouse.model.attempt import Record
from roundhouse.store import record

_OURS = "roundhouse: attempt"  # how lines begin that are told about the run, and not by it


def tail(directory: Path, number: int, lines: int = 15) -> str:
    """The end of what the attempt printed, and of what its scheduler kept of that."""
    own, kept = _end(record.attempt_directory(directory, number) / record.LOG), _scheduler_log(directory, number)
    return "\n".join([*own[-lines:], *kept[-lines:]])


def last_words(rec: Record) -> str:
    """The last line that the failed run printed itself, if it printed any; the scheduler's, if it never got so far."""
    place = record.attempt_directory(rec.directory, rec.runs[-1].number)
    said: list[str] = []
    for line in _end(place / record.LOG) or _scheduler_log(rec.directory, rec.runs[-1].number):
        if line.startswith(f"{_OURS} {rec.runs[-1].number} runs "):
            said.clear()  # what came before was said by setup lines
        elif line.strip() and not line.startswith(_OURS):
            said.append(line.strip())
    return f". Its last words: {said[-1].removeprefix('roundhouse: ')[:200]}" if said else ""


def _scheduler_log(directory: Path, number: int) -> list[str]:
    """The last lines of scheduler.log. PBS leaves that of a task in the array's directory, as log.INDEX."""
    place = record.attempt_directory(directory, number)
    if lines := _end(place / record.SCHEDULER_LOG):
        return lines
    try:
        value = json.loads(files.read_bytes(place / record.JOB) or b"{}")
        folded = [one["job"] for one in value.get("attempts", ()) if one["number"] == number]
        opened = folded[0] if folded else value
        return _end(directory / opened["shared"] / f"log.{int(opened['array_index'])}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        # It is no task, or its job.json is damaged.
        return []


def _end(log: Path) -> list[str]:
    """The last lines of a log."""
    try:
        raw = files.read_bytes(log) or b""
    except OSError as error:  # words for people must stop nobody
        return [f"{log.name} cannot be read: {error.strerror}"]
    return raw[-8192:].decode(errors="replace").splitlines()
