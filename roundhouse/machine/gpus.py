"""Which GPUs there are; and which of them a job uses where nothing in its environment limits it to some.

PBS and Torque without cgroups do not set CUDA_VISIBLE_DEVICES, and then each job would use all GPUs of its node.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ID_LISTS = ("GPU_DEVICE_ORDINAL", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS")  # the first counts from 0 within the job
ALIKE = 1024  # MiB; free memory is compared in multiples of this


def find_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that may be used: those in CUDA_VISIBLE_DEVICES if it is set, else all that the driver lists."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        listed = [name.strip() for name in environ["CUDA_VISIBLE_DEVICES"].split(",")]
        return [name for name in listed if name and name != "-1"]
    return [row[0] for row in _ask_driver("index")]


def _ask_driver(query: str) -> list[list[str]]:
    """What the driver lists, a row for each GPU, its index first; nothing if there is no driver, or no answer."""
    try:
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if row[0].isdigit()] if done.returncode == 0 else []


# ---------------------------------------------------------------------------------------------- a choice


def choose(count: int, named: Mapping[str, Sequence[str]], free: Mapping[str, int], turn: int) -> tuple[list[str], str]:
    """At most `count` GPUs, and why these: the first list in `named` of which the driver knows each; else the freest.

    `free` is the free memory in MiB, by index, of what the driver lists; empty if it does not answer. Among GPUs with
    equal free memory `turn` decides, so that jobs that start on a node at the same time do not all choose the same.
    """
    for source, gpus in named.items():
        if gpus and (not free or free.keys() >= set(gpus)):
            return list(gpus[:count]), source
    order = sorted(free, key=int)
    first = turn * count
    ranks = {gpu: (place - first) % len(order) for place, gpu in enumerate(order)}
    freest = sorted(order, key=lambda gpu: (-(free[gpu] // ALIKE), ranks[gpu]))
    return freest[:count], "free memory"


def gpus_in_file(text: str) -> list[str]:
    """The GPUs in a PBS_GPUFILE, with lines such as `node7-gpu2`."""
    return list(dict.fromkeys(re.findall(r"-gpu(\d+)\s*$", text, re.MULTILINE)))


def gpus_in_list(text: str) -> list[str]:
    """The GPUs in a list such as `0,2-3`; none if it is written in another way."""
    found: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        if match is None:
            return []
        found += [str(number) for number in range(int(match[1]), int(match[2] or match[1]) + 1)]
    return list(dict.fromkeys(found))


def turn_of(job_id: str) -> int:
    """A number that differs between jobs, and tasks of arrays, that were submitted one after the other."""
    return sum(map(int, re.findall(r"\d+", job_id.partition(".")[0])))


def named_by_scheduler(environ: Mapping[str, str]) -> dict[str, list[str]]:
    """The job's GPUs as the scheduler says in files and variables, by their names; the most reliable first."""
    named: dict[str, list[str]] = {}
    with suppress(KeyError, OSError, UnicodeDecodeError):
        named["PBS_GPUFILE"] = gpus_in_file(Path(environ["PBS_GPUFILE"]).read_text())
    return {**named, **{name: gpus_in_list(environ[name]) for name in ID_LISTS if name in environ}}


def explain(count: int, gpus: Sequence[str], source: str, there: int) -> str:
    """What was chosen, for the job's log."""
    if not gpus:
        some = f"{count} GPU{'s' * (count > 1)} requested (ngpus)"
        return f"{some}, but nvidia-smi lists none: CUDA_VISIBLE_DEVICES stays unset"
    here = f" of the {there} on this node" if there else ""
    chosen = f"CUDA_VISIBLE_DEVICES was not set: this job uses GPU {', '.join(gpus)}{here}, chosen by {source}"
    if len(gpus) < count:
        chosen += f". It requested {count} (ngpus), and no more were found: is the node, or the queue, the right one?"
    return chosen


def main(argv: Sequence[str]) -> int:
    """`python -m roundhouse.machine.gpus COUNT JOB_ID`, in job scripts: prints a value for CUDA_VISIBLE_DEVICES."""
    count, job_id = int(argv[1]), argv[2]
    rows = _ask_driver("index,memory.free")
    free = {row[0]: int(row[1]) if len(row) > 1 and row[1].isdigit() else 0 for row in rows}
    gpus, source = choose(count, named_by_scheduler(os.environ), free, turn_of(job_id))
    print(f"roundhouse: {explain(count, gpus, source, len(free))}", file=sys.stderr)
    print(",".join(gpus))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
