"""What the runs of this study report: the metrics, and what makes results comparable."""

from __future__ import annotations

from roundhouse.metrics import Metric

_BOTH = (("add", "added"), ("remove", "removed"))

METRICS = {
    "distance": Metric("Frechet distance, mean of both directions", mode="min", scale="log", main=True),
    **{f"{key}_fd": Metric(f"Frechet distance, attribute {text}", mode="min", scale="log") for key, text in _BOTH},
    **{f"{key}_kd": Metric(f"kernel distance, attribute {text}", mode="min") for key, text in _BOTH},
    "critic_loss": Metric("loss of the critics"),
    "loss_loss": Metric("loss of the generator"),
    "reconstruction_loss": Metric("reconstruction", mode="min"),
    "parallelogram_loss": Metric("parallelogram", mode="min"),
    "object_loss": Metric("object part without the attribute", mode="min"),
    "adversarial_loss": Metric("adversarial term"),
    **{
        f"test_{key}_rate": Metric(f"transfer rate, attribute {text}", mode="max", scale="percent", baseline=0.5)
        for key, text in _BOTH
    },
    **{
        f"test_{key}_inside": Metric(
            f"PSNR where the faces differ, attribute {text}",
            mode="max",
            scale="db",
            baseline=f"test_{key}_inside_identity",
        )
        for key, text in _BOTH
    },
    **{
        f"test_{key}_outside": Metric(
            f"PSNR elsewhere, attribute {text}", mode="max", scale="db", baseline="test_reconstruction_outside"
        )
        for key, text in _BOTH
    },
}
APART = ("dataset", "attribute")
COST = ("sizes", "width")
