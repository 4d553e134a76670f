"""The interface of a method: a distance between student and teacher, and modules trained with the student."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from roundhouse.training import StudyError
from studies.distillation.models import Features
from studies.distillation.options import Options


@dataclass(frozen=True)
class Stage:
    """A stage before `train`: the name of its loop, and its epochs."""

    name: str
    epochs: int


@dataclass(frozen=True)
class Shapes:
    """What a method must know before the first batch. Shapes are those of one image, without the batch dimension."""

    image: tuple[int, ...]  # (channels, H, W)
    classes: int
    student: Mapping[str, tuple[int, ...]]  # name of a field of `Features` -> its shape, such as stage1 -> (16, H, W)
    teacher: Mapping[str, tuple[int, ...]]

    @property
    def area(self) -> float:
        """Pixels of an image, relative to the 32x32 for which weights were published."""
        return self.image[1] * self.image[2] / 1024


class Method(nn.Module):
    """A distillation method. The loss of a step is (1 - alpha) * cross entropy + alpha * w * ramp * distance.

    Modules that it owns (connectors) are trained, saved and resumed with the student.
    """

    published: float = 1.0  # w_m, for images of 32x32
    size_factor: float = 1.0  # of the weight, for images of another size: keeps the magnitude of the term

    def __init__(self, options: Options, shapes: Shapes) -> None:
        """StudyError: the method is not defined for such options or shapes."""
        super().__init__()
        self.options = options
        self.shapes = shapes

    @property
    def weight(self) -> float:
        """w: the published weight, or that of the options, times the factor for the image size."""
        chosen = self.published if self.options.weight is None else self.options.weight
        return chosen * self.size_factor

    @classmethod
    def preparation(cls, options: Options) -> Stage | None:
        """A stage before `train`, if the method has one."""
        return None

    @classmethod
    def prepares_student(cls, options: Options) -> bool:
        """Whether that stage trains the student too; else the student is created after it."""
        return False

    def distance(self, student: Features, teacher: Features, labels: Tensor) -> Tensor:
        """L_m: a scalar in float32, with gradients for the student only. Call it outside autocast."""
        raise NotImplementedError

    def preparation_loss(self, student: Features | None, teacher: Features) -> Tensor:
        """The loss of the stage before: a scalar in float32."""
        raise NotImplementedError

    def trained(self, stage: str) -> Iterable[nn.Parameter]:
        """Its own parameters that are trained in the stage."""
        return self.parameters()

    def ramp(self, epoch: int) -> float:
        """A factor of the distance's weight in epoch `epoch` of stage `train`, counted from 0."""
        return 1.0

    def memory(self, batch: int) -> int:
        """Peak bytes of the distance in addition to the features, if that is a large amount; else 0."""
        return 0

    def require_equal_maps(self, *stages: str) -> None:
        """StudyError: in one of the stages, maps of student and teacher differ in height or width."""
        for stage in stages:
            student, teacher = self.shapes.student[stage][1:], self.shapes.teacher[stage][1:]
            if student != teacher:
                raise StudyError(
                    f"method {self.options.method!r} compares maps of equal size, but those of {stage} are "
                    f"{_size(student)} in the student and {_size(teacher)} in the teacher: choose another method"
                )


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
