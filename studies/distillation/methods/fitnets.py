"""FitNets: an early map of the student, through a regressor, follows a deeper map of the teacher, the hint."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from roundhouse.training import StudyError
from studies.distillation.methods.base import Method, Shapes, Stage
from studies.distillation.methods.logit import logit_loss
from studies.distillation.models import Features
from studies.distillation.options import Options


def hint_loss(regressed: Tensor, hint: Tensor) -> Tensor:
    """mean((r(f_s) - f_t)^2) over all elements of regressed r(f_s) and hint f_t, both (B, C, H, W).

    Romero, Ballas, Kahou, Chassang, Gatta, Bengio (2015), arXiv 1412.6550, equation 3, there as half a sum.
    Weight 100, with all of the loss in one stage.
    """
    return F.mse_loss(regressed.float(), hint.detach().float())


class Regressor(nn.Module):
    """r: means of `reduction` x `reduction` pixels, then a 1x1 convolution with batch normalisation and ReLU."""

    def __init__(self, entering: int, leaving: int, reduction: int) -> None:
        super().__init__()
        self.reduction = reduction
        self.conv = nn.Conv2d(entering, leaving, 1, bias=False)
        self.norm = nn.BatchNorm2d(leaving)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, entering, H, W) to (B, leaving, H / reduction, W / reduction)."""
        return F.relu(self.norm(self.conv(F.avg_pool2d(x.float(), self.reduction))))


class FitNets(Method):
    """The teacher's stage 2 (32 channels) is the hint for the student's stage 1 (16 channels, twice as wide and high),
    or, with `hint_stage: 2`, for its stage 2.

    With `hint_epochs` it has two stages, as in the paper: first the hint alone, with weight 1, for the student up to it
    and the regressor; then the logits alone, with weight 1. Option of the second: temperature.
    """

    published = 100.0

    def __init__(self, options: Options, shapes: Shapes) -> None:
        super().__init__(options, shapes)
        self.follows = f"stage{options.hint_stage}"
        entering, height, width = shapes.student[self.follows]
        leaving, hint_height, hint_width = shapes.teacher["stage2"]
        reduction = max(1, height // hint_height)
        if (hint_height * reduction, hint_width * reduction) != (height, width):
            raise StudyError(
                f"method 'fitnets' pools the student's stage {options.hint_stage}, {height}x{width}, by a whole factor "
                f"to the teacher's stage 2, {hint_height}x{hint_width}, but there is none: use images of an even size"
            )
        self.regressor = Regressor(entering, leaving, reduction)
        if options.hint_epochs:
            self.published = 1.0  # of the logits

    @classmethod
    def preparation(cls, options: Options) -> Stage | None:
        return Stage("hint", options.hint_epochs) if options.hint_epochs else None

    @classmethod
    def prepares_student(cls, options: Options) -> bool:
        return options.hint_epochs > 0

    def preparation_loss(self, student: Features | None, teacher: Features) -> Tensor:
        assert student is not None
        return self._hint_loss(student, teacher)

    def distance(self, student: Features, teacher: Features, labels: Tensor) -> Tensor:
        if self.options.hint_epochs:
            return logit_loss(student.logits, teacher.logits, self.options.temperature)
        return self._hint_loss(student, teacher)

    def _hint_loss(self, student: Features, teacher: Features) -> Tensor:
        return hint_loss(self.regressor(getattr(student, self.follows)), teacher.stage2)

    def trained(self, stage: str) -> Iterable[nn.Parameter]:
        return () if self.options.hint_epochs and stage == "train" else self.parameters()
