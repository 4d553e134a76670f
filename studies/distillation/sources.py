"""The data sets: their files, where these are downloaded, and checks of their presence and integrity."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from roundhouse.options import choose
from studies.data_files import data_directory, file_digest


@dataclass(frozen=True)
class File:
    """A file below the data folder."""

    path: str
    md5: str | None = None  # as published
    size: int | None = None  # bytes, if known
    url: str | None = None  # where it is downloaded
    sha256_in: str | None = None  # for a generated file: the file in the same folder with its SHA-256


@dataclass(frozen=True)
class Source:
    """One data set: the files that jobs read, and the files that are downloaded for it."""

    files: tuple[File, ...] = ()
    downloads: tuple[File, ...] = ()


_CIFAR = "https://www.cs.toronto.edu/~kriz"
_SVHN = "http://ufldl.stanford.edu/housenumbers"
_HOUSE_NUMBERS = (
    File("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", 182040794, f"{_SVHN}/train_32x32.mat"),
    File("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", 64275384, f"{_SVHN}/test_32x32.mat"),
)

SOURCES = {
    "cifar10": Source(
        files=(
            File("cifar-10-batches-py/data_batch_1", "c99cafc152244af753f735de768cd75f", 31035704),
            File("cifar-10-batches-py/data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec", 31035320),
            File("cifar-10-batches-py/data_batch_3", "54ebc095f3ab1f0389bbae665268c751", 31035999),
            File("cifar-10-batches-py/data_batch_4", "634d18415352ddfa80567beed471001a", 31035696),
            File("cifar-10-batches-py/data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb", 31035623),
            File("cifar-10-batches-py/test_batch", "40351d587109b95175f43aff81a1287e", 31035526),
            File("cifar-10-batches-py/batches.meta", "5ff9c542aee3614f3951f8cda6e48888", 158),
        ),
        downloads=(
            File(
                "cifar-10-python.tar.gz",
                "c58f30108f718f92721af3b95e74349a",
                170498071,
                f"{_CIFAR}/cifar-10-python.tar.gz",
            ),
        ),
    ),
    "cifar100": Source(
        files=(
            File("cifar-100-python/train", "16019d7e3df5f24257cddd939b257f8d", 155249918),
            File("cifar-100-python/test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
            File("cifar-100-python/meta", "7973b15100ade9c7d40fb424638fde48"),
        ),
        downloads=(
            File(
                "cifar-100-python.tar.gz",
                "eb9058c3a382ffc7106e4002c42a8d85",
                169001437,
                f"{_CIFAR}/cifar-100-python.tar.gz",
            ),
        ),
    ),
    "svhn": Source(files=_HOUSE_NUMBERS, downloads=_HOUSE_NUMBERS),
    "tinyimagenet": Source(
        files=(
            File("tinyimagenet.npz", sha256_in="tinyimagenet.npz.sha256"),
            File("tinyimagenet.npz.sha256"),
        ),
        downloads=(
            File(
                "tiny-imagenet-200.zip",
                "90528d7ca1a48142e341f4ef8d21d0de",
                248100043,
                "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
            ),
        ),
    ),
    "digits": Source(),  # comes with scikit-learn
}
"""By name. Paths are those of torchvision, so a folder filled by it can be used."""


def missing(name: str, data: Path | None) -> str:
    """The problem that a quick check finds with the data set in folder `data`, and what to do; empty if there is none.

    It checks that all files exist, and their sizes. RoundhouseError: there is no data set of that name.
    """
    return _report(name, data, thorough=False)


def damaged(name: str, data: Path | None) -> str:
    """The same with the digests of all files, so it reads every byte."""
    return _report(name, data, thorough=True)


def flaw(file: File, folder: Path, thorough: bool) -> str:
    """The problem of one file, as the end of a sentence; empty if there is none. `thorough`: check the digest too."""
    path = folder / file.path
    try:
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            return f"has {size} bytes instead of {file.size}"
        if thorough and file.md5 is not None and (found := file_digest(path, "md5")) != file.md5:
            return f"is damaged: its MD5 is {found} instead of {file.md5}"
        if thorough and file.sha256_in is not None:
            wanted = (folder / file.sha256_in).read_text(errors="replace").partition(" ")[0]
            if file_digest(path, "sha256") != wanted:
                return f"is damaged: its SHA-256 is not the one in {file.sha256_in}"
    except FileNotFoundError as error:
        return "is missing" if error.filename == str(path) else f"has no {file.sha256_in} in the same directory"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def _report(name: str, data: Path | None, thorough: bool) -> str:
    folder = data_directory(data)
    files = SOURCES[choose("dataset", name, SOURCES)].files
    flaws = [(file.path, wrong) for file in files if (wrong := flaw(file, folder, thorough))]
    if not flaws:
        return ""
    (path, wrong), *others = flaws
    more = f" (and {len(others)} more of its files have problems)" if others else ""
    there = "" if data is None else f" --to {shlex.quote(str(data))}"
    command = f"toolbox/setup.sh --data {name}{there}"
    return f"dataset {name!r}: {folder / path} {wrong}{more}; run on a login node: {command}"
