"""Part `packed`: a small round with 4 jobs on one GPU, and some of its experiments again, one at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from gpu_checks.report import FAILED, OK, SKIPPED, Context
from roundhouse.machine.gpus import find_gpus
from roundhouse.model.attempt import Record
from roundhouse.store import record
from roundhouse.views.measured import spans
from studies.distillation.options import DISTILLING

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PACKED = 4  # jobs on the GPU
STOPPING = 10.0  # seconds in which the jobs of an interrupted runner end


def run(context: Context) -> None:
    with TemporaryDirectory(prefix="roundhouse-gpu-check-") as folder:
        content = round_of(context)
        together = start(context, Path(folder) / "packed", content, PACKED, "*")
        check_ends(context, f"{PACKED} jobs on a GPU", together, PACKED)
        if context.left < 2 * STOPPING:
            context.row("alone and packed", SKIPPED, "no time left")
            return
        alone = start(context, Path(folder) / "alone", content, 1, "few/*")
        check_ends(context, "one job at a time", alone, 1)
        check_equal(context, alone, together)


def round_of(context: Context) -> dict[str, Any]:
    """Teacher, student, and the student with each method, on the digits; in a dry run only the first two."""
    epochs = 1 if context.small else 3
    taught = {"config": {"teacher": "ResNet20", "model": "ResNet8"}, "after": {"teacher": {}}}
    others = {
        "logit": {**taught, "path": "few/logit", "grid": {"method": ["logit"]}},
        "methods": {
            **taught,
            "path": "more/{method}",
            "grid": {"method": [one for one in DISTILLING if one != "logit"]},
        },
    }
    return {
        "round": "gpu_check",
        "study": "distillation",
        "resources": {"ncpus": 1, "ngpus": 0 if context.small else 1, "mem": "4gb", "walltime": "0:20:00"},
        "defaults": {"dataset": "digits", "epochs": epochs, "paraphraser_epochs": 1, "batch_size": 64},
        "experiments": {
            "teacher": {"path": "few/teacher", "config": {"model": "ResNet20", "method": "pure"}, "priority": 10},
            "student": {"path": "few/student", "config": {"model": "ResNet8", "method": "pure"}},
            **({} if context.small else others),
        },
    }


def start(
    context: Context, folder: Path, content: Mapping[str, Any], per_gpu: int, only: str, gpus: int = 1
) -> dict[str, Record]:
    """Run the round on the first GPUs of this machine until its end, or until no time is left. The records, by path."""
    rounds, experiments = folder / "rounds", folder / "experiments"
    rounds.mkdir(parents=True)
    (rounds / "gpu_check.yaml").write_text(yaml.safe_dump(content))
    words = ["--round", "gpu_check", "--scheduler", "local", "--only", only, "--rounds", str(rounds),
             "--experiments", str(experiments), "--analysis", str(folder / "analysis")]  # fmt: skip
    words += [] if context.small else ["--jobs-per-gpu", str(per_gpu)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "" if context.small else ",".join(find_gpus()[:gpus])}
    process = subprocess.Popen([sys.executable, "runner.py", *words], cwd=REPOSITORY, env=environment)
    try:
        process.wait(max(1.0, context.left - STOPPING))
    except subprocess.TimeoutExpired:
        # It stops its jobs, which have sessions of their own: at the second signal, at once.
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOPPING / 2)
        process.kill()
    found = sorted(experiments.rglob("attempts"))
    return {str(one.parent.relative_to(experiments / "gpu_check")): record.read(one.parent) for one in found}


def check_ends(context: Context, name: str, records: Mapping[str, Record], per_gpu: int) -> None:
    """How all attempts ended, and how many ran at the same time."""
    causes = [attempt.cause for one in records.values() for attempt in one.runs if not attempt.void]
    ends = Counter("open" if cause is None else cause.value for cause in causes)
    completed = sum(one.completed is not None for one in records.values())
    times = [span for one in records.values() for span in spans(one)]
    most = max((sum(start <= now < end for start, end in times) for now, _ in times), default=0)
    took = max((end for _, end in times), default=0.0) - min((start for start, _ in times), default=0.0)
    shared = context.small or per_gpu == 1 or most > 1
    good = records and completed == len(records) == len(causes) and shared
    text = f"{completed} of {len(records)} completed, {dict(ends)}, up to {most} at a time, {took:.0f} s"
    context.row(name, OK if good else FAILED, text, ends=dict(ends), at_a_time=most, seconds=took)


def check_equal(context: Context, alone: Mapping[str, Record], together: Mapping[str, Record]) -> None:
    """The same experiments have the same weights and outputs. A checkpoint also has times."""
    different = [path for path in alone if results(alone[path]) != results(together[path])]
    text = f"{len(alone) - len(different)} of {len(alone)} equal" + (
        f"; not {', '.join(different)}" if different else ""
    )
    context.row("alone and packed", OK if alone and not different else FAILED, text, different=different)


def results(one: Record) -> dict[str, str] | None:
    """The hashes of what an experiment has written; None: it has not completed."""
    if one.completed is None or one.completed.progress is None:
        return None
    return {name: digest for name, digest in one.completed.progress.artifacts.items() if "checkpoint" not in name}
