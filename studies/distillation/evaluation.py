"""Evaluation of a network on validation and test images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from roundhouse.training import Run
from studies.distillation.data import Dataset, Split
from studies.distillation.losses import cross_entropy
from studies.distillation.models import Features, ResNet

BATCH = 512


@torch.no_grad()
def predict(network: ResNet, data: Dataset, split: Split, run: Run) -> Iterator[Features]:
    """The network's features of a split's images, batch by batch, in evaluation mode, on the device."""
    network.eval()
    if not len(split):
        return
    for images in run.pausable(torch.split(split.images, BATCH)):
        normalised = data.normalise(images.to(run.device)).contiguous(memory_format=torch.channels_last)
        with run.autocast():
            yield network(normalised)


def scores(prefix: str, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, between 0 and 1, and mean cross entropy in nats, of logits (N, classes)."""
    labels = labels.to(logits.device)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return {f"{prefix}_accuracy": accuracy, f"{prefix}_loss": cross_entropy(logits, labels).item()}


def evaluate(network: ResNet, data: Dataset, split: Split, prefix: str, run: Run) -> dict[str, float]:
    """`scores` of the network on a split."""
    logits = torch.cat([features.logits.float() for features in predict(network, data, split, run)])
    return scores(prefix, logits, split.labels)


def final_outputs(network: ResNet, data: Dataset, run: Run) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The outputs to keep for the N test and M validation images, in fixed orders, and the scores on the test images.

    `logits` (N, classes), `labels` (N,), `pooled` (N, 64): the input of the last layer; `stage1` (N, 16), `stage2`
    (N, 32), `stage3` (N, 64): the mean of each map of each stage; `validation_logits` (M, classes) and
    `validation_labels` (M,), to fit a temperature with. Arrays of numbers are float16.
    """
    rows = []
    for part in predict(network, data, data.test, run):
        means = [stage.float().mean((2, 3)) for stage in (part.stage1, part.stage2, part.stage3)]
        rows.append((part.logits.float(), part.pooled.float(), *means))
    columns = [torch.cat(column) for column in zip(*rows, strict=True)]
    names = ("logits", "pooled", "stage1", "stage2", "stage3")
    arrays = {name: column.half().cpu().numpy() for name, column in zip(names, columns, strict=True)}
    kept = [part.logits.half().cpu().numpy() for part in predict(network, data, data.validation, run)]
    arrays["validation_logits"] = np.concatenate([np.empty((0, data.classes), np.float16), *kept])
    labels = {"labels": data.test.labels.cpu().numpy(), "validation_labels": data.validation.labels.cpu().numpy()}
    chance = np.bincount(labels["labels"]).max() / len(data.test)  # always the most frequent class
    return {**arrays, **labels}, {**scores("test", columns[0], data.test.labels), "chance_accuracy": float(chance)}
