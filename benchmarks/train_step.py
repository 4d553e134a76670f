"""Training throughput in images/s, compared with a usual plain loop: `python benchmarks/train_step.py`.

The plain loop: a DataLoader with 8 workers and torchvision's transforms, eager float32 (TF32 in convolutions, PyTorch's
default), `.item()` in each step. Ours: the study itself, with its defaults. Both in one process, on one device, on the
same random images of CIFAR's shape, in turns: after each epoch of the study, the plain loop trains one. The table has
the medians of the rounds, and the ratio.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from roundhouse.settings import Settings
from roundhouse.training import Epoch
from roundhouse.training.execute import Attempt, Hooks, execute, prepare
from roundhouse.training.feeds import EpochFeed, make_feed
from roundhouse.training.session import Session
from studies.distillation import data
from studies.distillation import train as study
from studies.distillation.losses import cross_entropy
from studies.distillation.models import ResNet, build_model
from studies.distillation.options import DISTILLING, Options

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


class TimedFeed:
    """A feed that times the steps of its last epoch."""

    def __init__(self, feed: EpochFeed, timer: StepTimer) -> None:
        self.steps, self.close = feed.steps, feed.close
        self._feed, self._timer = feed, timer

    def batches(self, epoch: Epoch, first: int) -> Iterator[Any]:
        yield from self._timer.timed(self._feed.batches(epoch, first))


class Plain:
    """The plain loop, with the same networks and the same distance."""

    def __init__(self, options: Options, dataset: data.Dataset, teacher: ResNet, device: torch.device) -> None:
        self.options, self.teacher, self.device = options, teacher, device
        self.method = None
        if options.method in DISTILLING:
            run: Any = SimpleNamespace(device=device)
            self.method = study.build_method(run, options, dataset, teacher)
        self.student = build_model(options.model, CLASSES, 3, device).to(memory_format=torch.contiguous_format)
        trained = [*self.student.parameters(), *(self.method.trained("train") if self.method else [])]
        self.optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=5e-4)

    def epoch(self, loader: DataLoader[Any]) -> float:
        """Images a second in one epoch."""
        clock, alpha = StepTimer(self.device), self.options.alpha
        total = correct = 0.0
        self.student.train()
        for images, labels in clock.timed(loader):
            images, labels = images.to(self.device), labels.to(self.device)
            student = self.student(images)
            loss = cross_entropy(student.logits, labels)
            if self.method is not None:
                with torch.no_grad():
                    teacher = self.teacher(images)
                loss = (1 - alpha) * loss + alpha * self.method.weight * self.method.distance(student, teacher, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
            correct += (student.logits.argmax(1) == labels).sum().item()
        return clock.steps * self.options.batch_size / clock.seconds


def measure(method: str, options: argparse.Namespace, images: np.ndarray, settings: Settings) -> tuple[float, float]:
    """Images a second of (the plain loop, ours)."""
    device = prepare(settings).device
    labels = np.arange(len(images)) % CLASSES
    whole = data.Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
    none, few = (data.Split(whole.images[:count], whole.labels[:count]) for count in (0, options.batch))
    dataset = data.Dataset("random", whole, none, few, CLASSES, shift=4, flip=True)
    teacher = build_model(options.teacher, CLASSES, 3, device).eval().requires_grad_(False)
    config = Options(
        options.student, method=method, batch_size=options.batch, epochs=options.rounds, paraphraser_epochs=1
    )
    timer = StepTimer(device)
    study.load = lambda *_: dataset  # type: ignore[assignment]
    study.load_teacher = lambda *_: teacher  # type: ignore[assignment]
    study.make_feed = lambda *arguments: TimedFeed(make_feed(*arguments), timer)  # type: ignore[assignment]
    plain = Plain(config, dataset, teacher, device)
    loader = DataLoader(
        Images(images, labels), options.batch, shuffle=True, num_workers=8, pin_memory=device.type == "cuda",
        drop_last=True,
    )  # fmt: skip
    theirs, ours = [], []

    def recorded(session: Session) -> None:
        if session.loop == "train":
            ours.append(timer.steps * options.batch / timer.seconds)
            torch.backends.cudnn.allow_tf32 = True
            theirs.append(plain.epoch(loader))
            torch.backends.cudnn.allow_tf32 = False

    hooks = Hooks(lambda session: None, recorded, lambda: None)
    with tempfile.TemporaryDirectory(prefix="roundhouse-benchmark-") as folder:
        execute(partial(study.train, options=config, inputs={}, data=None), settings, Attempt(Path(folder)), hooks)
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
    settings = Settings(device=options.device, precision=options.precision)
    precision = prepare(settings)
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
        theirs, ours = measure(method, options, images, settings)
        print(f"| {method} | {theirs:.0f} | {ours:.0f} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
