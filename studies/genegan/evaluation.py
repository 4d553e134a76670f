"""The evaluation of a generator: distances to real images in both directions, and on procedural faces the transfer.

Bu (the attribute added) is compared with real images that have the attribute, A0 (removed) with those that do not. The
real images are also the inputs: B0 with number i gets the attribute of Au with number i, which is another face.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from roundhouse.training import StudyError, derive_seed
from studies.genegan import faces
from studies.genegan.cache import Key, cached, digest, folder_of
from studies.genegan.classifier import classifier
from studies.genegan.distances import Statistics, distance, floor, interval, kid
from studies.genegan.extractors import Extractor, chosen, extractor
from studies.genegan.images import Images
from studies.genegan.networks import Generator
from studies.genegan.transfer import measures, swap

_PAIRS = 1000  # faces on which the transfer is measured, at most
_SUBSETS, _SUBSET_SIZE = 50, 1000  # of the kernel distance
_GROUPS = 10  # of the jackknife


@dataclass(frozen=True)
class Setting:
    """What figures follow from, apart from the generator."""

    dataset: str
    attribute: str
    split: str
    size: int
    images: int  # N, on each side
    extractor: str = "auto"
    batch_size: int = 50


def available(images: Images) -> int:
    """How many images there are on each side, at least."""
    return min(images.count(True), images.count(False))


class Evaluation:
    """Evaluates any number of generators on the same images; what concerns real images is computed once."""

    def __init__(self, setting: Setting, images: Images, data: Path | None, device: torch.device) -> None:
        """`images`: of the split. `data`: the data directory, where features of real images are kept, too."""
        there = available(images)
        if there < setting.images:
            raise StudyError(
                f"the evaluation needs {setting.images} {setting.split} images with {setting.attribute} and as many "
                f"without; there are {there}: evaluate fewer images"
            )
        self.setting, self.device, self._data, self._images = setting, device, data, images
        self.extractor: Extractor = extractor(chosen(setting.extractor, setting.images, data), device, data)
        if setting.images <= self.extractor.dimension:
            raise StudyError(
                f"the distances of {self.extractor.dimension} features (extractor {self.extractor.name!r}) need more "
                f"than {self.extractor.dimension} images on each side, and there are {setting.images}: evaluate more "
                "images, or use another extractor"
            )
        self._real = {side: self._features_of_real(side) for side in (True, False)}
        self._statistics = {side: Statistics.of(features) for side, features in self._real.items()}

    def facts(self) -> dict[str, str | int]:
        """What distances follow from besides the generator, for a file beside the results."""
        setting, network = self.setting, self.extractor
        return {
            "extractor": network.name,
            "weights": network.weights,
            "distance": network.distance_name,
            "kernel": network.kernel_name,
            "split": setting.split,
            "size": setting.size,
            "images": setting.images,
        }

    def dummies(self) -> dict[str, float]:
        """What needs no generator: the floor (two halves of the real images), and the distances of the dummies.

        There is no floor where half of the images are not more than the extractor's features.
        identity: the input; copy: the other input, which is a real image of the wanted side, so its distance is 0.
        """
        found = {}
        for direction, wanted in (("add", True), ("remove", False)):
            if self.setting.images // 2 > self.extractor.dimension:
                found[f"{direction}_fd_floor"] = floor(self._real[wanted], self._draw("floor"))
            found[f"{direction}_fd_identity"] = distance(self._statistics[not wanted], self._statistics[wanted])
            found[f"{direction}_fd_copy"] = distance(self._statistics[wanted], self._statistics[wanted])
            found[f"{direction}_kd_identity"] = self._kernel(self._real[not wanted], self._real[wanted])[0]
        return found

    def distances(self, generator: Generator, intervals: bool = False) -> dict[str, float]:
        """`add_fd`, `remove_fd`, `add_kd`, ... `intervals`: also the 95 % intervals of FD, 20 times the work.

        There is no interval where nine tenths of the images are not more than the extractor's features.
        """
        rows: dict[bool, list[Tensor]] = {True: [], False: []}
        with _evaluating(generator):
            for a, b in self._pairs():
                made = swap(generator, a, b, len(a))
                rows[True].append(self.extractor(made.added))
                rows[False].append(self.extractor(made.removed))
        found = {}
        for direction, wanted in (("add", True), ("remove", False)):
            features, real = torch.cat(rows[wanted]), self._real[wanted]
            found[f"{direction}_fd"] = distance(Statistics.of(features), self._statistics[wanted])
            found[f"{direction}_kd"], found[f"{direction}_kd_sd"] = self._kernel(features, real)
            if intervals and self.setting.images * (_GROUPS - 1) // _GROUPS > self.extractor.dimension:
                one = interval(features, real, _GROUPS, self._draw("interval"))
                found |= {f"{direction}_fd_low": one.low, f"{direction}_fd_high": one.high}
        return found

    def transfer(self, generator: Generator) -> dict[str, float]:
        """See `transfer.measures`, with the accuracy of the judge; empty for data without paired truth."""
        setting = self.setting
        if setting.dataset != "faces":
            return {}
        judge = classifier(setting.size, self.device, self._data)
        pairs = faces.pairs(setting.split, min(setting.images, _PAIRS), setting.size)
        with _evaluating(generator):
            found = measures(judge, generator, pairs, self.device, setting.batch_size)
        return {**found, "judge_accuracy": judge.accuracy}

    @torch.no_grad()
    def samples(self, generator: Generator, count: int) -> Tensor:
        """For the first inputs Au and B0: Au, B0, Au', B0', Bu and A0, uint8 (count, 6, 3, S, S)."""
        rows = torch.arange(count)
        a, b = (self._images.batch(rows, side, self.setting.size) for side in (True, False))
        with _evaluating(generator):
            made = swap(generator, a, b, count)
        shown = torch.stack((a, b, made.with_again, made.without_again, made.added, made.removed), dim=1)
        return shown.clamp(0, 1).mul(255).round().byte().cpu()

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of Au and B0 in [0, 1], on the device."""
        step, size = self.setting.batch_size, self.setting.size
        for first in range(0, self.setting.images, step):
            rows = torch.arange(first, min(first + step, self.setting.images))
            yield self._images.batch(rows, True, size), self._images.batch(rows, False, size)

    def _features_of_real(self, side: bool) -> Tensor:
        """Features of the real images with or without the attribute, kept by the hash of all that they follow from."""
        setting = self.setting
        levels = self._images.pixels(torch.arange(setting.images), side, setting.size)
        key: Key = {
            "data": digest(levels),
            "size": setting.size,
            "split": setting.split,
            "images": setting.images,
            "attribute": setting.attribute,
            "side": side,
            "extractor": self.extractor.weights,
        }

        def compute() -> dict[str, Tensor]:
            parts = torch.split(levels, 100)
            return {"features": torch.cat([self.extractor(one.float() / 255).cpu() for one in parts])}

        return cached(folder_of(self._data), "real-features", key, compute)["features"].to(self.device)

    def _kernel(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        return kid(x, y, _SUBSETS, min(_SUBSET_SIZE, len(x) // 2, len(y) // 2), self._draw("kernel"))

    def _draw(self, what: str) -> torch.Generator:
        """The same numbers in every run, so that values are comparable."""
        return torch.Generator().manual_seed(derive_seed("evaluation", what))


@contextmanager
def _evaluating(generator: Generator) -> Iterator[None]:
    """With the statistics of batch norm that training has collected; afterwards as before."""
    before = generator.training
    generator.eval()
    try:
        yield
    finally:
        generator.train(before)
