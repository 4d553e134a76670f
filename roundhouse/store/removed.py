"""Which records in a round's directory belong to no experiment of the round file."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from roundhouse.store.record import ATTEMPTS, NAMES


def removed_paths(round_directory: Path, paths: Collection[str]) -> list[str]:
    """The paths of experiments that have a record in this directory and are not among `paths`, sorted.

    The directories of experiments in `paths` are not listed, since there may be thousands on a network file system.
    What cannot be listed counts as empty. Hidden directories and links hold no experiments.
    """
    known, above = set(paths), {""}
    for path in known:
        parent = path.rpartition("/")[0]
        while parent not in above:
            above.add(parent)
            parent = parent.rpartition("/")[0]
    found, pending = [], [""]
    while pending:
        directory = pending.pop()
        names = _directories(round_directory / directory)
        if directory and ATTEMPTS in names:
            found.append(directory)
            if directory not in above:
                continue
        inside = (f"{directory}/{name}" if directory else name for name in names if name not in NAMES)
        pending += [path for path in inside if path not in known]
    return sorted(found)


def _directories(directory: Path) -> set[str]:
    try:
        with os.scandir(directory) as entries:
            return {one.name for one in entries if not one.name.startswith(".") and one.is_dir(follow_symlinks=False)}
    except OSError:
        return set()
