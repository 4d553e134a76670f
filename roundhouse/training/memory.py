"""Free memory, peak memory, and the smallest number of parts of a batch that fits into memory."""

from __future__ import annotations

import gc
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
    """Bytes that this process can still allocate: of the GPU, or of the host within the job's memory limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    return min([psutil.virtual_memory().available, *_free_in_cgroups()])


def _free_in_cgroups() -> list[int]:
    found = []
    for limit, used in _CGROUPS:
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such cgroup, or no limit ("max")
            continue
    return found


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has used: on the GPU, as PyTorch counts them, or of the host's memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1024 if os.uname().sysname == "Linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_GPU = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "out of memory")
_HOST = ("can't allocate memory", "cannot allocate memory", "Cannot allocate memory")


def memory_ran_out(error: BaseException, device: torch.device) -> str:
    """Whether an error says that memory ran out: "gpu", "host", or empty if it says something else.

    Libraries report it in several ways, of which only the text is common.
    """
    if isinstance(error, MemoryError):
        return "host"
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "gpu" if device.type == "cuda" else "host"
    if isinstance(error, RuntimeError):  # PyTorch's AcceleratorError is one
        if any(one in text for one in _HOST):
            return "host"
        if any(one in text for one in _GPU):
            return "gpu" if device.type == "cuda" else "host"
    return ""


def fewest_parts(candidates: Sequence[int], attempt: Callable[[int], None]) -> int:
    """The first of `candidates` (ascending) for which `attempt` does not run out of memory.

    RoundhouseError: none fits; the message has the figures of the last one.
    """
    for parts in candidates:
        try:
            attempt(parts)
        except RuntimeError as error:
            if not memory_ran_out(error, torch.device("cuda")):
                raise
            reason = str(error).splitlines()[0]
        else:
            return parts
        free_cached_memory()  # not above: the traceback of the error refers to the tensors
    whole = "in one piece" if candidates[-1] == 1 else f"in {candidates[-1]} parts"
    raise RoundhouseError(
        f"a batch does not fit into memory {whole}: {reason}. Set a smaller batch_size, or more parts (accumulation: a "
        "number, or auto)"
    )


def free_cached_memory() -> None:
    """Return the memory of tensors that are no longer used to the GPU, in one piece, so that larger ones fit."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing unless CUDA is in use


def equal_parts(batch: int, at_least: int) -> int:
    """The smallest divisor of `batch` (samples) that is >= `at_least`; `batch` itself if there is none."""
    return next((parts for parts in range(at_least, batch + 1) if batch % parts == 0), batch)


def readable(size: float) -> str:
    """Bytes with a unit: 512 MB, 1.2 GB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
