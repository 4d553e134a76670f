"""The distillation study: small ResNets trained plainly, or to follow a larger one that was trained before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from studies.distillation.task import Distillation

PRELOAD = ("sklearn.datasets", "torchvision.datasets", "PIL.Image")  # what it loads only where it is needed


def build(
    config: Mapping[str, Any], inputs: Mapping[str, Sequence[Path]], device: torch.device, data: Path | None
) -> Distillation:
    """The task that `config` describes; see `studies.distillation.task.build`."""
    from studies.distillation import task  # not above: it loads torch, and the runner only looks at `check`

    return task.build(config, inputs, device, data)
