"""One epoch's batches of training images, shifted and flipped at random: on the device, or by worker processes.

Both ways give bit-identical batches. All random numbers come from two generators of the epoch, `order` and
`augmentation`, so no state is carried from epoch to epoch.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import torch.utils.data
from torch import Tensor

from roundhouse.training import Context, StudyError, choose, free_memory
from studies.distillation.data import Dataset, Split
from studies.distillation.options import FEEDS

_CHUNK = 16 << 20  # bytes of images that are augmented at once
_PR_SET_PDEATHSIG = 1
_WORKER_DEATH = ("DataLoader worker", "Pin memory thread")  # in PyTorch's messages about a process that died


class Feed(Protocol):
    """A source of the batches of an epoch."""

    @property
    def steps(self) -> int:
        """Batches of an epoch. A last, smaller batch is dropped, so that shapes stay the same."""

    def epoch(self, context: Context) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, H, W) as uint8 and labels (B,), on the device. The caller may stop before the end."""

    def close(self) -> None:
        """Release its resources. No epoch can follow."""


def make_feed(kind: str, dataset: Dataset, batch_size: int, workers: int, device: torch.device) -> Feed:
    """The feed `kind`; `auto`: on the device if twice the training images fit into half of its free memory.

    StudyError: no such feed, or fewer training images than one batch.
    """
    if choose("feed", kind, FEEDS) == "auto":
        kind = "device" if 2 * dataset.train.nbytes < free_memory(device) / 2 else "workers"
    if kind == "device":
        return DeviceFeed(dataset, batch_size, device)
    return WorkerFeed(dataset, batch_size, device, workers)


class DeviceFeed:
    """All training images are on the device, and are augmented there.

    Many batches at once, so that kernel launches are few; but not the whole epoch, which would need too much memory.
    """

    def __init__(self, dataset: Dataset, batch_size: int, device: torch.device) -> None:
        self.steps = _steps(dataset, batch_size)
        self._dataset = dataset
        self._train = dataset.train.to(device)
        self._batch_size = batch_size
        image = dataset.train.images[0].nbytes
        self._chunk = batch_size * max(1, _CHUNK // (batch_size * image))

    def epoch(self, context: Context) -> Iterator[tuple[Tensor, Tensor]]:
        draws = draw(self._dataset, context)[:, : self.steps * self._batch_size].to(self._train.images.device)
        for part in torch.split(draws, self._chunk, dim=1):
            images, labels = augment(self._train, part, self._dataset.shift)
            yield from zip(torch.split(images, self._batch_size), torch.split(labels, self._batch_size), strict=True)

    def close(self) -> None:
        """Nothing to stop; its memory is released with the object."""


class WorkerFeed:
    """Worker processes augment on the CPU while the device computes; for data sets that do not fit on the device."""

    def __init__(self, dataset: Dataset, batch_size: int, device: torch.device, workers: int) -> None:
        self.steps = _steps(dataset, batch_size)
        self._dataset = dataset
        self._batch_size = batch_size
        self._device = device
        self._draws: list[npt.NDArray[np.int64]] = []  # of the epoch's batches; NumPy arrays pickle as plain bytes
        self._batches: Any = None
        self._loader = torch.utils.data.DataLoader(
            _Batches(dataset.train.to(torch.device("cpu")), dataset.shift),
            batch_size=None,  # an item is a batch
            sampler=self._draws,
            num_workers=workers,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # without one it draws from the global generator
            worker_init_fn=partial(_begin_work, os.getpid()),
            multiprocessing_context="fork",  # so that workers share the images
        )

    def epoch(self, context: Context) -> Iterator[tuple[Tensor, Tensor]]:
        draws = draw(self._dataset, context)[:, : self.steps * self._batch_size]
        self._draws[:] = [part.numpy() for part in torch.split(draws, self._batch_size, dim=1)]
        try:
            self._start()
            for images, labels in self._batches:
                yield images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and not any(part in str(error) for part in _WORKER_DEATH):
                raise
            raise StudyError(
                f"a worker process that prepares images died ({error}); memory or /dev/shm may be full: "
                "use fewer `workers`, or `feed: device`, which needs none"
            ) from error

    def close(self) -> None:
        if self._batches is not None:
            self._batches._shutdown_workers()  # as when the iterator is garbage-collected, but now

    def _start(self) -> None:
        """Reset the loader to the start of an epoch; the first time, start its processes."""
        if self._batches is not None:
            self._batches = iter(self._loader)  # the same processes
            return
        # PyTorch's handler raises an error when a worker dies, wherever the program is, even in a checkpoint's write.
        # Without the handler, the error is raised when the next batch is requested.
        before = signal.getsignal(signal.SIGCHLD)
        self._batches = iter(self._loader)
        signal.signal(signal.SIGCHLD, before)
        # At exit this runs before multiprocessing's handler, which would wait forever for workers that ignore SIGTERM.
        atexit.register(_close, weakref.ref(self))


class _Batches(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """The data set of worker processes: one batch from its random draws."""

    def __init__(self, train: Split, shift: int) -> None:
        self._train = train
        self._shift = shift

    def __getitem__(self, draws: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return augment(self._train, torch.from_numpy(draws), self._shift)


def _close(feed: weakref.ref[WorkerFeed]) -> None:
    if (open_one := feed()) is not None:
        open_one.close()


def _begin_work(trainer: int, worker: int) -> None:
    """Initialise a worker process: it ends when the trainer ends, and only then."""
    # Schedulers signal every process of a job, but only the trainer decides when to stop.
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    # PyTorch's own check of the parent starts later, and would accept any process that is the parent then.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != trainer:
        os._exit(1)


def draw(dataset: Dataset, context: Context) -> Tensor:
    """All random numbers of an epoch, on the CPU: for each position the image, its shifts and its flip.

    int64 (4, N): index, rows and columns (0 to 2 * shift; `shift` is none), and 0 or 1.
    """
    count = len(dataset.train)
    order = torch.randperm(count, generator=context.generator("order"))
    generator = context.generator("augmentation")
    moves = torch.randint(0, 2 * dataset.shift + 1, (2, count), generator=generator)
    flips = torch.randint(0, 1 + dataset.flip, (1, count), generator=generator)
    return torch.cat([order[None], moves, flips])


def augment(split: Split, draws: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    """The images and labels selected by `draws` (4, B), shifted, then flipped; new pixels at the borders are 0."""
    which, down, right, flip = draws
    height, width = split.images.shape[2:]
    padded = F.pad(split.images[which], [shift] * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, C, rows, columns, H, W)
    shifted = windows[torch.arange(len(which), device=which.device), :, down, right]
    images = torch.where(flip[:, None, None, None] == 1, shifted.flip(3), shifted)
    return images, split.labels[which]


def _steps(dataset: Dataset, batch_size: int) -> int:
    if batch_size > len(dataset.train):
        raise StudyError(
            f"config key 'batch_size' is {batch_size}; {dataset.name} has {len(dataset.train)} training images"
        )
    return len(dataset.train) // batch_size
