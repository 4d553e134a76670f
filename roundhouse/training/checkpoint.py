"""Checkpoint files that contain their own SHA-256, and the search for the newest valid one.

A file is what `torch.save` writes: a ZIP archive. Its last 64 bytes, the archive's comment, are the SHA-256 of all
bytes before them. Plain `torch.load(path, weights_only=True)` opens it. Here the digest is checked before anything is
unpickled, because `torch.load` does not detect a flipped bit.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.training.reproducibility import check_plain

CHECKPOINT = "checkpoint.pth"
PREVIOUS = "checkpoint.prev.pth"
DAMAGED = ".damaged"
FORMAT = 3
STEPS = "step"  # the key of the number of steps, over all loops
WRITTEN_BY = {2: "Roundhouse 0.1"}  # earlier formats

_DIGEST = 64  # hexadecimal digits
_END_RECORD = 22  # bytes of a ZIP archive's last record; its final two bytes are the length of the comment after it


class CorruptFile(Exception):
    """The content of the file is not what was written."""


@dataclass(frozen=True)
class Found:
    """A valid checkpoint: its path and content."""

    path: Path
    content: dict[str, Any]


def pack(content: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint file. RoundhouseError: `content` has a value that is neither tensor nor plain."""
    check_plain(content)
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    buffer.seek(-2, os.SEEK_END)
    buffer.write(_DIGEST.to_bytes(2, "little"))
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.write(digest.encode())
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, Any]:
    """The content given to `pack`, with tensors on the CPU. CorruptFile: any bit differs."""
    if len(data) < _END_RECORD + _DIGEST:
        raise CorruptFile("it is empty" if not data else f"it has only {len(data)} bytes")
    body, digest = memoryview(data)[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise CorruptFile("its SHA-256 differs from the one stored in it")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise CorruptFile(f"PyTorch {torch.__version__} cannot read it ({error})") from error
    if not isinstance(content, dict):
        raise CorruptFile("it does not contain a dictionary")
    return content


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint file to `path`, atomically and durably; an existing file is replaced."""
    data = pack(content)
    try:
        files.replace(path, data)
    except OSError as error:
        raise cannot_write(path, error) from error


def read(path: Path) -> dict[str, Any]:
    """The content of a file that must exist, such as a teacher's `best.pth`. RoundhouseError: missing or corrupted."""
    try:
        return unpack(path.read_bytes())
    except OSError as error:
        raise RoundhouseError(f"cannot read {path}: {error.strerror or error}") from error
    except CorruptFile as error:
        raise RoundhouseError(f"{path} is corrupted: {error}; rerun the experiment that wrote it") from error


def save(directory: Path, content: Mapping[str, Any]) -> None:
    """Save a checkpoint; the previous one stays as `checkpoint.prev.pth`. At any moment one of the two is complete."""
    path, data = directory / CHECKPOINT, pack({"format": FORMAT, **content})
    try:
        draft = files.write_draft(directory, data)
        try:
            if path.exists():
                os.replace(path, directory / PREVIOUS)
            os.replace(draft, path)
        except OSError:
            files.remove(draft)
            raise
        files.sync_directory(directory)
    except OSError as error:
        raise cannot_write(path, error) from error


def newest(directory: Path, earlier: Sequence[Path]) -> Found | None:
    """The valid checkpoint with the most steps, in the folder of this attempt or of `earlier` ones (oldest first).

    A corrupted file is reported on stderr and skipped; one of this attempt is also renamed, so that it never replaces a
    valid previous one. RoundhouseError: a checkpoint of another format.

    The oldest folder is read first: a later attempt that still runs deletes an older checkpoint only after it has saved
    its own, so this order cannot miss both.
    """
    best: Found | None = None
    skipped = 0
    for folder in (*earlier, directory):
        for name in (PREVIOUS, CHECKPOINT):
            path = folder / name
            try:
                content = unpack(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, CorruptFile) as error:
                skipped += 1
                warn(f"checkpoint {path} is not used: {error}")
                if isinstance(error, CorruptFile) and folder == directory:
                    os.replace(path, path.with_name(name + DAMAGED))
                continue
            _check_format(path, content)
            if best is None or content[STEPS] >= best.content[STEPS]:
                best = Found(path, content)
    if skipped:
        warn(
            f"resuming from {best.path}" if best else "no valid checkpoint is left: training starts from the beginning"
        )
    return best


def read_whole(path: Path) -> dict[str, Any]:
    """The content of a whole checkpoint, such as one that a run has kept. RoundhouseError: it is not one."""
    content = read(path)
    _check_format(path, content)
    return content


def _check_format(path: Path, content: Mapping[str, Any]) -> None:
    found = content.get("format")
    if found != FORMAT:
        version = WRITTEN_BY.get(found or 0, "the version that wrote it")
        raise RoundhouseError(
            f"{path} has checkpoint format {found}, and this version reads {FORMAT}: continue with {version}, or start "
            "the experiment from the beginning with --rerun"
        )


def delete_earlier(folders: Sequence[Path]) -> None:
    """Delete the checkpoints of earlier attempts, and drafts left by killed processes. Errors are only reported."""
    for folder in folders:
        delete_files([folder], [CHECKPOINT, PREVIOUS, *(path.name for path in folder.glob(".draft-*"))])


def delete_files(folders: Sequence[Path], names: Sequence[str]) -> None:
    """Delete the files of these names in each folder. Errors are only reported."""
    for path in (folder / name for folder in folders for name in names):
        try:
            files.remove(path)
        except OSError as error:
            warn(f"cannot delete {path}: {error.strerror or error}")


def cannot_write(path: Path, error: OSError) -> RoundhouseError:
    """The error for a full disk and similar faults."""
    return RoundhouseError(
        f"cannot write {path}: {error.strerror or error}. The previous file is unchanged; "
        "free disk space or quota, and the run continues from its last checkpoint"
    )


def warn(text: str) -> None:
    """Print a line to stderr, which is in the job's log."""
    print(f"roundhouse: {text}", file=sys.stderr, flush=True)
