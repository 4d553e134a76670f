"""Data sets as tensors: training, validation and test images as bytes, with mean and deviation for normalisation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from roundhouse.training import StudyError, choose
from studies.distillation import readers

_AT_ONCE = 4096  # images whose pixels are counted together


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) as uint8, and labels (N,) as int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        return self.images.nbytes + self.labels.nbytes

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test images, and the properties that networks and augmentation need."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    shift: int  # pixels by which augmentation moves an image, at most, in each direction
    flip: bool  # whether augmentation mirrors images
    _scales: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def channels(self) -> int:
        return self.image_shape[0]

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (population) of the training images' channels; float64 (C,), on the CPU."""
        counts = torch.zeros(self.channels, 256, dtype=torch.int64)
        for images in torch.split(self.train.images, _AT_ONCE):
            for channel in range(self.channels):
                counts[channel] += torch.bincount(images[:, channel].flatten(), minlength=256).cpu()
        values = torch.arange(256, dtype=torch.float64)
        share = counts.double() / counts.sum(1, keepdim=True)
        mean = share @ values
        return mean, ((values - mean[:, None]).square() * share).sum(1).sqrt()

    def normalise(self, images: Tensor) -> Tensor:
        """From uint8 (B, C, H, W) to float32 with mean 0 and standard deviation 1 per channel of the training images.

        The first call on a device copies the constants there; later calls only compute, as CUDA graphs require.
        """
        if images.device not in self._scales:
            mean, deviation = (one.float().view(1, -1, 1, 1).to(images.device) for one in self.scale)
            self._scales[images.device] = mean, deviation
        mean, deviation = self._scales[images.device]
        return (images - mean).div_(deviation)

    def to(self, device: torch.device) -> Dataset:
        train, validation, test = (one.to(device) for one in (self.train, self.validation, self.test))
        return replace(self, train=train, validation=validation, test=test)


@dataclass(frozen=True)
class Loader:
    """How a data set is read and split."""

    read: Callable[[Path | None], tuple[Split, ...]]  # training images, and test images if they are separate
    classes: int
    validation: int  # number of validation images, unless the config sets it
    test: int = 0  # number of test images, if they are not separate
    shift: int = 4
    flip: bool = True


def _splits(read: Callable[[Path | None], tuple[readers.Arrays, ...]]) -> Callable[[Path | None], tuple[Split, ...]]:
    def tensors(data: Path | None) -> tuple[Split, ...]:
        return tuple(Split(torch.from_numpy(images), torch.from_numpy(labels)) for images, labels in read(data))

    return tensors


LOADERS = {
    "cifar10": Loader(_splits(readers.read_cifar10), classes=10, validation=5000),
    "cifar100": Loader(_splits(readers.read_cifar100), classes=100, validation=5000),
    "svhn": Loader(_splits(readers.read_svhn), classes=10, validation=5000, flip=False),
    "tinyimagenet": Loader(_splits(readers.read_tinyimagenet), classes=200, validation=10000),
    "digits": Loader(_splits(readers.read_digits), classes=10, validation=237, test=360, shift=1, flip=False),
}


def load(name: str, data: Path | None, validation_images: int | None = None) -> Dataset:
    """The data set `name` from folder `data` (None: the repository's), on the CPU.

    `validation_images` are not trained on; None: the number in `LOADERS`. The selection is fixed: see `ranked`.
    StudyError: no such data set, it cannot be read, or it has too few images.
    """
    loader = LOADERS[choose("dataset", name, LOADERS)]
    training, *apart = loader.read(data)
    training = ranked(name, training)
    training, test = (training, apart[0]) if apart else cut(training, loader.test)
    kept = loader.validation if validation_images is None else validation_images
    if not 0 <= kept < len(training):
        raise StudyError(
            f"config key 'validation_images' is {kept}; {name} has {len(training)} images to train and validate with"
        )
    train, validation = cut(training, kept)
    return Dataset(name, train, validation, test, loader.classes, loader.shift, loader.flip)


def ranked(name: str, split: Split) -> Split:
    """All images, in the order of the SHA-256 of "NAME INDEX": the same in every run and on every machine."""

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{name} {index}".encode()).digest()

    order = torch.tensor(sorted(range(len(split)), key=rank))
    return Split(split.images[order], split.labels[order])


def cut(split: Split, count: int) -> tuple[Split, Split]:
    """All but the last `count` images, and those."""
    first = len(split) - count
    return Split(split.images[:first], split.labels[:first]), Split(split.images[first:], split.labels[first:])
