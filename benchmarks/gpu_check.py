"""All checks and measurements that need a GPU, within a time budget: `python benchmarks/gpu_check.py`.

The parts run one after the other, each in a process of its own with a time limit. What does not fit into the budget
is reported as skipped. The results are a table on standard output, and a JSON file. `--device cpu` is a dry run, which
does the same on tiny networks. Exit code 1: a check failed.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu_checks.budget import Part, Runner, command_for
from gpu_checks.report import FAILED, Context, Row, append, summary, table_head, table_row, write_json

PARTS = (
    Part("machine", 60, "device and versions"),
    Part("bits", 110, "graph and eager passes end with the same bits"),
    Part("speed", 120, "ResNet112 -> ResNet56"),
    Part("memory", 45, "accumulation: auto in little memory"),
    Part("several", 40, "two GPUs"),
    Part("studies", 80, "a step of each study at full size"),
    Part("packed", 90, "a round with 4 jobs on a GPU"),
    Part("tests", 110, "the tests marked gpu"),
)
"""In the order in which they run. Together, the limits are more than the budget: a part seldom needs all of its own."""
MODULES = {"memory": "little_memory", "tests": "marked_tests", "studies": "full_size"}  # others are called as the part


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [part.name for part in PARTS]
    made.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cuda; or cpu: a dry run on tiny stand-ins"
    )
    made.add_argument("--only", nargs="+", metavar="PART", choices=names, default=names, help=f"of {', '.join(names)}")
    made.add_argument("--seconds", type=float, default=480.0, help="budget of the whole check (default: 480)")
    made.add_argument("--json", type=Path, default=Path("gpu_check.json"), help="default: gpu_check.json")
    made.add_argument("--part", nargs=3, metavar=("NAME", "SECONDS", "ROWS"), help=argparse.SUPPRESS)
    return made


def run_part(device: str, name: str, seconds: float, rows: Path) -> None:
    """In a process of its own: one part."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that temporary folders are deleted
    module = importlib.import_module(f"gpu_checks.{MODULES.get(name, name)}")
    module.run(Context(name, device, time.monotonic() + seconds, partial(append, rows)))


def main() -> int:
    chosen = parser().parse_args()
    if chosen.part:
        name, seconds, rows = chosen.part
        run_part(chosen.device, name, float(seconds), Path(rows))
        return 0
    began, found = time.monotonic(), list[Row]()
    print(table_head(), flush=True)
    with tempfile.TemporaryDirectory(prefix="roundhouse-gpu-check-") as folder:
        command = command_for(Path(__file__).resolve(), chosen.device)
        runner = Runner(command, Path(folder), chosen.seconds, began)
        for part in PARTS:
            if part.name in chosen.only:
                if chosen.device == "cpu":  # its times say nothing: only the budget ends a dry run
                    part = replace(part, seconds=chosen.seconds)
                found += runner.run(part, lambda row: print(table_row(row), flush=True))
                write_json(chosen.json, chosen.device, time.monotonic() - began, found)
    print(f"\n{summary(found)}, in {time.monotonic() - began:.0f} s; {chosen.json}")
    return int(any(row.result == FAILED for row in found))


if __name__ == "__main__":
    sys.exit(main())
