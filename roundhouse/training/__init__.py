"""What every study shares. Studies import from here, and nothing else of roundhouse."""

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.training.checkpoint import read as read_weights
from roundhouse.training.options import choose, read_options
from roundhouse.training.task import Context, Stage, Task

__all__ = ["Context", "Stage", "StudyError", "Task", "choose", "read_options", "read_weights"]
