"""Decoupled knowledge distillation: separate terms for the target class and for the other classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from roundhouse.training import StudyError
from studies.distillation.methods.base import Method, Shapes
from studies.distillation.models import Features
from studies.distillation.options import Options


def decoupled_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, target_weight: float, others_weight: float
) -> Tensor:
    """T^2 * (target_weight * TCKD + others_weight * NCKD), means over the batch.

    Zhao, Cui, Song, Qiu, Liang (2022), arXiv 2203.08679, section 3. With softmax(logits / T): TCKD is the KL divergence
    of (share of the label, share of all others), NCKD that of the shares among the others; teacher || student in both.
    Logits (B, classes) with at least 3 classes, labels (B,); weight 1, with 1 and 8 inside.
    """
    target = labels.unsqueeze(1) == torch.arange(student.shape[1], device=labels.device)
    follows = _decoupled(student.float() / temperature, target)
    leads = _decoupled(teacher.detach().float() / temperature, target)
    of_target, of_others = (
        F.kl_div(s, t, reduction="batchmean", log_target=True) for s, t in zip(follows, leads, strict=True)
    )
    return temperature**2 * (target_weight * of_target + others_weight * of_others)


def _decoupled(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms: of the shares of label and others, (B, 2); of each share among the others, (B, classes), label 0."""
    shares = F.log_softmax(logits, 1)
    others = shares.masked_fill(target, -torch.inf)
    both = torch.stack([shares.masked_fill(~target, 0.0).sum(1), others.logsumexp(1)], 1)
    # exp(0) * (0 - 0): the label's own entry adds 0 to the divergence, and no infinity occurs.
    return both, F.log_softmax(others, 1).masked_fill(target, 0.0)


class DecoupledKnowledge(Method):
    """On the logits. Options: temperature, target_weight, others_weight, warm_up."""

    def __init__(self, options: Options, shapes: Shapes) -> None:
        super().__init__(options, shapes)
        if shapes.classes < 3:
            raise StudyError(
                f"method 'dkd' compares classes other than the target, but there are {shapes.classes} classes: "
                "choose another method"
            )

    def distance(self, student: Features, teacher: Features, labels: Tensor) -> Tensor:
        options = self.options
        return decoupled_loss(
            student.logits, teacher.logits, labels, options.temperature, options.target_weight, options.others_weight
        )

    def ramp(self, epoch: int) -> float:
        return min((epoch + 1) / self.options.warm_up, 1.0)
