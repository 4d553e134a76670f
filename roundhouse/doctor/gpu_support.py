"""Which GPUs a PyTorch build supports, from its files and the names of GPU models, without loading PyTorch."""

from __future__ import annotations

import ast
import mmap
import re
from dataclasses import dataclass
from pathlib import Path

from roundhouse.gpu_kernels import has_kernels

# Compute capabilities by model, from NVIDIA's list "CUDA GPU Compute Capability".
CAPABILITIES = {
    "k20": (3, 5), "k40": (3, 5), "k80": (3, 7), "p4": (6, 1), "p40": (6, 1), "p100": (6, 0), "1080": (6, 1),
    "v100": (7, 0), "t4": (7, 5), "2080": (7, 5), "a100": (8, 0), "a800": (8, 0), "a30": (8, 0), "a2": (8, 6),
    "a10": (8, 6), "a16": (8, 6), "a40": (8, 6), "a4000": (8, 6), "a5000": (8, 6), "a6000": (8, 6), "3080": (8, 6),
    "3090": (8, 6), "l4": (8, 9), "l40": (8, 9), "4080": (8, 9), "4090": (8, 9), "h100": (9, 0), "h200": (9, 0),
    "h800": (9, 0), "gh200": (9, 0), "b100": (10, 0), "b200": (10, 0), "gb200": (10, 0), "b300": (10, 3),
    "5080": (12, 0), "5090": (12, 0),
}  # fmt: skip

# The oldest driver for all minor versions of a CUDA, from NVIDIA's "CUDA Compatibility".
OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}

Capability = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Build:
    """A PyTorch build. `cuda` is None for one without CUDA; `architectures` is empty if they are not known."""

    version: str
    cuda: str | None
    architectures: tuple[str, ...]  # such as sm_80, compute_90


def read_build(package: Path) -> Build:
    """The build in this folder, `.../site-packages/torch`. OSError: it cannot be read."""
    values: dict[str, object] = {}
    for node in ast.parse((package / "version.py").read_text()).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            values |= {target.id: node.value.value for target in targets if isinstance(target, ast.Name)}
    cuda = values.get("cuda")
    return Build(str(values.get("__version__", "?")), str(cuda) if cuda else None, _architectures(package))


def _architectures(package: Path) -> tuple[str, ...]:
    """What torch.cuda.get_arch_list() would return, from a string in the library."""
    try:
        with (
            (package / "lib/libtorch_python.so").open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            found = re.search(rb"\0((?:(?:sm|compute)_\d+[a-z]? ?)+)\0", data)
            return tuple(found[1].decode().split()) if found else ()
    except (OSError, ValueError):
        return ()


def capability_of(model: str) -> Capability | None:
    """The compute capability of a GPU as clusters name it, such as tesla_v100-sxm2-32gb; None where it is unknown."""
    before = "(?:^|[^a-z0-9]|tesla|geforce|gtx|rtx|quadro|nvidia)"
    for name, capability in CAPABILITIES.items():
        if re.search(f"{before}{name}(?![0-9])", model.lower()):
            return capability
    return None


def models_in(gres: str) -> list[str]:
    """The models in generic resources of Slurm: gpu:v100:4(S:0-1),gpu:a100:2 has two; gpu:4 has one without a name."""
    found = re.findall(r"(?:^|,)(?:gres/)?gpu(?::([A-Za-z][^:,(]*|\d+[A-Za-z][^:,(]*))?(?=[:,(]|$)", gres)
    return sorted(set(found))


def misfit(build: Build, model: str) -> str:
    """Why this build cannot use a GPU of this model; empty if it can, or if that is not known."""
    capability = capability_of(model)
    if build.cuda is None or not build.architectures or capability is None:
        return ""
    if has_kernels(capability, build.architectures):
        return ""
    return (
        f"PyTorch {build.version} has no code for {model} (compute capability {capability[0]}.{capability[1]}), "
        f"only for {' '.join(build.architectures)}: install a build that has, such as an older CUDA's for an older GPU"
    )


def driver_too_old(build: Build, driver: str) -> str:
    """Why this build cannot run with a driver of this version; empty if it can, or if that is not known."""
    if build.cuda is None or not (major := re.match(r"\d+", driver)):
        return ""
    oldest = OLDEST_DRIVERS.get(int(build.cuda.partition(".")[0]))
    if oldest is None or int(major[0]) >= oldest:
        return ""
    return (
        f"PyTorch {build.version} is built for CUDA {build.cuda}, which needs driver {oldest} or later, not {driver}: "
        "install a build for an older CUDA"
    )
