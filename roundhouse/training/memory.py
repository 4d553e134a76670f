"""How much memory there is, how much was used, and the most work that fits into it."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch

from roundhouse.errors import RoundhouseError

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_memory(device: torch.device) -> int:
    """Bytes that a process can still get: the GPU's, or the machine's within the job's own limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    return min([psutil.virtual_memory().available, *_left_in_cgroups()])


def _left_in_cgroups() -> list[int]:
    found = []
    for limit, used in _CGROUPS:
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # none of that kind, or "max"
            continue
    return found


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: on the GPU, as PyTorch counts them, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1024 if os.uname().sysname == "Linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fewest_parts(candidates: Sequence[int], attempt: Callable[[int], None]) -> int:
    """The first of `candidates`, in ascending order, with which `attempt` does not run out of memory.

    RoundhouseError: not even the last fits. It tells the figures of the attempt that came nearest.
    """
    for parts in candidates:
        try:
            attempt(parts)
        except torch.OutOfMemoryError as error:
            told = str(error).splitlines()[0]
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        else:
            return parts
    whole = "in one piece" if candidates[-1] == 1 else f"in {candidates[-1]} parts"
    raise RoundhouseError(
        f"a batch does not fit into memory {whole}: {told}. Take a smaller batch_size, or cut it into more parts "
        "(accumulation: a number, or auto)"
    )


def equal_parts(batch: int, at_least: int) -> int:
    """The smallest number of equal parts of a batch that is not below `at_least`; no more than it has samples."""
    return next((parts for parts in range(at_least, batch + 1) if batch % parts == 0), batch)


def readable(size: float) -> str:
    """Bytes as a person writes them: 512 MB, 1.2 GB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
