"""The device and the number format of a run; unusable ones are refused before training starts."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from roundhouse.errors import RoundhouseError
from roundhouse.gpu_kernels import has_kernels
from roundhouse.options import choose
from roundhouse.settings import PRECISIONS


@dataclass(frozen=True)
class Precision:
    """The number format and the device of a run. `scaled`: gradients are scaled against underflow, as fp16 needs."""

    name: str
    device: torch.device

    @property
    def scaled(self) -> bool:
        return self.name == "fp16"

    def autocast(self) -> AbstractContextManager[None]:
        """The context for a model's forward pass. Compute losses outside it, in float32."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)


def choose_precision(name: str, device: torch.device) -> Precision:
    """Resolve `auto`: fp32 on a CPU, bf16 on a GPU that supports it (capability 8 or higher), fp16 on older GPUs."""
    choose("precision", name, PRECISIONS)
    if name == "auto":
        if device.type != "cuda":
            name = "fp32"
        else:
            name = "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    return Precision(name, device)


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first GPU if there is one, else the CPU.

    RoundhouseError: the device does not exist, or the installed PyTorch has no kernels for it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RoundhouseError(f"unknown device {name!r}: write auto, cpu, cuda or cuda:0") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise RoundhouseError(f"device {name!r} is not supported: write auto, cpu, cuda or cuda:0")
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise RoundhouseError(
            f"device {name!r} was requested, but PyTorch {torch.__version__} finds {torch.cuda.device_count()} GPUs: "
            "request a GPU from the scheduler (ngpus), check CUDA_VISIBLE_DEVICES, or write device: cpu"
        )
    capability = torch.cuda.get_device_capability(device)
    if not has_kernels(capability, torch.cuda.get_arch_list()):
        major, minor = capability
        raise RoundhouseError(
            f"PyTorch {torch.__version__} has no kernels for {torch.cuda.get_device_name(device)} "
            f"(sm_{major}{minor}; it supports {' '.join(torch.cuda.get_arch_list())}): install a build for it "
            "(V100: the cu126 one), or use another node"
        )
    return device
