"""cluster.json in a round's directory: the cluster that runs it, and its nodes, as the scheduler listed them once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roundhouse import files
from roundhouse.store.json_files import VERSION, read_if_valid

NAME = "cluster.json"


def read(round_directory: Path) -> dict[str, Any] | None:
    """None: it is not recorded, or cannot be read."""
    try:
        return read_if_valid(round_directory, NAME)
    except OSError:
        return None


def is_written(round_directory: Path) -> bool:
    return (round_directory / NAME).exists()


def write(round_directory: Path, content: Mapping[str, Any]) -> None:
    files.replace(round_directory / NAME, files.dump({"version": VERSION, **content}))
