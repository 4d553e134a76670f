"""What studies share. They import from here, and from `roundhouse.options`, which does not import torch."""

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import choose, read_options
from roundhouse.training.checkpoint import read as read_weights
from roundhouse.training.memory import equal_parts, fewest_parts, free_memory, readable
from roundhouse.training.task import Context, Stage, Task

__all__ = [
    "Context",
    "Stage",
    "StudyError",
    "Task",
    "choose",
    "equal_parts",
    "fewest_parts",
    "free_memory",
    "read_options",
    "read_weights",
    "readable",
]
