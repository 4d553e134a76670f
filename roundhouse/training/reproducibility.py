"""Exactness: every random number follows from (seed, stream, stage, epoch), and every kernel is deterministic."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roundhouse.errors import RoundhouseError

_PLAIN = (bool, int, float, str, bytes, type(None))


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the SHA-256 of `parts`: streams that share no structure, on any machine and version."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_globals(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (all devices), for code that draws from them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_deterministic() -> None:
    """Allow deterministic kernels only. Call it before CUDA starts: cuBLAS reads its workspace setting once."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    # Else each new tensor is first filled, at some cost, for the sake of code that reads what it never wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Where a run happens: host, device, versions, threads, precision. Plain values, for the attempt's record."""
    return {"host": socket.gethostname(), "python": platform.python_version(), **exactness(device, precision)}


def exactness(device: torch.device, precision: str) -> dict[str, Any]:
    """The part of the environment on which bit-equality rests: two runs are comparable bit by bit if this is equal.

    On a CPU the number of threads is part of it, because it decides the order in which sums are taken.
    """
    found: dict[str, Any] = {
        "device": device.type,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "precision": precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if device.type == "cuda":
        found["model"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
        found["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    else:
        found["model"] = _cpu_model()
        found["instructions"] = torch.backends.cpu.get_cpu_capability()
        found["threads"] = torch.get_num_threads()
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two `exactness`, in words: `threads 1 -> 2`."""
    keys = sorted(before.keys() | now.keys())
    return [f"{key} {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]


def snapshot(state: Any) -> Any:
    """A copy of a nested state with its tensors on the CPU, detached: later training does not change it."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(snapshot(value) for value in state)
    return state


def leaves(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of all that a nested state holds, in an order that depends on the names alone.

    RoundhouseError: a value that is neither a tensor nor plain, which `torch.load(weights_only=True)` would refuse.
    """
    if isinstance(state, Mapping):
        for key in sorted(state, key=lambda key: (type(key).__name__, key)):
            yield from leaves(state[key], f"{name}/{key}")
    elif type(state) in (list, tuple):
        for index, value in enumerate(state):
            yield from leaves(value, f"{name}/{index}")
    elif isinstance(state, torch.Tensor) or type(state) in _PLAIN:
        yield name, state
    else:
        raise RoundhouseError(
            f"the state holds a {type(state).__module__}.{type(state).__qualname__} at {name or '/'}: "
            "a checkpoint takes tensors and plain Python values only; convert it in the study's state()"
        )


def check_plain(state: Any) -> None:
    """RoundhouseError if a state holds what a checkpoint cannot: see `leaves`."""
    for _ in leaves(state):
        pass


def hash_state(state: Any) -> str:
    """SHA-256 over all leaves of a state: name, type, shape and bytes. Equal if two states are equal bit by bit."""
    digest = hashlib.sha256()
    for name, value in leaves(state):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name}\0{value.dtype}{tuple(value.shape)}\0".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{name}\0{type(value).__name__}\0{value!r}\0".encode())
    return digest.hexdigest()
