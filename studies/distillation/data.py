"""Data sets as tensors on the device: images as bytes, and augmentation of a whole epoch at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from roundhouse.training import StudyError, choose


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) as uint8, and labels (N,) as int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test images, and what networks must know of them."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    shift: int  # pixels by which augmentation moves an image, at most, in each direction

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        pixels = self.train.images.double()
        return pixels.mean((0, 2, 3), keepdim=True).float(), pixels.std((0, 2, 3), keepdim=True).float()

    def normalise(self, images: Tensor) -> Tensor:
        """float32 images with mean 0 and standard deviation 1 per channel, by the training images' figures."""
        mean, deviation = self._scale
        return (images.float() - mean) / deviation


def load(name: str, directory: Path | None, device: torch.device) -> Dataset:
    """The data set called `name`, on the device; `directory` is where those that are downloaded lie.

    StudyError: no such data set, or it cannot be read.
    """
    return LOADERS[choose("dataset", name, LOADERS)](directory, device)


def _digits(directory: Path | None, device: torch.device) -> Dataset:
    """1797 handwritten digits of 8x8 grey pixels (0 to 16), which come with scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise StudyError(f"dataset 'digits' comes with scikit-learn, which cannot be imported ({error})") from error
    found = load_digits()
    images = torch.from_numpy(found.images.astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(found.target.astype(np.int64))
    train, validation, test = split("digits", Split(images, labels), (1200, 237, 360))
    return Dataset("digits", train.to(device), validation.to(device), test.to(device), classes=10, shift=1)


LOADERS: dict[str, Callable[[Path | None, torch.device], Dataset]] = {"digits": _digits}


def split(name: str, whole: Split, sizes: tuple[int, ...]) -> list[Split]:
    """Cut a data set into parts of the given sizes, the same ones in every run, on every machine, with any version."""

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{name} {index}".encode()).digest()

    order = torch.tensor(sorted(range(len(whole)), key=rank))
    return [Split(whole.images[part], whole.labels[part]) for part in torch.split(order, list(sizes))]


def shift(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to `most` pixels, in both directions independently; what comes into view is 0."""
    count, channels, height, width = images.shape
    padded = F.pad(images, [most] * 4)
    moves = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator, device=generator.device)
    rows, columns = moves.to(images.device)
    rows = rows + torch.arange(height, device=images.device)
    columns = columns + torch.arange(width, device=images.device)
    which = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[which, channel, rows[:, None, :, None], columns[:, None, None, :]]
