"""Relational knowledge distillation: distances and angles between the samples of a batch are those of the teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from roundhouse.training import StudyError
from studies.distillation.losses import unit
from studies.distillation.methods.base import Method, Shapes
from studies.distillation.models import Features
from studies.distillation.options import Options


def relational_loss(student: Tensor, teacher: Tensor, angle_weight: float) -> Tensor:
    """Distance term + angle_weight * angle term, of embeddings (B, D) of B >= 3 samples; D may differ.

    Park, Kim, Lu, Cho (2019), arXiv 1904.05068, sections 3.2.1 and 3.2.2. Weight 25, with angle_weight 2: published are
    25 and 50 with a cross entropy. In float32 even under autocast: squares of small differences are 0 in fp16, and
    then the gradient of their root is NaN.
    """
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = student.float(), teacher.detach().float()
        return distance_term(student, teacher) + angle_weight * angle_term(student, teacher)


def distance_term(student: Tensor, teacher: Tensor) -> Tensor:
    """smooth L1 of |e_i - e_j| / (its mean over pairs), mean over the B (B - 1) / 2 pairs."""
    return F.smooth_l1_loss(_distances(student), _distances(teacher))


def angle_term(student: Tensor, teacher: Tensor) -> Tensor:
    """smooth L1 of the cosine of the angle at e_j between e_i and e_k, mean over the B (B - 1) (B - 2) triplets."""
    size = len(student)
    apart = F.smooth_l1_loss(_cosines(student), _cosines(teacher), reduction="none")
    return apart.sum() / (size * (size - 1) * (size - 2))


def _distances(embeddings: Tensor) -> Tensor:
    distances = torch.pdist(embeddings)
    mean = distances.mean()
    return distances / torch.where(mean > 0, mean, 1.0)


def _cosines(embeddings: Tensor) -> Tensor:
    """(B, B, B): at [j, i, k] the cosine between e_i - e_j and e_k - e_j, and 0 unless i, j and k are distinct."""
    arms = unit(embeddings.unsqueeze(0) - embeddings.unsqueeze(1), 2)
    cosines = arms @ arms.transpose(1, 2)
    same = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    return cosines.masked_fill_(same, 0.0)  # an arm of j to itself is 0 already


class RelationalKnowledge(Method):
    """On the pooled features. Option: angle_weight."""

    published = 25.0

    def __init__(self, options: Options, shapes: Shapes) -> None:
        super().__init__(options, shapes)
        parts = options.accumulation if isinstance(options.accumulation, int) else 1
        self._require_triplets(options.batch_size // parts)

    def distance(self, student: Features, teacher: Features, labels: Tensor) -> Tensor:
        self._require_triplets(len(student.pooled))
        return relational_loss(student.pooled, teacher.pooled, self.options.angle_weight)

    def memory(self, batch: int) -> int:
        # Three of B^3 at once: both networks' cosines, and their difference or its gradient. Five of B^2 D at
        # most: the student's arms before and after they are scaled, and the teacher's, or gradients of the first two.
        embedding = max(self.shapes.student["pooled"][0], self.shapes.teacher["pooled"][0])
        return 4 * (3 * batch**3 + 5 * batch**2 * embedding)

    def _require_triplets(self, batch: int) -> None:
        if batch < 3:
            raise StudyError(
                f"method 'rkd' needs 3 samples for an angle, but a batch, or a part of it, has {batch}: raise "
                "'batch_size', or lower 'accumulation'"
            )
