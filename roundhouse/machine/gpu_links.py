"""How GPUs are connected, by `nvidia-smi topo -m`: the order of summation over several GPUs follows from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

from roundhouse.machine.gpus import nvidia_smi, query_driver

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # newer versions underline the head
_CELLS = re.compile(r"\s*\t\s*|\s{2,}")


def find_links(gpus: Sequence[str]) -> list[str]:
    """The connection of each pair of these GPUs (indices or UUIDs), in their order; empty: nvidia-smi does not say."""
    indices = {row[1]: row[0] for row in query_driver("index,uuid") if len(row) == 2}
    return links_in(nvidia_smi("topo", "-m") or "", [indices.get(gpu, gpu) for gpu in gpus])


def links_in(text: str, indices: Sequence[str]) -> list[str]:
    """The same, from the output of `nvidia-smi topo -m`: such as NV18 (NVLink), PIX or SYS. Empty: one is not in it."""
    rows = [_CELLS.split(line.strip()) for line in _ESCAPES.sub("", text).splitlines()]
    head = next((row for row in rows if row[0] == "GPU0" and "X" not in row), [])
    columns = {name: place for place, name in enumerate(head, 1)}
    cells = {row[0]: row for row in rows if row is not head}
    try:
        return [cells[f"GPU{one}"][columns[f"GPU{other}"]] for one, other in combinations(indices, 2)]
    except (KeyError, IndexError):
        return []
