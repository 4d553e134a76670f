"""What the runs of this study report: the metrics and arrays, what makes results comparable, and its figures."""

from __future__ import annotations

from roundhouse.figures import Figure
from roundhouse.metrics import Metric, Mode, Scale

_DIRECTIONS = (("add", "attribute added"), ("remove", "attribute removed"))


def _both(name: str, label: str, mode: Mode, scale: Scale = "linear", baseline: str = "") -> dict[str, Metric]:
    """A measure of both directions, in one panel. `baseline`: the end of the name of the final metric beside it."""
    return {
        f"{direction}_{name}": Metric(
            f"{label}, {text}", mode=mode, scale=scale, panel=label, final=f"test_{direction}_{name}",
            baseline=baseline.format(direction) or None,
        )
        for direction, text in _DIRECTIONS
    }  # fmt: skip


def _reference(name: str, label: str, scale: Scale = "linear") -> dict[str, Metric]:
    """What a measure is compared with: a final metric that no generator changes."""
    return {f"test_{direction}_{name}": Metric(label, scale=scale) for direction, _ in _DIRECTIONS}


METRICS = {
    "distance": Metric("Frechet distance, mean of both directions", mode="min", scale="log", main=True,
                       final="test_distance", panel="Frechet distance"),
    **_both("fd", "Frechet distance", "min", "log", "test_{}_fd_identity"),
    **_both("kd", "kernel distance", "min", baseline="test_{}_kd_identity"),
    **_both("rate", "transfer rate", "max", "percent", "test_{}_rate_identity"),
    **_both("inside", "PSNR where the faces differ", "max", "db", "test_{}_inside_identity"),
    **_both("outside", "PSNR elsewhere", "max", "db", "test_reconstruction_outside"),
    "reconstruction_outside": Metric("PSNR elsewhere, reconstruction", mode="max", scale="db", panel="PSNR elsewhere",
                                     final="test_reconstruction_outside"),
    "critic_loss": Metric("loss of the critics"),
    "generator_loss": Metric("loss of the generator"),
    "object_loss": Metric("object part without the attribute", mode="min"),
    "reconstruction_loss": Metric("reconstruction", mode="min"),
    "parallelogram_loss": Metric("parallelogram", mode="min"),
    "adversarial_loss": Metric("adversarial term of the generator"),
    "decay_loss": Metric("weight decay of the generator", mode="min"),
    "penalty": Metric("gradient penalty of the critics", mode="min"),
    "vqvae_loss": Metric("loss of the VQVAE", mode="min", scale="log"),
    **_reference("fd_floor", "floor", "log"),
    **_reference("fd_identity", "identity", "log"),
    **_reference("kd_identity", "identity"),
    **_reference("rate_identity", "identity", "percent"),
    **_reference("inside_identity", "identity", "db"),
    "test_reconstruction_outside": Metric("reconstruction", mode="max", scale="db"),
    "test_judge_accuracy": Metric("accuracy of the judge on real faces", mode="max", scale="percent"),
}  # fmt: skip
ARRAYS = {
    "samples": "first test images: Au, B0, reconstructions Au' and B0', Bu (added), A0 (removed) (8, 6, 3, size, size)"
}
APART = ("dataset", "attribute")
COST = ("sizes", "width")
FIGURES = {
    "losses_of_the_generator": Figure(
        "epochs", metrics=("reconstruction_loss", "parallelogram_loss", "object_loss"),
        title="Terms of the generator's loss",
    ),
}  # fmt: skip
