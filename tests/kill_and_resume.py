"""Trains the same thing straight and through many SIGKILLs, in forked processes; tells how both ended, as JSON.

Standard input has a line for each: [KIND, KILLS, DIRECTORY, DEVICE, STEP] as JSON. Standard output has a line with the
answer; an empty one if it failed, with the reason on standard error. Slow modules that a training would load are loaded
once, before the forks.

KIND is stages (a small task of two stages), pure, a method of the distillation study, or fitnets_in_two_stages.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo  # noqa: F401
from small_task import SmallTask

from roundhouse.settings import Settings
from roundhouse.training import Task
from roundhouse.training.loop import Progress, prepare, run
from studies.distillation import build, task
from studies.distillation.data import Split, load

SETTINGS = Settings(seed=1, device="cpu", patience=50)
STEP = "auto"  # this and the device are those of the line at hand
OPERATIONS = ("open", "fsync", "replace")
DIGITS = load("digits", None)
FEW_DIGITS = replace(DIGITS, train=Split(DIGITS.train.images[:512], DIGITS.train.labels[:512]))


def make_task(kind: str, teacher: Path) -> Task:
    device = prepare(SETTINGS).device
    if kind == "stages":
        return SmallTask((10, 20))
    task.load = lambda name, folder, validation: FEW_DIGITS  # type: ignore[assignment]
    method = {"fitnets_in_two_stages": "fitnets"}.get(kind, kind)
    config = {"model": "ResNet8", "method": method, "epochs": 4, "paraphraser_epochs": 3, "step": STEP}
    config |= {"hint_epochs": 3} if method != kind else {}
    return build(config, {"teacher": [teacher]} if method != "pure" else {}, device, None)


def train(kind: str, root: Path, here: Path, earlier: list[Path], dies_at: int | None = None) -> None:
    """In a forked process: one attempt, which may kill itself at its n-th file operation."""
    done = count_operations(dies_at)
    made = make_task("pure" if here.name == "teacher" else kind, root / "teacher")

    def note_where_it_goes_on(progress: Progress) -> None:
        if progress.epoch == progress.started_epoch > 0:
            with (root / "resumed").open("a") as file:
                file.write(f"{progress.stage}\n")

    outcome = run(made, SETTINGS, here, earlier, note_where_it_goes_on, lambda: None)
    (here / "outcome.json").write_text(json.dumps({**asdict(outcome), "operations": len(done)}))


def count_operations(dies_at: int | None) -> list[str]:
    done: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def operation(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            if len(done) == dies_at:
                if name == "fsync" and os.fstat(args[0]).st_size > 4096:
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)  # as if killed amid the write
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        setattr(os, name, counted(name))
    return done


def attempt(
    kind: str, root: Path, here: Path, earlier: list[Path], dies_at: int | None, kill_after: float | None
) -> bool:
    """Fork a training; kill it after so many seconds, or let it die at an operation. True: it was killed."""
    here.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(kind, root, here, earlier, dies_at)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    if status:
        sys.exit(f"the training in {here} failed")
    return False


def result(directory: Path) -> dict[str, Any]:
    """How a run ended, without what the clock decides."""
    metrics = json.loads((directory / "metrics.json").read_text())
    del metrics["used"]
    for record in metrics["epochs"]:
        del record["seconds"], record["peak_memory_mb"]
    outcome = json.loads((directory / "outcome.json").read_text())
    del outcome["operations"]
    return {"outcome": outcome, "metrics": metrics}


def run_through_kills(
    kind: str, root: Path, chance: random.Random, seconds: float, operations: int
) -> tuple[int, Path]:
    """Kill and resume, in new folders or in the same one, until a training gets through.

    Returns how often it was killed, and the folder in which it ended.
    """
    folders: list[Path] = []
    kills = 0
    while True:
        if not folders or chance.random() < 0.7:
            folders.append(root / str(len(folders) + 1))
        timed = chance.random() < 0.5
        dies_at = None if timed else chance.randint(1, operations // 2)
        kill_after = chance.uniform(0, seconds / 2) if timed else None
        if not attempt(kind, root.parent, folders[-1], folders[:-1], dies_at, kill_after):
            return kills, folders[-1]
        kills += 1


def main(kind: str, wanted: int, root: Path) -> None:
    torch.set_num_threads(1)
    if kind not in ("stages", "pure"):
        attempt(kind, root, root / "teacher", [], None, None)
    began = time.monotonic()
    attempt(kind, root, root / "straight", [], None, None)
    seconds = time.monotonic() - began
    straight = result(root / "straight")
    operations = json.loads((root / "straight" / "outcome.json").read_text())["operations"]
    all_stages = {record["stage"] for record in straight["metrics"]["epochs"]}
    chance = random.Random(kind)
    kills = 0
    resumed: set[str] = set()  # stages of the epochs after which it went on
    ended: list[dict[str, Any]] = []
    while kills < wanted or not all_stages <= resumed:
        more, directory = run_through_kills(kind, root / f"killed{len(ended)}", chance, seconds, operations)
        kills += more
        ended.append(result(directory))
        resumed = set((root / "resumed").read_text().split()) if (root / "resumed").exists() else set()
    told = {"kills": kills, "resumed": sorted(resumed), "straight": straight, "killed": ended}
    print(json.dumps(told), flush=True)


def serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            global SETTINGS, STEP
            kind, kills, directory, device, STEP = json.loads(line)
            SETTINGS = replace(SETTINGS, device=device)
            main(kind, kills, Path(directory))
            sys.exit()
        if os.waitpid(child, 0)[1]:
            print(flush=True)


if __name__ == "__main__":
    serve()
