"""The measures in which arms are compared: final metrics, speed, and how stable the losses are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EQUAL_SECONDS = "distance_at_equal_seconds"


@dataclass(frozen=True)
class Measure:
    """`mode`: which value is better. `factor`: arms are compared by their ratio. `percent`: a share of 1.

    `is_distance`: it is compared only between runs that were evaluated in the same way.
    """

    label: str
    mode: str
    factor: bool = False
    percent: bool = False
    unit: str = ""
    is_distance: bool = False


def _both(name: str, label: str, mode: str, **more: bool | str) -> dict[str, Measure]:
    return {
        f"test_{direction}_{name}": Measure(f"{label}, attribute {text}", mode, **more)  # type: ignore[arg-type]
        for direction, text in (("add", "added"), ("remove", "removed"))
    }


MEASURES: Mapping[str, Measure] = {
    "test_distance": Measure("test distance, mean of both directions", "min", is_distance=True),
    **_both("fd", "test distance", "min", is_distance=True),
    **_both("kd", "test kernel distance", "min", is_distance=True),
    **_both("rate", "transfer rate", "max", percent=True, unit="points"),
    **_both("inside", "PSNR inside the region that differs", "max", unit="dB"),
    **_both("outside", "PSNR outside it", "max", unit="dB"),
    "iterations_per_second": Measure("iterations per second of training", "max", factor=True),
    EQUAL_SECONDS: Measure("validation distance after equal seconds of training", "min", is_distance=True),
    "generator_variance": Measure("variance of the generator's loss, last half", "min"),
    "critic_variance": Measure("variance of the critics' loss, last half", "min"),
}
