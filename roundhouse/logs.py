"""What attempts printed: the end of their logs."""

from __future__ import annotations

from pathlib import Path

from roundhouse import files, record
from roundhouse.attempt import Record


def tail(directory: Path, number: int, lines: int = 15) -> str:
    """The end of what the attempt printed, its scheduler's last words included."""
    parts = []
    for name in (record.LOG, record.SCHEDULER_LOG):
        try:
            raw = files.read_bytes(record.attempt_directory(directory, number) / name) or b""
        except OSError as error:  # words for people must stop nobody
            parts.append(f"{name} cannot be read: {error.strerror}")
            continue
        parts += raw[-8192:].decode(errors="replace").splitlines()[-lines:]
    return "\n".join(parts)


def last_words(rec: Record) -> str:
    """The last line that the failed run printed itself."""
    lines = tail(rec.directory, rec.runs[-1].number).splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith("roundhouse: attempt")]
    return f". Its last words: {said[-1].removeprefix('roundhouse: ')[:200]}" if said else ""
