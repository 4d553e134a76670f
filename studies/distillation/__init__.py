"""The distillation study: small ResNets trained plainly, or to follow a larger one that was trained before them."""

from studies.distillation.task import build

__all__ = ["build"]
