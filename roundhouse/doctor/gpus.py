"""Checks whether the installed PyTorch can use the GPUs of the cluster and of this host. PyTorch is not loaded."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from roundhouse.doctor.account import Account, Finding, ok, warning
from roundhouse.doctor.cluster import partitions, select
from roundhouse.gpu_kernels import has_kernels
from roundhouse.schedulers.base import Run
from roundhouse.schedulers.cluster_nodes import gpus_in

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
OLDEST_DRIVERS = {"11": 450, "12": 525, "13": 580}


@dataclass(frozen=True, slots=True)
class Build:
    """A PyTorch build. `cuda` is None for one without CUDA; `architectures` is empty if they are not known."""

    version: str
    cuda: str | None
    architectures: tuple[str, ...]  # such as sm_80, compute_90


@cache
def installed_build() -> Build | None:
    """The build of this Python; None if it has no PyTorch. OSError: it cannot be read."""
    found = importlib.util.find_spec("torch")  # does not load it
    return read_build(Path(found.origin).parent) if found and found.origin else None


def read_build(package: Path) -> Build:
    """The build in this folder, `.../site-packages/torch`. OSError: it cannot be read."""
    lines = (package / "version.py").read_text()
    texts = dict(re.findall(r"""^(\w+)\b.*?= *['"]([^'"]*)['"]""", lines, re.MULTILINE))
    return Build(texts.get("__version__", "?"), texts.get("cuda") or None, _architectures(package))


def _architectures(package: Path) -> tuple[str, ...]:
    """What torch.cuda.get_arch_list() would return, from a string in the library."""
    try:
        library = (package / "lib/libtorch_python.so").read_bytes()
    except OSError:
        return ()
    found = re.search(rb"\0((?:(?:sm|compute)_\d+[a-z]? ?)+)\0", library)
    return tuple(found[1].decode().split()) if found else ()


def check_pytorch(account: Account) -> Iterator[Finding]:
    build = installed_build()
    if build is None:
        return  # check_packages reports it
    if build.cuda is None:
        yield warning("PyTorch", f"{build.version} is built without CUDA: jobs that request GPUs (ngpus) will fail")
    else:
        codes = " ".join(build.architectures) or "architectures that are unknown until it is loaded"
        yield ok("PyTorch", f"{build.version}, for CUDA {build.cuda}, with code for {codes}")


def check_gpus(account: Account) -> Iterator[Finding]:
    build = installed_build()
    if build is None or build.cuda is None:
        return
    yield from check_driver(account.run, build)
    scheduler, _ = account.detected
    if scheduler is None:
        return
    found, name = partitions(account.run) if scheduler.kind == "slurm" else [], account.site.queue
    models = sorted({model for one in select(found, name) for model in models_in(one.gres)})
    yield from check_models(build, models, name or "the default partition" if found else "")


def check_driver(run: Run, build: Build) -> Iterator[Finding]:
    """The GPUs of this host, if it has any."""
    if shutil.which("nvidia-smi") is None:
        return
    what = "GPUs of this host"
    answer = run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    found = sorted({tuple(line.split(", ", 1)) for line in answer.stdout.splitlines() if ", " in line})
    if answer.code != 0 or not found:
        yield warning(what, f"nvidia-smi does not list them: {answer.complaint}")
        return
    for model, driver in found:
        problem = driver_too_old(build, driver) or misfit(build, model)
        yield warning(what, problem) if problem else ok(what, f"{model}, driver {driver}")


def check_models(build: Build, models: Sequence[str], where: str) -> Iterator[Finding]:
    """`models` are those of the partition `where` ("" for one without a name); `where` empty: they are not known."""
    if where and not models:
        yield warning("GPUs", f"sinfo lists none for {where}: a job that requests one is refused")
    unknown = []
    for model in models:
        if not build.architectures or capability_of(model) is None:
            unknown.append(model or "GPUs without a model name")
        elif problem := misfit(build, model):
            yield warning("GPUs", problem)
        else:
            yield ok("GPUs", f"{where} offers {model}, which this PyTorch has code for")
    if unknown or not where:
        which = f"{', '.join(unknown)} in {where}" if unknown else "those of the nodes"
        yield warning(
            "GPUs",
            f"it is not known whether PyTorch supports {which}. It has code for "
            f"{' '.join(build.architectures) or 'an unknown list'}; in a job, compare nvidia-smi and "
            "python -c 'import torch; print(torch.cuda.get_arch_list())'",
        )


def models_in(gres: str) -> list[str]:
    """The models in generic resources of Slurm: gpu:v100:4(S:0-1),gpu:a100:2 has two; gpu:4 has one without a name."""
    return sorted(gpus_in(gres))


def capability_of(model: str) -> tuple[int, int] | None:
    """The compute capability of a GPU as clusters name it, such as tesla_v100-sxm2-32gb; None where it is unknown."""
    before = "(?:^|[^a-z0-9]|tesla|geforce|gtx|rtx|quadro|nvidia)"
    found = (CAPABILITIES[name] for name in CAPABILITIES if re.search(f"{before}{name}(?![0-9])", model.lower()))
    return next(found, None)


def misfit(build: Build, model: str) -> str:
    """Why this build cannot use a GPU of this model; empty if it can, or if that is not known."""
    capability = capability_of(model)
    if capability is None or not build.architectures or has_kernels(capability, build.architectures):
        return ""
    return (
        f"PyTorch {build.version} has no code for {model} (compute capability {capability[0]}.{capability[1]}), "
        f"only for {' '.join(build.architectures)}: install a build that has, such as an older CUDA's for an older GPU"
    )


def driver_too_old(build: Build, driver: str) -> str:
    """Why this build cannot run with a driver of this version; empty if it can, or if that is not known."""
    oldest, major = OLDEST_DRIVERS.get((build.cuda or "").partition(".")[0]), re.match(r"\d+", driver)
    if oldest is None or major is None or int(major[0]) >= oldest:
        return ""
    return (
        f"PyTorch {build.version} is built for CUDA {build.cuda}, which needs driver {oldest} or later, not {driver}: "
        "install a build for an older CUDA"
    )
