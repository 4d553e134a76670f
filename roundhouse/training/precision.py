"""The device and the number format of a run; unusable ones are refused before training starts."""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from roundhouse.errors import RoundhouseError
from roundhouse.formatting import counted
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


def choose_device(name: str, ngpus: int = 0) -> torch.device:
    """The device called `name`; `auto` is the first GPU if there is one, else the CPU.

    `ngpus`: GPUs that the job requested; if it requested any, `auto` is never the CPU. RoundhouseError: the device
    cannot be used.
    """
    if name == "auto":
        if not ngpus and not torch.cuda.is_available():
            return torch.device("cpu")
        name, wanted = "cuda", f"the job requested {counted(ngpus, 'GPU')} (ngpus)"
        remedy = "To train on the CPU, write device: cpu in the config, or ngpus: 0 under resources"
    else:
        wanted = f"device {name!r} was requested"
        remedy = "Write another device in the config, such as cpu" if ngpus else "Request GPUs (ngpus), or device: cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RoundhouseError(f"unknown device {name!r}: write auto, cpu, cuda or cuda:0") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise RoundhouseError(f"device {name!r} is not supported: write auto, cpu, cuda or cuda:0")
    if not torch.cuda.is_available():
        raise RoundhouseError(f"{wanted}, but {_why_no_gpu()}. {remedy}")
    if (device.index or 0) >= torch.cuda.device_count():
        found = counted(torch.cuda.device_count(), "GPU")
        raise RoundhouseError(f"{wanted}, but PyTorch finds {found}{_visible()}, numbered from 0. {remedy}")
    capability = torch.cuda.get_device_capability(device)
    if not has_kernels(capability, torch.cuda.get_arch_list()):
        major, minor = capability
        raise RoundhouseError(
            f"PyTorch {torch.__version__} has no kernels for {torch.cuda.get_device_name(device)} "
            f"(sm_{major}{minor}; it supports {' '.join(torch.cuda.get_arch_list())}): install a build for it "
            "(V100: the cu126 one), or use another node"
        )
    return device


def use_device(device: torch.device) -> None:
    """Make a GPU the current one, so that streams, graphs and calls of `torch.cuda` without a device use it."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def use_float32() -> None:
    """Compute convolutions of float32 tensors in float32: PyTorch's default allows TF32, with 10 bits of mantissa.

    PyTorch's default for matrix products is float32 already.
    """
    with warnings.catch_warnings():
        # The name is deprecated in PyTorch 2.9, but torch.compile fails to read it once the newer one has been set.
        warnings.filterwarnings("ignore", message=".*new API settings to control TF32")
        torch.backends.cudnn.allow_tf32 = False


def _why_no_gpu() -> str:
    """Why PyTorch can use no GPU, and what to do about it."""
    version = f"PyTorch {torch.__version__}"
    if torch.version.cuda is None:
        kind = "AMD GPUs" if torch.version.hip else "CPUs only"
        return f"{version} is built for {kind}: install a build with CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        reason = "it finds no GPU"
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
    return f"{version} can use none{_visible()}: {reason}. Check what nvidia-smi lists on this node, or use another one"


def _visible() -> str:
    """The GPUs that the environment lets PyTorch see, if it restricts them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible!r}"
