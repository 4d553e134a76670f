"""The objective: from a batch of images to the loss, for plain training and for each method."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from roundhouse.training import free_memory, readable
from roundhouse.training.passes import buffers_kept
from studies.distillation.data import Dataset
from studies.distillation.losses import cross_entropy
from studies.distillation.methods import Method
from studies.distillation.models import Features, ResNet
from studies.distillation.options import Options


class Objective:
    """The loss of a student: (1 - alpha) * cross entropy + strength * distance, where strength = alpha * w * ramp.

    `control` is the first term alone; `pure` is the full cross entropy, and the only one with label smoothing. In a
    method's own first stage, the loss is that of the method.
    """

    def __init__(
        self,
        options: Options,
        data: Dataset,
        student: ResNet | None,
        teacher: ResNet | None,
        method: Method | None,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.options = options
        self.student = student
        self.teacher = teacher
        self.method = method
        self._data = data
        self._autocast = autocast

    @property
    def modules(self) -> list[nn.Module]:
        """What is trained: the student and the method, as far as they exist."""
        return [module for module in (self.student, self.method) if module is not None]

    def normalised(self, images: Tensor) -> Tensor:
        """From bytes to the networks' input format: float32, channels last."""
        return self._data.normalise(images).contiguous(memory_format=torch.channels_last)

    def strength(self, epoch: int) -> float:
        """The factor of the distance in epoch `epoch` of stage `train`, counted from 0."""
        if self.method is None:
            return 0.0
        return self.options.alpha * self.method.weight * self.method.ramp(epoch)

    def preparation(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, [loss]) of a method's own stage, for bytes (B, C, H, W)."""
        assert self.method is not None
        images = self.normalised(images)
        student = self._followed(images) if self.student is not None else None
        loss = self.method.preparation_loss(student, self._led(images))
        return loss, loss.detach().unsqueeze(0)

    def training(self, images: Tensor, labels: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, [loss, accuracy, distance]) for bytes (B, C, H, W) and labels (B,); `strength` is a scalar."""
        images = self.normalised(images)
        student = self._followed(images)
        truth, distance = self._terms(student, images, labels)
        if self.method is None or self.options.alpha == 0:  # bit-identical to plain training
            loss = truth
        else:
            loss = truth + strength * distance
        accuracy = (student.logits.argmax(1) == labels).float().mean()
        return loss, torch.stack([loss.detach(), accuracy, distance.detach()])

    def _followed(self, images: Tensor) -> Features:
        assert self.student is not None
        with self._autocast():
            features: Features = self.student(images)
        return features

    def _led(self, images: Tensor) -> Features:
        assert self.teacher is not None
        with torch.no_grad(), self._autocast():
            features: Features = self.teacher(images)
        return features

    def _terms(self, student: Features, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The cross entropy, with its share, and the distance, without."""
        options = self.options
        if options.method == "pure":
            truth = cross_entropy(student.logits, labels, options.label_smoothing)
            return truth, torch.zeros_like(truth)
        truth = (1 - options.alpha) * cross_entropy(student.logits, labels)
        if self.method is None:
            return truth, torch.zeros_like(truth)
        return truth, self.method.distance(student, self._led(images), labels)

    def gradient_norms(self, images: Tensor, labels: Tensor, strength: Tensor) -> dict[str, float]:
        """L2 norms, over all weights of the student, of the gradients of the loss's two terms, and their ratio.

        In float32 at any precision; gradients and running statistics are not changed.
        """
        assert self.student is not None and self.method is not None
        images = self.normalised(images)
        weights = list(self.student.parameters())
        with buffers_kept([self.student, self.method]):
            truth, distance = self._terms(self.student(images), images, labels)
            norms = [_norm(truth, weights), strength * _norm(distance, weights)]
        truth_norm, distance_norm = torch.stack(norms).tolist()
        measured = {"truth_gradient": truth_norm, "distance_gradient": distance_norm}
        return {**measured, "gradient_ratio": distance_norm / truth_norm} if truth_norm else measured


def _norm(term: Tensor, weights: list[torch.nn.Parameter]) -> Tensor:
    gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
    norms: Tensor = torch.stack([one.norm() for one in gradients if one is not None]).norm()
    return norms


def check_memory(method: Method, batch: int, device: torch.device) -> None:
    """torch.OutOfMemoryError: the method's extra memory does not fit; the message has the batch size that would fit."""
    needed, free = method.memory(batch), free_memory(device)
    if needed > free:
        fitting = next((size for size in range(batch, 0, -1) if method.memory(size) <= free), 0)
        raise torch.OutOfMemoryError(
            f"{method.options.method} needs {readable(needed)} for its relations of {batch} samples, and "
            f"{readable(free)} are free on {device}, enough for {fitting}"
        )
