"""Images with and without the attribute, at all sizes; batches made on the device, or by worker processes.

Both ways give the same bits: the numbers of a batch follow from a seed, the step and the batch's place in it, so a feed
can begin at any step. Evaluation and samples read `Images` in the process of the training, without workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.utils.data
from torch import Tensor

from roundhouse.training import StudyError, derive_seed
from roundhouse.training.feeds import on_device
from roundhouse.training.workers import deaths_reported, end_workers, loader_of_batches, start_workers
from studies.genegan import faces
from studies.genegan.options import Options

FACES = 20_000
"""Training images of the procedural faces, unless the config sets another number."""

ALL = slice(None)
"""The rows of a whole batch."""

Plan = Callable[[int], Sequence[tuple[int, ...]]]
"""The batches of a step, in their order: the sizes at which each is needed."""


class Images:
    """The images of a split. Rows without and with the attribute are counted apart, each from 0."""

    def __init__(self, read: Callable[[int], Tensor], attribute: Tensor, device: torch.device) -> None:
        """`read`: all images of a size, uint8 (N, 3, size, size); `attribute` (N,): which of them have it."""
        self._read, self._pixels = read, dict[int, Tensor]()
        self._rows = [(attribute == value).nonzero().flatten() for value in (False, True)]
        self.device = device

    def count(self, with_attribute: bool) -> int:
        return len(self._rows[with_attribute])

    @property
    def held_on(self) -> torch.device:
        return self._rows[0].device

    def nbytes(self, sizes: Sequence[int]) -> int:
        """Of the images of these sizes."""
        return sum(map(len, self._rows)) * sum(3 * size**2 for size in sizes)

    def hold(self, sizes: Sequence[int], device: torch.device) -> None:
        """Read these sizes now, and hold them on a device."""
        for size in sizes:
            self._pixels[size] = self._all(size).to(device)
        self._rows = [rows.to(device) for rows in self._rows]

    def pixels(self, indices: Tensor, with_attribute: bool, size: int, flip: Tensor | None = None) -> Tensor:
        """Images as bytes (B, 3, size, size), where they are held; those that `flip` (B,) names are mirrored."""
        held, rows = self._all(size), self._rows[with_attribute]
        # index_select copies whole images; torch.where and indexing with brackets are ten times slower on a CPU
        found = held.index_select(0, rows.index_select(0, indices.to(rows.device)).to(held.device))
        if flip is None:
            return found
        either = torch.arange(len(found), device=held.device) + len(found) * flip.to(held.device)
        return torch.cat([found, found.flip(3)]).index_select(0, either)

    def batch(self, indices: Tensor, with_attribute: bool, size: int, flip: Tensor | None = None) -> Tensor:
        """The same in [0, 1], float32, on the device of the run."""
        return in_unit_range(self.pixels(indices, with_attribute, size, flip).to(self.device))

    def _all(self, size: int) -> Tensor:
        if size not in self._pixels:
            self._pixels[size] = self._read(size)
        return self._pixels[size]


def in_unit_range(pixels: Tensor) -> Tensor:
    """Bytes as float32 in [0, 1]."""
    return pixels.float().div_(255)


def load(options: Options, data: Path | None, split: str, device: torch.device) -> Images:
    """The images of a split: train, validation or test. A size is read when it is first used.

    StudyError: the data set is missing or damaged, or has no image with the attribute or none without it.
    """
    if options.dataset == "faces":
        number = (options.images or FACES) if split == "train" else 2 * options.evaluation_images
        smiling = torch.arange(number) % 2 == 0  # different faces with and without: training is not paired
        found = Images(lambda size: faces.draw(split, number, size, smiling), smiling, device)
    else:
        from studies.genegan.celeba_images import read_split

        read, attribute = read_split(data, options.attribute, split)
        most = options.images if split == "train" else None
        found = Images(lambda size: read(size)[:most], attribute[:most], device)
    for value, text in ((True, "with"), (False, "without")):
        if not found.count(value):
            raise StudyError(f"no {split} image of {options.dataset} is {text} {options.attribute}: use more images")
    return found


@dataclass(frozen=True)
class Batch:
    """Different images with and without the attribute, by size: float32 (B, 3, size, size) in [0, 1], on the device."""

    with_attribute: dict[int, Tensor]
    without_attribute: dict[int, Tensor]


class Feed(Protocol):
    """A source of the batches of all steps."""

    def batches(self, first: int, rows: slice = ALL) -> Iterator[Batch]:
        """The batches of step `first`, then those of the next step, and so on without end: of each only `rows`."""

    def close(self) -> None:
        """Release its resources."""


def make_feed(options: Options, images: Images, plan: Plan, seed: int) -> Feed:
    """The feed that the config asks for. `seed`: of all its random numbers."""
    drawn = _Drawn(images, options.batch_size, seed)
    sizes = options.input_sizes
    if on_device(options.feed, images.nbytes(sizes), images.device):
        images.hold(sizes, images.device)
        return DeviceFeed(drawn, plan)
    images.hold(sizes, torch.device("cpu"))
    return WorkerFeed(drawn, plan, options.workers)


@dataclass(frozen=True)
class _Place:
    """Which batch: the step, its place in the step, and the sizes at which it is needed."""

    step: int
    part: int
    sizes: tuple[int, ...]
    rows: slice  # of the batch, those that this process needs


class _Drawn(torch.utils.data.Dataset[list[Tensor]]):
    """Batches as bytes, made from the random numbers of their place."""

    def __init__(self, images: Images, batch_size: int, seed: int) -> None:
        self.images, self._batch_size, self._seed = images, batch_size, seed

    def __getitem__(self, place: _Place) -> list[Tensor]:
        """Images with the attribute at each size, then those without. An image is the same at all sizes."""
        draw = torch.Generator().manual_seed(derive_seed(self._seed, place.step, place.part))
        found = []
        for with_attribute in (True, False):
            chosen = torch.randint(self.images.count(with_attribute), (self._batch_size,), generator=draw)
            flip = torch.rand(self._batch_size, generator=draw) < 0.5
            chosen, flip = (one[place.rows].to(self.images.held_on) for one in (chosen, flip))
            found += [self.images.pixels(chosen, with_attribute, size, flip) for size in place.sizes]
        return found


def _batch(place: _Place, pixels: Sequence[Tensor], device: torch.device) -> Batch:
    values = [in_unit_range(one.to(device, non_blocking=True)) for one in pixels]
    half = len(place.sizes)
    return Batch(dict(zip(place.sizes, values[:half], strict=True)), dict(zip(place.sizes, values[half:], strict=True)))


def _places(plan: Plan, first: int, rows: slice) -> Iterator[_Place]:
    for step in count(first):
        for part, sizes in enumerate(plan(step)):
            yield _Place(step, part, sizes, rows)


class DeviceFeed:
    """All images are on the device, and batches are made there."""

    def __init__(self, drawn: _Drawn, plan: Plan) -> None:
        self._drawn, self._plan = drawn, plan

    def batches(self, first: int, rows: slice = ALL) -> Iterator[Batch]:
        for place in _places(self._plan, first, rows):
            yield _batch(place, self._drawn[place], self._drawn.images.device)

    def close(self) -> None:
        """Nothing to stop; its memory is released with the object."""


class WorkerFeed:
    """Worker processes make the batches while the device computes; for images that do not fit on the device."""

    def __init__(self, drawn: _Drawn, plan: Plan, workers: int) -> None:
        self._drawn, self._plan, self._workers = drawn, plan, workers
        self._loaded: Any = None

    def batches(self, first: int, rows: slice = ALL) -> Iterator[Batch]:
        """See `Feed`. Earlier iterators of this feed end."""
        self.close()
        device = self._drawn.images.device
        loader = loader_of_batches(self._drawn, _Order(self._plan, first, rows), self._workers, device)
        with deaths_reported():
            self._loaded = start_workers(loader)
            for place, pixels in zip(_places(self._plan, first, rows), self._loaded, strict=False):
                yield _batch(place, pixels, device)

    def close(self) -> None:
        if self._loaded is not None:
            end_workers(self._loaded)


@dataclass(frozen=True)
class _Order:
    """The places of all batches from a step on, as a loader takes them."""

    plan: Plan
    first: int
    rows: slice

    def __iter__(self) -> Iterator[_Place]:
        return _places(self.plan, self.first, self.rows)
