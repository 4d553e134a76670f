"""What the programs under test of chaos.py do, written by themselves: a journal and locks, outside the record."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

FOLDER = "CHAOS_JOURNAL"  # environment variable: the folder of the journal
EXPERIMENTS = "CHAOS_EXPERIMENTS"  # environment variable: the folder of all records
LINES, LOCKS = "lines", "locks"


class Journal:
    """One process's part of the journal. `path`: ROUND/PATH of its experiment; `attempt`: the number of its attempt."""

    def __init__(self, path: str, attempt: int) -> None:
        self.folder = Path(os.environ[FOLDER])
        self.path, self.attempt = path, attempt

    def hold(self) -> None:
        """Lock the experiment until this process ends; if another process holds it, note that and exit."""
        folder = self.folder / LOCKS
        folder.mkdir(exist_ok=True)
        lock = os.open(folder / self.path.replace("/", "~"), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.note("double", holder=os.pread(lock, 100, 0).decode().strip())
            raise SystemExit("another process of this experiment is alive") from None
        os.pwrite(lock, f"{os.getpid():<20d}".encode(), 0)

    def note(self, event: str, **more: Any) -> None:
        """Append one line. A line is written by one system call, so that lines of several processes never mix.

        Events: `start`, `saved` (`epoch` is on disk), `end` (with the `hash` of the result), `double`,
        `damaged` (a file that it resumes from).
        """
        line = json.dumps({"event": event, "path": self.path, "attempt": self.attempt, "pid": os.getpid(), **more})
        file = os.open(self.folder / LINES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(file, line.encode() + b"\n")
        finally:
            os.close(file)
