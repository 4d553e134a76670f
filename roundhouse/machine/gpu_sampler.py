"""Samples nvidia-smi while a job runs: utilization, memory and power of the job's GPUs.

nvidia-smi is started for each sample and ends at once, so nothing remains that must be ended. A thread waits for it, so
nothing else does.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from roundhouse.machine.gpus import find_gpus, nvidia_smi, query_driver
from roundhouse.machine.pool import JOBS_PER_GPU
from roundhouse.model.gpu_use import Totals

INTERVAL = 15.0  # seconds between two samples
LIMIT = 10  # seconds for one call of nvidia-smi
MOST_FAILURES = 3  # in a row
MIB = 1.048576  # in MB, which other figures of memory have
QUERY = "index,uuid,utilization.gpu,memory.used,power.draw"

Row = tuple[float | None, float | None, float | None]  # utilization, memory, power


class GpuSampler:
    """Samples the GPUs of a job in a thread of its own, and ends after failures.

    `gpus`: their names in CUDA_VISIBLE_DEVICES; None: all that nvidia-smi lists. `shared`: other jobs may use them too.
    """

    def __init__(self, gpus: Sequence[str] | None, shared: bool) -> None:
        self._gpus, self._shared = gpus, shared or any(map(_is_mig, gpus or ()))
        self._totals, self._lock = Totals(), threading.Lock()

    def start(self, interval: float = INTERVAL) -> None:
        threading.Thread(target=self.run, args=(interval,), daemon=True).start()

    def run(self, interval: float) -> None:
        """Sample until it fails several times in a row: the first call may take long while a driver starts."""
        names, failures = None, 0
        while failures < MOST_FAILURES:
            time.sleep(interval)
            if names is None and self._gpus is not None:
                names = _as_nvidia_smi_has_them(self._gpus)
            found = rows_of(names, query_driver(QUERY, LIMIT))
            failures = 0 if found else failures + 1
            with self._lock:
                self._totals.add(found)

    def summary(self) -> dict[str, Any] | None:
        """What progress.json has as `gpu_use`; None as long as nothing was measured."""
        with self._lock:
            return self._totals.summary(self._shared)


def sampler_for(ngpus: int, environ: Mapping[str, str] = os.environ) -> GpuSampler | None:
    """The sampler of a job that requested so many GPUs; None if it requested none, or sees none."""
    gpus = find_gpus(environ) if "CUDA_VISIBLE_DEVICES" in environ else None
    if not ngpus or gpus == []:
        return None
    per_gpu = environ.get(JOBS_PER_GPU, "1")
    return GpuSampler(gpus, shared=per_gpu.isdigit() and int(per_gpu) > 1)


def rows_of(gpus: Mapping[str, str] | None, rows: Sequence[Sequence[str]]) -> dict[str, Row]:
    """Name -> utilization, memory, power of the job's GPUs. `gpus`: name -> index or (the beginning of a) UUID."""
    found: dict[str, Row] = {}
    for index, uuid, *values in (row for row in rows if len(row) == len(QUERY.split(","))):
        names = [index] if gpus is None else [name for name, gpu in gpus.items() if _is(gpu, index, uuid)]
        utilization, memory, power = map(_number, values)
        memory = None if memory is None else memory * MIB
        found |= dict.fromkeys(names, (utilization, memory, power))
    return found


def _is(gpu: str, index: str, uuid: str) -> bool:
    return gpu == index or (gpu.startswith("GPU-") and uuid.startswith(gpu))


def _number(text: str) -> float | None:
    """None for what the driver does not report, such as `[N/A]`."""
    try:
        return float(text)
    except ValueError:
        return None


def _is_mig(gpu: str) -> bool:
    return gpu.startswith("MIG-")


def _as_nvidia_smi_has_them(gpus: Sequence[str]) -> dict[str, str]:
    """Name -> index or UUID of each GPU; for a part of one (MIG), of the whole GPU, since nvidia-smi measures that."""
    parents = mig_parents(nvidia_smi("-L", seconds=LIMIT) or "") if any(map(_is_mig, gpus)) else {}
    return {gpu: _parent_in(gpu) or parents.get(gpu, gpu) for gpu in gpus}


def _parent_in(gpu: str) -> str:
    """The GPU in a MIG name of older drivers, `MIG-GPU-UUID/1/0`; empty for other names."""
    found = re.match(r"MIG-(GPU-[^/]+)/", gpu)
    return found[1] if found else ""


def mig_parents(listing: str) -> dict[str, str]:
    """UUID of a MIG device -> UUID of its GPU, from `nvidia-smi -L`."""
    gpu, found = "", {}
    for kind, uuid in re.findall(r"UUID: (GPU|MIG)(-[^)\s]+)\)", listing):
        if kind == "GPU":
            gpu = kind + uuid
        elif gpu:
            found[kind + uuid] = gpu
    return found
