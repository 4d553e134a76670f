"""One distillation run: plain training (`pure`), or a student that also follows its teacher's logits (`logit`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roundhouse.training import Context, Stage, StudyError, choose, read_options, read_weights
from studies.distillation.data import Dataset, load, shift
from studies.distillation.losses import cross_entropy, logit_loss
from studies.distillation.models import Features, ResNet, build_model

METHODS = ("pure", "logit")
_EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Options:
    """The config of a run."""

    model: str
    dataset: str = "digits"
    method: str = "pure"
    teacher: str | None = None  # the teacher's model; its weights are an input
    alpha: float = 0.5  # share of the distillation term; not used by `pure`
    temperature: float = 4.0  # not used by `pure`
    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0  # used by `pure` only

    def __post_init__(self) -> None:
        choose("method", self.method, METHODS)
        if not 0 <= self.alpha <= 1:
            raise StudyError(f"config key 'alpha' is {self.alpha}; it must lie between 0 and 1")
        if not 0 <= self.label_smoothing < 1:
            raise StudyError(f"config key 'label_smoothing' is {self.label_smoothing}; it must lie between 0 and 1")
        for name in ("temperature", "epochs", "batch_size", "lr"):
            if getattr(self, name) <= 0:
                raise StudyError(f"config key {name!r} is {getattr(self, name)}; it must be above 0")


def build(
    config: Mapping[str, Any], inputs: Mapping[str, Sequence[Path]], device: torch.device, data: Path | None
) -> Distillation:
    """The task that `config` describes. `inputs["teacher"][0]` is the directory with the teacher's `best.pth`.

    StudyError: an unknown key or name, a value out of range, a data set or a teacher that is missing or does not fit.
    """
    options = read_options(Options, config)
    dataset = load(options.dataset, data, device)
    if options.batch_size > len(dataset.train):
        raise StudyError(
            f"config key 'batch_size' is {options.batch_size}; {dataset.name} has {len(dataset.train)} training images"
        )
    teacher = None
    if options.method != "pure":
        if not inputs.get("teacher"):
            raise StudyError(f"method {options.method!r} needs a teacher: name one under `after` in the round file")
        teacher = _load_teacher(Path(inputs["teacher"][0]) / "best.pth", options, dataset, device)
    return Distillation(options, dataset, teacher, device)


def _load_teacher(path: Path, options: Options, dataset: Dataset, device: torch.device) -> ResNet:
    saved = read_weights(path)
    wanted = {"dataset": dataset.name, "model": options.teacher or saved.get("model")}
    found = {key: saved.get(key) for key in wanted}
    if found != wanted:
        raise StudyError(f"{path} holds {found}, and this run asks for {wanted}: mend `after` in the round file")
    teacher = build_model(saved["model"], dataset.classes, dataset.channels, device)
    teacher.load_state_dict(saved["weights"])
    return teacher.eval().requires_grad_(False)


class Distillation:
    """A student in training. The loss is (1 - alpha) * cross entropy + alpha * T^2 * KL(teacher || student)."""

    metric = "val_accuracy"
    mode = "max"

    def __init__(self, options: Options, dataset: Dataset, teacher: ResNet | None, device: torch.device) -> None:
        self.options = options
        self.stages = (Stage("train", options.epochs),)
        self._data = dataset
        self._teacher = teacher
        self._device = device

    def begin_stage(self, context: Context) -> None:
        self._student = build_model(self.options.model, self._data.classes, self._data.channels, self._device)
        self._optimizer = torch.optim.SGD(
            self._student.parameters(),
            lr=self.options.lr,
            momentum=self.options.momentum,
            weight_decay=self.options.weight_decay,
            nesterov=self.options.momentum > 0,
            fused=True,
        )

    def train_epoch(self, context: Context) -> dict[str, float]:
        """Mean losses and accuracy over the epoch. The last, smaller batch is left out: shapes stay the same."""
        self._student.train()
        train, size = self._data.train, self.options.batch_size
        images = shift(train.images, self._data.shift, context.generator("augmentation"))
        order = torch.randperm(len(train), generator=context.generator("order")).to(self._device)
        steps = len(train) // size
        sums = torch.zeros(3, device=self._device)
        for batch in context.batches(torch.split(order[: steps * size], size)):
            self._set_learning_rate((context.epoch + (context.batch - 1) / steps) / context.stage.epochs)
            sums += self._step(self._data.normalise(images[batch]), train.labels[batch], context)
        loss, accuracy, distance = (sums / steps).tolist()
        metrics = {"loss": loss, "train_accuracy": accuracy}
        return metrics if self._teacher is None else {**metrics, "distillation_loss": distance}

    def _step(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        """One step; returns loss, accuracy and distillation loss, on the device."""
        images = images.contiguous(memory_format=torch.channels_last)
        with context.autocast():
            student: Features = self._student(images)
        loss, distance = self._loss(student, images, labels, context)
        context.step(loss, self._optimizer)
        accuracy = (student.logits.argmax(1) == labels).float().mean()
        return torch.stack([loss.detach(), accuracy, distance.detach()])

    def _loss(self, student: Features, images: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        options = self.options
        if self._teacher is None:
            loss = cross_entropy(student.logits, labels, options.label_smoothing)
            return loss, torch.zeros_like(loss)
        with torch.no_grad(), context.autocast():
            teacher: Features = self._teacher(images)
        truth = cross_entropy(student.logits, labels)
        distance = logit_loss(student.logits, teacher.logits, options.temperature)
        if options.alpha == 0:  # then it is plain training to the last bit, whatever the distance
            return truth, distance
        return (1 - options.alpha) * truth + options.alpha * distance, distance

    def _set_learning_rate(self, done: float) -> None:
        """Half a cosine from the full rate to 0, as `done` goes from 0 to 1."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.options.lr * (1 + math.cos(math.pi * done)) / 2

    def evaluate(self, context: Context) -> dict[str, float]:
        split = self._data.validation
        logits = torch.cat([features.logits.float() for features in self._predict(split.images, context)])
        return _scores("val", logits, split.labels)

    @torch.no_grad()
    def _predict(self, images: Tensor, context: Context) -> Iterator[Features]:
        self._student.eval()
        for part in context.batches(torch.split(images, _EVALUATION_BATCH)):
            with context.autocast():
                yield self._student(self._data.normalise(part))

    def state(self) -> dict[str, Any]:
        return {"student": self._student.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])

    def best_state(self) -> dict[str, Any]:
        """The weights, and what a later run must know to use them as a teacher."""
        return {
            "dataset": self._data.name,
            "model": self.options.model,
            "weights": self._student.state_dict(),
        }

    def outputs(self, best: dict[str, Any], context: Context) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Of the best weights on the N test images: logits (N, classes), labels (N,), pooled features (N, 64)."""
        self._student.load_state_dict(best["weights"])
        split = self._data.test
        parts = list(self._predict(split.images, context))
        logits = torch.cat([part.logits for part in parts]).float()
        pooled = torch.cat([part.pooled for part in parts])
        arrays = {"logits": logits.half(), "labels": split.labels, "pooled": pooled.half()}
        chance = split.labels.bincount().max().item() / len(split.labels)  # always the most frequent class
        metrics = {**_scores("test", logits, split.labels), "chance_accuracy": chance}
        return {name: array.cpu().numpy() for name, array in arrays.items()}, metrics


def _scores(prefix: str, logits: Tensor, labels: Tensor) -> dict[str, float]:
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return {f"{prefix}_accuracy": accuracy, f"{prefix}_loss": cross_entropy(logits, labels).item()}
