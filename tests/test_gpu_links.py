"""How GPUs are connected, from what `nvidia-smi topo -m` printed on real machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roundhouse.machine.gpu_links import find_links, links_in

# From public reports: 8 GPUs with tabs, 2 GPUs with spaces; each shortened to the columns and rows that matter.
WITH_TABS = (
    "\tGPU0\tGPU1\tGPU6\tGPU7\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
    "GPU0\t X \tSYS\tSYS\tSYS\tSYS\t0-55,112-167\t0\t\tN/A\n"
    "GPU1\tSYS\t X \tSYS\tSYS\tSYS\t0-55,112-167\t0\t\tN/A\n"
    "GPU6\tSYS\tSYS\t X \tPHB\tPHB\t56-111,168-223\t1\t\tN/A\n"
    "GPU7\tSYS\tSYS\tPHB\t X \tSYS\t56-111,168-223\t1\t\tN/A\n"
    "NIC0\tSYS\tSYS\tPHB\tSYS\t X \n\nLegend:\n\n  X    = Self\n"
)
WITH_SPACES = """\
       GPU0    GPU1    NIC0    NIC1    CPU Affinity    NUMA Affinity   GPU NUMA ID
GPU0     X      NV12    PXB     PXB     48-63,176-191   3               N/A
GPU1    NV12     X      PXB     SYS     48-63,176-191   3               N/A
NIC0    PXB     PXB      X      PXB
"""


@pytest.mark.parametrize(
    ("text", "indices", "links"),
    [
        (WITH_TABS, ["0", "1"], ["SYS"]),
        (WITH_TABS, ["6", "7"], ["PHB"]),
        (WITH_TABS, ["0", "6", "7"], ["SYS", "SYS", "PHB"]),
        ("\x1b[4m" + WITH_TABS.replace("\tGPU1\t", "\tGPU1\x1b[0m\t", 1), ["7", "6"], ["PHB"]),
        (WITH_SPACES, ["1", "0"], ["NV12"]),
        (WITH_SPACES, ["0", "3"], []),
        (WITH_SPACES, ["0", "GPU-5a"], []),
        ("", ["0", "1"], []),
        ("No devices were found\n", ["0", "1"], []),
    ],
)
def test_the_links_are_those_of_each_pair_in_its_order(text: str, indices: list[str], links: list[str]) -> None:
    assert links_in(text, indices) == links


def test_gpus_may_be_named_by_their_uuids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "topo").write_text(WITH_TABS)
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f'#!/bin/sh\ncase "$1" in topo) cat {tmp_path}/topo;; *) printf "0, GPU-a\\n6, GPU-g\\n7, GPU-h\\n";; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_links(["GPU-h", "6"]) == ["PHB"]
