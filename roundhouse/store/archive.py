"""Where archived rounds lie, and that they never begin anew: a pass makes a round's directory, but not of these."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from roundhouse import files
from roundhouse.errors import RoundhouseError

RECORDS = "experiments"


@dataclass(frozen=True, slots=True)
class Archive:
    """Where a round's records lie, and where they go."""

    source: Path
    folder: Path

    @classmethod
    def of(cls, name: str, experiments: Path, analysis: Path) -> Archive:
        return cls(experiments / name, analysis / f"experiment_{name}")

    @property
    def records(self) -> Path:
        return self.folder / RECORDS

    @property
    def there(self) -> bool:
        return os.path.lexists(self.records)


def refuse_archived(archive: Archive) -> None:
    """RoundhouseError if the round was archived: it must not begin anew under its name."""
    if archive.there:
        name = archive.source.name
        raise RoundhouseError(
            f"round {name} was archived: its records are in {archive.records}. It does not go on. Read it with "
            f"python analysis/report.py --round {name}; to run it anew, give it another name"
        )


def make_directory(archive: Archive) -> None:
    """Make the round's directory, which nothing else makes. RoundhouseError if the round was archived."""
    refuse_archived(archive)
    files.make_shared_directory(archive.source)
    files.sync_directory(archive.source.parent)  # also if another runner has made it just now
    if archive.there:  # it was archived just now: what we made is an empty directory
        archive.source.rmdir()
        refuse_archived(archive)
