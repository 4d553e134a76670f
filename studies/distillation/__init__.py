"""The distillation study: small ResNets, trained alone or with a larger teacher that was trained before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from studies.distillation.task import Distillation

PRELOAD = ("sklearn.datasets", "torchvision.datasets", "PIL.Image")  # modules that it imports only when needed


def build(
    config: Mapping[str, Any], inputs: Mapping[str, Sequence[Path]], device: torch.device, data: Path | None
) -> Distillation:
    """The task that `config` describes; see `studies.distillation.task.build`."""
    from studies.distillation import task  # not at the top: it imports torch, and the runner only needs `check`

    return task.build(config, inputs, device, data)
