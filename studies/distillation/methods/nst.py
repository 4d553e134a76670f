"""Neuron selectivity transfer: the student's channels match the teacher's in their distribution over the image."""

from __future__ import annotations

from torch import Tensor

from studies.distillation.losses import unit
from studies.distillation.methods.base import Method, Shapes
from studies.distillation.models import Features
from studies.distillation.options import Options


def selectivity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean k(t, t') + mean k(s, s') - 2 mean k(s, t) over channels, k(x, y) = (x'y)^2; mean over the batch.

    Huang, Wang (2017), arXiv 1707.01219: squared MMD with the polynomial kernel of degree 2. s and t are a sample's
    channel maps, flattened and of length 1. Maps (B, C, H, W), channels may differ; weight 50.
    (x'y)^2 is the inner product of xx' and yy', so the sum is the squared distance between the means of these: never
    below 0, and exactly 0 for equal maps.
    """
    return (_second_moment(student) - _second_moment(teacher.detach())).square().sum((1, 2)).mean()


def _second_moment(maps: Tensor) -> Tensor:
    """(B, H * W, H * W): the mean over channels of xx'."""
    channels = unit(maps.float().flatten(2), 2)
    return channels.transpose(1, 2) @ channels / channels.shape[1]


class NeuronSelectivity(Method):
    """On stage 3."""

    published = 50.0

    def __init__(self, options: Options, shapes: Shapes) -> None:
        super().__init__(options, shapes)
        self.require_equal_maps("stage3")

    def distance(self, student: Features, teacher: Features, labels: Tensor) -> Tensor:
        return selectivity_loss(student.stage3, teacher.stage3)
