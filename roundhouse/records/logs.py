"""What attempts printed: the end of their logs."""

from __future__ import annotations

from pathlib import Path

from roundhouse import files
from roundhouse.records import record
from roundhouse.records.attempt import Record

_OURS = "roundhouse: attempt"  # how lines begin that are told about the run, and not by it


def tail(directory: Path, number: int, lines: int = 15) -> str:
    """The end of what the attempt printed, its scheduler's last words included."""
    place = record.attempt_directory(directory, number)
    return "\n".join(line for name in (record.LOG, record.SCHEDULER_LOG) for line in _end(place / name)[-lines:])


def last_words(rec: Record) -> str:
    """The last line that the failed run printed itself, if it printed any; the scheduler's, if it never got so far."""
    place = record.attempt_directory(rec.directory, rec.runs[-1].number)
    said: list[str] = []
    for line in _end(place / record.LOG) or _end(place / record.SCHEDULER_LOG):
        if line.startswith(f"{_OURS} {rec.runs[-1].number} runs "):
            said.clear()  # what came before was said by setup lines
        elif line.strip() and not line.startswith(_OURS):
            said.append(line.strip())
    return f". Its last words: {said[-1].removeprefix('roundhouse: ')[:200]}" if said else ""


def _end(log: Path) -> list[str]:
    """The last lines of a log."""
    try:
        raw = files.read_bytes(log) or b""
    except OSError as error:  # words for people must stop nobody
        return [f"{log.name} cannot be read: {error.strerror}"]
    return raw[-8192:].decode(errors="replace").splitlines()
