"""Durable file operations: a file is complete or absent, and of several creators exactly one wins.

All writes to a record go through this module, so the tests can make any single step fail, crash or lag.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_BLOCK, _LARGE_BLOCK = 1 << 16, 1 << 20
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def dump(value: Mapping[str, Any]) -> bytes:
    """JSON with one top-level key per line; the job's shell relies on that when it copies job.json."""
    return (json.dumps(value, indent=1) + "\n").encode()


def as_bytes(text: str) -> bytes:
    """UTF-8. The bytes of a file name that is not valid UTF-8 stay what they are."""
    return text.encode(errors="surrogateescape")


def write_draft(directory: Path, data: bytes, durable: bool = True) -> Path:
    """A new file under a unique name, by default synced to disk. It is removed again if the disk is full."""
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
    """Create a file that only one caller, on any host, ever creates. True: this call did; it is complete and durable.

    `value` must hold a nonce, by which a link that a network file system repeated is recognised.
    False: another caller's file exists. FileNotFoundError: the directory is gone.
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
    # A crash between these two steps leaves an empty file, which readers treat as a claim of an unknown job.
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    _write(descriptor, data)
    sync_directory(path.parent)
    return True


def replace(path: Path, data: bytes, durable: bool = True) -> None:
    """Replace the file at `path` atomically. `durable=False` is for views, which can be written again."""
    draft = write_draft(path.parent, data, durable)
    try:
        os.replace(draft, path)
    except OSError:
        remove(draft)
        raise
    if durable:
        sync_directory(path.parent)


def replace_by_link(path: Path, target: Path) -> None:
    """Make `path` a hard link to `target`; `path` exists at every moment.

    Without hard links, `path` stays as it is.
    """
    draft = path.parent / f".draft-{uuid.uuid4().hex}"
    try:
        os.link(target, draft)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return
    os.replace(draft, path)
    remove(draft)  # os.replace does nothing if both are links to the same file


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system does not support it
            raise
    finally:
        os.close(descriptor)


def read_bytes(path: str | Path) -> bytes | None:
    """The file's content, or None if it does not exist."""
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


def read_end(path: str | Path, size: int) -> bytes | None:
    """The last `size` bytes of the file, or all of it if it has fewer; None if it does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        file.seek(max(0, os.fstat(descriptor).st_size - size))
        return file.read(size)


def sha256(path: str | Path) -> str | None:
    """The SHA-256 of the file's content, as hexadecimal, or None if it does not exist. It is read in parts."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    digest = hashlib.sha256()
    try:
        while part := os.read(descriptor, _LARGE_BLOCK):
            digest.update(part)
        return digest.hexdigest()
    finally:
        os.close(descriptor)


def list_names(directory: str | Path) -> list[str]:
    """Names in a directory; none if it does not exist. On network file systems, a listing is fresher than a lookup."""
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def modified(path: str | Path) -> float | None:
    """When the file last changed, in seconds, by the file server's clock; None if it does not exist."""
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
    """Create one directory, if it does not exist. FileNotFoundError: its parent does not exist."""
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def make_shared_directory(path: Path) -> None:
    """Create a directory and its parents. A new directory, and everything below it, gets the group of its parent.

    With the set-group-ID bit, the kernel does that; here it is done for a parent without it.
    """
    if path.is_dir():
        return
    make_shared_directory(path.parent)
    make_directory(path)
    group = path.parent.stat().st_gid
    if path.stat().st_gid != group:
        with suppress(OSError):  # the user is not in that group, or the file system does not support groups
            os.chown(path, -1, group)
            path.chmod(path.stat().st_mode | stat.S_ISGID)


def umask_for(directory: Path, present: int) -> int:
    """The umask with which files in `directory` are accessible to everyone who can access the directory.

    It is never stricter than `present`, and gives write permission to the group at most. For a directory that does not
    exist yet, the nearest existing parent counts.
    """
    while not directory.is_dir():
        directory = directory.parent
    return present & ~(directory.stat().st_mode & 0o775)


def server_time(directory: Path) -> float:
    """The current time by the clock of the file server that holds `directory`; ages of records are measured with it."""
    draft = write_draft(directory, b"", durable=False)
    try:
        return draft.stat().st_mtime
    finally:
        remove(draft)
