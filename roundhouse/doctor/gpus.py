"""Checks whether this PyTorch can use the GPUs of the cluster and of this host."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence

from roundhouse.doctor.account import Account, Finding, ok, warning
from roundhouse.doctor.cluster import partitions, select
from roundhouse.doctor.gpu_support import Build, capability_of, driver_too_old, misfit, models_in
from roundhouse.schedulers.base import Run


def check_gpus(account: Account) -> Iterator[Finding]:
    build = account.build
    if build is None or build.cuda is None:
        return
    yield from check_driver(account.run, build)
    scheduler, _ = account.detected
    if scheduler is None:
        return
    found, name = partitions(account.run) if scheduler.kind == "slurm" else [], account.site.queue
    models = sorted({model for one in select(found, name) for model in models_in(one.gres)})
    yield from check_models(build, models, name or "the default partition" if found else "")


def check_models(build: Build, models: Sequence[str], where: str) -> Iterator[Finding]:
    """`models` are those of the partition `where` ("" for one without a name); `where` empty: they are not known."""
    if where and not models:
        yield warning("GPUs", f"sinfo lists none for {where}: a job that requests one is refused")
    for model in models:
        if problem := misfit(build, model):
            yield warning("GPUs", problem)
        elif model and build.architectures and capability_of(model):
            yield ok("GPUs", f"{where} offers {model}, which this PyTorch has code for")
    unknown = [model for model in models if not model or not build.architectures or capability_of(model) is None]
    if unknown or not where:
        named = ", ".join(model or "GPUs without a model name" for model in unknown)
        yield warning(
            "GPUs",
            f"it is not known whether PyTorch supports {f'{named} in {where}' if named else 'those of the nodes'}. It "
            f"has code for {' '.join(build.architectures) or 'an unknown list'}; in a job, compare nvidia-smi and "
            "python -c 'import torch; print(torch.cuda.get_arch_list())'",
        )


def check_driver(run: Run, build: Build) -> Iterator[Finding]:
    """The GPUs of this host, if it has any."""
    if shutil.which("nvidia-smi") is None:
        return
    answer = run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    found = sorted({tuple(line.split(", ", 1)) for line in answer.stdout.splitlines() if ", " in line})
    if answer.code != 0 or not found:
        yield warning("GPUs of this host", f"nvidia-smi does not list them: {answer.complaint}")
        return
    for model, driver in found:
        problem = driver_too_old(build, driver) or misfit(build, model)
        yield warning("GPUs of this host", problem) if problem else ok("GPUs of this host", f"{model}, driver {driver}")
