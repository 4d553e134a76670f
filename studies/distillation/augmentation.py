"""The training images as a source for feeds: each image is shifted and mirrored at random."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from roundhouse.training import Epoch
from studies.distillation.data import Dataset, Split


class TrainingImages:
    """Batches of images (B, C, H, W) as uint8, and labels (B,)."""

    def __init__(self, split: Split, shift: int, flip: bool) -> None:
        self._split = split
        self._shift = shift  # pixels, at most, in each direction
        self._flip = flip

    @classmethod
    def of(cls, dataset: Dataset) -> TrainingImages:
        return cls(dataset.train, dataset.shift, dataset.flip)

    def __len__(self) -> int:
        return len(self._split)

    @property
    def nbytes(self) -> int:
        return self._split.nbytes

    def to(self, device: torch.device) -> TrainingImages:
        return TrainingImages(self._split.to(device), self._shift, self._flip)

    def draw(self, epoch: Epoch) -> Tensor:
        """int64 (4, N): the image, its shifts by rows and columns (0 to 2 * shift; `shift` is none), 1 for a flip."""
        order = torch.randperm(len(self), generator=epoch.generator("order"))
        generator = epoch.generator("augmentation")
        moves = torch.randint(0, 2 * self._shift + 1, (2, len(self)), generator=generator)
        flips = torch.randint(0, 1 + self._flip, (1, len(self)), generator=generator)
        return torch.cat([order[None], moves, flips])

    def batch(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels, shifted, then flipped; new pixels at the borders are 0."""
        which, down, right, flip = draws
        images, labels = self._split.images, self._split.labels
        height, width = images.shape[2:]
        padded = F.pad(images[which], [self._shift] * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, C, rows, columns, H, W)
        shifted = windows[torch.arange(len(which), device=which.device), :, down, right]
        return torch.where(flip[:, None, None, None] == 1, shifted.flip(3), shifted), labels[which]
