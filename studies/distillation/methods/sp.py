"""Similarity-preserving distillation: samples similar for the teacher are similar for the student."""

from __future__ import annotations

from torch import Tensor

from studies.distillation.losses import unit
from studies.distillation.methods.base import Method
from studies.distillation.models import Features

_PUBLISHED_BATCH = 64


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """||rownorm(F_s F_s') - rownorm(F_t F_t')||^2 / B^2, the squared Frobenius norm; F has a sample's map in each row.

    Tung, Mori (2019), arXiv 1907.09682. Maps (B, C, H, W), in which all but B may differ; weight 3000 at B = 64.
    """
    return (_similarities(student) - _similarities(teacher.detach())).square().mean()


def _similarities(maps: Tensor) -> Tensor:
    rows = maps.float().flatten(1)
    return unit(rows @ rows.T, 1)


class SimilarityPreserving(Method):
    """On stage 3. The loss decreases as 1 / B, so the distance is B / 64 of it; B is the size of the batch or part."""

    published = 3000.0

    def distance(self, student: Features, teacher: Features, labels: Tensor) -> Tensor:
        return similarity_loss(student.stage3, teacher.stage3) * (len(student.stage3) / _PUBLISHED_BATCH)
