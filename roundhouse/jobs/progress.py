"""Copies the progress that a command writes into its own directory to the attempt's progress.json, once it is valid."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roundhouse import files
from roundhouse.jobs.worker import ClaimedAttempt
from roundhouse.store import json_fields, json_files, record

INTERVAL = 2.0  # seconds between two readings
_LONGEST = 1 << 20  # bytes


@contextmanager
def copy_progress(claimed: ClaimedAttempt) -> Iterator[None]:
    """Copy the command's progress while the block runs, and once at its end.

    With the old layout the command writes the attempt's own progress.json, and nothing is copied.
    """
    if not claimed.attempt.opened.files:
        yield
        return
    copier, ended = _Copier(claimed), threading.Event()

    def poll() -> None:
        while not ended.wait(INTERVAL):
            copier.copy()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        copier.copy(last=True)


class _Copier:
    def __init__(self, claimed: ClaimedAttempt) -> None:
        self._claimed, self._path = claimed, claimed.files / record.PROGRESS
        self._seen: tuple[int, ...] = ()  # identifies the content that was read last
        self._invalid = self._warned = False

    def copy(self, last: bool = False) -> None:
        """Read the file if it has changed. It is invalid only if it still is the next time: it may be being written."""
        try:
            status = os.stat(self._path)
            seen = status.st_ino, status.st_size, status.st_mtime_ns
            if seen != self._seen:
                self._seen = seen
                content = _parsed(self._path) if stat.S_ISREG(status.st_mode) and status.st_size <= _LONGEST else None
                self._invalid = content is None
                if content:
                    self._claimed.report(**content)
                if not last:
                    return
            if self._invalid and not self._warned:
                self._warned = True
                why = "it is not a JSON object with epoch, epochs, step and the like, see docs/your_own_script.md"
                print(f"roundhouse: warning: {self._path} is ignored: {why}", file=sys.stderr, flush=True)
        except FileNotFoundError:
            return
        except OSError as error:
            print(f"roundhouse: warning: the progress could not be copied: {error}", file=sys.stderr, flush=True)


def _parsed(path: Path) -> dict[str, Any] | None:
    """What the file says of progress.json's keys; None if it is invalid."""
    try:
        content = json.loads(files.read_bytes(path) or b"")
        if not isinstance(content, dict) or content.get("version", json_files.VERSION) != json_files.VERSION:
            return None
    except (ValueError, RecursionError):
        return None
    progress = json_fields.progress(content)
    if progress is None:
        return None
    stage = {"stage": content["stage"]} if isinstance(content.get("stage"), str) else {}
    reported = set(progress.__dataclass_fields__) - {"time_used", "gpu_use"}  # measured by the job, not by the command
    return {key: getattr(progress, key) for key in reported if key in content} | stage
