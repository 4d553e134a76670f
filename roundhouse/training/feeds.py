"""Feeds: an epoch's batches, prepared on the device from data that is there, or by worker processes.

Both ways give bit-identical batches: all random numbers of an epoch are drawn before, from its own generators. No state
is carried from epoch to epoch, and a resume inside an epoch loads nothing of what comes before. In a run of several
processes each makes its equal share of every batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.data
from torch import Tensor

from roundhouse.errors import RoundhouseError
from roundhouse.options import FEEDS, choose
from roundhouse.training.loops import Epoch
from roundhouse.training.memory import free_memory
from roundhouse.training.ranks import Ranks
from roundhouse.training.workers import deaths_reported, end_workers, loader_of_batches, start_workers

_CHUNK = 16 << 20  # bytes of samples that are prepared at once


class Source(Protocol):
    """Training data that can be on any device, and how a batch of it is made from random numbers."""

    def __len__(self) -> int:
        """Samples."""

    @property
    def nbytes(self) -> int:
        """Bytes of all samples."""

    def to(self, device: torch.device) -> Source:
        """The same data on a device."""

    def draw(self, epoch: Epoch) -> Tensor:
        """All random numbers of an epoch, on the CPU: int64 (K, samples), a column for each sample in its order."""

    def batch(self, draws: Tensor) -> tuple[Tensor, ...]:
        """The batch for B columns of `draw`, on the device of the data: tensors with B rows."""


class EpochFeed(Protocol):
    """A source of the batches of each epoch."""

    @property
    def steps(self) -> int:
        """Batches of an epoch. A last, smaller batch is dropped, so that shapes stay the same."""

    def batches(self, epoch: Epoch, first: int) -> Iterator[tuple[Tensor, ...]]:
        """The batches of an epoch from number `first` on, on the device. The caller may stop before the end."""

    def close(self) -> None:
        """Release its resources. No epoch can follow."""


def make_feed(kind: str, source: Source, batch_size: int, workers: int, device: torch.device) -> EpochFeed:
    """The feed `kind`; for `auto` see `on_device`.

    RoundhouseError: no such feed, or fewer samples than one batch.
    """
    if on_device(kind, source.nbytes, device):
        return DeviceFeed(source, batch_size, device)
    return WorkerFeed(source, batch_size, device, workers)


def on_device(kind: str, nbytes: int, device: torch.device) -> bool:
    """Whether a feed `kind` holds its data on the device; `auto`: if twice the data fits into half of its free memory.

    RoundhouseError: no such feed.
    """
    if choose("feed", kind, FEEDS) == "auto":
        return 2 * nbytes < free_memory(device) / 2
    return kind == "device"


class DeviceFeed:
    """All data is on the device, and batches are made there.

    Many batches at once, so that kernel launches are few; but not the whole epoch, which would need too much memory.
    """

    def __init__(self, source: Source, batch_size: int, device: torch.device) -> None:
        self.steps = _steps(source, batch_size)
        self._source = source.to(device)
        self._device = device
        self._batch_size = batch_size
        sample = max(1, source.nbytes // len(source))
        self._at_once = max(1, _CHUNK // (batch_size * sample))  # batches

    def batches(self, epoch: Epoch, first: int) -> Iterator[tuple[Tensor, ...]]:
        if first >= self.steps:
            return
        own, draws = _own_draws(self._source.draw(epoch), self._batch_size, first, self.steps, epoch.ranks)
        for part in torch.split(draws.to(self._device), own * self._at_once, dim=1):
            tensors = self._source.batch(part)
            yield from zip(*(torch.split(one, own) for one in tensors), strict=True)

    def close(self) -> None:
        """Nothing to stop; its memory is released with the object."""


class WorkerFeed:
    """Worker processes make the batches while the device computes; for data that does not fit on the device."""

    def __init__(self, source: Source, batch_size: int, device: torch.device, workers: int) -> None:
        self.steps = _steps(source, batch_size)
        self._source = source.to(torch.device("cpu"))
        self._batch_size = batch_size
        self._device = device
        self._draws: list[npt.NDArray[np.int64]] = []  # of the epoch's batches; NumPy arrays pickle as plain bytes
        self._batches: Any = None
        self._loader = loader_of_batches(_Batches(self._source), self._draws, workers, device)

    def batches(self, epoch: Epoch, first: int) -> Iterator[tuple[Tensor, ...]]:
        if first >= self.steps:
            return
        own, draws = _own_draws(self._source.draw(epoch), self._batch_size, first, self.steps, epoch.ranks)
        self._draws[:] = [part.numpy() for part in torch.split(draws, own, dim=1)]
        with deaths_reported():
            self._start()
            for tensors in self._batches:
                yield tuple(one.to(self._device, non_blocking=True) for one in tensors)

    def close(self) -> None:
        if self._batches is not None:
            end_workers(self._batches)

    def _start(self) -> None:
        """Reset the loader to the start of an epoch, with the same processes; the first time, start them."""
        self._batches = start_workers(self._loader) if self._batches is None else iter(self._loader)


class _Batches(torch.utils.data.Dataset[tuple[Tensor, ...]]):
    """The data set of worker processes: one batch from its random draws."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, draws: npt.NDArray[np.int64]) -> tuple[Tensor, ...]:
        return self._source.batch(torch.from_numpy(draws))


def _own_draws(draws: Tensor, batch_size: int, first: int, steps: int, ranks: Ranks) -> tuple[int, Tensor]:
    """This process's samples of a batch, and its columns of `draws` for the batches from `first` to `steps`.

    RoundhouseError: the batch cannot be divided into equal shares.
    """
    if batch_size % ranks.count:
        raise RoundhouseError(
            f"config key 'batch_size' is {batch_size}, which cannot be divided equally among {ranks.count} processes: "
            "use a multiple of their number"
        )
    part, _ = ranks.share(batch_size)
    rows = draws[:, first * batch_size : steps * batch_size]
    return part.stop - part.start, rows.reshape(len(rows), -1, batch_size)[:, :, part].flatten(1)


def _steps(source: Source, batch_size: int) -> int:
    if batch_size > len(source):
        raise RoundhouseError(f"config key 'batch_size' is {batch_size}; there are {len(source)} training samples")
    return len(source) // batch_size
