"""What the jobs of a round recorded about how they ran: scheduler, hosts, devices, versions, settings.

A run is an attempt that a job started. A value that is in no record is "not recorded".
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from analysis.round_summary import ExperimentSummary, summaries_of
from analysis.rounds import RoundRecords
from roundhouse.model.attempt import Attempt
from roundhouse.store import history

NOT_RECORDED = "not recorded"
SCHEDULERS = {"slurm": "Slurm on the cluster {}", "pbs": "PBS (server {})", "torque": "Torque (server {})",
              "local": "no batch scheduler, on the machine {}"}  # fmt: skip
SOFTWARE = {"os": "Operating system", "kernel": "Kernel", "driver": "NVIDIA driver", "python": "Python",
            "torch": "PyTorch", "cuda": "CUDA", "cudnn": "cuDNN", "numpy": "NumPy",
            "commit": "Commit of the code", "edited": "Edited since the commit"}  # fmt: skip
SETTINGS = {"precision": "Precision", "deterministic": "Deterministic kernels only",
            "cudnn_benchmark": "cuDNN benchmark", "tf32": "TF32", "threads": "CPU threads",
            "instructions": "CPU instructions"}  # fmt: skip
NODE = {"queue": "Queue", "node_gpus": "GPUs of the node", "mps": "NVIDIA MPS on", "processor": "Processor",
        "cores": "Logical cores"}  # fmt: skip
# Recorded of runs on such a device alone; and not recorded by earlier versions.
ON_A_GPU, ON_A_CPU = ("cuda", "cudnn", "driver", "cudnn_benchmark", "tf32"), ("threads", "instructions")
RECENT = {"os", "kernel"}
ALWAYS = (SOFTWARE.keys() | SETTINGS.keys() | {"model"}) - {*ON_A_GPU, *ON_A_CPU, *RECENT}


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """An attempt that a job started. `environment`: what the job recorded of its environment, if it got that far."""

    summary: ExperimentSummary
    attempt: Attempt
    environment: Mapping[str, Any]

    def value(self, key: str) -> str:
        value = self.environment.get(key)
        if isinstance(value, bool):
            return "yes" if value else "no"
        if key == "cudnn" and isinstance(value, int):
            major = 10_000 if value >= 90_000 else 1000  # as cuDNN encodes its versions
            return f"{value // major}.{value % major // 100}.{value % 100}"
        return NOT_RECORDED if value is None else str(value)

    @property
    def scheduler(self) -> str:
        """`Slurm on the cluster NAME`."""
        identity = self.attempt.opened.scheduler
        kind, server = str(identity.get("kind") or NOT_RECORDED), str(identity.get("server") or "").partition("/")[0]
        return SCHEDULERS.get(kind, f"{kind} ({{}})").format(server or f"whose name is {NOT_RECORDED}")

    @property
    def local(self) -> bool:
        return self.attempt.opened.scheduler.get("kind") == "local"

    @property
    def device(self) -> tuple[str, str]:
        """What computed, and whether it is a CPU or GPU. Of a command only its request and its node are known."""
        if "device" in self.environment:
            kind = self.value("device")
            return self.value("model"), {"cuda": "GPU", "cpu": "CPU"}.get(kind, kind)
        if self.summary.entry.experiment.resources.ngpus > 0:
            gpus = self.value("node_gpus")
            return gpus if ", " in gpus else gpus.lstrip("0123456789").strip(), "GPU"
        return self.value("processor"), "CPU"

    @property
    def host(self) -> str:
        return (self.attempt.claim.host if self.attempt.claim else "") or str(self.environment.get("host") or "")

    @property
    def resumed(self) -> bool | None:
        """Whether it resumed from a checkpoint; None if unknown, as for commands."""
        progress = self.attempt.progress
        return progress.counter().started > 0 if progress and self.summary.entry.experiment.study else None


@dataclass(frozen=True)
class Facts:
    """A round with its metrics, read once, and the problems of reading."""

    found: RoundRecords
    summaries: Sequence[ExperimentSummary]
    problems: Sequence[str]

    @classmethod
    def of(cls, found: RoundRecords) -> Facts:
        summaries, problems = summaries_of(found)
        return cls(found, summaries, [one.replace(f"{found.directory}{os.sep}", "") for one in problems])

    @cached_property
    def by_experiment(self) -> list[list[RecordedRun]]:
        """The runs of each experiment that has any, in order."""
        made = []
        for one in self.summaries:
            environments = history.environments(one.entry.directory)
            started = [attempt for attempt in one.entry.record.runs if attempt.claim and not attempt.void]
            made.append([RecordedRun(one, attempt, environments.get(attempt.number, {})) for attempt in started])
        return [runs for runs in made if runs]

    @cached_property
    def runs(self) -> list[RecordedRun]:
        return [run for runs in self.by_experiment for run in runs]

    @cached_property
    def completed(self) -> list[ExperimentSummary]:
        return [one for one in self.summaries if one.entry.completed]

    def values(self, key: str) -> Counter[str]:
        """How many runs recorded each value; runs on a device without such a value are not counted."""
        elsewhere = {**dict.fromkeys(ON_A_GPU, "cpu"), **dict.fromkeys(ON_A_CPU, "cuda")}.get(key, "")
        found = Counter(run.value(key) for run in self.runs if run.environment.get("device") != elsewhere)
        return found if set(found) - {NOT_RECORDED} or key in ALWAYS else Counter()


def training_seconds(one: ExperimentSummary) -> float | None:
    """Seconds of all epochs from its metrics, as a total or by epoch; None if they are not recorded."""
    reported = [epoch.get("seconds") for epoch in one.metrics.epochs]
    seconds = [value for value in reported if isinstance(value, (int, float))]
    return one.metrics.used.get("seconds", sum(seconds) if seconds and len(seconds) == len(reported) else None)
