"""Where archived rounds are stored. A pass never creates the directory of an archived round again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from roundhouse import files
from roundhouse.errors import RoundhouseError

RECORDS = "experiments"


@dataclass(frozen=True, slots=True)
class Archive:
    """Where a round's records are, and where they are archived."""

    source: Path
    folder: Path

    @classmethod
    def of(cls, name: str, experiments: Path, analysis: Path) -> Archive:
        return cls(experiments / name, analysis / f"experiment_{name}")

    @property
    def records(self) -> Path:
        return self.folder / RECORDS

    @property
    def stored(self) -> Path:
        """The directory with the records; `source` may be a link to it."""
        return Path(os.path.realpath(self.source)) if self.source.is_symlink() else self.source

    @property
    def there(self) -> bool:
        return os.path.lexists(self.records)


def refuse_archived(archive: Archive) -> None:
    """RoundhouseError if the round was archived: it cannot start again under its name."""
    if archive.there:
        name = archive.source.name
        raise RoundhouseError(
            f"round {name} was archived: its records are in {archive.records}. To see its results: "
            f"python analysis/report.py --round {name}. To run it again, give it another name"
        )


def make_directory(archive: Archive) -> None:
    """Create the round's directory; nothing else does. RoundhouseError if the round was archived."""
    refuse_archived(archive)
    files.make_shared_directory(archive.source)
    files.sync_directory(archive.source.parent)  # even if another runner created it just now
    if archive.there:  # it was archived just now, and the new directory is empty
        archive.source.rmdir()
        refuse_archived(archive)
