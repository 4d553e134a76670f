"""Runs a training without interruption, and again with many SIGKILLs, in forked processes; prints both results as JSON.

Each line of standard input is a request: [KIND, KILLS, DIRECTORY, DEVICE, STEP] as JSON. The answer is a line on
standard output; an empty line if the request failed, with the reason on standard error. Slow imports are done once,
before the forks.

KIND is stages (a small study of two loops), pure, a method of the distillation study, fitnets_in_two_stages, "flow"
with a set of techniques of the flow matching study, such as flow 1+3+7, or "flow in parts" with odd batches and without
dropout; "genegan" with an arm of `genegan_tiny.ARMS`;
or "flood" with simulation, training, evaluation, or filled: a training whose batches fill an emulated memory.
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
from flood_tiny import TIMES, Sets, few, make_sets
from flood_tiny import TINY as TINY_FLOOD
from flood_tiny import run as run_flood
from genegan_tiny import ARMS, TINY, hardly_trained
from small_study import SmallStudy

from roundhouse.settings import Settings
from roundhouse.training import Run, parts, read_options
from roundhouse.training.execute import Attempt, Hooks, execute
from roundhouse.training.session import Session
from studies.distillation import train as distillation
from studies.distillation.data import Split, load
from studies.distillation.options import Options
from studies.flood import train as flood
from studies.flood.options import Options as FloodOptions
from studies.flood.tasks import evaluation as flood_evaluation
from studies.flood.tasks import simulation as flood_simulation
from studies.flood.tasks import training as flood_training
from studies.flow_matching import train as flow_matching
from studies.flow_matching.options import Options as FlowOptions
from studies.genegan import train as genegan
from studies.genegan.options import Options as GeneganOptions

SETTINGS = Settings(seed=1, device="cpu", patience=50)
STEP = "auto"  # of the current request, as is the device
SAVES: dict[str, dict[str, Any]] = {"step": {"save_minutes": 0.0}, "epoch": {}, "loop": {"save_each_epoch": False}}
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
    if kind.startswith("flood"):
        return make_flood(kind.removeprefix("flood "), teacher.parent / "sets")
    if kind.startswith("flow"):
        odd = {"fields": 13, "accumulation": 2, "dropout": 0.0} if kind == "flow in parts" else {}
        techniques = "" if odd else kind.removeprefix("flow").strip()
        tiny = FlowOptions(techniques=techniques, **{**TINY_FLOW, **odd})
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


def make_flood(task: str, folder: Path) -> Callable[[Run], None]:
    """A tiny run of the study flood. `folder`: where `make_inputs` has put what it reads."""
    flood_simulation.SOLVER_STEPS = 10
    # Measured after the loop, by each attempt: with it, none would end within half the time of a whole run.
    flood_evaluation.times = lambda *_: dict.fromkeys(TIMES, 1.0)
    few_samples = {"samples_small": [folder / "few"]}
    if task == "filled":
        limit_memory(8)
    config: dict[str, Any] = {
        "simulation": {"double": True},
        "filled": {"batch_size": 4, "accumulation": 2, "largest_batch": 64, "epochs": 3},
        "training": {"architecture": "04", "batch_size": 8, "epochs": 3, "schedule": "plateau", "plateau_patience": 1},
        "evaluation": {"set": "big"},
    }[task]
    inputs = {
        "simulation": {}, "training": few_samples, "filled": few_samples,
        "evaluation": Sets(folder).of_evaluation(folder / "trained"),
    }[task]  # fmt: skip
    options = FloodOptions(task="training" if task == "filled" else task, **{**TINY_FLOOD, **config})
    return lambda run: flood.train(run, options, inputs, None)


def limit_memory(room: int) -> None:
    """Emulate a GPU on which a training of flood can compute so many samples at the same time."""
    parts.PROBED = ("cpu",)
    real = flood_training.loss_of

    def limited(run: Run, network: torch.nn.Module, batch: Any) -> torch.Tensor:
        if len(batch.depth) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(run, network, batch)

    flood_training.loss_of = limited


def make_inputs(folder: Path) -> None:
    """What the runs of the study flood read."""
    made = make_sets(folder)
    few(made, folder / "few")
    run_flood(folder / "trained", "training", made.small, epochs=1)


def train(
    kind: str, root: Path, here: Path, earlier: list[Path], dies_at: int | None = None, saves: str = "epoch"
) -> None:
    """In a forked process: one attempt, which kills itself at file operation number `dies_at`, counted from 1.

    `saves`: it saves a checkpoint after each step, epoch or loop.
    """
    done = count_operations(dies_at)
    study = make_study("pure" if here.name == "teacher" else kind, root / "teacher")

    def note_resumed_stage(session: Session) -> None:
        if session.replaying and session.state.loops:
            with (root / "resumed").open("a") as file:
                file.write(f"{next(reversed(session.state.loops))}\n")

    settings = replace(SETTINGS, **SAVES[saves])
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
    saves: str = "epoch",
) -> bool:
    """Fork a training run; kill it after `kill_after` seconds, or let it die at an operation. True: it was killed."""
    here.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(kind, root, here, earlier, dies_at, saves)
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
        for name in ("sample_seconds", *TIMES):
            final.pop(name, None)
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
        saves = chance.choice(["step", "step", "epoch", "loop"])
        if not attempt(kind, root.parent, folders[-1], folders[:-1], dies_at, kill_after, saves):
            return kills, folders[-1]
        kills += 1


def main(kind: str, wanted: int, root: Path) -> None:
    torch.set_num_threads(1)
    if kind.startswith("flood") and kind != "flood simulation":
        make_inputs(root / "sets")
    elif kind not in ("stages", "pure") and not kind.startswith("flo"):
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
