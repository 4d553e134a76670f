"""Read the published files of a data set into arrays of images and labels."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from roundhouse.training import StudyError
from studies.data_files import data_directory
from studies.distillation import sources

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""Images (N, C, H, W) and labels (N,)."""


def read_cifar10(data: Path | None) -> tuple[Arrays, Arrays]:
    """Training and test images, 32x32 in 3 channels. StudyError, here and below: missing or unreadable files."""
    return _read_cifar("cifar10", "CIFAR10", data)


def read_cifar100(data: Path | None) -> tuple[Arrays, Arrays]:
    """Training and test images, 32x32 in 3 channels, with the 100 fine labels."""
    return _read_cifar("cifar100", "CIFAR100", data)


def read_svhn(data: Path | None) -> tuple[Arrays, Arrays]:
    """Training and test images, 32x32 in 3 channels; the digit 0, which the files call 10, has label 0."""
    with _as_study_error("svhn", data):
        folder = data_directory(data)
        train, test = (_torchvision().SVHN(folder, split) for split in ("train", "test"))
        return _arrays(train.data, train.labels), _arrays(test.data, test.labels)


def read_tinyimagenet(data: Path | None) -> tuple[Arrays, Arrays]:
    """Training images, and as test images the published validation set: 64x64 in 3 channels."""
    with _as_study_error("tinyimagenet", data):
        if damage := sources.damaged("tinyimagenet", data):
            raise StudyError(damage)
        with np.load(data_directory(data) / "tinyimagenet.npz") as file:
            train = _arrays(file["train_images"], file["train_labels"])
            return train, _arrays(file["test_images"], file["test_labels"])


def read_digits(data: Path | None) -> tuple[Arrays]:
    """1797 handwritten digits of 8x8 grey pixels (0 to 16), which come with scikit-learn."""
    with _as_study_error("digits", data):
        from sklearn.datasets import load_digits

        found = load_digits()
        return (_arrays(found.images[:, None], found.target),)


def decode_tinyimagenet(archive: Path) -> tuple[Arrays, Arrays]:
    """Training and test images from the zip as it is published.

    Classes are numbered, and training images ordered, by name. Grey images become RGB.
    """
    top = "tiny-imagenet-200"
    with zipfile.ZipFile(archive) as file:
        names = sorted(file.read(f"{top}/wnids.txt").decode().split())
        number = {name: label for label, name in enumerate(names)}
        train = sorted(path for path in file.namelist() if path.startswith(f"{top}/train/") and path.endswith(".JPEG"))
        table = [line.split("\t") for line in file.read(f"{top}/val/val_annotations.txt").decode().splitlines()]
        test = [f"{top}/val/images/{row[0]}" for row in table]
        return (
            _decode(file, train, [number[path.split("/")[2]] for path in train]),
            _decode(file, test, [number[row[1]] for row in table]),
        )


def _decode(file: zipfile.ZipFile, paths: Sequence[str], labels: Sequence[int]) -> Arrays:
    from PIL import Image

    images = np.empty((len(paths), 3, 64, 64), np.uint8)
    for image, path in zip(images, paths, strict=True):
        with Image.open(io.BytesIO(file.read(path))) as picture:
            image[:] = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    return images, np.array(labels, np.int64)


def _read_cifar(name: str, kind: str, data: Path | None) -> tuple[Arrays, Arrays]:
    with _as_study_error(name, data):
        folder = data_directory(data)
        train, test = (getattr(_torchvision(), kind)(folder, train) for train in (True, False))
        images = [found.data.transpose(0, 3, 1, 2) for found in (train, test)]
        return _arrays(images[0], train.targets), _arrays(images[1], test.targets)


def _torchvision() -> Any:
    from torchvision import datasets  # type: ignore[import-untyped]  # the import takes a second, which digits do not need

    return datasets


def _arrays(images: npt.ArrayLike, labels: npt.ArrayLike) -> Arrays:
    return np.ascontiguousarray(images, np.uint8), np.ascontiguousarray(labels, np.int64)


@contextmanager
def _as_study_error(name: str, data: Path | None) -> Iterator[None]:
    """Turn any error of reading into a StudyError that names the file."""
    if lack := sources.missing(name, data):
        raise StudyError(lack)
    try:
        yield
    except (StudyError, MemoryError):
        raise
    except ImportError as error:
        raise StudyError(f"dataset {name!r} is read with a package that cannot be imported: {error}") from error
    except Exception as error:  # pickle, scipy and zipfile raise errors of any kind
        folder = data_directory(data)
        what = f"dataset {name!r} in {folder} cannot be read ({type(error).__name__}: {error})"
        raise StudyError(sources.damaged(name, data) or what) from error
