"""What a job records of its node: operating system, processor, GPUs, driver. Files are read, and nothing is started.

What a node does not report is left out: a job must not fail for it, and a guess must not look like a fact.
"""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from pathlib import Path

ROOT = Path("/")
DRIVER = re.compile(r"\b\d{2,}\.\d+(?:\.\d+)?\b")


def node_facts(root: Path = ROOT) -> dict[str, str | int]:
    """`os`, `kernel`, `processor`, `cores`; with NVIDIA GPUs `driver` and `node_gpus`, such as `4 Tesla V100`."""
    gpus = Counter(filter(None, map(_gpu_model, sorted(root.glob("proc/driver/nvidia/gpus/*/information")))))
    driver = DRIVER.search(_read(root / "proc/driver/nvidia/version")) or DRIVER.search(
        _read(root / "sys/module/nvidia/version")
    )
    found: dict[str, str | int] = {
        "os": _os_name(root),
        "kernel": f"{platform.system()} {platform.release()}",
        "processor": cpu_model(root),
        "cores": os.cpu_count() or 0,
        "driver": driver[0] if driver else "",
        "node_gpus": ", ".join(f"{number} {model}" for model, number in gpus.items()),
    }
    return {key: value for key, value in found.items() if value}


def cpu_model(root: Path = ROOT) -> str:
    """The model of the processor; its architecture where the kernel does not name it."""
    names = re.search(r"^model name\s*:\s*(.+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    return names[1].strip() if names else platform.machine()


def _os_name(root: Path) -> str:
    named = re.search(r"^PRETTY_NAME=(.*)$", _read(root / "etc/os-release"), re.MULTILINE)
    return named[1].strip().strip("\"'") if named else ""


def _gpu_model(information: Path) -> str:
    model = re.search(r"^Model:\s*(.+)$", _read(information), re.MULTILINE)
    return model[1].strip() if model else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
