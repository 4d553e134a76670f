"""Which GPUs there are, and which of them a job uses if CUDA_VISIBLE_DEVICES is not set.

PBS and Torque without cgroups do not set CUDA_VISIBLE_DEVICES, and then each job would use all GPUs of its node.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

ID_LISTS = ("GPU_DEVICE_ORDINAL", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS")  # the first counts from 0 within the job
MEMORY_UNIT = 1024  # MiB; free memory is compared in multiples of it
_NAME = re.compile(r"\d|GPU-|MIG-")  # how the number or the name of a GPU begins


def find_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that can be used: those in CUDA_VISIBLE_DEVICES if it is set, otherwise all that the driver lists."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        names = (name.strip() for name in environ["CUDA_VISIBLE_DEVICES"].split(","))
        return list(takewhile(_NAME.match, names))  # CUDA hides all GPUs from the first invalid entry on, such as -1
    return [row[0] for row in query_driver("index")]


def query_driver(query: str, seconds: int = 30) -> list[list[str]]:
    """The values that nvidia-smi prints, a row for each GPU, its index first; empty if it is missing or fails."""
    answer = nvidia_smi(f"--query-gpu={query}", "--format=csv,noheader,nounits", seconds=seconds)
    rows = [[cell.strip() for cell in line.split(",")] for line in (answer or "").splitlines()]
    return [row for row in rows if row[0].isdigit()]


def nvidia_smi(*arguments: str, seconds: int = 30) -> str | None:
    """What nvidia-smi prints; None if it is missing, fails, or takes longer.

    It may hang so that not even SIGKILL ends it. Therefore it is no part of a job, whose shell would wait for it: it
    has a session of its own and no variable of Roundhouse. `timeout` ends it also if this process has died.
    """
    if shutil.which("nvidia-smi") is None:
        return None
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ROUNDHOUSE_")}
    try:
        done = subprocess.run(
            ["timeout", "-s", "KILL", str(seconds), "nvidia-smi", *arguments],  # BusyBox has no long options
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + 5,
            check=False,
            env=environ,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def choose(count: int, named: Mapping[str, Sequence[str]], free: Mapping[str, int], turn: int) -> tuple[list[str], str]:
    """At most `count` GPUs, and the source of the choice.

    They are from the first list in `named` whose GPUs the driver all lists; otherwise those with the most free memory.
    `free`: index -> free memory in MiB, empty if the driver does not answer. Among GPUs with equal free memory `turn`
    decides, so that jobs that start on a node at the same time do not all choose the same GPU.
    """
    for source, gpus in named.items():
        if gpus and (not free or free.keys() >= set(gpus)):
            return list(gpus[:count]), source
    order = sorted(free, key=int)
    first = turn * count
    ranks = {gpu: (place - first) % len(order) for place, gpu in enumerate(order)}
    freest = sorted(order, key=lambda gpu: (-(free[gpu] // MEMORY_UNIT), ranks[gpu]))
    return freest[:count], "free memory"


def gpus_in_file(text: str) -> list[str]:
    """The GPUs in a PBS_GPUFILE, with lines such as `node7-gpu2`."""
    return list(dict.fromkeys(re.findall(r"-gpu(\d+)\s*$", text, re.MULTILINE)))


def gpus_in_list(text: str) -> list[str]:
    """The GPUs in a list such as `0,2-3`; none if it has another format."""
    parts = [re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part) for part in text.split(",")]
    ranges = [range(int(part[1]), int(part[2] or part[1]) + 1) for part in parts if part]
    return list(dict.fromkeys(str(gpu) for one in ranges for gpu in one)) if all(parts) else []


def turn_of(job_id: str) -> int:
    """A number that differs between jobs, or tasks of an array, that were submitted one after the other."""
    return sum(map(int, re.findall(r"\d+", job_id.partition(".")[0])))


def named_by_scheduler(environ: Mapping[str, str]) -> dict[str, list[str]]:
    """File or variable of the scheduler -> the job's GPUs according to it; the most reliable first."""
    named: dict[str, list[str]] = {}
    with suppress(KeyError, OSError, UnicodeDecodeError):
        named["PBS_GPUFILE"] = gpus_in_file(Path(environ["PBS_GPUFILE"]).read_text())
    return {**named, **{name: gpus_in_list(environ[name]) for name in ID_LISTS if name in environ}}


def explain(count: int, gpus: Sequence[str], source: str, total: int) -> str:
    """The choice, as a line for the job's log. `total`: the number of GPUs on the node, 0 if unknown."""
    if not gpus:
        requested = f"{count} GPU{'s' * (count > 1)} requested (ngpus)"
        return f"{requested}, but nvidia-smi lists none: CUDA_VISIBLE_DEVICES stays unset"
    on_node = f" of the {total} on this node" if total else ""
    chosen = f"CUDA_VISIBLE_DEVICES was not set: this job uses GPU {', '.join(gpus)}{on_node}, chosen by {source}"
    if len(gpus) < count:
        chosen += f". It requested {count} (ngpus), but no more were found: check the node and the queue"
    return chosen


def main(argv: Sequence[str]) -> int:
    """`python -m roundhouse.machine.gpus COUNT JOB_ID` in job scripts: print a value for CUDA_VISIBLE_DEVICES."""
    count, job_id = int(argv[1]), argv[2]
    rows = query_driver("index,memory.free")
    free = {row[0]: int(row[1]) if len(row) > 1 and row[1].isdigit() else 0 for row in rows}
    gpus, source = choose(count, named_by_scheduler(os.environ), free, turn_of(job_id))
    print(f"roundhouse: {explain(count, gpus, source, len(free))}", file=sys.stderr)
    print(",".join(gpus))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
