"""What the runs of this study report: the metrics and arrays, and what makes results comparable."""

from __future__ import annotations

from roundhouse.metrics import Metric

METRICS = {
    "val_accuracy": Metric(
        "validation accuracy", mode="max", scale="percent", baseline="chance_accuracy", final="test_accuracy", main=True
    ),
    "train_accuracy": Metric("training accuracy", mode="max", scale="percent", baseline="chance_accuracy"),
    "loss": Metric("training loss (objective)", mode="min"),
    "val_loss": Metric("validation loss", "nats", mode="min", final="test_loss"),
    "truth_gradient": Metric("norm of the gradient, truth", panel="norm of the gradient"),
    "distance_gradient": Metric("norm of the gradient, distance", panel="norm of the gradient"),
    "gradient_ratio": Metric("gradients, distance / truth"),
    "distillation_loss": Metric(),
    "preparation_loss": Metric(),
    "test_accuracy": Metric(mode="max", scale="percent", baseline="chance_accuracy"),
    "test_loss": Metric("test cross entropy", "nats", mode="min"),
    "last_test_accuracy": Metric(
        "test accuracy of the last epoch", mode="max", scale="percent", baseline="chance_accuracy"
    ),
    "chance_accuracy": Metric("chance", scale="percent"),  # of always predicting the most frequent class
    "accumulation": Metric("parts of a batch", curve=False),
    "effective_batch": Metric("samples of a batch", curve=False),
    "distance_weight": Metric("weight of the distance", curve=False),
}
ARRAYS = {
    "logits": "test images (N, classes)",
    "labels": "test images (N,)",
    "pooled": "input of the last layer for the test images (N, 64)",
    "stage1": "mean of each map of stage 1 for the test images (N, 16)",
    "stage2": "mean of each map of stage 2 for the test images (N, 32)",
    "stage3": "mean of each map of stage 3 for the test images (N, 64)",
    "validation_logits": "validation images (M, classes), to fit a temperature",
    "validation_labels": "validation images (M,)",
}
APART = ("dataset",)
COST = ("model", "method")
