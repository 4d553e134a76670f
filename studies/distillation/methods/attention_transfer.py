"""Attention transfer: the student's attention maps follow the teacher's, in each of the three stages."""

from __future__ import annotations

from torch import Tensor

from studies.distillation.losses import unit
from studies.distillation.methods.base import Method, Shapes
from studies.distillation.models import Features
from studies.distillation.options import Options

STAGES = ("stage1", "stage2", "stage3")


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean((n(f_s) - n(f_t))^2), n(f) the mean over channels of f^2, flattened, and of length 1 for each sample.

    Zagoruyko, Komodakis (2017), arXiv 1612.03928, equation 2 and section 3.1 (activation-based, p = 2), in the form of
    a mean of squares. Maps (B, C, H, W) of one stage, channels may differ. Weight 1000 for the sum over stages: a mean
    over H * W elements of a unit vector decreases as 1 / (H * W), so the weight increases with the area of the images.
    """
    return (attention_map(student) - attention_map(teacher.detach())).square().mean()


def attention_map(maps: Tensor) -> Tensor:
    """n(f): (B, H * W) in float32, from (B, C, H, W)."""
    return unit(maps.float().square().mean(1).flatten(1), 1)


class AttentionTransfer(Method):
    """The sum over the three stages."""

    published = 1000.0

    def __init__(self, options: Options, shapes: Shapes) -> None:
        super().__init__(options, shapes)
        self.require_equal_maps(*STAGES)
        self.size_factor = shapes.area

    def distance(self, student: Features, teacher: Features, labels: Tensor) -> Tensor:
        first, second, third = (attention_loss(getattr(student, one), getattr(teacher, one)) for one in STAGES)
        return first + second + third
