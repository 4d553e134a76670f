"""Arrays and pictures that runs left in their files, as figures show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from analysis.rounds import RoundEntry, newest_file
from analysis.saved_arrays import DAMAGED, Array, arrays_in, unreadable
from roundhouse.errors import RoundhouseError
from roundhouse.names import nearest

PICTURE = ".png"
RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))  # of colours, as programs store them


def file_of(entry: RoundEntry, name: str) -> Path | None:
    """The file of a run with the arrays or the picture; None if it has not written one."""
    return newest_file(entry.record, name)


def lacking(entry: RoundEntry, name: str, wanted: Sequence[str]) -> str:
    """A message about the first of the `wanted` arrays that the file of a run lacks; empty if it has all of them.

    RoundhouseError: the file is missing or damaged.
    """
    if name.endswith(PICTURE):
        return f"{name} is one picture: give it one name in arrays (got {len(wanted)})" if len(wanted) > 1 else ""
    known = _names(entry, name)
    missing = next((one for one in wanted if one not in known), None)
    return "" if missing is None else f"{name} of {entry.path} has no array {missing!r}: {nearest(missing, known)}"


def read(entry: RoundEntry, name: str, array: str) -> Array:
    """An array of a run. The array of a PNG picture is one example, (1, height, width, 3).

    RoundhouseError: the file is missing or damaged, or has no such array, or holds no numbers.
    """
    if message := lacking(entry, name, [array]):
        raise RoundhouseError(message)
    path, what = _existing(entry, name), f"{name} of {entry.path}"
    if name.endswith(PICTURE):
        try:
            return _colours_of(imread(path))[np.newaxis]
        except DAMAGED as error:
            raise unreadable(path, what, error) from None
    with arrays_in(path, what) as saved:
        found = saved[array]
    if found.dtype.kind not in "biuf":
        raise RoundhouseError(f"{what}: the array {array!r} holds no numbers (got {found.dtype})")
    return found


def _existing(entry: RoundEntry, name: str) -> Path:
    path = file_of(entry, name)
    if path is None:
        raise RoundhouseError(f"{entry.path} has no file {name}")
    return path


def _names(entry: RoundEntry, name: str) -> list[str]:
    with arrays_in(_existing(entry, name), f"{name} of {entry.path}") as saved:
        return list(saved)


def _colours_of(picture: Array) -> Array:
    """(height, width, 3) of a picture in grey or in colours, without its transparency."""
    return np.repeat(picture[..., np.newaxis], 3, axis=-1) if picture.ndim == 2 else picture[..., :3]


# ----------------------------------------------------------------------------------------------- maps and pictures


def examples(array: Array, samples: Sequence[int], what: str) -> dict[int, Array]:
    """Those of the `samples` that an array has: maps (height, width), or colours from 0 to 1 (height, width, 3).

    Values that are not finite are NaN. `what` names the array in messages. RoundhouseError: the array has another
    shape, or its values are no colours.
    """
    shape = array.shape
    if array.ndim == 4 and shape[1] == 1:
        array = array[:, 0]
    elif array.ndim == 4 and shape[1] == 3:
        array = np.moveaxis(array, 1, -1)
    elif array.ndim != 3 and not (array.ndim == 4 and shape[-1] == 3):
        raise RoundhouseError(f"{what} has the shape {shape}; a map is (N, height, width) or (N, 1, height, width), a "
                              "picture in colours (N, 3, height, width) or (N, height, width, 3)")  # fmt: skip
    if array.size == 0:
        raise RoundhouseError(f"{what} is empty: its shape is {shape}")
    chosen = [one for one in samples if one < len(array)]
    values = array[chosen].astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    if array.ndim == 4:
        low, high = range_of_colours(array, what)
        values = np.clip((values - low) / (high - low), 0, 1)
    return dict(zip(chosen, values, strict=True))


def range_of_colours(array: Array, what: str) -> tuple[float, float]:
    """The narrowest of the usual ranges of colours that holds all finite values of an array.

    A network may go a bit beyond its range. RoundhouseError: no range holds them.
    """
    if array.dtype == np.uint8:
        return RANGES[-1]
    finite = np.isfinite(array)
    low, high = float(array.min(where=finite, initial=0)), float(array.max(where=finite, initial=0))
    fitting = [one for one in RANGES if one[0] - 0.1 <= low and high <= one[1] + 0.1]
    if not fitting:
        raise RoundhouseError(f"{what} has values from {low:.3g} to {high:.3g}; those of a picture in colours are from "
                              "0 to 1, from -1 to 1, or from 0 to 255")  # fmt: skip
    return fitting[0]
