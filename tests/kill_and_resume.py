"""Runs a training without interruption, and again with many SIGKILLs, in forked processes; prints both results as JSON.

Each line of standard input is a request: [KIND, KILLS, DIRECTORY, DEVICE, STEP] as JSON. The answer is a line on
standard output; an empty line if the request failed, with the reason on standard error. Slow imports are done once,
before the forks.

KIND is stages (a small study of two loops), pure, a method of the distillation study, fitnets_in_two_stages, "flow"
with a set of techniques of the flow matching study, such as flow 1+3+7; or "genegan" with an arm
of `genegan_tiny.ARMS`.
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
from genegan_tiny import ARMS, TINY, hardly_trained
from small_study import SmallStudy

from roundhouse.settings import Settings
from roundhouse.training import Run, read_options
from roundhouse.training.execute import Attempt, Hooks, execute
from roundhouse.training.session import Session
from studies.distillation import train as distillation
from studies.distillation.data import Split, load
from studies.distillation.options import Options
from studies.flow_matching import train as flow_matching
from studies.flow_matching.options import Options as FlowOptions
from studies.genegan import train as genegan
from studies.genegan.options import Options as GeneganOptions

SETTINGS = Settings(seed=1, device="cpu", patience=50)
STEP = "auto"  # of the current request, as is the device
TINY_FLOW: dict[str, Any] = {
    "size": 8, "observations": 8, "queries": 16, "fields": 40, "validation_fields": 3, "test_fields": 3, "epochs": 4,
    "batch_size": 8, "validate_every": 2, "d_model": 8, "heads": 2, "num_layers": 2, "sample_steps": 2, "samples": 2,
}  # fmt: skip
OPERATIONS = ("open", "fsync", "replace")
DIGITS = load("digits", None)
FEW_DIGITS = replace(DIGITS, train=Split(DIGITS.train.images[:512], DIGITS.train.labels[:512]))


def make_study(kind: str, teacher: Path) -> Callable[[Run], None]:
    if kind == "stages":
        return SmallStudy((10, 20))
    if kind.startswith("flow"):
        tiny = FlowOptions(techniques=kind.removeprefix("flow").strip(), **TINY_FLOW)
        return lambda run: flow_matching.train(run, tiny, {}, None)
    if kind.startswith("genegan"):
        hardly_trained()
        arm = GeneganOptions(**{**TINY, **ARMS[kind.removeprefix("genegan ")]})
        return lambda run: genegan.train(run, arm, {}, teacher.parent)
    distillation.load = lambda name, folder, validation: FEW_DIGITS  # type: ignore[assignment]
    method = {"fitnets_in_two_stages": "fitnets"}.get(kind, kind)
    config = {"model": "ResNet8", "method": method, "epochs": 4, "paraphraser_epochs": 3, "step": STEP}
    config |= {"hint_epochs": 3} if method != kind else {}
    options = read_options(Options, config)
    return lambda run: distillation.train(run, options, {"teacher": [teacher]} if method != "pure" else {}, None)


def train(
    kind: str, root: Path, here: Path, earlier: list[Path], dies_at: int | None = None, every_step: bool = False
) -> None:
    """In a forked process: one attempt, which kills itself at file operation number `dies_at`, counted from 1.

    `every_step`: it saves a checkpoint after each step, not only after each epoch.
    """
    done = count_operations(dies_at)
    study = make_study("pure" if here.name == "teacher" else kind, root / "teacher")

    def note_resumed_stage(session: Session) -> None:
        if session.replaying and session.state.loops:
            with (root / "resumed").open("a") as file:
                file.write(f"{next(reversed(session.state.loops))}\n")

    settings = replace(SETTINGS, save_minutes=0.0) if every_step else SETTINGS
    hooks = Hooks(note_resumed_stage, lambda session: None, lambda: None)
    outcome = execute(study, settings, Attempt(here, earlier), hooks)
    (here / "outcome.json").write_text(json.dumps({**asdict(outcome), "operations": len(done)}))


def count_operations(dies_at: int | None) -> list[str]:
    done: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def operation(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            if len(done) == dies_at:
                if name == "fsync" and os.fstat(args[0]).st_size > 4096:
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)  # as if killed during the write
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        setattr(os, name, counted(name))
    return done


def attempt(
    kind: str,
    root: Path,
    here: Path,
    earlier: list[Path],
    dies_at: int | None = None,
    kill_after: float | None = None,
    every_step: bool = False,
) -> bool:
    """Fork a training run; kill it after `kill_after` seconds, or let it die at an operation. True: it was killed."""
    here.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(kind, root, here, earlier, dies_at, every_step)
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
        sys.exit(f"the training run in {here} failed")
    return False


def result(directory: Path) -> dict[str, Any]:
    """The result of a run, without times and memory use, which are in its checkpoint too."""
    metrics = json.loads((directory / "metrics.json").read_text())
    del metrics["used"]
    for record in metrics["epochs"]:
        del record["seconds"], record["peak_memory_mb"]
    outcome = json.loads((directory / "outcome.json").read_text())
    del outcome["operations"], outcome["artifacts"]["checkpoint.pth"]
    outcome["artifacts"] = {k: v for k, v in outcome["artifacts"].items() if not k.startswith("snapshots/")}
    for final in (outcome["metrics"], metrics["final"]):
        final.pop("sample_seconds", None)
    return {"outcome": outcome, "metrics": metrics}


def run_through_kills(
    kind: str, root: Path, chance: random.Random, seconds: float, operations: int
) -> tuple[int, Path]:
    """Kill and resume, in new folders or in the same one, until the run finishes.

    Returns how often it was killed, and the folder in which it finished.
    """
    folders: list[Path] = []
    kills = 0
    while True:
        if not folders or chance.random() < 0.7:
            folders.append(root / str(len(folders) + 1))
        timed = chance.random() < 0.5
        dies_at = None if timed else chance.randint(1, operations // 2)
        kill_after = chance.uniform(0, seconds / 2) if timed else None
        every_step = chance.random() < 0.5
        if not attempt(kind, root.parent, folders[-1], folders[:-1], dies_at, kill_after, every_step):
            return kills, folders[-1]
        kills += 1


def main(kind: str, wanted: int, root: Path) -> None:
    torch.set_num_threads(1)
    if kind not in ("stages", "pure") and not kind.startswith("flow"):
        attempt(kind, root, root / "teacher", [])
    began = time.monotonic()
    attempt(kind, root, root / "straight", [])
    seconds = time.monotonic() - began
    straight = result(root / "straight")
    operations = json.loads((root / "straight" / "outcome.json").read_text())["operations"]
    all_stages = {record["stage"] for record in straight["metrics"]["epochs"]}
    chance = random.Random(kind)
    kills = 0
    resumed: set[str] = set()  # stages in which a run was resumed
    ended: list[dict[str, Any]] = []
    while kills < wanted or not all_stages <= resumed:
        more, directory = run_through_kills(kind, root / f"killed{len(ended)}", chance, seconds, operations)
        kills += more
        ended.append(result(directory))
        resumed = set((root / "resumed").read_text().split()) if (root / "resumed").exists() else set()
    report = {"kills": kills, "resumed": sorted(resumed), "straight": straight, "killed": ended}
    print(json.dumps(report), flush=True)


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
