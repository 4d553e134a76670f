"""Builds what a run trains: its student, and what its method trains beside it."""

from __future__ import annotations

import torch

from roundhouse.training import Run
from studies.distillation.data import Dataset
from studies.distillation.methods import Method, Shapes, method_named
from studies.distillation.models import ResNet, build_model, shapes_of
from studies.distillation.options import Options


def build_student(run: Run, options: Options, dataset: Dataset) -> ResNet:
    return build_model(options.model, dataset.classes, dataset.channels, run.device)


def build_method(run: Run, options: Options, dataset: Dataset, teacher: ResNet) -> Method:
    image = dataset.image_shape
    student = build_model(options.model, dataset.classes, image[0], torch.device("meta"))
    shapes = Shapes(image, dataset.classes, shapes_of(student, image), shapes_of(teacher, image))
    return method_named(options.method)(options, shapes).to(run.device)
