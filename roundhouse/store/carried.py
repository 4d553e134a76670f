"""carried.json: which files an attempt of a command got from an earlier one, so which results are its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

from roundhouse import files
from roundhouse.model.attempt import Attempt, Record
from roundhouse.store import json_fields, json_files, record

_WRITTEN_AT_THE_END = ("metrics.json", "outputs.npz")  # best.pth is kept along the way, so a copy of it is a result


@dataclass(frozen=True, slots=True)
class CarriedFile:
    """One copied file, as it was in the attempt that got it. Of a symbolic link, the target is the content."""

    size: int  # bytes
    mtime_ns: int
    sha256: str

    def is_at(self, path: Path) -> bool:
        """Whether the file is still there and unchanged: with equal size and time."""
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


@dataclass(frozen=True, slots=True)
class Carried:
    """The files that an attempt began with. `source`: the number of the attempt that they are from; None: of none.

    `unchanged_walltimes`: how many attempts in a row before this one reached their walltime without a changed file.
    """

    source: int | None = None
    files: Mapping[str, CarriedFile] = field(default_factory=dict)  # by path in the attempt's files
    unchanged_walltimes: int = 0


def read(directory: Path, number: int) -> Carried | None:
    """carried.json of an attempt; None if it is absent or unreadable."""
    value = json_files.read_if_valid(record.attempt_directory(directory, number), record.CARRIED)
    if value is None:
        return None
    try:
        return Carried(
            None if value["source"] is None else int(value["source"]),
            {name: _file(entry) for name, entry in value["files"].items()},
            int(value.get("unchanged_walltimes", 0)),
        )
    except json_fields.INVALID:
        return None


def _file(entry: Mapping[str, Any]) -> CarriedFile:
    return CarriedFile(int(entry["size"]), int(entry["mtime_ns"]), str(entry["sha256"]))


def write(directory: Path, number: int, carried: Carried) -> None:
    """Write carried.json of an attempt: its files are complete."""
    path = record.attempt_directory(directory, number) / record.CARRIED
    files.replace(path, files.dump({"version": json_files.VERSION, **asdict(carried)}))


def result_file(directory: Path, attempt: Attempt, name: str) -> Path | None:
    """A file of an attempt, by its name in the folder of its files; None if there is none.

    metrics.json and outputs.npz count only if this attempt wrote them: copies from an earlier one are not its results.
    """
    path = record.files_directory(directory, attempt) / name
    if not path.is_file():
        return None
    if attempt.opened.files and name in _WRITTEN_AT_THE_END:
        carried = read(directory, attempt.number)
        if carried and name in carried.files and carried.files[name].is_at(path):
            return None
    return path


def link_outputs(rec: Record) -> None:
    """Link metrics.json, best.pth and outputs.npz in the experiment's directory to those of its newest result."""
    if not rec.results:
        return
    for name in record.OUTPUTS:
        found, link = result_file(rec.directory, rec.results[-1], name), rec.directory / name
        target = str(found.relative_to(rec.directory)) if found else None
        if target is None and link.is_symlink():
            link.unlink()  # of an earlier result that had this file
        elif target is not None and not (link.is_symlink() and os.readlink(link) == target):
            draft = rec.directory / f".draft-{uuid.uuid4().hex}"
            draft.symlink_to(target)
            os.replace(draft, link)


def was_started(directory: Path, attempt: Attempt) -> bool:
    """Whether the command was started: its job writes environment.json just before, after all files are in place."""
    return record.ENVIRONMENT in files.list_names(record.attempt_directory(directory, attempt.number))


def was_freed(directory: Path, attempt: Attempt) -> bool:
    """Whether a pass has begun to delete files of the attempt, so that no attempt may copy from it any more."""
    return record.FREED in files.list_names(record.attempt_directory(directory, attempt.number))


def delete_copied_files(rec: Record, keep: int) -> None:
    """Delete files that a later attempt has copied and that are unchanged since, and nothing else.

    The last `keep` ended attempts whose command was started, and open ones, are left as they are.
    """
    ended = [one for one in rec.current.runs if one.closed and was_started(rec.directory, one)]
    old = {one.number: one for one in ended[:-keep]}
    if not old:
        return
    for later in rec.current.runs:
        carried = read(rec.directory, later.number)
        if carried is None or carried.source not in old:
            continue
        source = old[carried.source]
        folder = record.files_directory(rec.directory, source)
        unchanged = [
            name for name, entry in carried.files.items() if _is_below(folder, name) and entry.is_at(folder / name)
        ]
        if unchanged:
            files.touch(record.attempt_directory(rec.directory, source.number) / record.FREED)
        for name in unchanged:
            files.remove(folder / name)


def _is_below(folder: Path, name: str) -> bool:
    """Whether the path leads to a place in the folder: it is not absolute, and no link or `..` leads out of it."""
    path = PurePath(name)
    return not path.is_absolute() and (folder / path).parent.resolve() == folder.resolve() / path.parent
