"""The losses. All take logits of any float type and compute in float32; call them outside autocast."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of logits (B, classes) with labels (B,); `smoothing` is the mass spread over all classes."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch; logits (B, classes).

    Hinton, Vinyals, Dean (2015), arXiv 1503.02531, section 2. T^2 keeps the gradient's size as T changes.
    """
    follows = F.log_softmax(student.float() / temperature, dim=1)
    leads = F.log_softmax(teacher.float() / temperature, dim=1)
    return F.kl_div(follows, leads, reduction="batchmean", log_target=True) * temperature**2
