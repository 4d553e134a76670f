"""Reproducibility: seeds derived from (seed, stream, loop, position), deterministic kernels, hashes of states."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from roundhouse.errors import RoundhouseError
from roundhouse.node_facts import cpu_model

_TF32 = (8, 0)  # the first compute capability that has it
_PLAIN = (bool, int, float, str, bytes, type(None))


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the SHA-256 of `parts`: independent streams, the same on every machine and version."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_globals(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (all devices), for code that draws from them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def global_states() -> dict[str, Any]:
    """The states of the global generators of Python, NumPy and PyTorch, as plain values and tensors."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(gpu) for gpu in _gpus()],
    }


def restore_globals(states: Mapping[str, Any]) -> None:
    """Restore a result of `global_states`."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    for gpu, state in zip(_gpus(), states["cuda"], strict=False):
        torch.cuda.set_rng_state(state, gpu)


def _gpus() -> list[int]:
    """All GPUs, the current one first: it may have another number, and other GPUs beside it, when a run is resumed."""
    if not torch.cuda.is_available():
        return []
    current = torch.cuda.current_device()
    return [current, *(gpu for gpu in range(torch.cuda.device_count()) if gpu != current)]


def make_deterministic() -> None:
    """Allow only deterministic kernels. Call it before CUDA is initialised: cuBLAS reads its setting only once."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    # Filling each new tensor costs time and only helps code that reads uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def share_threads(processes: int) -> int:
    """Divide the threads of this process among so many that share its cores. Returns how many each has."""
    if processes > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    return torch.get_num_threads()


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Host, device, versions, threads, precision and other settings with which a study starts, as plain values for the
    attempt's record.
    """
    found = {"host": socket.gethostname(), "python": platform.python_version(), **exactness(device, precision)}
    if device.type == "cuda":
        found["tf32"] = tf32_use(torch.cuda.get_device_capability(device))
        found["cudnn_benchmark"] = torch.backends.cudnn.benchmark
    return found


def tf32_use(capability: tuple[int, int]) -> str:
    """Which float32 operations may compute in TF32, which only GPUs of capability 8 and later have."""
    if capability < _TF32:
        return "no such hardware"
    places = {
        "matrix products": _allows_tf32(torch.backends.cuda.matmul, torch.backends.cuda.matmul),
        "convolutions": _allows_tf32(torch.backends.cudnn, getattr(torch.backends.cudnn, "conv", None)),
    }
    return " and ".join(place for place, allowed in places.items() if allowed) or "off"


def _allows_tf32(backend: Any, newer: Any) -> bool:
    """PyTorch 2.9 and later refuse to read `allow_tf32` once `fp32_precision`, which replaces it, has been set."""
    try:
        return bool(backend.allow_tf32)
    except RuntimeError:
        return str(getattr(newer, "fp32_precision", "")) == "tf32"


def exactness(device: torch.device, precision: str) -> dict[str, Any]:
    """The part of the environment that must be equal for two runs to give bit-identical results.

    On a CPU this includes the number of threads, because it determines the order of summation.
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
        if precision == "fp32" and torch.cuda.get_device_capability(device) >= _TF32:
            found["tf32"] = "off"  # as a run starts; older checkpoints, without it, come from convolutions in TF32
    else:
        found["model"] = cpu_model()
        found["instructions"] = torch.backends.cpu.get_cpu_capability()
        found["threads"] = torch.get_num_threads()
    return found


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two results of `exactness`, as text: `threads 1 -> 2`."""
    keys = sorted(before.keys() | now.keys())
    return [f"{key} {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]


def snapshot(state: Any) -> Any:
    """A copy of a nested state with detached tensors on the CPU: later training does not change it."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(snapshot(value) for value in state)
    return state


def leaves(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of all leaves of a nested state, in an order that depends only on the names.

    RoundhouseError: a leaf is neither a tensor nor a plain value; `torch.load(weights_only=True)` would refuse it.
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
            f"the state contains a {type(state).__module__}.{type(state).__qualname__} at {name or '/'}: "
            "a checkpoint can only contain tensors and plain Python values; convert it before you track or keep it"
        )


def check_plain(state: Any) -> None:
    """RoundhouseError if a state contains a value that a checkpoint cannot store: see `leaves`."""
    for _ in leaves(state):
        pass


def hash_state(state: Any) -> str:
    """SHA-256 over all leaves of a state: name, type, shape and bytes. Equal if two states are bit-identical."""
    digest = hashlib.sha256()
    for name, value in leaves(state):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name}\0{value.dtype}{tuple(value.shape)}\0".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{name}\0{type(value).__name__}\0{value!r}\0".encode())
    return digest.hexdigest()
