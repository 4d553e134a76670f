"""What the document of this study projects: gains, overheads, targets. They had not been measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Projection:
    """A technique in the document's table, which is ordered by projected gain. Gains in dB; overhead: a factor."""

    number: int
    name: str
    gain: tuple[float, float]
    overhead: float

    @property
    def middle(self) -> float:
        return sum(self.gain) / 2


PROJECTIONS = (
    Projection(1, "Rectified flow", (5.0, 8.0), 1.2),
    Projection(2, "Multi-scale position encoding", (4.0, 7.0), 1.0),
    Projection(3, "Consistency loss", (3.0, 6.0), 1.1),
    Projection(4, "Perceptual (spectral) loss", (3.0, 5.0), 1.15),
    Projection(5, "Adaptive layer norm", (2.0, 5.0), 1.05),
    Projection(6, "Self-conditioning", (2.0, 4.0), 1.3),
    Projection(7, "Exponential moving average", (1.0, 3.0), 1.02),
    Projection(8, "Noise schedule", (1.0, 3.0), 1.0),
    Projection(9, "Gradient clipping and warm-up", (0.5, 2.0), 1.0),
    Projection(10, "Stochastic depth", (0.5, 2.0), 1.0),
)
NAMES = {one.number: one.name for one in PROJECTIONS}
NUMBERS = tuple(NAMES)

BASE_PSNR = {"simple": 35.0, "multi_frequency": 30.0, "radial": 32.0}  # dB, "~"
BEST = (1, 2, 3, 4, 5)
BEST_GAIN = (10.0, 15.0)
BEST_PSNR = (45.0, 50.0)
VERSIONS = 100
LEAST_COMPLETED = 0.9  # of the versions
LEAST_TECHNIQUES, SINGLE_GAIN = 3, 2.0
COMBINATION_GAIN = 8.0
HOURS = (30.0, 40.0)
GPUS, SLOTS = 4, 8
CHECKPOINT_GB = 10.0
SIZE = {"size": 32, "observations": 51, "fields": 500, "epochs": 100, "d_model": 128, "num_layers": 4}
"""Config of the document's runs; a key that a round does not set has this value by default."""

# What a technique changes besides, and the group of the round that has this alone.
CONTROLS = {1: "control_steps", 4: "control_patch", 9: "control_schedule"}
CONFOUNDED = {
    1: "it trains for more steps",
    4: "it asks for a square patch instead of random points",
    9: "it adds a schedule of the learning rate to the clipping",
}


def combination(techniques: tuple[int, ...]) -> str:
    """`1+2+7`; `none` for the base."""
    return "+".join(map(str, techniques)) or "none"
