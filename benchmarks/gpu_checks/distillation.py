"""Runs of the study of distillation on made-up images, for checks that compare how they end."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from roundhouse.settings import Settings
from roundhouse.training.execute import Attempt, Hooks, execute, prepare
from roundhouse.training.feeds import make_feed
from studies.distillation import data
from studies.distillation import train as study
from studies.distillation.models import build_model
from studies.distillation.options import Options

HELD_OUT = 64
TINY: dict[str, Any] = {"batch": 6, "batches": 2, "pixels": 8, "teacher": "ResNet8"}  # of a dry run


@dataclass(frozen=True)
class Case:
    """One run. In fp16, gradient scaling skips the first steps, so an epoch needs more of them."""

    method: str
    precision: str
    student: str = "ResNet8"
    teacher: str = "ResNet20"
    batch: int = 32
    batches: int = 16
    epochs: int = 2
    pixels: int = 32
    classes: int = 100


@dataclass(frozen=True)
class Ended:
    """How a run ended. `epochs`: the entries of metrics.json, without times and memory."""

    final_hash: str
    epochs: list[dict[str, Any]]
    seconds: float


def images(count: int, pixels: int, classes: int) -> data.Split:
    """Images of classes with a mean colour each, and noise: something that can be learned."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    means = torch.randint(40, 216, (classes, 3, 1, 1), generator=generator)
    noise = torch.randint(-40, 40, (count, 3, pixels, pixels), generator=generator)
    return data.Split((means[labels] + noise).clamp(0, 255).to(torch.uint8), labels)


def dataset_of(case: Case) -> data.Dataset:
    count = case.batch * case.batches
    all_images = images(count + 2 * HELD_OUT, case.pixels, case.classes)
    train, validation, test = (
        data.Split(all_images.images[first : first + length], all_images.labels[first : first + length])
        for first, length in ((0, count), (count, HELD_OUT), (count + HELD_OUT, HELD_OUT))
    )
    return data.Dataset("made up", train, validation, test, case.classes, shift=4, flip=True)


def train_once(case: Case, device: str, wrap: Callable[[Any], Any] = lambda feed: feed, **options: Any) -> Ended:
    """Train. `wrap`: what replaces the feed of the study."""
    settings = Settings(seed=3, device=device, precision=case.precision, max_skipped=1.0)
    where = prepare(settings).device
    torch.manual_seed(5)
    teacher = build_model(case.teacher, case.classes, 3, where).eval().requires_grad_(False)
    dataset = dataset_of(case)
    config = Options(
        case.student, method=case.method, batch_size=case.batch, epochs=case.epochs, paraphraser_epochs=1, warm_up=2,
        **options,
    )  # fmt: skip
    hooks = Hooks(lambda session: None, lambda session: None, lambda: None)
    replaced: dict[str, Any] = {
        "load": lambda *_: dataset,
        "load_teacher": lambda *_: teacher,
        "make_feed": lambda *arguments: wrap(make_feed(*arguments)),
    }
    with tempfile.TemporaryDirectory(prefix="roundhouse-gpu-check-") as folder, mock.patch.multiple(study, **replaced):
        began = time.perf_counter()
        trained = partial(study.train, options=config, inputs={}, data=None)
        outcome = execute(trained, settings, Attempt(Path(folder)), hooks)
        took = time.perf_counter() - began
        epochs = json.loads((Path(folder) / "metrics.json").read_text())["epochs"]
    if not outcome.finished or outcome.final_hash is None:
        raise RuntimeError(f"the run did not finish: {outcome.reason} after {outcome.position}")
    for entry in epochs:
        del entry["seconds"], entry["peak_memory_mb"]
    return Ended(outcome.final_hash, epochs, took)
