"""What studies use. They import from here, and from `roundhouse.options`, which does not import torch."""

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import choose, read_options
from roundhouse.training.checkpoint import read as read_weights
from roundhouse.training.loops import Epoch, Feed, Step
from roundhouse.training.memory import equal_parts, fewest_parts, free_memory, readable
from roundhouse.training.parts import BatchPlan, in_parts, plan_batch
from roundhouse.training.reproducibility import derive_seed
from roundhouse.training.run import Run
from roundhouse.training.tracking import Value

__all__ = [
    "BatchPlan",
    "Epoch",
    "Feed",
    "Run",
    "Step",
    "StudyError",
    "Value",
    "choose",
    "derive_seed",
    "equal_parts",
    "fewest_parts",
    "free_memory",
    "in_parts",
    "plan_batch",
    "read_options",
    "read_weights",
    "readable",
]
