"""Functions that all losses use: cross entropy with the labels, and unit vectors with finite gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SHORTEST = 1e-12  # vectors shorter than this have no direction


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of logits (B, classes) with labels (B,); `smoothing` is the mass spread over all classes.

    Takes logits of any float type and computes in float32; call it outside autocast.
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def unit(vectors: Tensor, dim: int) -> Tensor:
    """`vectors`, of any shape and in float32, scaled to length 1 along `dim`. A vector of 0 stays 0.

    Its gradient is 0 too; the gradient of a division by a length clamped at 1e-12 is 1e12, which is infinite in fp16.
    """
    squares = vectors.square().sum(dim, keepdim=True)
    directed = squares > _SHORTEST**2
    return vectors * torch.where(directed, torch.where(directed, squares, 1.0).rsqrt(), 0.0)
