"""Files of data sets: the folder that holds them, their digests, and files that are complete or absent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def data_directory(data: Path | None) -> Path:
    """The folder of data sets: `data`, or by default that of the repository."""
    return Path(__file__).resolve().parents[1] / "data" if data is None else data


def file_digest(path: Path, algorithm: str) -> str:
    """In hexadecimal."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(path: Path, label: str = "") -> Iterator[Path]:
    """A temporary path, which replaces `path` if the block succeeds. `label`: of the process, if several may do it."""
    part = Path(f"{path}{label}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
