"""The nodes of a cluster as its scheduler lists them: how many there are of each kind, and what such a node has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from roundhouse.schedulers.base import Run

KIBIBYTES = {"b": 1 / 1024, "kb": 1, "mb": 1024, "gb": 1024**2, "tb": 1024**3}
GPU = re.compile(r"(?:^|,)(?:gres/)?gpu(?::([A-Za-z][^:,(]*|\d+[A-Za-z][^:,(]*))?(?::(\d+))?(?=[:,(]|$)")


@dataclass(frozen=True, slots=True)
class NodeKind:
    """Equal nodes of a partition or queue (empty: the scheduler binds them to none). `gpu`: a model, if it has one."""

    queue: str
    cores: int
    memory_gb: int
    gpus: int
    gpu: str = ""


def cluster_nodes(kind: str, run: Run) -> dict[str, Any] | None:
    """`total`, the number of nodes, and `kinds`, each with its number of `nodes`; None if the scheduler lists none.

    A node of several partitions is in several kinds.
    """
    if kind == "slurm":
        listed = run(["sinfo", "-h", "-e", "-o", "%R|%D|%c|%m|%G"])
        kinds = slurm_kinds(listed.stdout)
    else:
        listed = run(["pbsnodes", "-a"])
        kinds = pbs_kinds(listed.stdout)
    if listed.code != 0 or not kinds:
        return None
    total = _slurm_total(run) if kind == "slurm" else kinds.total()
    if not total:
        return None
    return {"total": total, "kinds": [{**asdict(one), "nodes": nodes} for one, nodes in kinds.items()]}


def _slurm_total(run: Run) -> int:
    """The number of nodes, each counted once; 0 if it is not known."""
    counted = run(["sinfo", "-h", "-o", "%D"])
    return sum(map(int, re.findall(r"^\d+$", counted.stdout, re.MULTILINE))) if counted.code == 0 else 0


def slurm_kinds(text: str) -> Counter[NodeKind]:
    """From lines of sinfo: partition, nodes, cores, memory in MB, generic resources."""
    found: Counter[NodeKind] = Counter()
    for line in text.splitlines():
        row = line.split("|")
        if len(row) == 5 and all(cell.isdecimal() for cell in row[1:4]):
            gpus = gpus_in(row[4])
            model = " and ".join(filter(None, gpus))
            found[NodeKind(row[0], int(row[2]), round(int(row[3]) / 1024), sum(gpus.values()), model)] += int(row[1])
    return found


def gpus_in(gres: str) -> Counter[str]:
    """Models and numbers in generic resources of Slurm, gpu:v100:4(S:0-1),gpu:a100:2. Without a model: empty."""
    found: Counter[str] = Counter()
    for model, number in GPU.findall(gres):
        found[model] += int(number or 1)
    return found


def pbs_kinds(text: str) -> Counter[NodeKind]:
    """From `pbsnodes -a` of PBS Pro, OpenPBS or Torque: the name of a node, then its attributes, indented."""
    found: Counter[NodeKind] = Counter()
    for block in re.split(r"\n(?=\S)", text):
        attributes = dict(re.findall(r"^\s+([\w.]+)\s*=\s*(.*?)\s*$", block, re.MULTILINE))
        if cores := _number(attributes, "resources_available.ncpus", "np"):
            memory = re.search(r"\bphysmem=(\w+)", attributes.get("status", ""))
            size = attributes.get("resources_available.mem") or (memory[1] if memory else "")
            gpus = _number(attributes, "resources_available.ngpus", "gpus")
            found[NodeKind(attributes.get("queue", ""), cores, _gigabytes(size), gpus)] += 1
    return found


def _number(attributes: Mapping[str, str], *names: str) -> int:
    return next((int(text) for name in names if (text := attributes.get(name, "")).isdecimal()), 0)


def _gigabytes(size: str) -> int:
    found = re.fullmatch(r"(\d+)([kmgt]?b)", size.lower())
    return round(int(found[1]) * KIBIBYTES[found[2]] / 1024**2) if found else 0
