"""Values that are slow to compute, kept in files that are named by the hash of what they follow from."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from roundhouse.training import StudyError
from roundhouse.training.checkpoint import CorruptFile, unpack, warn, write
from studies.data_files import data_directory

Value: TypeAlias = dict[str, Tensor]
Key: TypeAlias = Mapping[str, str | int | float | list[int] | None]

_KEY, _VALUE = "key", "value"


def folder_of(data: Path | None) -> Path:
    """Where the study keeps what all its runs share: in the data directory, by default that of the repository."""
    return data_directory(data) / "genegan"


def digest(images: Tensor) -> str:
    """SHA-256 of images and their shape: a name for a set of images, for a key."""
    hashed = hashlib.sha256(repr((list(images.shape), str(images.dtype))).encode())
    hashed.update(images.detach().cpu().contiguous().numpy().data)
    return hashed.hexdigest()


def path_of(folder: Path, kind: str, key: Key) -> Path:
    return folder / f"{kind}-{hashlib.sha256(_text(key).encode()).hexdigest()[:24]}.pth"


def cached(folder: Path | None, kind: str, key: Key, make: Callable[[], Value]) -> Value:
    """The value of `make`, which follows from `key` alone; from its file in `folder` if there is one.

    A damaged file is made again, with a note. If runs do this at the same time, all use the value that was kept first:
    processors differ in the last bits. A folder that cannot be written costs time only. Without a folder, nothing is
    kept.
    """
    if folder is None:
        return make()
    path = path_of(folder, kind, key)
    found = _read(path, key)
    if found is not None:
        return found
    value = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = _keep(path, {_KEY: _text(key), _VALUE: value})
    except (OSError, StudyError) as error:
        warn(f"{kind}: the result is not kept and will be computed again: {error}")
        return value
    return value if kept else _read(path, key) or value


def _keep(path: Path, content: dict[str, Any]) -> bool:
    """Write a file, unless there is one. Returns whether it was written."""
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        write(draft, content)
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _read(path: Path, key: Key) -> Value | None:
    """The value in a file; None if there is none, or if it cannot be used."""
    try:
        content = unpack(path.read_bytes())
        if content.get(_KEY) != _text(key):
            raise CorruptFile("it belongs to another key")
    except FileNotFoundError:
        return None
    except CorruptFile as error:
        warn(f"{path} is removed, and is made again: {error}")
        with suppress(OSError):
            path.unlink()
        return None
    except OSError as error:
        warn(f"{path} is not used: {error}")
        return None
    value: Value = content[_VALUE]
    return value


def _text(key: Key) -> str:
    return json.dumps(dict(key), sort_keys=True)
