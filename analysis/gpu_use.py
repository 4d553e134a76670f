"""How much the experiments of a round used their GPUs, and what to try where that is little."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from analysis.rounds import RoundEntry
from roundhouse.formatting import counted
from roundhouse.model.gpu_use import GpuUse, combined

LOW = 30.0  # per cent


def gpu_use_of(entry: RoundEntry) -> GpuUse | None:
    """The use of the GPUs in all attempts since the last rerun; None if nothing was measured."""
    return combined(one.progress.gpu_use for one in entry.record.current.runs if one.progress)


def columns_of(entry: RoundEntry) -> dict[str, Any]:
    """`gpu_utilization` (per cent), `gpu_memory_mb` (the most), `gpu_power_w`; empty if nothing was measured."""
    use = gpu_use_of(entry)
    if use is None:
        return {}
    return {"gpu_utilization": use.utilization, "gpu_memory_mb": use.memory_mb, "gpu_power_w": use.power_w}


def advice(entries: Iterable[RoundEntry]) -> list[str]:
    """A sentence for each group whose GPUs were busy for less than `LOW` per cent of the time."""
    groups: dict[str, list[GpuUse]] = {}
    for entry in entries:
        if (use := gpu_use_of(entry)) is not None and use.utilization is not None:
            groups.setdefault(entry.group, []).append(use)
    return [sentence for group, uses in groups.items() if (sentence := _advice(group, uses))]


def _advice(group: str, uses: list[GpuUse]) -> str:
    samples = sum(one.samples for one in uses)
    mean = sum((one.utilization or 0.0) * one.samples for one in uses) / samples
    if mean >= LOW:
        return ""
    low = f"The GPUs of group {group} were busy for only {mean:.0f} % of the time (mean of {counted(len(uses), 'run')})"
    if any(one.shared for one in uses):
        return (
            f"{low}, although runs shared them: try a larger per_gpu in `pack`, CPUs, or `mps: true` in the site file."
        )
    return f"{low}: let several runs share a GPU, with `pack: {{slots: K, per_gpu: K}}` under `resources`."
