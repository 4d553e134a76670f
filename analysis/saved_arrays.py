"""Reads the arrays of an .npz file that a run left; whatever is wrong with the file is one error."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roundhouse.errors import RoundhouseError

Array = NDArray[Any]
DAMAGED = (OSError, ValueError, EOFError, KeyError, SyntaxError, zipfile.BadZipFile, zlib.error)
"""What NumPy and matplotlib raise for a file that is truncated, overwritten or of another kind."""


@contextmanager
def arrays_in(path: Path, what: str) -> Iterator[Mapping[str, Array]]:
    """The arrays of a file, each read when it is taken. RoundhouseError, which begins with `what`: it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            if isinstance(saved, np.ndarray):
                raise ValueError("the file of a single array")
            yield saved
    except DAMAGED as error:
        raise unreadable(path, what, error) from None


def unreadable(path: Path, what: str, error: Exception) -> RoundhouseError:
    why = getattr(error, "strerror", None) or f"it is not a valid {path.suffix or 'npz'} file"
    return RoundhouseError(f"{what} cannot be read: {why}")
