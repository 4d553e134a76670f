"""Part `machine`: the device, and the versions that the results depend on."""

from __future__ import annotations

import os
import platform

import torch

from gpu_checks.report import MEASURED, Context
from roundhouse.node_facts import node_facts


def run(context: Context) -> None:
    facts = node_facts()
    values = {
        "gpu": "none", "gpus": 0, "driver": facts.get("driver", "none"), "processor": facts.get("processor", "unknown"),
        "cores": os.cpu_count(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(), "python": platform.python_version(),
    }  # fmt: skip
    if not context.small:
        index = torch.device(context.device).index or 0
        properties = torch.cuda.get_device_properties(index)
        values |= {
            "gpu": properties.name, "gpus": torch.cuda.device_count(),
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "capability": f"{properties.major}.{properties.minor}", "kernels_for": torch.cuda.get_arch_list(),
        }  # fmt: skip
    text = ", ".join(f"{name} {value}" for name, value in values.items() if name != "kernels_for")
    context.row("versions", MEASURED, text, **values)
