"""Training throughput in images/s, compared with a usual plain loop: `python benchmarks/train_step.py`.

The plain loop: a DataLoader with 8 workers and torchvision's transforms, eager float32, `.item()` in each step. Ours:
the study itself, with its defaults. Both in one process, on one device, on the same random images of CIFAR's shape, in
turns. The table has the medians of the rounds and their ratio.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from roundhouse.settings import Settings
from roundhouse.training import Context
from roundhouse.training.loop import prepare
from roundhouse.training.precision import Precision
from studies.distillation import data
from studies.distillation.losses import cross_entropy
from studies.distillation.models import ResNet, build_model
from studies.distillation.options import DISTILLING, Options
from studies.distillation.task import Distillation

CLASSES = 100
UNTIMED = 2  # first steps of a round, in which workers start, kernels are loaded and the graph is captured


class Images(Dataset[Any]):
    """Random images as PIL pictures, cropped and flipped one by one."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        from PIL import Image
        from torchvision import transforms

        self._make, self._images, self._labels = Image.fromarray, images, labels
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self._transform = transforms.Compose([*steps, transforms.Normalize((0.5,) * 3, (0.25,) * 3)])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Any:
        return self._transform(self._make(self._images[index])), int(self._labels[index])


class StepTimer:
    """Seconds for the steps after the untimed ones."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        count = 0
        for count, batch in enumerate(batches):
            if count == UNTIMED:
                began = self._now()
            yield batch
        self.steps, self.seconds = count + 1 - UNTIMED, self._now() - began

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class TimedContext(Context):
    """A context that times its batches."""

    clock: StepTimer

    def batches(self, items: Iterable[Any]) -> Iterator[Any]:
        yield from super().batches(self.clock.timed(items))


class Plain:
    """The plain loop, with the same networks and the same distance."""

    def __init__(self, ours: Distillation, loader: DataLoader[Any], device: torch.device) -> None:
        self.ours, self.loader, self.device = ours, loader, device
        self.student = build_model(ours.options.model, CLASSES, 3, device).to(memory_format=torch.contiguous_format)
        trained = [*self.student.parameters(), *(ours._method.trained("train") if ours._method else [])]
        self.optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=5e-4)

    def epoch(self) -> float:
        clock, alpha, method = StepTimer(self.device), self.ours.options.alpha, self.ours._method
        total = correct = 0.0
        self.student.train()
        for images, labels in clock.timed(self.loader):
            images, labels = images.to(self.device), labels.to(self.device)
            student = self.student(images)
            loss = cross_entropy(student.logits, labels)
            if method is not None and self.ours._teacher is not None:
                with torch.no_grad():
                    teacher = self.ours._teacher(images)
                loss = (1 - alpha) * loss + alpha * method.weight * method.distance(student, teacher, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
            correct += (student.logits.argmax(1) == labels).sum().item()
        return clock.steps * self.ours.options.batch_size / clock.seconds


def our_epoch(task: Distillation, precision: Precision, epoch: int) -> float:
    context = TimedContext(task.stages[-1], epoch, 0, precision, _scaler(precision))
    context.clock = StepTimer(precision.device)
    task.train_epoch(context)
    return context.clock.steps * task.options.batch_size / context.clock.seconds


def _scaler(precision: Precision) -> torch.amp.GradScaler | None:
    return torch.amp.GradScaler(precision.device.type) if precision.scaled else None


def make_task(
    method: str, options: argparse.Namespace, dataset: data.Dataset, teacher: ResNet, precision: Precision
) -> Distillation:
    wanted = Options(options.student, method=method, batch_size=options.batch, epochs=options.rounds + 1)
    task = Distillation(wanted, dataset, teacher if method in DISTILLING else None, precision.device)
    for stage in task.stages:
        task.begin_stage(Context(stage, 0, 0, precision, _scaler(precision)))
    return task


def measure(method: str, options: argparse.Namespace, images: np.ndarray, precision: Precision) -> tuple[float, float]:
    """Images a second of (the plain loop, ours)."""
    device = precision.device
    labels = np.arange(len(images)) % CLASSES
    whole = data.Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
    dataset = data.Dataset("random", whole, whole, whole, CLASSES, shift=4, flip=True)
    teacher = build_model(options.teacher, CLASSES, 3, device).eval().requires_grad_(False)
    task = make_task(method, options, dataset, teacher, precision)
    loader = DataLoader(
        Images(images, labels), options.batch, shuffle=True, num_workers=8, pin_memory=device.type == "cuda",
        drop_last=True,
    )  # fmt: skip
    plain = Plain(make_task(method, options, dataset, teacher, precision), loader, device)
    theirs, ours = [], []
    for epoch in range(options.rounds):
        theirs.append(plain.epoch())
        ours.append(our_epoch(task, precision, epoch))
    return statistics.median(theirs), statistics.median(ours)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--device", default="auto", help="auto, cpu, cuda")
    made.add_argument("--precision", default="auto", help="ours: auto, fp32, bf16, fp16; the plain loop has float32")
    made.add_argument("--batch", type=int, default=128)
    made.add_argument("--steps", type=int, help="timed steps in a round (GPU: 100, CPU: 3)")
    made.add_argument("--rounds", type=int, default=3, help="number of times that the loops alternate")
    made.add_argument("--teacher", default="ResNet112")
    made.add_argument("--student", default="ResNet56")
    made.add_argument("--methods", nargs="+", default=["pure", *DISTILLING], metavar="METHOD")
    return made


def main() -> None:
    options = parser().parse_args()
    precision = prepare(Settings(device=options.device, precision=options.precision))
    device = precision.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    steps = options.steps or (100 if device.type == "cuda" else 3)
    images = np.random.default_rng(0).integers(0, 256, (options.batch * (steps + UNTIMED), 32, 32, 3), dtype=np.uint8)
    print(
        f"{options.teacher} -> {options.student}, batch {options.batch}, {precision.name}; {name}, {os.cpu_count()} "
        f"cores; torch {torch.__version__}, CUDA {torch.version.cuda if device.type == 'cuda' else '-'}; Python "
        f"{platform.python_version()}; medians of {options.rounds} rounds of {steps} steps\n"
    )
    print("| method | plain loop, images/s | Roundhouse, images/s | ratio |\n|---|---|---|---|")
    for method in options.methods:
        theirs, ours = measure(method, options, images, precision)
        print(f"| {method} | {theirs:.0f} | {ours:.0f} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
