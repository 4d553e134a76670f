"""Durable file operations: a file is whole or absent, and where only one may win, only one does.

Everything that writes a record goes through here, so the tests can make any single step fail, crash or lag.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_BLOCK = 1 << 16
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def dump(value: Mapping[str, Any]) -> bytes:
    """JSON with one top-level key a line, which is what the job's shell relies on when it copies one."""
    return (json.dumps(value, indent=1) + "\n").encode()


def write_draft(directory: Path, data: bytes, durable: bool = True) -> Path:
    """A new file with a name nobody looks for, durable if nobody says otherwise. Removed again if the disk is full."""
    draft = directory / f".draft-{uuid.uuid4().hex}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        _write(descriptor, data, durable)
    except OSError:
        remove(draft)
        raise
    return draft


def _write(descriptor: int, data: bytes, durable: bool = True) -> None:
    """Write all of `data` to an open file, and close it."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_exclusive(path: Path, value: Mapping[str, Any]) -> bool:
    """Create a file that only one caller, anywhere, ever creates. True: it is ours, whole and durable.

    `value` must hold a nonce: a link that a network file system repeated is recognised by its content.
    False: somebody else's is there. FileNotFoundError: its directory is gone.
    """
    data = dump(value)
    draft = write_draft(path.parent, data)
    try:
        os.link(draft, path)
    except FileExistsError:
        return read_bytes(path) == data
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _create_without_links(path, data)
    finally:
        remove(draft)
    sync_directory(path.parent)
    return True


def _create_without_links(path: Path, data: bytes) -> bool:
    # A crash between these two steps leaves an empty file, which readers take for "held, holder unknown".
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    _write(descriptor, data)
    sync_directory(path.parent)
    return True


def replace(path: Path, data: bytes, durable: bool = True) -> None:
    """Put `data` in the place of whatever is at `path`, at once; durably, unless it is a view, which is made again."""
    draft = write_draft(path.parent, data, durable)
    try:
        os.replace(draft, path)
    except OSError:
        remove(draft)
        raise
    if durable:
        sync_directory(path.parent)


def replace_by_link(path: Path, target: Path) -> None:
    """Make `path` another name of the file `target`, without a moment in which `path` is absent.

    Where there are no hard links, `path` stays as it is.
    """
    draft = path.parent / f".draft-{uuid.uuid4().hex}"
    try:
        os.link(target, draft)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return
    os.replace(draft, path)
    remove(draft)  # replacing one name of a file by another name of the same file leaves both


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what a file system says that has nothing to sync there
            raise
    finally:
        os.close(descriptor)


def read_bytes(path: str | Path) -> bytes | None:
    """The file's content, or None if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        data = os.read(descriptor, _BLOCK)
        if len(data) < _BLOCK:
            return data  # a short read of a regular file is all of it
        parts = [data]
        while part := os.read(descriptor, _BLOCK):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def list_names(directory: str | Path) -> list[str]:
    """Names in a directory; none if it does not exist. On a network file system a list is fresh, a look may not be."""
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def modified(path: Path) -> float | None:
    """When the file last changed, in seconds, by the file server's clock; None if it is not there."""
    try:
        return os.stat(path).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None


def touch(path: Path) -> None:
    """Create the file, or set its time to now by the file server's clock."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Make one directory; that it exists is fine, that its parent does not is FileNotFoundError."""
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def make_shared_directory(path: Path) -> None:
    """Make a directory, and those above it; a new one gets the group of the one that holds it, for all below as well.

    A directory with the set-group-ID bit hands its group on by itself; here that is done for one without.
    """
    if path.is_dir():
        return
    make_shared_directory(path.parent)
    make_directory(path)
    group = path.parent.stat().st_gid
    if path.stat().st_gid != group:
        with suppress(OSError):  # the user is not in that group, or the file system has no groups
            os.chown(path, -1, group)
            path.chmod(path.stat().st_mode | stat.S_ISGID)


def umask_for(directory: Path, present: int) -> int:
    """The umask with which files in `directory` can be used by those who can use the directory itself.

    It is never stricter than `present`, and only the group is ever given the right to write. Where there is no such
    directory yet, the nearest one above it counts.
    """
    while not directory.is_dir():
        directory = directory.parent
    return present & ~(directory.stat().st_mode & 0o775)


def server_time(directory: Path) -> float:
    """Now, by the clock of the file server that holds `directory`: all ages of records are measured against it."""
    draft = write_draft(directory, b"", durable=False)
    try:
        return draft.stat().st_mtime
    finally:
        remove(draft)
