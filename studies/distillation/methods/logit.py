"""Knowledge distillation: the student's softened class probabilities follow the teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from studies.distillation.methods.base import Method
from studies.distillation.models import Features


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.

    Hinton, Vinyals, Dean (2015), arXiv 1503.02531, section 2. T^2 keeps the gradient's size as T changes.
    Logits (B, classes); weight 1, with a cross entropy of hard labels.
    """
    follows = F.log_softmax(student.float() / temperature, dim=1)
    leads = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    return F.kl_div(follows, leads, reduction="batchmean", log_target=True) * temperature**2


class Logit(Method):
    """On the logits. Option: temperature."""

    def distance(self, student: Features, teacher: Features, labels: Tensor) -> Tensor:
        return logit_loss(student.logits, teacher.logits, self.options.temperature)
