"""A batch that is larger than the config asks for, because GPU memory allows it (config key `largest_batch`)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from roundhouse.training import Run
from roundhouse.training.feeds import on_device
from roundhouse.training.parts import fill_memory
from studies.distillation.augmentation import TrainingImages
from studies.distillation.building import build_method, build_student
from studies.distillation.data import Dataset
from studies.distillation.methods import method_named
from studies.distillation.models import ResNet
from studies.distillation.objective import Objective, check_memory
from studies.distillation.options import Options


def with_largest_batch(run: Run, options: Options, dataset: Dataset, teacher: ResNet | None) -> Options:
    """The options with the batch size that fits, at most `largest_batch`, and with `scale_lr` also the learning rates.

    The linear scaling rule: the learning rate is multiplied by what the batch size is multiplied by (Goyal et al. 2017,
    arXiv:1706.02677, section 2.1).
    """
    if options.largest_batch is None:
        return options
    source = TrainingImages.of(dataset)
    if on_device(options.feed, source.nbytes, run.device):
        source = source.to(run.device)  # as in training: what fits is found beside the images

    def attempt(size: int) -> None:
        strength = torch.tensor(1.0, device=run.device)
        images, labels = (one[:size].to(run.device) for one in (dataset.train.images, dataset.train.labels))
        compute_once(run, options, dataset, teacher, images, labels, strength)

    largest = min(options.largest_batch, len(dataset.train))
    trained = [build_student(run, options, dataset)]  # the state of its optimiser needs memory, too
    size = fill_memory(run, attempt, trained, options.batch_size, options.accumulation, largest)
    del source
    filled = replace(options, batch_size=size)
    if not options.scale_lr:
        return filled
    factor, before = size / options.batch_size, options.preparation_lr
    return replace(filled, lr=factor * options.lr, preparation_lr=None if before is None else factor * before)


def compute_once(
    run: Run,
    options: Options,
    dataset: Dataset,
    teacher: ResNet | None,
    images: Tensor,
    labels: Tensor,
    strength: Tensor,
) -> None:
    """What an epoch computes of a batch, and a stage before it, with a student and a method that are then dropped."""
    method = None if teacher is None else build_method(run, options, dataset, teacher)
    objective = Objective(options, dataset, build_student(run, options, dataset), teacher, method, run.autocast)
    if method is not None:
        check_memory(method, len(images), run.device)
        objective.gradient_norms(images, labels, strength)
        kind = method_named(options.method)
        if kind.preparation(options) is not None:
            student = objective.student if kind.prepares_student(options) else None
            before = Objective(options, dataset, student, teacher, method, run.autocast)
            before.preparation(images)[0].backward()  # type: ignore[no-untyped-call]
    objective.training(images, labels, strength)[0].backward()  # type: ignore[no-untyped-call]


def effective_batch(options: Options) -> dict[str, float]:
    """The metric of options from `with_largest_batch`, if they had `largest_batch`."""
    return {} if options.largest_batch is None else {"effective_batch": options.batch_size}
