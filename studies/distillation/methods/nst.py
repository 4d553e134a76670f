"""Neuron selectivity transfer: the student's channels match the teacher's in their distribution over the image."""

from __future__ import annotations

import torch
from torch import Tensor

from studies.distillation.losses import unit
from studies.distillation.methods.attention_transfer import STAGES
from studies.distillation.methods.base import Method, Shapes
from studies.distillation.models import Features
from studies.distillation.options import Options


def selectivity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean k(t, t') + mean k(s, s') - 2 mean k(s, t) over channels, k(x, y) = (x'y)^2; mean over the batch.

    Huang, Wang (2017), arXiv 1707.01219: squared MMD with the polynomial kernel of degree 2. s and t are a sample's
    channel maps, flattened and of length 1. Maps (B, C, H, W), channels may differ; weight 50.
    (x'y)^2 is the inner product of xx' and yy', so the sum is the squared distance between the means of these: never
    below 0, and exactly 0 for equal maps. Where maps have many more pixels than channels, these means are too large and
    the kernels are computed as written; equal maps then give 0 up to rounding.
    """
    channels, leading = (unit(maps.float().flatten(2), 2) for maps in (student, teacher.detach()))
    if channels.shape[2] <= 2 * (channels.shape[1] + leading.shape[1]):
        return (_second_moment(channels) - _second_moment(leading)).square().sum((1, 2)).mean()
    return _kernel(channels, channels) + _kernel(leading, leading) - 2 * _kernel(channels, leading)


def _second_moment(channels: Tensor) -> Tensor:
    """(B, H * W, H * W): the mean over channels of xx'."""
    return channels.transpose(1, 2) @ channels / channels.shape[1]


def _kernel(channels: Tensor, others: Tensor) -> Tensor:
    """The mean of k(x, y) over pairs of channels and over the batch."""
    return (channels @ others.transpose(1, 2)).square().mean()


class NeuronSelectivity(Method):
    """On stage 3, or, with `nst_stages: all`, the sum over the three stages."""

    published = 50.0

    def __init__(self, options: Options, shapes: Shapes) -> None:
        super().__init__(options, shapes)
        self.stages = STAGES if options.nst_stages == "all" else ("stage3",)
        self.require_equal_maps(*self.stages)

    def distance(self, student: Features, teacher: Features, labels: Tensor) -> Tensor:
        terms = [selectivity_loss(getattr(student, one), getattr(teacher, one)) for one in self.stages]
        return torch.stack(terms).sum()
