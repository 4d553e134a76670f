"""Checkpoint files that know when they are damaged, and the search for the newest good one.

A file is what `torch.save` writes, a ZIP archive, whose own comment, its last 64 bytes, is the SHA-256 of all before
it. Plain `torch.load(path, weights_only=True)` opens it. Here the digest is compared before anything is unpickled,
because `torch.load` does not notice a flipped bit.
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
FORMAT = 2

_DIGEST = 64  # hexadecimal digits
_END_RECORD = 22  # a ZIP archive's last record, whose final two bytes say how long the comment after it is


class Damaged(Exception):
    """The file is not what was written."""


@dataclass(frozen=True)
class Found:
    """A valid checkpoint: where it lies and what it holds."""

    path: Path
    content: dict[str, Any]


def pack(content: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint file. RoundhouseError: the content is not all tensors and plain values."""
    check_plain(content)
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    buffer.seek(-2, os.SEEK_END)
    buffer.write(_DIGEST.to_bytes(2, "little"))
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.write(digest.encode())
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, Any]:
    """What `pack` packed, with tensors on the CPU. Damaged: any bit of it differs."""
    if len(data) < _END_RECORD + _DIGEST:
        raise Damaged("it is empty" if not data else f"only {len(data)} bytes are left of it")
    body, digest = memoryview(data)[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise Damaged("its SHA-256 is not the one it was written with")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise Damaged(f"PyTorch {torch.__version__} cannot read it ({error})") from error
    if not isinstance(content, dict):
        raise Damaged("it holds no dictionary")
    return content


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Put a file of this kind at `path`, whole and durable, in the place of what was there."""
    data = pack(content)
    try:
        files.replace(path, data)
    except OSError as error:
        raise cannot_write(path, error) from error


def read(path: Path) -> dict[str, Any]:
    """The content of a file that must be there and be good: a teacher's `best.pth`. RoundhouseError if it is not."""
    try:
        return unpack(path.read_bytes())
    except OSError as error:
        raise RoundhouseError(f"cannot read {path}: {error.strerror or error}") from error
    except Damaged as damage:
        raise RoundhouseError(f"{path} is damaged: {damage}; train what it came from again") from damage


def save(directory: Path, content: Mapping[str, Any]) -> None:
    """Save a checkpoint; the one before stays as `checkpoint.prev.pth`. At every moment one of the two is whole."""
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
    """The valid checkpoint with the most epochs, in this attempt's folder or in those of earlier ones.

    A damaged one is named on stderr and passed over; one of this attempt is also put aside, so that it never takes the
    place of a good previous one. RoundhouseError: a checkpoint of another format.

    The oldest folder is read first: a later attempt that still lives deletes an older checkpoint only once its own is
    there, so reading in that order cannot miss both.
    """
    best: Found | None = None
    complaints = 0
    for folder in (*earlier, directory):
        for name in (PREVIOUS, CHECKPOINT):
            path = folder / name
            try:
                content = unpack(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, Damaged) as error:
                complaints += 1
                say(f"checkpoint {path} is not used: {error}")
                if isinstance(error, Damaged) and folder == directory:
                    os.replace(path, path.with_name(name + DAMAGED))
                continue
            _check_format(path, content)
            if best is None or content["epochs"] >= best.content["epochs"]:
                best = Found(path, content)
    if complaints:
        say(f"going back to {best.path}" if best else "no valid checkpoint is left: training starts over")
    return best


def _check_format(path: Path, content: Mapping[str, Any]) -> None:
    if content.get("format") != FORMAT:
        raise RoundhouseError(
            f"{path} has checkpoint format {content.get('format')}, and this version reads {FORMAT}: "
            "continue with the version that wrote it, or archive the experiment and start it anew"
        )


def forget(folders: Sequence[Path]) -> None:
    """Delete the checkpoints of earlier attempts, and drafts that a kill left there. A failure only costs space."""
    for folder in folders:
        for path in (folder / CHECKPOINT, folder / PREVIOUS, *folder.glob(".draft-*")):
            try:
                files.remove(path)
            except OSError as error:
                say(f"cannot delete {path}: {error.strerror or error}")


def cannot_write(path: Path, error: OSError) -> RoundhouseError:
    """The error for a full disk or a like fault."""
    return RoundhouseError(
        f"cannot write {path}: {error.strerror or error}. What was there before still stands: "
        "make room (quota, disk), and the run goes on from its last checkpoint"
    )


def say(text: str) -> None:
    """A line for the log that a person should see."""
    print(f"roundhouse: {text}", file=sys.stderr, flush=True)
