"""The images of CelebA: decoded, cropped and resized once into a file for each size, which is mapped into memory."""

from __future__ import annotations

import io
import os
import socket
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from roundhouse.training import StudyError
from studies.data_files import replacing
from studies.genegan import celeba

_AT_ONCE = 2000  # images that are decoded together: 98 MB at 128 x 128
_REPORTED = 20_000  # images, after which a line is printed
_DAY = 86_400.0
_SAMPLES = 16
_TOLERANCE = 2.0  # levels of 255, on average: decoders differ in the last bits

Read = Callable[[str], bytes]
Pictures = dict[int, npt.NDArray[np.uint8]]


def read_split(data: Path | None, attribute: str, split: str) -> tuple[Callable[[int], Tensor], Tensor]:
    """A function that gives all images of a split at a size, uint8 (N, 3, size, size), mapped from a file; and which of
    them have the attribute (N,). Images of a size that are not decoded yet are decoded at the first call.

    StudyError: something is missing or damaged; the message says what to do.
    """
    labels = celeba.read_labels(data, attribute)
    rows = labels.rows[split]

    def images(size: int) -> Tensor:
        try:
            prepare(data, [size])
        except OSError as error:
            why = f"{error.filename or 'the system'}: {error.strerror or error}"
            raise StudyError(f"dataset 'celeba': {why}; decode on a login node: {celeba.command(data)}") from None
        return torch.from_numpy(_mapped(data, size)[rows.start : rows.stop])

    return images, torch.tensor(labels.attribute[rows.start : rows.stop], dtype=torch.bool)


def prepare(data: Path | None, sizes: Sequence[int]) -> None:
    """Decode the images for those of the sizes that have no file yet. StudyError: an image is missing or damaged."""
    wanted = [size for size in sizes if not celeba.is_cached(data, size)]
    if not wanted:
        return
    if lack := celeba.missing(data, wanted):
        raise StudyError(lack)
    _remove_abandoned(celeba.folder_of(data))
    own = f".{socket.gethostname()}.{os.getpid()}"
    with _source(data) as read, ExitStack() as stack, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        files = {}
        for size in wanted:
            part = stack.enter_context(replacing(celeba.cache_of(data, size), own))
            files[size] = stack.enter_context(part.open("wb"))
            _write_header(files[size], size)
        names = list(celeba.image_names())
        print(f"celeba: decoding {len(names):,} images for the sizes {', '.join(map(str, wanted))}", flush=True)
        for first in range(0, len(names), _AT_ONCE):
            for pictures in pool.map(lambda name: decode(name, read(name), wanted), names[first : first + _AT_ONCE]):
                for size, file in files.items():
                    file.write(pictures[size].tobytes())
            if first % _REPORTED == 0 and first:
                print(f"celeba: {first:,} of {len(names):,} images decoded", flush=True)


def check_samples(data: Path | None, size: int) -> None:
    """StudyError if the file of a size is damaged, or some of its images differ from the JPEGs, if these are there."""
    found = _mapped(data, size)
    try:
        with _source(data) as read:
            for index in np.linspace(0, celeba.COUNT - 1, _SAMPLES).astype(int).tolist():
                name = f"{index + 1:06}.jpg"
                fresh = decode(name, read(name), [size])[size].astype(np.float32)
                if np.abs(fresh - found[index]).mean() > _TOLERANCE:
                    raise StudyError(_damaged(data, size, f"its image {name} is another one"))
    except FileNotFoundError:
        return


def decode(name: str, jpeg: bytes, sizes: Sequence[int]) -> Pictures:
    """One image, cropped to a square and resized with anti-aliasing (bicubic), (3, size, size) for each size."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(jpeg)) as opened:
            whole = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise StudyError(f"dataset 'celeba': {name} is damaged ({error}): fetch the images again") from None
    if whole.size != (celeba.WIDTH, celeba.HEIGHT):
        found, wanted = ("x".join(map(str, size)) for size in (whole.size, (celeba.WIDTH, celeba.HEIGHT)))
        raise StudyError(f"dataset 'celeba': {name} has {found} pixels instead of {wanted}: use the aligned images")
    square = whole.crop(celeba.CROP)
    resized = {size: square.resize((size, size), Image.Resampling.BICUBIC) for size in sizes}
    return {size: np.asarray(one).transpose(2, 0, 1) for size, one in resized.items()}


@contextmanager
def _source(data: Path | None) -> Iterator[Read]:
    """A function that reads an image by its name, once all names are verified. The folder is preferred to the archive.

    FileNotFoundError: there is neither.
    """
    folder = celeba.folder_of(data)
    if (folder / celeba.IMAGES).is_dir():
        _check_names(data, folder / celeba.IMAGES, os.listdir(folder / celeba.IMAGES))
        yield lambda name: (folder / celeba.IMAGES / name).read_bytes()
        return
    try:
        archive = zipfile.ZipFile(folder / celeba.ARCHIVE)
    except zipfile.BadZipFile as error:
        raise StudyError(celeba.lack(data, f"{folder / celeba.ARCHIVE} is damaged ({error})")) from None
    with archive:
        inside = f"{celeba.IMAGES}/"
        names = [name.removeprefix(inside) for name in archive.namelist() if name.startswith(inside)]
        _check_names(data, folder / celeba.ARCHIVE, names)
        yield lambda name: archive.read(inside + name)


def _check_names(data: Path | None, place: Path, names: Sequence[str]) -> None:
    lost = set(celeba.image_names()).difference(names)
    if lost:
        what = f"{place} has {celeba.COUNT - len(lost)} of {celeba.COUNT} images: {min(lost)} is missing"
        raise StudyError(celeba.lack(data, what))


def _write_header(file: Any, size: int) -> None:
    shape = (celeba.COUNT, 3, size, size)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _mapped(data: Path | None, size: int) -> npt.NDArray[np.uint8]:
    """All images of a size, mapped: a page is read when it is used. Changes to the array do not reach the file."""
    try:
        found = np.load(celeba.cache_of(data, size), mmap_mode="c")
    except (OSError, ValueError) as error:
        raise StudyError(_damaged(data, size, f"it cannot be read ({error})")) from None
    if found.shape != (celeba.COUNT, 3, size, size) or found.dtype != np.uint8:
        raise StudyError(_damaged(data, size, f"it holds {found.dtype} {found.shape}"))
    return np.asarray(found)


def _damaged(data: Path | None, size: int, why: str) -> str:
    return (
        f"dataset 'celeba': {celeba.cache_of(data, size)} is damaged: {why}; remove it, and run on a login node: "
        f"{celeba.command(data)}"
    )


def _remove_abandoned(folder: Path) -> None:
    """Remove parts that a process left that was killed. Others may be at work, but not for a day."""
    for part in folder.glob("celeba_*.part"):
        if time.time() - part.stat().st_mtime > _DAY:
            part.unlink(missing_ok=True)
