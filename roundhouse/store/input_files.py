"""Files of inputs that no record has a hash of: those of commands, and the user's own."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from roundhouse import files
from roundhouse.model.attempt import Attempt
from roundhouse.store.carried import result_file


class InputFiles:
    """Reads them. Relative paths of the user's own files are below `project`."""

    def __init__(self, project: Path) -> None:
        self._project = project

    def has_file(self, directory: Path, attempt: Attempt, name: str) -> bool:
        """Whether the files of a command's attempt include one of this name."""
        return result_file(directory, attempt, name) is not None

    def sha256_of(self, path: str) -> str | None:
        """The hash of the user's own file; None if it cannot be read. An unchanged file is read once in a process."""
        try:
            status = os.stat(self._project / path)
            return _sha256(self._project / path, status.st_size, status.st_mtime_ns)
        except OSError:
            return None


@lru_cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str | None:
    return files.sha256(path)
